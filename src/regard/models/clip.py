"""CLIP (2103.00020): an encoder of images and a causal one of text, whose pooled vectors are compared by cosine.

A file holds both, or one of the two with a projection or without.
"""

from __future__ import annotations

from regard.config import Causal, ModelConfig, NormConfig, TowerConfig, TransformConfig
from regard.config.vision import ContrastiveHeadConfig, PatchClassifierConfig, PoolConfig, PooledHeadConfig
from regard.models import _pairs as pairs
from regard.models.base import Architecture, Family, HeadKind, Raw, Rule, Unsqueeze

BOTH = {"num_hidden_layers": 12, "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5, "projection_dim": 512}
TEXT = BOTH | {"vocab_size": 49408, "hidden_size": 512, "intermediate_size": 2048, "num_attention_heads": 8}
TEXT |= {"max_position_embeddings": 77, "eos_token_id": 49407, "bos_token_id": 49406, "pad_token_id": 1}
VISION = BOTH | {"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12}
VISION |= {"image_size": 224, "patch_size": 32}


def vision_tower(raw: Raw) -> TowerConfig:
    stack = pairs.stack(raw, normed=False)
    return TowerConfig(front=pairs.patches(raw, before=1, bias=False, norm=stack.layers[0].norm), stack=stack)


def text_pool(raw: Raw, dim: int | None) -> PoolConfig:
    """The end of the text, projected to `dim`; files from before ends were noted (id 2) have it at the highest id."""
    dense = None if dim is None else TransformConfig(dim=dim, bias=False)
    return PoolConfig(token="highest" if raw.ids("eos_token_id") == (2,) else "first_eos", dense=dense)


def image_pool(raw: Raw, dim: int | None) -> PoolConfig:
    dense = None if dim is None else TransformConfig(dim=dim, bias=False)
    return PoolConfig(norm=NormConfig(eps=raw.number("layer_norm_eps")), dense=dense)


def _alone(raw: Raw) -> str:
    """The only tower of the file: "text", "vision" or neither."""
    return str(raw.text("model_type", "clip")).removeprefix("clip").removesuffix("_model").removeprefix("_")


def _projected(raw: Raw) -> bool:
    return any(str(name).endswith("WithProjection") for name in raw.items("architectures", []))


def config(raw: Raw, kind: HeadKind) -> ModelConfig:
    alone, projected = _alone(raw), _projected(raw)
    if alone:
        raw = raw.over(TEXT if alone == "text" else VISION)
        dim = raw.integer("projection_dim") if projected else None
        if alone == "text":
            words = PooledHeadConfig(pool=text_pool(raw, dim), output="text_embeds" if projected else "pooler_output")
            return pairs.single(raw, pairs.text_tower(raw, mask=Causal()), words, raw.tokens())
        seen = PooledHeadConfig(pool=image_pool(raw, dim), output="image_embeds" if projected else "pooler_output")
        return pairs.single(raw, vision_tower(raw), seen)
    text, vision, dim = (
        pairs.side(raw, "text", TEXT),
        pairs.side(raw, "vision", VISION),
        raw.integer("projection_dim", 512),
    )
    if kind == "classification":
        labels = PatchClassifierConfig(num_labels=len(raw.labels()), skip=1)
        return pairs.single(vision, vision_tower(vision), labels)
    head = ContrastiveHeadConfig(
        image=image_pool(vision, dim), text=text_pool(text, dim), scale=raw.number("logit_scale_init_value", 2.6592)
    )
    return pairs.pair(text, pairs.text_tower(text, mask=Causal()), vision_tower(vision), head)


def vision_rules(disk: str, ours: str, norm: str) -> list[Rule]:
    """Keys of the tower for images; `norm` is where the norm before pooling goes, if the model pools."""
    return [
        Rule(f"{disk}embeddings.class_embedding", f"{ours}front.before.weight", (Unsqueeze(),)),
        Rule(f"{disk}pre_layrnorm.@", f"{ours}front.norm.@"),
        Rule(f"{disk}post_layernorm.@", f"{norm}.@" if norm else ()),
        *pairs.vision_rules(disk, ours),
    ]


def backbone(raw: Raw) -> list[Rule]:
    if _alone(raw) == "text":
        return pairs.text_rules("", "encoder.")
    return vision_rules("", "encoder.", "head.pool.norm") if _alone(raw) else []


def heads(raw: Raw, kind: HeadKind) -> list[Rule]:
    if _alone(raw):
        side = "text" if _alone(raw) == "text" else "visual"
        return [Rule(f"{side}_projection.weight", "head.pool.dense.dense.weight")] if _projected(raw) else []
    if kind == "classification":
        unused = [Rule("text_model.**"), Rule("text_projection.**"), Rule("visual_projection.**"), Rule("logit_scale")]
        return [Rule("classifier.@", "head.out.@"), *vision_rules("vision_model.", "encoder.", ""), *unused]
    return [
        Rule("logit_scale", "head.scale"),
        Rule("text_projection.weight", "head.text.dense.dense.weight"),
        Rule("visual_projection.weight", "head.image.dense.dense.weight"),
        *pairs.text_rules("text_model.", "text."),
        *vision_rules("vision_model.", "vision.", "head.image.norm"),
    ]


SIDE = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
TINY_TEXT = SIDE | {"vocab_size": 97, "max_position_embeddings": 24, "eos_token_id": 5, "bos_token_id": 3}
TINY_TEXT |= {"pad_token_id": 5}
TINY_VISION = SIDE | {"hidden_size": 40, "image_size": 32, "patch_size": 8}
OLDER = TINY_TEXT | {"eos_token_id": 2}
FAMILY = Family(
    name="clip",
    title="CLIP",
    model_types=("clip", "clip_text_model", "clip_vision_model"),
    architectures={
        "CLIPModel": Architecture("features"),
        "CLIPForImageClassification": Architecture("classification"),
        "CLIPTextModel": Architecture("features"),
        "CLIPTextModelWithProjection": Architecture("features", "text_model."),
        "CLIPVisionModel": Architecture("features"),
        "CLIPVisionModelWithProjection": Architecture("features", "vision_model."),
    },
    reads=("image", "text"),
    config=config,
    backbone=backbone,
    heads=heads,
    tiny={
        "clip": {"model_type": "clip", "text_config": TINY_TEXT, "vision_config": TINY_VISION, "projection_dim": 24},
        "clip older": {"model_type": "clip", "text_config": OLDER, "vision_config": TINY_VISION, "projection_dim": 24},
        "clip text": {"model_type": "clip_text_model", **TINY_TEXT, "projection_dim": 24},
        "clip text older": {"model_type": "clip_text_model", **OLDER, "projection_dim": 24},
        "clip vision": {"model_type": "clip_vision_model", **TINY_VISION, "projection_dim": 24},
    },
)
