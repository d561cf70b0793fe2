"""Tiny random models of the reference library, each saved in one folder with a small real tokenizer."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.preprocess.folders import FOLDERS

SIZES: dict[str, dict[str, Any]] = {
    "bert": {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 48,
        "max_position_embeddings": 64,
    },
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128, "bos_token_id": 0, "eos_token_id": 0},
    "t5": {
        "d_model": 32,
        "d_kv": 8,
        "d_ff": 48,
        "num_layers": 2,
        "num_heads": 4,
        "decoder_start_token_id": 0,
        "pad_token_id": 0,
        "eos_token_id": 1,
    },
    "mbart": {
        "d_model": 32,
        "encoder_layers": 2,
        "decoder_layers": 2,
        "encoder_attention_heads": 4,
        "decoder_attention_heads": 4,
        "encoder_ffn_dim": 48,
        "decoder_ffn_dim": 48,
        "max_position_embeddings": 64,
    },
}
SIZES |= {"bart": SIZES["mbart"], "marian": SIZES["mbart"]}
Make = Callable[..., tuple[Any, Path]]


def sharpen(model: Any) -> None:
    """Weights large enough that outputs differ from each other, and no norm or bias left at its start."""
    for name, parameter in model.named_parameters():
        if parameter.ndim == 1:
            torch.nn.init.normal_(parameter, 1.0 if "norm" in name.lower() and name.endswith("weight") else 0.0, 0.3)
        elif parameter.std() < 0.1:
            parameter.data.mul_(5)


@pytest.fixture(scope="session")
def make(tmp_path_factory: pytest.TempPathFactory) -> Make:
    """`make("bert", "BertForMaskedLM", labels=[...], **config)` gives the reference model, and its folder."""
    transformers = pytest.importorskip("transformers")
    made: dict[str, tuple[Any, Path]] = {}

    def get(tokenizer: str, architecture: str, *, labels: list[str] | None = None, **more: Any) -> tuple[Any, Path]:
        key = json.dumps([tokenizer, architecture, labels, more], sort_keys=True)
        if key in made:
            return made[key]
        folder = tmp_path_factory.mktemp("models") / architecture
        folder.mkdir()
        FOLDERS[tokenizer](folder)
        settings = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
        words = getattr(transformers, settings["tokenizer_class"]).from_pretrained(folder)
        config_class = getattr(transformers, architecture).config_class
        sizes = SIZES[config_class.model_type]
        if labels is not None:
            more["id2label"] = dict(enumerate(labels))
            more["label2id"] = {label: i for i, label in enumerate(labels)}
        torch.manual_seed(sum(map(ord, key)))
        model = getattr(transformers, architecture)(config_class(**sizes, vocab_size=len(words), **more)).eval()
        sharpen(model)
        model.save_pretrained(folder)
        made[key] = model, folder
        return made[key]

    return get


@pytest.fixture(scope="session")
def oracle() -> Callable[..., Any]:
    """`oracle(task, (model, folder), **options)` is the reference's pipeline."""
    transformers = pytest.importorskip("transformers")

    def get(task: str, made: tuple[Any, Path], **options: Any) -> Any:
        model, folder = made
        settings = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
        words = getattr(transformers, settings["tokenizer_class"]).from_pretrained(folder)
        return transformers.pipeline(task, model=model, tokenizer=words, device="cpu", **options)

    return get


def same(ours: Any, theirs: Any, tolerance: float = 1e-5) -> None:
    """Assert that two results have one shape, and numbers within the tolerance (scores) or equal (all else)."""
    if isinstance(theirs, dict):
        assert isinstance(ours, dict) and list(ours) == list(theirs), (ours, theirs)
        for name in theirs:
            same(ours[name], theirs[name], tolerance)
    elif isinstance(theirs, (list, tuple)):
        assert isinstance(ours, list) and len(ours) == len(theirs), (ours, theirs)
        for mine, other in zip(ours, theirs, strict=True):
            same(mine, other, tolerance)
    elif isinstance(theirs, float) or type(theirs).__module__ == "numpy":
        assert isinstance(ours, (float, int)) and abs(ours - float(theirs)) <= tolerance, (ours, theirs)
    else:
        assert type(ours) is type(theirs) and ours == theirs, (ours, theirs)
