"""MaskFormer (2107.06278): queries look at the coarsest map, and each finds a class and the pixels that it covers."""

from __future__ import annotations

import dataclasses
from typing import Any

from regard.config import Config, HeadConfig, InitConfig, StackConfig, TowerConfig
from regard.config.vision import QueriedConfig
from regard.models import detr, swin
from regard.models._masks import (
    MasksHeadConfig,
    NormedStagesConfig,
    PixelsHeadConfig,
    SeenPatchesConfig,
    ShiftedAttentionConfig,
)
from regard.models._queries import layer_rules, queries, under
from regard.models._residual import residual_rules, residuals
from regard.models._windows import StagesConfig, WindowAttentionConfig
from regard.models.base import Architecture, Family, HeadKind, Raw, Rule

SWIN = {"depths": [2, 2, 18, 2], "embed_dim": 128, "num_heads": [4, 8, 16, 32], "window_size": 12, "image_size": 384}
"""What the reference assumes where a file says nothing of the tower that sees."""


def _as(kind: type[Config], config: Config, **changes: Any) -> Any:
    """A config as another kind, which has the same fields."""
    return kind(**{field.name: getattr(config, field.name) for field in dataclasses.fields(config)} | changes)


def _by_convolutions(raw: Raw) -> bool:
    return raw.sub("backbone_config").one_of("model_type", ("swin", "maskformer-swin", "resnet"), "swin") == "resnet"


def _tower(raw: Raw) -> tuple[TowerConfig, tuple[int, ...]]:
    """What sees, and the channels of its maps."""
    part = raw.sub("backbone_config") if raw.has("backbone_config") else Raw(SWIN, raw.where)
    if _by_convolutions(raw):
        maps = residuals(part, frozen=False)
        widths = maps.widths
        tower = TowerConfig(front=maps, stack=StackConfig(dim=widths[-1], layers=()))
    else:
        found = swin.config(part, "features").encoder
        assert found is not None and isinstance(found.stack, StagesConfig)
        stages = tuple(_shifted(stage) for stage in found.stack.stages)
        stack, widths = (
            _as(NormedStagesConfig, found.stack, stages=stages, final_norm=None),
            tuple(s.dim for s in stages),
        )
        tower = TowerConfig(front=_as(SeenPatchesConfig, found.front), stack=stack)
    all_stages = [f"stage{i + 1}" for i in range(len(widths))]
    if part.items("out_features", all_stages) != all_stages and part.data.get("model_type") != "swin":
        raise ValueError(f"{part.where}: out_features is {part.data['out_features']!r:.80}; allowed: {all_stages}")
    return tower, widths


def _shifted(stage: StackConfig) -> StackConfig:
    layers = []
    for layer in stage.layers:
        assert isinstance(layer.attention, WindowAttentionConfig)
        layers.append(layer.replace(attention=_as(ShiftedAttentionConfig, layer.attention)))
    return stage.replace(layers=tuple(layers))


def _decoder(raw: Raw) -> Raw:
    part = raw.sub("decoder_config")
    part.one_of("model_type", ("detr",), "detr")
    return part.over(detr.DEFAULTS)


def config(raw: Raw, kind: HeadKind) -> QueriedConfig:
    encoder, widths = _tower(raw)
    inner, out = raw.integer("fpn_feature_size", 256, high=2**16), raw.integer("mask_feature_size", 256, high=2**16)
    if inner % 32:
        raise ValueError(f"{raw.where}: fpn_feature_size is {inner}; allowed: a multiple of 32, for norms of 32 groups")
    head: HeadConfig = PixelsHeadConfig(widths=widths, inner=inner, out=out)
    if kind != "features":
        head = MasksHeadConfig(widths=widths, inner=inner, out=out, num_labels=len(raw.labels()))
    return QueriedConfig(
        encoder=encoder,
        decoder=queries(_decoder(raw), widths[-1]),
        head=head,
        init=InitConfig(scheme="xavier", std=raw.number("init_std", 0.02, low=0)),
    )


def _tower_rules(raw: Raw, disk: str) -> list[Rule]:
    if _by_convolutions(raw):
        return under(residual_rules(raw.sub("backbone_config"), "encoder.front."), disk)
    rules = [rule for rule in swin.backbone(raw.sub("backbone_config")) if rule.disk != "layernorm.@"]
    return [
        *under(rules, f"{disk}model."),
        Rule(f"{disk}model.layernorm.@"),  # every stage has a norm of its own
        Rule(f"{disk}hidden_states_norms.*.@", "encoder.stack.norms.*.@"),
    ]


def backbone(raw: Raw) -> list[Rule]:
    pixels, ours = "pixel_level_module.decoder.", "head.layers.*."
    names = {f"{pixels}fpn.stem.": "head.first.", f"{pixels}fpn.layers.*.proj.": f"{ours}proj."}
    names[f"{pixels}fpn.layers.*.block."] = f"{ours}mix."
    rules = [Rule(f"{theirs}0.weight", f"{mine}conv.weight") for theirs, mine in names.items()]
    rules += [Rule(f"{theirs}1.@", f"{mine}norm.@") for theirs, mine in names.items()]
    return [
        *_tower_rules(raw, "pixel_level_module.encoder."),
        *rules,
        Rule(f"{pixels}mask_projection.@", "head.out.@"),
        *under(layer_rules("decoder.", "decoder."), "transformer_module."),
        Rule("transformer_module.decoder.layernorm.@", "decoder.stack.norm.@"),
        Rule("transformer_module.queries_embedder.weight", "decoder.front.query.weight"),
        Rule("transformer_module.input_projection.@", "decoder.front.proj.@"),
    ]


def heads(raw: Raw, kind: HeadKind) -> list[Rule]:
    if kind == "features":
        return []
    return [
        Rule("class_predictor.@", "head.labels.@"),
        Rule("mask_embedder.*.0.@", "head.masks.layers.*.@"),
        Rule("criterion.empty_weight"),  # of the loss
    ]


SEES = {**swin.TINY, "depths": [2, 1, 2], "num_heads": [2, 4, 4]}
SEES |= {"model_type": "maskformer-swin", "out_features": ["stage1", "stage2", "stage3"]}
TINY = {"model_type": "maskformer", "decoder_config": detr.TINY, "backbone_config": SEES, "num_labels": 3}
TINY |= {"fpn_feature_size": 32, "mask_feature_size": 24}
LIKE = {**detr.TINY, "d_model": 40, "decoder_attention_heads": 2}
FAMILY = Family(
    name="maskformer",
    title="MaskFormer",
    model_types=("maskformer",),
    architectures={
        "MaskFormerModel": Architecture("features"),
        "MaskFormerForInstanceSegmentation": Architecture("universal-segmentation", "model."),
    },
    reads=("image",),
    config=config,
    backbone=backbone,
    heads=heads,
    tiny={
        "maskformer": TINY,
        "maskformer of convolutions": {**TINY, "backbone_config": detr.STAGES, "decoder_config": LIKE},
    },
)
