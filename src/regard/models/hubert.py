"""HuBERT (2106.07447): the tree and the rules of wav2vec 2.0, trained on units; its projection may lack a norm."""

from __future__ import annotations

from regard.config import ModelConfig
from regard.models.base import Architecture, Family, HeadKind, Raw
from regard.models.wav2vec2 import HEADS, backbone, heads, model, variants, waveform


def config(raw: Raw, kind: HeadKind) -> ModelConfig:
    raw.one_of("conv_pos_batch_norm", (False,), False)
    return model(raw, kind, waveform(raw, feature_norm=raw.flag("feat_proj_layer_norm", True)))


TINY = variants("hubert")
FAMILY = Family(
    name="hubert",
    title="HuBERT",
    model_types=("hubert",),
    architectures={"HubertModel": Architecture("features")}
    | {
        f"Hubert{name}": Architecture(kind, "hubert.") for name, kind in HEADS.items() if kind != "token-classification"
    },
    reads=("sound", "text"),
    config=config,
    backbone=backbone,
    heads=heads,
    tiny={**TINY, "hubert plain": {**TINY["hubert"], "feat_proj_layer_norm": False}},
)
