"""Qwen2 and 2.5 (2407.10671): Llama with biases on queries, keys and values, and windows in upper layers on request."""

from __future__ import annotations

from regard.config import ModelConfig
from regard.models.base import Architecture, HeadKind, Raw
from regard.models.common import architectures, layer_types
from regard.models.llama import SUFFIXES, attention, decoder, layer, llama_like

DEFAULTS = {"num_key_value_heads": 32, "max_position_embeddings": 32768, "sliding_window": 4096}


def window_types(raw: Raw) -> tuple[str, ...]:
    """The type of each layer: as listed, or windows from layer `max_window_layers` on; none unless switched on."""
    first = raw.integer("max_window_layers", 28, low=0)
    types = layer_types(raw, lambda i: i < first)
    return types if raw.flag("use_sliding_window", False) else ("full_attention",) * len(types)


def config(raw: Raw, head: HeadKind) -> ModelConfig:
    biases = (True, True, True, False)
    layers = tuple(layer(raw, attention(raw, kind).replace(bias=biases)) for kind in window_types(raw))
    return decoder(raw, head, layers)


def qwen_classes(name: str) -> dict[str, Architecture]:
    """Class names; span finding keeps an older prefix."""
    odd = {f"{name}ForQuestionAnswering": Architecture("question-answering", "transformer.")}
    return architectures(name, "model.", *SUFFIXES) | odd


FAMILY = llama_like(
    "qwen2",
    "Qwen2, Qwen2.5",
    config,
    {
        "qwen2": {"tie_word_embeddings": True},
        "qwen2 windows": {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1},
        "qwen2 listed": {
            "use_sliding_window": True,
            "sliding_window": 3,
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
        },
    },
    classes=qwen_classes("Qwen2"),
    defaults=DEFAULTS,
)
