"""Text files, plain or gzip, as lines: decoded strictly, within limits, with errors that name the line and byte."""

from __future__ import annotations

import codecs
import gzip
import io
import os
import stat
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

LIMIT = 16 * 2**30
"""Most bytes that are read of one file, after decompression, unless told otherwise."""

LINE_LIMIT = 2**28
"""Longest line in bytes."""

_HEAD = 2**20
_MARKS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))


@contextmanager
def opened(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """A regular file open for reading bytes, decompressed if it is gzip; ValueError, naming it, if it is neither."""
    path = Path(path)
    if not path.exists():
        raise ValueError(f"there is no file {path}")
    if not stat.S_ISREG(path.stat().st_mode):
        raise ValueError(f"{path} is not a regular file")
    with open(path, "rb") as raw:
        packed = raw.read(2) == b"\x1f\x8b"
        raw.seek(0)
        try:
            yield gzip.GzipFile(fileobj=raw) if packed else raw  # type: ignore[misc]
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise ValueError(f"{path} is a damaged gzip file: {error}") from None


def head(path: str | os.PathLike[str], size: int = _HEAD) -> bytes:
    """The first bytes of a file."""
    with opened(path) as file:
        return file.read(size)


def encoding_of(start: bytes, path: str | os.PathLike[str]) -> str:
    """The encoding that the first bytes of a file say: by its byte order mark, or else UTF-8."""
    for mark, name in _MARKS:
        if start.startswith(mark):
            return name
    zero = start.find(b"\0")
    if zero >= 0:
        raise ValueError(f"{path} is not text: it has a zero byte at offset {zero}")
    return "utf-8"


def lines(path: str | os.PathLike[str], *, encoding: str | None = None, limit: int | None = None) -> Iterator[str]:
    """The lines of a text file, each with its end; without `encoding`, UTF-8 or what a byte order mark says.

    Raises ValueError, naming file, line and byte, for what does not decode, and for a file of more than `limit` bytes
    or a line of more than LINE_LIMIT.
    """
    limit = LIMIT if limit is None else limit
    with opened(path) as file:
        start = file.read(_HEAD)
        file.seek(0)
        name = encoding or encoding_of(start, path)
        try:
            codecs.lookup(name)
        except LookupError:
            raise ValueError(f"encoding is {name!r}; allowed: a name such as 'utf-8', 'cp1252', 'utf-16'") from None
        # Neither 16-bit text nor that of old Macs can be cut at bytes of "\n".
        if name.lower().replace("_", "-").startswith(("utf-16", "utf-32")) or (b"\r" in start and b"\n" not in start):
            yield from _whole(file, path, name, limit)
            return
        done = 0
        for number, line in enumerate(iter(lambda: file.readline(LINE_LIMIT + 1), b""), 1):
            if len(line) > LINE_LIMIT:
                raise ValueError(f"{path}: line {number} is longer than {LINE_LIMIT:,} bytes")
            if done + len(line) > limit:
                raise ValueError(f"{path} is larger than {limit:,} bytes, the limit")
            yield _decoded(line, name if number == 1 else name.removesuffix("-sig"), path, number, done)
            done += len(line)


def _whole(file: BinaryIO, path: str | os.PathLike[str], name: str, limit: int) -> Iterator[str]:
    data = file.read(limit + 1)
    if len(data) > limit:
        raise ValueError(f"{path} is larger than {limit:,} bytes, the limit")
    yield from io.StringIO(_decoded(data, name, path, 1, 0), newline=None)


def _decoded(data: bytes, name: str, path: str | os.PathLike[str], number: int, offset: int) -> str:
    try:
        return data.decode(name)
    except UnicodeDecodeError as error:
        number += data[: error.start].count(b"\n") if number == 1 else 0
        near = data[max(0, error.start - 20) : error.start + 20].decode("ascii", "replace")
        hint = "; if it was written on Windows, try encoding='cp1252'" if name.startswith("utf-8") else ""
        raise ValueError(
            f"{path} is not {name.removesuffix('-sig').upper()}: line {number}, byte {offset + error.start} of the "
            f"file is 0x{data[error.start]:02X}, near {near!r}{hint}"
        ) from None
