"""From names to folders, and what may be read in a folder; with the JSON reader and the atomic writer."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest

from regard.checkpoint import find as find_module
from regard.checkpoint import hub
from regard.checkpoint.files import MAX_DEPTH, atomic, read_json, write_json
from regard.checkpoint.find import Folder, embedded_names, find


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[tuple[str, str, bool | None]]:
    """What would be asked of the hub; answered with a folder."""
    calls: list[tuple[str, str, bool | None]] = []

    def download(repo_id: str, *, revision: str = "main", offline: bool | None = None) -> Path:
        calls.append((repo_id, revision, offline))
        return tmp_path

    monkeypatch.setattr(hub, "download", download)
    return calls


@pytest.fixture
def zoo(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    folder = tmp_path / "zoo"
    for name in ("shakespeare", "tiny-bert"):
        (folder / name).mkdir(parents=True)
        (folder / name / "config.json").write_text("{}")
    (folder / "unfinished").mkdir()
    monkeypatch.setattr(find_module, "_zoo", lambda: folder)
    return folder


def test_a_folder_is_itself(tmp_path: Path, asked: list[object]) -> None:
    assert find(tmp_path) == Folder(path=tmp_path, name=str(tmp_path))
    assert find(str(tmp_path)).path == tmp_path
    assert not asked


def test_a_folder_comes_before_the_hub(tmp_path: Path, asked: list[object], monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "org" / "name").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert find("org/name") == Folder(path=Path("org/name"), name="org/name")
    assert not asked


def test_home_is_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "models").mkdir()
    assert find("~/models") == Folder(path=tmp_path / "models", name="~/models")


@pytest.mark.parametrize("name", ["gpt2", "google-bert/bert-base-uncased", "a/b.c_d-e", "o_/_n"])
def test_hub_ids(name: str, asked: list[object], tmp_path: Path) -> None:
    assert find(name, offline=True) == Folder(path=tmp_path, name=name)
    find(name, revision="refs/pr/1")
    assert asked == [(name, "main", True), (name, "refs/pr/1", None)]


@pytest.mark.parametrize(
    "name",
    [
        "",
        "./missing",
        "../missing",
        "/missing/folder",
        "~/no-such-folder-here",
        "C:\\models\\x",
        "a\\b",
        "a/b/c",
        "a/",
        "/a",
        "a//b",
        "a b",
        "-a/b",
        "a/.b",
        "a/b..c",
        "a/b--c",
        "a/b.git",
        "a\x00b",
        "a\n",
        "é/b",
        "a" * 5000,
        "https://huggingface.co/gpt2",
        "hf://gpt2",
    ],
)
def test_what_is_no_name(name: str, asked: list[object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"there is no folder .* hub id"):
        find(name)
    assert not asked


def test_a_path_object_is_never_a_hub_id(asked: list[object]) -> None:
    with pytest.raises(ValueError, match="there is no folder 'org/name'"):
        find(Path("org/name"))
    with pytest.raises(ValueError, match="named by"):
        find(os.fsencode("org/name"))  # type: ignore[arg-type]
    assert not asked


def test_a_file_is_not_a_folder(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(ValueError, match="is a file; give the folder that holds it") as caught:
        find(tmp_path / "model.safetensors")
    assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize("revision", ["", "..", "a/../b", "-x", "/x", "a b", "a\\b", "x" * 300])
def test_revisions(revision: str, asked: list[object]) -> None:
    with pytest.raises(ValueError, match="not a branch, tag or commit"):
        find("org/name", revision=revision)
    assert not asked


def test_revisions_are_for_the_hub(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="revisions are for hub ids"):
        find(tmp_path, revision="main")


def test_embedded(zoo: Path, asked: list[object]) -> None:
    assert embedded_names() == ["regard/shakespeare", "regard/tiny-bert"]
    assert find("regard/shakespeare") == Folder(path=zoo / "shakespeare", name="regard/shakespeare")
    for name in ("regard/unfinished", "regard/nobody", "regard/../zoo", "regard/"):
        with pytest.raises(ValueError, match=r"no embedded model .* regard/shakespeare, regard/tiny-bert"):
            find(name)
    assert not asked


def test_embedded_models_lie_in_the_package() -> None:
    assert find_module._zoo() == Path(find_module.__file__).parents[1] / "zoo"


def test_files_of_a_folder(tmp_path: Path) -> None:
    folder = Folder(path=tmp_path, name="x")
    (tmp_path / "1_Pooling").mkdir()
    (tmp_path / "1_Pooling" / "config.json").write_text('{"a": 1}')
    assert folder.json("1_Pooling/config.json") == {"a": 1}
    assert folder.file("1_Pooling/config.json") == tmp_path / "1_Pooling" / "config.json"
    assert folder.file("config.json") is None
    assert folder.json("config.json") is None
    (tmp_path / "other.json").symlink_to("1_Pooling/config.json")
    assert folder.json("other.json") == {"a": 1}


@pytest.mark.parametrize("name", ["", ".", "..", "/etc/passwd", "../x", "a/../b", "a\\b", "C:x", "a//b", "a/", "x\x00"])
def test_names_of_files(name: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="refused"):
        Folder(path=tmp_path, name="x").file(name)


def test_links_within_the_hubs_cache(tmp_path: Path) -> None:
    """snapshots/<commit>/file -> blobs/<hash> is how the hub's client keeps files; nothing else may lead out."""
    repo = tmp_path / "models--org--name"
    snapshot = repo / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    for blob in (repo / "blobs" / "abc", tmp_path / "blobs" / "ab" / "abc", tmp_path / "models--org--other" / "secret"):
        blob.parent.mkdir(parents=True, exist_ok=True)
        blob.write_text('{"a": 1}')
    (snapshot / "config.json").symlink_to("../../blobs/abc")
    (repo / "blobs" / "shared").symlink_to("../../blobs/ab/abc")
    (snapshot / "shared.json").symlink_to("../../blobs/shared")
    (snapshot / "stolen.json").symlink_to("../../../models--org--other/secret")
    folder = Folder(path=snapshot, name="org/name")
    assert folder.json("config.json") == folder.json("shared.json") == {"a": 1}
    with pytest.raises(ValueError, match="leads out of its folder"):
        folder.json("stolen.json")


def test_read_json_takes_what_is_plain(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text('{"a": [1, 2.5, -3e-5, true, null, "\\u00e9é"], "b": 1, "b": 2}', encoding="utf-8")
    assert read_json(path) == {"a": [1, 2.5, -3e-5, True, None, "éé"], "b": 2}
    path.write_text('{"x": ' + "9" * 4000 + "}")
    assert read_json(path) == {"x": int("9" * 4000)}


def test_read_json_limits(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text('{"a": "' + "x" * 92 + '"}')
    assert len(read_json(path, limit=101)["a"]) == 92
    with pytest.raises(ValueError, match=r"x\.json has 101 bytes; at most 100"):
        read_json(path, limit=100)
    for depth in (MAX_DEPTH, MAX_DEPTH + 1):
        path.write_text('{"a":' * (depth - 1) + "{}" + "}" * (depth - 1))
        if depth == MAX_DEPTH:
            read_json(path)
        else:
            with pytest.raises(ValueError, match="nested deeper than 100 levels"):
                read_json(path)


def test_read_json_of_nothing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_json(tmp_path / "x.json")


def test_write_json(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    value = {"b": [1, 2.5], "a": "é"}
    write_json(path, value)
    assert read_json(path) == value
    text = path.read_text(encoding="utf-8")
    assert text == json.dumps(value, indent=2, ensure_ascii=False) + "\n"
    for bad in ({"a": float("nan")}, {"a": {1, 2}}, {"a": "\ud800"}):
        with pytest.raises(ValueError, match=r"x\.json cannot be written as JSON"):
            write_json(path, bad)
    assert path.read_text(encoding="utf-8") == text
    assert os.listdir(tmp_path) == ["x.json"]


def test_atomic_replaces_at_the_end_only(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_text("old")
    with atomic(path) as temporary:
        temporary.write_text("new")
        assert temporary.parent == tmp_path
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    umask = os.umask(0)
    os.umask(umask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~umask
    assert os.listdir(tmp_path) == ["x"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_atomic_leaves_nothing_behind(error: type[BaseException], tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_text("old")
    with pytest.raises(error), atomic(path) as temporary:
        temporary.write_text("half")
        raise error
    assert path.read_text() == "old"
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError), atomic(tmp_path / "folder") as temporary:
        temporary.write_text("whole")
    assert sorted(os.listdir(tmp_path)) == ["folder", "x"]


def test_atomic_does_not_write_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("precious")
    (tmp_path / "x").symlink_to("precious")
    write_json(tmp_path / "x", {})
    assert (tmp_path / "precious").read_text() == "precious"
    assert read_json(tmp_path / "x") == {}
