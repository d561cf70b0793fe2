"""How many threads to use: for a few rows those that read weights fastest here, which is measured and remembered."""

from __future__ import annotations

import ctypes
import os
import platform
import time
from contextlib import suppress
from functools import cache
from typing import Any

import torch
from torch import Tensor

from regard.checkpoint.files import read_json, write_json
from regard.native import layout
from regard.native.build import cache_folder, name

_FILE = "threads.json"
_PROBE = 4096, 2048  # outputs and inputs: 32 MB of float32, more than most caches hold
_SLACK = 1.03  # times this near to each other count as equal: then more threads are taken
_FEW = 8  # rows whose products wait for memory; with more, each thread has enough to compute


def threads(rows: int = 1) -> int:
    """The threads that kernels use for so many rows: those of torch's team, or fewer where fewer read a few as fast.

    OMP_NUM_THREADS and torch.set_num_threads are never exceeded; where the first is set, nothing is measured.
    """
    most = torch.get_num_threads()
    return most if most == 1 or rows > _FEW or os.environ.get("OMP_NUM_THREADS") else min(most, _best(most))


@cache
def _best(most: int) -> int:
    where = (
        f"{platform.processor() or platform.machine()}, {len(os.sched_getaffinity(0))} cores, {most} threads, {name()}"
    )
    path = cache_folder() / _FILE
    known: dict[str, Any] = {}
    with suppress(OSError, ValueError):
        known = read_json(path)
    if isinstance(found := known.get(where), int) and 1 <= found <= most:
        return found
    times = measured(sorted({1, most, *(n for n in (2, 4, 8, 12, 16, 24, 32, 48, 64) if n < most)}))
    best = max(n for n, seconds in times.items() if seconds <= _SLACK * min(times.values()))
    if best < most and busy():
        return best
    with suppress(OSError):  # where nothing can be written, it is measured again next time
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_json(path, {**known, where: best})
    return best


def busy() -> bool:
    """Whether others use so much of the machine that fewer threads may only have seemed as good."""
    return not hasattr(os, "getloadavg") or os.getloadavg()[0] > len(os.sched_getaffinity(0)) / 2


def measured(counts: list[int], rounds: int = 5) -> dict[int, float]:
    """Seconds of a float32 product of one row by thread count, an operation of torch between any two; the least."""
    work = Product("fp32")
    small = torch.ones(256, 256)
    times = dict.fromkeys(counts, float("inf"))
    for count in counts * rounds:
        small @ small  # torch's turn: a team of another size must be made again
        start = time.perf_counter()
        work(count)
        times[count] = min(times[count], time.perf_counter() - start)
    return times


class Product:
    """A product of one row and weights of a kind, for timing: call it with a number of threads."""

    def __init__(self, kind: str):
        out, inputs = _PROBE
        size = {"fp32": 4 * inputs, "bf16": 2 * inputs, "int8": inputs, "int4": inputs // 32 * 18}[kind]
        self.kept: list[Tensor] = [torch.ones(out * size // 4 + 64, dtype=torch.float32), torch.ones(out)]
        self.x, self.y = torch.ones(1, inputs), torch.empty(1, out)
        weight = -(-self.kept[0].data_ptr() // 64) * 64
        self.linear = layout.Linear(weight, self.kept[1].data_ptr(), None, out, inputs, layout.KINDS[kind])

    def __call__(self, count: int = 1) -> None:
        layout.kernels().rg_linear(ctypes.byref(self.linear), 1, count, self.x.data_ptr(), self.y.data_ptr())
