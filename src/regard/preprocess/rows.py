"""Between what users pass and what the backend reads: texts to rows, rows to columns, ids to ids, text to text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .encoding import BatchEncoding, as_tensors


def _is_words(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and all(isinstance(word, str) for word in value)


def items_of(text: Any, pair: Any, words: bool) -> tuple[list[Any], bool]:
    """What the backend reads, one item a row, and whether it is a batch; ValueError for anything that is no text."""
    listed = isinstance(text, (list, tuple))
    batched = listed and (not words or (len(text) > 0 and isinstance(text[0], (list, tuple))))
    fits = _is_words if words else (lambda value: isinstance(value, str))

    def check(value: Any, name: str) -> Any:
        if fits(value):
            return value
        wanted = "a list of words" if words else "text"
        raise ValueError(
            f"{name} holds {str(value)[:80]!r} ({type(value).__name__}); allowed: {wanted}, or a list of such"
        )

    if not batched:
        check(text, "text")
        return [(text, check(pair, "text_pair")) if pair else text], False
    if not text:
        raise ValueError("text is an empty list; pass at least one text")
    if pair is None:
        rows = []
        for item in text:
            both = isinstance(item, (tuple, list)) and len(item) == 2 and all(fits(part) for part in item)
            rows.append(tuple(item) if both and not fits(item) else check(item, "text"))
        return rows, True
    if not isinstance(pair, (list, tuple)) or len(pair) != len(text):
        raise ValueError(f"text_pair should be a list as long as text ({len(text)})")
    return [(check(a, "text"), check(b, "text_pair")) for a, b in zip(text, pair, strict=True)], True


def collect(
    rows: list[Any], want: Mapping[str, bool], overflow: bool, tensors: str | None, *, flat: bool
) -> BatchEncoding:
    """Encodings as one mapping; with `overflow`, the windows that truncation cut off become rows of their own."""
    kept = [part for row in rows for part in ((row, *row.overflowing) if overflow else (row,))]
    data: dict[str, Any] = {"input_ids": [part.ids for part in kept]}
    for name, read in (
        ("token_type_ids", lambda part: part.type_ids),
        ("attention_mask", lambda part: part.attention_mask),
        ("special_tokens_mask", lambda part: part.special_tokens_mask),
        ("offset_mapping", lambda part: part.offsets),
        ("length", lambda part: len(part.ids)),
    ):
        if want[name]:
            data[name] = [read(part) for part in kept]
    if overflow:
        data["overflow_to_sample_mapping"] = [i for i, row in enumerate(rows) for _ in range(1 + len(row.overflowing))]
    if tensors is not None:
        data = as_tensors(data, tensors)
    elif flat and not overflow:
        data = {name: value[0] if isinstance(value[0], list) else value for name, value in data.items()}
    return BatchEncoding(data, kept)


def pad_row(row: Sequence[int], length: int, value: int, side: str) -> list[int]:
    gap = [value] * max(0, length - len(row))
    return gap + list(row) if side == "left" else list(row) + gap


def columns_of(encoded: Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    if not isinstance(encoded, Mapping):
        encoded = {name: [row[name] for row in encoded] for name in (encoded[0] if encoded else ())}
    if "input_ids" not in encoded:
        raise ValueError(f"encoded_inputs has no input_ids; it has {', '.join(encoded) or 'nothing'}")

    def plain(value: Any) -> Any:
        if hasattr(value, "tolist"):
            return value.tolist()
        return [plain(item) for item in value] if isinstance(value, (list, tuple)) else value

    return {name: plain(value) for name, value in encoded.items()}


def after_prompt(ids: list[int], begin: int | None, end: int | None) -> list[int]:
    """Without the words given to a speech decoder as context."""
    if ids and ids[0] == begin:
        return ids[ids.index(end) :] if end in ids else []
    return ids


_CLEANED = (
    (" .", "."),
    (" ?", "?"),
    (" !", "!"),
    (" ,", ","),
    (" ' ", "'"),
    (" n't", "n't"),
    (" 'm", "'m"),
    (" 's", "'s"),
    (" 've", "'ve"),
    (" 're", "'re"),
)


def clean_up_spaces(text: str) -> str:
    """Text without the spaces that a word tokenizer leaves before punctuation and English contractions."""
    for spaced, joined in _CLEANED:
        text = text.replace(spaced, joined)
    return text
