"""What int8 costs trained checkpoints, by the kernels and by oneDNN; benchmarks/quality.py prints it as a table."""

from __future__ import annotations

import pytest
from benchmarks import quality

pytestmark = pytest.mark.slow
INT8 = pytest.mark.parametrize("way", ["int8", "int8, oneDNN"])


def ready(name: str) -> None:
    """Skip where the checkpoint of a measure is absent."""
    folder = quality.MEASURES[name][1]
    if not (folder / "config.json").exists():
        pytest.skip(f"there is no checkpoint at {folder}")


@INT8
def test_sentence_vectors_keep_their_direction(way: str) -> None:
    ready("cosine")
    assert quality.cosine(way)["least"] >= 0.995


@INT8
def test_hidden_tokens_are_guessed_as_well(way: str) -> None:
    ready("perplexity")
    assert quality.perplexity(way)["perplexity"] <= 1.005 * quality.perplexity("float32")["perplexity"]


@INT8
def test_words_are_heard_as_well(way: str) -> None:
    ready("words")
    pytest.importorskip("soundfile")
    assert quality.words(way)["word errors"] <= quality.words("float32")["word errors"]


@INT8
def test_letters_are_foreseen_as_well(way: str) -> None:
    if not (quality.DATA / "data/shakespeare/input.txt").exists():
        pytest.skip("there is no data of shakespeare")
    assert quality.letters(way)["perplexity"] <= 1.005 * quality.letters("float32")["perplexity"]
