"""A tiny language model and text for it, with an objective that is the plain formula; and a run that can be killed."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

import regard
from regard.models.model import Model
from regard.training.base import Batch, Objective, Row
from regard.training.loop import fit
from regard.training.problem import Problem

RAW = {
    **{"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], "n_embd": 32, "n_layer": 2, "n_head": 2},
    **{"vocab_size": 17, "n_positions": 32, "attn_pdrop": 0.1, "resid_pdrop": 0.1, "embd_pdrop": 0.1},
}


class NextToken(Objective):
    """Cross-entropy of the next token, padded rows, the whole logits held."""

    name, head = "next-token", "causal-lm"

    def collate(self, rows: Sequence[Row], rng: np.random.Generator) -> Batch:
        longest = max(len(row["input_ids"]) for row in rows)
        ids = torch.zeros(len(rows), longest, dtype=torch.long)
        mask = torch.zeros(len(rows), longest, dtype=torch.long)
        for i, row in enumerate(rows):
            ids[i, : len(row["input_ids"])] = torch.as_tensor(row["input_ids"])
            mask[i, : len(row["input_ids"])] = 1
        count = int(mask[:, 1:].sum())
        return Batch({"input_ids": ids, "attention_mask": mask}, {"ids": ids, "mask": mask}, count, int(mask.sum()))

    def forward(self, model: Model, batch: Batch) -> Tensor:
        logits = model(**batch.inputs).logits[:, :-1].flatten(0, 1)
        each = F.cross_entropy(logits, batch.targets["ids"][:, 1:].flatten(), reduction="none")
        return (each * batch.targets["mask"][:, 1:].flatten()).sum()

    def predict(self, model: Model, batch: Batch) -> tuple[list[Any], list[Any]]:
        real = batch.targets["mask"][:, 1:].bool()
        said = model(**batch.inputs).logits[:, :-1].argmax(-1)
        return said[real].tolist(), batch.targets["ids"][:, 1:][real].tolist()


def rows(count: int, seed: int = 0) -> list[dict[str, np.ndarray]]:
    """Sequences that count upwards in steps of 1 to 3: what comes next can be learnt."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        start, step, length = rng.integers(17), rng.integers(1, 4), rng.integers(4, 16)
        found.append({"input_ids": (start + step * np.arange(length)) % 17})
    return found


def problem(**fields: Any) -> Problem:
    return Problem(objective=NextToken(), train=rows(64), valid=rows(16, 1), fingerprint="counting", **fields)


def model(seed: int = 0, **changes: Any) -> Model:
    return regard.from_config({**RAW, **changes}, seed=seed)


def main(folder: str, steps: int, devices: int = 1) -> None:
    """The run that the tests kill: `python -m tests.training.learners FOLDER STEPS`."""
    torch.set_num_threads(1)
    options = {"batch_size": 8, "learning_rate": 3e-3, "ema": 0.9, "schedule": "cosine", "warmup": 5}
    if devices > 1:
        options |= {"devices": devices, "strategy": "ddp", "device": "cpu"}
    fit(model(), problem(), folder=Path(folder), steps=steps, save_every=7, eval_every=10, log_every=5, **options)


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
