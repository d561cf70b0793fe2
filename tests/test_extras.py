"""Optional packages are imported where they are, and named where they are not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from regard.extras import MissingExtra, need


def test_what_is_there_is_imported() -> None:
    assert need("json", "plot") is json
    assert need("json.decoder", "plot").JSONDecoder is json.JSONDecoder


@pytest.mark.parametrize("module", ["no_such_package", "no_such_package.part"])
def test_what_is_not_there_is_named_with_its_extra(module: str) -> None:
    with pytest.raises(MissingExtra) as caught:
        need(module, "plot")
    assert str(caught.value) == "this needs no_such_package: pip install 'regard[plot]'"
    assert isinstance(caught.value, ImportError)
    assert caught.value.name == "no_such_package"


def test_a_broken_package_is_not_taken_for_an_absent_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "half_installed.py").write_text("import no_such_dependency")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="no_such_dependency") as caught:
        need("half_installed", "plot")
    assert not isinstance(caught.value, MissingExtra)
