"""Downloads from a model hub that runs on this machine's loopback and misbehaves on demand."""

from __future__ import annotations

import hashlib
import http.server
import json
import os
import socket
import subprocess
import sys
import threading
import types
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from huggingface_hub import constants, file_download
from huggingface_hub.utils import close_session

from regard.checkpoint import hub
from regard.checkpoint.find import find
from regard.checkpoint.read import open_weights
from tests.checkpoint import hostile

COMMIT = "0123456789abcdef0123456789abcdef01234567"
ID = "org/tiny"


@dataclass
class Hub:
    """What the server holds, what it was asked, and how it misbehaves."""

    files: dict[str, bytes]
    log: list[tuple[str, str, str]] = field(default_factory=list)  # method, path, range
    url: str = ""
    refuse: dict[str, tuple[int, str]] = field(default_factory=dict)  # part of a path -> status, X-Error-Code
    corrupt: set[str] = field(default_factory=set)
    longer: set[str] = field(default_factory=set)
    cut: dict[str, int] = field(default_factory=dict)  # name -> bytes sent before the line breaks, once
    stall: set[str] = field(default_factory=set)  # parts of paths that are never answered
    answer: bytes | None = None  # in place of the description of the model
    commit: str = COMMIT
    done: threading.Event = field(default_factory=threading.Event)

    def asked(self, method: str) -> list[str]:
        return [path.rsplit("/", 1)[-1] for kind, path, _ in self.log if kind == method and "/resolve/" in path]


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, *_: object) -> None:
        pass

    def reply(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def do_GET(self) -> None:
        path = self.path.split("?")[0]
        self.hub.log.append((self.command, path, self.headers.get("Range", "")))
        if any(part in path for part in self.hub.stall):
            self.hub.done.wait(10)
            self.close_connection = True
            return
        for part, (status, code) in self.hub.refuse.items():
            if part in path:
                self.reply(status, b"{}", **({"X_Error_Code": code} if code else {}))
                return
        if path.startswith("/api/models/"):
            self.reply(200, self.describe(), Content_Type="application/json")
        elif path.startswith(f"/{ID}/resolve/{self.hub.commit}/"):
            self.send_file(path.split("/", 5)[5])
        else:
            self.reply(404, b"{}", X_Error_Code="EntryNotFound")

    do_HEAD = do_GET

    def describe(self) -> bytes:
        if self.hub.answer is not None:
            return self.hub.answer
        siblings = []
        for name, content in self.hub.files.items():
            entry: dict[str, Any] = {"rfilename": name, "size": len(content), "blobId": git_name(content)}
            if name.endswith((".safetensors", ".bin")):
                sha = hashlib.sha256(content).hexdigest()
                entry["lfs"] = {"size": len(content), "sha256": sha, "pointerSize": 130}
            siblings.append(entry)
        return json.dumps({"id": ID, "sha": self.hub.commit, "siblings": siblings}).encode()

    def send_file(self, name: str) -> None:
        content = self.hub.files[name]
        tag = hashlib.sha256(content).hexdigest() if name.endswith((".safetensors", ".bin")) else git_name(content)
        headers = {"ETag": f'"{tag}"', "X_Repo_Commit": self.hub.commit, "Accept_Ranges": "bytes"}
        if name in self.hub.corrupt:
            content = content[:-1] + bytes([content[-1] ^ 1])
        if name in self.hub.longer and self.command == "GET":
            content += b"more"
        asked = self.headers.get("Range", "")
        if asked.startswith("bytes="):
            begin = int(asked.removeprefix("bytes=").rstrip("-"))
            span = f"bytes {begin}-{len(content) - 1}/{len(content)}"
            self.reply(206, content[begin:], Content_Range=span, **headers)
        elif self.command == "GET" and name in self.hub.cut:
            self.send_response(200)
            for key, value in {"Content-Length": str(len(content)), **headers}.items():
                self.send_header(key.replace("_", "-"), value)
            self.end_headers()
            self.wfile.write(content[: self.hub.cut.pop(name)])
            self.close_connection = True
        else:
            self.reply(200, content, **headers)


def git_name(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "home" / "hub"


@pytest.fixture
def server(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    source = tmp_path / "source"
    source.mkdir()
    hostile.base(source)
    files = {path.name: path.read_bytes() for path in source.iterdir()}
    unwanted = ("README.md", "modeling.py", "tokenizer.pkl", "pytorch_model.bin", "flax_model.msgpack", "onnx/x.model")
    state = Hub(files={**files, **dict.fromkeys(unwanted, b"no")})
    handler = type("OneHub", (Handler,), {"hub": state})
    machine = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=machine.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    state.url = f"http://127.0.0.1:{machine.server_port}"
    use(monkeypatch, state.url, cache)
    yield state
    state.done.set()
    close_session()
    machine.shutdown()
    machine.server_close()
    thread.join()


def use(monkeypatch: pytest.MonkeyPatch, url: str, cache: Path) -> None:
    """What the variables HF_ENDPOINT, HF_HUB_CACHE and so on do when the client is imported."""
    close_session()  # a client kept from another test would keep its connections
    monkeypatch.setattr(constants, "ENDPOINT", url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_ETAG_TIMEOUT", 0.5)
    monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 0.5)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    # Its pauses between attempts would only take time.
    monkeypatch.setattr(file_download, "time", types.SimpleNamespace(sleep=lambda seconds: None))


def blobs(cache: Path) -> list[Path]:
    return [path for path in cache.rglob("*") if path.is_file() and path.parent.name == "blobs"]


def check_whole(folder_name: str = ID, **options: Any) -> None:
    folder = find(folder_name, **options)
    assert folder.json("config.json") == hostile.CONFIG
    weights, expected = open_weights(folder), hostile.state_dict()
    assert sorted(weights.keys()) == sorted(expected)
    assert all(torch.equal(weights.load(key), expected[key]) for key in expected)


def test_only_what_is_wanted_is_fetched(server: Hub, cache: Path) -> None:
    check_whole()
    wanted = ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]
    folder = find(ID).path
    assert sorted(path.name for path in folder.iterdir()) == wanted
    assert sorted(server.asked("GET")) == wanted
    assert folder == cache / "models--org--tiny" / "snapshots" / COMMIT
    assert (folder / "model.safetensors").is_symlink(), "the layout is that of the hub's client"


def test_what_is_cached_is_not_fetched_again(server: Hub) -> None:
    check_whole()
    server.log.clear()
    check_whole()
    assert [path for _, path, _ in server.log] == [f"/api/models/{ID}/revision/main"]


def test_a_new_commit_fetches_only_what_changed(server: Hub) -> None:
    check_whole()
    server.log.clear()
    server.commit = "f" * 40
    server.files["tokenizer_config.json"] = b"{}"
    check_whole()
    assert server.asked("GET") == ["tokenizer_config.json"]
    assert find(ID).json("tokenizer_config.json") == {}


def test_other_programs_find_the_files(server: Hub) -> None:
    from huggingface_hub import snapshot_download

    folder = find(ID).path
    assert snapshot_download(ID, local_files_only=True, cache_dir=constants.HF_HUB_CACHE) == str(folder)


def test_revisions(server: Hub) -> None:
    check_whole(revision="refs/pr/1")
    assert server.log[0][1] == f"/api/models/{ID}/revision/refs%2Fpr%2F1"
    check_whole(revision="refs/pr/1", offline=True)
    check_whole(revision=COMMIT, offline=True)
    with pytest.raises(FileNotFoundError):
        find(ID, revision="main", offline=True)


def test_shards(server: Hub) -> None:
    state = hostile.state_dict()
    names = list(state)
    shards = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    del server.files["model.safetensors"]
    for shard, keys in shards.items():
        server.files[shard] = safetensors.torch.save({key: state[key] for key in keys})
    table = {key: shard for shard, keys in shards.items() for key in keys}
    server.files["model.safetensors.index.json"] = json.dumps({"weight_map": table}).encode()
    server.files["c.safetensors"] = b"not in the index"
    check_whole()
    assert "c.safetensors" not in server.asked("GET")
    assert "pytorch_model.bin" not in server.asked("GET")


@pytest.mark.parametrize("shard", ["../../../x", "/etc/passwd", "x/y.safetensors", "missing.safetensors"])
def test_index_that_names_other_files(shard: str, server: Hub, tmp_path: Path) -> None:
    del server.files["model.safetensors"]
    server.files["model.safetensors.index.json"] = json.dumps({"weight_map": {"x": shard}}).encode()
    with pytest.raises(ValueError, match=r"model\.safetensors\.index\.json.*(refused|does not have)"):
        find(ID)
    assert len(server.asked("GET")) == 4, "the small files and the index"


def test_bin_files_only_without_safetensors(server: Hub, tmp_path: Path) -> None:
    del server.files["model.safetensors"]
    torch.save(hostile.state_dict(), tmp_path / "x")
    server.files["pytorch_model.bin"] = (tmp_path / "x").read_bytes()
    check_whole()


def test_an_adapter_has_other_names(server: Hub) -> None:
    server.files = {name: b"{}" for name in ("README.md", "adapter_config.json", "adapter_model.safetensors")}
    folder = find(ID).path
    assert sorted(path.name for path in folder.iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]


def test_interrupted_download_is_resumed(server: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1000)  # the client keeps whole chunks of, usually, 10 MB
    server.cut["model.safetensors"] = 2500
    check_whole()
    ranges = [span for method, path, span in server.log if method == "GET" and path.endswith("model.safetensors")]
    assert ranges == ["", "bytes=2000-"]


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_wrong_hash(name: str, server: Hub, cache: Path) -> None:
    server.corrupt.add(name)
    with pytest.raises(ValueError, match=rf"'org/tiny': {name} from 127.* arrived damaged \(sha(1|256) .* in place of"):
        find(ID)
    assert not list(cache.rglob(name)), "nothing of it is kept"
    contents = [path.read_bytes() for path in blobs(cache)]
    assert all(content in server.files.values() for content in contents), "no blob is a damaged one"
    with pytest.raises(FileNotFoundError):
        find(ID, offline=True)
    server.corrupt.clear()
    check_whole()


def test_wrong_length(server: Hub, cache: Path) -> None:
    server.longer.add("model.safetensors")
    with pytest.raises(ValueError, match="arrived damaged"):
        find(ID)
    assert not list(cache.rglob("model.safetensors"))
    assert not list(cache.rglob("*.incomplete"))
    server.longer.clear()
    check_whole()


@pytest.mark.parametrize(
    ("status", "code", "error", "message"),
    [
        (404, "RepoNotFound", ValueError, "knows no model 'org/tiny'$"),
        (404, "", ValueError, "knows no model 'org/tiny'$"),
        (404, "RevisionNotFound", ValueError, "'org/tiny' on 127.* has no revision 'main'"),
        (401, "", ValueError, "knows no model 'org/tiny', or it is private; .* token .*HF_TOKEN"),
        (401, "GatedRepo", PermissionError, "'org/tiny' on 127.* is gated: .* token .*HF_TOKEN"),
        (403, "GatedRepo", PermissionError, "is gated: .* token"),
        (403, "", PermissionError, "is gated: .* token"),
        (429, "", ConnectionError, "answered 429 .* try again later"),
        (503, "", ConnectionError, "answered 503 .* try again later"),
    ],
)
def test_refusals(status: int, code: str, error: type[Exception], message: str, server: Hub, cache: Path) -> None:
    server.refuse["/api/models/"] = (status, code)
    with pytest.raises(error, match=message):
        find(ID)
    assert not blobs(cache)


@pytest.mark.parametrize("status", [401, 403])
def test_gated_files_of_a_public_page(status: int, server: Hub, cache: Path) -> None:
    """What the hub really does for gated models: everybody may see the list of files, but not the files."""
    server.refuse["/resolve/"] = (status, "GatedRepo")
    with pytest.raises(PermissionError, match=r"is gated: .* token"):
        find(ID)
    assert not blobs(cache)


@pytest.mark.parametrize(
    "answer",
    [
        b"<html>Please log in to the hotel's network</html>",
        b"[]",
        b'{"id": "org/tiny"}',
        b'{"id": "org/tiny", "sha": "../../x", "siblings": []}',
        b'{"id": "org/tiny", "sha": "%b", "siblings": [{}]}' % COMMIT.encode(),
        b'{"id": "org/tiny", "sha": "%b", "siblings": [1]}' % COMMIT.encode(),
    ],
)
def test_answers_of_no_hub(answer: bytes, server: Hub) -> None:
    server.answer = answer
    with pytest.raises(ConnectionError, match="does not answer like a model hub"):
        find(ID)


def test_names_that_lead_out_are_not_wanted(server: Hub, tmp_path: Path) -> None:
    siblings = [{"rfilename": name} for name in ("../x.model", "a/b.model", "..\\x.model", "/x.model", "x.py")]
    server.answer = json.dumps({"id": ID, "sha": COMMIT, "siblings": siblings}).encode()
    with pytest.raises(ValueError, match="holds no checkpoint"):
        find(ID)
    assert not server.asked("GET")


def test_no_hub_at_all(server: Hub, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check_whole()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    use(monkeypatch, f"http://127.0.0.1:{port}", cache)
    with pytest.warns(UserWarning, match=rf"127\.0\.0\.1:{port} cannot be reached .* Using the copy"):
        check_whole()
    with pytest.raises(
        ConnectionError, match=rf"127\.0\.0\.1:{port} cannot be reached .* give a folder .*offline=True"
    ):
        find(ID, offline=False)
    with pytest.raises(ConnectionError, match="cannot be reached for 'org/other'"):
        find("org/other")


def test_hub_that_does_not_answer(server: Hub) -> None:
    server.stall.add("/api/models/")
    with pytest.raises(ConnectionError, match=r"cannot be reached .*Timeout"):
        find(ID)


def test_hub_that_stops_in_the_middle(server: Hub, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 0.1)
    check_head = Handler.do_GET

    def stall_bodies(handler: Handler) -> None:
        if handler.command == "GET" and handler.path.endswith("model.safetensors"):
            handler.hub.log.append(("GET", handler.path, handler.headers.get("Range", "")))
            handler.hub.done.wait(10)
            handler.close_connection = True
        else:
            check_head(handler)

    monkeypatch.setattr(Handler, "do_GET", stall_bodies)
    with pytest.raises(ConnectionError, match=r"cannot be reached .*Timeout"):
        find(ID)
    assert not list(cache.rglob("*.incomplete"))
    assert not list(cache.rglob("model.safetensors"))


def test_offline_sends_nothing(server: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(FileNotFoundError, match=r"'org/tiny' .* is not in the cache .* load it once online"):
        find(ID, offline=True)
    assert not server.log
    check_whole()
    server.log.clear()
    check_whole(offline=True)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    check_whole()
    with pytest.raises(FileNotFoundError):
        find("org/other")
    assert not server.log


def test_an_unfinished_download_is_not_taken_for_the_model(server: Hub) -> None:
    server.refuse["model.safetensors"] = (403, "")
    with pytest.raises(PermissionError):
        hub.download(ID)
    assert len(server.asked("GET")) == 3, "the small files did come"
    with pytest.raises(FileNotFoundError):
        find(ID, offline=True)


def test_in_a_process_of_its_own(server: Hub, tmp_path: Path) -> None:
    """The variables that people set are enough: online once, then offline without a word sent."""
    script = (
        "import sys; from regard.checkpoint.find import find; assert 'huggingface_hub' not in sys.modules;"
        f"print(find({ID!r}).path)"
    )
    environment = {
        **{key: value for key, value in os.environ.items() if not key.startswith("HF_")},
        "HF_ENDPOINT": server.url,
        "HF_HOME": str(tmp_path / "home"),
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "PYTHONPATH": os.pathsep.join(sys.path),
    }

    def run(**more: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", script]
        return subprocess.run(command, env={**environment, **more}, capture_output=True, text=True, timeout=60)

    cold = run(HF_HUB_OFFLINE="1")
    assert cold.returncode == 1
    assert "FileNotFoundError: 'org/tiny'" in cold.stderr
    assert not server.log
    first = run()
    assert first.returncode == 0, first.stderr
    assert len(server.asked("GET")) == 4
    server.log.clear()
    second = run(HF_HUB_OFFLINE="1")
    assert (second.returncode, second.stdout) == (0, first.stdout), second.stderr
    assert not server.log
