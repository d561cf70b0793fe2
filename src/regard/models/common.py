"""What several families share: encoders, head configs and head rules, rotary settings, residual-block rules."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from regard.config import (
    ClassifierHeadConfig,
    DynamicScaling,
    EmbeddingConfig,
    FeaturesHeadConfig,
    HeadConfig,
    InitConfig,
    LanguageHeadConfig,
    LinearScaling,
    Llama3Scaling,
    LongScaling,
    ModelConfig,
    RopeConfig,
    RopeScaling,
    RunsConfig,
    SpanHeadConfig,
    StackConfig,
    TokenHeadConfig,
    TokenIds,
    TowerConfig,
    TransformConfig,
    YarnScaling,
)
from regard.models.base import Architecture, HeadKind, Raw, Rule

_SUFFIXES: dict[str, HeadKind] = {
    "Model": "features",
    "ForMaskedLM": "masked-lm",
    "ForPreTraining": "masked-lm",
    "ForCausalLM": "causal-lm",
    "LMHeadModel": "causal-lm",
    "ForConditionalGeneration": "seq2seq-lm",
    "MTModel": "seq2seq-lm",
    "ForSequenceClassification": "classification",
    "ForTokenClassification": "token-classification",
    "ForQuestionAnswering": "question-answering",
}


def architectures(name: str, prefix: str, *suffixes: str) -> dict[str, Architecture]:
    """Class names `name + suffix`; all but the bare model keep the backbone under `prefix` on disk."""
    return {name + suffix: Architecture(_SUFFIXES[suffix], "" if suffix == "Model" else prefix) for suffix in suffixes}


def head_dim(raw: Raw, dim: int, heads: int) -> int:
    """Channels of each head. Raises ValueError unless the heads share them out evenly."""
    if dim % heads:
        raise ValueError(f"{raw.where}: {heads} attention heads; allowed: a divisor of the model's dim, which is {dim}")
    return dim // heads


def deepening(raw: Raw, stages: Sequence[StackConfig], rate: float = 0.0) -> tuple[StackConfig, ...]:
    """Stages whose branches are left out in training: never at the first layer, evenly more often up to the last, there
    with `drop_path_rate`, or `rate` where nothing is said (1603.09382)."""
    most, count = raw.rate("drop_path_rate", rate), sum(len(stage.layers) for stage in stages)
    rates = iter([most * i / max(1, count - 1) for i in range(count)])
    return tuple(s.replace(layers=tuple(layer.replace(drop_path=next(rates)) for layer in s.layers)) for s in stages)


def hidden_runs(raw: Raw, axis: str, part: float, least: int, *, applied: bool) -> RunsConfig | None:
    """What is hidden of "time" or "feature" while training; `applied`: also where the file does not say so."""
    part = raw.rate(f"mask_{axis}_prob", part)
    if not part or not raw.flag("apply_spec_augment", applied):
        return None
    span, least = raw.integer(f"mask_{axis}_length", 10), raw.integer(f"mask_{axis}_min_masks", least, low=0)
    return RunsConfig(part=part, span=span, least=least)


def task_head(raw: Raw, kind: HeadKind, *, dropout: float = 0.0, bias: bool = True) -> HeadConfig:
    """The plain heads that look alike everywhere: one linear per token, per span end, or nothing at all."""
    if kind == "token-classification":
        return TokenHeadConfig(num_labels=len(raw.labels()), dropout=dropout, bias=bias)
    if kind == "question-answering":
        return SpanHeadConfig()
    assert kind == "features", kind
    return FeaturesHeadConfig()


def decoder_head(raw: Raw, kind: HeadKind, vocab_size: int, *, dropout: float = 0.0) -> HeadConfig:
    """Heads of a decoder: vocabulary without bias, or labels from the last token without bias."""
    if kind == "causal-lm":
        return LanguageHeadConfig(vocab_size=vocab_size)
    if kind == "classification":
        return ClassifierHeadConfig(num_labels=len(raw.labels()), pool="last", bias=False)
    return task_head(raw, kind, dropout=dropout)


def decoder_head_rules(kind: HeadKind, *, tokens: str = "score") -> list[Rule]:
    """Keys of a decoder's heads as most families name them; `tokens` is the head that labels each token."""
    return {
        "causal-lm": [Rule("lm_head.weight", "head.out.weight")],
        "classification": [Rule("score.weight", "head.out.weight")],
        "token-classification": [Rule(f"{tokens}.@", "head.out.@")],
        "question-answering": [Rule("qa_outputs.@", "head.out.@")],
    }.get(kind, [])


def encoder(
    raw: Raw,
    kind: HeadKind,
    front: EmbeddingConfig,
    stack: StackConfig,
    *,
    words: TransformConfig,
    labels: TransformConfig,
    pooler: TransformConfig | None,
    dropout: float,
    tokens: TokenIds,
) -> ModelConfig:
    """The model around an encoder.

    `words` stands before the vocabulary, which is tied and has its own bias; `labels` before the labels of a sequence,
    with `dropout` between; `pooler` makes `pooler_output`.
    """
    lm = LanguageHeadConfig(vocab_size=front.vocab_size, bias=True, transform=words)
    tied = kind == "masked-lm" and raw.flag("tie_word_embeddings", True)
    return ModelConfig(
        encoder=TowerConfig(front=front, stack=stack),
        head=encoder_head(raw, kind, lm, labels, pooler, dropout),
        tied=(("head.out.weight", "encoder.front.token.weight"),) if tied else (),
        tokens=tokens,
        init=InitConfig(std=raw.number("initializer_range", 0.02, low=0)),
        max_length=front.positions.size if front.positions is not None else None,
    )


def encoder_head(
    raw: Raw,
    kind: HeadKind,
    lm: LanguageHeadConfig,
    labels: TransformConfig,
    pooler: TransformConfig | None,
    dropout: float,
) -> HeadConfig:
    """Heads of an encoder: masked words, labels of the pooled first token or of each token, spans, pooled features."""
    if kind == "masked-lm":
        return lm
    if kind == "classification":
        return ClassifierHeadConfig(num_labels=len(raw.labels()), transform=labels, dropout=dropout)
    if kind == "features":
        return FeaturesHeadConfig(pooler=pooler)
    return task_head(raw, kind, dropout=dropout)


def encoder_head_rules(
    raw: Raw,
    kind: HeadKind,
    *,
    dense: str,
    norm: str,
    decoder: str,
    bias: str = "",
    labels: tuple[str, str] = ("classifier.dense", "classifier.out_proj"),
    pooler: str = "",
) -> list[Rule]:
    """Keys of an encoder's heads. `dense`, `norm` and `decoder` lead to the vocabulary, whose bias is also, or only,
    `decoder.bias`; `labels` names the two linears that lead to labels of a sequence, `pooler` that of the features.
    """
    tied = raw.flag("tie_word_embeddings", True)
    if kind == "masked-lm":
        return [
            Rule(f"{dense}.@", "head.transform.dense.@"),
            Rule(f"{norm}.@", "head.transform.norm.@"),
            # Where both are in a file they are the same, unless the projection is untied: then the later one counts.
            *([Rule(bias, "head.out.bias", read_only=not tied)] if bias else []),
            Rule(f"{decoder}.bias", "head.out.bias", read_only=bool(bias) and tied),
            Rule(f"{decoder}.weight", "head.out.weight"),
        ]
    if kind == "classification":
        rules = [Rule(f"{labels[0]}.@", "head.transform.dense.@"), Rule(f"{labels[1]}.@", "head.out.@")]
        shared = bool(pooler) and labels[0].endswith(f".{pooler}")  # then a bare model's pooler is where to start from
        return rules + ([Rule(f"{pooler}.@", "head.transform.dense.@", read_only=True)] if shared else [])
    return {
        "features": [Rule(f"{pooler}.@", "head.pooler.dense.@")] if pooler else [],
        "token-classification": [Rule("classifier.@", "head.out.@")],
        "question-answering": [Rule("qa_outputs.@", "head.out.@")],
    }[kind]


def seq2seq_head(raw: Raw, kind: HeadKind, lm: LanguageHeadConfig, dim: int, dropout: float) -> HeadConfig:
    """Heads of an encoder-decoder: words, labels of the last end-of-sequence token, or one linear per token."""
    if kind == "seq2seq-lm":
        return lm
    if kind == "classification":
        dense = TransformConfig(dim=dim, activation="tanh", dropout=dropout)
        return ClassifierHeadConfig(num_labels=len(raw.labels()), pool="eos", transform=dense, dropout=dropout)
    return task_head(raw, kind, dropout=dropout)


def seq2seq_head_rules(kind: HeadKind) -> list[Rule]:
    """Keys of an encoder-decoder's heads."""
    return {
        "seq2seq-lm": [Rule("lm_head.weight", "head.out.weight")],
        "classification": [
            Rule("classification_head.dense.@", "head.transform.dense.@"),
            Rule("classification_head.out_proj.@", "head.out.@"),
        ],
        "token-classification": [Rule("classifier.@", "head.out.@")],
        "question-answering": [Rule("qa_outputs.@", "head.out.@")],
    }.get(kind, [])


def rope(raw: Raw, dim: int, *, theta: float = 10000.0, layer_type: str | None = None) -> RopeConfig:
    """Rotary settings of `dim` channels, from `rope_parameters` (new) or `rope_theta` and `rope_scaling` (old).

    `layer_type` picks from parameters that are nested by type of layer.
    """
    settings = raw.sub("rope_parameters") if raw.has("rope_parameters") else raw.sub("rope_scaling")
    if layer_type is not None and settings.has(layer_type):
        settings = settings.sub(layer_type)
    base = settings.number("rope_theta", raw.number("rope_theta", theta, low=1e-3), low=1e-3)
    partial = settings.number(
        "partial_rotary_factor", raw.number("partial_rotary_factor", 1.0, low=0, high=1), low=0, high=1
    )
    turned = int(dim * partial)
    return RopeConfig(dim=turned - turned % 2, theta=base, scaling=rope_scaling(raw, settings))


def layer_types(raw: Raw, full: Callable[[int], bool]) -> tuple[str, ...]:
    """Which layers look at everything and which through a window: `layer_types`, or `full` of the layer's number."""
    kinds, count = ("full_attention", "sliding_attention"), raw.layers("num_hidden_layers")
    given = raw.items("layer_types", None)
    if given is None:
        return tuple(kinds[0] if full(i) else kinds[1] for i in range(count))
    if len(given) != count or any(kind not in kinds for kind in given):
        raise ValueError(f"{raw.where}: layer_types is {given!r:.80}; allowed: {count} of {', '.join(kinds)}")
    return tuple(given)


def rope_scaling(raw: Raw, s: Raw) -> RopeScaling | None:
    """The length scaling named by `rope_type` (or `type`). Raises ValueError for one that nobody built."""
    kinds = ("default", "linear", "dynamic", "llama3", "yarn", "longrope", "su")
    kind = s.one_of("rope_type", kinds, s.one_of("type", kinds, "default"))
    trained = raw.integer("max_position_embeddings", 2048)
    original = raw.integer("original_max_position_embeddings", s.integer("original_max_position_embeddings", trained))
    if kind == "linear":
        return LinearScaling(factor=s.number("factor", low=1e-6))
    if kind == "dynamic":
        return DynamicScaling(factor=s.number("factor", low=1e-6), original_length=trained)
    if kind == "llama3":
        return Llama3Scaling(
            factor=s.number("factor", low=1e-6),
            low_freq_factor=s.number("low_freq_factor"),
            high_freq_factor=s.number("high_freq_factor"),
            original_length=original,
        )
    if kind == "yarn":
        factor = s.number("factor", trained / original, low=1e-6)
        return YarnScaling(
            factor=factor,
            original_length=original,
            attention_factor=s.number("attention_factor", _yarn_attention(s, factor)),
            beta_fast=s.number("beta_fast", 32.0, low=1e-6),
            beta_slow=s.number("beta_slow", 1.0, low=1e-6),
            truncate=s.flag("truncate", True),
        )
    if kind in ("longrope", "su"):
        factor = s.number("factor", trained / original, low=1e-6)
        grown = 1.0 if factor <= 1.0 else math.sqrt(1 + math.log(factor) / math.log(original))
        return LongScaling(
            short=_floats(s, "short_factor"),
            long=_floats(s, "long_factor"),
            original_length=original,
            attention_factor=s.number("attention_factor", grown),
        )
    return None


def _yarn_attention(s: Raw, factor: float) -> float:
    def grown(scale: float) -> float:
        return 1.0 if factor <= 1 else 0.1 * scale * math.log(factor) + 1.0

    above, below = s.number("mscale", None), s.number("mscale_all_dim", None)
    return grown(above) / grown(below) if above and below else grown(1.0)


def _floats(s: Raw, name: str) -> tuple[float, ...]:
    values = s.items(name)
    if not values or not all(isinstance(v, (int, float)) and not isinstance(v, bool) and v > 0 for v in values):
        raise ValueError(f"{s.where}: {name} is {values!r:.80}; allowed: a list of numbers above 0")
    return tuple(float(v) for v in values)
