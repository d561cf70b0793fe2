"""Text pushed out while ids arrive equals the text of all ids, for every kind of decoder."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Any

import pytest

from regard.preprocess.streaming import StreamDecoder
from regard.preprocess.text import Tokenizer
from tests.preprocess.folders import CORPUS, FOLDERS, chunks


def _streamed(tokenizer: Tokenizer, ids: list[int], skip: bool) -> str:
    stream = StreamDecoder(tokenizer, skip_special_tokens=skip)
    return "".join([*(stream.push(part) for part in chunks(ids)), stream.end()])


@pytest.mark.parametrize("name", sorted(set(FOLDERS) - {"bert-cased", "electra", "albert-cased", "gpt2-bos"}))
def test_pieces_make_the_whole(folder: Callable[[str], Any], name: str) -> None:
    tokenizer = Tokenizer.from_folder(folder(name))
    rng = random.Random(7)
    rows = [tokenizer(text).input_ids for text in CORPUS]
    rows += [[rng.randrange(len(tokenizer)) for _ in range(rng.randrange(1, 14))] for _ in range(150)]
    first = [index for index in range(len(tokenizer)) if len(tokenizer.convert_ids_to_tokens(index) or "") <= 2]
    rows += [[rng.choice(first) for _ in range(6)] for _ in range(100)]
    for ids in rows:
        for skip in (True, False):
            tokens = tokenizer.convert_ids_to_tokens(ids)
            assert _streamed(tokenizer, ids, skip) == tokenizer.decode(ids, skip_special_tokens=skip), tokens


def test_no_half_characters(folder: Callable[[str], Any]) -> None:
    tokenizer = Tokenizer.from_folder(folder("gpt2"))
    ids = tokenizer("👩‍👩‍👧‍👦 Ж 漢字 naïve").input_ids
    stream = StreamDecoder(tokenizer)
    parts = [stream.push(index) for index in ids]
    assert "\ufffd" not in "".join(parts)
    assert "" in parts  # some tokens are only part of a character
    assert "".join(parts) + stream.end() == "👩‍👩‍👧‍👦 Ж 漢字 naïve"


@pytest.mark.parametrize("name", ["llama", "bert", "t5", "marian"])
def test_work_for_a_token_does_not_grow(folder: Callable[[str], Any], name: str) -> None:
    tokenizer = Tokenizer.from_folder(folder(name))
    ids = tokenizer("the quick brown fox " * 2000, add_special_tokens=False).input_ids

    def seconds(part: list[int]) -> float:
        stream, start = StreamDecoder(tokenizer), time.perf_counter()
        for index in part:
            stream.push(index)
        return time.perf_counter() - start

    short, long = seconds(ids[:2000]), seconds(ids[:16000])
    assert long < 40 * short  # 8 times as many tokens; decoding everything again would take 64 times as long
