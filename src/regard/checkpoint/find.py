"""From what a user types (a folder, an embedded name, a hub id) to a folder of checkpoint files on this machine."""

from __future__ import annotations

import importlib.resources
import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from regard.checkpoint import hub
from regard.checkpoint.files import JSON_LIMIT, check_file_name, read_json

_PART = r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]{0,94}[A-Za-z0-9_])?"  # the hub's rule for the parts of an id
_HUB_ID = re.compile(rf"(?:{_PART}/)?{_PART}")
_REVISION = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_./-]{0,254}")
_EMBEDDED = "regard/"

FORMS = (
    "a folder that exists, an embedded model such as 'regard/shakespeare', "
    "or a hub id such as 'gpt2' or 'google-bert/bert-base-uncased'"
)


@dataclass(frozen=True, kw_only=True)
class Folder:
    """A folder of checkpoint files, and the name under which the user asked for it."""

    path: Path
    name: str

    def file(self, name: str) -> Path | None:
        """The path of the regular file `name` (parts joined by "/"), or None where there is none.

        Raises ValueError for a name or a link that leads out of the folder, and for anything but a regular file.
        """
        check_file_name(name, self.path)
        path = self.path / name
        if not os.path.lexists(path):
            return None
        real = Path(os.path.realpath(path))
        if not any(real.is_relative_to(root) for root in self._roots()):
            raise ValueError(f"{path} is a link that leads out of its folder, to {real}; refused")
        try:
            mode = os.stat(real).st_mode
        except OSError:
            raise ValueError(f"{path} is a link to {real}, which does not exist") from None
        if not stat.S_ISREG(mode):
            raise ValueError(f"{path} is not a regular file")
        return path

    def json(self, name: str, *, limit: int = JSON_LIMIT) -> dict[str, Any] | None:
        """The JSON object in file `name`, or None where there is no such file; errors as in `file` and `read_json`."""
        path = self.file(name)
        return None if path is None else read_json(path, limit=limit)

    def listing(self, limit: int = 20) -> str:
        """The names of what lies in the folder, for error messages: sorted, `limit` at most."""
        names = sorted(entry.name for entry in os.scandir(self.path))
        shown = ", ".join(repr(name)[1:-1] for name in names[:limit]) or "nothing"
        return shown if len(names) <= limit else f"{shown}, ... ({len(names)} in all)"

    def _roots(self) -> list[Path]:
        """Where files may really lie: in the folder, and for a folder of the hub's cache in the cache's blobs."""
        root = Path(os.path.realpath(self.path))
        roots = [root]
        repo = root.parent.parent
        # <cache>/models--org--name/snapshots/<revision>/file -> ../../blobs/<hash>, itself perhaps -> <cache>/blobs/..
        if root.parent.name == "snapshots" and repo.name.startswith("models--"):
            roots += [repo / "blobs", repo.parent / "blobs"]
        return roots


def find(ref: str | os.PathLike[str], *, revision: str | None = None, offline: bool | None = None) -> Folder:
    """Find the checkpoint that `ref` names: a folder, an embedded "regard/<name>", or a hub id (downloaded, cached).

    A folder that exists comes first. `revision` (a branch, tag or commit) is for hub ids only. `offline` uses the
    hub's cache alone; None follows the variable HF_HUB_OFFLINE. A path object always means a folder.
    Raises ValueError for a name that is none of these or that nobody knows, PermissionError where a token is needed,
    ConnectionError where the hub cannot be reached.
    """
    name = os.fspath(ref)
    if not isinstance(name, str):
        raise ValueError(f"a model is named by {FORMS}; got {name!r}")
    if revision is not None and (not _REVISION.fullmatch(revision) or ".." in revision):
        raise ValueError(f"revision {revision!r} is not a branch, tag or commit")
    path = os.path.expanduser(name)
    if os.path.isdir(path):
        return Folder(path=_local(Path(path), name, revision), name=name)
    if os.path.exists(path):
        parent = os.path.dirname(os.path.abspath(path))
        raise ValueError(f"{name!r} is a file; give the folder that holds it, {parent!r}")
    if isinstance(ref, str) and name.startswith(_EMBEDDED):
        return Folder(path=_local(_embedded(name), name, revision), name=name)
    if not isinstance(ref, str) or not _HUB_ID.fullmatch(name) or "--" in name or ".." in name or name.endswith(".git"):
        raise ValueError(f"there is no folder {name!r}; allowed are {FORMS}")
    return Folder(path=hub.download(name, revision=revision or "main", offline=offline), name=name)


def embedded_names() -> list[str]:
    """The names of the models that come inside of this package, such as "regard/shakespeare", sorted."""
    zoo = _zoo()
    if not zoo.is_dir():
        return []
    return sorted(_EMBEDDED + folder.name for folder in zoo.iterdir() if (folder / "config.json").is_file())


def _local(path: Path, name: str, revision: str | None) -> Path:
    if revision is not None:
        raise ValueError(f"revision {revision!r} was given, but {name!r} is on this machine; revisions are for hub ids")
    return path


def _embedded(name: str) -> Path:
    known = embedded_names()
    if name not in known:
        raise ValueError(f"there is no embedded model {name!r}; there are {', '.join(known) or 'none'}")
    return _zoo() / name.removeprefix(_EMBEDDED)


def _zoo() -> Path:
    return Path(str(importlib.resources.files("regard") / "zoo"))
