"""What was said and when: segments and words out of tokens with times."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from regard.tasks.marks import Marks

BEFORE = "\"'“¡¿([{-"
AFTER = "\"'.。,，!！?？:：”)]}、"
_ASCII = "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~"

Decode = Callable[[list[int]], str]


@dataclass(frozen=True)
class Word:
    """A word, the space before it included, and its seconds."""

    text: str
    start: float
    end: float


@dataclass
class Segment:
    """Tokens that were said from `start` to `end` (seconds); `ends` are those of each token, where they were asked for.

    `tokens` may hold times.
    """

    start: float
    end: float
    tokens: list[int]
    ends: list[float] = field(default_factory=list)
    language: str | None = None


def segments(
    tokens: list[int], marks: Marks, *, offset: float, seconds: float, ends: Sequence[float] = (), last: bool = False
) -> tuple[list[Segment], float]:
    """Cut what was written about one window of `seconds` at pairs of times; gives also how far it was understood.

    What stands after the last pair was cut in the middle, and the next window hears it again, unless this is the
    `last` to hear it.
    """
    timed = [token >= marks.begin for token in tokens]
    cuts = [i for i in range(1, len(tokens)) if timed[i - 1] and timed[i]]
    whole = timed[-2:] == [False, True]  # a last time alone: nothing more is said
    times = list(ends) or [0.0] * len(tokens)

    def at(token: int) -> float:
        return offset + (token - marks.begin) * marks.precision

    if not cuts:
        said = [token for token, is_time in zip(tokens, timed, strict=True) if is_time]
        known = bool(said) and said[-1] != marks.begin
        end = at(said[-1]) if known else offset + seconds
        return [Segment(offset, end, tokens, [offset + t for t in times])], seconds
    found: list[Segment] = []
    bounds = [0, *cuts, *([len(tokens)] if whole or last else [])]
    for i, j in itertools.pairwise(bounds):
        part = tokens[i:j]
        if part:
            end = at(part[-1]) if timed[j - 1] else offset + seconds
            found.append(Segment(at(part[0]), end, part, [offset + t for t in times[i:j]]))
    return found, seconds if whole else at(tokens[cuts[-1] - 1]) - offset


def words(segment: Segment, marks: Marks, decode: Decode, *, spaced: bool = True) -> list[Word]:
    """The words of a segment whose tokens have ends: each from the end of the token before it."""
    starts = [segment.start, *segment.ends[:-1]]
    if len(segment.tokens) > 1 and segment.tokens[0] < marks.begin:
        starts[0] = min(segment.start, segment.ends[0])
    rows = [(t, a, b) for t, a, b in zip(segment.tokens, starts, segment.ends, strict=True) if t < marks.end]
    groups = _characters([t for t, _, _ in rows], decode)
    groups = _punctuated(_spaced(groups) if spaced else groups)
    return [Word(text, rows[where[0]][1], rows[where[-1]][2]) for text, where in groups]


Group = tuple[str, list[int]]


def _characters(tokens: list[int], decode: Decode) -> list[Group]:
    """Tokens joined where only together they are characters."""
    whole, groups, held, at = decode(tokens), [], [], 0
    for i in range(len(tokens)):
        held.append(i)
        text = decode([tokens[k] for k in held])
        broken = text.find("\ufffd")
        if broken < 0 or at + broken >= len(whole) or whole[at + broken] == "\ufffd":
            groups.append((text, held))
            held, at = [], at + len(text)
    return groups


def _spaced(groups: list[Group]) -> list[Group]:
    found: list[Group] = []
    for text, where in groups:
        if not found or text.startswith(" ") or text.strip() in _ASCII:
            found.append((text, list(where)))
        else:
            found[-1] = (found[-1][0] + text, [*found[-1][1], *where])
    return found


def _punctuated(groups: list[Group]) -> list[Group]:
    """Opening marks go to the word after them, closing ones to the word before."""
    opened: list[Group] = []
    for text, where in reversed(groups):
        if opened and text.startswith(" ") and text.strip() in BEFORE:
            opened[-1] = (text + opened[-1][0], where + opened[-1][1])
        else:
            opened.append((text, where))
    found: list[Group] = []
    for text, where in reversed(opened):
        if found and not found[-1][0].endswith(" ") and text in AFTER:
            found[-1] = (found[-1][0] + text, found[-1][1] + where)
        else:
            found.append((text, where))
    return found
