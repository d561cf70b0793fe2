"""T5 v1.0, v1.1/Flan and mT5 (1910.10683, 2010.11934): pre-norm RMS, no biases, unscaled scores, distance buckets.

Each stack owns a table of distance biases. v1.0 ties the output table and scales by dim ** -0.5; v1.1 has its own.
"""

from __future__ import annotations

from regard.config import (
    Activation,
    AttentionConfig,
    Causal,
    EmbeddingConfig,
    FeedForwardConfig,
    InitConfig,
    LanguageHeadConfig,
    LayerConfig,
    ModelConfig,
    NormConfig,
    RelativeBiasConfig,
    StackConfig,
    TowerConfig,
)
from regard.models.base import Architecture, Family, HeadKind, Raw, Rule
from regard.models.common import architectures, seq2seq_head, seq2seq_head_rules

# The reference takes the tanh approximation for "gated-gelu", for the sake of the first v1.1 files.
FORWARD: dict[str, Activation] = {"relu": "relu", "gelu": "gelu", "silu": "silu"}
FORWARD |= {"gated-relu": "relu", "gated-gelu": "gelu_tanh", "gated-silu": "silu"}


def _is_mt5(raw: Raw) -> bool:
    return bool(raw.text("model_type", "t5") == "mt5")


def _feed_forward(raw: Raw) -> tuple[Activation, bool]:
    """Activation, and whether it gates."""
    kind = raw.one_of("feed_forward_proj", tuple(FORWARD), "gated-gelu" if _is_mt5(raw) else "relu")
    return FORWARD[kind], kind.startswith("gated-")


def stack(raw: Raw, *, decoder: bool) -> StackConfig:
    heads, drop = raw.integer("num_heads"), raw.rate("dropout_rate", 0.1)
    head_dim, (activation, gated) = raw.integer("d_kv"), _feed_forward(raw)
    attention = AttentionConfig(num_heads=heads, head_dim=head_dim, bias=(False,) * 4, scale=1.0, dropout=drop)
    layer = LayerConfig(
        norm=NormConfig(kind="rms", eps=raw.number("layer_norm_epsilon", 1e-6)),
        attention=attention,
        cross=attention if decoder else None,
        feed_forward=FeedForwardConfig(
            hidden_dim=raw.integer("d_ff"), activation=activation, gated=gated, bias=False, dropout=drop
        ),
        dropout=drop,
    )
    count = raw.layers("num_layers")
    bias = RelativeBiasConfig(
        num_heads=heads,
        num_buckets=raw.integer("relative_attention_num_buckets", 32),
        max_distance=raw.integer("relative_attention_max_distance", 128),
        bidirectional=not decoder,
    )
    return StackConfig(
        dim=raw.integer("d_model"),
        layers=(layer,) * (raw.layers("num_decoder_layers", count) if decoder else count),
        mask=Causal() if decoder else None,
        bias=bias,
        final_norm=layer.norm,
        dropout=drop,
    )


def _only_encoder(raw: Raw, head: HeadKind) -> bool:
    """Token labels, and what the file's class name calls an encoder (sentence embeddings)."""
    alone = any(str(name).endswith("EncoderModel") for name in raw.items("architectures", []))
    return head == "token-classification" or (head == "features" and alone)


def config(raw: Raw, head: HeadKind) -> ModelConfig:
    dim, vocab_size, drop = raw.integer("d_model"), raw.integer("vocab_size"), raw.rate("dropout_rate", 0.1)
    front = EmbeddingConfig(vocab_size=vocab_size, dim=dim, dropout=drop)
    # A file that says false means both an own projection and unscaled logits (v1.1); mT5 never scales.
    tied = raw.flag("tie_word_embeddings", True)
    scaled = not _is_mt5(raw) and raw.flag("scale_decoder_outputs", tied)
    lm = LanguageHeadConfig(vocab_size=vocab_size, scale=dim**-0.5 if scaled else 1.0)
    alone = _only_encoder(raw, head)
    ties = [] if alone else [("decoder.front.token.weight", "encoder.front.token.weight")]
    if head == "seq2seq-lm" and tied:
        ties.append(("head.out.weight", "encoder.front.token.weight"))
    return ModelConfig(
        encoder=TowerConfig(front=front, stack=stack(raw, decoder=False)),
        decoder=None if alone else TowerConfig(front=front, stack=stack(raw, decoder=True)),
        head=seq2seq_head(raw, head, lm, dim, raw.rate("classifier_dropout")),
        tied=tuple(ties),
        tokens=raw.tokens(pad=0, eos=1, decoder_start=0),
        init=InitConfig(scheme="fan_in", std=dim**-0.5, embedding_std=1.0),
    )


def backbone(raw: Raw) -> list[Rule]:
    _, gated = _feed_forward(raw)
    rules = [Rule("shared.weight", "encoder.front.token.weight")]
    for side, last in (("encoder", 1), ("decoder", 2)):
        disk, ours = f"{side}.block.*.layer.", f"{side}.stack.layers.*."
        table = f"{side}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
        rules += [
            Rule(f"{side}.embed_tokens.weight", f"{side}.front.token.weight", read_only=True),
            Rule(table, f"{side}.stack.bias.table.weight"),
            *_attention_rules(f"{disk}0.", "SelfAttention", f"{ours}attn."),
            Rule(f"{disk}{last}.DenseReluDense.wi.weight", f"{ours}ffn.fn.up.weight", read_only=gated),
            Rule(f"{disk}{last}.DenseReluDense.wi_0.weight", f"{ours}ffn.fn.gate.weight"),
            Rule(f"{disk}{last}.DenseReluDense.wi_1.weight", f"{ours}ffn.fn.up.weight", read_only=not gated),
            Rule(f"{disk}{last}.DenseReluDense.wo.weight", f"{ours}ffn.fn.down.weight"),
            Rule(f"{disk}{last}.layer_norm.weight", f"{ours}ffn.norm.weight"),
            Rule(f"{side}.final_layer_norm.weight", f"{side}.stack.norm.weight"),
        ]
    rules += _attention_rules("decoder.block.*.layer.1.", "EncDecAttention", "decoder.stack.layers.*.cross.")
    # Old files carry a bias table for cross-attention that no layer used.
    return [*rules, Rule("decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight")]


def _attention_rules(disk: str, name: str, ours: str) -> list[Rule]:
    projections = [("q", "q"), ("k", "k"), ("v", "v"), ("o", "out")]
    rules = [Rule(f"{disk}{name}.{theirs}.weight", f"{ours}fn.{p}.weight") for theirs, p in projections]
    return [*rules, Rule(f"{disk}layer_norm.weight", f"{ours}norm.weight")]


def heads(raw: Raw, kind: HeadKind) -> list[Rule]:
    unused = [Rule("decoder.**")] if _only_encoder(raw, kind) else []
    return seq2seq_head_rules(kind) + unused


def _architectures(name: str) -> dict[str, Architecture]:
    plain = architectures(name, "", "ForConditionalGeneration", "Model", "ForQuestionAnswering")
    nested = architectures(name, "transformer.", "ForSequenceClassification", "ForTokenClassification")
    return {**plain, **nested, f"{name}EncoderModel": Architecture("features")}


TINY = {"model_type": "t5", "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_decoder_layers": 3}
TINY |= {"num_heads": 4, "vocab_size": 97, "relative_attention_num_buckets": 8, "relative_attention_max_distance": 16}
TINY |= {"decoder_start_token_id": 0, "pad_token_id": 0, "eos_token_id": 1}
V1_1 = {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}
FAMILY = Family(
    name="t5",
    title="T5, Flan-T5, mT5",
    model_types=("t5", "mt5"),
    architectures=_architectures("T5") | _architectures("MT5"),
    config=config,
    backbone=backbone,
    heads=heads,
    tiny={"t5": TINY, "t5 v1.1": {**TINY, **V1_1}, "mt5": {**TINY, **V1_1, "model_type": "mt5"}},
)
