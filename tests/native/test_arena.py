"""Memory in huge pages: what it promises about addresses, contents, lifetime and pages taken."""

from __future__ import annotations

import gc
import mmap
import sys
from pathlib import Path

import pytest
import torch

from regard import memory
from regard.memory import HUGE, PIECE, Arena, roomy, settled
from regard.native import layout
from regard.native.weights import Store
from regard.nn import Linear


def fields(address: int) -> dict[str, int]:
    """Bytes by name of the part of this process's memory that an address lies in."""
    inside, found = False, {}
    for line in Path("/proc/self/smaps").read_text().splitlines():
        name, *rest = line.split()
        if not name.endswith(":"):
            begin, end = (int(part, 16) for part in name.split("-"))
            inside = begin <= address < end
        elif inside and rest[-1] == "kB":
            found[name[:-1]] = int(rest[0]) * 1024
    return found


@pytest.mark.parametrize("shape", [(0,), (3, 5), (2, 1024, 1024), (5, 7, 99_991)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.uint8])
def test_roomy_memory_is_zeros(shape, dtype):
    x = roomy(shape, dtype)
    assert x.shape == shape and x.dtype == dtype and x.is_contiguous()
    assert not x.any()
    assert x.nbytes < HUGE or x.data_ptr() % HUGE == 0


def test_a_settled_copy_has_the_numbers_of_the_other_type():
    x = torch.randn(1100, 1000).t()
    y = settled(x, torch.bfloat16)
    assert y.is_contiguous() and torch.equal(y, x.bfloat16())


def test_what_was_copied_moves_to_huge_pages_soon(monkeypatch):
    """Contents and addresses stay; what is gone by then is left alone."""
    began: list[float] = []
    monkeypatch.setattr(memory, "_copied", [])
    monkeypatch.setattr(memory.threading.Timer, "start", lambda timer: began.append(timer.interval))
    x = torch.randn(1100, 1000)
    y, z = settled(x.t(), torch.float32), settled(x, torch.bfloat16)
    assert y.data_ptr() % HUGE == 0 and len(memory._copied) == 2 and began == [memory.SOON]
    at = y.data_ptr()
    del z
    memory._enlarge()
    assert torch.equal(y, x.t()) and y.data_ptr() == at and memory._copied == []


def test_pieces_of_an_arena_are_apart_and_outlive_it():
    arena, sizes = Arena(), (1, 64, 65, 4096, PIECE - 10_000, 10_000, PIECE + 1, 7)
    parts = [arena.take(size).fill_(i) for i, size in enumerate(sizes)]
    del arena
    gc.collect()
    assert [part.numel() for part in parts] == list(sizes)
    assert all(part.data_ptr() % 64 == 0 for part in parts)
    assert all(bool((part == i).all()) for i, part in enumerate(parts))


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="asks Linux")
def test_pages_are_taken_when_used_and_given_back():
    arena = Arena()
    part = arena.take(100)
    part.fill_(1)
    assert fields(part.data_ptr())["Size"] == PIECE
    assert 0 < fields(part.data_ptr())["Rss"] <= HUGE
    address = part.data_ptr()
    del part, arena
    gc.collect()
    assert fields(address).get("Size") != PIECE


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="asks Linux")
def test_pages_are_huge_where_the_system_allows():
    allowed = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    if not allowed.exists() or "[never]" in allowed.read_text():
        pytest.skip("this system gives no huge pages")
    x = roomy((3 * HUGE + 5000,), torch.uint8).fill_(1)
    assert fields(x.data_ptr())["AnonHugePages"] == 3 * HUGE  # the rest of the fourth is not taken


def test_without_huge_pages_memory_is_ordinary(monkeypatch):
    monkeypatch.delattr(mmap, "MADV_HUGEPAGE", raising=False)
    x = memory.roomy((2 * HUGE,), torch.uint8)
    assert x.numel() == 2 * HUGE and not x.any()


@pytest.mark.parametrize("kind", ["int8", "int4", "bf16"])
def test_a_store_cuts_its_copies_from_one_piece(kind):
    store = Store(kind)
    for _ in range(3):
        store.linear(Linear(96, 130).requires_grad_(False))
    places = sorted(part.data_ptr() for part in store.parts)
    assert places[-1] - places[0] < 2**20 and all(place % 64 == 0 for place in places)
    x, structure = torch.randn(1, 96), next(iter(store._linears.values()))
    y = torch.empty(1, 130)
    layout.kernels().rg_linear(layout.address(structure), 1, 1, x.data_ptr(), y.data_ptr())
    assert y.isfinite().all()
