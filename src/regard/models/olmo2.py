"""OLMo 2 (2501.00656): Llama with norms at the end of each branch, and queries and keys normed over all heads."""

from __future__ import annotations

from regard.config import ModelConfig
from regard.models.base import HeadKind, Raw
from regard.models.common import architectures
from regard.models.llama import attention, backbone, decoder, layer, llama_like


def config(raw: Raw, head: HeadKind) -> ModelConfig:
    one = layer(raw, attention(raw))
    normed = attention(raw).replace(qk_norm=one.norm, qk_norm_over="all")
    return decoder(raw, head, (one.replace(order="branch", attention=normed),) * raw.layers("num_hidden_layers"))


FAMILY = llama_like(
    "olmo2",
    "OLMo 2",
    config,
    {"olmo2": {}, "olmo2 with biases": {"attention_bias": True, "num_key_value_heads": 4, "tie_word_embeddings": True}},
    classes=architectures("Olmo2", "model.", "ForCausalLM", "Model", "ForSequenceClassification"),
    defaults={"rms_norm_eps": 1e-5, "pad_token_id": 1, "eos_token_id": 50279},
    backbone=lambda raw: backbone(
        raw, {"post_attention_layernorm": "attn.norm", "post_feedforward_layernorm": "ffn.norm"}
    ),
)
