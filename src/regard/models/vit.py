"""ViT (2010.11929) and DINO (2104.14294): patches and a class token through a pre-norm encoder.

Its tree and its rules are the ground on which the later encoders of images stand.
"""

from __future__ import annotations

from typing import Any

from regard.config import (
    AttentionConfig,
    ClassifierHeadConfig,
    FeaturesHeadConfig,
    FeedForwardConfig,
    HeadConfig,
    InitConfig,
    LayerConfig,
    ModelConfig,
    NormConfig,
    StackConfig,
    TowerConfig,
    TransformConfig,
)
from regard.config.vision import PatchesConfig
from regard.models.base import Architecture, Family, HeadKind, Raw, Rule, Squeeze
from regard.models.common import head_dim

DEFAULTS: dict[str, Any] = {
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
}
CLASS_TOKEN = Rule("embeddings.cls_token", "encoder.front.before.weight", (Squeeze(),))
DEFAULTS |= {"image_size": 224, "patch_size": 16, "layer_norm_eps": 1e-12}


def layer(raw: Raw) -> LayerConfig:
    """One layer as config.json describes it."""
    dim, heads, bias = raw.integer("hidden_size"), raw.integer("num_attention_heads"), raw.flag("qkv_bias", True)
    return LayerConfig(
        norm=NormConfig(eps=raw.number("layer_norm_eps")),
        dropout=raw.rate("hidden_dropout_prob"),
        attention=AttentionConfig(
            num_heads=heads,
            head_dim=head_dim(raw, dim, heads),
            bias=(bias, bias, bias, True),
            dropout=raw.rate("attention_probs_dropout_prob"),
        ),
        feed_forward=FeedForwardConfig(
            hidden_dim=raw.integer("intermediate_size"), activation=raw.activation("hidden_act", "gelu")
        ),
    )


def patches(raw: Raw, *, before: int = 1) -> PatchesConfig:
    """Patches behind a class token and perhaps others."""
    return PatchesConfig(
        dim=raw.integer("hidden_size"),
        size=raw.size("image_size"),
        patch=raw.size("patch_size"),
        channels=raw.integer("num_channels", 3),
        before=before,
        dropout=raw.rate("hidden_dropout_prob"),
    )


def encoder(raw: Raw, front: PatchesConfig, each: LayerConfig, head: HeadConfig) -> ModelConfig:
    """The model around an encoder of images; the last state is normed."""
    stack = StackConfig(dim=front.dim, layers=(each,) * raw.layers("num_hidden_layers"), final_norm=each.norm)
    return ModelConfig(
        encoder=TowerConfig(front=front, stack=stack),
        head=head,
        init=InitConfig(std=raw.number("initializer_range", 0.02, low=0)),
    )


def pooled(raw: Raw) -> FeaturesHeadConfig:
    """Features, the first token pooled."""
    dim = raw.integer("pooler_output_size", raw.integer("hidden_size"))
    return FeaturesHeadConfig(pooler=TransformConfig(dim=dim, activation=raw.activation("pooler_act", "tanh")))


def config(raw: Raw, kind: HeadKind) -> ModelConfig:
    raw = raw.over(DEFAULTS)
    labels = ClassifierHeadConfig(num_labels=len(raw.labels())) if kind == "classification" else pooled(raw)
    return encoder(raw, patches(raw), layer(raw), labels)


def patch_rules(before: Rule) -> list[Rule]:
    """Keys of the front-end; `before` are those of its tokens."""
    return [  # the mask token is from pretraining by hidden patches
        before,
        Rule("embeddings.position_embeddings", "encoder.front.position.weight", (Squeeze(),)),
        Rule("embeddings.patch_embeddings.projection.@", "encoder.front.proj.@"),
        Rule("embeddings.mask_token"),
    ]


def layer_rules(
    *,
    norms: tuple[str, str] = ("layernorm_before", "layernorm_after"),
    up: str = "intermediate.dense",
    down: str = "output.dense",
) -> list[Rule]:
    """Keys of the layers and of the last norm, and those that the reference uses in memory since its fifth version."""
    ours = "encoder.stack.layers.*."
    rules = [Rule("layernorm.@", "encoder.stack.norm.@")]
    older = ("attention.attention.query", "attention.attention.key", "attention.attention.value")
    newer = (*(f"attention.{p}_proj" for p in "qkvo"), "mlp.fc1", "mlp.fc2")
    spellings: list[tuple[str, tuple[str, ...], bool]] = [
        ("encoder.layer.*.", (*older, "attention.output.dense", up, down), False),
        ("layers.*.", newer, True),
        ("encoder.layer.*.", newer, True),
    ]
    for disk, names, late in spellings:
        parts = ("attn.fn.q", "attn.fn.k", "attn.fn.v", "attn.fn.out", "ffn.fn.up", "ffn.fn.down")
        pairs = [*zip(names, parts, strict=True), (norms[0], "attn.norm"), (norms[1], "ffn.norm")]
        rules += [Rule(f"{disk}{theirs}.@", f"{ours}{part}.@", read_only=late) for theirs, part in pairs]
    return rules


def backbone(raw: Raw) -> list[Rule]:
    return patch_rules(CLASS_TOKEN) + layer_rules()


def heads(raw: Raw, kind: HeadKind) -> list[Rule]:
    disk, ours = ("classifier", "head.out") if kind == "classification" else ("pooler.dense", "head.pooler.dense")
    return [Rule(f"{disk}.@", f"{ours}.@")]


TINY = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 48}
TINY |= {"image_size": 32, "patch_size": 8}
FAMILY = Family(
    name="vit",
    title="ViT, DINO",
    model_types=("vit",),
    architectures={
        "ViTModel": Architecture("features"),
        "ViTForImageClassification": Architecture("classification", "vit."),
    },
    reads=("image",),
    config=config,
    backbone=backbone,
    heads=heads,
    tiny={
        "vit": {**TINY, "model_type": "vit", "num_labels": 5},
        "vit without bias": {**TINY, "model_type": "vit", "qkv_bias": False, "num_channels": 1, "hidden_act": "relu"},
    },
)
