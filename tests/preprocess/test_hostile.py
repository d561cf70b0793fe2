"""Broken and hostile tokenizer files, and wrong arguments: each ends in one ValueError that says where."""

from __future__ import annotations

import base64
import json
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from regard.preprocess import tokenizer_files
from regard.preprocess.sentencepiece import parse_sentencepiece
from regard.preprocess.text import Tokenizer
from tests.preprocess.folders import LINES, spm

Get = Callable[[str], Path]


def _stored(**changes: Any) -> dict[str, Any]:
    model = {"type": "WordLevel", "vocab": {"[UNK]": 0, "a": 1, "b": 2}, "unk_token": "[UNK]"}
    base = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [],
        "normalizer": None,
        "model": model,
    }
    return {**base, "pre_tokenizer": {"type": "Whitespace"}, "post_processor": None, "decoder": None, **changes}


def _folder(path: Path, stored: Any, **config: Any) -> Path:
    text = stored if isinstance(stored, str) else json.dumps(stored)
    (path / "tokenizer.json").write_text(text, encoding="utf-8")
    (path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", **config}))
    return path


def _token(index: Any, content: Any = "x") -> dict[str, Any]:
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized", "special"), False)
    return {"id": index, "content": content, **flags}


def _model(**changes: Any) -> dict[str, Any]:
    return _stored(model={**_stored()["model"], **changes})


BROKEN: dict[str, Any] = {
    "empty": "",
    "cut": '{"version": "1.0", "model": {',
    "list": [],
    "deep": '{"model": ' + "[" * 100_000 + "]" * 100_000 + "}",
    "deep-normalizer": '{"normalizer": '
    + '{"type":"Sequence","normalizers":[' * 400
    + "]}" * 400
    + ', "model": {"type":"WordLevel","vocab":{"a":0},"unk_token":"a"}}',
    "no-model": {"version": "1.0"},
    "model-text": _stored(model="BPE"),
    "vocab-number": _model(vocab=3),
    "vocab-id-text": _model(vocab={"a": "0"}),
    "vocab-id-bool": _model(vocab={"a": True}),
    "vocab-id-large": _model(vocab={"a": 2**31}),
    "vocab-id-negative": _model(vocab={"a": -1}),
    "vocab-list": _stored(model={"type": "Unigram", "unk_id": 0, "vocab": [["a", 0.0], ["b"]]}),
    "unigram-empty": _stored(model={"type": "Unigram", "unk_id": 0, "vocab": []}),
    "unigram-unk": _stored(model={"type": "Unigram", "unk_id": 9, "vocab": [["a", 0.0]]}),
    "merges": _stored(model={"type": "BPE", "vocab": {"a": 0}, "merges": [["a", "zz"]]}),
    "model-type": _model(type="Nothing"),
    "added-id": _stored(added_tokens=[_token(2**31)]),
    "added-id-huge": _stored(added_tokens=[_token(10**40)]),
    "added-id-missing": _stored(added_tokens=[{"content": "x"}]),
    "added-content": _stored(added_tokens=[_token(3, 7)]),
    "added-object": _stored(added_tokens={"x": 3}),
    "pre-tokenizer-type": _stored(pre_tokenizer={"type": "Nothing"}),
    "regex-broken": _stored(
        pre_tokenizer={"type": "Split", "pattern": {"Regex": "(["}, "behavior": "Isolated", "invert": False}
    ),
    "regex-deep": _stored(
        pre_tokenizer={"type": "Split", "pattern": {"Regex": "(" * 50000}, "behavior": "Isolated", "invert": False}
    ),
    "growing-normalizer": _stored(
        normalizer={
            "type": "Sequence",
            "normalizers": [{"type": "Replace", "pattern": {"String": "a"}, "content": "a" * 10}] * 20,
        }
    ),
    "growing-decoder": _stored(
        decoder={"type": "Sequence", "decoders": [{"type": "Replace", "pattern": {"Regex": ""}, "content": "aa"}] * 40}
    ),
    "charsmap": _stored(normalizer={"type": "Precompiled", "precompiled_charsmap": "AAAA"}),
}


@pytest.mark.parametrize("name", sorted(BROKEN))
def test_broken_tokenizer_json(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match=r"tokenizer\.json"):
        Tokenizer.from_folder(_folder(tmp_path, BROKEN[name]))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"model_max_length": "long"}, "model_max_length"),
        ({"model_max_length": -3}, "model_max_length"),
        ({"padding_side": "up"}, "padding_side"),
        ({"pad_token": 3}, "pad_token"),
        ({"pad_token": {"content": 3}}, "pad_token"),
        ({"additional_special_tokens": 7}, "special_tokens"),
        ({"added_tokens_decoder": []}, "added_tokens_decoder"),
        ({"added_tokens_decoder": {"99999999999": {"content": "x"}}}, "added_tokens_decoder"),
        ({"added_tokens_decoder": {"x": {"content": "x"}}}, "added_tokens_decoder"),
        ({"chat_template": 3}, "chat_template"),
    ],
)
def test_broken_settings(tmp_path: Path, config: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Tokenizer.from_folder(_folder(tmp_path, _stored(), **config))


def test_missing_and_large_files(tmp_path: Path, folder: Get, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="not a folder"):
        Tokenizer.from_folder(tmp_path / "absent")
    with pytest.raises(ValueError, match="looked for"):
        Tokenizer.from_folder(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer"}')
    with pytest.raises(ValueError, match=r"vocab\.txt"):
        Tokenizer.from_folder(tmp_path)
    (tmp_path / "vocab.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match="UTF-8"):
        Tokenizer.from_folder(tmp_path)
    with open(tmp_path / "tokenizer.json", "wb") as file:
        os.truncate(file.fileno(), tokenizer_files.MAX_TOKENIZER_BYTES + 1)
    with pytest.raises(ValueError, match="at most"):
        Tokenizer.from_folder(tmp_path)
    monkeypatch.setattr(tokenizer_files, "MAX_VOCAB", 10)
    with pytest.raises(ValueError, match="at most 10"):
        Tokenizer.from_folder(folder("bert-json"))


def test_slow_regular_expressions_do_not_crash(tmp_path: Path) -> None:
    pattern = {"type": "Split", "pattern": {"Regex": r"(a|a)*(a|a)*(a|a)*$x"}, "behavior": "Isolated", "invert": False}
    tokenizer = Tokenizer.from_folder(_folder(tmp_path, _stored(pre_tokenizer=pattern)))
    try:
        assert tokenizer("a" * 28 + "b").input_ids
    except ValueError as error:
        assert "text" in str(error)
    assert tokenizer("b").input_ids == [2]  # still usable


def test_stored_padding_and_truncation_are_off(folder: Get) -> None:
    tokenizer = Tokenizer.from_folder(folder("bert-json"))
    assert len(tokenizer("fox").input_ids) < 10
    assert len(tokenizer("fox " * 300).input_ids) > 300


@pytest.mark.parametrize("where", [0, 1, 2])
def test_damaged_sentencepiece_models(tmp_path: Path, where: int) -> None:
    whole = bytearray(spm("unigram"))
    rng = random.Random(where)
    opened = 0
    for _ in range(60):
        data = bytearray(whole)
        for _ in range(rng.randrange(1, 20)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        if where == 1:
            data = data[: rng.randrange(len(data))]
        (tmp_path / "spiece.model").write_bytes(data)
        (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "T5Tokenizer"}')
        try:
            tokenizer = Tokenizer.from_folder(tmp_path)
            tokenizer(LINES)
            opened += 1
        except ValueError as error:
            assert str(error)
    assert opened < 60


def test_sentencepiece_bombs() -> None:
    for data in (b"", b"\x00", b"\xff" * 40, b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\x7f", b"\x0a\x02\x0a\x00"):
        with pytest.raises(ValueError, match="not a SentencePiece model"):
            parse_sentencepiece(data)


def test_marian_table_out_of_bounds(tmp_path: Path, folder: Get) -> None:
    for file in folder("marian").iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    source = bytearray((tmp_path / "source.spm").read_bytes())
    at = source.rfind(b"nmt_nfkc") + 12
    source[at + 4 : at + 4000] = b"\xff" * 3996
    (tmp_path / "source.spm").write_bytes(source)
    with pytest.raises(ValueError, match=r"precompiled_charsmap|SentencePiece"):
        Tokenizer.from_folder(tmp_path)(LINES)


def test_wrong_arguments(folder: Get) -> None:
    tokenizer = Tokenizer.from_folder(folder("bert"))
    cases: list[tuple[Callable[[], Any], str]] = [
        (lambda: tokenizer(3), "text"),
        (lambda: tokenizer(None), "text"),
        (lambda: tokenizer([]), "empty"),
        (lambda: tokenizer([1, 2]), "text"),
        (lambda: tokenizer("a", 5), "text_pair"),
        (lambda: tokenizer(["a"], ["b", "c"]), "text_pair"),
        (lambda: tokenizer("a", padding="wide"), "padding"),
        (lambda: tokenizer("a", truncation="middle"), "truncation"),
        (lambda: tokenizer("a", padding_side="up"), "padding_side"),
        (lambda: tokenizer("a", max_length=0), "max_length"),
        (lambda: tokenizer("a", max_length="8"), "max_length"),
        (lambda: tokenizer("a", max_length=2**40, padding="max_length"), "max_length"),
        (lambda: tokenizer("a b c", max_length=1, truncation=True), "max_length"),
        (lambda: tokenizer("a", max_length=8, truncation=True, stride=8), "stride"),
        (lambda: tokenizer("a", max_length=8, truncation=True, stride=7), "stride"),
        (lambda: tokenizer("a b c d e f", max_length=4, truncation="only_second"), "text"),
        (lambda: tokenizer(LINES, return_tensors="pt"), "padding=True"),
        (lambda: tokenizer("a", return_tensors="tf"), "return_tensors"),
        (lambda: tokenizer.decode([1, -100]), "-100"),
        (lambda: tokenizer.decode(["a"]), "token_ids"),
        (lambda: tokenizer.decode(None), "token_ids"),
        (lambda: tokenizer("a", padding=["longest"]), "padding"),
        (lambda: tokenizer.add_special_tokens({"fancy_token": "x"}), "fancy_token"),
        (lambda: tokenizer("\ud800"), ""),
        (lambda: tokenizer.pad([{"ids": [1]}]), "input_ids"),
        (lambda: tokenizer("fox")[3], "row 3"),
    ]
    for call, message in cases:
        with pytest.raises(ValueError, match=message):
            call()
    assert tokenizer("fox").input_ids == tokenizer("fox").input_ids


def test_precompiled_table_of_tokenizer_json_must_be_base64(tmp_path: Path, folder: Get) -> None:
    stored = json.loads((folder("t5-json") / "tokenizer.json").read_text(encoding="utf-8"))
    table = base64.b64decode(stored["normalizer"]["precompiled_charsmap"])
    stored["normalizer"]["precompiled_charsmap"] = base64.b64encode(table[:100]).decode()
    with pytest.raises(ValueError, match=r"tokenizer\.json"):
        Tokenizer.from_folder(_folder(tmp_path, stored, tokenizer_class="T5Tokenizer"))(LINES)
