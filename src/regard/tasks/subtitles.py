"""Transcripts as files: SubRip (.srt), WebVTT (.vtt), plain text, JSON; written whole or not at all."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

SUFFIXES = (".srt", ".vtt", ".txt", ".json")
LINE_SECONDS, LINE_LENGTH = 6.0, 42
"""Words are gathered into lines of at most so many seconds and characters."""


def write(result: Mapping[str, Any], path: str | os.PathLike[str]) -> None:
    """Write a transcript in the format that the name of the file asks for.

    Raises ValueError for other endings, a folder that is not there, and subtitles without times.
    """
    path = Path(path)
    kind = kind_of(path)
    if kind == ".json":
        _replace(path, json.dumps(result, ensure_ascii=False, indent=1) + "\n")
    elif kind == ".txt":
        _replace(path, str(result["text"]).strip() + "\n")
    else:
        if "chunks" not in result:
            raise ValueError(f"{path.name} needs times; ask for them with return_timestamps")
        _replace(path, subtitles(result["chunks"], vtt=kind == ".vtt"))


def kind_of(path: Path) -> str:
    """What a file's name ends in; ValueError for a format that transcripts have not."""
    kind = path.suffix.lower()
    if kind not in SUFFIXES:
        raise ValueError(f"the file to write is {str(path)!r}; allowed: names that end in {', '.join(SUFFIXES)}")
    return kind


def subtitles(chunks: Sequence[Mapping[str, Any]], *, vtt: bool = False) -> str:
    """Chunks [{"text", "timestamp": (start, end)}] as SubRip or WebVTT; single words are gathered into lines."""
    blocks = ["WEBVTT\n"] if vtt else []
    for number, (text, start, end) in enumerate(lines(chunks), 1):
        head = "" if vtt else f"{number}\n"
        if vtt:
            text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
        dot = "." if vtt else ","
        blocks.append(f"{head}{clock(start, dot)} --> {clock(end, dot)}\n{text}\n")
    return "\n".join(blocks)


def lines(chunks: Sequence[Mapping[str, Any]]) -> list[tuple[str, float, float]]:
    """(text, start, end) of each line, in order and without line breaks."""
    found: list[tuple[str, float, float]] = []
    open_line = False
    for chunk in chunks:
        text, (start, end) = str(chunk["text"]), chunk["timestamp"]
        end = start if end is None else max(start, end)
        single = bool(text.strip()) and len(text.split()) == 1
        if single and open_line and end - found[-1][1] <= LINE_SECONDS and len(found[-1][0]) + len(text) < LINE_LENGTH:
            before, first, _ = found[-1]
            found[-1] = (f"{before} {text.strip()}", first, end)
        elif text.strip():
            found.append((" ".join(text.split()), start, end))
        open_line = single
    return found


def clock(seconds: float, dot: str) -> str:
    """Seconds as HH:MM:SS,mmm."""
    millis = round(seconds * 1000)
    return f"{millis // 3_600_000:02}:{millis // 60_000 % 60:02}:{millis // 1000 % 60:02}{dot}{millis % 1000:03}"


def _replace(path: Path, text: str) -> None:
    if not path.parent.is_dir():
        raise ValueError(f"there is no folder {str(path.parent)!r} to write {path.name} into")
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with open(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise
