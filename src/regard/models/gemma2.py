"""Gemma 2 (2408.00118): Gemma with norms on both sides of each branch, capped scores and logits, windows in turn."""

from __future__ import annotations

from regard.config import LanguageHeadConfig, LayerConfig, ModelConfig
from regard.models.base import HeadKind, Raw
from regard.models.common import architectures, layer_types
from regard.models.gemma import DEFAULTS, gemma_layer
from regard.models.llama import attention, backbone, decoder, layer, llama_like

SANDWICH = {
    "input_layernorm": "attn.norm",
    "post_attention_layernorm": "attn.post_norm",
    "pre_feedforward_layernorm": "ffn.norm",
    "post_feedforward_layernorm": "ffn.post_norm",
}


def sandwich_layer(raw: Raw, kind: str) -> LayerConfig:
    """A layer with four norms; scores scaled by `query_pre_attn_scalar`, and perhaps capped."""
    one = gemma_layer(
        layer(Raw({**raw.data, "hidden_act": raw.text("hidden_activation")}, raw.where), attention(raw, kind))
    )
    assert one.attention is not None
    scale = raw.number("query_pre_attn_scalar", low=1e-6) ** -0.5
    scores = one.attention.replace(scale=scale, softcap=raw.number("attn_logit_softcapping", None, low=1e-6))
    return one.replace(order="sandwich", attention=scores)


def capped(raw: Raw, head: HeadKind, layers: tuple[LayerConfig, ...]) -> ModelConfig:
    """The model around such layers, its logits capped if the file says so."""
    model = decoder(raw, head, layers, scale=raw.integer("hidden_size") ** 0.5)
    if not isinstance(model.head, LanguageHeadConfig):
        return model
    return model.replace(head=model.head.replace(softcap=raw.number("final_logit_softcapping", None, low=1e-6)))


def config(raw: Raw, head: HeadKind) -> ModelConfig:
    raw.one_of("use_bidirectional_attention", (False,), False)
    return capped(raw, head, tuple(sandwich_layer(raw, kind) for kind in layer_types(raw, lambda i: i % 2 == 1)))


FAMILY = llama_like(
    "gemma2",
    "Gemma 2",
    config,
    {
        "gemma2": {
            "head_dim": 16,
            "query_pre_attn_scalar": 12,
            "sliding_window": 4,
            "attn_logit_softcapping": 2.0,
            "final_logit_softcapping": 3.0,
        },
        "gemma2 uncapped": {
            "head_dim": 8,
            "sliding_window": 3,
            "attn_logit_softcapping": None,
            "final_logit_softcapping": None,
            "layer_types": ["full_attention", "sliding_attention", "sliding_attention"],
        },
    },
    classes=architectures(
        "Gemma2", "model.", "ForCausalLM", "Model", "ForSequenceClassification", "ForTokenClassification"
    ),
    defaults={
        **DEFAULTS,
        "num_key_value_heads": 4,
        "hidden_activation": "gelu_pytorch_tanh",
        "query_pre_attn_scalar": 256,
        "sliding_window": 4096,
        "attn_logit_softcapping": 50.0,
        "final_logit_softcapping": 30.0,
    },
    backbone=lambda raw: backbone(raw, SANDWICH),
)
