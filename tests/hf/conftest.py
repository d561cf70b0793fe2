"""The hub cache that the tests of this folder share."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.hf import hub


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Path]]:
    """(HF_HUB_CACHE, the folder behind each id)"""
    pytest.importorskip("transformers", reason="the reference library is not installed (extra: oracle)")
    root = tmp_path_factory.mktemp("hub")
    return root / "cache", hub.make(root / "cache", root / "sources")
