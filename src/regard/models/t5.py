"""T5 v1.0, v1.1/Flan and mT5 (1910.10683, 2010.11934): pre-norm RMS, no biases, unscaled scores, distance buckets.

Each stack owns one table of distance biases. v1.0 ties the vocabulary projection and scales by dim ** -0.5; v1.1 has
its own projection and a gated feed-forward.
"""

from __future__ import annotations

from regard.config import (
    AttentionConfig,
    Causal,
    ClassifierHeadConfig,
    EmbeddingConfig,
    FeedForwardConfig,
    HeadConfig,
    InitConfig,
    LanguageHeadConfig,
    LayerConfig,
    ModelConfig,
    NormConfig,
    RelativeBiasConfig,
    StackConfig,
    TowerConfig,
    TransformConfig,
)
from regard.models.base import Architecture, Family, HeadKind, Raw, Rule
from regard.models.common import task_head


def stack(raw: Raw, *, decoder: bool) -> StackConfig:
    dim, heads, drop = raw.integer("d_model"), raw.integer("num_heads"), raw.rate("dropout_rate", 0.1)
    kinds = ("relu", "gelu", "silu", "gated-gelu", "gated-silu", "gated-relu")
    kind = raw.one_of("feed_forward_proj", kinds, "relu")
    attention = AttentionConfig(
        num_heads=heads, head_dim=raw.integer("d_kv"), bias=(False,) * 4, scale=1.0, dropout=drop
    )
    # The reference takes the tanh approximation for "gated-gelu", for the sake of the first v1.1 files.
    activation = {"gated-gelu": "gelu_new"}.get(kind, kind.removeprefix("gated-"))
    layer = LayerConfig(
        norm=NormConfig(kind="rms", eps=raw.number("layer_norm_epsilon", 1e-6)),
        attention=attention,
        cross=attention if decoder else None,
        feed_forward=FeedForwardConfig(
            hidden_dim=raw.integer("d_ff"),
            activation=Raw({"a": activation}).activation("a", "relu"),
            gated=kind.startswith("gated-"),
            bias=False,
            dropout=drop,
        ),
        dropout=drop,
    )
    count = raw.layers("num_layers")
    count = raw.layers("num_decoder_layers", count) if decoder else count
    bias = RelativeBiasConfig(
        num_heads=heads,
        num_buckets=raw.integer("relative_attention_num_buckets", 32),
        max_distance=raw.integer("relative_attention_max_distance", 128),
        bidirectional=not decoder,
    )
    mask = Causal() if decoder else None
    return StackConfig(dim=dim, layers=(layer,) * count, mask=mask, bias=bias, final_norm=layer.norm, dropout=drop)


def config(raw: Raw, head: HeadKind) -> ModelConfig:
    dim, vocab_size, drop = raw.integer("d_model"), raw.integer("vocab_size"), raw.rate("dropout_rate", 0.1)
    front = EmbeddingConfig(vocab_size=vocab_size, dim=dim, dropout=drop)
    # A file that says false means both an own projection and unscaled logits (v1.1).
    tied = raw.flag("tie_word_embeddings", True)
    scaled = raw.flag("scale_decoder_outputs", tied and raw.text("model_type", "t5") == "t5")  # mT5 never scales
    ties = [("decoder.front.token.weight", "encoder.front.token.weight")]
    if head == "seq2seq-lm" and tied:
        ties.append(("head.out.weight", "encoder.front.token.weight"))
    encoder = TowerConfig(front=front, stack=stack(raw, decoder=False))
    only_encoder = head == "token-classification"
    return ModelConfig(
        encoder=encoder,
        decoder=None if only_encoder else TowerConfig(front=front, stack=stack(raw, decoder=True)),
        head=_head(raw, head, dim**-0.5 if scaled else 1.0),
        tied=() if only_encoder else tuple(ties),
        tokens=raw.tokens(pad=0, eos=1),
        init=InitConfig(scheme="fan_in", std=dim**-0.5, embedding_std=1.0),
        max_length=None,
    )


def _head(raw: Raw, kind: HeadKind, scale: float) -> HeadConfig:
    if kind == "seq2seq-lm":
        return LanguageHeadConfig(vocab_size=raw.integer("vocab_size"), scale=scale)
    drop = raw.rate("classifier_dropout")
    if kind == "classification":
        dense = TransformConfig(dim=raw.integer("d_model"), activation="tanh")
        return ClassifierHeadConfig(num_labels=len(raw.labels()), pool="eos", transform=dense, dropout=drop)
    return task_head(raw, kind, dropout=drop)


def backbone(raw: Raw) -> list[Rule]:
    rules = [
        Rule("shared.weight", "encoder.front.token.weight"),
        Rule("encoder.embed_tokens.weight", "encoder.front.token.weight", read_only=True),
        Rule("decoder.embed_tokens.weight", "decoder.front.token.weight", read_only=True),
        # old files carry a bias table for cross-attention that no layer used
        Rule("decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"),
    ]
    for side, last in (("encoder", 1), ("decoder", 2)):
        disk, ours = f"{side}.block.*.layer.", f"{side}.stack.layers.*."
        rules += [Rule(f"{disk}0.SelfAttention.{p}.weight", f"{ours}attn.fn.{p}.weight") for p in "qkv"]
        rules += [
            Rule(f"{disk}0.SelfAttention.o.weight", f"{ours}attn.fn.out.weight"),
            Rule(
                f"{side}.block.0.layer.0.SelfAttention.relative_attention_bias.weight",
                f"{side}.stack.bias.table.weight",
            ),
            Rule(f"{disk}0.layer_norm.weight", f"{ours}attn.norm.weight"),
            Rule(f"{disk}{last}.DenseReluDense.wi.weight", f"{ours}ffn.fn.up.weight", read_only=_gated(raw)),
            Rule(f"{disk}{last}.DenseReluDense.wi_0.weight", f"{ours}ffn.fn.gate.weight"),
            Rule(f"{disk}{last}.DenseReluDense.wi_1.weight", f"{ours}ffn.fn.up.weight", read_only=not _gated(raw)),
            Rule(f"{disk}{last}.DenseReluDense.wo.weight", f"{ours}ffn.fn.down.weight"),
            Rule(f"{disk}{last}.layer_norm.weight", f"{ours}ffn.norm.weight"),
            Rule(f"{side}.final_layer_norm.weight", f"{side}.stack.norm.weight"),
        ]
    disk, ours = "decoder.block.*.layer.1.", "decoder.stack.layers.*.cross."
    return [
        *rules,
        *(Rule(f"{disk}EncDecAttention.{p}.weight", f"{ours}fn.{p}.weight") for p in "qkv"),
        Rule(f"{disk}EncDecAttention.o.weight", f"{ours}fn.out.weight"),
        Rule(f"{disk}layer_norm.weight", f"{ours}norm.weight"),
    ]


def _gated(raw: Raw) -> bool:
    return bool(raw.text("feed_forward_proj", "relu").startswith("gated-"))


def heads(raw: Raw, kind: HeadKind) -> list[Rule]:
    return {
        "seq2seq-lm": [Rule("lm_head.weight", "head.out.weight")],
        "classification": [
            Rule("classification_head.dense.@", "head.transform.dense.@"),
            Rule("classification_head.out_proj.@", "head.out.@"),
        ],
        "token-classification": [Rule("classifier.@", "head.out.@")],
        "question-answering": [Rule("qa_outputs.@", "head.out.@")],
    }.get(kind, [])


def _architectures(name: str) -> dict[str, Architecture]:
    return {
        f"{name}ForConditionalGeneration": Architecture("seq2seq-lm"),
        f"{name}Model": Architecture("features"),
        f"{name}ForSequenceClassification": Architecture("classification", "transformer."),
        f"{name}ForTokenClassification": Architecture("token-classification", "transformer."),
        f"{name}ForQuestionAnswering": Architecture("question-answering"),
    }


TINY = {
    "model_type": "t5",
    "d_model": 32,
    "d_kv": 8,
    "d_ff": 48,
    "num_layers": 2,
    "num_decoder_layers": 3,
    "num_heads": 4,
}
TINY |= {"vocab_size": 97, "relative_attention_num_buckets": 8, "relative_attention_max_distance": 16}
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
