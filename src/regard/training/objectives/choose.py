"""The objective that a model's head is made for."""

from __future__ import annotations

from typing import Any

from regard.models.base import HeadKind
from regard.models.model import DualEncoder, Model
from regard.models.registry import family_of
from regard.training.base import Objective
from regard.training.objectives.causal_lm import CausalLM
from regard.training.objectives.classification import KINDS, Classification, Kind
from regard.training.objectives.contrastive import ImageText, SentencePairs
from regard.training.objectives.ctc import CTC
from regard.training.objectives.masked_lm import MaskedLM
from regard.training.objectives.question_answering import QuestionAnswering
from regard.training.objectives.seq2seq import Seq2Seq
from regard.training.objectives.token_classification import TokenClassification

_KINDS: dict[str, Kind] = {
    "single_label_classification": "single",
    "multi_label_classification": "multi",
    "regression": "regression",
}


def head_kind(model: Model) -> HeadKind | None:
    """What kind of head a model has; None for one that was built from bricks."""
    return family_of(model.raw).architectures[model.architecture].head if model.raw else None


def objective_for(model: Model, *, smoothing: float = 0.0) -> Objective:
    """What a model's head is trained for; `problem_type` of its config chooses between kinds of classification.

    Raises ValueError for a head that needs to be told more, with the kinds that do not.
    """
    head = head_kind(model)
    if head == "classification":
        kind = _KINDS.get(str(model.raw.get("problem_type")), "regression" if len(model.labels) == 1 else "single")
        assert kind in KINDS
        return Classification(kind=kind, smoothing=smoothing if kind == "single" else 0.0)
    if head in ("causal-lm", "seq2seq-lm"):
        return (CausalLM if head == "causal-lm" else Seq2Seq)(smoothing=smoothing)
    if head == "masked-lm":
        return masked_lm(model)
    plain: dict[str, type[Objective]] = {
        "token-classification": TokenClassification,
        "question-answering": QuestionAnswering,
        "ctc": CTC,
        "features": ImageText if isinstance(model, DualEncoder) else SentencePairs,
    }
    if head not in plain:
        known = ", ".join(["classification", "causal-lm", "seq2seq-lm", "masked-lm", *plain])
        raise ValueError(f"{model.name or 'this model'} has the head {head!r}; allowed: {known}")
    return plain[head]()


def masked_lm(
    model: Model, *, part: float = 0.15, whole_words: bool = False, smoothing: float = 0.0, z_loss: float = 0.0
) -> MaskedLM:
    """Masked words with the mask and the special tokens of the model's tokenizer. Raises ValueError without a mask."""
    tokenizer = tokenizer_of(model)
    mask = getattr(tokenizer, "mask_token_id", None)
    if mask is None:
        raise ValueError(f"{model.name or 'this model'} has no tokenizer with a mask token; masked-lm needs one")
    size = model.config.head.vocab_size  # type: ignore[attr-defined]
    return MaskedLM(
        mask=mask,
        vocab_size=size,
        special=tokenizer.all_special_ids,
        part=part,
        whole_words=whole_words,
        smoothing=smoothing,
        z_loss=z_loss,
    )


def tokenizer_of(model: Model) -> Any:
    """The tokenizer that a model came with. Raises ValueError for a model without one."""
    found = getattr(model.processor, "tokenizer", model.processor)
    if not hasattr(found, "convert_tokens_to_ids"):
        raise ValueError(f"{model.name or 'this model'} has no tokenizer, which learning from text needs")
    return found
