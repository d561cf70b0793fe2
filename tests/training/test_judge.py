"""Judging a model: answers from windows, beams, and what is measured by default."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import regard
from regard.training.base import Batch
from regard.training.build import build
from regard.training.judge import judge
from regard.training.metrics import exact_match, token_f1
from regard.training.objectives import QuestionAnswering
from regard.training.recipe import Recipe
from tests.training.recipes import BERT, PIECES, T5, aligned, asked, labelled, rated, table

TRANSLATION = {"name": "seq2seq", "max_new_tokens": 6}


class Pointer(QuestionAnswering):
    """Scores that a test sets, in place of a model's."""

    def __init__(self, start: Any, end: Any):
        super().__init__()
        self.start, self.end = torch.tensor(start), torch.tensor(end)

    def scores(self, model: Any, batch: Batch) -> Any:
        return self.start, self.end, []


def windows(context: str, *, answers: tuple[str, ...]) -> list[dict[str, Any]]:
    """Two windows of a question: [CLS] and three words each, of five words in all."""
    places, at = [], 0
    for word in context.split():
        places.append((at, at + len(word)))
        at += len(word) + 1
    rows = []
    for part in (places[:3], places[2:]):
        offsets = np.array([(-1, -1), *part])
        row = {"input_ids": np.arange(1, 5), "start_positions": 0, "end_positions": 0, "row": 7}
        rows.append({**row, "offsets": offsets, "context": context, "answers": answers})
    return rows


@pytest.mark.parametrize(
    ("start", "end", "said"),
    [
        ([[0, 5, 0, 0], [0, 0, 9, 0]], [[0, 0, 4, 0], [0, 0, 0, 8]], "the old"),  # 17 beats 9
        ([[0, 9, 0, 0], [0, 0, 5, 0]], [[0, 0, 9, 0], [0, 0, 0, 4]], "A fox"),
        ([[9, 9, 0, 0], [9, 0, 5, 0]], [[9, 0, 8, 0], [9, 0, 0, 4]], ""),  # no answer: 18 in both, 17 at best
        ([[9, 9, 0, 0], [1, 0, 5, 0]], [[9, 0, 8, 0], [1, 0, 0, 4]], "A fox"),  # one window is sure that there is one
        ([[0, 0, 9, 0], [0, 0, 0, 0]], [[0, 9, 0, 0], [0, 0, 0, 0]], "A"),  # the end does not come before the start
    ],
)
def test_a_question_has_the_best_answer_of_its_windows(start: Any, end: Any, said: str) -> None:
    goal = Pointer([[float(x) for x in row] for row in start], [[float(x) for x in row] for row in end])
    batch = goal.collate(windows("A fox sees the old", answers=("the old", "old")), np.random.default_rng(0))
    found, right = goal.joined(*goal.predict(None, batch))  # type: ignore[arg-type]
    assert (found, right) == ([said], [["the old", "old"]])
    assert exact_match(found, right) == float(said == "the old")
    assert token_f1(["old fox"], right) == pytest.approx(2 / 3)


def translator(folder: Path) -> tuple[regard.Model, str]:
    data = aligned(folder)
    tokenizer = {"kind": "unigram", "vocab_size": 60}
    recipe = Recipe(objective=TRANSLATION, model=T5, tokenizer=tokenizer, data={"train": data, "valid": 0.25})
    return build(recipe).model.eval(), data


def test_beams_are_those_of_generate(tmp_path: Path) -> None:
    model, data = translator(tmp_path)
    rows = [line.split(",") for line in Path(data).read_text().splitlines()[1:]]
    tokenizer = model.processor
    right = [tokenizer.decode(tokenizer(goal)["input_ids"], skip_special_tokens=True) for _, goal in rows]
    most = 2 * max(len(tokenizer(goal)["input_ids"]) for _, goal in rows)
    found = {}
    for beams in (1, 3):
        said = []
        for source, _ in rows:
            ids = torch.tensor([tokenizer(source)["input_ids"]])
            out = model.generate(ids, num_beams=beams, max_new_tokens=most)[0, :]
            said.append(tokenizer.decode(out.tolist(), skip_special_tokens=True))
        found[beams] = judge(model, data, metrics=("chrf",), beams=beams)["chrf"]
        from regard.training.metrics import chrf

        assert found[beams] == pytest.approx(chrf(said, right))
    assert model.generation == {}, "as it was"


def test_texts_are_measured_as_texts(tmp_path: Path) -> None:
    model, data = translator(tmp_path)
    assert {"loss", "perplexity", "bleu", "rougeL"} <= set(judge(model, data, limit=4))
    assert set(judge(model, data, limit=4, metrics=("exact",))) == {"rows", "loss", "perplexity", "exact", "seconds"}


def test_numbers_and_names_of_other_orders(tmp_path: Path) -> None:
    """A model keeps its own order of classes; numbers are compared as numbers."""
    base = {"model": BERT, "tokenizer": PIECES}
    model = build(Recipe(objective="classification", **base, data={"train": labelled(tmp_path)})).model  # type: ignore[arg-type]
    model.name_labels({0: "fox", 1: "dog"})
    regard.save(model, tmp_path / "model")
    again = build(Recipe(objective="classification", model=str(tmp_path / "model"), data={"train": labelled(tmp_path)}))
    assert again.model.labels == {0: "fox", 1: "dog"} == again.problem.labels
    first = "fox" if "fox" in Path(labelled(tmp_path)).read_text().splitlines()[1] else "dog"
    assert all(again.model.labels[row["labels"]] in (first, "dog") for row in again.problem.train)
    before = judge(str(tmp_path / "model"), labelled(tmp_path))
    assert before["accuracy"] == judge(again.model.eval(), labelled(tmp_path))["accuracy"]
    goal = {"name": "classification", "kind": "regression"}
    scorer = build(Recipe(objective=goal, **base, data={"train": rated(tmp_path)})).model  # type: ignore[arg-type]
    found = judge(scorer, rated(tmp_path))
    assert found["mse"] == pytest.approx(found["loss"], rel=1e-4) and "pearson" in found


def test_a_folder_is_judged_by_its_test_part(tmp_path: Path) -> None:
    model = build(
        Recipe(objective="classification", model=BERT, tokenizer=PIECES, data={"train": labelled(tmp_path)})
    ).model
    (tmp_path / "parts").mkdir()
    for part, count in (("train", 9), ("valid", 5), ("test", 3)):
        table(tmp_path / "parts" / f"{part}.csv", [{"text": f"a fox {i}", "label": "fox"} for i in range(count)])
    assert judge(model, str(tmp_path / "parts"))["rows"] == 3


def test_questions_are_judged_by_their_texts(tmp_path: Path) -> None:
    rows = [json.loads(line) for line in Path(asked(tmp_path)).read_text().splitlines()]
    for row in rows:
        row["context"] += ", and then it sees the wood and a river and the old house and rain and a dog"
    data = table(tmp_path / "long.jsonl", rows)
    model = build(Recipe(objective="question-answering", model=BERT, tokenizer=PIECES, data={"train": data}))
    found = judge(model.model, data, ["max_length=26", "stride=2"])
    assert found["rows"] > 24, "more windows than questions"
    assert 0 <= found["exact"] <= found["token_f1"] <= 1
