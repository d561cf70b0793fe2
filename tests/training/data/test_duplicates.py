"""Duplicates: what MinHash finds is what comparing all pairs finds."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from regard.training.data.duplicates import Shingles, band_width, firsts, near_duplicates, words_of
from regard.training.data.read import read_rows


def shingles(text: str, size: int = 3) -> set[tuple[str, ...]]:
    words = words_of(text)
    size = min(size, len(words))
    return {tuple(words[i : i + size]) for i in range(len(words) - size + 1)} if words else set()


def jaccard(x: set[tuple[str, ...]], y: set[tuple[str, ...]]) -> float:
    return len(x & y) / len(x | y) if x and y else 0.0


def corpus(seed: int, count: int = 300) -> list[str]:
    """Texts of which many are others with some words changed, cut off or added."""
    rng = random.Random(seed)
    vocabulary = [f"w{i}" for i in range(400)]
    texts: list[str] = []
    for _ in range(count):
        if texts and rng.random() < 0.6:
            words = rng.choice(texts).split() or ["x"]
            for _ in range(rng.choice([0, 0, 1, 2, 4, 8])):
                words[rng.randrange(len(words))] = rng.choice(vocabulary)
            texts.append(" ".join(words[rng.choice([0, 0, 2]) :]))
        else:
            texts.append(" ".join(rng.choices(vocabulary, k=rng.choice([0, 1, 2, 3, 10, 40, 120]))))
    return texts


@pytest.mark.parametrize("threshold", [0.5, 0.7, 0.8, 0.95, 1.0])
def test_near_duplicates_are_those_of_comparing_all(threshold: float) -> None:
    missed = whole = 0
    for seed in range(3):
        texts = corpus(seed)
        found = {(i, j): s for i, j, s in near_duplicates(texts, threshold=threshold)}
        # Of texts with the same words the first stands for all; each of the others is paired with it alone.
        sets = [shingles(text) for text in texts]
        first = [sets.index(own) for own in sets]
        wanted = {}
        for i, j in combinations(range(len(texts)), 2):
            similarity = jaccard(sets[i], sets[j])
            if similarity >= threshold and first[i] == i and first[j] in (i, j):
                wanted[i, j] = similarity
        assert set(found) <= set(wanted), "a pair below the threshold"
        assert all(found[pair] == pytest.approx(wanted[pair], abs=1e-12) for pair in found)
        missed += len(set(wanted) - set(found))
        whole += len(wanted)
    assert whole > 100
    assert missed <= 0.01 * whole


def test_signatures_estimate_similarity() -> None:
    rng = np.random.default_rng(0)
    words = [f"w{i}" for i in range(3000)]
    texts, true = [], []
    for share in np.linspace(0.05, 0.95, 60):
        common = int(200 * share)
        a = rng.permutation(3000)[: 400 - common]
        texts += [" ".join(words[i] for i in a[:200]), " ".join(words[i] for i in a[200 - common :])]
        true.append(len(set(a[:200]) & set(a[200 - common :])) / len(a))
    found = Shingles.of(texts, 1).signatures(np.arange(120), 512, 0)
    error = (found[::2] == found[1::2]).mean(1) - true
    assert abs(error.mean()) < 0.01
    assert error.std() < 1.3 * np.sqrt((np.array(true) * (1 - np.array(true))).mean() / 512)


def test_blocks_do_not_change_signatures(monkeypatch: pytest.MonkeyPatch) -> None:
    made = Shingles.of(corpus(1), 3)
    rows = np.flatnonzero(np.diff(made.offsets))
    whole = made.signatures(rows, 8, 0)
    monkeypatch.setattr("regard.training.data.duplicates._BLOCK", 50)
    assert np.array_equal(made.signatures(rows, 8, 0), whole)


def test_bands_miss_little() -> None:
    for threshold in (0.3, 0.5, 0.8, 0.9):
        width = band_width(threshold, 128)
        assert (
            (1 - threshold**width) ** (128 // width) < 0.005 <= (1 - threshold ** (width + 1)) ** (128 // (width + 1))
        )


def test_same_in_every_process() -> None:
    code = (
        "from regard.training.data.duplicates import Shingles, near_duplicates\n"
        "import numpy as np\n"
        "t = ['the cat sat on the mat today', 'the cat sat on the mat', 'dogs', '']\n"
        "s = Shingles.of(t, 2)\n"
        "print(s.signatures(np.array([0, 1, 2]), 4, 0).tolist(), near_duplicates(t, threshold=0.5))"
    )
    said = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONPATH": str(Path("src").resolve()), "PYTHONHASHSEED": str(s)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for s in (1, 2)
    }
    assert len(said) == 1 and "Pair(first=0, second=1" in said.pop()


def test_exact_firsts() -> None:
    assert firsts(["a", "b", "a", "", "a ", "", "\ud800"]).tolist() == [0, 1, 0, 3, 4, 3, 6]


def test_words_know_no_language() -> None:
    assert words_of("Don't STOP, ﬁne!") == ["don", "t", "stop", "fine"]
    assert words_of("我爱北京abc天安門") == list("我爱北京") + ["abc"] + list("天安門")
    assert words_of("สวัสดี")[:2] == ["ส", "ว"]
    assert words_of("привет, Мир 42") == ["привет", "мир", "42"]
    chinese = "今天天气很好我们去公园散步吧大家都很高兴"
    assert near_duplicates([chinese, chinese[:-1] + "啊"], threshold=0.8)[0][:2] == (0, 1)


def test_many_of_one_template_do_not_explode() -> None:
    line = "this package contains the documentation for the library and its examples and some more words to fill it"
    texts = [f"{line} number {i}" for i in range(20_000)] + [line] * 20_000
    start = time.perf_counter()
    found = near_duplicates(texts)
    assert time.perf_counter() - start < 30
    assert {pair.second for pair in found} == set(range(1, 40_000))


@pytest.mark.parametrize(
    ("options", "said"),
    [({"threshold": 0}, "threshold is 0"), ({"threshold": 1.1}, "threshold is 1.1"), ({"shingle": 0}, "shingle is 0")],
)
def test_options_that_do_not_fit(options: dict[str, float], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        near_duplicates(["a b c", "a b d"], **options)  # type: ignore[arg-type]


def test_real_texts_against_all_pairs(data: Callable[[str], Path]) -> None:
    rows = read_rows(data("data/summaries"), split="val")
    texts = list(rows.column("text"))[:700]
    sets = [shingles(text) for text in texts]
    wanted = {
        (i, j) for i, j in combinations(range(len(texts)), 2) if len(sets[i] & sets[j]) >= 0.8 * len(sets[i] | sets[j])
    }
    found = {(i, j) for i, j, _ in near_duplicates(texts)}
    assert len(wanted) > 5 and found <= wanted
    assert len(wanted - found) <= len(wanted) // 10
