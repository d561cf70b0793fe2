"""Tiny random models of the reference library that see, each saved in a folder with an image processor."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tests.preprocess.folders import FOLDERS
from tests.tasks.conftest import sharpen

SIDE = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
VISION = {**SIDE, "image_size": 32, "patch_size": 8}
SMALL = {"size": {"height": 32, "width": 32}}
CROPPED = {"size": {"shortest_edge": 36}, "crop_size": {"height": 32, "width": 32}}
TEXT = {**SIDE, "max_position_embeddings": 32}

Made = tuple[Any, Any, Path]


def saved(
    folder: Path,
    architecture: str,
    kind: str,
    *,
    settings: dict[str, Any],
    tokenizer: str | None = None,
    labels: list[str] | None = None,
    **config: Any,
) -> Made:
    """The reference's model and its image processor of a kind, saved in a folder with a tokenizer if one is named."""
    import transformers

    folder.mkdir(parents=True, exist_ok=True)
    if tokenizer is not None:
        FOLDERS[tokenizer](folder)
    module = importlib.import_module(f"transformers.models.{kind.lower()}.image_processing_pil_{kind.lower()}")
    images = getattr(module, f"{kind}ImageProcessorPil")(**settings)
    images.save_pretrained(folder)
    if labels is not None:
        config |= {"id2label": dict(enumerate(labels)), "label2id": {label: i for i, label in enumerate(labels)}}
    torch.manual_seed(sum(map(ord, architecture)))
    cls = getattr(transformers, architecture)
    model = cls(cls.config_class(**config)).eval()
    sharpen(model)
    for parameter in model.parameters():
        if not parameter.any():  # tokens that begin as zeros would all see the same
            torch.nn.init.normal_(parameter)
    model.save_pretrained(folder)
    return model, images, folder


def words(folder: Path) -> Any:
    """The reference's tokenizer of a folder."""
    import transformers

    settings = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    return getattr(transformers, settings["tokenizer_class"]).from_pretrained(folder)


def oracle(task: str, made: Made, *, text: bool = False, **options: Any) -> Callable[..., Any]:
    """The reference's pipeline."""
    import transformers

    model, images, folder = made
    found: Callable[..., Any] = transformers.pipeline(
        task, model=model, image_processor=images, tokenizer=words(folder) if text else None, device="cpu", **options
    )
    return found


def photo(height: int = 40, width: int = 50, seed: int = 0) -> Any:
    """A PIL image with large smooth spots, so that resizing keeps what tells it from others."""
    from PIL import Image

    spots = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    return Image.fromarray(spots).resize((width, height), Image.Resampling.BICUBIC)
