"""Reading SentencePiece models without the sentencepiece library.

A `.model`/`.spm` file is one protocol buffer message (`ModelProto`). Only the fields that change token ids or text
are read.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

SPACE = "\u2581"  # the mark that stands for a space inside pieces
MAX_MODEL_BYTES = 64 << 20
MAX_PIECES = 4_000_000
MAX_SPLIT_WORK = 1_000_000_000  # sum of squared piece lengths: what `merges` would have to compare


class PieceType(IntEnum):
    """What a piece is, with the numbers of the file format."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


@dataclass(frozen=True, kw_only=True)
class SentencePieceModel:
    """The content of a SentencePiece model: pieces with log-probabilities, and how text is normalised before.

    `pieces[i]` is (text, score, type) of id i; `algorithm` is "unigram", "bpe", "word" or "char"; `charsmap` is the
    compiled table of replacements, empty when there is none. Special ids are -1 when switched off.
    """

    pieces: tuple[tuple[str, float, PieceType], ...]
    algorithm: str
    charsmap: bytes
    byte_fallback: bool
    unk_id: int
    bos_id: int
    eos_id: int
    unk_piece: str
    bos_piece: str
    eos_piece: str
    unk_surface: str
    add_dummy_prefix: bool
    remove_extra_whitespaces: bool
    escape_whitespaces: bool
    whitespace_as_suffix: bool

    @property
    def vocabulary(self) -> list[tuple[str, float]]:
        """(piece, score) in id order."""
        return [(text, score) for text, score, _ in self.pieces]


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
        if shift > 63:
            raise ValueError("a number longer than 64 bits")


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """(field number, value) of every field of one message, in file order."""
    at, end = 0, len(data)
    while at < end:
        key, at = _varint(data, at)
        number, wire = key >> 3, key & 7
        value: int | bytes
        if wire == 0:
            value, at = _varint(data, at)
        elif wire == 2:
            size, at = _varint(data, at)
            value, at = data[at : at + size], at + size
        elif wire in (1, 5):
            size = 8 if wire == 1 else 4
            value, at = data[at : at + size], at + size
        else:
            raise ValueError(f"unknown wire type {wire}")
        if at > end:
            raise ValueError("a field runs past the end")
        yield number, value


def _message(data: bytes) -> dict[int, int | bytes]:
    """Fields of a message in which the last value of a number wins, as protocol buffers define."""
    return dict(_fields(data))


class _Spec:
    """Typed reads, with the defaults of the format, from one sub-message."""

    def __init__(self, data: bytes) -> None:
        self.values = _message(data)

    def whole(self, number: int, default: int) -> int:
        value = self.values.get(number, default)
        if not isinstance(value, int):
            raise ValueError(f"field {number} should be a number")
        value &= 0xFFFFFFFF
        return value - (1 << 32) if value >= 1 << 31 else value

    def flag(self, number: int, default: bool) -> bool:
        return bool(self.whole(number, int(default)))

    def raw(self, number: int) -> bytes:
        value = self.values.get(number, b"")
        if not isinstance(value, bytes):
            raise ValueError(f"field {number} should be bytes")
        return value

    def text(self, number: int, default: str) -> str:
        return self.raw(number).decode() if number in self.values else default


def _piece(data: bytes) -> tuple[str, float, PieceType]:
    text, score, kind = "", 0.0, 1
    for number, value in _fields(data):
        if number == 1 and isinstance(value, bytes):
            text = value.decode()
        elif number == 2 and isinstance(value, bytes):
            (score,) = struct.unpack("<f", value)
        elif number == 3 and isinstance(value, int):
            kind = value
    if not text:
        raise ValueError("an empty piece")
    return text, score, PieceType(kind)


def parse_sentencepiece(data: bytes) -> SentencePieceModel:
    """Parse the bytes of a SentencePiece model; ValueError says what is wrong with them."""
    if len(data) > MAX_MODEL_BYTES:
        raise ValueError(f"{len(data)} bytes; a SentencePiece model has at most {MAX_MODEL_BYTES}")
    pieces: list[tuple[str, float, PieceType]] = []
    trainer = normalizer = b""
    try:
        for number, value in _fields(data):
            if not isinstance(value, bytes):
                continue
            if number == 1:
                pieces.append(_piece(value))
                if len(pieces) > MAX_PIECES:
                    raise ValueError(f"more than {MAX_PIECES} pieces")
            elif number == 2:
                trainer = value
            elif number == 3:
                normalizer = value
        spec, norm = _Spec(trainer), _Spec(normalizer)
        algorithm = {1: "unigram", 2: "bpe", 3: "word", 4: "char"}.get(spec.whole(3, 1))
        if not pieces or algorithm is None:
            raise ValueError("no pieces" if not pieces else f"model type {spec.whole(3, 1)} is unknown")
        unk_id = next((i for i, (_, _, kind) in enumerate(pieces) if kind == PieceType.UNKNOWN), spec.whole(40, 0))
        return SentencePieceModel(
            pieces=tuple(pieces),
            algorithm=algorithm,
            charsmap=norm.raw(2),
            byte_fallback=spec.flag(35, False),
            unk_id=unk_id,
            bos_id=spec.whole(41, 1),
            eos_id=spec.whole(42, 2),
            unk_piece=spec.text(45, "<unk>"),
            bos_piece=spec.text(46, "<s>"),
            eos_piece=spec.text(47, "</s>"),
            unk_surface=spec.text(44, " \u2047 "),
            add_dummy_prefix=norm.flag(3, True),
            remove_extra_whitespaces=norm.flag(4, True),
            escape_whitespaces=norm.flag(5, True),
            whitespace_as_suffix=spec.flag(24, False),
        )
    except (IndexError, struct.error, UnicodeDecodeError, ValueError) as error:
        raise ValueError(f"not a SentencePiece model: {error}") from None


def read_sentencepiece(path: Path) -> SentencePieceModel:
    """Read a `.model` or `.spm` file; ValueError names the file."""
    size = path.stat().st_size
    if size > MAX_MODEL_BYTES:
        raise ValueError(f"{path}: {size} bytes; a SentencePiece model has at most {MAX_MODEL_BYTES}")
    try:
        return parse_sentencepiece(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def merges(ids: Mapping[str, int]) -> list[tuple[str, str]]:
    """The merge list that makes byte-pair encoding over these pieces act as SentencePiece does.

    Every way to cut a piece into two pieces is a merge; earlier pieces merge first.
    """
    if sum(len(piece) ** 2 for piece in ids) > MAX_SPLIT_WORK:
        raise ValueError("the pieces are too long to split into merges")
    found: list[tuple[int, int, int, int, int, str, str]] = []
    for piece, rank in ids.items():
        for cut in range(1, len(piece)):
            left, right = piece[:cut], piece[cut:]
            if left in ids and right in ids:
                found.append((rank, len(left), len(right), ids[left], ids[right], left, right))
    found.sort()
    return [entry[-2:] for entry in found]
