"""Trained tokenizers: they round-trip, and the reference library reads the folder in the same way."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from regard.preprocess.text import Tokenizer
from regard.training.data.read import read_rows
from regard.training.data.tokenizer import train_tokenizer

TEXTS = [f"the quick brown fox number {i} jumps over the lazy dog, isn't it? Ça va très bien." for i in range(50)]
PROBES = ["the lazy fox", "Unseen  spaces\n\nand\ttabs", "日本 🙂 Ça", "", " lead", "<tag> the"]
KINDS = ["bpe", "wordpiece", "unigram", "characters"]


@pytest.mark.parametrize("lowercase", [False, True])
@pytest.mark.parametrize("use", ["causal", "masked", "seq2seq"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_reference_opens_it_alike(tmp_path: Path, kind: str, use: str, lowercase: bool) -> None:
    auto = pytest.importorskip("transformers").AutoTokenizer
    made = train_tokenizer(
        TEXTS,
        tmp_path,
        kind=kind,
        use=use,
        vocab_size=320,
        special_tokens=["<tag>"],
        lowercase=lowercase,
        max_length=64,
    )
    ours, theirs = Tokenizer.from_folder(tmp_path), auto.from_pretrained(tmp_path)
    for probe in PROBES:
        wanted = dict(theirs(probe))
        assert dict(ours(probe)) == dict(made(probe)) == wanted
        assert dict(ours(probe, "the dog")) == dict(theirs(probe, "the dog"))
        assert ours.decode(wanted["input_ids"]) == theirs.decode(wanted["input_ids"])
    assert ours.special_tokens_map == {
        name: str(token) for name, token in theirs.special_tokens_map.items() if name in ours.special_tokens_map
    }
    for name in ("pad_token_id", "eos_token_id", "unk_token_id", "mask_token_id", "sep_token_id", "bos_token_id"):
        assert getattr(ours, name) == getattr(theirs, name)
    assert ours.model_max_length == theirs.model_max_length == 64
    assert len(ours) == len(theirs) <= 320
    assert ours("<tag>", add_special_tokens=False)["input_ids"] == [ours.convert_tokens_to_ids("<tag>")]


def test_bytes_come_back_whatever_they_are(tmp_path: Path) -> None:
    tokenizer = train_tokenizer(TEXTS, vocab_size=300)
    for probe in [*PROBES[:-1], "\x00\x7f é \u200d", "".join(map(chr, range(1, 0x250)))]:
        assert tokenizer.decode(tokenizer(probe)["input_ids"]) == probe


def test_characters_come_back_and_unknown_ones_are_unknown() -> None:
    tokenizer = train_tokenizer(["abc\n\n d", "aab"], kind="characters", vocab_size=50)
    assert len(tokenizer) == 3 + len(set("abcd \n"))
    assert tokenizer.decode(tokenizer("cab\n d a")["input_ids"]) == "cab\n d a"
    assert tokenizer("axb")["input_ids"][1] == tokenizer.unk_token_id


def test_other_kinds_come_back_but_for_spaces() -> None:
    for kind in ("wordpiece", "unigram"):
        tokenizer = train_tokenizer(TEXTS, kind=kind, vocab_size=200)
        found = tokenizer.decode(tokenizer(TEXTS[3])["input_ids"], skip_special_tokens=True)
        assert found.replace(" ", "") == TEXTS[3].replace(" ", "")
        assert tokenizer.unk_token_id not in tokenizer(TEXTS[3])["input_ids"]


def test_what_goes_around_a_text() -> None:
    masked = train_tokenizer(TEXTS, kind="wordpiece", vocab_size=200)
    assert masked.tokenize("fox", "dog", add_special_tokens=True) == ["[CLS]", "fox", "[SEP]", "dog", "[SEP]"]
    assert masked("fox", "dog")["token_type_ids"] == [0, 0, 0, 1, 1]
    assert [masked.pad_token_id, masked.unk_token_id, masked.mask_token_id] == [0, 1, 4]
    seq2seq = train_tokenizer(TEXTS, kind="unigram", vocab_size=200)
    assert seq2seq("fox")["input_ids"][-1] == seq2seq.eos_token_id == 1 and seq2seq.pad_token_id == 0
    causal = train_tokenizer(TEXTS, vocab_size=300)
    assert causal.eos_token_id not in causal("fox")["input_ids"]
    assert causal.eos_token_id == causal.bos_token_id == 0 and causal.pad_token_id == 1


def test_lowercase_and_accents() -> None:
    for kind in KINDS:
        tokenizer = train_tokenizer(TEXTS, kind=kind, vocab_size=300, lowercase=True)
        assert tokenizer("THE Lazy ÇA")["input_ids"] == tokenizer("the lazy ça")["input_ids"]
        plain = train_tokenizer(TEXTS, kind=kind, vocab_size=300)
        assert plain("THE Lazy ÇA")["input_ids"] != plain("the lazy ça")["input_ids"]


def test_training_is_the_same_each_time(tmp_path: Path) -> None:
    for kind in KINDS:
        folders = [tmp_path / f"{kind}{i}" for i in range(2)]
        for folder in folders:
            train_tokenizer(iter(TEXTS), folder, kind=kind, vocab_size=300)
        vocabularies = [json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"] for folder in folders]
        assert vocabularies[0] == vocabularies[1]


@pytest.mark.parametrize(
    ("texts", "options", "said"),
    [
        ([], {}, "nothing to learn from"),
        (["", " \n"], {}, "nothing to learn from"),
        (["a", 3], {}, r"text 1 is '3' \(int\)"),
        (TEXTS, {"kind": "word"}, "kind is 'word'; allowed: 'bpe'"),
        (TEXTS, {"use": "chat"}, "use is 'chat'; allowed: 'causal'"),
        (TEXTS, {"vocab_size": 258}, "vocab_size is 258; allowed for bpe: 259"),
        (TEXTS, {"vocab_size": 5, "kind": "wordpiece"}, "vocab_size is 5; allowed for wordpiece: 7"),
        (TEXTS, {"vocab_size": 10**9}, "vocab_size is 1000000000"),
        (TEXTS, {"min_frequency": 0}, "min_frequency is 0"),
    ],
)
def test_what_cannot_be_learnt_is_said(texts: Any, options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        train_tokenizer(texts, **options)


@pytest.mark.parametrize("kind", KINDS)
def test_odd_texts_do_no_harm(kind: str) -> None:
    tokenizer = train_tokenizer(["\ud800 lone", "\x00", "ok ok ok ok", "x" * 5000], kind=kind, vocab_size=300)
    assert tokenizer("ok")["input_ids"]


def test_on_real_text(tmp_path: Path, data: Callable[[str], Path]) -> None:
    texts = list(read_rows(data("data/multi30k/val.de.gz")).column("text"))
    tokenizer = train_tokenizer(texts, tmp_path, vocab_size=2000)
    assert len(tokenizer) == 2000
    lengths = [len(ids) for ids in tokenizer(texts)["input_ids"]]
    assert sum(map(len, texts)) / sum(lengths) > 3.2  # characters a token; bytes alone would give under 1
    assert [tokenizer.decode(ids) for ids in tokenizer(texts)["input_ids"]] == texts
