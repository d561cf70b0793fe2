"""Token files: the same ids as the tokenizer's, made once; blocks and packs hold every token."""

from __future__ import annotations

import json
import pickle
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from regard.preprocess.text import Tokenizer
from regard.training.data import tokens as tokens_module
from regard.training.data.batches import Batches, stream
from regard.training.data.blocks import Blocks, Documents, Packs, pack, unpacked
from regard.training.data.read import read_rows
from regard.training.data.tokenizer import train_tokenizer
from regard.training.data.tokens import TokenFile, Tokens, fingerprint_of_files, fingerprint_of_tokenizer

TEXTS = ["the cat sat on the mat", "", "a dog ran off", "the the the cat", "日本 🙂"] * 7


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer(TEXTS, vocab_size=280)


def test_a_file_holds_what_the_tokenizer_gives(tmp_path: Path, tokenizer: Tokenizer) -> None:
    made = TokenFile.build(tmp_path / "t", TEXTS, tokenizer)
    end = tokenizer.eos_token_id
    assert len(made) == len(TEXTS) and made.ids.dtype == np.dtype("<u2")
    for i, text in enumerate(TEXTS):
        assert made.document(i).tolist() == [*tokenizer(text)["input_ids"], end]
        assert made.document(i).dtype == np.int64
    assert made.lengths.sum() == made.count == len(np.fromfile(tmp_path / "t" / "tokens.bin", "<u2"))
    bare = TokenFile.build(tmp_path / "bare", TEXTS, tokenizer, ends="none")
    assert bare.count == made.count - len(TEXTS)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bare", "t"], "temporary files are left"


def test_own_special_tokens(tmp_path: Path) -> None:
    masked = train_tokenizer(TEXTS, kind="wordpiece", vocab_size=100)
    made = TokenFile.build(tmp_path / "t", TEXTS, masked, ends="own")
    assert made.document(0).tolist() == masked(TEXTS[0])["input_ids"]
    ended = TokenFile.build(tmp_path / "e", TEXTS, masked)
    assert ended.document(0)[-1] == masked.sep_token_id


def test_it_is_made_once_and_again_when_something_changes(tmp_path: Path, tokenizer: Tokenizer) -> None:
    def made(texts: Any = TEXTS, by: Tokenizer = tokenizer, **options: Any) -> float:
        TokenFile.build(tmp_path / "t", texts, by, **options)
        return (tmp_path / "t" / "header.json").stat().st_mtime_ns

    first = made()
    assert made() == first
    second = made([*TEXTS, "more"])
    assert second != first
    other = train_tokenizer(TEXTS, vocab_size=270)
    assert fingerprint_of_tokenizer(other) != fingerprint_of_tokenizer(tokenizer)
    third = made([*TEXTS, "more"], other)
    assert third != second
    fourth = made([*TEXTS, "more"], other, ends="none")
    assert fourth != third
    fifth = made(iter(TEXTS), data="a")
    assert made(iter(["ignored"]), data="a") == fifth and len(TokenFile.open(tmp_path / "t")) == len(TEXTS)
    assert made(iter(TEXTS)) != fifth, "a generator without a fingerprint is read anew"


def test_the_fingerprint_of_files_is_that_of_their_content(tmp_path: Path) -> None:
    one, two = tmp_path / "1", tmp_path / "2"
    one.write_text("a")
    two.write_text("b")
    before = fingerprint_of_files([one, two])
    assert fingerprint_of_files([one, two]) == before != fingerprint_of_files([two, one])
    two.write_text("c")
    assert fingerprint_of_files([one, two]) != before


def test_a_large_vocabulary_takes_four_bytes(tmp_path: Path, tokenizer: Tokenizer, monkeypatch: Any) -> None:
    monkeypatch.setattr(type(tokenizer), "get_vocab", lambda self: {"x": 70_000})
    assert TokenFile.build(tmp_path / "t", TEXTS, tokenizer).ids.dtype == np.dtype("<u4")


def test_texts_are_taken_a_few_at_a_time(tmp_path: Path, tokenizer: Tokenizer, monkeypatch: Any) -> None:
    monkeypatch.setattr(tokens_module, "_BATCH_TEXTS", 3)
    asked, most = 0, 0
    real = tokens_module.ids_of
    done = 0

    def texts() -> Iterator[str]:
        nonlocal asked, most
        for text in TEXTS:
            asked += 1
            most = max(most, asked - done)
            yield text

    def counted(*args: Any, **options: Any) -> Any:
        nonlocal done
        done += len(args[1])
        return real(*args, **options)

    monkeypatch.setattr(tokens_module, "ids_of", counted)
    made = TokenFile.build(tmp_path / "t", texts(), tokenizer)
    assert most <= 4 and len(made) == len(TEXTS)


def test_what_fails_leaves_what_was_there(tmp_path: Path, tokenizer: Tokenizer) -> None:
    TokenFile.build(tmp_path / "t", TEXTS, tokenizer)

    def broken() -> Iterator[Any]:
        yield "fine"
        yield 3

    with pytest.raises(ValueError, match=r"text 1 is '3' \(int\)"):
        TokenFile.build(tmp_path / "t", broken(), tokenizer)
    assert len(TokenFile.open(tmp_path / "t")) == len(TEXTS)
    assert [p.name for p in tmp_path.iterdir()] == ["t"]
    with pytest.raises(ValueError, match="nothing to tokenize"):
        TokenFile.build(tmp_path / "u", [""], tokenizer, ends="none")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("x")
    with pytest.raises(ValueError, match="holds something else"):
        TokenFile.build(tmp_path / "mine", TEXTS, tokenizer)
    (tmp_path / "mine" / "header.json").write_text("{}")
    with pytest.raises(ValueError, match="not of tokens"):
        TokenFile.build(tmp_path / "mine", TEXTS, tokenizer)
    assert (tmp_path / "mine" / "thesis.tex").exists()
    with pytest.raises(ValueError, match="ends is 'both'"):
        TokenFile.build(tmp_path / "v", TEXTS, tokenizer, ends="both")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda f: (f / "header.json").unlink(), "holds no tokens"),
        (lambda f: (f / "tokens.bin").write_bytes(b"123"), "tokens.bin has 3 bytes"),
        (lambda f: (f / "tokens.bin").unlink(), "tokens.bin has -1 bytes"),
        (lambda f: (f / "offsets.npy").write_bytes(b"123"), "offsets.npy cannot be read"),
        (lambda f: np.save(f / "offsets.npy", np.array([{}], dtype=object), allow_pickle=True), "offsets.npy cannot"),
        (lambda f: np.save(f / "offsets.npy", np.zeros(3, np.int64)), "offsets.npy does not fit"),
        (lambda f: header(f, tokens=-1), "tokens -1"),
        (lambda f: header(f, tokens=10**30), "tokens 10"),
        (lambda f: header(f, dtype="object"), "dtype 'object'"),
        (lambda f: header(f, format="x"), "another format"),
    ],
)
def test_a_damaged_folder_is_named(
    tmp_path: Path, tokenizer: Tokenizer, change: Callable[[Path], Any], said: str
) -> None:
    TokenFile.build(tmp_path / "t", TEXTS, tokenizer)
    change(tmp_path / "t")
    with pytest.raises(ValueError, match=said):
        TokenFile.open(tmp_path / "t")


def header(folder: Path, **values: Any) -> None:
    path = folder / "header.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def test_copies_map_the_same_file(tmp_path: Path, tokenizer: Tokenizer) -> None:
    made = TokenFile.build(tmp_path / "t", TEXTS, tokenizer)
    data = pickle.dumps(Blocks(made, 8))
    assert len(data) < 1000
    assert np.array_equal(pickle.loads(data)[3]["input_ids"], Blocks(made, 8)[3]["input_ids"])
    shutil.rmtree(tmp_path / "t")


# data sets


def tokens(sizes: list[int]) -> Tokens:
    """Every token is another number."""
    return Tokens.of([np.arange(a, b) for a, b in pairwise(np.cumsum([0, *sizes]))])


def test_documents() -> None:
    data = Documents(tokens([3, 0, 5]))
    assert [row["input_ids"].tolist() for row in (data[0], data[1], data[2])] == [[0, 1, 2], [], [3, 4, 5, 6, 7]]
    cut = Documents(tokens([3, 0, 5]), max_length=4)
    assert cut[2]["input_ids"].tolist() == [3, 4, 5, 6] and cut.lengths.tolist() == [3, 0, 4]
    with pytest.raises(IndexError):
        data[3]


def test_blocks_read_each_token_once() -> None:
    data = Blocks(tokens([7, 20, 4]), 5)
    rows = [data[i]["input_ids"] for i in range(len(data))]
    assert np.concatenate(rows).tolist() == list(range(30)) and {len(row) for row in rows} == {5}
    anywhere = Blocks(tokens([7, 20, 4]), 5, stride=1)
    assert [anywhere[i]["input_ids"][0] for i in range(len(anywhere))] == list(range(27))
    assert data.lengths.tolist() == [5] * 6
    for length, stride in ((0, None), (5, 0), (32, None)):
        with pytest.raises(ValueError, match=f"length is {length}"):
            Blocks(tokens([31]), length, stride=stride)


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("length", [1, 7, 16, 100])
def test_packs_hold_every_token_once_and_no_more_than_fits(length: int, seed: int) -> None:
    sizes = np.random.default_rng(seed).integers(0, 40, 300).tolist()
    data = Packs(tokens(sizes), length, seed=seed)
    rows = [data[i]["documents"] for i in range(len(data))]
    assert sorted(np.concatenate([d for row in rows for d in row]).tolist()) == list(range(sum(sizes)))
    assert [sum(map(len, row)) for row in rows] == data.lengths.tolist()
    assert max(data.lengths) <= length
    ends = set(np.cumsum(sizes).tolist())
    for row in rows:
        for document in row:
            assert not ends & set(document[1:].tolist()), "a piece goes on in the next document"
            assert np.array_equal(document, np.arange(document[0], document[0] + len(document)))
    assert data.fill > 0.95


def test_packing_is_best_fit_decreasing() -> None:
    rng = np.random.default_rng(0)
    for _ in range(30):
        length = int(rng.integers(5, 60))
        sizes = rng.integers(1, length + 1, 50)
        rooms: list[int] = []
        for size in sorted(sizes.tolist(), reverse=True):  # the slow way
            fitting = [k for k, room in enumerate(rooms) if room >= size]
            if fitting:
                rooms[min(fitting, key=lambda k: rooms[k])] -= size
            else:
                rooms.append(length - size)
        found = pack(sizes, length, seed=3)
        assert Counter(length - int(sizes[members].sum()) for members in found) == Counter(rooms)
    assert pack(np.zeros(0, np.int64), 4) == []


def test_packs_feed_an_objective() -> None:
    data = Packs(tokens([3, 3, 5]), 6)
    seen: list[list[int]] = []

    def collate(rows: Any, rng: Any) -> int:
        seen.extend(row["input_ids"].tolist() for row in rows)
        return len(rows)

    counts = [count for _, count in stream(data, Batches(data, batch_tokens=6), unpacked(collate), epochs=1)]
    assert sum(counts) == 3 and sorted(seen) == [[0, 1, 2], [3, 4, 5], [6, 7, 8, 9, 10]]


def test_a_real_text(tmp_path: Path, data: Callable[[str], Path]) -> None:
    path = data("data/shakespeare/input.txt")
    texts = list(read_rows(path).column("text"))
    tokenizer = train_tokenizer(texts, kind="characters", vocab_size=100)
    made = TokenFile.build(tmp_path / "t", texts, tokenizer, ends="none")
    assert made.count == sum(map(len, texts))
    assert tokenizer.decode(made.document(1234)) == texts[1234]
