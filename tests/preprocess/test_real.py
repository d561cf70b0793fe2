"""Tokenizers of real checkpoints give the ids recorded with them; and what a tokenizer object must bear in use."""

from __future__ import annotations

import copy
import json
import pickle
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from regard.preprocess.streaming import StreamDecoder
from regard.preprocess.text import Tokenizer
from tests.preprocess.folders import CORPUS, LINES

Get = Callable[[str], Path]


def _expected(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "expected.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", ["rxnfp-bert-mlm", "rxnmapper-albert"])
def test_reactions(data: Get, name: str) -> None:
    folder = data(f"checkpoints/{name}")
    batch = _expected(folder)["batch"]
    got = Tokenizer.from_folder(folder)(batch["texts"], padding=True)
    width = max(map(len, batch["input_ids"]))
    assert got.input_ids == [row + [0] * (width - len(row)) for row in batch["input_ids"]]


@pytest.mark.parametrize("name", ["sapiens-vh", "sapiens-vl"])
def test_antibodies(data: Get, name: str) -> None:
    folder = data(f"checkpoints/{name}")
    for entry in _expected(folder)["sequences"]:
        assert Tokenizer.from_folder(folder)(entry["sequence"]).input_ids == entry["input_ids"]


def test_transcripts(data: Get) -> None:
    folder = data("checkpoints/whisper-tiny.en")
    tokenizer = Tokenizer.from_folder(folder)
    for clip in _expected(folder)["clips"]:
        ids, text = clip["token_ids"], clip["text"]
        assert tokenizer.decode(ids, skip_special_tokens=True) == text
        stream = StreamDecoder(tokenizer)
        assert "".join([*(stream.push(index) for index in clip.get("decoder_input_ids", ids)), stream.end()]) == text
        assert tokenizer(text, add_special_tokens=False).input_ids == [index for index in ids if index < 50256]


@pytest.mark.parametrize("name", ["whisper-tiny.en", "rxnfp-bert-mlm"])
def test_real_vocabularies_equal_the_reference(data: Get, name: str) -> None:
    folder = data(f"checkpoints/{name}")
    theirs = pytest.importorskip("transformers").AutoTokenizer.from_pretrained(folder)
    ours = Tokenizer.from_folder(folder)
    for text in CORPUS:
        assert dict(theirs(text, return_offsets_mapping=True)) == dict(ours(text, return_offsets_mapping=True)), text
        ids = theirs(text)["input_ids"]
        assert theirs.decode(ids, skip_special_tokens=True) == ours.decode(ids, True)


@pytest.mark.parametrize("name", ["bert", "roberta", "llama3-json", "marian", "mpnet"])
def test_copies_work_alike(folder: Get, name: str) -> None:
    tokenizer = Tokenizer.from_folder(folder(name))
    for other in (copy.deepcopy(tokenizer), pickle.loads(pickle.dumps(tokenizer))):
        assert [other(text).input_ids for text in LINES] == [tokenizer(text).input_ids for text in LINES]
        assert other.decode(other(LINES[0]).input_ids) == tokenizer.decode(tokenizer(LINES[0]).input_ids)
    encoding = tokenizer(LINES, padding=bool(tokenizer.pad_token))
    assert pickle.loads(pickle.dumps(encoding)).input_ids == encoding.input_ids


def test_threads_do_not_mix_their_settings(folder: Get) -> None:
    tokenizer = Tokenizer.from_folder(folder("bert"))

    def one(turn: int) -> bool:
        width = 5 + turn % 7
        rows = tokenizer(LINES, padding="max_length", truncation=True, max_length=width).input_ids
        return all(len(row) == width for row in rows) and len(tokenizer(LINES[0]).input_ids) > 15

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(one, range(200)))


def test_pad_token_as_in_tutorials(folder: Get) -> None:
    tokenizer = Tokenizer.from_folder(folder("gpt2"))
    assert tokenizer.pad_token is None and tokenizer.pad_token_id is None
    tokenizer.pad_token = tokenizer.eos_token
    rows = tokenizer(["fox", "the quick brown fox"], padding=True, return_tensors="pt", padding_side="left")
    assert rows.input_ids[0, 0] == tokenizer.eos_token_id
    assert rows["attention_mask"][0].tolist()[0] == 0
    assert set(dict(**rows)) == {"input_ids", "attention_mask"}
    assert rows.to("cpu").input_ids is rows["input_ids"]


def test_importing_needs_neither_torch_nor_sentencepiece() -> None:
    code = (
        "import sys, regard.preprocess.text, regard.preprocess.streaming; "
        "print(sorted({'torch', 'sentencepiece', 'transformers'} & set(sys.modules)))"
    )
    source = Path(__file__).resolve().parents[2] / "src"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env={"PYTHONPATH": str(source)})
    assert run.stdout.strip() == "[]", run.stderr
