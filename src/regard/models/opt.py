"""OPT (2205.01068): decoder, learned positions from row 2 on, ReLU, pre-norm (350M: post-norm and narrow tables)."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from torch import Tensor, nn

from regard.config import (
    AttentionConfig,
    Causal,
    EmbeddingConfig,
    FeedForwardConfig,
    InitConfig,
    LayerConfig,
    LearnedPositions,
    ModelConfig,
    NormConfig,
    StackConfig,
    TowerConfig,
)
from regard.models.base import Family, HeadKind, Raw, Rule
from regard.models.common import architectures, decoder_head, decoder_head_rules, head_dim
from regard.nn import Context, Stack, builds

DEFAULTS = {"pad_token_id": 1, "bos_token_id": 2, "eos_token_id": 2}


@dataclass(frozen=True, kw_only=True)
class NarrowStackConfig(StackConfig):
    """Layers of width `inner`, and a projection to `dim` after the last norm."""

    inner: int


@builds(NarrowStackConfig)
class NarrowStack(Stack):
    """(..., inner) -> (..., dim)."""

    def __init__(self, config: NarrowStackConfig):
        super().__init__(config.replace(dim=config.inner))
        self.proj = nn.Linear(config.inner, config.dim, bias=False)

    def forward(self, x: Tensor, ctx: Context) -> Tensor:
        return self.proj(super().forward(x, ctx))


def config(raw: Raw, head: HeadKind) -> ModelConfig:
    dim, vocab_size, length = (
        raw.integer("hidden_size"),
        raw.integer("vocab_size"),
        raw.integer("max_position_embeddings", 2048),
    )
    heads, drop, bias = raw.integer("num_attention_heads"), raw.rate("dropout", 0.1), raw.flag("enable_bias", True)
    width, pre, norm = raw.integer("word_embed_proj_dim", dim), raw.flag("do_layer_norm_before", True), NormConfig()
    raw.one_of("layer_norm_elementwise_affine", (True,), True)
    layer = LayerConfig(
        norm=norm,
        order="pre" if pre else "post",
        dropout=drop,
        attention=AttentionConfig(
            num_heads=heads, head_dim=head_dim(raw, dim, heads), bias=(bias,) * 4, dropout=raw.rate("attention_dropout")
        ),
        feed_forward=FeedForwardConfig(
            hidden_dim=raw.integer("ffn_dim"), activation=raw.activation("activation_function", "relu"), bias=bias
        ),
    )
    front = EmbeddingConfig(
        vocab_size=vocab_size,
        dim=dim,
        width=width if width != dim else None,
        project="before",
        positions=LearnedPositions(size=length, offset=2),
    )
    final = norm if pre and not raw.flag("_remove_final_layer_norm", False) else None
    layers, leave = (layer,) * raw.layers("num_hidden_layers"), raw.rate("layerdrop")
    stack = StackConfig(dim=dim, layers=layers, mask=Causal(), final_norm=final, layer_drop=leave)
    if width != dim:
        fields = {field.name: getattr(stack, field.name) for field in dataclasses.fields(stack)}
        stack = NarrowStackConfig(**{**fields, "dim": width}, inner=dim)
    tied = head == "causal-lm" and raw.flag("tie_word_embeddings", True)
    return ModelConfig(
        decoder=TowerConfig(front=front, stack=stack),
        head=decoder_head(raw, head, vocab_size),
        tied=(("head.out.weight", "decoder.front.token.weight"),) if tied else (),
        tokens=raw.over(DEFAULTS).tokens(),
        init=InitConfig(std=raw.number("init_std", 0.02)),
        max_length=length,
    )


def backbone(raw: Raw) -> list[Rule]:
    disk, ours = "decoder.layers.*.", "decoder.stack.layers.*."
    return [
        Rule("decoder.embed_tokens.weight", "decoder.front.token.weight"),
        Rule("decoder.embed_positions.weight", "decoder.front.position.weight"),
        Rule("decoder.project_in.weight", "decoder.front.proj.weight"),
        Rule("decoder.project_out.weight", "decoder.stack.proj.weight"),
        *(Rule(f"{disk}self_attn.{p}_proj.@", f"{ours}attn.fn.{p}.@") for p in "qkv"),
        Rule(f"{disk}self_attn.out_proj.@", f"{ours}attn.fn.out.@"),
        Rule(f"{disk}self_attn_layer_norm.@", f"{ours}attn.norm.@"),
        Rule(f"{disk}fc1.@", f"{ours}ffn.fn.up.@"),
        Rule(f"{disk}fc2.@", f"{ours}ffn.fn.down.@"),
        Rule(f"{disk}final_layer_norm.@", f"{ours}ffn.norm.@"),
        Rule("decoder.final_layer_norm.@", "decoder.stack.norm.@"),
    ]


def heads(raw: Raw, kind: HeadKind) -> list[Rule]:
    return decoder_head_rules(kind)


TINY = {
    "model_type": "opt",
    **{"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "ffn_dim": 48, "vocab_size": 97},
    **{"max_position_embeddings": 40, "pad_token_id": 1, "bos_token_id": 2, "eos_token_id": 2},
}
FAMILY = Family(
    name="opt",
    title="OPT",
    model_types=("opt",),
    architectures=architectures(
        "OPT", "model.", "ForCausalLM", "Model", "ForSequenceClassification", "ForQuestionAnswering"
    ),
    config=config,
    backbone=backbone,
    heads=heads,
    tiny={
        "opt": TINY,
        "opt 350m": {**TINY, "do_layer_norm_before": False, "word_embed_proj_dim": 20},
        "opt narrow": {**TINY, "word_embed_proj_dim": 16, "enable_bias": False, "activation_function": "gelu"},
        "opt without final norm": {**TINY, "_remove_final_layer_norm": True, "tie_word_embeddings": False},
    },
)
