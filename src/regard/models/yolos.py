"""YOLOS (2106.00666): ViT whose last tokens are queries that find objects; most layers add positions of their own."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from torch import Tensor, nn

from regard.config import LayerConfig, ModelConfig
from regard.config.vision import BoxesHeadConfig, PatchesConfig
from regard.models import vit
from regard.models.base import Architecture, Family, HeadKind, Raw, Rule, Split, Squeeze
from regard.nn import Context, Layer, builds
from regard.senses.vision import resampled

DEFAULTS = vit.DEFAULTS | {"image_size": [512, 864]}
SLOT = "encoder.stack.layers.{}.position.weight"


@dataclass(frozen=True, kw_only=True)
class PlacedLayerConfig(LayerConfig):
    """A layer that adds learned positions to its result, laid out as those of the front-end."""

    front: PatchesConfig


@builds(PlacedLayerConfig)
class PlacedLayer(Layer):
    """(B, T, C) -> (B, T, C)"""

    def __init__(self, config: PlacedLayerConfig, dim: int):
        super().__init__(config, dim)
        self.front = config.front
        self.position = nn.Embedding(self.front.before + self.front.patches + self.front.after, dim)

    def forward(self, x: Tensor, ctx: Context) -> Tensor:
        assert ctx.grid is not None
        return super().forward(x, ctx) + resampled(self.position.weight, self.front.grid, ctx.grid, self.front.before)


def config(raw: Raw, kind: HeadKind) -> ModelConfig:
    raw = raw.over(DEFAULTS)
    queries = raw.integer("num_detection_tokens", 100)
    front, layer, count = vit.patches(raw).replace(after=queries), vit.layer(raw), raw.layers("num_hidden_layers")
    if kind == "features":
        model = vit.encoder(raw, front, layer, vit.pooled(raw))
    else:
        boxes = BoxesHeadConfig(num_labels=len(raw.labels()), queries=queries, label_layers=3)
        model = vit.encoder(raw, front, layer, boxes)
    if not raw.flag("use_mid_position_embeddings", True):
        return model
    assert model.encoder is not None
    fields = {field.name: getattr(layer, field.name) for field in dataclasses.fields(layer)}
    placed = PlacedLayerConfig(**fields, front=front)
    stack = model.encoder.stack.replace(layers=(placed,) * (count - 1) + (layer,))
    return model.replace(encoder=model.encoder.replace(stack=stack))


def backbone(raw: Raw) -> list[Rule]:
    rules = [Rule("embeddings.detection_tokens", "encoder.front.after.weight", (Squeeze(),))]
    count = raw.over(DEFAULTS).layers("num_hidden_layers") - 1
    if count and raw.flag("use_mid_position_embeddings", True):
        slots, ops = tuple(SLOT.format(i) for i in range(count)), (Split(count), Squeeze(), Squeeze())
        rules += [
            Rule("encoder.mid_position_embeddings", slots, ops),
            Rule("encoder.interpolation.mid_position_embeddings", slots, ops, read_only=True),
        ]
    return rules + vit.patch_rules(vit.CLASS_TOKEN) + vit.layer_rules()


def heads(raw: Raw, kind: HeadKind) -> list[Rule]:
    if kind == "features":
        return vit.heads(raw, kind)
    return [
        Rule("class_labels_classifier.layers.*.@", "head.labels.layers.*.@"),
        Rule("bbox_predictor.layers.*.@", "head.boxes.layers.*.@"),
    ]


TINY = {**vit.TINY, "model_type": "yolos", "image_size": [32, 48], "num_detection_tokens": 5}
FAMILY = Family(
    name="yolos",
    title="YOLOS",
    model_types=("yolos",),
    architectures={
        "YolosModel": Architecture("features"),
        "YolosForObjectDetection": Architecture("object-detection", "vit."),
    },
    reads=("image",),
    config=config,
    backbone=backbone,
    heads=heads,
    tiny={"yolos": TINY, "yolos at first only": {**TINY, "use_mid_position_embeddings": False}},
)
