"""What families of image-text pairs share: the towers of CLIP's code base, and their keys."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from regard.config import (
    AttentionConfig,
    EmbeddingConfig,
    FeedForwardConfig,
    HeadConfig,
    InitConfig,
    LayerConfig,
    LearnedPositions,
    Mask,
    ModelConfig,
    NormConfig,
    StackConfig,
    TokenIds,
    TowerConfig,
)
from regard.config.vision import ContrastiveHeadConfig, DualConfig, PatchesConfig
from regard.models.base import Raw, Rule
from regard.models.common import head_dim

LAYER_NAMES = (
    ("self_attn.q_proj", "attn.fn.q"),
    ("self_attn.k_proj", "attn.fn.k"),
    ("self_attn.v_proj", "attn.fn.v"),
    ("self_attn.out_proj", "attn.fn.out"),
    ("layer_norm1", "attn.norm"),
    ("mlp.fc1", "ffn.fn.up"),
    ("mlp.fc2", "ffn.fn.down"),
    ("layer_norm2", "ffn.norm"),
)


def side(raw: Raw, name: str, defaults: Mapping[str, Any]) -> Raw:
    """The config of one tower, which older files repeat under another name, and there in full."""
    return raw.sub(f"{name}_config_dict" if raw.has(f"{name}_config_dict") else f"{name}_config").over(defaults)


def stack(raw: Raw, *, mask: Mask | None = None, normed: bool) -> StackConfig:
    """Pre-norm layers, the last state normed or not."""
    dim, heads = raw.integer("hidden_size"), raw.integer("num_attention_heads")
    layer = LayerConfig(
        norm=NormConfig(eps=raw.number("layer_norm_eps")),
        attention=AttentionConfig(
            num_heads=heads, head_dim=head_dim(raw, dim, heads), dropout=raw.rate("attention_dropout")
        ),
        feed_forward=FeedForwardConfig(
            hidden_dim=raw.integer("intermediate_size"), activation=raw.activation("hidden_act", "gelu")
        ),
    )
    layers = (layer,) * raw.layers("num_hidden_layers")
    return StackConfig(dim=dim, layers=layers, mask=mask, final_norm=layer.norm if normed else None)


def text_tower(raw: Raw, *, mask: Mask | None = None) -> TowerConfig:
    """Words and learned positions through a stack that norms its last state."""
    front = EmbeddingConfig(
        vocab_size=raw.integer("vocab_size"),
        dim=raw.integer("hidden_size"),
        positions=LearnedPositions(size=raw.integer("max_position_embeddings")),
    )
    return TowerConfig(front=front, stack=stack(raw, mask=mask, normed=True))


def patches(raw: Raw, **changes: Any) -> PatchesConfig:
    """The front-end for images."""
    front = PatchesConfig(
        dim=raw.integer("hidden_size"),
        size=raw.size("image_size"),
        patch=raw.size("patch_size"),
        channels=raw.integer("num_channels", 3),
    )
    return front.replace(**changes)


def single(raw: Raw, tower: TowerConfig, head: HeadConfig, tokens: TokenIds | None = None) -> ModelConfig:
    """One of the towers alone."""
    return ModelConfig(
        encoder=tower,
        head=head,
        tokens=tokens or TokenIds(),
        init=InitConfig(std=raw.number("initializer_range", 0.02, low=0)),
        max_length=raw.integer("max_position_embeddings") if tokens is not None else None,
    )


def pair(text: Raw, text_side: TowerConfig, vision_side: TowerConfig, head: ContrastiveHeadConfig) -> DualConfig:
    """Both towers."""
    return DualConfig(
        vision=vision_side,
        text=text_side,
        head=head,
        tokens=text.tokens(),
        init=InitConfig(std=text.number("initializer_range", 0.02, low=0)),
        max_length=text.integer("max_position_embeddings"),
    )


def tower_rules(disk: str, ours: str) -> list[Rule]:
    """Keys of the layers of a tower."""
    parts = [(f"{disk}encoder.layers.*.{theirs}.@", f"{ours}stack.layers.*.{part}.@") for theirs, part in LAYER_NAMES]
    return [*(Rule(*pair) for pair in parts), Rule(f"{disk}embeddings.position_ids")]


def text_rules(disk: str, ours: str) -> list[Rule]:
    """Keys of a text tower."""
    return [
        Rule(f"{disk}embeddings.token_embedding.weight", f"{ours}front.token.weight"),
        Rule(f"{disk}embeddings.position_embedding.weight", f"{ours}front.position.weight"),
        Rule(f"{disk}final_layer_norm.@", f"{ours}stack.norm.@"),
        *tower_rules(disk, ours),
    ]


def vision_rules(disk: str, ours: str) -> list[Rule]:
    """Keys of a tower for images, but for its tokens and norms."""
    return [
        Rule(f"{disk}embeddings.patch_embedding.@", f"{ours}front.proj.@"),
        Rule(f"{disk}embeddings.position_embedding.weight", f"{ours}front.position.weight"),
        *tower_rules(disk, ours),
    ]


def also_under(prefix: str, rules: list[Rule]) -> list[Rule]:
    """Rules of a tower alone, and the same for older files, where a prefix stands before every key."""
    older = [
        dataclasses.replace(rule, disk=f"{prefix}{key}", read_only=True) for rule in rules for key in rule.disk_keys
    ]
    return rules + older
