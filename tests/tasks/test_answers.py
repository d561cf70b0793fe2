"""Answers against a slow formula over the reference model's own logits, one window at a time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import regard
from tests.tasks.conftest import same

CONTEXT = (
    "The quick brown fox jumps over the lazy dog. Übergrößen: Füße, Straße. It lives in Berlin-Mitte, doesn't it? "
    "argument parser of the command line, formatted by the help formatter; unaffordable calendars of the year 2024."
)
QUESTIONS = ["Where does it live?", "What jumps?", "Which year?"]


def slow_answers(
    model: Any,
    folder: Path,
    question: str,
    context: str,
    *,
    top_k: int = 1,
    max_answer_len: int = 15,
    max_seq_len: int = 64,
    doc_stride: int = 32,
    impossible: bool = False,
    words: bool = True,
) -> list[dict[str, Any]]:
    """Every span of every window, by loops: softmax over the context and [CLS], product of both ends, texts merged."""
    import transformers

    tokenizer = transformers.BertTokenizer.from_pretrained(folder)
    rows = tokenizer(
        *(question, context),
        truncation="only_second",
        max_length=max_seq_len,
        stride=doc_stride,
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
    )
    merged: list[dict[str, Any]] = []
    nothing = 1.0
    for w, ids in enumerate(rows["input_ids"]):
        with torch.no_grad():
            types = torch.tensor([rows["token_type_ids"][w]])
            out = model(input_ids=torch.tensor([ids]), token_type_ids=types)
        inside = [s == 1 for s in rows.sequence_ids(w)]
        usable = [i for i, real in enumerate(inside) if real or i == 0]
        ends = {}
        for name in ("start_logits", "end_logits"):
            values = out[name][0].double().numpy()
            exps = {i: np.exp(values[i]) for i in usable}
            ends[name] = {i: e / sum(exps.values()) for i, e in exps.items()}
        start, end = ends["start_logits"], ends["end_logits"]
        nothing = min(nothing, start[0] * end[0])
        real = usable[1:]
        spans = [(start[i] * end[j], i, j) for i in real for j in real if i <= j < i + max_answer_len]
        spans.sort(reverse=True)
        for score, i, j in spans[: 2 * top_k + 10 if words else top_k]:
            begin, stop = rows["offset_mapping"][w][i][0], rows["offset_mapping"][w][j][1]
            if words:
                begin = rows.word_to_chars(w, rows.token_to_word(w, i), 1)[0]
                stop = rows.word_to_chars(w, rows.token_to_word(w, j), 1)[1]
            text = context[begin:stop]
            known = next((a for a in merged if a["answer"].lower() == text.lower()), None)
            if known is None:
                merged.append({"score": float(score), "start": begin, "end": stop, "answer": text})
            else:
                known["score"] += float(score)
    if impossible:
        merged.append({"score": float(nothing), "start": 0, "end": 0, "answer": ""})
    return sorted(merged, key=lambda a: -a["score"])[:top_k]


@pytest.mark.parametrize(
    ("options", "slow"),
    [
        ({}, {}),
        ({"top_k": 5}, {"top_k": 5}),
        ({"top_k": 4, "align_to_words": False}, {"top_k": 4, "words": False}),
        ({"top_k": 3, "max_answer_len": 2}, {"top_k": 3, "max_answer_len": 2}),
        (
            {"top_k": 3, "max_seq_len": 40, "doc_stride": 16},
            {"top_k": 3, "max_seq_len": 40, "doc_stride": 16},
        ),
        ({"top_k": 40, "handle_impossible_answer": True}, {"top_k": 40, "impossible": True}),
    ],
)
@pytest.mark.parametrize("question", QUESTIONS)
def test_answers(make: Any, question: str, options: dict[str, Any], slow: dict[str, Any]) -> None:
    model, folder = make("bert", "BertForQuestionAnswering")
    expected = slow_answers(model, folder, question, CONTEXT, **slow)
    found = regard.pipeline("question-answering", folder)(question=question, context=CONTEXT, **options)
    same([found] if isinstance(found, dict) else found, expected)
    for answer in expected:
        assert CONTEXT[answer["start"] : answer["end"]] == answer["answer"]


def test_a_whole_context_in_one_window_gives_the_spans_of_the_reference(make: Any) -> None:
    """The reference still has its search for spans, for documents: a truth that is not ours."""
    from transformers.pipelines.document_question_answering import select_starts_ends

    from regard.tasks.answers import best_spans, span_probabilities

    draw = np.random.default_rng(0)
    for size, count in ((12, 1), (30, 7), (30, 500)):
        logits = draw.normal(size=(2, 1, size)).astype(np.float32) * 3
        inside = np.arange(size) >= size // 3
        hidden = ~inside
        hidden[0] = False  # [CLS] takes part
        starts, ends, scores, _ = select_starts_ends(
            *(logits[0], logits[1], hidden[None].astype(int), None), top_k=count, max_answer_len=6
        )
        start, end = span_probabilities(torch.tensor(logits[:, 0].T), torch.tensor(inside), True)
        mine = best_spans(start, end, torch.tensor(inside), count, 6)
        keep = [k for k in range(len(starts)) if scores[k] > 0]
        assert [(i, j) for i, j, _ in mine] == [(int(starts[k]), int(ends[k])) for k in keep]
        assert np.allclose([s for *_, s in mine], [scores[k] for k in keep], atol=1e-6)


def test_every_way_to_ask(make: Any, tmp_path: Path) -> None:
    qa = regard.pipeline("question-answering", make("bert", "BertForQuestionAnswering")[1])
    items = [{"question": q, "context": CONTEXT} for q in QUESTIONS]
    each = [qa(item) for item in items]
    assert all(isinstance(answer, dict) for answer in each)
    same(qa(items), each)
    same(qa(question=QUESTIONS, context=CONTEXT), each)
    same(qa(question=QUESTIONS, context=[CONTEXT] * 3), each)
    same(qa(items[:1]), each[0])  # as in the reference, one is one
    assert len(qa(items[0], top_k=3)) == 3
    lines = tmp_path / "questions.jsonl"
    lines.write_text("\n".join(f'{{"question": "{q}", "context": "It lives in Berlin."}}' for q in QUESTIONS))
    same(list(qa(lines)), [qa(question=q, context="It lives in Berlin.") for q in QUESTIONS])


def test_what_is_wrong_is_said(make: Any) -> None:
    qa = regard.pipeline("question-answering", make("bert", "BertForQuestionAnswering")[1])
    for item, message in (
        ({"question": "Who?"}, 'the item has question .*; allowed: {"question": ..., "context": ...}'),
        ("Who?", "the item is 'Who\\?'"),
        ({"question": "", "context": "x"}, "question is an empty string"),
        ({"question": "Who?", "context": 5}, "context is 5"),
        ({"question": "a dog " * 60, "context": "x"}, "the question has 180 tokens; a window of 64"),
    ):
        with pytest.raises(ValueError, match=message):
            qa(item)
    with pytest.raises(ValueError, match="there are 2 questions"):
        qa(question=["a", "b"], context=["c"])
    with pytest.raises(ValueError, match="doc_stride is 63"):
        qa(question="Who?", context="x", doc_stride=63)
    with pytest.raises(ValueError, match="max_answer_len is 0"):
        qa(question="Who?", context="x", max_answer_len=0)
