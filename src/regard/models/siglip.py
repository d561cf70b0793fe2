"""SigLIP (2303.15343): images and texts in pairs, compared by a sigmoid each, so that the scores have a bias.

A learned query pools the image; the last token pools the text, which looks both ways. A file holds both or one of them.
"""

from __future__ import annotations

from regard.config import FeaturesHeadConfig, HeadConfig, LayerConfig, ModelConfig, TowerConfig, TransformConfig
from regard.config.vision import (
    AttentionPoolConfig,
    ContrastiveHeadConfig,
    PatchClassifierConfig,
    PoolConfig,
    PooledHeadConfig,
)
from regard.models import _pairs as pairs
from regard.models.base import Architecture, Family, HeadKind, Raw, Rule, Split, Squeeze

BOTH = {"num_hidden_layers": 12, "hidden_act": "gelu_pytorch_tanh", "layer_norm_eps": 1e-6}
BOTH |= {"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12}
TEXT = BOTH | {"vocab_size": 32000, "max_position_embeddings": 64}
TEXT |= {"eos_token_id": 49407, "bos_token_id": 49406, "pad_token_id": 1}
VISION = BOTH | {"image_size": 224, "patch_size": 16}


def vision_tower(raw: Raw) -> TowerConfig:
    return TowerConfig(front=pairs.patches(raw), stack=pairs.stack(raw, normed=True))


def text_pool(raw: Raw) -> PoolConfig:
    dim = raw.integer("projection_size", raw.integer("hidden_size"))
    return PoolConfig(token="last", dense=TransformConfig(dim=dim))


def image_pool(raw: Raw) -> AttentionPoolConfig:
    """A query of its own over a layer's attention, and the layer's feed-forward branch."""
    layer = pairs.stack(raw, normed=True).layers[0]
    assert layer.attention is not None
    cross = layer.attention.replace(dropout=0.0)
    pooling = LayerConfig(norm=layer.norm, cross=cross, feed_forward=layer.feed_forward)
    return AttentionPoolConfig(layer=pooling)


def _alone(raw: Raw) -> str:
    """The only tower of the file: "text", "vision" or neither."""
    return str(raw.text("model_type", "siglip")).removeprefix("siglip").removesuffix("_model").removeprefix("_")


def config(raw: Raw, kind: HeadKind) -> ModelConfig:
    alone = _alone(raw)
    if alone == "text":
        raw = raw.over(TEXT)
        return pairs.single(raw, pairs.text_tower(raw), PooledHeadConfig(pool=text_pool(raw)), raw.tokens())
    vision = raw.over(VISION) if alone else pairs.side(raw, "vision", VISION)
    pooled = vision.flag("vision_use_head", True)
    if alone or kind == "classification":
        head: HeadConfig = PooledHeadConfig(pool=image_pool(vision)) if pooled else FeaturesHeadConfig()
        labels = PatchClassifierConfig(num_labels=len(raw.labels()))
        return pairs.single(vision, vision_tower(vision), head if alone else labels)
    text = pairs.side(raw, "text", TEXT)
    vision.one_of("vision_use_head", (True,), True)
    both = ContrastiveHeadConfig(image=image_pool(vision), text=text_pool(text), scale=0.0, bias=True)
    return pairs.pair(text, pairs.text_tower(text), vision_tower(vision), both)


def text_rules(disk: str, ours: str, pool: str) -> list[Rule]:
    return [Rule(f"{disk}head.@", f"{pool}dense.dense.@"), *pairs.text_rules(disk, ours)]


def vision_rules(disk: str, ours: str, pool: str) -> list[Rule]:
    """Keys of the tower for images; `pool` is where its pooling goes, or empty."""
    rules = [Rule(f"{disk}post_layernorm.@", f"{ours}stack.norm.@"), *pairs.vision_rules(disk, ours)]
    if not pool:
        return [*rules, Rule(f"{disk}head.**")]
    rules += [Rule(f"{disk}head.probe", f"{pool}query.weight", (Squeeze(),))]
    for what in ("weight", "bias"):
        targets = tuple(f"{pool}cross.{p}.{what}" for p in "qkv")
        rules.append(Rule(f"{disk}head.attention.in_proj_{what}", targets, (Split(3),)))
    names = [("attention.out_proj", "cross.out"), ("layernorm", "ffn.norm"), ("mlp.fc1", "ffn.fn.up")]
    names.append(("mlp.fc2", "ffn.fn.down"))
    return [*rules, *(Rule(f"{disk}head.{theirs}.@", f"{pool}{part}.@") for theirs, part in names)]


def backbone(raw: Raw) -> list[Rule]:
    if _alone(raw) == "text":
        return pairs.also_under("text_model.", text_rules("", "encoder.", "head.pool."))
    return pairs.also_under("vision_model.", vision_rules("", "encoder.", "head.pool.")) if _alone(raw) else []


def heads(raw: Raw, kind: HeadKind) -> list[Rule]:
    if _alone(raw):
        return []
    if kind == "classification":
        unused = [Rule("text_model.**"), Rule("logit_scale"), Rule("logit_bias")]
        return [Rule("classifier.@", "head.out.@"), *vision_rules("vision_model.", "encoder.", ""), *unused]
    return [
        Rule("logit_scale", "head.scale", (Squeeze(),)),
        Rule("logit_bias", "head.bias", (Squeeze(),)),
        *text_rules("text_model.", "text.", "head.text."),
        *vision_rules("vision_model.", "vision.", "head.image."),
    ]


SIDE = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
TINY_TEXT = SIDE | {"vocab_size": 97, "max_position_embeddings": 24, "eos_token_id": 5, "bos_token_id": 3}
TINY_TEXT |= {"pad_token_id": 5}
TINY_VISION = SIDE | {"intermediate_size": 56, "image_size": 32, "patch_size": 8}
FAMILY = Family(
    name="siglip",
    title="SigLIP",
    model_types=("siglip", "siglip_text_model", "siglip_vision_model"),
    architectures={
        "SiglipModel": Architecture("features"),
        "SiglipForImageClassification": Architecture("classification"),
        "SiglipTextModel": Architecture("features"),
        "SiglipVisionModel": Architecture("features"),
    },
    reads=("image", "text"),
    config=config,
    backbone=backbone,
    heads=heads,
    tiny={
        "siglip": {"model_type": "siglip", "text_config": TINY_TEXT, "vision_config": TINY_VISION},
        "siglip text": {"model_type": "siglip_text_model", **TINY_TEXT, "projection_size": 24},
        "siglip vision": {"model_type": "siglip_vision_model", **TINY_VISION},
        "siglip bare": {"model_type": "siglip_vision_model", **TINY_VISION, "vision_use_head": False},
    },
)
