"""Rows of text -> rows of ids, one function for each kind of objective."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from regard.preprocess.encoding import BatchEncoding
from regard.preprocess.text import Tokenizer
from regard.training.data.labels import Labels, label_list, number
from regard.training.data.rows import column_of
from regard.training.data.tokens import end_of, ids_of
from regard.training.losses import IGNORE

_CHUNK = 1000


@dataclass(frozen=True)
class Prepared(Sequence[dict[str, Any]]):
    """Rows for an objective: a data set in memory. `labels` are the classes, `notes` what happened to the rows."""

    rows: list[dict[str, Any]]
    labels: Labels | None = None
    notes: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: Any) -> Any:
        return self.rows[index]

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each row, and of each side of it where there are two: (N, sides)."""
        names = [name for name in ("input_ids", "labels", "positive_ids", "negative_ids") if self._is_text(name)]
        sides = np.array([[len(row[name]) for name in names] for row in self.rows], dtype=np.int64)
        return sides[:, 0] if len(names) == 1 else sides

    def _is_text(self, name: str) -> bool:
        if not self.rows or name not in self.rows[0] or np.ndim(self.rows[0][name]) != 1:
            return False
        # Labels beside each token are no tokens of their own.
        return name != "labels" or not all(len(row["labels"]) == len(row["input_ids"]) for row in self.rows)


def classification(
    rows: Any,
    tokenizer: Tokenizer,
    *,
    text: str = "text",
    pair: str | None = None,
    label: str = "label",
    labels: Labels | None = None,
    kind: Literal["single", "multi", "regression"] = "single",
    max_length: int | None = None,
) -> Prepared:
    """Texts, or pairs of them, with a class, a list of classes ("multi"), or one or more numbers ("regression").

    `labels` are those of the training split, for the others. Rows: input_ids, labels; token_type_ids for pairs.
    """
    if kind not in ("single", "multi", "regression"):
        raise ValueError(f"kind is {kind!r}; allowed: 'single', 'multi', 'regression'")
    values = column_of(rows, label)
    if kind != "regression" and labels is None:
        labels = Labels.of_column(rows, label)
    goal = _goal(kind, labels, label)
    found, cut = [], 0
    for first, encoding in _encoded(tokenizer, _texts(rows, text), _texts(rows, pair) if pair else None, max_length):
        for k, row in enumerate(_ids(encoding, types=pair is not None)):
            found.append({**row, "labels": goal(values[first + k], first + k)})
            cut += _was_cut(encoding, k)
    return Prepared(found, labels, _cut_note(cut, len(found)))


def _goal(kind: str, labels: Labels | None, column: str) -> Callable[[Any, int], Any]:
    if kind == "regression":

        def numbers(value: Any, row: int) -> Any:
            several = isinstance(value, (list, tuple, np.ndarray))
            found = [number(v, row, column) for v in value] if several else number(value, row, column)
            return np.array(found, dtype=np.float32)

        return numbers
    assert labels is not None
    if kind == "single":
        return lambda value, row: labels.id(value, row, column)

    def many(value: Any, row: int) -> np.ndarray:
        found = np.zeros(len(labels), dtype=np.float32)
        found[[labels.id(one, row, column) for one in label_list(value, row, column)]] = 1
        return found

    return many


def token_classification(
    rows: Any,
    tokenizer: Tokenizer,
    *,
    words: str = "words",
    tags: str = "tags",
    labels: Labels | None = None,
    max_length: int | None = None,
) -> Prepared:
    """Words with a tag each: a word's label stands at its first token, all other tokens have -100."""
    _needs_offsets(tokenizer, "token_classification")
    if labels is None:
        labels = Labels.of_column(rows, tags)
    lists, marks = column_of(rows, words), column_of(rows, tags)
    for i, (row, mark) in enumerate(zip(lists, marks, strict=True)):
        if not isinstance(row, (list, tuple)) or not row or not all(isinstance(word, str) for word in row):
            raise ValueError(f"row {i}: {words!r} is {str(row)[:60]!r}; allowed: a list of words, one at least")
        if len(label_list(mark, i, tags)) != len(row):
            raise ValueError(f"row {i} has {len(row)} words and {len(mark)} tags; allowed: a tag for each word")
    found, lost = [], 0
    for start in range(0, len(lists), _CHUNK):
        batch = [list(row) for row in lists[start : start + _CHUNK]]
        encoding = tokenizer(batch, is_split_into_words=True, truncation=True, max_length=max_length)
        for k, row in enumerate(_ids(encoding, types=False)):
            goal = np.full(len(row["input_ids"]), IGNORE, dtype=np.int64)
            seen = set()
            for at, word in enumerate(encoding.word_ids(k)):
                if word is not None and word not in seen:
                    seen.add(word)
                    goal[at] = labels.id(marks[start + k][word], start + k, tags)
            lost += len(batch[k]) - len(seen)
            found.append({**row, "labels": goal})
    notes = [f"{lost:,} words were lost: beyond max_length, or without a token"] if lost else []
    return Prepared(found, labels, notes)


def words_and_tags(text: str, separator: str = "/") -> dict[str, list[str]]:
    """{"words", "tags"} of a line such as "The/at jury/nn": the tag comes after the last separator of a word."""
    pairs = [part.rpartition(separator) for part in text.split()]
    bare = next((word for before, mark, word in pairs if not mark or not before), None)
    if bare is not None:
        raise ValueError(f"{bare!r} has no tag; allowed: words with one each, such as The{separator}at")
    return {"words": [word for word, _, _ in pairs], "tags": [tag for _, _, tag in pairs]}


def causal_lm(
    rows: Any,
    tokenizer: Tokenizer,
    *,
    text: str = "text",
    prompt: str | None = None,
    max_length: int | None = None,
) -> Prepared:
    """Documents with their end (eos_token); what is longer than `max_length` goes on in the next row.

    With a `prompt` column, `text` follows it, only `text` is learnt, and what is too long loses its end. For large
    texts see `tokens.TokenFile`.
    """
    end = end_of(tokenizer)
    found: list[dict[str, Any]] = []
    cut = 0
    texts, prompts = _texts(rows, text), _texts(rows, prompt) if prompt else None
    for start in range(0, len(texts), _CHUNK):
        documents = ids_of(tokenizer, texts[start : start + _CHUNK], special=False)
        if prompts is None:
            for document in documents:
                whole = np.array([*document, *end], dtype=np.int64)
                width = max_length or len(whole)
                found += [{"input_ids": whole[at : at + width]} for at in range(0, len(whole), width)]
            continue
        before = ids_of(tokenizer, prompts[start : start + _CHUNK], special=False)
        for k, (asked, answer) in enumerate(zip(before, documents, strict=True)):
            whole = np.array([*asked, *answer, *end], dtype=np.int64)
            goal = whole.copy()
            goal[: len(asked)] = IGNORE
            if max_length is not None and len(asked) >= max_length:
                raise ValueError(f"row {start + k}: the prompt has {len(asked)} tokens; max_length is {max_length}")
            cut += max_length is not None and len(whole) > max_length
            found.append({"input_ids": whole[:max_length], "labels": goal[:max_length]})
    return Prepared(found, None, _cut_note(cut, len(found)))


def masked_lm(
    rows: Any, tokenizer: Tokenizer, *, text: str = "text", max_length: int | None = None, whole_words: bool = False
) -> Prepared:
    """Documents with the tokenizer's special tokens; longer ones become several rows.

    With `whole_words`, rows have word_ids as well, -1 for special tokens.
    """
    if whole_words:
        _needs_offsets(tokenizer, "whole_words")
    found = []
    texts = _texts(rows, text)
    for start in range(0, len(texts), _CHUNK):
        encoding = tokenizer(
            texts[start : start + _CHUNK], truncation=True, max_length=max_length, return_overflowing_tokens=True
        )
        for k, row in enumerate(_ids(encoding, types=False)):
            if whole_words:
                numbers = [-1 if word is None else word for word in encoding.word_ids(k)]
                row["word_ids"] = np.array(numbers, dtype=np.int64)
            found.append(row)
    return Prepared(found)


def seq2seq(
    rows: Any,
    tokenizer: Tokenizer,
    *,
    source: str = "source",
    target: str = "target",
    prefix: str = "",
    max_source: int | None = None,
    max_target: int | None = None,
) -> Prepared:
    """Sources, after a `prefix` such as "summarize: ", with targets that end with eos_token. Translation, summaries."""
    sources, targets = [prefix + text for text in _texts(rows, source)], _texts(rows, target)
    found, cut = [], 0
    for start, encoding in _encoded(tokenizer, sources, None, max_source):
        for k, row in enumerate(_ids(encoding, types=False)):
            cut += _was_cut(encoding, k)
            found.append(row)
        chunk = targets[start : start + _CHUNK]
        for k, ids in enumerate(target_ids(tokenizer, chunk, max_target)):
            found[start + k]["labels"] = ids
    return Prepared(found, None, _cut_note(cut, len(found)))


def target_ids(tokenizer: Any, texts: Sequence[str], max_length: int | None) -> list[np.ndarray]:
    """Texts as a decoder is to write them: with the tokenizer's own special tokens, and eos_token at the end."""
    how = {} if max_length is None else {"truncation": True, "max_length": max_length}
    goals = tokenizer(text_target=list(texts), **how)
    end = tokenizer.eos_token_id
    found = []
    for ids in goals.get("labels", goals["input_ids"]):
        ids = list(ids)
        if end is not None and ids[-1:] != [end] and end not in ids[-2:]:  # some languages end with a mark of their own
            ids = [*ids[: None if max_length is None else max_length - 1], end]
        found.append(np.array(ids, dtype=np.int64))
    return found


def pairs(
    rows: Any,
    tokenizer: Tokenizer,
    *,
    first: str = "first",
    second: str = "second",
    negative: str | None = None,
    max_length: int | None = None,
) -> Prepared:
    """Sentences that belong together, and perhaps one that does not: input_ids, positive_ids, negative_ids."""
    columns = {"input_ids": first, "positive_ids": second, **({"negative_ids": negative} if negative else {})}
    found: list[dict[str, Any]] = [{} for _ in range(len(rows))]
    cut = 0
    for name, column in columns.items():
        for start, encoding in _encoded(tokenizer, _texts(rows, column), None, max_length):
            for k, row in enumerate(_ids(encoding, types=False)):
                found[start + k][name] = row["input_ids"]
                cut += _was_cut(encoding, k)
    return Prepared(found, None, _cut_note(cut, len(columns) * len(found)))


# parts


def _texts(rows: Any, column: str) -> list[str]:
    values = column_of(rows, column)
    for i, value in enumerate(values):
        if not isinstance(value, str):
            raise ValueError(f"row {i}: {column!r} is {str(value)[:60]!r} ({type(value).__name__}); allowed: text")
    return values


def _encoded(
    tokenizer: Tokenizer, texts: list[str], others: list[str] | None, max_length: int | None
) -> Iterator[tuple[int, BatchEncoding]]:
    """(first row, encoding) of so many rows at a time, cut at `max_length` or what the model takes."""
    for start in range(0, len(texts), _CHUNK):
        pair = None if others is None else others[start : start + _CHUNK]
        yield start, tokenizer(texts[start : start + _CHUNK], pair, truncation=True, max_length=max_length)


def _ids(encoding: Mapping[str, Any], *, types: bool) -> Iterator[dict[str, Any]]:
    for k, ids in enumerate(encoding["input_ids"]):
        row = {"input_ids": np.array(ids, dtype=np.int64)}
        if types and "token_type_ids" in encoding:
            row["token_type_ids"] = np.array(encoding["token_type_ids"][k], dtype=np.int64)
        yield row


def _was_cut(encoding: BatchEncoding, row: int) -> bool:
    return bool(encoding.encodings and encoding.encodings[row].overflowing)


def _cut_note(cut: int, count: int) -> list[str]:
    return [f"{cut:,} of {count:,} texts were cut to max_length"] if cut else []


def _needs_offsets(tokenizer: Tokenizer, what: str) -> None:
    if tokenizer.coder is not None:
        raise ValueError(f"{what} needs a tokenizer that knows where tokens lie in the text")
