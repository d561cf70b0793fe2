"""mBART and mBART-50 (2001.08210, 2008.00401): BART with pre-norm layers and final norms.

A sentence ends with the code of its language; shifted right, it begins with that code.
"""

from __future__ import annotations

from regard.config import ModelConfig
from regard.models.bart import bart_like, embedding, model
from regard.models.base import HeadKind, Raw


def config(raw: Raw, head: HeadKind) -> ModelConfig:
    tokens = raw.tokens(pad=1, bos=0, eos=2).replace(last_starts=True)
    return model(raw, head, embedding(raw), tokens, pre=True)


FAMILY = bart_like(
    "mbart",
    "mBART, mBART-50",
    "MBart",
    config,
    {
        "mbart": {},
        "mbart scaled": {"scale_embedding": True, "activation_function": "relu", "decoder_start_token_id": 9},
    },
)
