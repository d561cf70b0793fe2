"""Behind the front door: what `regard.load` gives is a model with the processor that came along, able to generate."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import regard.checkpoint.save
import regard.generation  # noqa: F401  both give every model what lies above its room: save_pretrained, generate
from regard.checkpoint import load as checkpoint
from regard.checkpoint.find import Folder, find
from regard.models.base import Raw

if TYPE_CHECKING:
    import torch

    from regard.models.model import Model
    from regard.native import Precision

TOKENIZER_FILES = (
    *("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "sentencepiece.bpe.model"),
    *("spiece.model", "spm.model", "source.spm", "vocab.txt", "vocab.json"),
)

ADAPTER = "adapter_config.json"
_HEADS = {
    "SEQ_CLS": "classification",
    "TOKEN_CLS": "token-classification",
    "CAUSAL_LM": "causal-lm",
    "SEQ_2_SEQ_LM": "seq2seq-lm",
    "QUESTION_ANS": "question-answering",
}
"""Heads by what an adapter's config says that it is for."""

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
    precision: Precision = "auto",
) -> Model:
    """Load a checkpoint as `regard.checkpoint.load.load` does, with what reads its input as `model.processor`.

    `precision` is that of linears: "auto" as the file has them, "fp32", or "bf16", "int8", "int4" as
    `regard.adapt.quantize` makes them (with the language head, where the model writes). A model that writes does so
    with the native kernels where they can be had; where they cannot, a precision that was asked for brings a notice.

    A folder without files of one gives no processor. A folder or hub id of an adapter gives the model that it belongs
    to, with the adapter on it. Raises ValueError for files that cannot be read, unless
    `with_processor=False` leaves them alone, and for a vocabulary that the model has no vectors for.
    """
    own = _dtype_of(precision, dtype)
    folder = find(ref, revision=revision, offline=offline)
    options: dict[str, Any] = {"head": head, "new_head": new_head, "num_labels": num_labels, "dtype": dtype}
    options |= {"device": device, "offline": offline}
    if folder.json(ADAPTER) is not None:
        return _with_adapter(folder, options, with_processor, precision)
    model = checkpoint.load(ref, revision=revision, **{**options, "dtype": own})
    _give(model, precision, widen=own is None)
    if not with_processor:
        return model
    try:
        model.processor = processor(model.folder)
    except ValueError as error:
        raise ValueError(f"{error}; pass with_processor=False to load the model without its processor") from error
    check_vocabulary(model)
    return model


def _dtype_of(precision: str, dtype: str | torch.dtype) -> str | torch.dtype | None:
    """The type of parameters, where precision says it; None for small linears, which are made from the file's own.

    ValueError for an unknown one, and where the two differ.
    """
    from regard.native import PRECISIONS

    if precision not in PRECISIONS:
        raise ValueError(f"precision is {precision!r:.80}; allowed: {', '.join(PRECISIONS)}")
    if precision == "auto":
        return dtype
    if precision != "fp32":
        return None if dtype == "auto" else dtype
    if str(dtype).removeprefix("torch.") not in ("auto", "float32"):
        raise ValueError(f"precision is 'fp32', but dtype is {str(dtype)!r}; allowed with it: auto, float32")
    return "float32"


def _give(model: Model, precision: Precision, *, widen: bool = False) -> None:
    """Linears of a precision, and native kernels to a model that writes or reads with small weights.

    `widen` makes float32 of all other parameters, as on a CPU half precision is slow.
    """
    from regard import native
    from regard.adapt.quantize import layers, quantize
    from regard.adapt.quantize import precision as precision_of

    held = precision_of(model)
    if precision not in ("auto", held or "fp32"):
        if held is not None:
            raise ValueError(
                f"precision is {precision!r}, but {model.name} has weights of {held}; allowed: auto, {held}"
            )
        quantize(model, precision, head=native.writes(model))  # type: ignore[arg-type]
    if widen and model.device.type == "cpu":
        small = {id(p) for _, layer in layers(model) for p in layer.parameters()}
        for parameter in (p for p in model.parameters() if id(p) not in small):
            parameter.data = parameter.data.float()
    if native.suits(model):
        native.apply(model, quiet=precision == "auto")


def _with_adapter(folder: Folder, options: dict[str, Any], with_processor: bool, precision: Precision) -> Model:
    """The model that an adapter belongs to, with the adapter on it; classes are called as they came with it."""
    from regard import adapt

    config = adapt.read_config(folder.path)
    if not config.base_model_name_or_path:
        raise ValueError(f"{folder.path / ADAPTER} does not say which model it belongs to (base_model_name_or_path)")
    raw = folder.json("config.json")
    labels = {} if raw is None or "id2label" not in raw else Raw(raw).labels()
    head = options["head"] or _HEADS.get(str(getattr(config.task_type, "value", config.task_type)))
    wanted = {**options, "head": head, "num_labels": options["num_labels"] or len(labels) or None}
    with _without_notice(config.modules_to_save):  # the head comes with the adapter
        model = load(config.base_model_name_or_path, with_processor=with_processor, precision=precision, **wanted)
    adapt.load_adapter(model, folder.path)
    if labels:
        model.name_labels(labels)
    model.name = folder.name
    return model.eval()


@contextmanager
def _without_notice(unless_empty: Any) -> Iterator[None]:
    """Within, new weights of a head are no news."""

    def wanted(record: logging.LogRecord) -> bool:
        return not (unless_empty and str(record.msg).startswith("new weights for"))

    checkpoint.log.addFilter(wanted)
    try:
        yield
    finally:
        checkpoint.log.removeFilter(wanted)


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
    there = {name for name in (*TOKENIZER_FILES, *MEDIA_FILES) if folder and os.path.lexists(Path(folder, name))}
    if folder is None or not there:
        return None
    if there.isdisjoint(MEDIA_FILES):
        from regard.preprocess.tokenizer_read import read_tokenizer

        return read_tokenizer(Path(folder))
    from regard.preprocess.multimodal import read_processor

    return read_processor(folder)


def transformer(
    *,
    vocab_size: int,
    dim: int = 512,
    num_layers: int = 6,
    num_heads: int = 8,
    hidden_dim: int | None = None,
    dropout: float = 0.1,
    norm: str = "post",
    target_vocab_size: int | None = None,
    max_length: int = 5000,
    seed: int | None = None,
) -> Model:
    """A new encoder-decoder of "Attention Is All You Need" (1706.03762), `num_layers` on each side.

    `hidden_dim` is four times `dim` unless given; `norm` "pre" trains without warm-up (2002.04745). Ids 0, 1 and 2 are
    padding, start and end. Raises ValueError for sizes that do not fit each other.
    """
    raw = {
        "model_type": "transformer",
        "vocab_size": vocab_size,
        "target_vocab_size": vocab_size if target_vocab_size is None else target_vocab_size,
        "d_model": dim,
        "num_layers": num_layers,
        "num_heads": num_heads,
        "d_ff": 4 * dim if hidden_dim is None else hidden_dim,
        "dropout": dropout,
        "norm": norm,
        "max_length": max_length,
    }
    return checkpoint.from_config(raw, head="seq2seq-lm", seed=seed)
