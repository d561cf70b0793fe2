"""Pegasus (1912.08777): BART's shape, but pre-norm, with final norms, computed positions and no embedding norm."""

from __future__ import annotations

from functools import partial

from regard.config import ModelConfig
from regard.models.bart import backbone, bart_like, embedding, model
from regard.models.base import HeadKind, Raw


def config(raw: Raw, head: HeadKind) -> ModelConfig:
    tokens = raw.tokens(pad=0, eos=1, decoder_start=0)
    return model(raw, head, embedding(raw, learned=False, norm=False), tokens, pre=True)


FAMILY = bart_like(
    "pegasus",
    "Pegasus",
    "Pegasus",
    config,
    {"pegasus": {"scale_embedding": True, "activation_function": "relu"}},
    backbone=partial(backbone, learned=False),
    suffixes=("ForConditionalGeneration", "Model"),
)
