"""DINOv2 (2304.07193), without registers or with them (2309.16588): ViT with a scale on every branch.

The largest gates its feed-forward (SwiGLU). Labels come from the class token beside the mean of the patches.
"""

from __future__ import annotations

from regard.config import FeedForwardConfig, LayerConfig, ModelConfig
from regard.config.vision import PatchClassifierConfig, PoolConfig, PooledHeadConfig
from regard.models import vit
from regard.models.base import Architecture, Family, HeadKind, Raw, Rule, Split, Squeeze

DEFAULTS = vit.DEFAULTS | {"patch_size": 14, "layer_norm_eps": 1e-6}
REGISTERS = "dinov2_with_registers"


def _registers(raw: Raw) -> int:
    return int(raw.integer("num_register_tokens", 4, low=0)) if raw.text("model_type", "dinov2") == REGISTERS else 0


def _forward(raw: Raw) -> FeedForwardConfig:
    dim, ratio = raw.integer("hidden_size"), raw.integer("mlp_ratio", 4, high=1024)
    if raw.flag("use_swiglu_ffn", False):  # two thirds, rounded up to a multiple of 8
        return FeedForwardConfig(hidden_dim=(int(dim * ratio * 2 / 3) + 7) // 8 * 8, activation="silu", gated=True)
    return FeedForwardConfig(hidden_dim=dim * ratio, activation=raw.activation("hidden_act", "gelu"))


def layer(raw: Raw) -> LayerConfig:
    """ViT's layer with scaled branches, of which nothing is dropped but the whole."""
    plain = vit.layer(raw.over({"intermediate_size": 1}))
    start = raw.number("layerscale_value", 1.0)
    return plain.replace(
        feed_forward=_forward(raw),
        scale="layer",
        scale_init=start,
        dropout=0.0,
        drop_path=raw.rate("drop_path_rate"),
    )


def config(raw: Raw, kind: HeadKind) -> ModelConfig:
    raw, registers = raw.over(DEFAULTS), _registers(raw)
    front = vit.patches(raw).replace(
        registers=registers,
        antialias=raw.text("model_type", "dinov2") == REGISTERS,
        masking=raw.flag("use_mask_token", True),
    )
    if kind == "classification":
        labels = PatchClassifierConfig(num_labels=len(raw.labels()), skip=1 + registers, with_first=True)
        return vit.encoder(raw, front, layer(raw), labels)
    return vit.encoder(raw, front, layer(raw), PooledHeadConfig(pool=PoolConfig()))


def backbone(raw: Raw) -> list[Rule]:
    disk, ours = "encoder.layer.*.", "encoder.stack.layers.*."
    rules = [
        Rule("embeddings.mask_token", "encoder.front.masked.weight"),
        Rule("embeddings.register_tokens", "encoder.front.registers.weight", (Squeeze(),)),
        Rule(f"{disk}layer_scale1.lambda1", f"{ours}attn.scale.weight"),
        Rule(f"{disk}layer_scale2.lambda1", f"{ours}ffn.scale.weight"),
    ]
    layers = vit.layer_rules(norms=("norm1", "norm2"), up="mlp.fc1", down="mlp.fc2")
    if raw.flag("use_swiglu_ffn", False):
        layers = [rule for rule in layers if ".ffn.fn." not in rule.our_keys[0]]
        gated = (f"{ours}ffn.fn.gate.@", f"{ours}ffn.fn.up.@")
        rules += [
            Rule(f"{disk}mlp.weights_in.@", gated, (Split(2),)),
            Rule(f"{disk}mlp.weights_out.@", f"{ours}ffn.fn.down.@"),
            *(Rule(f"{disk}mlp.{p}_proj.@", f"{ours}ffn.fn.{p}.@", read_only=True) for p in ("gate", "up", "down")),
        ]
    return rules + vit.patch_rules(vit.CLASS_TOKEN) + layers


def heads(raw: Raw, kind: HeadKind) -> list[Rule]:
    return [Rule("classifier.@", "head.out.@")] if kind == "classification" else []


TINY = {key: value for key, value in vit.TINY.items() if key != "intermediate_size"}
FAMILY = Family(
    name="dinov2",
    title="DINOv2, with registers or without",
    model_types=("dinov2", REGISTERS),
    architectures={
        "Dinov2Model": Architecture("features"),
        "Dinov2ForImageClassification": Architecture("classification", "dinov2."),
        "Dinov2WithRegistersModel": Architecture("features"),
        "Dinov2WithRegistersForImageClassification": Architecture("classification", f"{REGISTERS}."),
    },
    reads=("image",),
    config=config,
    backbone=backbone,
    heads=heads,
    tiny={
        "dinov2": {**TINY, "model_type": "dinov2", "num_labels": 5},
        "dinov2 gated": {**TINY, "model_type": "dinov2", "use_swiglu_ffn": True, "layerscale_value": 0.5},
        "dinov2 with registers": {**TINY, "model_type": REGISTERS, "num_labels": 5, "mlp_ratio": 2},
    },
)
