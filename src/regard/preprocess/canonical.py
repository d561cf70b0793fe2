"""SigLIP's tokenizer from its SentencePiece model: text is stripped of case, punctuation and spare spaces, then cut as
T5 cuts it."""

from __future__ import annotations

import re
import string
from dataclasses import replace
from pathlib import Path

from tokenizers import Regex, normalizers

from .text import Tokenizer
from .tokenizer_build import assemble
from .tokenizer_files import read_folder
from .tokenizer_kinds import GENERIC

CLASS_NAME = "SiglipTokenizer"


def read_canonical(folder: Path) -> Tokenizer:
    """The tokenizer of a folder that names SiglipTokenizer and holds spiece.model."""
    files = read_folder(folder)
    lower = bool(files.config.get("do_lower_case", True))
    tokenizer = Tokenizer(
        assemble(replace(files, config={**files.config, "tokenizer_class": "T5Tokenizer", "extra_ids": 0}))
    )
    steps = [
        normalizers.Replace("▁", " "),
        *([normalizers.Lowercase()] if lower else []),
        normalizers.Replace(Regex(f"[{re.escape(string.punctuation)}]"), ""),
        normalizers.Replace(Regex(r"\s+"), " "),
        normalizers.Strip(),
    ]
    own = tokenizer.backend.normalizer
    tokenizer.backend.normalizer = normalizers.Sequence([*steps, *([own] if own is not None else [])])
    tokenizer.class_name = GENERIC  # what is saved is tokenizer.json, to be read as it is
    return tokenizer
