"""Pairs of tokenizers over one folder: the reference's and ours."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from regard.preprocess.text import Tokenizer
from tests.preprocess.folders import FOLDERS


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """`folder("bert")` is a folder with that tokenizer, made once."""
    made: dict[str, Path] = {}

    def get(name: str) -> Path:
        if name not in made:
            path = tmp_path_factory.mktemp("tokenizers") / name
            path.mkdir()
            FOLDERS[name](path)
            made[name] = path
        return made[name]

    return get


@pytest.fixture(scope="session")
def pair(folder: Callable[[str], Path]) -> Callable[[str], tuple[Any, Tokenizer]]:
    """`pair("bert")` is (reference, ours) for that folder."""
    transformers = pytest.importorskip("transformers")
    made: dict[str, tuple[Any, Tokenizer]] = {}

    def get(name: str) -> tuple[Any, Tokenizer]:
        if name not in made:
            path = folder(name)
            kind = transformers.AutoTokenizer
            if not (path / "config.json").exists():
                config = json.loads((path / "tokenizer_config.json").read_text(encoding="utf-8"))
                kind = getattr(transformers, config["tokenizer_class"])
            made[name] = (kind.from_pretrained(path), Tokenizer.from_folder(path))
        return made[name]

    return get
