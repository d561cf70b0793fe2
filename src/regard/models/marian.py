"""Marian, OPUS-MT (1804.00344): BART's shape with computed positions and no embedding norm.

Source and target share one vocabulary, or each has its own (`share_encoder_decoder_embeddings`).
"""

from __future__ import annotations

from regard.config import ModelConfig
from regard.models.bart import backbone, bart_like, embedding, model
from regard.models.base import HeadKind, Raw, Rule


def config(raw: Raw, head: HeadKind) -> ModelConfig:
    front = embedding(raw, learned=False, norm=False)
    target_size = None if _shared(raw) else raw.integer("decoder_vocab_size", front.vocab_size)
    tokens = raw.tokens(pad=58100, eos=0, decoder_start=58100)
    return model(raw, head, front, tokens, pre=False, target_size=target_size)


def _shared(raw: Raw) -> bool:
    return raw.flag("share_encoder_decoder_embeddings", True)


def rules(raw: Raw) -> list[Rule]:
    return backbone(raw, learned=False, shared=_shared(raw))


TINY: dict[str, object] = {"activation_function": "swish", "scale_embedding": True}
TINY |= {"pad_token_id": 96, "decoder_start_token_id": 96, "eos_token_id": 0}
FAMILY = bart_like(
    "marian",
    "Marian, OPUS-MT",
    "Marian",
    config,
    {
        "marian": TINY,
        "marian with two vocabularies": {**TINY, "share_encoder_decoder_embeddings": False, "decoder_vocab_size": 103},
    },
    backbone=rules,
    suffixes=("MTModel", "Model"),
)
