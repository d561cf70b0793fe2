"""Torch's .bin files without their dangers: the pickle is inspected before any of it runs, and only tensors pass."""

from __future__ import annotations

import io
import pickletools
import zipfile
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

PICKLE_LIMIT = 4 * 2**20
"""Largest pickle inside a .bin file, in bytes; some 30,000 tensors."""

_LEGACY_START = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # torch's magic number, pickled: files from before 1.6
_ZIP_START = b"PK\x03\x04"

_REBUILD = {
    "collections OrderedDict",
    "torch._utils _rebuild_tensor",
    "torch._utils _rebuild_tensor_v2",
    "torch._utils _rebuild_tensor_v3",
    "torch._utils _rebuild_parameter",
    "torch.storage UntypedStorage",
}

_INTEGERS = frozenset({"BININT", "BININT1", "BININT2", "LONG1"})
_TUPLES = frozenset({"TUPLE", "TUPLE1", "TUPLE2", "TUPLE3"})
# What torch.save writes. Not among them: what makes objects in other ways than GLOBAL and REDUCE, and what reorders
# or copies the stack.
_OPCODES = (
    _INTEGERS
    | _TUPLES
    | {"PROTO", "STOP", "MARK", "NONE", "NEWTRUE", "NEWFALSE", "BINFLOAT", "BINUNICODE", "SHORT_BINSTRING"}
    | {"GLOBAL", "REDUCE", "BUILD", "BINPERSID", "BINPUT", "LONG_BINPUT", "BINGET", "LONG_BINGET"}
    | {"EMPTY_TUPLE", "EMPTY_DICT", "EMPTY_LIST", "APPEND", "APPENDS", "SETITEM", "SETITEMS"}
)


def read_pickled(path: Path) -> dict[str, Tensor]:
    """The tensors of a .bin file by name, mapped from disk where it is a zip archive; {"state_dict": ...} is unwrapped.

    Raises ValueError for anything but a dictionary of plain tensors; nothing that the file names is ever called except
    torch's own makers of tensors.
    """
    size = path.stat().st_size
    with open(path, "rb") as file:
        start = file.read(len(_LEGACY_START))
    if start.startswith(_ZIP_START):
        pickles, mapped = [_archived_pickle(path, size)], True
    elif start == _LEGACY_START:
        pickles, mapped = _legacy_pickles(path), False
    else:
        raise ValueError(f"{path} is neither a zip archive nor a file of torch.save; convert it to safetensors")
    for data in pickles:
        _inspect(path, data, size)
    try:
        value = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except Exception as error:  # whatever a broken file makes torch raise
        # Torch's first lines advise to load with weights_only=False, which nobody should do here.
        reason = (str(error).split("WeightsUnpickler error:")[-1].strip().splitlines() or [type(error).__name__])[0][
            :200
        ]
        raise ValueError(f"{path} is damaged, torch cannot read it: {reason}") from error
    if isinstance(value, dict) and isinstance(value.get("state_dict"), dict):
        value = value["state_dict"]
    if not isinstance(value, dict):
        raise _refused(path, f"a {type(value).__name__} in place of a dictionary")
    return {_name(path, key): _plain(path, key, item, size) for key, item in value.items()}


def _archived_pickle(path: Path, size: int) -> bytes:
    """The pickle of a zip archive, after a look at the archive: all entries stored as they are and within the file."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            for entry in entries:
                if entry.compress_type != zipfile.ZIP_STORED or entry.compress_size != entry.file_size:
                    raise ValueError(
                        f"refused: {path}: entry {entry.filename[:40]!r} is compressed; torch compresses none"
                    )
            total = sum(entry.file_size for entry in entries)
            if total > size:
                raise ValueError(f"refused: {path}: its entries claim {total} bytes, the file has {size}")
            pickles = [entry for entry in entries if entry.filename.endswith("/data.pkl")]
            if len(pickles) != 1 or any("/code/" in entry.filename for entry in entries):
                raise _refused(path, "no archive of torch.save")
            _check_length(path, pickles[0].file_size)
            return archive.read(pickles[0])
    except ValueError:
        raise
    except Exception as error:  # zipfile raises some ten kinds of error for broken archives
        raise ValueError(f"{path} is damaged, not a whole zip archive: {str(error)[:200]}") from error


def _legacy_pickles(path: Path) -> list[bytes]:
    """The pickles that begin a legacy file after its magic number: version, system, tensors, storage keys."""
    with open(path, "rb") as file:
        stream = io.BytesIO(file.read(PICKLE_LIMIT))
    pickles = []
    try:
        for _ in range(5):
            begin = stream.tell()
            for _opcode in pickletools.genops(stream):
                pass
            pickles.append(stream.getvalue()[begin : stream.tell()])
    except Exception as error:  # pickletools raises many kinds for broken pickles
        if stream.tell() >= PICKLE_LIMIT:
            _check_length(path, PICKLE_LIMIT + 1)
        raise ValueError(f"{path} is damaged, its pickle cannot be read: {str(error)[:200]}") from error
    return pickles[1:]


def _check_length(path: Path, length: int) -> None:
    if length > PICKLE_LIMIT:
        raise ValueError(f"refused: {path}: its pickle has over {PICKLE_LIMIT:,} bytes; convert to safetensors")


def _inspect(path: Path, data: bytes, size: int) -> None:
    """ValueError unless a pickle makes nothing but tensors that a file of `size` bytes can hold."""
    try:
        fault = _fault(data, max(size, 2**16))
    except Exception as error:  # pickletools raises many kinds for broken pickles
        raise ValueError(f"{path} is damaged, its pickle cannot be read: {str(error)[:200]}") from error
    if fault is not None:
        raise _refused(path, fault)


def _fault(data: bytes, largest: int) -> str | None:
    """What a pickle does beyond making tensors with at most `largest` elements, or None."""
    tuples: set[int] = set()  # memo slots that hold tuples
    top_is_tuple = False
    for opcode, value, _ in pickletools.genops(data):
        name, argument = opcode.name, cast(Any, value)
        if name not in _OPCODES:
            return f"pickle instruction {name}"
        if name == "PROTO" and argument not in (2, 3):
            return f"pickle protocol {argument}"
        if name == "GLOBAL" and not _harmless(argument):
            return str(argument).replace(" ", ".")
        # Sizes, strides and offsets count elements of the file; a larger number is a bomb.
        if name in _INTEGERS and abs(argument) > largest:
            return "a size beyond the file's"
        # A tuple of one tuple twice, and so on, takes time exponential in its depth to hash. torch.save shares none.
        if name.endswith("PUT"):
            (tuples.add if top_is_tuple else tuples.discard)(int(argument))
        else:
            top_is_tuple = name in _TUPLES
            if name.endswith("GET") and int(argument) in tuples:
                return "a tuple used twice"
    return None


def _harmless(name: str) -> bool:
    if name in _REBUILD:
        return True
    module, _, attribute = name.partition(" ")
    if module != "torch":
        return False
    return isinstance(getattr(torch, attribute, None), torch.dtype) or (
        attribute.endswith("Storage") and attribute.isidentifier() and hasattr(torch, attribute)
    )


def _name(path: Path, key: Any) -> str:
    if not isinstance(key, str):
        raise _refused(path, f"a key of type {type(key).__name__}")
    return key


def _plain(path: Path, key: str, item: Any, size: int) -> Tensor:
    """A tensor without gradient, as it lies in the file; ValueError for anything else under `key`."""
    if not isinstance(item, Tensor):
        raise _refused(path, f"{key[:80]!r} is of type {type(item).__name__}")
    plain = type(item) in (Tensor, torch.nn.Parameter) and item.layout == torch.strided and not item.is_quantized
    if not plain or item.device.type != "cpu":
        raise _refused(path, f"{key[:80]!r} is not a plain tensor")
    if item.numel() * item.element_size() > min(size, item.untyped_storage().nbytes()):
        raise ValueError(f"refused: {path}: tensor {key[:80]!r} of shape {tuple(item.shape)} is larger than its data")
    return item.detach()


def _refused(path: Path, what: str) -> ValueError:
    return ValueError(f"refused: {path} holds objects other than tensors ({what[:120]}); convert to safetensors")
