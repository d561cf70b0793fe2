"""Reading input: one item, a list, anything lazy, or a file of lines."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal


@dataclass(frozen=True)
class Inputs:
    """Items, how they came (which is how results go), and how many there are if that is known."""

    items: Iterable[Any]
    came: Literal["one", "list", "lazy"]
    total: int | None = None


def read_inputs(inputs: Any, is_one: Callable[[Any], bool], from_line: Callable[[str], Any]) -> Inputs:
    """Tell one item from many. A path or an open file gives a lazy item for each line; ValueError if it is missing."""
    if is_one(inputs):
        return Inputs([inputs], "one", 1)
    if isinstance(inputs, Path):
        if not inputs.is_file():
            raise ValueError(f"there is no file {str(inputs)!r}")
        return Inputs(_lines_of(inputs, from_line), "lazy")
    if callable(getattr(inputs, "readline", None)):
        return Inputs(_lines(inputs, from_line), "lazy")
    if isinstance(inputs, (list, tuple)):
        return Inputs(inputs, "list", len(inputs))
    if isinstance(inputs, (str, bytes, bytearray, dict)) or not hasattr(inputs, "__iter__"):
        return Inputs([inputs], "one", 1)  # of a wrong type: the task says what it takes
    return Inputs(inputs, "lazy", len(inputs) if hasattr(inputs, "__len__") else None)


def _lines_of(path: Path, from_line: Callable[[str], Any]) -> Iterator[Any]:
    with open(path, encoding="utf-8") as file:
        yield from _lines(file, from_line)


def _lines(file: Iterable[str], from_line: Callable[[str], Any]) -> Iterator[Any]:
    for line in file:
        yield from_line(line.rstrip("\r\n")) if isinstance(line, str) else line


def json_line(line: str) -> Any:
    """A line of JSON, for tasks whose items have several parts. What is no JSON stays text, for the task to refuse."""
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return line


def text_of(value: Any, name: str = "text") -> str:
    """A string that is not empty; ValueError names the value and its type."""
    if not isinstance(value, str):
        raise ValueError(f"{name} is {value!r:.80} (type {type(value).__name__}); allowed: a string")
    if not value:
        raise ValueError(f"{name} is an empty string; allowed: at least one character")
    return value


def texts_of(value: Any, name: str) -> Sequence[str]:
    """A list of strings (one string counts as a list of one)."""
    if isinstance(value, str):
        value = [value]
    if not isinstance(value, (list, tuple)) or not value:
        raise ValueError(f"{name} is {value!r:.80} (type {type(value).__name__}); allowed: a list of strings")
    return [text_of(text, f"{name}[{i}]") for i, text in enumerate(value)]


def parts_of(item: Any, required: Sequence[str]) -> dict[str, Any]:
    """An item made of named parts; ValueError names what is missing."""
    if not isinstance(item, dict) or not all(name in item for name in required):
        shown = f"has {', '.join(map(str, item))}" if isinstance(item, dict) else f"is {item!r:.80}"
        wanted = ", ".join(f'"{name}": ...' for name in required)
        raise ValueError(f"the item {shown} (type {type(item).__name__}); allowed: {{{wanted}}}")
    return item
