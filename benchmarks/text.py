"""Text speed beside the reference library, in one run on this machine.

    make bench

Random weights of the true shapes (GPT-2 124M, BERT-base), float32. Rounds alternate between the two, medians are
reported, and only the ratios are worth quoting: machines differ, and shared ones drift.
"""

from __future__ import annotations

import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

import torch
import transformers
from torch import Tensor

import regard

ROUNDS = 5
Work = Callable[[], object]


def compare(name: str, unit: str, amount: float, ours: Work, theirs: Work) -> None:
    """Time two pieces of work in turn and print a row of medians."""
    ours(), theirs()
    seconds: tuple[list[float], list[float]] = ([], [])
    for _ in range(ROUNDS):
        for work, found in zip((ours, theirs), seconds, strict=True):
            start = time.perf_counter()
            work()
            found.append(time.perf_counter() - start)
    a, b = (amount / statistics.median(s) for s in seconds)
    print(f"| {name} | {a:.4g} {unit} | {b:.4g} {unit} | {a / b:.2f} |", flush=True)


def sentences(count: int = 64) -> list[Tensor]:
    """Ragged rows of ids: lengths log-normal, about 30 on average, 5 to 128."""
    draw = random.Random(0)
    lengths = [max(5, min(128, int(draw.lognormvariate(3.2, 0.65)))) for _ in range(count)]
    return [torch.randint(1000, 30000, (n,)) for n in lengths]


def encode() -> None:
    """BERT-base over ragged sentences, as they come: packed here, padded in batches of 16 there."""
    ours = regard.from_config(transformers.BertConfig().to_dict(), head="features").eval()
    theirs = transformers.BertModel(transformers.BertConfig()).eval()
    rows = sentences()

    def packs() -> None:
        pack: list[Tensor] = []
        for row in [*sorted(rows, key=len), None]:
            if pack and (row is None or sum(map(len, pack)) + len(row) > 1024):
                ours(torch.cat(pack), lengths=[len(r) for r in pack])
                pack = []
            if row is not None:
                pack.append(row)

    def batches() -> None:
        for i in range(0, len(rows), 16):
            batch = rows[i : i + 16]
            ids = torch.nn.utils.rnn.pad_sequence(batch, batch_first=True)
            mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(r) for r in batch], batch_first=True)
            theirs(input_ids=ids, attention_mask=mask)

    compare("BERT-base, 64 ragged sentences", "tok/s", sum(map(len, rows)), packs, batches)


def decode(batch: int, new: int = 32) -> None:
    """GPT-2 124M, greedy, prompts of 32 tokens."""
    config = transformers.GPT2Config(bos_token_id=None, eos_token_id=None)
    ours = regard.from_config({**config.to_dict(), "eos_token_id": []}, head="causal-lm").eval()
    theirs = transformers.GPT2LMHeadModel(config).eval()
    ids = torch.randint(0, 50000, (batch, 32))
    compare(
        f"GPT-2 124M decode, batch {batch}",
        "tok/s",
        batch * new,
        lambda: ours.generate(ids, max_new_tokens=new),
        lambda: theirs.generate(ids, max_new_tokens=new, do_sample=False, pad_token_id=0),
    )


def cold(name: str, ours: str, theirs: str) -> None:
    """Whole processes."""

    def process(code: str) -> Work:
        return lambda: subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)

    compare(name, "/s", 1.0, process(ours), process(theirs))


def main() -> None:
    """Print the table."""
    torch.manual_seed(0)
    versions = f"torch {torch.__version__}, transformers {transformers.__version__}"
    print(f"{versions}, {torch.get_num_threads()} threads, float32\n")
    print("| work | regard | transformers | ratio |\n|---|---|---|---|")
    with torch.inference_mode():
        encode()
        for batch in (1, 8):
            decode(batch)
    cold("import", "import regard", "import transformers")
    cold("import up to a model class", "import regard; regard.load", "from transformers import BertModel")


if __name__ == "__main__":
    main()
