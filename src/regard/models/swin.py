"""Swin (2103.14030): windows of patches, shifted in every second layer; four patches merge between stages."""

from __future__ import annotations

from regard.config import (
    FeedForwardConfig,
    HeadConfig,
    InitConfig,
    LayerConfig,
    ModelConfig,
    NormConfig,
    StackConfig,
    TowerConfig,
)
from regard.config.vision import PatchClassifierConfig, PoolConfig, PooledHeadConfig
from regard.models._windows import StagesConfig, WholePatchesConfig, WindowAttentionConfig
from regard.models.base import Architecture, Family, HeadKind, Raw, Rule
from regard.models.common import deepening, head_dim

DEFAULTS = {"image_size": 224, "patch_size": 4, "embed_dim": 96, "depths": [2, 2, 6, 2], "num_heads": [3, 6, 12, 24]}
PARTS = {"query": "attn.fn.q", "key": "attn.fn.k", "value": "attn.fn.v"}


def _numbers(raw: Raw, name: str) -> list[int]:
    found = raw.items(name)
    if not 1 <= len(found) <= 16 or not all(isinstance(n, int) and 1 <= n <= 1024 for n in found):
        raise ValueError(f"{raw.where}: {name} is {found!r:.80}; allowed: 1 to 16 integers from 1 to 1024")
    return found


def _stage(raw: Raw, dim: int, depth: int, heads: int) -> StackConfig:
    """Layers of one width; every second one is shifted by half a window."""
    window, bias = raw.integer("window_size", 7, high=1024), raw.flag("qkv_bias", True)
    attention = WindowAttentionConfig(
        num_heads=heads,
        head_dim=head_dim(raw, dim, heads),
        bias=(bias, bias, bias, True),
        dropout=raw.rate("attention_probs_dropout_prob"),
        window=window,
    )
    hidden = int(raw.number("mlp_ratio", 4.0, low=0.01, high=1024) * dim)
    layers = tuple(
        LayerConfig(
            norm=NormConfig(eps=raw.number("layer_norm_eps", 1e-5)),
            dropout=raw.rate("hidden_dropout_prob"),
            attention=attention.replace(shift=window // 2 if i % 2 else 0),
            feed_forward=FeedForwardConfig(hidden_dim=hidden, activation=raw.activation("hidden_act", "gelu")),
        )
        for i in range(depth)
    )
    return StackConfig(dim=dim, layers=layers)


def config(raw: Raw, kind: HeadKind) -> ModelConfig:
    raw = raw.over(DEFAULTS)
    raw.one_of("use_absolute_embeddings", (False,), False)
    dim, depths, heads = raw.integer("embed_dim"), _numbers(raw, "depths"), _numbers(raw, "num_heads")
    if len(depths) != len(heads):
        raise ValueError(f"{raw.where}: num_heads has {len(heads)} numbers; allowed: {len(depths)}, as depths has")
    front = WholePatchesConfig(
        dim=dim,
        size=raw.size("image_size"),
        patch=raw.size("patch_size"),
        channels=raw.integer("num_channels", 3),
        positions="none",
        norm=NormConfig(),
        dropout=raw.rate("hidden_dropout_prob"),
    )
    stages = tuple(_stage(raw, dim * 2**i, *sizes) for i, sizes in enumerate(zip(depths, heads, strict=True)))
    stages = deepening(raw, stages, 0.1)
    stack = StagesConfig(
        dim=stages[-1].dim, layers=(), stages=stages, final_norm=NormConfig(eps=raw.number("layer_norm_eps", 1e-5))
    )
    head: HeadConfig = PooledHeadConfig(pool=PoolConfig(token="mean"))
    if kind == "classification":
        head = PatchClassifierConfig(num_labels=len(raw.labels()))
    return ModelConfig(
        encoder=TowerConfig(front=front, stack=stack),
        head=head,
        init=InitConfig(std=raw.number("initializer_range", 0.02, low=0)),
    )


def backbone(raw: Raw) -> list[Rule]:
    disk, ours = "encoder.layers.*.blocks.*.", "encoder.stack.stages.*.layers.*."
    table = f"{ours}attn.fn.table.weight"
    newer = {f"attention.{p}_proj": f"attn.fn.{q}" for p, q in zip("qkvo", ("q", "k", "v", "out"), strict=True)}
    older = {f"attention.self.{name}": part for name, part in PARTS.items()} | {"attention.output.dense": "attn.fn.out"}
    older |= {"intermediate.dense": "ffn.fn.up", "output.dense": "ffn.fn.down"}
    older |= {"layernorm_before": "attn.norm", "layernorm_after": "ffn.norm"}
    newer |= {"mlp.fc1": "ffn.fn.up", "mlp.fc2": "ffn.fn.down"}
    return [
        Rule("embeddings.patch_embeddings.projection.@", "encoder.front.proj.@"),
        Rule("embeddings.norm.@", "encoder.front.norm.@"),
        Rule("embeddings.mask_token"),  # from pretraining by hidden patches
        *(Rule(f"{disk}{name}.@", f"{ours}{part}.@") for name, part in older.items()),
        *(Rule(f"{disk}{name}.@", f"{ours}{part}.@", read_only=True) for name, part in newer.items()),
        Rule(f"{disk}attention.self.relative_position_bias_table", table),
        Rule(f"{disk}attention.relative_position_bias.relative_position_bias_table", table, read_only=True),
        Rule(f"{disk}attention.self.relative_position_index"),
        Rule("encoder.layers.*.downsample.norm.@", "encoder.stack.merges.*.norm.@"),
        Rule("encoder.layers.*.downsample.reduction.weight", "encoder.stack.merges.*.proj.weight"),
        Rule("layernorm.@", "encoder.stack.norm.@"),
    ]


def heads(raw: Raw, kind: HeadKind) -> list[Rule]:
    return [Rule("classifier.@", "head.out.@")] if kind == "classification" else []


TINY = {"model_type": "swin", "image_size": 64, "patch_size": 4, "embed_dim": 16, "depths": [2, 2], "num_heads": [2, 4]}
TINY |= {"window_size": 4}
FAMILY = Family(
    name="swin",
    title="Swin",
    model_types=("swin",),
    architectures={
        "SwinModel": Architecture("features"),
        "SwinForImageClassification": Architecture("classification", "swin."),
    },
    reads=("image",),
    config=config,
    backbone=backbone,
    heads=heads,
    tiny={
        "swin": {**TINY, "num_labels": 5},
        "swin of odd sizes": {**TINY, "image_size": 52, "window_size": 3, "depths": [1, 2, 2], "num_heads": [1, 2, 4]}
        | {"qkv_bias": False, "mlp_ratio": 2.0, "patch_size": 4},
    },
)
