"""Llama 2 and 3 (2307.09288, 2407.21783): pre-norm decoder with RMSNorm, rotary positions, grouped queries, gated SiLU.

Its tree and its rules are the ground on which the later families of this build stand.
"""

from __future__ import annotations

from collections.abc import Callable

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
)
from regard.models.base import Architecture, Family, HeadKind, Raw, Rule
from regard.models.common import architectures, decoder_head, decoder_head_rules, rope

TINY = {
    "model_type": "llama",
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 48,
    "vocab_size": 97,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
SUFFIXES = ("ForCausalLM", "Model", "ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering")


def layer(raw: Raw) -> LayerConfig:
    """One layer as config.json describes it; a family changes what it does otherwise."""
    dim, heads, bias = raw.integer("hidden_size"), raw.integer("num_attention_heads"), raw.flag("attention_bias", False)
    head_dim = raw.integer("head_dim", dim // heads)
    return LayerConfig(
        norm=NormConfig(kind="rms", eps=raw.number("rms_norm_eps", 1e-6)),
        attention=AttentionConfig(
            num_heads=heads,
            head_dim=head_dim,
            num_kv_heads=raw.integer("num_key_value_heads", heads),
            bias=(bias,) * 4,
            rope=rope(raw, head_dim),
            dropout=raw.rate("attention_dropout"),
        ),
        feed_forward=FeedForwardConfig(
            hidden_dim=raw.integer("intermediate_size"),
            activation=raw.activation("hidden_act", "silu"),
            gated=True,
            bias=raw.flag("mlp_bias", False),
        ),
    )


def decoder(
    raw: Raw, head: HeadKind, layers: tuple[LayerConfig, ...], *, scale: float = 1.0, tied: bool = False
) -> ModelConfig:
    """The model around such layers. `tied` is what the family's reference assumes when the file does not say."""
    dim, vocab_size = raw.integer("hidden_size"), raw.integer("vocab_size")
    front = EmbeddingConfig(vocab_size=vocab_size, dim=dim, scale=scale)
    stack = StackConfig(dim=dim, layers=layers, mask=Causal(), final_norm=layers[0].norm)
    tied = head == "causal-lm" and raw.flag("tie_word_embeddings", tied)
    return ModelConfig(
        decoder=TowerConfig(front=front, stack=stack),
        head=decoder_head(raw, head, vocab_size),
        tied=(("head.out.weight", "decoder.front.token.weight"),) if tied else (),
        tokens=raw.tokens(bos=1, eos=2),
        init=InitConfig(std=raw.number("initializer_range", 0.02)),
        max_length=raw.integer("max_position_embeddings", 2048),
    )


def config(raw: Raw, head: HeadKind) -> ModelConfig:
    return decoder(raw, head, (layer(raw),) * raw.layers("num_hidden_layers"))


def backbone(raw: Raw) -> list[Rule]:
    disk, ours = "layers.*.", "decoder.stack.layers.*."
    return [
        Rule("embed_tokens.weight", "decoder.front.token.weight"),
        *(Rule(f"{disk}self_attn.{p}_proj.@", f"{ours}attn.fn.{p}.@") for p in "qkv"),
        Rule(f"{disk}self_attn.o_proj.@", f"{ours}attn.fn.out.@"),
        *(Rule(f"{disk}self_attn.{p}_norm.weight", f"{ours}attn.fn.{p}_norm.weight") for p in "qk"),
        *(Rule(f"{disk}mlp.{p}_proj.@", f"{ours}ffn.fn.{p}.@") for p in ("gate", "up", "down")),
        *norm_rules("input_layernorm", "post_attention_layernorm"),
        Rule("norm.weight", "decoder.stack.norm.weight"),
        Rule(f"{disk}self_attn.rotary_emb.inv_freq"),
    ]


def norm_rules(attention: str, feed_forward: str) -> list[Rule]:
    """What a layer's two norms are called on disk."""
    disk, ours = "layers.*.", "decoder.stack.layers.*."
    return [
        Rule(f"{disk}{attention}.weight", f"{ours}attn.norm.weight"),
        Rule(f"{disk}{feed_forward}.weight", f"{ours}ffn.norm.weight"),
    ]


def heads(raw: Raw, kind: HeadKind) -> list[Rule]:
    return decoder_head_rules(kind)


def llama_like(
    name: str,
    title: str,
    classes: str,
    config: Callable[[Raw, HeadKind], ModelConfig],
    tiny: dict[str, dict[str, object]],
    *,
    model_types: tuple[str, ...] = (),
    backbone: Callable[[Raw], list[Rule]] = backbone,
    suffixes: tuple[str, ...] = SUFFIXES,
    odd: dict[str, Architecture] | None = None,
) -> Family:
    """A family that keeps Llama's names on disk; `tiny` holds what differs from Llama's tiny config.

    `odd` are class names whose keys have another prefix.
    """
    kinds = model_types or (name,)
    return Family(
        name=name,
        title=title,
        model_types=kinds,
        architectures=architectures(classes, "model.", *suffixes) | (odd or {}),
        config=config,
        backbone=backbone,
        heads=heads,
        tiny={variant: {**TINY, "model_type": kinds[0], **fields} for variant, fields in tiny.items()},
    )


LLAMA3 = {"rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0}
FAMILY = llama_like(
    "llama",
    "Llama 2, 3",
    "Llama",
    config,
    {
        "llama": {},
        "llama 3.1": {
            "rope_parameters": {**LLAMA3, "high_freq_factor": 4.0, "original_max_position_embeddings": 16},
            "tie_word_embeddings": True,
        },
        "llama with biases": {"attention_bias": True, "mlp_bias": True, "num_key_value_heads": 1},
    },
    odd={"LlamaForQuestionAnswering": Architecture("question-answering", "transformer.")},
)
