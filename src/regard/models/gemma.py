"""Gemma (2403.08295): Llama with scaled token vectors, norms stored as w - 1, gated tanh-GELU and wide heads."""

from __future__ import annotations

from regard.config import LayerConfig, ModelConfig
from regard.models.base import HeadKind, Raw
from regard.models.common import architectures
from regard.models.llama import attention, decoder, layer, llama_like

DEFAULTS = {
    "num_key_value_heads": 16,
    "head_dim": 256,
    "max_position_embeddings": 8192,
    "tie_word_embeddings": True,
    "pad_token_id": 0,
    "bos_token_id": 2,
    "eos_token_id": 1,
}


def gemma_layer(one: LayerConfig) -> LayerConfig:
    """Norms stored as w - 1."""
    return one.replace(norm=one.norm.replace(offset=1.0))


def config(raw: Raw, head: HeadKind) -> ModelConfig:
    raw.one_of("use_bidirectional_attention", (False,), False)
    if raw.text("hidden_act", "gelu") == "gelu":  # the first files say so, but were trained with the approximation
        raw = Raw({**raw.data, "hidden_act": "gelu_pytorch_tanh"}, raw.where)
    one = gemma_layer(layer(raw, attention(raw)))
    return decoder(raw, head, (one,) * raw.layers("num_hidden_layers"), scale=raw.integer("hidden_size") ** 0.5)


FAMILY = llama_like(
    "gemma",
    "Gemma",
    config,
    {
        "gemma": {"head_dim": 16, "num_key_value_heads": 1},
        "gemma untied": {"head_dim": 8, "tie_word_embeddings": False, "hidden_act": "gelu"},
    },
    classes=architectures(
        "Gemma", "model.", "ForCausalLM", "Model", "ForSequenceClassification", "ForTokenClassification"
    ),
    defaults=DEFAULTS,
)
