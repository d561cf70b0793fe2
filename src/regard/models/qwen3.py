"""Qwen3 (2505.09388): Qwen2 without its biases, with queries and keys normed per head, and a head width of its own."""

from __future__ import annotations

from regard.config import ModelConfig, NormConfig
from regard.models.base import HeadKind, Raw
from regard.models.llama import attention, decoder, layer, llama_like
from regard.models.qwen2 import DEFAULTS, qwen_classes, window_types


def config(raw: Raw, head: HeadKind) -> ModelConfig:
    norm = NormConfig(kind="rms", eps=raw.number("rms_norm_eps", 1e-6))
    layers = tuple(layer(raw, attention(raw, kind).replace(qk_norm=norm)) for kind in window_types(raw))
    return decoder(raw, head, layers)


YARN = {"rope_type": "yarn", "rope_theta": 1000000.0, "factor": 4.0, "original_max_position_embeddings": 16}
FAMILY = llama_like(
    "qwen3",
    "Qwen3",
    config,
    {
        "qwen3": {"head_dim": 16, "tie_word_embeddings": True},
        "qwen3 windows": {
            "head_dim": 12,
            "attention_bias": True,
            "use_sliding_window": True,
            "sliding_window": 4,
            "max_window_layers": 2,
        },
        "qwen3 yarn": {"head_dim": 16, "rope_parameters": YARN},
    },
    classes=qwen_classes("Qwen3"),
    defaults={**DEFAULTS, "head_dim": 128},
)
