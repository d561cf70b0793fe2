"""Splitting rows: at random, by class, by group, in folds; weights of classes; and what leaks from part to part."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from regard.training.data.duplicates import Shingles, firsts


def split(
    count: int,
    parts: Mapping[str, float],
    *,
    seed: int = 0,
    labels: Sequence[Hashable] | None = None,
    groups: Sequence[Hashable] | None = None,
) -> dict[str, np.ndarray]:
    """Numbers of rows for each part, rising; parts such as {"train": 0.9, "valid": 0.1}, in any scale.

    Without more, at random; sizes are within one row of what was asked. With `labels` every class is shared out in
    that proportion, to within a row or two. With `groups` no group is in two parts, and sizes (with `labels`, those
    of each class) come as near as groups allow. Raises ValueError where a part would be empty.
    """
    shares = _shares(parts)
    for name, values in (("labels", labels), ("groups", groups)):
        if values is not None and len(values) != count:
            raise ValueError(f"{name} has {len(values)} values for {count} rows")
    rng = np.random.default_rng((seed, count))
    if groups is not None:
        placed = _by_group(count, groups, labels, shares, rng)
    else:
        placed = np.empty(count, dtype=np.int64)
        placed[_sorted(count, labels, rng)] = _dealt(count, shares, rng)
    found = {name: np.flatnonzero(placed == k) for k, name in enumerate(parts)}
    for name, rows in found.items():
        if not len(rows):
            what = f"{count} rows" if groups is None else f"{count} rows in {len(set(groups))} groups"
            raise ValueError(f"the part {name!r} would be empty: {what}, shared out as {dict(parts)}")
    return found


def folds(
    count: int,
    number: int,
    *,
    seed: int = 0,
    labels: Sequence[Hashable] | None = None,
    groups: Sequence[Hashable] | None = None,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(rows to learn from, rows held out) for each of `number` folds; every row is held out once. As `split`."""
    if number < 2:
        raise ValueError(f"number is {number}; allowed: 2 folds and more")
    held = split(count, {str(k): 1.0 for k in range(number)}, seed=seed, labels=labels, groups=groups)
    for rows in held.values():
        yield np.setdiff1d(np.arange(count), rows), rows


def _shares(parts: Mapping[str, float]) -> np.ndarray:
    for name, share in parts.items():
        if not share > 0 or not np.isfinite(share):
            raise ValueError(f"parts: {name!r} is {share}; allowed: a number above 0")
    if not parts:
        raise ValueError("parts is empty; allowed: names and shares, such as {'train': 0.9, 'valid': 0.1}")
    values = np.array(list(parts.values()), dtype=np.float64)
    return values / values.sum()


def _sorted(count: int, labels: Sequence[Hashable] | None, rng: np.random.Generator) -> np.ndarray:
    """Rows at random; with labels, class after class, the classes and the rows of each at random."""
    rows = rng.permutation(count)
    if labels is None:
        return rows
    codes = _codes(labels)
    turn = rng.permutation(int(codes.max(initial=-1)) + 1)
    return rows[np.argsort(turn[codes[rows]], kind="stable")]


def _dealt(count: int, shares: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(count,) parts, dealt one by one to the part that lacks most, so that any run of them has the right shares."""
    placed = np.empty(count, dtype=np.int64)
    lack = rng.random(len(shares)) * 1e-6  # who begins
    for i in range(count):
        lack += shares
        k = int(lack.argmax())
        placed[i] = k
        lack[k] -= 1
    return placed


def _by_group(
    count: int,
    groups: Sequence[Hashable],
    labels: Sequence[Hashable] | None,
    shares: np.ndarray,
    rng: np.random.Generator,
) -> np.ndarray:
    """Groups from the largest down, each to the part where the classes then are nearest to their shares."""
    group, label = _codes(groups), np.zeros(count, np.int64) if labels is None else _codes(labels)
    sizes = np.zeros((int(group.max(initial=-1)) + 1, int(label.max(initial=-1)) + 1))
    np.add.at(sizes, (group, label), 1)
    wanted = np.outer(shares, sizes.sum(0))
    have = np.zeros_like(wanted)
    turn = rng.permutation(len(sizes))
    turn = turn[np.argsort(-sizes[turn].sum(1), kind="stable")]
    place = np.empty(len(sizes), dtype=np.int64)
    for g in turn:
        # Only the chosen part changes, so compare how much worse or better each would get, relative to its class.
        gain = ((have + sizes[g] - wanted) ** 2 - (have - wanted) ** 2) / np.maximum(wanted, 1e-9)
        place[g] = k = int(gain.sum(1).argmin())
        have[k] += sizes[g]
    return place[group]


def _codes(values: Sequence[Hashable]) -> np.ndarray:
    known: dict[Hashable, int] = {}
    return np.array([known.setdefault(value, len(known)) for value in values], dtype=np.int64)


def class_weights(labels: Sequence[Hashable]) -> dict[Hashable, float]:
    """Label -> weight so that every class counts the same: rows / (classes * rows of the class); their mean over the
    rows is 1."""
    counts = Counter(labels)
    return {label: len(labels) / (len(counts) * count) for label, count in counts.items()}


class Leak(NamedTuple):
    """Row `row` of one part has `similarity` with row `of` of the other; `exact` when it is the same to the letter."""

    row: int
    of: int
    similarity: float
    exact: bool


def leaks(train: Sequence[str], other: Sequence[str], *, near: float = 0.8) -> list[Leak]:
    """Texts of `other` that are in `train` as well, to the letter or nearly, each with the most similar one there."""
    both = [*train, *other]
    n = len(train)
    first = firsts(both)
    shingles = Shingles.of(both, 3)
    best: dict[int, tuple[float, int]] = {}
    for pair in shingles.similar(near, 128, 0):
        if pair.first < n <= pair.second:
            best[pair.second] = max(best.get(pair.second, (0.0, 0)), (pair.similarity, pair.first))
    found = []
    for i in range(n, len(both)):
        if first[i] < n and both[i].strip():
            found.append(Leak(i - n, int(first[i]), 1.0, True))
        elif (same := int(shingles.first[i])) < n:
            found.append(Leak(i - n, same, 1.0, False))
        elif same in best:
            found.append(Leak(i - n, best[same][1], best[same][0], False))
    return found
