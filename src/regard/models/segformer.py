"""SegFormer (2105.15203): overlapping patches in four stages, attention to reduced keys, no positions but those that
convolutions tell; linears over the maps of all stages label every place."""

from __future__ import annotations

from typing import Any

from regard.config import (
    AttentionConfig,
    HeadConfig,
    InitConfig,
    LayerConfig,
    ModelConfig,
    NormConfig,
    StackConfig,
    TowerConfig,
)
from regard.config.pyramid import (
    MapFeaturesConfig,
    MixFeedForwardConfig,
    OverlapPatchesConfig,
    PyramidConfig,
    ReducedAttentionConfig,
    SemanticHeadConfig,
    least_side,
)
from regard.config.vision import PatchClassifierConfig, PoolConfig, PooledHeadConfig
from regard.models.base import Architecture, Family, HeadKind, Raw, Rule
from regard.models.common import deepening, head_dim

ROWS: dict[str, Any] = {"patch_sizes": [7, 3, 3, 3], "strides": [4, 2, 2, 2], "hidden_sizes": [32, 64, 160, 256]}
ROWS |= {"depths": [2, 2, 2, 2], "num_attention_heads": [1, 2, 5, 8], "sr_ratios": [8, 4, 2, 1]}
ROWS |= {"mlp_ratios": [4, 4, 4, 4]}
DEFAULTS = {"num_encoder_blocks": 4, **ROWS}
NORM = NormConfig()  # the reference reads no layer_norm_eps


def _stages(raw: Raw) -> list[Raw]:
    """What config.json says of each stage."""
    count = raw.integer("num_encoder_blocks", high=16)
    for name in ROWS:
        if len(raw.items(name)) < count:
            raise ValueError(f"{raw.where}: {name} is {raw.items(name)!r:.80}; allowed: {count} numbers, one a stage")
    rows = [{name: raw.items(name)[i] for name in ROWS} for i in range(count)]
    return [Raw({**raw.data, **row}, f"{raw.where}: stage {i}") for i, row in enumerate(rows)]


def _stack(raw: Raw) -> StackConfig:
    dim, heads, ratio = raw.integer("hidden_sizes"), raw.integer("num_attention_heads"), raw.integer("sr_ratios")
    dropout = raw.rate("hidden_dropout_prob")
    attention = AttentionConfig(
        num_heads=heads, head_dim=head_dim(raw, dim, heads), dropout=raw.rate("attention_probs_dropout_prob")
    )
    act, hidden = raw.activation("hidden_act", "gelu"), int(dim * raw.number("mlp_ratios", low=0.01, high=1024))
    mix = MixFeedForwardConfig(hidden_dim=hidden, activation=act, dropout=dropout)
    reduced = ReducedAttentionConfig(**vars(attention), ratio=ratio) if ratio > 1 else attention
    layer = LayerConfig(norm=NORM, attention=reduced, feed_forward=mix, dropout=dropout)
    return StackConfig(dim=dim, layers=(layer,) * raw.layers("depths"), final_norm=NORM)


def _patches(raw: Raw, channels: int, least: int = 1) -> OverlapPatchesConfig:
    dim, patch = raw.integer("hidden_sizes"), (raw.integer("patch_sizes", high=1024),) * 2
    size, stride = (max(*patch, least),) * 2, (raw.integer("strides", high=1024),) * 2  # without positions any size
    return OverlapPatchesConfig(
        dim=dim, size=size, patch=patch, stride=stride, channels=channels, norm=NORM, least=(least, least)
    )


def config(raw: Raw, kind: HeadKind) -> ModelConfig:
    raw = raw.over(DEFAULTS)
    stages = _stages(raw)
    stacks = deepening(raw, [_stack(stage) for stage in stages], 0.1)
    widths = tuple(stack.dim for stack in stacks)
    between = tuple(_patches(stage, width) for stage, width in zip(stages[1:], widths, strict=False))
    least = least_side(
        [tuple(stage.integer(name) for name in ("patch_sizes", "strides", "sr_ratios")) for stage in stages]
    )
    labels, pool = len(raw.labels()), PoolConfig(token="mean")
    head: HeadConfig = (MapFeaturesConfig if raw.flag("reshape_last_stage", True) else PooledHeadConfig)(pool=pool)
    if kind == "classification":
        head = PatchClassifierConfig(num_labels=labels)
    elif kind == "semantic-segmentation":
        dim, dropout = raw.integer("decoder_hidden_size", 256), raw.rate("classifier_dropout_prob", 0.1)
        head = SemanticHeadConfig(num_labels=labels, widths=widths, dim=dim, dropout=dropout)
    front = _patches(stages[0], raw.integer("num_channels", 3), least)
    stack = PyramidConfig(dim=widths[-1], layers=(), stages=stacks, between=between)
    std = raw.number("initializer_range", 0.02, low=0)
    return ModelConfig(encoder=TowerConfig(front=front, stack=stack), head=head, init=InitConfig(std=std))


OURS = "attn.fn.q attn.fn.k attn.fn.v attn.fn.out attn.fn.reduce attn.fn.reduce_norm attn.norm ffn.norm"
OURS += " ffn.fn.up ffn.fn.mix ffn.fn.down"
OLDER = "attention.self.query attention.self.key attention.self.value attention.output.dense attention.self.sr"
OLDER += " attention.self.layer_norm layer_norm_1 layer_norm_2 mlp.dense1 mlp.dwconv.dwconv mlp.dense2"
NEWER = "attention.q_proj attention.k_proj attention.v_proj attention.o_proj"
NEWER += " attention.sequence_reduction.sequence_reduction attention.sequence_reduction.layer_norm"
NEWER += " layernorm_before layernorm_after mlp.fc1 mlp.dwconv.dwconv mlp.fc2"
HEAD = {"linear_c.*.proj.@": "proj.*.@", "linear_fuse.weight": "fuse.weight", "classifier.@": "out.@"}
HEAD |= {"batch_norm.@": "norm.@", "batch_norm.running_mean": "norm.mean", "batch_norm.running_var": "norm.variance"}


def backbone(raw: Raw) -> list[Rule]:
    ours, rules = "encoder.stack.stages.*.", []
    older = ("encoder.patch_embeddings.{}.", "encoder.block.*.*.", "encoder.layer_norm.*.@", OLDER)
    newer = ("stages.{}.patch_embeddings.", "stages.*.blocks.*.", "stages.*.layer_norm.@", NEWER)
    for patches, block, norm, names in (older, newer):
        pairs = [(norm, f"{ours}norm.@")]
        pairs += [(f"{block}{a}.@", f"{ours}layers.*.{b}.@") for a, b in zip(names.split(), OURS.split(), strict=True)]
        for i in range(raw.over(DEFAULTS).integer("num_encoder_blocks", high=16)):
            disk, place = patches.format(i), f"encoder.stack.between.{i - 1}." if i else "encoder.front."
            pairs += [(f"{disk}proj.@", f"{place}proj.@"), (f"{disk}layer_norm.@", f"{place}norm.@")]
        rules += [Rule(theirs, part, read_only=names is NEWER) for theirs, part in pairs]
    return rules


def heads(raw: Raw, kind: HeadKind) -> list[Rule]:
    if kind != "semantic-segmentation":
        return [Rule("classifier.@", "head.out.@")] if kind == "classification" else []
    return [
        *(Rule(f"decode_head.{theirs}", f"head.{part}") for theirs, part in HEAD.items()),
        Rule("decode_head.linear_projections.*.proj.@", "head.proj.*.@", read_only=True),
        Rule("decode_head.batch_norm.num_batches_tracked"),
    ]


TINY: dict[str, Any] = {"model_type": "segformer", "hidden_sizes": [8, 16, 24, 32], "num_attention_heads": [1, 2, 3, 4]}
TINY |= {"mlp_ratios": [2, 2, 2, 2], "decoder_hidden_size": 20, "num_labels": 5}
FAMILY = Family(
    name="segformer",
    title="SegFormer",
    model_types=("segformer",),
    architectures={
        "SegformerModel": Architecture("features"),
        "SegformerForSemanticSegmentation": Architecture("semantic-segmentation", "segformer."),
        "SegformerForImageClassification": Architecture("classification", "segformer."),
    },
    reads=("image",),
    config=config,
    backbone=backbone,
    heads=heads,
    tiny={
        "segformer": TINY,
        "segformer of two stages": {**TINY, "num_encoder_blocks": 2, "depths": [1, 3], "hidden_sizes": [12, 18]}
        | {"sr_ratios": [3, 2], "patch_sizes": [5, 4], "strides": [3, 2], "num_attention_heads": [2, 3]}
        | {"mlp_ratios": [1, 3], "num_channels": 1, "hidden_act": "relu"},
    },
)
