"""Questions about texts -> windows of ids with the place of the answer."""

from __future__ import annotations

from typing import Any

import numpy as np

from regard.preprocess.text import Tokenizer
from regard.training.data.prepare import Prepared, _ids, _needs_offsets, _texts
from regard.training.data.rows import column_of

_CHUNK = 200


def question_answering(
    rows: Any,
    tokenizer: Tokenizer,
    *,
    question: str = "question",
    context: str = "context",
    answers: str = "answers",
    max_length: int = 384,
    stride: int = 128,
) -> Prepared:
    """Questions with a context, read in windows of `max_length` tokens that overlap by `stride`.

    `answers` is {"text": [...], "answer_start": [...]} or [{"text", "answer_start"}], in characters of the context;
    without one, the question has no answer. The first is learnt. Rows: input_ids, token_type_ids where the model has
    them, start_positions and end_positions (both 0 where the window does not hold the whole answer), `row`, the number
    of the question, `offsets` (T, 2), characters of the context, -1 for other tokens, and for the metrics the `context`
    and all `answers`. Raises ValueError for an answer that does not stand where it should.
    """
    _needs_offsets(tokenizer, "question_answering")
    questions, contexts = _texts(rows, question), _texts(rows, context)
    found_answers = [_answers(value, i, answers) for i, value in enumerate(column_of(rows, answers))]
    goals = [_goal(value, contexts[i], i) for i, value in enumerate(found_answers)]
    right = tokenizer.padding_side == "right"  # else a decoder, which reads the context first
    part, cut = (1, "only_second") if right else (0, "only_first")
    found: list[dict[str, Any]] = []
    held: set[int] = set()
    for start in range(0, len(questions), _CHUNK):
        asked, told = questions[start : start + _CHUNK], contexts[start : start + _CHUNK]
        _check_room(tokenizer, asked, start, max_length, stride)
        first, second = (asked, told) if right else (told, asked)
        options: dict[str, Any] = {"truncation": cut, "max_length": max_length, "stride": stride}
        encoding = tokenizer(first, second, return_overflowing_tokens=True, return_token_type_ids=None, **options)
        for k, row in enumerate(_ids(encoding, types=True)):
            number = start + encoding["overflow_to_sample_mapping"][k]
            assert encoding.encodings is not None
            inside = np.array([sequence == part for sequence in encoding.sequence_ids(k)])
            offsets = np.array(encoding.encodings[k].offsets, dtype=np.int64)
            offsets[~inside] = -1
            begin, end = _place(goals[number], offsets, inside)
            if end:
                held.add(number)
            where = {"start_positions": begin, "end_positions": end, "row": number, "offsets": offsets}
            texts = tuple(text for text, _ in found_answers[number])
            found.append({**row, **where, "context": contexts[number], "answers": texts})
    lost = sum(goal is not None for goal in goals) - len(held)
    notes = [f"{lost:,} of {len(goals):,} answers lie in no window as a whole"] if lost else []
    return Prepared(found, None, notes)


def _answers(value: Any, row: int, column: str) -> list[tuple[str, int]]:
    """Each answer's text and where it begins."""
    if isinstance(value, dict):
        texts, starts = value.get("text"), value.get("answer_start")
        if not isinstance(texts, (list, tuple, np.ndarray)) or not isinstance(starts, (list, tuple, np.ndarray)):
            raise ValueError(f"row {row}: {column!r} has {', '.join(value)}; allowed: lists text and answer_start")
    elif value is None or isinstance(value, (list, tuple)):
        value = value or ()
        if not all(isinstance(one, dict) and {"text", "answer_start"} <= set(one) for one in value):
            raise ValueError(f"row {row}: {column!r} is {str(value)[:60]!r}; allowed: objects of text, answer_start")
        texts, starts = [one["text"] for one in value], [one["answer_start"] for one in value]
    else:
        raise ValueError(f"row {row}: {column!r} is {str(value)[:60]!r}; allowed: text and answer_start")
    if len(texts) != len(starts):
        raise ValueError(f"row {row}: {column!r} has {len(texts)} texts and {len(starts)} starts; allowed: as many")
    return [(str(text), int(start)) for text, start in zip(texts, starts, strict=True)]


def _goal(answers: list[tuple[str, int]], context: str, row: int) -> tuple[int, int] | None:
    """Characters (start, end) of the first answer, or None."""
    if not answers:
        return None
    text, start = answers[0]
    if not text or start < 0 or context[start : start + len(text)] != text:
        there = context[max(0, start) : max(0, start) + len(text)]
        raise ValueError(f"row {row}: the answer {text[:60]!r} should stand at {start}; there is {there[:60]!r}")
    return start, start + len(text)


def _place(goal: tuple[int, int] | None, offsets: np.ndarray, inside: np.ndarray) -> tuple[int, int]:
    """First and last token of an answer, or (0, 0) where it is not all there."""
    where = np.flatnonzero(inside & (offsets[:, 1] > offsets[:, 0]))
    if goal is None or not len(where) or offsets[where[0], 0] > goal[0] or offsets[where[-1], 1] < goal[1]:
        return 0, 0
    first = where[offsets[where, 1] > goal[0]]
    last = where[offsets[where, 0] < goal[1]]
    return int(first[0]), int(last[-1])


def _check_room(tokenizer: Tokenizer, questions: list[str], start: int, max_length: int, stride: int) -> None:
    around = tokenizer.num_special_tokens_to_add(pair=True)
    for k, ids in enumerate(tokenizer(questions, add_special_tokens=False, truncation=False)["input_ids"]):
        room = max_length - len(ids) - around
        if room <= stride:
            raise ValueError(
                f"row {start + k}: the question has {len(ids)} tokens, which leaves {room} of max_length {max_length} "
                f"to the context; allowed: more than stride, {stride}"
            )
