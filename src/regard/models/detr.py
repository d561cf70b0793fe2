"""DETR (2005.12872): ResNet's last map through an encoder; queries look at it, and each finds one thing or nothing."""

from __future__ import annotations

from typing import Any

from regard.config import (
    FeaturesHeadConfig,
    HeadConfig,
    InitConfig,
    TowerConfig,
)
from regard.config.vision import BoxesHeadConfig, QueriedConfig
from regard.models._queries import BoxMasksHeadConfig, PlacedMapConfig, layer_rules, layers, queries, under
from regard.models._residual import described, residual_rules, residuals
from regard.models.base import Architecture, Family, HeadKind, Raw, Rule

DEFAULTS: dict[str, Any] = {"d_model": 256, "num_queries": 100, "activation_function": "relu", "dropout": 0.1}
DEFAULTS |= {"encoder_layers": 6, "encoder_attention_heads": 8, "encoder_ffn_dim": 2048}
DEFAULTS |= {"decoder_layers": 6, "decoder_attention_heads": 8, "decoder_ffn_dim": 2048}


def config(raw: Raw, kind: HeadKind) -> QueriedConfig:
    raw = raw.over(DEFAULTS)
    raw.one_of("position_embedding_type", ("sine",), "sine")
    dim, maps = raw.integer("d_model"), residuals(described(raw), frozen=True)
    decoder, count = queries(raw, dim), raw.integer("num_queries")
    labels = {"num_labels": len(raw.labels()), "queries": count}
    head: HeadConfig = FeaturesHeadConfig() if kind == "features" else BoxesHeadConfig(**labels)
    if kind == "universal-segmentation":
        heads = raw.integer("encoder_attention_heads")
        steps = (dim + heads, *(dim // 2**i for i in range(1, 5)))
        if dim % 16 or len(maps.widths) != 4 or any(n % min(8, n) for n in steps):
            raise ValueError(
                f"{raw.where}: d_model is {dim}, with {heads} encoder_attention_heads and {len(maps.widths)} stages; "
                "allowed for masks: 4 stages, and what norms over groups of 8 channels can share out, as 256 with 8"
            )
        head = BoxMasksHeadConfig(
            **labels,
            num_heads=heads,
            widths=maps.widths[-2::-1],
            activation=raw.activation("activation_function", "relu"),
        )
    front = PlacedMapConfig(maps=maps, dim=dim, dropout=raw.rate("dropout"))
    return QueriedConfig(
        encoder=TowerConfig(front=front, stack=layers(raw, "encoder")),
        decoder=decoder,
        head=head,
        init=InitConfig(scheme="xavier", std=raw.number("init_std", 0.02, low=0)),
    )


def backbone(raw: Raw) -> list[Rule]:
    maps = residual_rules(described(raw), "encoder.front.maps.")
    rules = under(maps, "backbone.conv_encoder.model.") + under(maps, "backbone.model.", read_only=True)
    return [
        *rules,
        Rule("input_projection.@", "encoder.front.proj.@"),
        Rule("query_position_embeddings.weight", "decoder.front.query.weight"),
        *layer_rules("encoder.", "encoder."),
        *layer_rules("decoder.", "decoder."),
        Rule("decoder.layernorm.@", "decoder.stack.norm.@"),
    ]


def heads(raw: Raw, kind: HeadKind) -> list[Rule]:
    if kind == "features":
        return []
    masks, rules = kind == "universal-segmentation", []
    for disk in ("detr.", ""):
        later = masks != bool(disk)  # a head may begin with what was learned for the other
        rules += [
            Rule(f"{disk}class_labels_classifier.@", "head.labels.layers.0.@", read_only=later),
            Rule(f"{disk}bbox_predictor.layers.*.@", "head.boxes.layers.*.@", read_only=later),
        ]
    if masks:
        for late, names in enumerate((MASKS, MASKS_IN_MEMORY)):
            pairs = zip(names, OUR_MASKS, strict=True)
            rules += [Rule(f"{theirs}.@", f"head.{mine}.@", read_only=bool(late)) for theirs, mine in pairs]
    return rules


OUR_MASKS = ["q", "k", "out", *(f"mix.{i}.{part}" for i in range(2) for part in ("conv", "norm"))]
OUR_MASKS += [f"{part}" for i in range(3) for part in (f"adapt.{i}", f"refine.{i}.conv", f"refine.{i}.norm")]
MASKS = ["bbox_attention.q_linear", "bbox_attention.k_linear", "mask_head.out_lay"]
MASKS += [f"mask_head.{part}{i}" for i in (1, 2) for part in ("lay", "gn")]
MASKS += [f"mask_head.{part}" for i in (1, 2, 3) for part in (f"adapter{i}", f"lay{i + 2}", f"gn{i + 2}")]
MASKS_IN_MEMORY = ["bbox_attention.q_proj", "bbox_attention.k_proj", "mask_head.output_conv"]
MASKS_IN_MEMORY += [f"mask_head.conv{i}.{part}" for i in (1, 2) for part in ("conv", "norm")]
FPN = ("fpn_adapter", "refine.conv", "refine.norm")
MASKS_IN_MEMORY += [f"mask_head.fpn_stages.{i}.{part}" for i in range(3) for part in FPN]

SIDES = {f"{side}_{name}": n for side in ("encoder", "decoder") for name, n in (("layers", 2), ("ffn_dim", 48))}
STAGES = {"model_type": "resnet", "embedding_size": 8, "hidden_sizes": [16, 24, 32, 40], "depths": [1, 2, 1, 2]}
STAGES |= {"out_features": ["stage1", "stage2", "stage3", "stage4"]}
TINY = {**SIDES, "model_type": "detr", "d_model": 32, "encoder_attention_heads": 8, "decoder_attention_heads": 4}
TINY |= {"num_queries": 5, "num_labels": 3, "backbone_config": STAGES}
OTHER = {**STAGES, "layer_type": "basic", "downsample_in_first_stage": True, "num_channels": 1, "depths": [1, 1, 1, 1]}
FAMILY = Family(
    name="detr",
    title="DETR",
    model_types=("detr",),
    architectures={
        "DetrModel": Architecture("features"),
        "DetrForObjectDetection": Architecture("object-detection", "model."),
        "DetrForSegmentation": Architecture("universal-segmentation", "detr.model."),
    },
    reads=("image",),
    config=config,
    backbone=backbone,
    heads=heads,
    tiny={
        "detr": TINY,
        "detr of basic stages": {**TINY, "backbone_config": OTHER, "num_channels": 1, "activation_function": "gelu"},
    },
)
