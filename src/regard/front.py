"""Behind the front door: what `regard.load` gives is a model with the processor that came along, able to generate."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import regard.checkpoint.save
import regard.generation  # noqa: F401  both give every model what lies above its room: save_pretrained, generate
from regard.checkpoint import load as checkpoint

if TYPE_CHECKING:
    import torch

    from regard.models.model import Model

TOKENIZER_FILES = (
    *("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "sentencepiece.bpe.model"),
    *("spiece.model", "spm.model", "source.spm", "vocab.txt", "vocab.json"),
)

MEDIA_FILES = ("preprocessor_config.json", "processor_config.json")


def load(
    ref: str | os.PathLike[str],
    *,
    head: str | None = None,
    new_head: bool = True,
    num_labels: int | None = None,
    dtype: str | torch.dtype = "auto",
    device: str | torch.device = "cpu",
    revision: str | None = None,
    offline: bool | None = None,
    with_processor: bool = True,
) -> Model:
    """Load a checkpoint as `regard.checkpoint.load.load` does, with what reads its input as `model.processor`.

    A folder without files of one gives no processor. Raises ValueError for files that cannot be read, unless
    `with_processor=False` leaves them alone, and for a vocabulary that the model has no vectors for.
    """
    model = checkpoint.load(
        ref,
        head=head,
        new_head=new_head,
        num_labels=num_labels,
        dtype=dtype,
        device=device,
        revision=revision,
        offline=offline,
    )
    if not with_processor:
        return model
    try:
        model.processor = processor(model.folder)
    except ValueError as error:
        raise ValueError(f"{error}; pass with_processor=False to load the model without its processor") from error
    check_vocabulary(model)
    return model


def check_vocabulary(model: Model) -> None:
    """Raise a ValueError naming both numbers if the tokenizer gives ids beyond the model's table; it may have fewer."""
    tokenizer = getattr(model.processor, "tokenizer", model.processor)
    sizes = [getattr(tower.front.config, "vocab_size", None) for tower in model.towers()]
    size = next((size for size in sizes if size is not None), None)
    if size is None or not hasattr(tokenizer, "get_vocab"):
        return
    token, largest = max(tokenizer.get_vocab().items(), key=lambda item: item[1], default=("", -1))
    if largest >= size:
        raise ValueError(
            f"{model.name}: the tokenizer's largest id is {largest} ({token!r}), but the model has vectors for "
            f"vocab_size = {size} ids; this tokenizer belongs to another checkpoint, or the model was not resized"
        )


def processor(folder: str | os.PathLike[str] | None) -> Any:
    """What a folder has to read input with: a tokenizer, an image or audio processor, or one that joins both.

    None where there is none. Raises ValueError for files that cannot be read.
    """
    files = (*TOKENIZER_FILES, *MEDIA_FILES)
    if folder is None or not any(os.path.lexists(os.path.join(folder, name)) for name in files):
        return None
    from regard.preprocess.multimodal import read_processor  # half the cost of importing regard

    return read_processor(folder)
