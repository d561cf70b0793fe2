"""The result of tokenizing: a mapping from names to ids and masks, with the way back to characters and words."""

from __future__ import annotations

from collections import UserDict
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from tokenizers import Encoding


class CharSpan(NamedTuple):
    """Characters `start` to `end` (exclusive) of the text."""

    start: int
    end: int


class TokenSpan(NamedTuple):
    """Tokens `start` to `end` (exclusive)."""

    start: int
    end: int


def as_tensors(data: Mapping[str, Any], kind: str, *, add_batch: bool = False) -> dict[str, Any]:
    """Lists of whole numbers as int64 arrays of torch ("pt") or numpy ("np"), (B, T); ValueError when rows differ in
    length."""
    if kind not in ("pt", "np"):
        raise ValueError(f"return_tensors is {kind!r}; allowed: 'pt', 'np', None")
    arrays: dict[str, Any] = {}
    for name, value in data.items():
        if isinstance(value, (list, tuple, int)):
            try:
                value = np.asarray([value] if add_batch else value, dtype=np.int64)
            except (ValueError, TypeError):
                raise ValueError(
                    f"{name}: the rows differ in length, so they make no tensor; pass padding=True (and "
                    f"truncation=True)"
                ) from None
        if kind == "pt":
            import torch

            value = torch.as_tensor(value)
        arrays[name] = value
    return arrays


class BatchEncoding(UserDict[str, Any]):
    """`input_ids`, `attention_mask` and the rest, as keys and as attributes; `**encoding` passes them to a model.

    `encodings` has one object of the tokenizers library a row, or None where the rows came from elsewhere.
    """

    def __init__(self, data: Mapping[str, Any] | None = None, encodings: Sequence[Encoding] | None = None) -> None:
        super().__init__(dict(data or {}))
        self.encodings = list(encodings) if encodings is not None else None

    is_fast = True

    def __getattr__(self, name: str) -> Any:
        if name == "data":  # while unpickling
            raise AttributeError(name)
        try:
            return self.data[name]
        except KeyError:
            raise AttributeError(f"this encoding has no {name!r}; it has {', '.join(self.data)}") from None

    def __getitem__(self, item: Any) -> Any:
        """A value by name, or a row's Encoding by number."""
        return self.data[item] if isinstance(item, str) else self._row(item)

    def _row(self, row: int) -> Encoding:
        if self.encodings is None:
            raise ValueError("this encoding kept no way back to the text (it was padded or built from ids)")
        if not -len(self.encodings) <= row < len(self.encodings):
            raise ValueError(f"row {row} of an encoding with {len(self.encodings)} rows")
        return self.encodings[row]

    def _at(self, row: int, index: int | None) -> tuple[Encoding, int]:
        """(row, index), or (index,) in the first row."""
        return (self._row(0), row) if index is None else (self._row(row), index)

    @property
    def n_sequences(self) -> int | None:
        """1 for texts, 2 for pairs."""
        return self.encodings[0].n_sequences if self.encodings else None

    def tokens(self, batch_index: int = 0) -> list[str]:
        """The tokens of a row as text."""
        return self._row(batch_index).tokens

    def word_ids(self, batch_index: int = 0) -> list[int | None]:
        """For each token of a row the number of its word, None for special tokens."""
        return self._row(batch_index).word_ids

    words = word_ids

    def sequence_ids(self, batch_index: int = 0) -> list[int | None]:
        """For each token of a row 0 (text) or 1 (pair), None for special tokens."""
        return self._row(batch_index).sequence_ids

    def token_to_sequence(self, batch_or_token_index: int, token_index: int | None = None) -> int | None:
        """0 or 1: which text a token came from."""
        row, index = self._at(batch_or_token_index, token_index)
        return row.token_to_sequence(index)

    def token_to_word(self, batch_or_token_index: int, token_index: int | None = None) -> int | None:
        """The number of a token's word in its text."""
        row, index = self._at(batch_or_token_index, token_index)
        found = row.token_to_word(index)
        return found[1] if isinstance(found, tuple) else found

    def token_to_chars(self, batch_or_token_index: int, token_index: int | None = None) -> CharSpan | None:
        """The characters of a token; None for special tokens."""
        row, index = self._at(batch_or_token_index, token_index)
        found = row.token_to_chars(index)
        if found is None:
            return None
        return CharSpan(*(found[1] if isinstance(found[1], tuple) else found))

    def char_to_token(
        self, batch_or_char_index: int, char_index: int | None = None, sequence_index: int = 0
    ) -> int | None:
        """The token that holds a character; None where there is none (a space, or cut off)."""
        row, index = self._at(batch_or_char_index, char_index)
        return row.char_to_token(index, sequence_index)

    def char_to_word(
        self, batch_or_char_index: int, char_index: int | None = None, sequence_index: int = 0
    ) -> int | None:
        """The number of the word that holds a character."""
        row, index = self._at(batch_or_char_index, char_index)
        return row.char_to_word(index, sequence_index)

    def word_to_tokens(
        self, batch_or_word_index: int, word_index: int | None = None, sequence_index: int = 0
    ) -> TokenSpan | None:
        """The tokens of a word."""
        row, index = self._at(batch_or_word_index, word_index)
        found = row.word_to_tokens(index, sequence_index)
        return TokenSpan(*found) if found is not None else None

    def word_to_chars(
        self, batch_or_word_index: int, word_index: int | None = None, sequence_index: int = 0
    ) -> CharSpan | None:
        """The characters of a word."""
        row, index = self._at(batch_or_word_index, word_index)
        found = row.word_to_chars(index, sequence_index)
        return CharSpan(*found) if found is not None else None

    def convert_to_tensors(self, tensor_type: str | None = None, prepend_batch_axis: bool = False) -> BatchEncoding:
        """Turn every value into a tensor ("pt") or array ("np"), in place."""
        if tensor_type is not None:
            self.data = as_tensors(self.data, tensor_type, add_batch=prepend_batch_axis)
        return self

    def to(self, device: Any, *, non_blocking: bool = False) -> BatchEncoding:
        """Move the tensors to a device, in place."""
        for name, value in self.data.items():
            if hasattr(value, "to"):
                self.data[name] = value.to(device=device, non_blocking=non_blocking)
        return self
