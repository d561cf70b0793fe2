"""The character tokenizer of speech recognition against the reference's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

transformers = pytest.importorskip("transformers")

from regard.preprocess.ctc import CTCTokenizer  # noqa: E402

VOCAB = {token: i for i, token in enumerate(["<pad>", "<s>", "</s>", "<unk>", "|", *"ETAONIHSRDLUMWCFGYPBVK'XJQZ"])}
CASES: dict[str, tuple[dict[str, int], dict[str, Any]]] = {
    "usual": (VOCAB, {}),
    "lower": (VOCAB, {"do_lower_case": True}),
    "two letters": ({**VOCAB, "TH": 32, "ING": 33}, {}),
    "own names": (
        {"[PAD]": 0, "[UNK]": 1, " ": 2, "a": 3, "b": 4},
        {
            "pad_token": "[PAD]",
            "unk_token": "[UNK]",
            "word_delimiter_token": " ",
            "bos_token": None,
            "eos_token": None,
        },
    ),
    "tokens behind": ({"a": 0, "b": 1, "|": 2, "[PAD]": 3, "[UNK]": 4}, {"pad_token": "[PAD]", "unk_token": "[UNK]"}),
}
TEXTS = [
    "HELLO WORLD",
    "",
    " ",
    "IT'S  TWO SPACES ",
    "THE THING",
    "unknown é",
    "a b",
    "<s> IN <pad> THE</s>TEXT",
    "ab|ab",
]


def pair(name: str, folder: Path) -> tuple[Any, CTCTokenizer]:
    vocab, settings = CASES[name]
    (folder / "vocab.json").write_text(json.dumps(vocab))
    theirs = transformers.Wav2Vec2CTCTokenizer(str(folder / "vocab.json"), **settings)
    theirs.save_pretrained(folder)
    return theirs, CTCTokenizer.from_folder(folder)


@pytest.mark.parametrize("name", CASES)
def test_ids_and_text_agree(name: str, tmp_path: Path) -> None:
    theirs, ours = pair(name, tmp_path)
    assert ours.get_vocab() == theirs.get_vocab() and len(ours) == len(theirs)
    for which in ("pad_token_id", "unk_token_id", "bos_token_id", "eos_token_id", "word_delimiter_token_id"):
        assert getattr(ours, which) == getattr(theirs, which), which
    for text in TEXTS:
        want = theirs(text)
        assert ours.tokenize(text) == theirs.tokenize(text), text
        assert dict(ours(text)) == dict(want), text
        for group in (True, False):
            assert ours.decode(want["input_ids"], group_tokens=group) == theirs.decode(
                want["input_ids"], group_tokens=group
            )
    got, want = ours(TEXTS, padding=True, return_tensors="pt"), theirs(TEXTS, padding=True, return_tensors="pt")
    for key in want:
        assert torch.equal(got[key], want[key])


@pytest.mark.parametrize("name", CASES)
def test_moments_collapse_and_keep_their_places(name: str, tmp_path: Path) -> None:
    theirs, ours = pair(name, tmp_path)
    rng = np.random.default_rng(0)
    rows = np.repeat(rng.integers(0, len(theirs) + 2, (6, 30)), rng.integers(1, 4), axis=1)
    rows[rng.random(rows.shape) < 0.3] = theirs.pad_token_id
    rows[rng.random(rows.shape) < 0.1] = theirs.word_delimiter_token_id
    for row in (*rows, np.array([], dtype=np.int64), rows[0, :1]):
        for options in (
            {},
            {"skip_special_tokens": True},
            {"clean_up_tokenization_spaces": True},
            {"spaces_between_special_tokens": True},
        ):
            assert ours.decode(torch.from_numpy(row), **options) == theirs.decode(row.tolist(), **options)
        if row.size:
            want = theirs.decode(row.tolist(), output_char_offsets=True, output_word_offsets=True)
            got = ours.decode(row, output_char_offsets=True, output_word_offsets=True)
            assert (got.text, got.char_offsets, got.word_offsets) == (want.text, want.char_offsets, want.word_offsets)
    assert ours.batch_decode(torch.from_numpy(rows)) == theirs.batch_decode(rows)
    want = theirs.batch_decode(rows, output_word_offsets=True)
    assert ours.batch_decode(rows, output_word_offsets=True)["word_offsets"] == want.word_offsets


def test_by_hand() -> None:
    ours = CTCTokenizer(VOCAB)
    ids = [ours.vocab[c] for c in "HHE"] + [
        0,
        ours.vocab["L"],
        ours.vocab["L"],
        0,
        ours.vocab["L"],
        ours.vocab["O"],
        4,
        4,
    ]
    ids += [ours.vocab["A"]]
    found = ours.decode(ids, output_word_offsets=True)
    assert found.text == "HELLO A"
    assert found.word_offsets == [
        {"word": "HELLO", "start_offset": 0, "end_offset": 9},
        {"word": "A", "start_offset": 11, "end_offset": 12},
    ]


def test_languages(tmp_path: Path) -> None:
    nested = {"deu": {"<pad>": 0, "ä": 1, "|": 2, "<unk>": 3}, "eng": {"<pad>": 0, "a": 1, "|": 2, "<unk>": 3}}
    (tmp_path / "vocab.json").write_text(json.dumps(nested))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"target_lang": "eng"}))
    ours = CTCTokenizer.from_folder(tmp_path)
    assert ours.decode([1, 2, 1]) == "a a"
    ours.set_target_lang("deu")
    assert ours.decode([1, 2, 1]) == "ä ä"
    with pytest.raises(ValueError, match="target_lang is 'fra'; allowed: deu, eng"):
        ours.set_target_lang("fra")


def test_what_we_save_the_reference_reads(tmp_path: Path) -> None:
    ours = CTCTokenizer(VOCAB, {"do_lower_case": True, "unk_token": {"content": "<unk>", "__type": "AddedToken"}})
    ours.save_pretrained(tmp_path)
    theirs = transformers.Wav2Vec2CTCTokenizer.from_pretrained(tmp_path)
    assert theirs("hello é").input_ids == ours("hello é").input_ids
    assert CTCTokenizer.from_folder(tmp_path)("a").input_ids == ours("a").input_ids


@pytest.mark.parametrize(
    ("vocab", "config", "reason"),
    [
        ({"a": -1}, {}, "id of 'a' is -1"),
        ({"a": "b"}, {}, "id of 'a' is 'b'"),
        ({"eng": {"a": 1}}, {}, "target_lang is None; allowed: eng"),
        ({"a": 1}, {"pad_token": 3}, "pad_token is 3"),
        ([1], {}, "must hold a JSON object"),
        (None, {}, "no vocab.json"),
    ],
)
def test_folders_that_make_no_tokenizer(vocab: Any, config: dict[str, Any], reason: str, tmp_path: Path) -> None:
    if vocab is not None:
        (tmp_path / "vocab.json").write_text(json.dumps(vocab))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=reason):
        CTCTokenizer.from_folder(tmp_path)


def test_wrong_calls_are_named() -> None:
    ours = CTCTokenizer(VOCAB)
    with pytest.raises(ValueError, match="use batch_decode"):
        ours.decode([[1, 2]])
    with pytest.raises(ValueError, match="padding is 'most'"):
        ours("A", padding="most")
    with pytest.raises(ValueError, match="text must be"):
        ours([3])  # type: ignore[list-item]
    with pytest.raises(ValueError, match="differ in length"):
        ours(["A", "AB"], return_tensors="pt")
