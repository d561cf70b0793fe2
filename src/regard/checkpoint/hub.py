"""Checkpoints from a model hub, kept in the hub's own cache, each file checked against the hash that the hub states."""

from __future__ import annotations

import contextlib
import fnmatch
import hashlib
import os
import re
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast
from urllib.parse import urlsplit

from regard.checkpoint.files import INDEX_LIMIT, atomic, read_json, weight_map

# Nothing else is ever fetched: no code (*.py), no pickles but the weights, no other framework's weights.
SMALL_FILES = (
    "config.json",
    "adapter_config.json",
    "generation_config.json",
    "tokenizer*.json",
    "vocab*.json",
    "vocab*.txt",
    "vocab.bpe",
    "merges.txt",
    "*.model",
    "*.spm",
    "special_tokens_map.json",
    "added_tokens.json",
    "preprocessor_config.json",
    "processor_config.json",
    "chat_template.json",
    "chat_template.jinja",
    "modules.json",
    "1_Pooling/config.json",
    "sentence_bert_config.json",
    "config_sentence_transformers.json",
)
# The first that a repository has is fetched, an index with its shards.
WEIGHT_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
    "adapter_model.safetensors",
    "adapter_model.bin",
)

_COMMIT = re.compile(r"[0-9a-f]{40}")
_TRUE = ("1", "ON", "YES", "TRUE")


class _Sibling(Protocol):
    """What is used of the hub's description of a file."""

    rfilename: str
    size: int | None
    blob_id: str | None
    lfs: Any


@dataclass(frozen=True, kw_only=True)
class _Repo:
    """A model on the hub at one commit."""

    id: str
    commit: str
    files: Mapping[str, _Sibling]


def download(repo_id: str, *, revision: str = "main", offline: bool | None = None) -> Path:
    """Fetch the files of a model on the hub that are not yet in the cache, and return its folder in the cache.

    With `offline=True` (or None and HF_HUB_OFFLINE set) nothing is sent anywhere. With None, a hub that cannot be
    reached is replaced by the cache, with a warning. Time-outs are HF_HUB_ETAG_TIMEOUT and HF_HUB_DOWNLOAD_TIMEOUT.
    Raises ValueError for an unknown model or revision and for files that arrive damaged (they are removed again),
    PermissionError where a token is needed, ConnectionError for an unreachable hub, FileNotFoundError for a model that
    is not in the cache when offline.
    """
    if offline or (offline is None and _offline_wanted()):
        folder = _cached(repo_id, revision)
        if folder is None:
            raise FileNotFoundError(
                f"{repo_id!r} (revision {revision!r}) is not in the cache {_cache()}, and the hub is not asked while "
                "offline; load it once online (offline=False, HF_HUB_OFFLINE unset), or give a folder"
            )
        return folder
    try:
        with _plain_errors(repo_id, revision):
            return _fetch(repo_id, revision)
    except ConnectionError as error:
        folder = _cached(repo_id, revision) if offline is None else None
        if folder is None:
            raise
        warnings.warn(f"{error}. Using the copy of {repo_id!r} in the cache.", stacklevel=3)
        return folder


def _fetch(repo_id: str, revision: str) -> Path:
    repo = _describe(repo_id, revision)
    names = [name for name in repo.files if _wanted(name)]
    weights = next((name for name in WEIGHT_FILES if name in repo.files), None)
    if not names and weights is None:
        raise ValueError(f"{repo_id!r} on {_host()} holds no checkpoint (config.json, model.safetensors, ...)")
    # Small files first: what is wrong with a model mostly shows before its gigabytes have come.
    for name in sorted(names):
        _fetch_file(repo, name)
    if weights is not None:
        path = _fetch_file(repo, weights)
        if weights.endswith(".index.json"):
            where = f"{repo_id!r}: {weights}"
            for shard in sorted(set(weight_map(read_json(path, limit=INDEX_LIMIT), where).values())):
                if shard not in repo.files:
                    raise ValueError(f"{where} names the file {shard!r}, which {_host()} does not have")
                _fetch_file(repo, shard)
    _remember(repo_id, revision, repo.commit)
    return _repo_folder(repo_id) / "snapshots" / repo.commit


def _wanted(name: str) -> bool:
    # A pattern's star would match slashes too.
    plain = not re.search(r"[\x00-\x1f\\/:]", name)
    return name in SMALL_FILES or (plain and any(fnmatch.fnmatchcase(name, pattern) for pattern in SMALL_FILES))


def _describe(repo_id: str, revision: str) -> _Repo:
    """Ask the hub for the commit behind `revision` and its list of files."""
    from huggingface_hub import HfApi, constants

    api = HfApi(library_name="regard")
    try:
        info = api.model_info(
            repo_id, revision=revision, files_metadata=True, timeout=float(constants.HF_HUB_ETAG_TIMEOUT)
        )
        commit, siblings = info.sha, info.siblings
        files: dict[str, _Sibling] = {str(sibling.rfilename): sibling for sibling in siblings or []}
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        if isinstance(error, OSError):  # the hub's own errors, some of which are ValueErrors too
            raise
        raise ConnectionError(f"{_host()} does not answer like a model hub when asked for {repo_id!r}") from error
    if not isinstance(commit, str) or not _COMMIT.fullmatch(commit):
        raise ConnectionError(f"{_host()} does not answer like a model hub: the commit of {repo_id!r} is {commit!r}")
    return _Repo(id=repo_id, commit=commit, files=files)


def _fetch_file(repo: _Repo, name: str) -> Path:
    """The path of one file in the cache, downloaded and checked if it was not there."""
    from huggingface_hub import constants, hf_hub_download

    path = _repo_folder(repo.id) / "snapshots" / repo.commit / name
    if path.exists():
        return path
    hf_hub_download(
        repo.id,
        name,
        revision=repo.commit,
        cache_dir=_cache(),
        etag_timeout=float(constants.HF_HUB_ETAG_TIMEOUT),
        library_name="regard",
    )
    problem = _damage(path, repo.files[name])
    if problem is not None:
        _remove(path)
        raise ValueError(f"{repo.id!r}: {name} from {_host()} arrived damaged ({problem}); nothing of it was kept")
    return path


def _damage(path: Path, stated: _Sibling) -> str | None:
    """What contradicts the hub's statement about a file, or None."""
    size = path.stat().st_size
    large = stated.lfs
    stated_size = large.size if large is not None else stated.size
    if stated_size is not None and size != stated_size:
        return f"{size} bytes in place of {stated_size}"
    if large is not None:
        wanted, digest = large.sha256, hashlib.sha256()
    elif stated.blob_id is not None:
        # git's name for a blob: https://git-scm.com/book/en/v2/Git-Internals-Git-Objects
        wanted, digest = stated.blob_id, hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)
    else:
        return None
    with open(path, "rb") as file:
        while chunk := file.read(2**20):
            digest.update(chunk)
    found = digest.hexdigest()
    return None if found == wanted else f"{digest.name} {found} in place of {wanted}"


def _remove(path: Path) -> None:
    """Remove a file of the cache: the link in the snapshot and the blobs behind it."""
    cache = os.path.realpath(_cache())
    while True:
        target = Path(os.path.abspath(path.parent / os.readlink(path))) if path.is_symlink() else None
        path.unlink(missing_ok=True)
        if target is None or not target.is_relative_to(cache):
            return
        path = target


def _remember(repo_id: str, revision: str, commit: str) -> None:
    """Note in the cache which commit a branch or tag stands for, once all of its files are there."""
    if revision == commit:
        return
    note = _repo_folder(repo_id) / "refs" / revision
    if not note.is_file() or note.read_text(encoding="ascii", errors="replace") != commit:
        note.parent.mkdir(parents=True, exist_ok=True)
        with atomic(note) as temporary:
            temporary.write_text(commit, encoding="ascii")


def _cached(repo_id: str, revision: str) -> Path | None:
    """The folder of a model in the cache, without asking anybody."""
    repo = _repo_folder(repo_id)
    commit = revision
    if not _COMMIT.fullmatch(revision):
        try:
            commit = (repo / "refs" / revision).read_text(encoding="ascii").strip()
        except (OSError, UnicodeDecodeError):
            return None
    folder = repo / "snapshots" / commit
    return folder if _COMMIT.fullmatch(commit) and folder.is_dir() else None


def _cache() -> Path:
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE).expanduser().absolute()


def _repo_folder(repo_id: str) -> Path:
    return _cache() / f"models--{repo_id.replace('/', '--')}"


def _host() -> str:
    from huggingface_hub import constants

    return urlsplit(constants.ENDPOINT).netloc or str(constants.ENDPOINT)


def _offline_wanted() -> bool:
    from huggingface_hub import constants

    # The package reads the variable once, when it is imported; it may have been set since.
    return constants.HF_HUB_OFFLINE or os.environ.get("HF_HUB_OFFLINE", "").upper() in _TRUE


@contextlib.contextmanager
def _plain_errors(repo_id: str, revision: str) -> Iterator[None]:
    """Turn what the hub's client raises into errors that say what happened and what to do."""
    from huggingface_hub import errors

    # Of httpx or its successor, as the version of the client has it.
    http_error = cast(type[Exception], errors.HfHubHTTPError.__bases__[0])
    host = _host()
    try:
        yield
    except errors.HfHubHTTPError as error:
        raise _http_problem(error, repo_id, revision) from error
    except (http_error, errors.OfflineModeIsEnabled, errors.LocalEntryNotFoundError) as error:
        cause = error.__cause__ if isinstance(error, errors.LocalEntryNotFoundError) and error.__cause__ else error
        if isinstance(cause, errors.HfHubHTTPError):
            raise _http_problem(cause, repo_id, revision) from error
        raise ConnectionError(
            f"{host} cannot be reached for {repo_id!r} ({type(cause).__name__}: {_first_line(cause)}); give a folder "
            "in place of a hub id, or offline=True for a model that is in the cache"
        ) from error
    except OSError as error:
        # The client reports a body of the wrong length as an OSError of no system call.
        if error.errno is not None or isinstance(error, (ConnectionError, PermissionError)):
            raise
        message = f"{repo_id!r} from {host} arrived damaged ({_first_line(error)}); nothing of the file was kept"
        raise ValueError(message) from error


def _http_problem(error: Any, repo_id: str, revision: str) -> OSError | ValueError:
    from huggingface_hub import errors

    status, host = error.response.status_code, _host()
    token = "a token (`hf auth login`, or the variable HF_TOKEN)"
    if isinstance(error, errors.GatedRepoError) or status == 403:
        return PermissionError(
            f"{repo_id!r} on {host} is gated: its page must be visited to accept its terms, and {token} is needed"
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return ValueError(f"{repo_id!r} on {host} has no revision {revision!r}")
    if isinstance(error, errors.RemoteEntryNotFoundError):
        return ValueError(f"{repo_id!r} on {host}: {_first_line(error)} for {error.response.url}")
    if status == 401:  # the hub does not tell strangers whether a private model exists
        return ValueError(f"{host} knows no model {repo_id!r}, or it is private; for a private one {token} is needed")
    if status == 404:
        return ValueError(f"{host} knows no model {repo_id!r}")
    return ConnectionError(f"{host} answered {status} when asked for {repo_id!r}; try again later, or give a folder")


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or ["no reason given"])[0][:300]
