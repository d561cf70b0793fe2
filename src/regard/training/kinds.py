"""For each objective: how its rows are made, what its model needs, and how it is measured where nobody says."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from regard.models.base import HeadKind
from regard.models.model import Model
from regard.training.base import Objective
from regard.training.data import answers, blocks, prepare, senses
from regard.training.data.labels import Labels
from regard.training.data.tokens import Tokens, end_of, ids_of
from regard.training.objectives import OBJECTIVES, Crops, Denoising, SelfDistillation, SpanCorruption
from regard.training.objectives.choose import masked_lm, tokenizer_of

Options = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Kind:
    """One kind of training. `rows(rows, model, labels, **options)` prepares them; `make(model, **options)` builds the
    objective; `use` is what a tokenizer that is trained for it is for; `label` the column of classes, if it has any.
    """

    head: HeadKind
    rows: Callable[..., Any]
    make: Callable[..., Objective]
    use: str = "masked"
    label: str | None = None
    metrics: tuple[str, ...] = ()
    texts: tuple[str, ...] = ("text",)


def _sense(values: Any) -> str | None:
    """What rows hold beside text: "image", "audio", or None."""
    names = getattr(values, "column_names", None) or (list(values[0]) if len(values) else [])
    return next((name for name in ("image", "audio") if name in names), None)


def _classification(rows: Any, model: Model, labels: Labels | None, **options: Any) -> Any:
    sense = _sense(rows)
    if sense is None:
        return prepare.classification(rows, tokenizer_of(model), labels=labels, **options)
    make = senses.images if sense == "image" else senses.sounds
    return make(rows, model.processor, labels=labels, label=options.pop("label", "label"), **options)


def _causal_lm(rows: Any, model: Model, labels: Labels | None, *, block: int | None = None, **options: Any) -> Any:
    """Rows of documents; with `block`, windows of so many tokens and one more that begin anywhere in the text."""
    tokenizer = tokenizer_of(model)
    if block is None:
        options.setdefault("max_length", model.max_length)
        return prepare.causal_lm(rows, tokenizer, **options)
    texts = list(prepare.column_of(rows, options.pop("text", "text")))
    if options:
        raise ValueError(f"data has {next(iter(options))!r}; allowed beside block: text")
    end = end_of(tokenizer) if len(texts) > 1 else []
    documents = [[*ids, *end] for ids in ids_of(tokenizer, texts, special=False)]
    return blocks.Blocks(Tokens.of(documents), block + 1, stride=1)


def _seq2seq(rows: Any, model: Model, labels: Labels | None, **options: Any) -> Any:
    sense = _sense(rows)
    if sense is None:
        options.setdefault("max_source", model.max_length)
        options.setdefault("max_target", model.max_length)
        return prepare.seq2seq(rows, tokenizer_of(model), **options)
    options.setdefault("text", "text")
    if sense == "image":
        return senses.images(rows, model.processor, **options)
    return senses.sounds(rows, model.processor, decoder_start=model.config.tokens.decoder_start, **options)


def _with_tokenizer(function: Callable[..., Any]) -> Callable[..., Any]:
    def rows(values: Any, model: Model, labels: Labels | None, **options: Any) -> Any:
        return function(values, tokenizer_of(model), **options)

    return rows


def _token_classification(rows: Any, model: Model, labels: Labels | None, **options: Any) -> Any:
    return prepare.token_classification(rows, tokenizer_of(model), labels=labels, **options)


def _letters(rows: Any, model: Model, labels: Labels | None, **options: Any) -> Any:
    return senses.sounds(rows, model.processor, text=options.pop("text", "text"), **options)


def _captions(rows: Any, model: Model, labels: Labels | None, **options: Any) -> Any:
    return senses.images(rows, model.processor, text=options.pop("text", "text"), **options)


def _pictures(rows: Any, model: Model, labels: Labels | None, **options: Any) -> Any:
    return senses.images(rows, model.processor, **options)


def _plain(name: str) -> Callable[..., Objective]:
    return lambda model, **options: OBJECTIVES[name](**options)


def _span_corruption(model: Model, **options: Any) -> Objective:
    tokenizer = tokenizer_of(model)
    marks = [tokenizer.convert_tokens_to_ids(f"<extra_id_{i}>") for i in range(100)]
    known = [mark for mark in marks if mark is not None and mark != tokenizer.unk_token_id]
    if not known:
        raise ValueError(
            f"{model.name or 'this model'}: its tokenizer has no <extra_id_0>, which span-corruption needs"
        )
    return SpanCorruption(sentinel=max(known), last_sentinel=min(known), eos=tokenizer.eos_token_id, **options)


def _denoising(model: Model, **options: Any) -> Objective:
    tokenizer = tokenizer_of(model)
    if tokenizer.mask_token_id is None:
        raise ValueError(f"{model.name or 'this model'}: its tokenizer has no mask token, which denoising needs")
    return Denoising(mask=tokenizer.mask_token_id, special=tokenizer.all_special_ids, **options)


def _self_distillation(model: Model, *, large: int, small: int, count: int = 8, **options: Any) -> Objective:
    return SelfDistillation(model, crops=Crops(large=large, small=small, count=count), **options)


KINDS: dict[str, Kind] = {
    "causal-lm": Kind(head="causal-lm", rows=_causal_lm, make=_plain("causal-lm"), use="causal"),
    "masked-lm": Kind(head="masked-lm", rows=_with_tokenizer(prepare.masked_lm), make=masked_lm),
    "span-corruption": Kind(
        head="seq2seq-lm", rows=_with_tokenizer(prepare.masked_lm), make=_span_corruption, use="seq2seq"
    ),
    "denoising": Kind(head="seq2seq-lm", rows=_with_tokenizer(prepare.masked_lm), make=_denoising, use="seq2seq"),
    "seq2seq": Kind(
        head="seq2seq-lm", rows=_seq2seq, make=_plain("seq2seq"), use="seq2seq", texts=("source", "target")
    ),
    "classification": Kind(
        head="classification",
        rows=_classification,
        make=_plain("classification"),
        label="label",
        metrics=("accuracy", "f1"),
    ),
    "token-classification": Kind(
        head="token-classification",
        rows=_token_classification,
        make=_plain("token-classification"),
        label="tags",
        metrics=("accuracy",),
        texts=("words",),
    ),
    "question-answering": Kind(
        head="question-answering",
        rows=_with_tokenizer(answers.question_answering),
        make=_plain("question-answering"),
        texts=("question", "context"),
    ),
    "ctc": Kind(head="ctc", rows=_letters, make=_plain("ctc"), metrics=("wer",)),
    "image-text": Kind(head="features", rows=_captions, make=_plain("image-text")),
    "sentence-pairs": Kind(
        head="features",
        rows=_with_tokenizer(prepare.pairs),
        make=_plain("sentence-pairs"),
        texts=("first", "second"),
    ),
    "self-distillation": Kind(head="features", rows=_pictures, make=_self_distillation, texts=()),
}
"""Kinds of training by the name of the objective."""
