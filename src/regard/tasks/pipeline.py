"""`regard.pipeline`: a task's name and a checkpoint -> an object to call."""

from __future__ import annotations

import os
from typing import Any

import torch

from regard import front
from regard.checkpoint.find import find
from regard.config import (
    ClassifierHeadConfig,
    CTCHeadConfig,
    FeaturesHeadConfig,
    LanguageHeadConfig,
    SpanHeadConfig,
    TokenHeadConfig,
)
from regard.models.model import Model
from regard.models.registry import family_of, head_of
from regard.native import Precision
from regard.tasks.base import Task
from regard.tasks.parts import read_parts
from regard.tasks.registry import TaskInfo, find_task
from regard.zoo.card import default_model

_KINDS = {
    ClassifierHeadConfig: "classification",
    TokenHeadConfig: "token-classification",
    SpanHeadConfig: "question-answering",
    FeaturesHeadConfig: "features",
    CTCHeadConfig: "ctc",
}


def pipeline(
    task: str,
    model: str | os.PathLike[str] | Model | None = None,
    *,
    tokenizer: Any = None,
    image_processor: Any = None,
    feature_extractor: Any = None,
    device: str | int | torch.device = "cpu",
    dtype: str | torch.dtype = "auto",
    precision: Precision = "auto",
    assistant_model: str | os.PathLike[str] | Model | None = None,
    batch_tokens: int = 1024,
    progress: bool | None = None,
    **defaults: Any,
) -> Task[Any]:
    """A callable for a task, with a checkpoint (a folder, hub id or embedded name) or a loaded model.

    `tokenizer`, `image_processor` and `feature_extractor` (objects, or folders that hold one) stand in for the
    checkpoint's own. Without a model, one that comes with this package does the task, where there is one.
    `batch_tokens` bounds the tokens that the model reads at once.
    `progress` shows a bar for long work: on a terminal only unless said. `defaults` are options of every call.
    `device`, `dtype` and `precision` (as in `regard.load`) are for a checkpoint; a loaded model stays as it is.
    `assistant_model` is a smaller model that guesses what a task that writes will write.
    Raises ValueError for an unknown task, or a checkpoint whose head is for something else.
    """
    info, named = find_task(task)
    own = (task,) if named else (task, info.name)  # a model for other languages is none for these
    ref = default_model(*own) if model is None else model
    if ref is None:
        raise ValueError(f"no model for {task} comes with regard; give model= a folder, a hub id or a loaded model")
    how = {"device": _device(device), "dtype": dtype, "precision": precision}
    loaded = ref if isinstance(ref, Model) else _load(info, ref, how)
    if isinstance(ref, Model) and not {head_kind(loaded), "features"} & set(info.heads):
        raise _wrong_head(info, loaded.name or "this model", loaded.architecture, head_kind(loaded))
    _check_sense(info, loaded)
    given = {"tokenizer": tokenizer, "image_processor": image_processor, "feature_extractor": feature_extractor}
    joined = loaded.processor if loaded.processor is not None else _processor(loaded, given, info.needs)
    parts = read_parts(joined, given)
    parts.check(info.needs, info.name, loaded.name or "this model")
    defaults = {**named, **defaults}
    if assistant_model is not None:
        draft = assistant_model
        defaults["assistant_model"] = draft if isinstance(draft, Model) else front.load(draft, device=_device(device))
    return info.load()(info, loaded, parts, batch_tokens=batch_tokens, progress=progress, defaults=defaults)


def _processor(model: Model, given: dict[str, Any], needs: tuple[str, ...]) -> Any:
    """The processor in a model's folder, read only where something needed is not given; its errors are said."""
    return front.processor(model.folder) if any(given[name] is None for name in needs) else None


def head_kind(model: Model) -> str:
    """What a model's head is for: as its class name says or, where it has none, by what it is made of."""
    config = model.config
    if model.raw and model.architecture:
        return family_of(model.raw, model.name).architectures[model.architecture].head
    if not isinstance(config.head, LanguageHeadConfig):
        return _KINDS.get(type(config.head), type(config.head).__name__)  # type: ignore[call-overload,no-any-return]
    if config.encoder is not None and config.decoder is not None:
        return "seq2seq-lm"
    return "causal-lm" if config.encoder is None else "masked-lm"


def _load(info: TaskInfo, ref: str | os.PathLike[str], how: dict[str, Any]) -> Model:
    """The checkpoint with the head that the task needs; ValueError where it holds another one."""
    folder = find(ref)
    raw, where = folder.json("config.json"), str(folder.path / "config.json")
    if raw is None:
        return front.load(ref, **how)  # says what is missing
    family = family_of(raw, where)
    held, names = head_of(family, raw, None, where), raw.get("architectures") or ["no architecture"]
    if held in info.heads:
        return front.load(ref, **how)
    wanted = next((head for head in info.heads if head in family.head_kinds), None)
    if wanted is None or (held != "features" and wanted != "features"):
        raise _wrong_head(info, folder.name, names[0], held)
    try:  # a bare model may still hold what a head needs, where it is tied to the token table
        return front.load(ref, head=wanted, new_head=False, **how)
    except ValueError as error:
        problems = " ".join(str(error).split())  # a mistake is one line on the command line
        raise ValueError(f"{_wrong_head(info, folder.name, names[0], held)}; {problems:.300}") from None


_SENSES = {"image": "image", "video": "video", "audio": "sound"}


def _check_sense(info: TaskInfo, model: Model) -> None:
    """Refuse a model of another sense than the task's."""
    sense = _SENSES.get(info.modality)
    if sense is None or not model.raw:
        return
    reads = family_of(model.raw, model.name).reads
    if sense not in reads:
        raise ValueError(
            f"{model.name or 'this model'}: a {model.architecture} reads {' and '.join(reads)}; {info.name} needs "
            f"a model that reads {sense}s"
        )


def _wrong_head(info: TaskInfo, name: str, architecture: str, held: str) -> ValueError:
    needs = " or ".join(info.heads)
    return ValueError(f"{name} is a {architecture} (head: {held}); {info.name} needs a checkpoint with head: {needs}")


def _device(device: str | int | torch.device) -> str | torch.device:
    """A device; a number means that GPU, a negative one the CPU."""
    if isinstance(device, int):
        return "cpu" if device < 0 else f"cuda:{device}"
    return device
