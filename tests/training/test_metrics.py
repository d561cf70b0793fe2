"""Metrics beside numbers worked out by hand and published ones."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from regard.training.metrics import METRICS, exact_match, find_metrics, token_f1

SAID, TRUE = [0, 1, 1, 2, 2, 2], [0, 1, 2, 2, 2, 1]


def measured(name: str, said: list[object], true: list[object]) -> float:
    return METRICS[name](said, true)


def test_accuracy_and_f1_by_hand() -> None:
    assert measured("accuracy", SAID, TRUE) == pytest.approx(4 / 6)
    # class 0: 1; class 1: TP 1, FP 1, FN 1 -> 1/2; class 2: TP 2, FP 1, FN 1 -> 2/3
    assert measured("f1", SAID, TRUE) == pytest.approx((1 + 1 / 2 + 2 / 3) / 3)
    assert measured("micro_f1", [[1, 2], [], [3]], [[1], [], [2, 3]]) == pytest.approx(2 * 2 / 6)


def test_numbers_against_numpy() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=50), rng.normal(size=50)
    assert measured("pearson", x, y) == pytest.approx(np.corrcoef(x, y)[0, 1])
    assert measured("mse", x, y) == pytest.approx(((x - y) ** 2).mean())
    assert measured("pearson", x, np.ones(50)) == 0


def test_answers_as_in_squad() -> None:
    assert exact_match(["The Eiffel Tower!", "no"], ["eiffel tower", ["yes", "nope"]]) == 0.5
    assert token_f1(["the big tower"], [["small tower", "nothing"]]) == pytest.approx(0.5)
    assert token_f1([""], [""]) == 1.0


def test_bleu_is_its_formula() -> None:
    """P02-1040: the geometric mean of clipped n-gram precisions over the corpus, times the penalty for shortness."""
    said, right = ["the cat sat on the mat .", "he is here ."], ["the cat is on the mat today .", "he is here ."]
    counts = np.zeros((4, 2))
    for a, b in zip(said, right, strict=True):
        for n in range(1, 5):
            grams = [Counter(tuple(x.split()[i : i + n]) for i in range(len(x.split()) - n + 1)) for x in (a, b)]
            counts[n - 1] += (grams[0] & grams[1]).total(), grams[0].total()
    shortness = np.exp(min(0.0, 1 - 12 / 11))
    expected = 100 * shortness * np.exp(np.log(counts[:, 0] / counts[:, 1]).mean())
    assert measured("bleu", said, right) == pytest.approx(expected, rel=1e-6)


def test_rouge_l_by_hand() -> None:
    # The paper of ROUGE (W04-1013), 3.1: "police killed the gunman" / "police kill the gunman": LCS 3 of 4 words;
    # stemmed all four agree. "the gunman kill police": LCS 2 of 4.
    assert measured("rougeL", ["police kill the gunman"], ["police killed the gunman"]) == pytest.approx(1.0)
    assert measured("rougeL", ["the gunman kill police"], ["police killed the gunman"]) == pytest.approx(0.5)
    assert measured("rouge1", ["the gunman kill police"], ["police killed the gunman"]) == pytest.approx(1.0)


def test_word_errors_by_hand() -> None:
    assert measured("wer", ["the cat sat", "Hello, World"], ["the bat sat on", "hello world"]) == pytest.approx(2 / 6)
    assert measured("cer", ["abcd"], ["abxd"]) == pytest.approx(0.25)


def test_mistakes_are_named() -> None:
    with pytest.raises(ValueError, match="there is no metric 'acuracy'; allowed: accuracy"):
        find_metrics(["acuracy"])
    with pytest.raises(ValueError, match="2 predictions for 1 references"):
        measured("accuracy", [1, 2], [1])
    with pytest.raises(ValueError, match="nothing to measure"):
        measured("accuracy", [], [])
