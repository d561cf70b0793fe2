"""The cache against plain lists: ragged rows, cropping, choosing rows, growing."""

from __future__ import annotations

import pytest
import torch

from regard.config import AttentionConfig, Causal, RopeConfig
from regard.nn import KVCache, build
from regard.nn.context import cached, packed, padded


class Rows:
    """A cache and what each of its rows should hold, written token by token."""

    def __init__(self, capacity=0, rows=3):
        self.cache, self.rows = KVCache(capacity), [[] for _ in range(rows)]

    def write(self, counts):
        """Add `counts[b]` tokens to each row, padding on the right, in two layers."""
        width = max(counts)
        k, v = torch.randn(len(counts), width, 2, 4), torch.randn(len(counts), width, 2, 5)
        starts = torch.tensor(self.cache.lengths or [0] * len(counts))
        self.cache.reserve(counts, torch.arange(width) + starts[:, None])
        for layer in range(2):
            keys, values = self.cache.update(layer, k + layer, v - layer)
        for b, count in enumerate(counts):
            self.rows[b] += [(k[b, t], v[b, t]) for t in range(count)]
        self.check(keys, values)

    def check(self, keys, values):
        assert self.cache.lengths == [len(row) for row in self.rows]
        assert keys.shape[2] == values.shape[2] == self.cache.width
        for b, row in enumerate(self.rows):
            for t, (k, v) in enumerate(row):
                assert torch.equal(keys[b, :, t], k + 1) and torch.equal(values[b, :, t], v - 1)


@pytest.mark.parametrize("capacity", [0, 4, 100])
def test_ragged_rows_grow(capacity):
    rows = Rows(capacity)
    for counts in ((3, 1, 5), (1, 1, 1), (2, 7, 1), (1, 1, 1), (40, 1, 3)):
        rows.write(counts)
    assert rows.cache.lengths == [47, 11, 11]


def test_pairs_are_the_same_until_they_move():
    rows = Rows(capacity=8)
    rows.write((3, 3, 3))
    before = rows.cache.pairs()
    rows.write((5, 5, 5))
    assert [a is b for a, b in zip(rows.cache.pairs(), before, strict=True)] == [True, True]
    rows.write((1, 1, 1))
    assert not any(a is b for a, b in zip(rows.cache.pairs(), before, strict=True)) and rows.cache.capacity == 18
    before = rows.cache.pairs()
    rows.cache.select(torch.tensor([2, 0]))
    assert not any(a is b for a, b in zip(rows.cache.pairs(), before, strict=True))


def test_equal_rows_take_the_straight_path():
    rows = Rows()
    for counts in ((3, 3, 3), (1, 1, 1), (1, 1, 1)):
        rows.write(counts)
    assert isinstance(rows.cache.columns, slice)


def test_crop_forgets_and_the_place_is_written_anew():
    rows = Rows()
    rows.write((5, 2, 4))
    rows.cache.crop([3, 2, 1])
    rows.rows = [row[:n] for row, n in zip(rows.rows, (3, 2, 1), strict=True)]
    assert rows.cache.lengths == [3, 2, 1] and rows.cache.width == 3
    rows.write((1, 1, 1))
    with pytest.raises(ValueError, match=r"cannot crop rows of \[4, 3, 2\] tokens to \[4, 4, 2\]"):
        rows.cache.crop([4, 4, 2])


def test_select_repeats_drops_and_reorders_rows():
    rows = Rows()
    rows.write((5, 2, 4))
    memory = torch.randn(3, 2, 7, 4)
    rows.cache.keep_memory(0, memory, -memory)
    rows.cache.select(torch.tensor([2, 1, 1, 2]))
    rows.rows = [list(rows.rows[i]) for i in (2, 1, 1, 2)]
    k, v = rows.cache.memory(0)
    assert torch.equal(k, memory[[2, 1, 1, 2]]) and torch.equal(v, -k)
    assert rows.cache.width == 4
    rows.write((1, 1, 1, 1))
    rows.cache.select(torch.tensor([1, 0, 3, 2]), memory=False)
    assert torch.equal(rows.cache.memory(0)[0], memory[[2, 1, 1, 2]])
    rows.rows = [rows.rows[i] for i in (1, 0, 3, 2)]
    rows.write((2, 1, 1, 1))


def test_rows_that_change_places_are_found_where_they_lie():
    rows = Rows(rows=4)
    rows.write((3, 3, 3, 3))
    for turn, order in enumerate(([1, 1, 3, 2], [3, 0, 0, 1], [2, 2, 2, 0])):
        rows.cache.select(torch.tensor(order), memory=False)
        rows.rows = [list(rows.rows[i]) for i in order]
        k, v = torch.randn(4, 2, 4), torch.randn(4, 2, 5)  # written as kernels do: to a row's own columns
        rows.cache.reserve([1] * 4, torch.full((4, 1), 3 + turn))
        for layer in range(2):
            for room, new in zip(rows.cache.room(layer), (k + layer, v - layer), strict=True):
                room[:, :, 3 + turn] = new
        for b in range(4):
            rows.rows[b].append((k[b], v[b]))
        table, columns = rows.cache.origins(), torch.arange(rows.cache.width)
        assert table.shape == (4, 4 + turn) and table[:, -1].tolist() == [0, 1, 2, 3]
        rows.check(*(room.transpose(1, 2)[table, columns].transpose(1, 2) for room in rows.cache.room(1)))
    rows.write((1, 1, 1, 1))
    assert rows.cache.origins() is None


def test_rows_share_a_memory_until_it_is_asked_for():
    cache, memory = KVCache(), torch.randn(3, 2, 7, 4)
    cache.keep_memory(0, memory, -memory)
    cache.lengths = [0, 0, 0]
    for order in ([0, 0, 2, 2], [1, 2, 3]):
        cache.select(torch.tensor(order))
    assert cache.memory_room(0)[0] is memory and cache.memory_origins.tolist() == [0, 2, 2]
    assert torch.equal(cache.memory(0)[1], -memory[[0, 2, 2]]) and cache.memory_origins is None


def test_another_number_of_rows_is_refused():
    rows = Rows()
    rows.write((1, 1, 1))
    with pytest.raises(ValueError, match="the cache holds 3 rows but the input has 2"):
        rows.cache.reserve([1, 1], torch.zeros(2, 1, dtype=torch.long))


def test_packed_rows_fill_a_new_cache_only():
    cache = KVCache()
    packed((2, 3), torch.device("cpu"), cache)
    with pytest.raises(ValueError, match="packed input starts new rows, but the cache already holds some"):
        packed((2, 3), torch.device("cpu"), cache)


@pytest.mark.parametrize("start", ["padded", "packed"])
@torch.no_grad()
def test_attention_in_pieces_equals_attention_at_once(start):
    layer = build(AttentionConfig(num_heads=2, head_dim=4, num_kv_heads=1, rope=RopeConfig(dim=4), mask=Causal()), 8)
    rows = [torch.randn(n, 8) for n in (6, 9, 4)]
    whole = [layer(row[None], padded(torch.arange(len(row))[None], aligned=True))[0] for row in rows]
    cache, prompts = KVCache(), (3, 6, 1)
    if start == "packed":
        x = torch.cat([row[:n] for row, n in zip(rows, prompts, strict=True)])
        first = list(layer(x, packed(prompts, x.device, cache)).split(prompts))
    else:
        x = torch.full((3, 6, 8), 9.0)
        for i, n in enumerate(prompts):
            x[i, :n] = rows[i][:n]
        out = layer(x, cached(torch.arange(6).expand(3, 6), prompts, cache))
        first = [out[i, :n] for i, n in enumerate(prompts)]
    for i, part in enumerate(first):
        torch.testing.assert_close(part, whole[i][: prompts[i]], atol=1e-5, rtol=1e-5)
    for step in range(3):
        at = torch.tensor(prompts)[:, None] + step
        x = torch.stack([row[n + step] for row, n in zip(rows, prompts, strict=True)])[:, None]
        out = layer(x, cached(at, (1, 1, 1), cache))
        for i in range(3):
            torch.testing.assert_close(out[i, 0], whole[i][int(at[i])], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("mask", [Causal(), None])
@pytest.mark.parametrize("layout", ["padded", "packed"])
@torch.no_grad()
def test_rows_that_begin_with_the_same_keys(mask, layout):
    """Ragged rows after a common beginning equal each row alone, its beginning joined to it by hand."""
    layer = build(AttentionConfig(num_heads=2, head_dim=4, num_kv_heads=1, mask=mask), 8)
    first = torch.randn(3, 8)
    rows, counts = [torch.randn(n, 8) for n in (4, 2, 2)], (4, 2, 2)
    keys, values = ([proj(first).unflatten(-1, (1, 4)).transpose(0, 1)] for proj in (layer.k, layer.v))
    cache = KVCache()
    cache.begin(keys, values, 3)
    assert cache.lengths == [3, 3, 3]
    if layout == "packed":
        found = layer(torch.cat(rows), packed(counts, torch.device("cpu"), cache)).split(counts)
    else:
        x = torch.full((3, 4, 8), 9.0)
        for i, row in enumerate(rows):
            x[i, : len(row)] = row
        positions = torch.arange(3, 7).expand(3, 4)
        found = [out[:n] for out, n in zip(layer(x, cached(positions, counts, cache)), counts, strict=True)]
    for row, out in zip(rows, found, strict=True):
        whole = torch.cat([first, row])[None]
        expected = layer(whole, padded(torch.arange(whole.shape[1])[None], aligned=True))[0, 3:]
        torch.testing.assert_close(out, expected, atol=1e-5, rtol=1e-5)
