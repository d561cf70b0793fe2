"""Memory that is read fast: in huge pages, of 2 MiB instead of 4 KiB, where the system has them for those who ask."""

from __future__ import annotations

import ctypes
import math
import mmap
import threading
import weakref
from collections.abc import Sequence
from contextlib import suppress

import torch
from torch import Tensor

HUGE = 2 << 20  # bytes of a huge page on x86-64, and on ARM with pages of 4 KiB
PIECE = 32 << 20


SOON = 1.0
"""Seconds until what was copied is moved to huge pages."""
_COLLAPSE = 25  # MADV_COLLAPSE of Linux 6.1
_copied: list[tuple[weakref.ref[mmap.mmap], int, int]] = []  # memory, address, bytes


def roomy(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """Zeros on the CPU, in huge pages as far as they fill whole ones. No page is taken before it is used."""
    found, memory, start = _mapped(shape, dtype)
    if memory is not None:
        with suppress(OSError):  # a system built without them: the memory is as good, only slower
            memory.madvise(mmap.MADV_HUGEPAGE, start, found.nbytes // HUGE * HUGE)
    return found


def settled(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """A contiguous copy of a tensor, of this type: in ordinary pages first, in huge ones soon, where the system can.

    A virtual machine may have to wait for its host before it has a huge page, longer than all else that loading does;
    the first tokens need not wait too.
    """
    found, memory, _ = _mapped(tensor.shape, dtype)
    if memory is not None:
        if not _copied:
            later = threading.Timer(SOON, _enlarge)
            later.daemon = True
            later.start()
        _copied.append((weakref.ref(memory), found.data_ptr(), found.nbytes))
    return found.copy_(tensor)


def _mapped(shape: Sequence[int], dtype: torch.dtype) -> tuple[Tensor, mmap.mmap | None, int]:
    """Zeros, and from where on they fill which memory of their own, if it is worth it."""
    count = math.prod(shape)
    size = count * dtype.itemsize
    if size < HUGE or not hasattr(mmap, "MADV_HUGEPAGE"):
        return torch.zeros(*shape, dtype=dtype, device="cpu"), None, 0
    # Shared memory, Python's default, follows other rules and would get none.
    memory = mmap.mmap(-1, size + HUGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    start = -torch.frombuffer(memory, dtype=torch.uint8).data_ptr() % HUGE
    return torch.frombuffer(memory, dtype=dtype, count=count, offset=start).view(*shape), memory, start


def _enlarge() -> None:
    """Move what was copied to huge pages: contents and addresses stay, and whoever reads meanwhile waits for a page."""
    advise = ctypes.CDLL(None).madvise  # waits without Python's lock
    while _copied:
        reference, address, size = _copied[0]
        memory = reference()  # not unmapped while it is held here
        for at in range(address, address + size // HUGE * HUGE, HUGE) if memory is not None else ():
            if advise(ctypes.c_void_p(at), ctypes.c_size_t(HUGE), _COLLAPSE):
                break  # an older system, or no such page is to be had
        del memory, _copied[0]


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
