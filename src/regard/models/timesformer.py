"""TimeSformer (2102.05095): ViT over the frames of a video, each patch looking through time and then around itself.

Two simpler ways are there too: over all patches of all frames at once, and over each frame by itself.
"""

from __future__ import annotations

import dataclasses

from regard.config import ClassifierHeadConfig, FeaturesHeadConfig, FeedForwardConfig, ModelConfig, TowerConfig
from regard.models import vit
from regard.models._frames import DividedLayerConfig, FramesConfig, NearestPatchesConfig
from regard.models.base import Architecture, Family, HeadKind, Raw, Rule, Split, Squeeze
from regard.models.common import deepening

DIVIDED, JOINT, SPACE = "divided_space_time", "joint_space_time", "space_only"


def config(raw: Raw, kind: HeadKind) -> ModelConfig:
    raw = raw.over({**vit.DEFAULTS, "layer_norm_eps": 1e-6})
    how = raw.one_of("attention_type", (DIVIDED, JOINT, SPACE), DIVIDED)
    each, layer = vit.patches(raw), vit.layer(raw)
    assert isinstance(layer.feed_forward, FeedForwardConfig)
    layer = layer.replace(feed_forward=layer.feed_forward.replace(dropout=layer.dropout))
    if how == DIVIDED:
        layer = DividedLayerConfig(**{f.name: getattr(layer, f.name) for f in dataclasses.fields(layer)})
    head = ClassifierHeadConfig(num_labels=len(raw.labels())) if kind == "classification" else FeaturesHeadConfig()
    model = vit.encoder(raw, each, layer, head)
    assert model.encoder is not None
    front = FramesConfig(
        each=NearestPatchesConfig(**{f.name: getattr(each, f.name) for f in dataclasses.fields(each)}),
        frames=raw.integer("num_frames", 8, high=2**14),
        together=how != SPACE,
    )
    return model.replace(encoder=TowerConfig(front=front, stack=deepening(raw, [model.encoder.stack])[0]))


def backbone(raw: Raw) -> list[Rule]:
    front, disk, ours = "encoder.front.", "encoder.layer.*.", "encoder.stack.layers.*."
    rules = [
        Rule("embeddings.cls_token", f"{front}each.before.weight", (Squeeze(),)),
        Rule("embeddings.position_embeddings", f"{front}each.position.weight", (Squeeze(),)),
        Rule("embeddings.time_embeddings", f"{front}time.weight", (Squeeze(),)),
        Rule("embeddings.patch_embeddings.projection.@", f"{front}each.proj.@"),
        Rule(f"{disk}temporal_layernorm.@", f"{ours}time.norm.@"),
        Rule(f"{disk}temporal_dense.@", f"{ours}time_out.@"),
    ]
    for theirs, part in (("attention", "attn"), ("temporal_attention", "time")):
        fused = tuple(f"{ours}{part}.fn.{p}.@" for p in "qkv")
        rules += [Rule(f"{disk}{theirs}.attention.qkv.@", fused, (Split(3),))]
        rules += [Rule(f"{disk}{theirs}.output.dense.@", f"{ours}{part}.fn.out.@")]
    return rules + [rule for rule in vit.layer_rules() if ".attn.fn." not in rule.our_keys[0] and not rule.read_only]


def heads(raw: Raw, kind: HeadKind) -> list[Rule]:
    return [Rule("classifier.@", "head.out.@")] if kind == "classification" else []


TINY = {**vit.TINY, "model_type": "timesformer", "num_frames": 3, "num_labels": 5}
FAMILY = Family(
    name="timesformer",
    title="TimeSformer",
    model_types=("timesformer",),
    architectures={
        "TimesformerModel": Architecture("features"),
        "TimesformerForVideoClassification": Architecture("classification", "timesformer."),
    },
    reads=("video",),
    config=config,
    backbone=backbone,
    heads=heads,
    tiny={  # two patches each way: for others the reference divides no size but the trained one
        "timesformer": {**TINY, "image_size": 16},
        "timesformer joint": {**TINY, "attention_type": JOINT, "qkv_bias": False},
        "timesformer space": {**TINY, "attention_type": SPACE, "hidden_act": "relu"},
    },
)
