"""Cleaning says what it did; splits keep sizes, classes and groups; leaks are found."""

from __future__ import annotations

import unicodedata
from collections import Counter
from typing import Any

import numpy as np
import pytest

from regard.training.data.clean import Cleaning, clean, deduplicate
from regard.training.data.split import class_weights, folds, leaks, split

# cleaning


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("a  b\t\tc", "a b c"),
        ("a \r\n b\r\n\r\n\r\n\r\nc\rd", "a\nb\n\nc\nd"),
        ("\ufeffzero\u200b width\u00ad", "zero width"),
        ("bell\x07 \x1b[31mred\x00", "bell [31mred"),
        ("nbsp\u00a0\u3000wide", "nbsp wide"),
        ("cafe\u0301", "café"),
        ("👩\u200d👩\u200d👧 می\u200cخواهم", "👩\u200d👩\u200d👧 می\u200cخواهم"),
        ("lone \ud83d half", "lone half"),
        ("sep\u2028line\u0085next", "sep\nline\nnext"),
        ("  \n ", ""),
    ],
)
def test_texts_are_cleaned(text: str, wanted: str) -> None:
    assert Cleaning()(text) == wanted
    assert Cleaning()(wanted) == wanted, "cleaning twice is cleaning once"
    assert "\n" not in Cleaning(spaces="all")(text)


def test_no_control_is_left_in_any_plane() -> None:
    text = "".join(map(chr, range(0x3000)))
    left = [c for c in Cleaning(form=None, spaces=None)(text) if unicodedata.category(c) == "Cc"]
    assert set(left) == {"\t", "\n"}
    assert Cleaning(form=None, controls=False, spaces=None)("a\x07  b") == "a\x07  b"


def test_what_goes_and_why() -> None:
    texts = ["fine words here", " ", "x", None, "far too many words in this one", "also  fine words"]
    rows = [{"text": text, "id": i} for i, text in enumerate(texts)]
    kept, report = clean(rows, cleaning=Cleaning(min_chars=2, max_words=5))
    assert [row["id"] for row in kept] == [0, 5] and kept[1]["text"] == "also fine words"
    assert dict(report.dropped) == {
        "empty": [1],
        "fewer than 2 characters": [2],
        "no text in text": [3],
        "more than 5 words": [4],
    }
    assert (report.before, report.kept, report.changed) == (6, 2, 1)
    assert str(report).splitlines()[0] == "kept 2 of 6 rows, 1 changed"
    assert "dropped 1: empty (row 1)" in str(report)
    pairs, report = clean([{"a": "x", "b": ""}, {"a": "x", "b": "y"}], ("a", "b"))
    assert len(pairs) == 1 and dict(report.dropped) == {"b: empty": [0]}


@pytest.mark.parametrize(
    "bad", [{"form": "NFX"}, {"spaces": "some"}, {"min_chars": 5, "max_chars": 4}, {"min_words": -1}]
)
def test_settings_that_do_not_fit(bad: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(bad))} is {next(iter(bad.values()))!r}"):
        Cleaning(**bad)


def test_duplicates_go_and_no_two_that_stay_are_near() -> None:
    base = [f"w{i}" for i in range(20)]
    steps = [" ".join([*base, *(f"new{j}" for j in range(k))]) for k in range(4)]  # a chain: each near the next
    rows = [{"text": t} for t in [*steps, steps[0], "something else entirely", steps[0].upper()]]
    kept, report = deduplicate(rows)
    assert len(kept) == 6 and dict(report.dropped) == {"the same as an earlier row": [4]}
    kept, report = deduplicate(rows, near=0.88)  # 18 of 21 runs are common to the first and the last of the chain
    assert dict(report.dropped) == {
        "the same as an earlier row": [4],
        "nearly the same as an earlier row (0.88 and more)": [1, 2, 6],
    }
    assert [row["text"] for row in kept] == [steps[0], steps[3], "something else entirely"]
    pairs = [{"a": "x", "b": "1"}, {"a": "x", "b": "2"}, {"a": "x", "b": "1"}]
    assert len(deduplicate(pairs, ("a", "b"))[0]) == 2
    with pytest.raises(ValueError, match="columns is empty"):
        deduplicate(pairs, ())


# splitting


@pytest.mark.parametrize("count", [3, 10, 101, 5000])
def test_random_parts_cover_all_rows_in_the_right_sizes(count: int) -> None:
    shares = {"train": 0.8, "valid": 0.1, "test": 0.1}
    if count < 10:
        shares = {"train": 1, "valid": 1, "test": 1}
    found = split(count, shares, seed=1)
    assert sorted(np.concatenate(list(found.values())).tolist()) == list(range(count))
    for name, rows in found.items():
        assert abs(len(rows) - count * shares[name] / sum(shares.values())) < 1
        assert np.all(np.diff(rows) > 0) or len(rows) == 1
    again = split(count, shares, seed=1)
    assert all(np.array_equal(found[name], again[name]) for name in found)
    if count > 10:
        assert not np.array_equal(split(count, shares, seed=2)["train"], found["train"])
        assert abs(found["train"].mean() / (count - 1) - 0.5) < 0.1


def test_classes_keep_their_shares() -> None:
    rng = np.random.default_rng(0)
    labels = rng.choice(["a", "b", "c", "d"], 2003, p=[0.9, 0.06, 0.03, 0.01]).tolist()
    whole = Counter(labels)
    found = split(2003, {"train": 8, "valid": 1, "test": 1}, labels=labels)
    for name, share in (("train", 0.8), ("valid", 0.1), ("test", 0.1)):
        assert abs(len(found[name]) - 2003 * share) < 1
        part = Counter(labels[i] for i in found[name])
        assert all(abs(part[label] - whole[label] * share) < 2 for label in whole)
    plain = split(2003, {"train": 8, "valid": 1, "test": 1})
    assert not np.array_equal(plain["test"], found["test"])


def test_groups_stay_together() -> None:
    rng = np.random.default_rng(0)
    groups = rng.geometric(0.02, 3000).tolist()
    labels = [("x" if g % 3 else "y") for g in groups]
    for given in (None, labels):
        found = split(3000, {"train": 0.7, "valid": 0.3}, groups=groups, labels=given)
        parts = {name: {groups[i] for i in rows} for name, rows in found.items()}
        assert not parts["train"] & parts["valid"]
        assert abs(len(found["train"]) - 2100) < 30
    whole = Counter(labels)
    part = Counter(labels[i] for i in found["valid"])
    assert all(abs(part[label] - 0.3 * whole[label]) < 20 for label in whole)


def test_folds_hold_each_row_out_once() -> None:
    labels = ["a"] * 30 + ["b"] * 10
    held = []
    for train, valid in folds(40, 5, labels=labels):
        assert set(train) | set(valid) == set(range(40)) and not set(train) & set(valid)
        assert Counter(labels[i] for i in valid) == {"a": 6, "b": 2}
        held += valid.tolist()
    assert sorted(held) == list(range(40))
    groups = [i // 4 for i in range(40)]
    for train, valid in folds(40, 5, groups=groups):
        assert len(valid) == 8 and not {groups[i] for i in train} & {groups[i] for i in valid}


@pytest.mark.parametrize(
    ("count", "parts", "more", "said"),
    [
        (1, {"a": 1, "b": 1}, {}, "would be empty: 1 rows"),
        (9, {"a": 1, "b": 1}, {"groups": [1] * 9}, "9 rows in 1 groups"),
        (9, {"a": 1, "b": 0}, {}, "'b' is 0; allowed"),
        (9, {}, {}, "parts is empty"),
        (9, {"a": 1}, {"labels": [1]}, "labels has 1 values for 9 rows"),
    ],
)
def test_splits_that_cannot_be(count: int, parts: Any, more: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        split(count, parts, **more)


def test_weights_make_classes_equal() -> None:
    labels = ["a"] * 6 + ["b"] * 3 + ["c"]
    weights = class_weights(labels)
    assert weights == pytest.approx({"a": 10 / 18, "b": 10 / 9, "c": 10 / 3})
    totals = Counter[str]()
    for label in labels:
        totals[label] += weights[label]  # type: ignore[assignment]
    assert len({round(total, 9) for total in totals.values()}) == 1
    assert sum(weights[label] for label in labels) / len(labels) == pytest.approx(1)


def test_leaks_between_parts() -> None:
    long = " ".join(f"w{i}" for i in range(30))
    train = ["a b c d", long, "twice", "twice", "", long + " end"]
    other = ["new words here", "twice", long.replace("w29", "v29"), "A, b c D!", "", long.replace("w29", "v29")]
    found = leaks(train, other)
    assert [(leak.row, leak.of, leak.exact) for leak in found] == [
        (1, 2, True),
        (2, 1, False),
        (3, 0, False),
        (5, 1, False),
    ]
    assert found[1].similarity == pytest.approx(27 / 29) and found[2].similarity == 1
    assert leaks(train, ["nothing of it"]) == []
