"""The weights of a checkpoint as a lazy mapping: headers checked before use, tensors mapped from disk when asked."""

from __future__ import annotations

import math
import mmap
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, TypeGuard

import torch
from torch import Tensor

from regard.checkpoint.files import INDEX_LIMIT, parse_json, read_json, weight_map
from regard.checkpoint.find import Folder

# The format: https://github.com/huggingface/safetensors#format. Types smaller than a byte (F4, F6) are not read.
DTYPES: Mapping[str, torch.dtype] = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "U16": torch.uint16,
    "I16": torch.int16,
    "U32": torch.uint32,
    "I32": torch.int32,
    "U64": torch.uint64,
    "I64": torch.int64,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E4M3FNUZ": torch.float8_e4m3fnuz,
    "F8_E5M2": torch.float8_e5m2,
    "F8_E5M2FNUZ": torch.float8_e5m2fnuz,
    "F8_E8M0": torch.float8_e8m0fnu,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F32": torch.float32,
    "F64": torch.float64,
    "C64": torch.complex64,
}

_MAX_DIMS = 64  # torch's own limit
_MAX_ELEMENTS = 2**63 - 1


class _Source(Protocol):
    """One file of weights."""

    @property
    def path(self) -> Path: ...
    @property
    def metadata(self) -> Mapping[str, str]: ...
    def names(self) -> Sequence[str]: ...
    def shape(self, key: str) -> tuple[int, ...]: ...
    def dtype(self, key: str) -> torch.dtype: ...
    def mapped(self, key: str) -> bool: ...
    def load(self, key: str) -> Tensor: ...
    def close(self) -> None: ...


class Weights:
    """The tensors of a checkpoint by name, whichever files hold them; nothing is read until `load`.

    Loaded tensors outlive `close`, and writing to one never changes the file.
    """

    def __init__(self, table: Mapping[str, _Source], metadata: Mapping[str, str]) -> None:
        self._table = dict(table)
        self.metadata = dict(metadata)

    def keys(self) -> list[str]:
        """The names of all tensors, file by file, in the order of their headers."""
        return list(self._table)

    def shape(self, key: str) -> tuple[int, ...]:
        """The shape of a tensor, from the header."""
        return self._source(key).shape(key)

    def dtype(self, key: str) -> torch.dtype:
        """The element type of a tensor, from the header."""
        return self._source(key).dtype(key)

    def file(self, key: str) -> str:
        """The name of the file that holds a tensor, for messages."""
        return self._source(key).path.name

    def mapped(self, key: str) -> bool:
        """Whether `load` gives memory that is mapped from a file, so that it can be given back and read again."""
        return self._source(key).mapped(key)

    def load(self, key: str) -> Tensor:
        """A tensor on the CPU, mapped from its file where the format allows: no bytes are read before they are used."""
        return self._source(key).load(key)

    def close(self) -> None:
        """Forget all tensors and let go of the files; a map stays while a loaded tensor uses it."""
        for source in set(self._table.values()):
            source.close()
        self._table.clear()

    def __len__(self) -> int:
        return len(self._table)

    def __contains__(self, key: object) -> bool:
        return key in self._table

    def __iter__(self) -> Iterator[str]:
        return iter(self._table)

    def __enter__(self) -> Weights:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _source(self, key: str) -> _Source:
        try:
            return self._table[key]
        except KeyError:
            raise KeyError(f"no tensor {key!r} among the {len(self)} of these weights") from None


def open_weights(folder: Folder) -> Weights:
    """Open the weights in a folder: safetensors first, then torch's .bin files, each as one file or as shards.

    Raises ValueError, naming file and tensor, where there are none or where a file is not what it says.
    """
    for name, opener in _FORMATS.items():
        path = folder.file(name)
        if path is not None:
            if name.endswith(".index.json"):
                return _open_shards(folder, path, opener)
            source = opener(path)
            return Weights(dict.fromkeys(source.names(), source), source.metadata)
    raise ValueError(f"{folder.path} holds no weights: looked for {', '.join(_FORMATS)}; there is {folder.listing()}")


def open_file(path: Path) -> Weights:
    """Open one file of weights that stands alone: torch's if it ends with .bin, else safetensors; errors as above."""
    source: _Source = _Pickled(path) if path.suffix == ".bin" else _Safetensors(path)
    return Weights(dict.fromkeys(source.names(), source), source.metadata)


def finite(tensor: Tensor) -> bool:
    """Whether no element is NaN or infinite, found in pieces that take little memory beside the tensor."""
    if tensor.is_complex():
        tensor = torch.view_as_real(tensor)
    if not tensor.is_floating_point() or tensor.numel() == 0:
        return True
    narrow = tensor.dtype.itemsize == 1  # torch has no min and max for 8-bit floats
    order = sorted(range(tensor.ndim), key=tensor.stride, reverse=True)  # as it lies: to turn it would take a copy
    for piece in tensor.detach().permute(order).reshape(-1).split(2**22):
        # min and max are NaN where any element is, and find an infinity of either sign.
        low, high = torch.aminmax(piece.float() if narrow else piece)
        if not (math.isfinite(low.item()) and math.isfinite(high.item())):
            return False
    return True


def _open_shards(folder: Folder, index: Path, opener: Callable[[Path], _Source]) -> Weights:
    table = weight_map(read_json(index, limit=INDEX_LIMIT), index)
    sources: dict[str, _Source] = {}
    for key, shard in table.items():
        if shard not in sources:
            path = folder.file(shard)
            if path is None:
                raise ValueError(f"{index}: tensor {key!r} is said to be in {shard!r}; there is {folder.listing()}")
            sources[shard] = opener(path)
    found: dict[str, _Source] = {}
    metadata: dict[str, str] = {}
    for shard, source in sources.items():
        metadata = {**source.metadata, **metadata}
        # A tensor that the index forgets is still shown, so that whoever loads can say what it thinks of it.
        found.update({key: source for key in source.names() if table.get(key, shard) == shard})
    missing = [key for key in table if key not in found]
    if missing:
        more = f" (and {len(missing) - 1} more such)" if len(missing) > 1 else ""
        raise ValueError(f"{index}: tensor {missing[0]!r} is not in {table[missing[0]]!r} as the index says{more}")
    return Weights(found, metadata)


@dataclass(frozen=True, kw_only=True)
class _Span:
    """Where a tensor lies: bytes [begin, end) of the file."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    begin: int
    end: int


class _Safetensors:
    """One safetensors file, its header checked, its bytes mapped at the first `load`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.size = os.stat(path).st_size
        self.spans, self.metadata = _read_header(path, self.size)
        self._map: mmap.mmap | None = None

    def names(self) -> Sequence[str]:
        return list(self.spans)

    def shape(self, key: str) -> tuple[int, ...]:
        return self.spans[key].shape

    def dtype(self, key: str) -> torch.dtype:
        return self.spans[key].dtype

    def mapped(self, key: str) -> bool:
        span = self.spans[key]
        return span.begin < span.end and span.begin % span.dtype.itemsize == 0

    def load(self, key: str) -> Tensor:
        span = self.spans[key]
        if span.begin == span.end:
            return torch.empty(span.shape, dtype=span.dtype)
        if self._map is None:
            self._map = self._open_map()
        buffer: Any = self._map
        offset, count = span.begin, math.prod(span.shape)
        # The format promises no alignment, and not every kernel does without.
        if offset % span.dtype.itemsize:
            buffer, offset = bytearray(memoryview(self._map)[span.begin : span.end]), 0
        if span.dtype == torch.bool:
            raw = torch.frombuffer(buffer, dtype=torch.uint8, count=count, offset=offset)
            if int(raw.max()) > 1:
                raise ValueError(f"{self.path}: tensor {key!r} is BOOL but holds bytes other than 0 and 1")
        return torch.frombuffer(buffer, dtype=span.dtype, count=count, offset=offset).view(span.shape)

    def close(self) -> None:
        self._map = None  # the map itself goes with the last tensor that uses it

    def _open_map(self) -> mmap.mmap:
        with open(self.path, "rb") as file:
            # A private map: pages that somebody writes to are copied, the file stays as it is.
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        if len(mapped) != self.size:
            raise ValueError(f"{self.path} has changed since it was opened: {len(mapped)} bytes, not {self.size}")
        return mapped


def _read_header(path: Path, size: int) -> tuple[dict[str, _Span], dict[str, str]]:
    with open(path, "rb") as file:
        start = file.read(8)
        length = int.from_bytes(start, "little")
        if start == b"version ":
            raise ValueError(f"{path} only stands for the real file, which `git lfs pull` fetches")
        if len(start) < 8 or length > size - 8:
            raise ValueError(
                f"{path} is cut short or no safetensors file: it has {size} bytes, its header alone would take {length}"
            )
        if length > INDEX_LIMIT:
            raise ValueError(f"{path} has a header of {length:,} bytes; at most {INDEX_LIMIT:,} are read")
        if file.peek(1)[:1] != b"{":  # demanded by the format, and seen before much is read
            raise ValueError(f"{path} is no safetensors file: its header does not begin with '{{'")
        header = parse_json(file.read(length), f"{path} (header)", limit=INDEX_LIMIT)
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise ValueError(f"{path}: __metadata__ must be an object of strings")
    spans = {key: _read_span(f"{path}: tensor {key[:200]!r}", info, 8 + length, size) for key, info in header.items()}
    _check_cover(path, spans, 8 + length, size)
    return spans, metadata


def _read_span(where: str, info: object, start: int, size: int) -> _Span:
    """Check one entry of a header; `start` is where the tensors begin in a file of `size` bytes."""
    if not isinstance(info, dict):
        raise ValueError(f"{where} must be described by an object")
    kind, shape, offsets = info.get("dtype"), info.get("shape"), info.get("data_offsets")
    if not isinstance(kind, str) or kind not in DTYPES:
        raise ValueError(f"{where} has dtype {str(kind)[:40]!r}; allowed are {', '.join(DTYPES)}")
    if not _naturals(shape) or len(shape) > _MAX_DIMS:
        raise ValueError(f"{where} has shape {str(shape)[:80]}, not a list of at most {_MAX_DIMS} natural numbers")
    if not _naturals(offsets) or len(offsets) != 2:
        raise ValueError(f"{where} has data_offsets {str(offsets)[:80]}; they must be two natural numbers")
    begin, end = offsets
    if not begin <= end <= size - start:
        raise ValueError(
            f"{where} lies at bytes {begin} to {end} of the data, but the file has {size - start}; is it cut short?"
        )
    dtype = DTYPES[kind]
    if math.prod(max(length, 1) for length in shape) * dtype.itemsize > _MAX_ELEMENTS:
        raise ValueError(f"{where} has shape {str(shape)[:80]}, which is beyond any machine")
    needed = math.prod(shape) * dtype.itemsize
    if needed != end - begin:
        raise ValueError(f"{where} of shape {shape} in {kind} needs {needed} bytes, but its span has {end - begin}")
    return _Span(dtype=dtype, shape=tuple(shape), begin=start + begin, end=start + end)


def _naturals(value: object) -> TypeGuard[list[int]]:
    # A bool is an int to Python, not to the format.
    return isinstance(value, list) and all(type(item) is int and 0 <= item <= _MAX_ELEMENTS for item in value)


def _check_cover(path: Path, spans: Mapping[str, _Span], start: int, size: int) -> None:
    """ValueError unless the tensors fill the file from `start` on without overlap or hole."""
    reached, before = start, "the header"
    for key, span in sorted(spans.items(), key=lambda item: (item[1].begin, item[1].end)):
        if span.begin != reached:
            fault = "overlaps with" if span.begin < reached else "leaves a hole after"
            raise ValueError(
                f"{path}: tensor {key[:200]!r} {fault} {before}: it begins at byte {span.begin - start} of the data, "
                f"not at {reached - start}"
            )
        reached, before = span.end, f"tensor {key[:200]!r}"
    if reached != size:
        raise ValueError(f"{path} has {size - reached} bytes after {before} that belong to no tensor")


class _Pickled:
    """One of torch's .bin files, read as tensors only."""

    def __init__(self, path: Path) -> None:
        from regard.checkpoint.pickled import read_pickled

        self.path = path
        self.metadata: dict[str, str] = {}
        self._tensors = read_pickled(path)

    def names(self) -> Sequence[str]:
        return list(self._tensors)

    def shape(self, key: str) -> tuple[int, ...]:
        return tuple(self._tensors[key].shape)

    def dtype(self, key: str) -> torch.dtype:
        return self._tensors[key].dtype

    def mapped(self, key: str) -> bool:
        return False

    def load(self, key: str) -> Tensor:
        return self._tensors[key]

    def close(self) -> None:
        self._tensors = {}


_FORMATS: Mapping[str, Callable[[Path], _Source]] = {
    "model.safetensors": _Safetensors,
    "model.safetensors.index.json": _Safetensors,
    "pytorch_model.bin": _Pickled,
    "pytorch_model.bin.index.json": _Pickled,
}
