"""Memory that is read fast: in huge pages, of 2 MiB instead of 4 KiB, where the system has them for those who ask."""

from __future__ import annotations

import math
import mmap
from collections.abc import Sequence
from contextlib import suppress

import torch
from torch import Tensor

HUGE = 2 << 20  # bytes of a huge page on x86-64, and on ARM with pages of 4 KiB
PIECE = 32 << 20


def roomy(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """Zeros on the CPU, in huge pages as far as they fill whole ones. No page is taken before it is used."""
    count = math.prod(shape)
    size = count * dtype.itemsize
    if size < HUGE or not hasattr(mmap, "MADV_HUGEPAGE"):
        return torch.zeros(*shape, dtype=dtype, device="cpu")
    # Shared memory, Python's default, follows other rules and would get none.
    memory = mmap.mmap(-1, size + HUGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    start = -torch.frombuffer(memory, dtype=torch.uint8).data_ptr() % HUGE
    with suppress(OSError):  # a system built without them: the memory is as good, only slower
        memory.madvise(mmap.MADV_HUGEPAGE, start, size // HUGE * HUGE)
    return torch.frombuffer(memory, dtype=dtype, count=count, offset=start).view(*shape)


def settled(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """A contiguous copy of a tensor, of this type, in roomy memory."""
    return roomy(tensor.shape, dtype).copy_(tensor)


class Arena:
    """Cuts many tensors that live and die together from few pieces of roomy memory."""

    def __init__(self) -> None:
        self._left = torch.empty(0, dtype=torch.uint8)

    def take(self, size: int) -> Tensor:
        """`size` bytes, at a multiple of 64. The piece they come from lives as long as anything cut from it."""
        whole = -(-size // 64) * 64
        if self._left.numel() < whole:
            self._left = roomy((max(whole, PIECE),), torch.uint8)
        found, self._left = self._left[:size], self._left[whole:]
        return found
