"""DeBERTa v2 and v3 (2006.03654, 2111.09543): BERT's tree with disentangled attention over words and distances."""

from __future__ import annotations

import dataclasses
from typing import Any

from regard.config import LayerConfig, ModelConfig, NormConfig, StackConfig, TransformConfig
from regard.models import bert
from regard.models._disentangled import ConvLayerConfig, DisentangledConfig, DisentangledStackConfig
from regard.models.base import Family, HeadKind, Raw, Rule
from regard.models.common import architectures, encoder, encoder_head_rules


def config(raw: Raw, head: HeadKind) -> ModelConfig:
    raw = raw.over({"layer_norm_eps": 1e-7, "type_vocab_size": 0})
    dim, norm = raw.integer("hidden_size"), bert.layer(raw).norm
    width, biased = raw.integer("embedding_size", dim), raw.flag("position_biased_input", True)
    if width != dim and (biased or raw.integer("type_vocab_size", low=0)):
        raise ValueError(
            f"{raw.where}: embedding_size is {width} beside hidden_size {dim}; "
            "allowed with position_biased_input false and type_vocab_size 0"
        )
    raw.one_of("pooler_hidden_size", (dim,), dim)
    pooled = raw.activation("pooler_hidden_act", "gelu")
    front = bert.embedding(raw, width=width if width != dim else None).replace(project="before")
    return encoder(
        raw,
        head,
        front if biased else front.replace(positions=None),
        _stack(raw, dim, norm),
        words=TransformConfig(dim=width, activation=raw.activation("hidden_act", "gelu"), norm=norm),
        labels=TransformConfig(dim=dim, activation=pooled, dropout=raw.rate("pooler_dropout")),
        pooler=None,
        dropout=raw.rate("cls_dropout", front.dropout) if head == "classification" else front.dropout,
        tokens=raw.tokens(pad=0),
    )


def _stack(raw: Raw, dim: int, norm: NormConfig) -> StackConfig:
    layers = _layers(raw)
    if not raw.flag("relative_attention", False):
        return StackConfig(dim=dim, layers=layers)
    reach, buckets = (raw.integer(name, -1, low=-1) for name in ("max_relative_positions", "position_buckets"))
    reach, buckets = reach if reach > 0 else raw.integer("max_position_embeddings", 512), max(0, buckets)
    relative_norm = norm if "layer_norm" in _words(raw.text("norm_rel_ebd", "none")) else None
    return DisentangledStackConfig(
        dim=dim, layers=layers, span=buckets or reach, buckets=buckets, reach=reach, relative_norm=relative_norm
    )


def _layers(raw: Raw) -> tuple[LayerConfig, ...]:
    layer, dim, terms = bert.layer(raw), raw.integer("hidden_size", high=2**16), _terms(raw)
    assert layer.attention is not None
    head_dim = raw.integer("attention_head_size", layer.attention.head_dim)
    scale = (head_dim * (1 + len(terms))) ** -0.5  # counts the terms even if they are off
    attention = layer.attention.replace(head_dim=head_dim, scale=scale)
    if terms and raw.flag("relative_attention", False):
        attention = DisentangledConfig(
            **_fields(attention),
            c2p="c2p" in terms,
            p2c="p2c" in terms,
            shared=raw.flag("share_att_key", False),
            relative_dropout=layer.dropout,
        )
    first = layer = layer.replace(attention=attention)
    if raw.integer("conv_kernel_size", 0, low=0):
        first = ConvLayerConfig(
            **_fields(layer),
            kernel=raw.one_of("conv_kernel_size", tuple(range(1, 64, 2))),
            conv_groups=raw.one_of("conv_groups", tuple(n for n in range(1, dim + 1) if dim % n == 0), 1),
            conv_activation=raw.activation("conv_act", "tanh"),
        )
    return (first,) + (layer,) * (raw.layers("num_hidden_layers") - 1)


def _terms(raw: Raw) -> set[str]:
    given = raw.data.get("pos_att_type") or []
    terms = _words(given) if isinstance(given, str) else set(map(str, raw.items("pos_att_type", [])))
    if terms - {"c2p", "p2c"}:
        raise ValueError(f"{raw.where}: pos_att_type is {given!r:.80}; allowed: c2p, p2c, both or none")
    return terms


def _words(text: str) -> set[str]:
    return {word.strip() for word in text.lower().split("|")}


def _fields(config: Any) -> dict[str, Any]:
    return {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}


def backbone(raw: Raw) -> list[Rule]:
    disk, ours = "encoder.layer.*.attention.self.", "encoder.stack.layers.*.attn.fn."
    # Positions that only the decoder of pretraining used, and what v3's discriminator adds to its generator's words.
    unused = [] if raw.flag("position_biased_input", True) else [Rule("embeddings.position_embeddings.weight")]
    return [
        *unused,
        *bert.embedding_rules(),
        *(Rule(f"embeddings.{table}_embeddings._weight") for table in ("word", "position")),
        Rule("embeddings.embed_proj.weight", "encoder.front.proj.weight"),
        *bert.layer_rules("self.query_proj", "self.key_proj", "self.value_proj"),
        Rule(f"{disk}pos_key_proj.@", f"{ours}relative_k.@"),
        Rule(f"{disk}pos_query_proj.@", f"{ours}relative_q.@"),
        Rule("encoder.rel_embeddings.weight", "encoder.stack.relative.weight"),
        Rule("encoder.LayerNorm.@", "encoder.stack.relative_norm.@"),
        Rule("encoder.conv.conv.@", "encoder.stack.layers.0.conv.@"),
        Rule("encoder.conv.LayerNorm.@", "encoder.stack.layers.0.conv_norm.@"),
    ]


def heads(raw: Raw, kind: HeadKind) -> list[Rule]:
    def rules(dense: str, norm: str, rest: str) -> list[Rule]:
        words = {"decoder": f"{rest}.decoder", "bias": f"{rest}.bias"}
        return encoder_head_rules(raw, kind, dense=dense, norm=norm, labels=("pooler.dense", "classifier"), **words)

    old = rules("cls.predictions.transform.dense", "cls.predictions.transform.LayerNorm", "cls.predictions")
    new = rules("lm_predictions.lm_head.dense", "lm_predictions.lm_head.LayerNorm", "lm_predictions.lm_head")
    first, other = (old, new) if raw.flag("legacy", True) else (new, old)
    # Microsoft's own files have no such flag and the new names, which the reference then fails to read.
    read = [] if raw.has("legacy") else [dataclasses.replace(rule, read_only=True) for rule in other]
    return [*first, *read, Rule("cls.predictions.**"), Rule("lm_predictions.**"), Rule("mask_predictions.**")]


TINY = {**bert.TINY, "model_type": "deberta-v2", "relative_attention": True, "pos_att_type": "p2c|c2p"}
V3 = {"position_buckets": 8, "norm_rel_ebd": "layer_norm", "share_att_key": True, "position_biased_input": False}
FAMILY = Family(
    name="deberta_v2",
    title="DeBERTa v2, v3",
    model_types=("deberta-v2",),
    architectures=architectures("DebertaV2", "deberta.", "Model", "ForMaskedLM", *bert.TASKS),
    config=config,
    backbone=backbone,
    heads=heads,
    tiny={
        "deberta v3": {**TINY, **V3, "legacy": False},
        "deberta v2 xlarge": {**TINY, **V3, "conv_kernel_size": 3, "conv_act": "gelu"},
        "deberta unshared": {**TINY, "max_relative_positions": 9, "type_vocab_size": 2, "position_buckets": 6},
        "deberta c2p": {**TINY, "pos_att_type": ["c2p"], "conv_kernel_size": 5, "conv_groups": 2},
        "deberta p2c": {**TINY, **V3, "pos_att_type": ["p2c"], "share_att_key": False, "embedding_size": 16},
        "deberta without distances": {**TINY, "relative_attention": False, "hidden_act": "gelu_new"},
    },
)
