"""Batches: every row once, the same from any point on, even over devices, and loaded ahead without a difference."""

from __future__ import annotations

import threading
import time
from collections import Counter
from typing import Any

import numpy as np
import pytest

from regard.training.data import order as orders
from regard.training.data.batches import Batches, prefetched, stream
from regard.training.data.order import Feistel, order


class Rows:
    """Rows of given lengths, all zeros but their number."""

    def __init__(self, lengths: list[int]):
        self.n = lengths

    def __len__(self) -> int:
        return len(self.n)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"row": index, "input_ids": np.zeros(self.n[index], np.int64)}


def rows(count: int, seed: int = 0) -> Rows:
    return Rows(np.random.default_rng(seed).integers(1, 60, count).tolist())


def collate(rows: Any, rng: np.random.Generator) -> tuple[list[int], float]:
    return [row["row"] for row in rows], float(rng.random())


SHAPES = [
    {"batch_size": 8},
    {"batch_size": 8, "shuffle": False},
    {"batch_size": 103},
    {"batch_size": 3},
    {"batch_tokens": 240},
    {"batch_tokens": 240, "shuffle": False},
    {"batch_tokens": 100_000},
]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("world", [1, 2, 3])
def test_every_row_comes_once_an_epoch_over_all_devices(shape: dict[str, Any], world: int) -> None:
    data = rows(103)
    parts = [Batches(data, **shape, seed=3, world=world, rank=r) for r in range(world)]
    for epoch in (0, 1, 5):
        each = [list(part.epoch(epoch)) for part in parts]
        assert len({len(e) for e in each}) == 1
        assert all(len(batch) >= 1 for e in each for batch in e), "a device without a row"
        assert Counter(i for e in each for batch in e for i in batch) == Counter(range(103))
        if "batch_size" in shape:
            whole = list(Batches(data, **shape, seed=3).epoch(epoch))
            for step, batch in enumerate(whole[:-2]):  # the end may be joined differently
                assert [each[r][step] for r in range(world)] == [batch[r::world] for r in range(world)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_an_epoch_goes_on_from_any_batch(shape: dict[str, Any]) -> None:
    data = rows(103)
    whole = list(Batches(data, **shape, seed=1).epoch(2))
    for start in range(len(whole) + 1):
        assert list(Batches(data, **shape, seed=1).epoch(2, start)) == whole[start:]
    assert Batches(data, **shape).count(2) == len(whole) or "batch_tokens" in shape


def test_seed_and_epoch_change_the_order_and_nothing_else_does() -> None:
    data = rows(200)
    for shape in ({"batch_size": 8}, {"batch_tokens": 300}):
        same = [list(Batches(data, **shape, seed=5).epoch(4)) for _ in range(2)]
        assert same[0] == same[1]
        assert list(Batches(data, **shape, seed=6).epoch(4)) != same[0]
        assert list(Batches(data, **shape, seed=5).epoch(3)) != same[0]


def test_tokens_bound_the_padded_batch_and_little_is_padding() -> None:
    data = rows(5000)
    lengths = np.array(data.n)
    batches = Batches(data, batch_tokens=1000)
    padded = real = 0
    for batch in batches.epoch(0):
        padded += int(lengths[batch].max()) * len(batch)
        real += int(lengths[batch].sum())
        assert int(lengths[batch].max()) * len(batch) <= 1000
    assert real == lengths.sum()
    assert real / padded > 0.95
    random = np.random.default_rng(0).permutation(5000)[: 5000 // 32 * 32].reshape(-1, 32)
    assert lengths[random].sum() / (lengths[random].max(1) * 32).sum() < 0.6  # what shuffling alone would give
    first = [lengths[batch].mean() for batch in batches.epoch(0)]
    assert abs(np.corrcoef(first[:-1], first[1:])[0, 1]) < 0.2, "lengths come in order, so training would see a trend"


def test_rows_of_a_batch_are_alike_on_both_sides() -> None:
    rng = np.random.default_rng(0)
    first = rng.integers(5, 40, 4000)
    sides = np.stack([first, np.maximum(1, first + rng.integers(-6, 7, 4000))], 1)
    batches = Batches(rows(4000), batch_tokens=2000, lengths=sides)
    taken = list(batches.epoch(0))
    assert sorted(i for batch in taken for i in batch) == list(range(4000))
    padded = [sides[batch].max(0).sum() * len(batch) for batch in taken]
    assert max(padded) <= 2000
    assert sides.sum() / sum(padded) > 0.85
    several = [len(set(sides[batch, 0].tolist())) for batch in taken]  # each is a rectangle of attention
    assert np.mean(several) < 2.5
    mixed = Batches(rows(4000), batch_tokens=2000, lengths=sides.sum(1))
    assert np.mean([len(set(sides[batch, 0].tolist())) for batch in mixed.epoch(0)]) > 2 * np.mean(several)


def test_token_batches_give_every_device_even_work() -> None:
    data = rows(3000)
    lengths = np.array(data.n)
    parts = [Batches(data, batch_tokens=2000, world=4, rank=r) for r in range(4)]
    work = np.array([[lengths[batch].sum() for batch in part.epoch(0)] for part in parts])
    assert (work.max(0) / work.min(0)).mean() < 1.15


def test_drop_last() -> None:
    assert [len(b) for b in Batches(rows(10), batch_size=4, drop_last=True).epoch(0)] == [4, 4]
    assert [len(b) for b in Batches(rows(10), batch_size=4).epoch(0)] == [4, 4, 2]
    assert [len(b) for b in Batches(rows(9), batch_size=4, world=2).epoch(0)] == [2, 3]  # 1 row joins
    assert [len(b) for b in Batches(rows(9), batch_size=4, world=2, drop_last=True).epoch(0)] == [2, 2]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"batch_size": 0}, "batch_size is 0"),
        ({"batch_tokens": 0}, "batch_tokens is 0"),
        ({"world": 0}, "world is 0"),
        ({"rank": 1}, "rank is 1; allowed: 0 to 0"),
        ({"seed": -1}, "seed is -1"),
        ({"batch_size": 2, "world": 3}, "batch_size is 2; allowed: 3"),
        ({"batch_size": 11, "drop_last": True}, "drop_last leaves none"),
        ({"batch_tokens": 3}, "row 2 has 9 tokens; allowed: 9"),
        ({"batch_tokens": 17, "world": 2}, "allowed: 18"),
        ({"batch_tokens": 17, "lengths": [1, 2]}, "lengths has shape"),
        ({"world": 99}, "10 rows for 99 devices"),
    ],
)
def test_what_does_not_fit_is_named(given: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Batches(Rows([3, 4, 9, 1, 1, 1, 1, 1, 1, 1]), **given)


def test_rows_without_lengths_are_named() -> None:
    with pytest.raises(ValueError, match="row 0 has no input_ids"):
        Batches([{"text": "a"}], batch_tokens=10)  # type: ignore[list-item]


# orders


@pytest.mark.parametrize("count", [1, 2, 3, 10, 255, 256, 257, 100_003])
def test_a_computed_order_is_a_bijection(count: int) -> None:
    found = Feistel(count, (1, 2))(np.arange(count))
    assert np.array_equal(np.sort(found), np.arange(count))


def test_a_computed_order_looks_random() -> None:
    n = 100_000
    seen = [Feistel(n, (0, epoch))(np.arange(n)) for epoch in range(3)]
    for found in seen:
        assert abs(np.corrcoef(np.arange(n), found)[0, 1]) < 0.02
        assert 0.32 < np.mean(np.abs(found - np.arange(n))) / n < 0.347  # 1/3 for a random order
        assert abs(np.corrcoef(found[:-1], found[1:])[0, 1]) < 0.02
        table = np.histogram2d(np.arange(n), found, bins=20)[0]
        assert (((table - n / 400) ** 2) / (n / 400)).sum() < 480  # chi squared, 361 degrees of freedom: 361 +- 27
    assert np.mean(seen[0] == seen[1]) < 1e-4


def test_a_huge_order_costs_nothing() -> None:
    find = order(10**15, (0, 0))
    start = time.perf_counter()
    found = find(np.arange(10**14, 10**14 + 1000))
    assert time.perf_counter() - start < 1
    assert found.min() >= 0 and found.max() < 10**15 and len(set(found.tolist())) == 1000
    assert found.max() > 9 * 10**14


def test_batches_of_a_large_data_set_go_on_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(orders, "HELD", 10)
    data = rows(103)
    whole = list(Batches(data, batch_size=8).epoch(1))
    assert sorted(i for b in whole for i in b) == list(range(103))
    assert list(Batches(data, batch_size=8).epoch(1, 5)) == whole[5:]


# loading


@pytest.mark.parametrize("ahead", [0, 1, 4])
def test_loading_ahead_changes_nothing(ahead: int) -> None:
    data, batches = rows(50), Batches(rows(50), batch_size=8, seed=2)
    plain = list(stream(data, batches, collate, epochs=3, ahead=0))
    assert list(stream(data, batches, collate, epochs=3, ahead=ahead)) == plain
    assert [position for position, _ in plain] == [(e, i + 1) for e in range(3) for i in range(7)]
    assert len({value for _, (_, value) in plain}) == 21, "each batch has randomness of its own"
    for k in (1, 6, 7, 8, 20):
        assert list(stream(data, batches, collate, start=plain[k - 1][0], epochs=3, ahead=ahead)) == plain[k:]


def test_randomness_differs_between_devices() -> None:
    draws = {float(Batches(rows(8), batch_size=4, world=2, rank=r).generator(0, 0).random()) for r in range(2)}
    assert len(draws) == 2


def test_errors_of_the_thread_arrive_in_order() -> None:
    def bad(rows: Any, rng: np.random.Generator) -> int:
        if any(row["row"] == 30 for row in rows):
            raise ValueError("row 30 is bad")
        return len(rows)

    batches = Batches(rows(50), batch_size=8, shuffle=False)
    seen = []
    with pytest.raises(ValueError, match="row 30 is bad"):
        for _, size in stream(rows(50), batches, bad):
            seen.append(size)
    assert seen == [8, 8, 8]


def test_closing_ends_the_thread() -> None:
    before = threading.active_count()
    made = []

    def endless() -> Any:
        for i in range(10**9):
            made.append(i)
            yield i

    items = prefetched(endless(), 3)
    assert next(items) == 0
    items.close()
    assert threading.active_count() == before
    count = len(made)
    time.sleep(0.05)
    assert len(made) == count <= 6


def test_the_next_batch_is_made_while_one_is_used() -> None:
    made = threading.Semaphore(0)

    def items() -> Any:
        for i in range(4):
            made.release()
            yield i

    loader = prefetched(items(), 2)
    assert next(loader) == 0
    assert all(made.acquire(timeout=5) for _ in range(3))  # the first, and two more that nobody has asked for
    assert list(loader) == [1, 2, 3]
