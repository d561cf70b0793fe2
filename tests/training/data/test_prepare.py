"""Prepared rows: ids as the tokenizer gives them, labels where they belong, answers that can be read back."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from regard.preprocess.text import Tokenizer
from regard.training.data.answers import question_answering
from regard.training.data.batches import Batches, stream
from regard.training.data.labels import Labels
from regard.training.data.prepare import (
    causal_lm,
    classification,
    masked_lm,
    pairs,
    seq2seq,
    token_classification,
    words_and_tags,
)
from regard.training.data.read import read_rows
from regard.training.data.tokenizer import train_tokenizer

WORDS = "the quick brown fox jumps over lazy dogs and runs home before it rains again in spring".split()
TEXTS = [" ".join(WORDS[i % 9 :: 2] + WORDS[: i % 7]) for i in range(40)]


@pytest.fixture(scope="module")
def masked() -> Tokenizer:
    return train_tokenizer(TEXTS, kind="wordpiece", vocab_size=90)


@pytest.fixture(scope="module")
def causal() -> Tokenizer:
    return train_tokenizer(TEXTS, vocab_size=300)


# labels


def test_labels_have_one_order_whatever_the_rows_have() -> None:
    assert Labels.of(["b", "a", "b"]).names == ("a", "b")
    assert Labels.of([10, 9, 1.0]).names == ("1", "9", "10")
    assert Labels.of(["10", "9", "x"]).names == ("9", "10", "x")
    assert Labels.of([True, False]).names == ("False", "True")
    labels = Labels(["neg", "pos"])
    assert labels.id("pos", 0) == labels.id(1, 0) == labels.id(" pos ", 0) == 1
    assert Labels.of([3, 5]).id(3, 0) == 0, "a value that is a name is no number"
    assert labels.id2label == {0: "neg", 1: "pos"}
    datasets = pytest.importorskip("datasets")
    feature = datasets.Features({"label": datasets.ClassLabel(names=["no", "yes"]), "text": datasets.Value("string")})
    table = datasets.Dataset.from_dict({"label": [1, 0], "text": ["a", "b"]}, features=feature)
    assert Labels.of_column(table, "label").names == ("no", "yes")


def test_unknown_labels_name_row_and_value(masked: Tokenizer) -> None:
    train = classification([{"text": "the fox", "label": "good"}, {"text": "dogs", "label": "bad"}], masked)
    assert train.labels is not None and [row["labels"] for row in train.rows] == [1, 0]
    with pytest.raises(ValueError, match=r"row 1: 'label' is 'goood', which is no known label \(bad, good\); did you"):
        classification([{"text": "a", "label": "bad"}, {"text": "b", "label": "goood"}], masked, labels=train.labels)
    for value in (None, "", float("nan")):
        with pytest.raises(ValueError, match="row 0 has no label: 'label' is"):
            classification([{"text": "a", "label": value}], masked)
    with pytest.raises(ValueError, match="row 0 has no 'label'; it has 'text'"):
        classification([{"text": "a"}], masked)
    with pytest.raises(ValueError, match=r"row 0: 'text' is 'None' \(NoneType\); allowed: text"):
        classification([{"text": None, "label": 1}], masked)
    with pytest.raises(ValueError, match="different names"):
        Labels(["a", "a"])


# texts


def test_classification(masked: Tokenizer) -> None:
    rows = [{"text": text, "label": i % 3} for i, text in enumerate(TEXTS)]
    made = classification(rows, masked)
    assert [row["input_ids"].tolist() for row in made] == [masked(text)["input_ids"] for text in TEXTS]
    assert [row["labels"] for row in made] == [i % 3 for i in range(40)] and made.notes == []
    assert set(made[0]) == {"input_ids", "labels"} and made[0]["input_ids"].dtype == np.int64
    assert made.lengths.tolist() == [len(row["input_ids"]) for row in made]
    short = classification(rows, masked, max_length=8)
    long = sum(len(masked(text)["input_ids"]) > 8 for text in TEXTS)
    assert short.notes == [f"{long} of 40 texts were cut to max_length"] and max(short.lengths) == 8


def test_pairs_have_types(masked: Tokenizer) -> None:
    made = classification([{"a": "the fox", "b": "dogs", "label": "x"}], masked, text="a", pair="b")
    wanted = masked("the fox", "dogs")
    assert made[0]["input_ids"].tolist() == wanted["input_ids"]
    assert made[0]["token_type_ids"].tolist() == wanted["token_type_ids"] and 1 in wanted["token_type_ids"]


def test_several_labels_and_numbers(masked: Tokenizer) -> None:
    rows: list[dict[str, Any]] = [
        {"text": "a", "label": ["x", "z"]},
        {"text": "b", "label": []},
        {"text": "c", "label": ["y"]},
    ]
    made = classification(rows, masked, kind="multi")
    assert np.stack([row["labels"] for row in made]).tolist() == [[1, 0, 1], [0, 0, 0], [0, 1, 0]]
    numbers = classification([{"text": "a", "label": "2.5"}, {"text": "b", "label": -1}], masked, kind="regression")
    assert [float(row["labels"]) for row in numbers] == [2.5, -1.0] and numbers.labels is None
    both = classification([{"text": "a", "label": [1, 2]}], masked, kind="regression")
    assert both[0]["labels"].tolist() == [1, 2]
    for value, kind, said in (
        ("high", "regression", "row 0: 'label' is 'high'; allowed: a number"),
        (float("inf"), "regression", "allowed: a number"),
        ("x", "multi", "allowed: a list of labels"),
        ("x", "ranking", "kind is 'ranking'"),
    ):
        with pytest.raises(ValueError, match=said):
            classification([{"text": "a", "label": value}], masked, kind=kind)  # type: ignore[arg-type]


def test_tags_stand_at_first_tokens(masked: Tokenizer) -> None:
    rows = [{"words": ["the", "unfoxable", "dogs", "runs"], "tags": ["D", "A", "N", "V"]}]
    made = token_classification(rows, masked)
    pieces = masked.convert_ids_to_tokens(made[0]["input_ids"].tolist())
    assert made.labels is not None and made.labels.names == ("A", "D", "N", "V")
    said = [made.labels.names[x] if x >= 0 else "-" for x in made[0]["labels"]]
    wanted, words = [], iter(["D", "A", "N", "V"])
    for piece in pieces:
        wanted.append("-" if piece.startswith("##") or piece in ("[CLS]", "[SEP]") else next(words))
    assert said == wanted and said.count("-") > 3
    short = token_classification(rows, masked, max_length=4)
    assert short.notes == ["2 words were lost: beyond max_length, or without a token"]
    later = [{"words": ["a"], "tags": ["Q"]}]
    with pytest.raises(ValueError, match="row 0: 'tags' is 'Q', which is no known label"):
        token_classification(later, masked, labels=made.labels)
    for bad, said_ in (
        ({"words": ["a", "b"], "tags": ["D"]}, "row 0 has 2 words and 1 tags"),
        ({"words": "ab", "tags": ["D"]}, "allowed: a list of words"),
        ({"words": [], "tags": []}, "one at least"),
    ):
        with pytest.raises(ValueError, match=said_):
            token_classification([bad], masked, labels=made.labels)


def test_tagged_words() -> None:
    assert words_and_tags("1/2/cd ,/, ./.") == {"words": ["1/2", ",", "."], "tags": ["cd", ",", "."]}
    with pytest.raises(ValueError, match="'bare' has no tag"):
        words_and_tags("a/b bare")


def test_documents_for_language_models(causal: Tokenizer, masked: Tokenizer) -> None:
    made = causal_lm([{"text": text} for text in TEXTS], causal, max_length=10)
    joined = np.concatenate([row["input_ids"] for row in made]).tolist()
    assert joined == [i for text in TEXTS for i in [*causal(text)["input_ids"], causal.eos_token_id]]
    assert max(made.lengths) == 10
    asked = causal_lm([{"text": " fox", "prompt": "the quick"}], causal, prompt="prompt")
    before, after = causal("the quick")["input_ids"], causal(" fox")["input_ids"]
    assert asked[0]["input_ids"].tolist() == [*before, *after, causal.eos_token_id]
    assert asked[0]["labels"].tolist() == [-100] * len(before) + [*after, causal.eos_token_id]
    with pytest.raises(ValueError, match="row 0: the prompt has"):
        causal_lm([{"text": "x", "prompt": TEXTS[0]}], causal, prompt="prompt", max_length=3)
    rows = masked_lm([{"text": TEXTS[0]}, {"text": "fox"}], masked, max_length=8, whole_words=True)
    inner = [i for row in rows[:-1] for i in row["input_ids"][1:-1].tolist()]
    assert inner == masked(TEXTS[0], add_special_tokens=False)["input_ids"], "a long document becomes several rows"
    assert all(row["input_ids"][0] == masked.cls_token_id and len(row["input_ids"]) <= 8 for row in rows)
    assert rows[-1]["word_ids"][0] == rows[-1]["word_ids"][-1] == -1
    assert len(rows[-1]["word_ids"]) == len(rows[-1]["input_ids"])


def test_targets_end(causal: Tokenizer) -> None:
    rows = [{"source": "the fox", "target": "dogs runs home"}, {"source": TEXTS[1], "target": TEXTS[2]}]
    unigram = train_tokenizer(TEXTS, kind="unigram", vocab_size=80)
    made = seq2seq(rows, unigram, prefix="in: ")
    assert made[0]["input_ids"].tolist() == unigram("in: the fox")["input_ids"]
    assert made[0]["labels"].tolist() == unigram("dogs runs home")["input_ids"]
    assert made.lengths[0].tolist() == [len(made[0]["input_ids"]), len(made[0]["labels"])]
    for tokenizer in (unigram, causal):
        for row in seq2seq(rows, tokenizer, max_source=6, max_target=5):
            assert row["labels"][-1] == tokenizer.eos_token_id and len(row["labels"]) <= 5
            assert (row["labels"] == tokenizer.eos_token_id).sum() == 1 and len(row["input_ids"]) <= 6


def test_sentence_pairs(masked: Tokenizer) -> None:
    made = pairs([{"first": "the fox", "second": "dogs", "no": "home"}], masked, negative="no")
    assert {name: ids.tolist() for name, ids in made[0].items()} == {
        "input_ids": masked("the fox")["input_ids"],
        "positive_ids": masked("dogs")["input_ids"],
        "negative_ids": masked("home")["input_ids"],
    }


# answers


def test_every_answer_can_be_read_back(masked: Tokenizer) -> None:
    rng = np.random.default_rng(0)
    rows = []
    for _ in range(60):
        words = rng.choice(WORDS, 60).tolist()
        a = int(rng.integers(0, 55))
        answer = " ".join(words[a : a + int(rng.integers(1, 5))])
        start = len(" ".join(words[:a])) + (a > 0)
        context = " ".join(words)
        rows.append({"question": "the fox", "context": context, "answers": {"text": [answer], "answer_start": [start]}})
    rows.append({"question": "dogs", "context": rows[0]["context"], "answers": {"text": [], "answer_start": []}})
    made = question_answering(rows, masked, max_length=40, stride=12)
    assert made.notes == []
    found: dict[int, set[str]] = {}
    for row in made:
        assert len(row["input_ids"]) <= 40 and len(row["offsets"]) == len(row["input_ids"])
        context = rows[row["row"]]["context"]
        start, end = row["start_positions"], row["end_positions"]
        goal = rows[row["row"]]["answers"]
        inside = row["offsets"][row["offsets"][:, 0] >= 0]
        if end:
            found.setdefault(row["row"], set()).add(context[row["offsets"][start, 0] : row["offsets"][end, 1]])
        else:
            assert start == 0
            if goal["text"]:  # then the window does not hold all of it
                begin = goal["answer_start"][0]
                assert inside[0, 0] > begin or inside[-1, 1] < begin + len(goal["text"][0])
    assert found == {i: {row["answers"]["text"][0]} for i, row in enumerate(rows[:-1])}
    covered: dict[int, set[int]] = {}
    for row in made:
        for a, b in row["offsets"].tolist():
            covered.setdefault(row["row"], set()).update(range(a, b) if a >= 0 else ())
    assert all(covered[i] >= {k for k, c in enumerate(r["context"]) if c != " "} for i, r in enumerate(rows))


def test_answers_in_another_form_and_wrong_ones(masked: Tokenizer, causal: Tokenizer) -> None:
    row: dict[str, Any] = {"question": "fox", "context": "the quick brown fox"}
    listed = question_answering([{**row, "answers": [{"text": "brown", "answer_start": 10}]}], masked)
    assert (
        masked.decode(listed[0]["input_ids"][listed[0]["start_positions"] : listed[0]["end_positions"] + 1]) == "brown"
    )
    assert listed[0]["token_type_ids"].tolist() == masked("fox", "the quick brown fox")["token_type_ids"]
    assert question_answering([{**row, "answers": None}], masked)[0]["end_positions"] == 0
    bad: list[tuple[Any, str]] = [
        ({"text": ["brown"], "answer_start": [9]}, "row 0: the answer 'brown' should stand at 9; there is ' brow'"),
        ({"text": ["brown"], "answer_start": [-1]}, "should stand at -1"),
        ({"text": "brown", "answer_start": 10}, "allowed: lists text and answer_start"),
        (["brown"], "allowed: objects of text, answer_start"),
        ("brown", "allowed: text and answer_start"),
    ]
    for answers, said in bad:
        with pytest.raises(ValueError, match=said):
            question_answering([{**row, "answers": answers}], masked)
    with pytest.raises(ValueError, match="row 0: the question has"):
        question_answering([{**row, "answers": None}], masked, max_length=8, stride=6)


# with the rest


def test_rows_feed_batches(masked: Tokenizer) -> None:
    made = classification([{"text": text, "label": i % 2} for i, text in enumerate(TEXTS)], masked)

    def collate(rows: Any, rng: Any) -> int:
        return sum(len(row["input_ids"]) for row in rows)

    sizes = [size for _, size in stream(made, Batches(made, batch_tokens=100), collate, epochs=1)]
    assert sum(sizes) == made.lengths.sum() and max(sizes) <= 100


def test_datasets_work_as_lists_do(masked: Tokenizer) -> None:
    datasets = pytest.importorskip("datasets")
    rows = [{"text": text, "label": i % 2} for i, text in enumerate(TEXTS)]
    ours, theirs = classification(rows, masked), classification(datasets.Dataset.from_list(rows), masked)
    assert all(
        np.array_equal(a["input_ids"], b["input_ids"]) and a["labels"] == b["labels"]
        for a, b in zip(ours, theirs, strict=True)
    )


def test_real_rows(data: Callable[[str], Path], masked: Tokenizer) -> None:
    news = read_rows(data("data/ag_news/test.csv"), columns=["label", "title", "text"])[:500]
    made = classification(news, masked, max_length=64)
    assert made.labels is not None and made.labels.names == ("1", "2", "3", "4") and max(made.lengths) <= 64
    lines = read_rows(data("data/brown/brown_tagged.txt.gz"))[:200]
    tagged = [words_and_tags(row["text"].partition("\t")[2]) for row in lines]
    found = token_classification(tagged, masked)
    total = sum(len(row["words"]) for row in tagged)
    assert sum(int((row["labels"] >= 0).sum()) for row in found) == total
