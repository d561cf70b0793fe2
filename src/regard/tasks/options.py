"""Options of a call, checked: a task declares its own as a config, and a wrong name or value is said at once."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from regard.config import Config

MAX_BATCH = 2**20


@dataclass(frozen=True, kw_only=True)
class TaskOptions(Config):
    """What every task takes.

    `on_error="skip"` puts {"error": ...} in the place of a bad item. `batch_size` bounds the items of a batch beside
    `batch_tokens`.
    """

    on_error: Literal["raise", "skip"] = "raise"
    batch_size: int | None = None

    def check(self) -> None:
        self.require(self.batch_size != 0, "batch_size", "at least 1")


@dataclass(frozen=True, kw_only=True)
class TextOptions(TaskOptions):
    """What every task of text takes: `truncation` cuts input that is too long. `padding` is taken for habit's sake: no
    result depends on it."""

    truncation: bool | str | None = None
    padding: bool | str | None = None

    def check(self) -> None:
        super().check()
        known = (None, True, False, "longest_first", "only_first", "only_second", "do_not_truncate")
        self.require(self.truncation in known, "truncation", ", ".join(map(repr, known)))

    @property
    def cuts(self) -> bool:
        """Whether input that is too long is cut."""
        return self.truncation not in (None, False, "do_not_truncate")


@dataclass(frozen=True, kw_only=True)
class EncoderOptions(TextOptions):
    """`max_length` cuts input to so many tokens, special ones included."""

    max_length: int | None = None

    def check(self) -> None:
        super().check()
        self.require(self.max_length != 0, "max_length", "at least 1")

    @property
    def cuts(self) -> bool:
        return super().cuts or (self.max_length is not None and self.truncation is None)


O = TypeVar("O", bound=TaskOptions)
E = TypeVar("E", bound=EncoderOptions)


def read_options(
    kind: type[O], given: Mapping[str, Any], task: str, others: Iterable[str] | None = ()
) -> tuple[O, dict[str, Any]]:
    """Options of a kind, and the rest: those named in `others` (None: any), which belong to somebody else.

    Raises ValueError for an unknown name, with near ones, and for a wrong value.
    """
    given = dict(given)
    for name in ("tokenizer_kwargs", "tokenize_kwargs"):
        nested = given.pop(name, None)
        if nested is not None:
            if not isinstance(nested, Mapping):
                raise ValueError(f"{name} is {nested!r:.80}; allowed: a mapping of options")
            given.update(nested)
    own = {field.name for field in dataclasses.fields(kind)}
    rest = {name: value for name, value in given.items() if name not in own}
    if others is not None:
        known = sorted(own | set(others))
        for name in rest:
            if name not in known:
                near = difflib.get_close_matches(name, known, 3)
                hint = f"did you mean {' or '.join(map(repr, near))}? " if near else ""
                raise ValueError(f"{task} has no option {name!r}; {hint}allowed: {', '.join(known)}")
    mine: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in given.items() if name in own}
    return kind(**mine), rest
