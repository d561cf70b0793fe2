"""Small checkpoints with tokenizers, to look into."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.checkpoint import hostile
from tests.hf import hub


@pytest.fixture(scope="session")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny BERT: one layer of two heads, a dozen words."""
    folder = tmp_path_factory.mktemp("reader")
    hostile.base(folder)
    return folder


@pytest.fixture(scope="session")
def translator(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny encoder-decoder: two layers of four heads in each of its stacks."""
    pytest.importorskip("transformers", reason="the reference library is not installed (extra: oracle)")
    root = tmp_path_factory.mktemp("translator")
    return hub.make(root / "cache", root / "sources")[hub.TRANSLATOR]
