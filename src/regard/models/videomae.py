"""VideoMAE (2203.12602): ViT over tubelets, patches of a few frames, with fixed sinusoids; keys have no bias."""

from __future__ import annotations

from regard.config import ClassifierHeadConfig, FeaturesHeadConfig, HeadConfig, LayerConfig, ModelConfig, NormConfig
from regard.config.vision import PatchClassifierConfig, PatchesConfig
from regard.models import vit
from regard.models.base import Architecture, Family, HeadKind, Raw, Rule


def layer(raw: Raw) -> LayerConfig:
    """ViT's layer without a bias on keys."""
    plain = vit.layer(raw.over({"qkv_bias": raw.flag("qv_bias", True)}))
    assert plain.attention is not None
    q, _, v, out = plain.attention.bias
    return plain.replace(attention=plain.attention.replace(bias=(q, False, v, out)))


def patches(raw: Raw) -> PatchesConfig:
    """Tubelets; no token stands beside them."""
    size, patch = raw.size("image_size"), raw.size("patch_size")
    return PatchesConfig(
        dim=raw.integer("hidden_size"),
        size=(raw.integer("num_frames", 16, high=2**14), *size),
        patch=(raw.integer("tubelet_size", 2, high=2**14), *patch),
        channels=raw.integer("num_channels", 3),
        positions="fixed",
    )


def config(raw: Raw, kind: HeadKind) -> ModelConfig:
    raw = raw.over(vit.DEFAULTS)
    mean = raw.flag("use_mean_pooling", True)
    head: HeadConfig = FeaturesHeadConfig()
    if kind == "classification":
        count = len(raw.labels())
        # The norm of the mean has an eps of its own, whatever the file says.
        head = (
            PatchClassifierConfig(num_labels=count, norm=NormConfig())
            if mean
            else ClassifierHeadConfig(num_labels=count)
        )
    model = vit.encoder(raw, patches(raw), layer(raw), head)
    assert model.encoder is not None
    stack = model.encoder.stack.replace(final_norm=None) if mean else model.encoder.stack
    return model.replace(encoder=model.encoder.replace(stack=stack))


def backbone(raw: Raw) -> list[Rule]:
    disk, ours = "encoder.layer.*.attention.attention.", "encoder.stack.layers.*.attn.fn."
    biases = [Rule(f"{disk}q_bias", f"{ours}q.bias"), Rule(f"{disk}v_bias", f"{ours}v.bias")]
    return [*biases, Rule("embeddings.patch_embeddings.projection.@", "encoder.front.proj.@"), *vit.layer_rules()]


def heads(raw: Raw, kind: HeadKind) -> list[Rule]:
    if kind == "classification":
        return [Rule("classifier.@", "head.out.@"), Rule("fc_norm.@", "head.norm.@")]
    return [Rule("decoder.**"), Rule("encoder_to_decoder.weight"), Rule("mask_token")]  # from pretraining


TINY = {**vit.TINY, "model_type": "videomae", "num_frames": 4, "num_labels": 5}
FAMILY = Family(
    name="videomae",
    title="VideoMAE",
    model_types=("videomae",),
    architectures={
        "VideoMAEModel": Architecture("features"),
        "VideoMAEForVideoClassification": Architecture("classification", "videomae."),
    },
    reads=("video",),
    config=config,
    backbone=backbone,
    heads=heads,
    tiny={
        "videomae": TINY,
        "videomae first token": {**TINY, "use_mean_pooling": False, "qv_bias": False, "tubelet_size": 1},
    },
)
