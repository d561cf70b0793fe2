"""Small files of a checkpoint: JSON read with limits, anything written so that no half-written file is ever seen."""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

JSON_LIMIT = 10 * 2**20
"""Largest JSON file that `read_json` takes unless told otherwise, in bytes."""

INDEX_LIMIT = 100 * 2**20
"""Largest index of shards, or header of a weights file, that is read, in bytes; the largest models use some 15 MB."""

MAX_DEPTH = 100
"""Deepest nesting of objects and lists in a JSON file; later code may walk it recursively."""

_MAX_DIGITS = 4300  # Python's own limit on int <-> str, held here even where somebody has lifted it


def read_json(path: str | os.PathLike[str], *, limit: int = JSON_LIMIT) -> dict[str, Any]:
    """Read a JSON object from a file of at most `limit` bytes; of duplicate keys the last one counts.

    Raises ValueError, naming the file, for anything that is not a plain JSON object: no regular file, too big, not
    UTF-8, not JSON, NaN or Infinity, numbers beyond measure, deep nesting, or another value at the top level.
    """
    data = read_bytes(path, limit=limit)
    return parse_json(data, str(path), limit=limit)


def read_bytes(path: str | os.PathLike[str], *, limit: int) -> bytes:
    """Read a whole regular file of at most `limit` bytes; ValueError for a larger one or another kind of file."""
    # Opening a pipe would wait for a writer for ever, so look before.
    state = os.stat(path)
    if not stat.S_ISREG(state.st_mode):
        raise ValueError(f"{path} is not a regular file")
    with open(path, "rb") as file:
        data = file.read(limit + 1) if state.st_size <= limit else None
    if data is None or len(data) > limit:
        raise ValueError(f"{path} has {state.st_size:,} bytes; at most {limit:,} are read from such a file")
    return data


def parse_json(data: bytes, where: str, *, limit: int = JSON_LIMIT) -> dict[str, Any]:
    """Parse bytes as a JSON object under the rules of `read_json`; `where` names their source in errors."""
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{where} is not UTF-8 text: byte {error.start} cannot be decoded") from None
    # Each empty list or object costs some twenty times its text in memory: bound their number before parsing.
    containers = text.count("{") + text.count("[")
    if containers > max(limit // 20, 1000):
        raise ValueError(f"{where} has {containers:,} brackets, more than any file of this kind needs")
    try:
        value = json.loads(text, parse_constant=_refuse_constant, parse_float=_parse_float, parse_int=_parse_int)
    except RecursionError:
        raise ValueError(f"{where} is nested deeper than {MAX_DEPTH} levels") from None
    except ValueError as error:
        raise ValueError(f"{where} is not valid JSON: {error}") from None
    if not isinstance(value, dict):
        raise ValueError(f"{where} must hold a JSON object at the top level, not {_kind(value)}")
    if _deeper_than(value, MAX_DEPTH):
        raise ValueError(f"{where} is nested deeper than {MAX_DEPTH} levels")
    return value


def check_file_name(name: object, where: object) -> str:
    """Return `name` if it is a relative path of plain parts joined by "/"; else ValueError, naming its source."""
    # A backslash or a colon makes another path on Windows, so neither passes anywhere.
    if (
        isinstance(name, str)
        and not re.search(r"[\x00-\x1f\\:]", name)
        and not any(part in ("", ".", "..") for part in name.split("/"))
    ):
        return name
    raise ValueError(f"{where}: {_short(name)} is not the name of a file inside of the folder; refused")


def weight_map(index: dict[str, Any], where: object) -> dict[str, str]:
    """The table tensor -> shard of an index file, checked: shards are plain file names beside it; else ValueError."""
    table = index.get("weight_map")
    if not isinstance(table, dict) or not table:
        raise ValueError(f"{where}: weight_map must be an object of tensor names and their files, got {_short(table)}")
    for name in {str(shard): shard for shard in table.values()}.values():
        if "/" in check_file_name(name, where):
            raise ValueError(f"{where}: shard {_short(name)} must be a file beside the index, not in a folder; refused")
    return table


def write_json(path: str | os.PathLike[str], obj: Any) -> None:
    """Write `obj` as indented UTF-8 JSON, atomically; ValueError, naming the file, for what JSON cannot hold."""
    try:
        text = json.dumps(obj, indent=2, ensure_ascii=False, allow_nan=False)
        data = (text + "\n").encode("utf-8")
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} cannot be written as JSON: {error}") from error
    with atomic(path) as temporary:
        temporary.write_bytes(data)


@contextlib.contextmanager
def atomic(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give the path of a new empty file beside `path`; when the block ends well, it takes the place of `path`.

    If the block raises, the new file is removed and `path` is left as it was.
    """
    target = Path(path)
    temporary = target.with_name(f".{target.name[:200]}.{secrets.token_hex(6)}.tmp")
    # O_EXCL: never write through a file or link that somebody has put there; 0o666 leaves the mode to the umask.
    os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    try:
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync_folder(target.parent)


def _sync_folder(folder: Path) -> None:
    """Make a rename last through a power cut, where the system can open folders."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")


def _parse_float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"the number {text[:40]} does not fit a float")
    return value


def _parse_int(text: str) -> int:
    if len(text) > _MAX_DIGITS:
        raise ValueError(f"an integer of {len(text)} digits")
    return int(text)


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _kind(value: object) -> str:
    names = {list: "a list", str: "a string", int: "a number", float: "a number", bool: "a boolean"}
    return "null" if value is None else names[type(value)]


def _deeper_than(value: object, depth: int) -> bool:
    level: list[Any] = [value]
    for _ in range(depth):
        level = [
            child
            for node in level
            for child in (node.values() if isinstance(node, dict) else node)
            if isinstance(child, (dict, list))
        ]
        if not level:
            return False
    return True
