"""The context: rectangles, positions, and masks made once."""

from __future__ import annotations

import torch

from regard.config import Causal, RopeConfig
from regard.nn.cache import KVCache
from regard.nn.context import cached, joined, packed, padded, rectangles, runs


def test_runs_and_rectangles_go_there_and_back():
    assert runs((3, 3, 5, 3)) == [(2, 3), (1, 5), (1, 3)]
    x = torch.randn(14, 2, 4)
    parts = rectangles(x, (3, 3, 5, 3))
    assert [tuple(p.shape) for p in parts] == [(2, 2, 3, 4), (1, 2, 5, 4), (1, 2, 3, 4)]
    assert torch.equal(parts[0][1, :, 2], x[5])
    assert torch.equal(joined(parts, (3, 3, 5, 3)), x)
    batch = torch.randn(2, 7, 3, 4)
    assert torch.equal(joined(rectangles(batch, None), None), batch)


def test_packed_positions_begin_anew_in_every_sequence():
    ctx = packed((2, 2, 3), torch.device("cpu"))
    assert ctx.positions.tolist() == [0, 1, 0, 1, 0, 1, 2]
    assert all(group.aligned and group.k_valid is None for group in ctx.groups)


def test_causal_is_left_to_the_kernel_where_rows_are_whole_and_one_token_needs_no_mask():
    assert padded(torch.arange(4)[None], aligned=True).groups[0].mask(Causal()) == "causal"
    assert padded(torch.arange(1)[None], aligned=True).groups[0].mask(Causal()) is None
    ragged = padded(torch.arange(4)[None], torch.tensor([[True, True, True, False]])).groups[0].mask(Causal())
    assert ragged[0, 0].tolist() == [[1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0], [1, 1, 1, 1]]  # the last row is padding


def test_a_cached_step_sees_what_its_row_has_read():
    cache = KVCache()
    cached(torch.arange(3).expand(2, 3), (3, 1), cache)
    mask = cached(torch.tensor([[3], [1]]), (1, 1), cache).groups[0].mask(Causal())
    assert mask[:, 0, 0].tolist() == [[1, 1, 1, 1], [1, 1, 0, 0]]


def test_masks_and_angles_are_made_once():
    ctx = padded(torch.arange(4)[None], torch.ones(1, 4, dtype=torch.bool))
    assert ctx.groups[0].mask(Causal()) is ctx.groups[0].mask(Causal())
    assert ctx.rotary(RopeConfig(dim=4))[0] is ctx.rotary(RopeConfig(dim=4))[0]
    assert ctx.rotary(RopeConfig(dim=4))[0] is not ctx.rotary(RopeConfig(dim=8))[0]
