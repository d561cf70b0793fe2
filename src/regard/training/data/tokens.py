"""Texts tokenized once, into a memory map that is made again only when texts or tokenizer change."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
from array import array
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from regard.checkpoint.files import read_json, write_json
from regard.preprocess.text import Tokenizer
from regard.tasks.progress import Meter

FORMAT = "regard-tokens-1"
ENDS = ("eos", "own", "none")

_DTYPES = {"uint16": "<u2", "uint32": "<u4"}
_BATCH_TEXTS, _BATCH_CHARS = 1000, 2**20


class Tokens:
    """Documents as ids, end to end: document i is ids[offsets[i]:offsets[i + 1]].

    `Tokens.of(lists of ids)` is in memory; `TokenFile.open(folder)` on disk, where nothing is read until it is used.
    """

    def __init__(self, ids: np.ndarray, offsets: np.ndarray):
        self.ids, self.offsets = ids, offsets

    @classmethod
    def of(cls, documents: Iterable[Sequence[int] | np.ndarray]) -> Tokens:
        """From ids in memory."""
        parts = [np.asarray(document, dtype=np.int64) for document in documents]
        ids = np.concatenate(parts) if parts else np.zeros(0, np.int64)
        return cls(ids, np.concatenate([[0], np.cumsum([len(part) for part in parts])]).astype(np.int64))

    def __len__(self) -> int:
        """Documents."""
        return len(self.offsets) - 1

    @property
    def count(self) -> int:
        """Tokens."""
        return len(self.ids)

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each document, (N,)."""
        return np.diff(self.offsets)

    def document(self, index: int) -> np.ndarray:
        """The ids of a document, (T,) of int64."""
        if not 0 <= index < len(self):
            raise IndexError(f"document {index} of {len(self)}")
        return self.span(int(self.offsets[index]), int(self.offsets[index + 1]))

    def span(self, start: int, stop: int) -> np.ndarray:
        """Ids of the stream, int64."""
        return np.asarray(self.ids[start:stop]).astype(np.int64)


class TokenFile(Tokens):
    """`Tokens` in a folder: tokens.bin (uint16 or uint32, little-endian), offsets.npy (int64), header.json."""

    folder: Path
    header: dict[str, Any]

    @classmethod
    def open(cls, folder: str | os.PathLike[str]) -> TokenFile:
        """Map the files of a folder; ValueError names the one that is missing or does not fit the others."""
        folder = Path(folder)
        header = read_json(folder / "header.json") if (folder / "header.json").is_file() else {}
        if header.get("format") != FORMAT:
            raise ValueError(f"{folder} holds no tokens: its header.json is missing or of another format")
        kind, count, documents = str(header.get("dtype")), header.get("tokens"), header.get("documents")
        if kind not in _DTYPES or not isinstance(count, int) or not isinstance(documents, int):
            count = documents = -1
        if not (0 < count < 1 << 48 and 0 < documents < 1 << 48):
            said = ", ".join(f"{name} {header.get(name)!r}" for name in ("dtype", "tokens", "documents"))
            raise ValueError(f"{folder}/header.json says {said}; allowed: {', '.join(_DTYPES)}, and whole numbers")
        dtype = np.dtype(_DTYPES[kind])
        size = (folder / "tokens.bin").stat().st_size if (folder / "tokens.bin").is_file() else -1
        if size != count * dtype.itemsize:
            raise ValueError(f"{folder}/tokens.bin has {size} bytes; header.json says {count * dtype.itemsize}")
        try:
            offsets = np.load(folder / "offsets.npy", allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise ValueError(f"{folder}/offsets.npy cannot be read: {error}") from None
        fits = offsets.dtype == np.int64 and offsets.shape == (documents + 1,)
        if not fits or offsets[0] != 0 or offsets[-1] != count or (np.diff(offsets) < 0).any():
            raise ValueError(f"{folder}/offsets.npy does not fit header.json ({documents} documents, {count} tokens)")
        found = cls(np.memmap(folder / "tokens.bin", dtype=dtype, mode="r"), offsets)
        found.folder, found.header = folder, header
        return found

    @classmethod
    def build(
        cls,
        folder: str | os.PathLike[str],
        texts: Iterable[str],
        tokenizer: Tokenizer,
        *,
        data: str | None = None,
        ends: str = "eos",
        show: bool | None = None,
    ) -> TokenFile:
        """Tokenize texts into a folder, or open it where the same texts were tokenized in the same way before.

        Texts are read once, a few at a time, so they may come from a generator; `data` is then their fingerprint
        (`fingerprint_of_files`), without which the folder is made anew. Sequences have one of their own. `ends`: "eos"
        puts that token after each document, "own" all that the tokenizer puts around a text, "none" nothing. `show`
        forces the progress bar on or off. Nobody sees a half-written folder.
        """
        if ends not in ENDS:
            raise ValueError(f"ends is {ends!r}; allowed: {', '.join(map(repr, ENDS))}")
        folder = Path(folder)
        if data is None and isinstance(texts, Sequence):
            data = fingerprint_of_texts(texts)
        wanted = {"data": data, "tokenizer": fingerprint_of_tokenizer(tokenizer), "ends": ends}
        if (folder / "header.json").is_file():
            if data is not None and wanted.items() <= read_json(folder / "header.json").items():
                return cls.open(folder)
            if read_json(folder / "header.json").get("format") != FORMAT:
                raise ValueError(f"{folder} holds a header.json that is not of tokens; choose another folder")
        elif folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise ValueError(f"{folder} is there already and holds something else; choose another folder")
        folder.parent.mkdir(parents=True, exist_ok=True)
        fresh = folder.with_name(f".{folder.name}.{secrets.token_hex(6)}.tmp")
        fresh.mkdir()
        try:
            total = len(texts) if isinstance(texts, Sequence) else None
            _write(fresh, texts, tokenizer, wanted, Meter("tokenizing", total, show))
            _exchange(fresh, folder)
        finally:
            shutil.rmtree(fresh, ignore_errors=True)
        return cls.open(folder)

    def __reduce__(self) -> tuple[Any, ...]:
        return (TokenFile.open, (self.folder,))  # copies in other processes map the same file


def _write(folder: Path, texts: Iterable[str], tokenizer: Tokenizer, said: dict[str, Any], meter: Meter) -> None:
    size = max(tokenizer.get_vocab().values(), default=0) + 1
    kind = "uint16" if size <= 1 << 16 else "uint32"
    end = end_of(tokenizer) if said["ends"] == "eos" else []
    offsets = array("q", [0])
    try:
        with open(folder / "tokens.bin", "wb") as file:
            for batch in _batches(texts):
                for ids in ids_of(tokenizer, batch, special=said["ends"] == "own"):
                    document = np.array([*ids, *end], dtype=_DTYPES[kind])
                    file.write(document.tobytes())
                    offsets.append(offsets[-1] + len(document))
                meter.advance(len(batch))
    finally:
        meter.close()
    if offsets[-1] == 0:
        raise ValueError(f"there is nothing to tokenize: {len(offsets) - 1} documents without a token")
    np.save(folder / "offsets.npy", np.frombuffer(offsets, dtype=np.int64), allow_pickle=False)
    counts = {"tokens": offsets[-1], "documents": len(offsets) - 1, "vocab_size": size}
    write_json(folder / "header.json", {"format": FORMAT, "dtype": kind, **counts, **said})


def _batches(texts: Iterable[str]) -> Iterator[list[str]]:
    batch: list[str] = []
    chars = 0
    for i, text in enumerate(texts):
        if not isinstance(text, str):
            raise ValueError(f"text {i} is {str(text)[:60]!r} ({type(text).__name__}); allowed: text")
        batch.append(text)
        chars += len(text)
        if len(batch) == _BATCH_TEXTS or chars >= _BATCH_CHARS:
            yield batch
            batch, chars = [], 0
    if batch:
        yield batch


def ids_of(tokenizer: Tokenizer, texts: Sequence[str], *, special: bool) -> list[list[int]]:
    """The ids of each text, of any length, with or without the tokenizer's own special tokens."""
    return tokenizer(
        list(texts),
        add_special_tokens=special,
        truncation=False,
        return_attention_mask=False,
        return_token_type_ids=False,
    )["input_ids"]


def end_of(tokenizer: Tokenizer) -> list[int]:
    """The id that ends a document: of eos_token, or else of sep_token; ValueError where there is neither."""
    for token in (tokenizer.eos_token_id, tokenizer.sep_token_id):
        if token is not None:
            return [token]
    raise ValueError("the tokenizer has neither eos_token nor sep_token to end documents with; pass ends='none'")


def _exchange(fresh: Path, folder: Path) -> None:
    """Put a finished folder in the place of another."""
    old = fresh.with_suffix(".old")
    if folder.exists():
        os.replace(folder, old)
    os.replace(fresh, folder)
    shutil.rmtree(old, ignore_errors=True)


# fingerprints


def fingerprint_of_tokenizer(tokenizer: Any) -> str:
    """A hash of all that decides which ids a text gets."""
    coder = getattr(tokenizer, "coder", None)
    backend = getattr(tokenizer, "backend", None)
    files = {name: hashlib.sha256(data).hexdigest() for name, data in coder.files.items()} if coder is not None else {}
    said = [
        getattr(tokenizer, "class_name", type(tokenizer).__name__),
        {name: str(value) for name, value in tokenizer.special_tokens_map.items()},
        backend.to_str() if backend is not None else tokenizer.get_vocab(),
        files,
    ]
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:32]


def fingerprint_of_texts(texts: Iterable[str]) -> str:
    """A hash of texts and their order."""
    found = hashlib.blake2b(digest_size=16)
    for text in texts:
        data = str(text).encode("utf-8", "surrogatepass")
        found.update(len(data).to_bytes(8, "little"))
        found.update(data)
    return found.hexdigest()


def fingerprint_of_files(paths: Iterable[str | os.PathLike[str]]) -> str:
    """A hash of the content of files and their order."""
    found = hashlib.blake2b(digest_size=16)
    for path in paths:
        digest = hashlib.sha256()
        with open(path, "rb") as file:
            while block := file.read(2**20):
                digest.update(block)
        found.update(digest.digest())
    return found.hexdigest()
