"""How much memory there is, to refuse what cannot fit before anything is allocated; models that take none; and giving
mapped memory back."""

from __future__ import annotations

import ctypes
import mmap
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

_DRAWS = (Tensor.normal_, Tensor.uniform_, nn.init.normal_, nn.init.uniform_, nn.init.kaiming_uniform_)


class _Undrawn(TorchFunctionMode):
    """Leaves out draws of weights. On `meta` they have no effect, but torch imports its compiler to trace them."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        given = dict(kwargs or {})
        return (args[0] if args else given["tensor"]) if func in _DRAWS else func(*args, **given)


@contextmanager
def on_meta() -> Iterator[None]:
    """Modules made inside have shapes and no memory."""
    with torch.device("meta"), _Undrawn():
        yield


def check_fits(model: nn.Module, itemsize: int = 4) -> None:
    """Raise a ValueError naming both numbers if the parameters of a model on `meta` are more than the free memory."""
    free = available()
    needed = sum(parameter.numel() for parameter in model.parameters()) * itemsize
    if free is not None and needed > free:
        raise ValueError(
            f"this config makes a model of {needed / 2**30:,.1f} GiB; {free / 2**30:,.1f} GiB of memory are free"
        )


def available() -> int | None:
    """Bytes that can still be taken, within the machine and its control group; None where the system does not tell."""
    found = [_meminfo(), _group()]
    known = [n for n in found if n is not None]
    if known:
        return min(known)
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return None


def give_back(tensor: Tensor) -> None:
    """Let go of the memory of a tensor that is mapped from a file; it is read again when it is used again.

    What was written to it is lost, so this is for tensors that nobody has written to.
    """
    start, end = tensor.data_ptr(), tensor.data_ptr() + tensor.nbytes
    first, last = -(-start // mmap.PAGESIZE) * mmap.PAGESIZE, end // mmap.PAGESIZE * mmap.PAGESIZE
    advise = _advise()
    if advise is not None and first < last:
        advise(ctypes.c_void_p(first), ctypes.c_size_t(last - first), mmap.MADV_DONTNEED)


@cache
def _advise() -> Any:
    return getattr(ctypes.CDLL(None), "madvise", None) if hasattr(mmap, "MADV_DONTNEED") else None


def _meminfo(path: str = "/proc/meminfo") -> int | None:
    try:
        lines = Path(path).read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), None)


def _group(root: str = "/sys/fs/cgroup") -> int | None:
    """What a container has left: its limit less what it uses beyond caches that can be dropped."""
    try:
        limit, used = (Path(root, name).read_text().strip() for name in ("memory.max", "memory.current"))
        stat = dict(line.split() for line in Path(root, "memory.stat").read_text().splitlines())
        return None if limit == "max" else int(limit) - int(used) + int(stat.get("inactive_file", 0))
    except (OSError, ValueError):
        return None
