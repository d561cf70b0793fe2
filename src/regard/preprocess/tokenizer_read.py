"""Tokenizers of whichever sort. Apart from what joins them with images and sounds: text alone imports none of that."""

from __future__ import annotations

from pathlib import Path

from regard.checkpoint.files import read_json

from .canonical import CLASS_NAME as canonical_name
from .canonical import read_canonical
from .ctc import CLASS_NAME as ctc_name
from .ctc import CTCTokenizer
from .text import Tokenizer


def read_tokenizer(folder: Path, *, ctc: bool = False) -> Tokenizer | CTCTokenizer:
    """The tokenizer in a folder, of whichever sort."""
    config = read_json(folder / "tokenizer_config.json") if (folder / "tokenizer_config.json").is_file() else {}
    built = (folder / "tokenizer.json").is_file()
    if config.get("tokenizer_class") == ctc_name or (ctc and not built):
        return CTCTokenizer.from_folder(folder)
    if config.get("tokenizer_class") == canonical_name and not built:
        return read_canonical(folder)
    return Tokenizer.from_folder(folder)
