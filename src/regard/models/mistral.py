"""Mistral 7B (2310.06825): Llama with a window over the keys in every layer, and heads of a width of their own."""

from __future__ import annotations

from regard.config import ModelConfig
from regard.models.base import HeadKind, Raw
from regard.models.common import architectures
from regard.models.llama import SUFFIXES, attention, decoder, layer, llama_like


def config(raw: Raw, head: HeadKind) -> ModelConfig:
    windowed = layer(raw, attention(raw, "sliding_attention"))
    return decoder(raw, head, (windowed,) * raw.layers("num_hidden_layers"))


YARN = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 16}
FAMILY = llama_like(
    "mistral",
    "Mistral 7B, Nemo",
    config,
    {
        "mistral": {"sliding_window": 4},
        "mistral without window": {"sliding_window": None, "head_dim": 16},
        "mistral yarn": {"rope_parameters": {**YARN, "beta_fast": 8.0, "beta_slow": 0.5}, "head_dim": 16},
    },
    classes=architectures("Mistral", "model.", *SUFFIXES),
    defaults={
        "num_key_value_heads": 8,
        "sliding_window": 4096,
        "max_position_embeddings": 131072,
        "bos_token_id": 1,
        "eos_token_id": 2,
    },
)
