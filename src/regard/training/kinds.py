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
from regard.training.objectives.classification import Classification

Options = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Kind:
    """One kind of training. `rows(rows, model, labels, **options)` prepares them; `make(model, **options)` builds the
    objective; `use` is what a tokenizer that is trained for it is for; `label` the column of classes, if it has any.

    `options` are those of [data] that its rows know: names of columns, lengths; `shared` those of the objective that
    its rows must know as well; `marks` are tokens that its tokenizer needs. `held_out`: whether rows are held out where
    nobody says.
    """

    head: HeadKind
    rows: Callable[..., Any]
    make: Callable[..., Objective]
    use: str = "masked"
    label: str | None = None
    metrics: tuple[str, ...] = ()
    texts: tuple[str, ...] = ("text",)
    options: tuple[str, ...] = ("text", "max_length")
    shared: tuple[str, ...] = ()
    marks: tuple[str, ...] = ()
    held_out: bool = True

    def sense(self, rows: Any, options: Options) -> str | None:
        """What is read from rows in place of text: "image", "audio", or None."""
        names = getattr(rows, "column_names", None) or (list(rows[0]) if len(rows) else [])
        if any(options.get(name, name) in names for name in self.texts):
            return None
        return next((name for name in ("image", "audio") if name in names or name in options), None)

    def columns(self, rows: Any, options: Options) -> list[str]:
        """The columns of text that are read or written."""
        if self.sense(rows, options) is None:
            return [str(options.get(name, name)) for name in self.texts]
        return [str(options.get("text", "text"))] if self.texts and self.label is None else []

    def usual(self, objective: Objective) -> tuple[str, ...]:
        """Metrics where none are named."""
        return _OF_CLASSES[objective.kind] if isinstance(objective, Classification) else self.metrics


_OF_CLASSES = {"single": ("accuracy", "f1"), "multi": ("micro_f1",), "regression": ("mse", "pearson")}


def _classification(rows: Any, model: Model, labels: Labels | None, *, kind: Any = "single", **options: Any) -> Any:
    sense = KINDS["classification"].sense(rows, options)
    if sense is None:
        options = _fitted(model, options)
        return prepare.classification(rows, tokenizer_of(model), labels=labels, kind=kind, **options)
    if kind != "single":
        raise ValueError(f"kind is {kind!r}; allowed for images and sounds: 'single'")
    make = senses.images if sense == "image" else senses.sounds
    return make(rows, model.processor, labels=labels, label=options.pop("label", "label"), **options)


def _causal_lm(
    rows: Any, model: Model, labels: Labels | None, *, block: int | None = None, stride: int = 1, **options: Any
) -> Any:
    """Rows of documents; with `block`, windows of so many tokens and one more, which begin every `stride` tokens."""
    tokenizer = tokenizer_of(model)
    if block is None:
        options.setdefault("max_length", model.max_length)
        return prepare.causal_lm(rows, tokenizer, **options)
    if model.max_length is not None and block > model.max_length:
        raise ValueError(f"data.block is {block}; this model reads at most {model.max_length} tokens")
    texts = prepare._texts(rows, options.pop("text", "text"))
    if options:
        raise ValueError(f"data has {next(iter(options))!r}; allowed beside block: text, stride")
    end = end_of(tokenizer) if len(texts) > 1 else []
    documents = [[*ids, *end] for ids in ids_of(tokenizer, texts, special=False)]
    tokens = Tokens.of(documents)
    if tokens.count <= block:
        raise ValueError(f"data.block is {block}, but there are {tokens.count} tokens in all; allowed: fewer than that")
    return blocks.Blocks(tokens, block + 1, stride=stride)


def _seq2seq(rows: Any, model: Model, labels: Labels | None, **options: Any) -> Any:
    sense = KINDS["seq2seq"].sense(rows, options)
    if sense is None:
        options.setdefault("max_source", model.max_length)
        options.setdefault("max_target", model.max_length)
        return prepare.seq2seq(rows, tokenizer_of(model), **options)
    text = options.pop("text", "text")
    start = model.config.tokens.decoder_start
    if sense == "image":
        return senses.images(rows, model.processor, written=text, decoder_start=start, **options)
    return senses.sounds(rows, model.processor, text=text, decoder_start=start, **options)


def _with_tokenizer(function: Callable[..., Any]) -> Callable[..., Any]:
    def rows(values: Any, model: Model, labels: Labels | None, **options: Any) -> Any:
        return function(values, tokenizer_of(model), **_fitted(model, options))

    return rows


def _fitted(model: Model, options: dict[str, Any]) -> dict[str, Any]:
    """A tokenizer that was trained for a new model does not know how much the model reads."""
    own: Any = getattr(tokenizer_of(model), "model_max_length", None) or model.max_length
    return options if model.max_length is None else {"max_length": min(own, model.max_length), **options}


def _token_classification(rows: Any, model: Model, labels: Labels | None, **options: Any) -> Any:
    return prepare.token_classification(rows, tokenizer_of(model), labels=labels, **_fitted(model, options))


def _questions(rows: Any, model: Model, labels: Labels | None, **options: Any) -> Any:
    """Windows of 384 tokens that overlap by 128 (1810.04805), smaller ones for a model that reads less."""
    most = _fitted(model, {}).get("max_length", 384)
    options = {"max_length": min(384, most), "stride": min(128, most // 4), **options}
    return answers.question_answering(rows, tokenizer_of(model), **options)


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


_SENSES = ("image", "audio", "keep")

KINDS: dict[str, Kind] = {
    "causal-lm": Kind(
        head="causal-lm",
        rows=_causal_lm,
        make=_plain("causal-lm"),
        use="causal",
        options=("text", "prompt", "max_length", "block", "stride"),
    ),
    "masked-lm": Kind(
        head="masked-lm", rows=_with_tokenizer(prepare.masked_lm), make=masked_lm, shared=("whole_words",)
    ),
    "span-corruption": Kind(
        head="seq2seq-lm",
        rows=_with_tokenizer(prepare.masked_lm),
        make=_span_corruption,
        use="seq2seq",
        marks=tuple(f"<extra_id_{i}>" for i in reversed(range(100))),  # the first has the largest id, as in T5
    ),
    "denoising": Kind(head="seq2seq-lm", rows=_with_tokenizer(prepare.masked_lm), make=_denoising, use="denoising"),
    "seq2seq": Kind(
        head="seq2seq-lm",
        rows=_seq2seq,
        make=_plain("seq2seq"),
        use="seq2seq",
        texts=("source", "target"),
        options=("source", "target", "prefix", "max_source", "max_target", "text", "max_length", "augment", *_SENSES),
    ),
    "classification": Kind(
        head="classification",
        rows=_classification,
        make=_plain("classification"),
        label="label",
        options=("text", "pair", "label", "max_length", "augment", *_SENSES),
        shared=("kind",),
    ),
    "token-classification": Kind(
        head="token-classification",
        rows=_token_classification,
        make=_plain("token-classification"),
        label="tags",
        metrics=("accuracy",),
        texts=("words",),
        options=("words", "tags", "max_length"),
    ),
    "question-answering": Kind(
        head="question-answering",
        rows=_questions,
        make=_plain("question-answering"),
        metrics=("exact", "token_f1"),
        texts=("question", "context"),
        options=("question", "context", "answers", "max_length", "stride"),
    ),
    "ctc": Kind(
        head="ctc",
        rows=_letters,
        make=_plain("ctc"),
        use="letters",
        metrics=("wer",),
        options=("audio", "text", "keep", "augment"),
    ),
    "image-text": Kind(
        head="features",
        rows=_captions,
        make=_plain("image-text"),
        metrics=("accuracy",),
        options=("image", "text", "max_length", "keep"),
    ),
    "sentence-pairs": Kind(
        head="features",
        rows=_with_tokenizer(prepare.pairs),
        make=_plain("sentence-pairs"),
        metrics=("accuracy",),
        texts=("first", "second"),
        options=("first", "second", "negative", "max_length"),
    ),
    "self-distillation": Kind(
        head="features",
        rows=_pictures,
        make=_self_distillation,
        texts=(),
        options=("image", "keep"),
        held_out=False,
    ),
}
"""Kinds of training by the name of the objective."""
