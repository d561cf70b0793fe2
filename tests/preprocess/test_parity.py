"""Ids, masks, types, offsets and decoded text equal the reference's, for every kind of tokenizer and every form on
disk."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from regard.preprocess.text import Tokenizer
from tests.preprocess.folders import CORPUS, FOLDERS, LINES

Pair = Callable[[str], tuple[Any, Tokenizer]]
ALL = sorted(FOLDERS)
NATIVE = [name for name in ALL if name != "marian"]


def same(theirs: Any, ours: Any, context: object = "") -> None:
    """All columns equal."""
    assert set(theirs.keys()) == set(ours.keys()), context
    for key in theirs:
        assert list(theirs[key]) == list(ours[key]), (context, key)


@pytest.mark.parametrize("name", ALL)
def test_texts(pair: Pair, name: str) -> None:
    theirs, ours = pair(name)
    extras = {} if name == "marian" else {"return_offsets_mapping": True}
    for text in CORPUS:
        expected = theirs(text, return_special_tokens_mask=name != "marian", **extras)
        got = ours(text, return_special_tokens_mask=name != "marian", **extras)
        same(expected, got, (text, theirs.tokenize(text), ours.tokenize(text)))
        assert theirs.tokenize(text) == ours.tokenize(text)
        same(theirs(text, add_special_tokens=False), ours(text, add_special_tokens=False), text)


@pytest.mark.parametrize("name", ALL)
def test_decoding(pair: Pair, name: str) -> None:
    theirs, ours = pair(name)
    rows = [theirs(text)["input_ids"] for text in CORPUS]
    rows += [list(range(start, start + 12)) for start in range(0, len(theirs) - 12, 37)]
    for ids in rows:
        for skip in (False, True):
            assert theirs.decode(ids, skip_special_tokens=skip) == ours.decode(ids, skip_special_tokens=skip), ids
            cleaned = theirs.decode(ids, skip_special_tokens=skip, clean_up_tokenization_spaces=True)
            assert cleaned == ours.decode(ids, skip, clean_up_tokenization_spaces=True), ids
    assert theirs.batch_decode(rows[:9], skip_special_tokens=True) == ours.batch_decode(rows[:9], True)


@pytest.mark.parametrize("name", ALL)
def test_names(pair: Pair, name: str) -> None:
    theirs, ours = pair(name)
    assert len(theirs) == len(ours)
    assert theirs.vocab_size == ours.vocab_size
    assert theirs.get_vocab() == ours.get_vocab()
    assert theirs.special_tokens_map == ours.special_tokens_map
    assert theirs.all_special_ids == ours.all_special_ids
    assert theirs.all_special_tokens == ours.all_special_tokens
    for token in ("bos", "eos", "unk", "sep", "pad", "cls", "mask"):
        assert getattr(theirs, f"{token}_token_id") == getattr(ours, f"{token}_token_id"), token
    assert (theirs.padding_side, theirs.truncation_side) == (ours.padding_side, ours.truncation_side)
    assert theirs.model_max_length == ours.model_max_length
    assert list(theirs.model_input_names) == ours.model_input_names
    ids = list(range(0, len(theirs), 11))
    tokens = theirs.convert_ids_to_tokens(ids)
    assert tokens == ours.convert_ids_to_tokens(ids)
    assert theirs.convert_tokens_to_ids(tokens) == ours.convert_tokens_to_ids(tokens)


@pytest.mark.parametrize("name", ALL)
def test_batches(pair: Pair, name: str) -> None:
    theirs, ours = pair(name)
    saved = ours.pad_token
    if ours.pad_token is None:
        with pytest.raises(ValueError, match="pad_token"):
            ours(LINES, padding=True)
        for tokenizer in (theirs, ours):
            tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
    for side in ("left", "right"):
        for options in (
            {"padding": True},
            {"padding": "max_length", "max_length": 24, "truncation": True},
            {"padding": "longest", "truncation": True, "max_length": 12, "pad_to_multiple_of": 4},
        ):
            same(theirs(LINES, padding_side=side, **options), ours(LINES, padding_side=side, **options), options)
        tensors = theirs(LINES, padding=True, padding_side=side, return_tensors="pt")
        got = ours(LINES, padding=True, padding_side=side, return_tensors="pt")
        assert tensors.keys() == got.keys()
        assert all((tensors[key] == got[key]).all() and tensors[key].dtype == got[key].dtype for key in tensors)
    rows = [{"input_ids": ours(line).input_ids} for line in LINES]
    same(theirs.pad([dict(row) for row in rows]), ours.pad(rows))
    theirs.pad_token = ours.pad_token = saved


@pytest.mark.parametrize("name", NATIVE)
def test_pairs_and_truncation(pair: Pair, name: str) -> None:
    theirs, ours = pair(name)
    first, second = LINES[:6], LINES[6:]
    same(theirs(first, second), ours(first, second))
    same(theirs(first[0], second[0]), ours(first[0], second[0]))
    for side in ("left", "right"):
        theirs.truncation_side = ours.truncation_side = side
        for strategy in ("longest_first", "only_first", "only_second"):
            options: dict[str, Any] = {"truncation": strategy, "max_length": 20, "return_offsets_mapping": True}
            long, short = [" ".join(LINES[:3]), " ".join(LINES[3:6])], ["fox", "dog"]
            a, b = (short, long) if strategy == "only_second" else (long, short)
            same(theirs(a, b, **options), ours(a, b, **options), options)
            if strategy != "longest_first":
                with pytest.raises(ValueError, match="too short"):
                    ours(b, a, **options)
            else:
                same(theirs(long, long[::-1], **options), ours(long, long[::-1], **options), options)
        options = {"truncation": True, "max_length": 14, "stride": 3, "return_overflowing_tokens": True}
        same(theirs(LINES, **options), ours(LINES, **options), options)
        options = {**options, "truncation": "only_second", "max_length": 24}
        same(theirs(["The fox"] * 2, LINES[1:3], **options), ours(["The fox"] * 2, LINES[1:3], **options), options)
    theirs.truncation_side = ours.truncation_side = "right"
    same(theirs(LINES, max_length=9), ours(LINES, max_length=9))


@pytest.mark.parametrize("name", NATIVE)
def test_words(pair: Pair, name: str) -> None:
    theirs, ours = pair(name)
    words = [line.split() for line in LINES]
    expected, got = theirs(words, is_split_into_words=True), ours(words, is_split_into_words=True)
    same(expected, got)
    for row in range(len(words)):
        assert expected.word_ids(row) == got.word_ids(row)
        assert expected.sequence_ids(row) == got.sequence_ids(row)
        assert expected.tokens(row) == got.tokens(row)
    same(theirs(words[0], is_split_into_words=True), ours(words[0], is_split_into_words=True))
    text = LINES[0]
    one, two = theirs(text), ours(text)
    for at in range(0, len(text), 3):
        assert one.char_to_token(at) == two.char_to_token(at)
        assert one.char_to_word(at) == two.char_to_word(at)
    for at in range(len(two.input_ids)):
        assert one.token_to_chars(at) == two.token_to_chars(at)
        assert one.token_to_word(at) == two.token_to_word(at)


@pytest.mark.parametrize("name", ["mbart", "mbart50", "mbart-json", "mbart50-json"])
def test_languages(pair: Pair, name: str) -> None:
    theirs, ours = pair(name)
    same(theirs(LINES[0], text_target=LINES[1]), ours(LINES[0], text_target=LINES[1]))
    before = ours.src_lang
    theirs.src_lang = ours.src_lang = "it_IT"
    same(theirs(LINES[0]), ours(LINES[0]))
    theirs.src_lang = ours.src_lang = before
    with pytest.raises(ValueError, match="xx_YY"):
        ours.src_lang = "xx_YY"
    ours.src_lang = before


def test_marian_targets_and_pairs(pair: Pair) -> None:
    theirs, ours = pair("marian")
    same(theirs(LINES, text_target=LINES), ours(LINES, text_target=LINES))
    same(theirs(LINES[0], max_length=7, truncation=True), ours(LINES[0], max_length=7, truncation=True))
    assert list(theirs(LINES[0], LINES[1])["input_ids"]) == ours(LINES[0], LINES[1]).input_ids
    with pytest.raises(ValueError, match="offsets"):
        ours(LINES, return_offsets_mapping=True)


@pytest.mark.parametrize("name", ALL)
def test_saved_folders_open_again(pair: Pair, name: str, tmp_path: Path) -> None:
    import transformers

    theirs, ours = pair(name)
    written = ours.save_pretrained(tmp_path)
    assert {Path(path).name for path in written} == {path.name for path in tmp_path.iterdir()}
    kind = getattr(transformers, type(theirs).__name__)
    again, reopened = kind.from_pretrained(tmp_path), Tokenizer.from_folder(tmp_path)
    for text in CORPUS:
        assert list(again(text)["input_ids"]) == ours(text).input_ids, text
        assert reopened(text).input_ids == ours(text).input_ids, text
    assert again.special_tokens_map == ours.special_tokens_map == reopened.special_tokens_map


@pytest.mark.parametrize("name", ["bert", "gpt2", "t5", "llama"])
def test_added_tokens(folder: Callable[[str], Path], name: str) -> None:
    import transformers

    path = folder(name)
    ours = Tokenizer.from_folder(path)
    theirs = getattr(transformers, ours.class_name).from_pretrained(path)
    for tokenizer in (theirs, ours):
        assert tokenizer.add_tokens(["brandnewword", "Füße"]) == 2
        tokenizer.add_special_tokens({"pad_token": "<newpad>", "additional_special_tokens": ["<a>", "<b>"]})
    for text in ("a brandnewword <a> <newpad> Füße<b>", *LINES):
        same(theirs(text), ours(text), text)
    assert (len(theirs), theirs.all_special_tokens) == (len(ours), ours.all_special_tokens)
    assert ours.pad_token_id == theirs.pad_token_id
