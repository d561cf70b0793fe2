"""LLaVA (2304.08485): what a tower for images sees stands among the words that a decoder reads.

Both parts are families of their own, named in the file: their trees and key rules are taken as they are.
"""

from __future__ import annotations

import dataclasses

from regard.config import EmbeddingConfig, ModelConfig, TowerConfig, TransformConfig
from regard.config.vision import ImageTextConfig
from regard.models import clip, qwen2, siglip
from regard.models.base import Architecture, Family, HeadKind, Raw, Rule
from regard.models.llama import TINY
from regard.models.registry import family_of

# What the reference assumes where a file names only what differs from the usual parts.
TEXT = {"model_type": "llama", "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32}
TEXT |= {"num_attention_heads": 32, "vocab_size": 32000, "max_position_embeddings": 2048}
VISION = {"model_type": "clip_vision_model", "hidden_size": 1024, "intermediate_size": 4096, "patch_size": 14}
VISION |= {"image_size": 336, "num_hidden_layers": 24, "num_attention_heads": 16}


def parts(raw: Raw) -> tuple[Raw, Raw]:
    """The configs of the text side and of the side that sees."""
    text, vision = raw.sub("text_config"), raw.sub("vision_config")
    text = text.over(TEXT) if text.text("model_type", "llama") == TEXT["model_type"] else text
    vision = vision.over(VISION) if vision.text("model_type", VISION["model_type"]) == VISION["model_type"] else vision
    return text, vision


def seen(raw: Raw, vision: Raw) -> TowerConfig:
    """The tower up to the state that is looked at, counted from the end or from what enters the first layer."""
    tower = family_of(vision.data, vision.where).config(vision, "features").encoder
    assert tower is not None
    count = len(tower.stack.layers)
    layer = raw.number("vision_feature_layer", -2.0, low=-count - 1, high=count)
    steps = int(layer) if layer >= 0 else count + 1 + int(layer)
    return tower.replace(stack=tower.stack.replace(schedule=tuple(range(steps)), final_norm=None))


def config(raw: Raw, kind: HeadKind) -> ModelConfig:
    text, vision = parts(raw)
    model, tower = family_of(text.data, text.where).config(text, kind), seen(raw, vision)
    if model.decoder is None or type(model.decoder.front) is not EmbeddingConfig:
        raise ValueError(f"{text.where}: model_type is {text.data['model_type']!r}; allowed: a decoder of text")
    front = model.decoder.front
    whole = raw.one_of("vision_feature_select_strategy", ("default", "full"), "default") == "full"
    connect = TransformConfig(
        dim=front.dim,
        activation=raw.activation("projector_hidden_act", "gelu"),
        bias=raw.flag("multimodal_projector_bias", True),
    )
    both = ImageTextConfig(
        **{field.name: getattr(front, field.name) for field in dataclasses.fields(front)},
        vision=tower,
        connect=connect,
        image_token=raw.integer("image_token_index", raw.integer("image_token_id", 32000)),
        skip=0 if whole else 1,
    )
    return model.replace(decoder=model.decoder.replace(front=both))


def _moved(rules: list[Rule], disk: str, *, late: bool, towers: tuple[str, str] | None = None) -> list[Rule]:
    """A part's rules where its keys stand below `disk`; `towers` renames ours, and what is not of them is dropped."""
    found = []
    for rule in rules:
        ours = rule.our_keys
        if towers is not None:
            ours = tuple(
                key.replace(*towers, 1) for key in ours if key.startswith(towers[0]) and ".stack.norm." not in key
            )
        keys = tuple(f"{disk}{key}" for key in rule.disk_keys)
        found.append(dataclasses.replace(rule, disk=keys, ours=ours, read_only=late or rule.read_only))
    return found


def backbone(raw: Raw) -> list[Rule]:
    text, vision = parts(raw)
    words = family_of(text.data, text.where).backbone(text)
    sights = family_of(vision.data, vision.where).backbone(vision)
    rules = []
    for disk in ("language_model.model.", "model.language_model.", "language_model."):
        rules += _moved(words, disk, late=disk != "language_model.model.")
    for disk in ("vision_tower.", "model.vision_tower."):
        rules += _moved(sights, disk, late=disk != "vision_tower.", towers=("encoder.", "decoder.front.vision."))
    rules += _moved(sights, "vision_tower.vision_model.", late=True, towers=("encoder.", "decoder.front.vision."))
    for disk in ("multi_modal_projector.", "model.multi_modal_projector."):
        rules += [
            Rule(f"{disk}linear_1.@", "decoder.front.connect.dense.@", read_only=disk.startswith("model.")),
            Rule(f"{disk}linear_2.@", "decoder.front.connect_out.@", read_only=disk.startswith("model.")),
        ]
    return rules


def heads(raw: Raw, kind: HeadKind) -> list[Rule]:
    text, _ = parts(raw)
    rules = family_of(text.data, text.where).heads(text, kind)
    return _moved(rules, "language_model.", late=False) + _moved(rules, "", late=True)


VISION_TINY = {**clip.TINY_VISION, "num_hidden_layers": 3, "model_type": "clip_vision_model"}
SMALL = {"model_type": "llava", "text_config": TINY, "vision_config": VISION_TINY, "image_token_index": 90}
OTHER = {**SMALL, "vision_feature_select_strategy": "full", "vision_feature_layer": -1, "tie_word_embeddings": False}
OTHER |= {"vision_config": {**siglip.TINY_VISION, "model_type": "siglip_vision_model"}}
OTHER |= {"text_config": {**qwen2.FAMILY.tiny["qwen2"], "tie_word_embeddings": False}}
OTHER |= {"multimodal_projector_bias": False, "projector_hidden_act": "relu"}
FAMILY = Family(
    name="llava",
    title="LLaVA",
    model_types=("llava",),
    architectures={
        "LlavaForConditionalGeneration": Architecture("causal-lm"),
        "LlavaModel": Architecture("features"),
    },
    reads=("image", "text"),
    config=config,
    backbone=backbone,
    heads=heads,
    tiny={"llava": SMALL, "llava of other parts": OTHER},
)
