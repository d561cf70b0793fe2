"""Llama 2 and 3 (2307.09288, 2407.21783): pre-norm decoder, RMSNorm, rotary positions, grouped queries, gated SiLU."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from regard.config import (
    AttentionConfig,
    Causal,
    EmbeddingConfig,
    FeedForwardConfig,
    InitConfig,
    LayerConfig,
    ModelConfig,
    NormConfig,
    StackConfig,
    TowerConfig,
    Window,
)
from regard.models.base import Architecture, Family, HeadKind, Raw, Rule
from regard.models.common import architectures, decoder_head, decoder_head_rules, rope

TINY = {
    "model_type": "llama",
    **{"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2},
    **{"intermediate_size": 48, "vocab_size": 97, "max_position_embeddings": 64},
    **{"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2},
}
SUFFIXES = ("ForCausalLM", "Model", "ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering")
DISK, OURS = "layers.*.", "decoder.stack.layers.*."
PRE_NORMS = {"input_layernorm": "attn.norm", "post_attention_layernorm": "ffn.norm"}


def attention(raw: Raw, layer_type: str = "full_attention") -> AttentionConfig:
    """Attention as config.json describes it; "sliding_attention" looks back through `sliding_window`, if it is set."""
    heads, bias = raw.integer("num_attention_heads"), raw.flag("attention_bias", False)
    head_dim = raw.integer("head_dim", raw.integer("hidden_size") // heads)
    sliding = layer_type == "sliding_attention" and raw.has("sliding_window")
    return AttentionConfig(
        num_heads=heads,
        head_dim=head_dim,
        num_kv_heads=raw.integer("num_key_value_heads", heads),
        bias=(bias,) * 4,
        rope=rope(raw, head_dim, layer_type=layer_type),
        mask=Causal() & Window(raw.integer("sliding_window")) if sliding else None,
        dropout=raw.rate("attention_dropout"),
    )


def layer(raw: Raw, attention: AttentionConfig) -> LayerConfig:
    """One layer around such attention; a family changes what it does otherwise."""
    return LayerConfig(
        norm=NormConfig(kind="rms", eps=raw.number("rms_norm_eps", 1e-6)),
        attention=attention,
        feed_forward=FeedForwardConfig(
            hidden_dim=raw.integer("intermediate_size"),
            activation=raw.activation("hidden_act", "silu"),
            gated=True,
            bias=raw.flag("mlp_bias", False),
        ),
    )


def decoder(raw: Raw, head: HeadKind, layers: tuple[LayerConfig, ...], *, scale: float = 1.0) -> ModelConfig:
    """The model around such layers; `scale` multiplies token vectors."""
    dim, vocab_size = raw.integer("hidden_size"), raw.integer("vocab_size")
    front = EmbeddingConfig(vocab_size=vocab_size, dim=dim, scale=scale)
    stack = StackConfig(dim=dim, layers=layers, mask=Causal(), final_norm=layers[0].norm)
    tied = head == "causal-lm" and raw.flag("tie_word_embeddings", False)
    drop = raw.rate("classifier_dropout", raw.rate("hidden_dropout", 0.1))
    return ModelConfig(
        decoder=TowerConfig(front=front, stack=stack),
        head=decoder_head(raw, head, vocab_size, dropout=drop),
        tied=(("head.out.weight", "decoder.front.token.weight"),) if tied else (),
        tokens=raw.tokens(),
        init=InitConfig(std=raw.number("initializer_range", 0.02)),
        max_length=raw.integer("max_position_embeddings", 2048),
    )


def config(raw: Raw, head: HeadKind) -> ModelConfig:
    return decoder(raw, head, (layer(raw, attention(raw)),) * raw.layers("num_hidden_layers"))


def trunk(norms: Mapping[str, str] = PRE_NORMS) -> list[Rule]:
    """Keys of all but the projections that some families fuse; `norms` tells which norm is which, disk to ours."""
    return [
        Rule("embed_tokens.weight", "decoder.front.token.weight"),
        Rule(f"{DISK}self_attn.o_proj.@", f"{OURS}attn.fn.out.@"),
        Rule(f"{DISK}mlp.down_proj.@", f"{OURS}ffn.fn.down.@"),
        *(Rule(f"{DISK}{disk}.weight", f"{OURS}{ours}.weight") for disk, ours in norms.items()),
        Rule("norm.weight", "decoder.stack.norm.weight"),
        Rule(f"{DISK}self_attn.rotary_emb.inv_freq"),
    ]


def backbone(raw: Raw, norms: Mapping[str, str] = PRE_NORMS) -> list[Rule]:
    return [
        *trunk(norms),
        *(Rule(f"{DISK}self_attn.{p}_proj.@", f"{OURS}attn.fn.{p}.@") for p in "qkv"),
        *(Rule(f"{DISK}self_attn.{p}_norm.weight", f"{OURS}attn.fn.{p}_norm.weight") for p in "qk"),
        *(Rule(f"{DISK}mlp.{p}_proj.@", f"{OURS}ffn.fn.{p}.@") for p in ("gate", "up")),
    ]


def llama_like(
    name: str,
    title: str,
    config: Callable[[Raw, HeadKind], ModelConfig],
    tiny: Mapping[str, Mapping[str, object]],
    *,
    classes: Mapping[str, Architecture],
    defaults: Mapping[str, Any],
    model_types: tuple[str, ...] = (),
    backbone: Callable[[Raw], list[Rule]] = backbone,
) -> Family:
    """A family with Llama's names. `defaults`: what its reference assumes for absent fields; `tiny`: what differs."""
    kinds = model_types or (name,)
    return Family(
        name=name,
        title=title,
        model_types=kinds,
        architectures=classes,
        config=lambda raw, head: config(raw.over(defaults), head),
        backbone=lambda raw: backbone(raw.over(defaults)),
        heads=lambda raw, kind: decoder_head_rules(kind),
        tiny={variant: {**TINY, "model_type": kinds[0], **fields} for variant, fields in tiny.items()},
    )


LINEAR = {"rope_type": "linear", "factor": 3.0}
LLAMA3 = {"rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
FAMILY = llama_like(
    "llama",
    "Llama 2, 3",
    config,
    {
        "llama": {},
        "llama 3.1": {"rope_parameters": {**LLAMA3, "original_max_position_embeddings": 16}},
        "llama linear": {"tie_word_embeddings": True, "rope_parameters": {**LINEAR, "rope_theta": 1000.0}},
        "llama dynamic": {"max_position_embeddings": 9, "rope_parameters": {**LINEAR, "rope_type": "dynamic"}},
        "llama with biases": {"attention_bias": True, "mlp_bias": True, "num_key_value_heads": 1},
    },
    classes=architectures("Llama", "model.", *SUFFIXES)
    | {"LlamaForQuestionAnswering": Architecture("question-answering", "transformer.")},
    defaults={"bos_token_id": 1, "eos_token_id": 2},
)
