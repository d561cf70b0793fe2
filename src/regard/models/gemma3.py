"""Gemma 3, text only (2503.19786): Gemma 2 with normed queries and keys in place of capped scores, five windows to one
full layer, and a rotary base for each of the two kinds."""

from __future__ import annotations

from regard.config import LayerConfig, ModelConfig, Window
from regard.models.base import Architecture, HeadKind, Raw
from regard.models.common import layer_types
from regard.models.gemma import DEFAULTS
from regard.models.gemma2 import SANDWICH, capped, sandwich_layer
from regard.models.llama import backbone, llama_like


def by_type(raw: Raw) -> Raw:
    """The file with its rotary settings nested by type of layer, as newer ones have them; full layers are scaled."""
    given = raw.sub("rope_parameters")
    old = {"rope_theta": raw.number("rope_theta", 1000000.0), **raw.sub("rope_scaling").data}
    nested = {
        "full_attention": {**old, **given.sub("full_attention").data},
        "sliding_attention": {
            "rope_theta": raw.number("rope_local_base_freq", 10000.0),
            **given.sub("sliding_attention").data,
        },
    }
    return Raw({**raw.data, "rope_parameters": nested}, raw.where)


def gemma3_layer(raw: Raw, kind: str, *, both_ways: bool) -> LayerConfig:
    """A sandwich layer with normed queries and keys; one that looks both ways halves its window to each side."""
    one = sandwich_layer(raw, kind)
    assert one.attention is not None
    attention = one.attention.replace(qk_norm=one.norm)
    if both_ways and attention.mask is not None:
        attention = attention.replace(mask=Window(raw.integer("sliding_window") // 2 + 1))
    return one.replace(attention=attention)


def config(raw: Raw, head: HeadKind) -> ModelConfig:
    both_ways = raw.flag("use_bidirectional_attention", False)
    if both_ways and head == "causal-lm":
        raise ValueError(f"{raw.where}: use_bidirectional_attention is true; a causal-lm head allows only false")
    raw, pattern = by_type(raw), raw.integer("sliding_window_pattern", 6)
    kinds = layer_types(raw, lambda i: (i + 1) % pattern == 0)
    model = capped(raw, head, tuple(gemma3_layer(raw, kind, both_ways=both_ways) for kind in kinds))
    if not both_ways:
        return model
    assert model.decoder is not None
    return model.replace(decoder=model.decoder.replace(stack=model.decoder.stack.replace(mask=None)))


FAMILY = llama_like(
    "gemma3",
    "Gemma 3 (text), EmbeddingGemma",
    config,
    {
        "gemma3": {
            "head_dim": 16,
            "query_pre_attn_scalar": 12,
            "sliding_window": 4,
            "sliding_window_pattern": 2,
        },
        "gemma3 scaled": {
            "head_dim": 8,
            "sliding_window": 3,
            "final_logit_softcapping": 3.0,
            "layer_types": ["sliding_attention", "sliding_attention", "full_attention"],
            "rope_parameters": {
                "full_attention": {"rope_type": "linear", "rope_theta": 500.0, "factor": 8.0},
                "sliding_attention": {"rope_type": "default", "rope_theta": 50.0},
            },
        },
    },
    classes={
        "Gemma3ForCausalLM": Architecture("causal-lm", "model."),
        "Gemma3TextModel": Architecture("features"),
        "Gemma3TextForSequenceClassification": Architecture("classification", "model."),
    },
    defaults={
        **DEFAULTS,
        "num_key_value_heads": 4,
        "max_position_embeddings": 131072,
        "hidden_activation": "gelu_pytorch_tanh",
        "query_pre_attn_scalar": 256,
        "sliding_window": 4096,
    },
    model_types=("gemma3_text",),
    backbone=lambda raw: backbone(raw, SANDWICH),
)
