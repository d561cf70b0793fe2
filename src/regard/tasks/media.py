"""Reading input that is seen or heard: files, folders of them, bytes, arrays, and what holds many of these."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from regard.preprocess.media import TIMEOUT, is_source
from regard.tasks.inputs import Inputs
from regard.tasks.options import TaskOptions


@dataclass(frozen=True, kw_only=True)
class MediaOptions(TaskOptions):
    """`allow_hosts` names the hosts that web addresses may lead to (none unless said), each read within `timeout`
    seconds."""

    allow_hosts: tuple[str, ...] = ()
    timeout: float | None = None

    def check(self) -> None:
        super().check()
        self.require(self.timeout is None or self.timeout > 0, "timeout", "seconds above 0, or None")

    @property
    def access(self) -> dict[str, Any]:
        """The same as arguments of what reads."""
        return {"allow_hosts": self.allow_hosts, "timeout": self.timeout or TIMEOUT}


@dataclass(frozen=True, kw_only=True)
class LabelOptions(MediaOptions):
    """`top_k` labels, best first (unsaid: all). `function_to_apply` makes scores of logits; unsaid, what the kind of
    problem in config.json calls for."""

    top_k: int | None = None
    function_to_apply: Literal["softmax", "sigmoid", "none", "default"] | None = None

    def check(self) -> None:
        super().check()
        self.require(self.top_k != 0, "top_k", "at least 1, or None for all")


M = TypeVar("M", bound=MediaOptions)


def read_media(inputs: Any, is_one: Callable[[Any], bool], suffixes: Sequence[str]) -> Inputs:
    """Tell one item from many. The path object of a folder gives its files that end in `suffixes`, lazily, by name.

    Raises ValueError for a folder without any.
    """
    if isinstance(inputs, os.PathLike) and os.path.isdir(inputs):
        files = files_of(Path(inputs), suffixes)
        return Inputs(files, "lazy", len(files))
    if isinstance(inputs, (list, tuple)):
        return Inputs(inputs, "list", len(inputs))
    if is_source(inputs) or isinstance(inputs, dict) or not hasattr(inputs, "__iter__") or is_one(inputs):
        return Inputs([inputs], "one", 1)
    if hasattr(inputs, "ndim"):
        return Inputs(inputs, "list", len(inputs))
    return Inputs(inputs, "lazy", len(inputs) if hasattr(inputs, "__len__") else None)


def files_of(folder: Path, suffixes: Sequence[str]) -> list[Path]:
    """The files in a folder that end in one of the suffixes, by name; ValueError if there are none."""
    with os.scandir(folder) as entries:
        names = sorted(e.name for e in entries if e.name.lower().endswith(tuple(suffixes)) and not e.is_dir())
    if not names:
        raise ValueError(f"there are no files in {str(folder)!r} that end in {', '.join(suffixes)}")
    return [folder / name for name in names]


@contextmanager
def reading(item: Any) -> Iterator[None]:
    """Say what is wrong with a path in a ValueError that names it."""
    if isinstance(item, (str, os.PathLike)) and not os.fspath(item):
        raise ValueError("the name of the file is empty")
    try:
        yield
    except FileNotFoundError:
        raise ValueError(f"there is no file {str(item)!r:.300}") from None
    except OSError as error:
        raise ValueError(f"{str(item)!r:.300} cannot be read: {error.strerror or error}") from None
