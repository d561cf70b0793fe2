"""Phi-3, Phi-3.5 and Phi-4 (2404.14219): Llama with fused projections on disk and LongRoPE for long contexts."""

from __future__ import annotations

from regard.config import ModelConfig
from regard.models.base import HeadKind, Raw, Rule, Split
from regard.models.common import architectures
from regard.models.llama import DISK, OURS, attention, decoder, layer, llama_like, trunk


def renamed(raw: Raw) -> Raw:
    """The file with LongRoPE under its own name: the first ones called it "yarn"."""
    data = dict(raw.data)
    for name in ("rope_parameters", "rope_scaling"):
        settings = raw.sub(name).data
        data[name] = {
            k: "longrope" if (k, v) in (("type", "yarn"), ("rope_type", "yarn")) else v for k, v in settings.items()
        }
    return Raw({k: v for k, v in data.items() if v != {}}, raw.where)


def config(raw: Raw, head: HeadKind) -> ModelConfig:
    raw = renamed(raw)
    one = layer(raw, attention(raw, "sliding_attention")).replace(dropout=raw.rate("resid_pdrop"))
    return decoder(raw, head, (one,) * raw.layers("num_hidden_layers"))


def backbone(raw: Raw) -> list[Rule]:
    a = attention(renamed(raw))
    sizes = (a.num_heads * a.head_dim, a.kv_heads * a.head_dim, a.kv_heads * a.head_dim)
    qkv = tuple(f"{OURS}attn.fn.{p}.@" for p in "qkv")
    return [
        *trunk(),
        Rule(f"{DISK}self_attn.qkv_proj.@", qkv, (Split(3, sizes),)),
        Rule(f"{DISK}mlp.gate_up_proj.@", (f"{OURS}ffn.fn.gate.@", f"{OURS}ffn.fn.up.@"), (Split(2),)),
    ]


LONG = {"rope_type": "longrope", "short_factor": [1.0, 1.1, 1.3, 2.0], "long_factor": [1.0, 2.0, 4.0, 9.0]}
FAMILY = llama_like(
    "phi3",
    "Phi-3, Phi-3.5, Phi-4",
    config,
    {
        "phi3": {"sliding_window": 4},
        # rows on both sides of the original length, in one batch
        "phi3 long": {"original_max_position_embeddings": 9, "rope_parameters": LONG},
        "phi3 partial": {
            "num_key_value_heads": 4,
            "tie_word_embeddings": True,
            "original_max_position_embeddings": 32,
            "rope_parameters": {
                **LONG,
                "rope_theta": 500.0,
                "partial_rotary_factor": 0.75,
                "short_factor": [1.0, 1.2, 1.5],
                "long_factor": [1.0, 2.0, 4.0],
            },
        },
    },
    classes=architectures(
        "Phi3", "model.", "ForCausalLM", "Model", "ForSequenceClassification", "ForTokenClassification"
    ),
    defaults={
        "max_position_embeddings": 4096,
        "original_max_position_embeddings": 4096,
        "rms_norm_eps": 1e-5,
        "pad_token_id": 32000,
        "bos_token_id": 1,
        "eos_token_id": 32000,
    },
    backbone=backbone,
)
