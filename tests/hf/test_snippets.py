"""Well-known tutorial code with only its import line changed runs as it is, and prints what the reference prints."""

from __future__ import annotations

import ast
import csv
import gzip
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.conftest import ROOT, real
from tests.hf.hub import TRANSLATOR


def run(snippet: str, cache: Path, folder: Path) -> str:
    """What a snippet prints, run unchanged in a bare process whose hub is the cache on disk."""
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGINGFACE"))},
        **{"HF_HUB_CACHE": str(cache), "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"},
    }
    (path,) = real("snippets").glob(f"{snippet}_*.py")
    done = subprocess.run(
        [sys.executable, str(path)], env=environment, cwd=folder, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.rstrip("\n")


def tensor_size(text: str) -> tuple[int, ...]:
    return tuple(ast.literal_eval(re.search(r"torch\.Size\((\[.*?\])\)", text)[1]))  # type: ignore[index]


def test_01_text_generation(cache, tmp_path):
    import transformers

    folder = cache[1]["gpt2"]
    tokenizer = transformers.GPT2Tokenizer.from_pretrained(folder)
    model = transformers.GPT2LMHeadModel.from_pretrained(folder)
    inputs = tokenizer("Once upon a time,", return_tensors="pt")
    written = model.generate(**inputs, max_length=30)[0]
    assert len(written) == 30
    assert run("01", cache[0], tmp_path) == tokenizer.decode(written, skip_special_tokens=True)


def test_02_bert_encode(cache, tmp_path):
    import transformers

    tokenizer = transformers.BertTokenizer.from_pretrained(cache[1]["bert-base-uncased"])
    ids = tokenizer("Hello Transformers!")["input_ids"]
    shape, tokens = run("02", cache[0], tmp_path).splitlines()
    assert tensor_size(shape) == (1, len(ids), 32)
    assert ast.literal_eval(tokens) == ["transformers", "are", "amazing", "!"]


def test_03_translate(cache, tmp_path):
    import transformers

    folder = cache[1][TRANSLATOR]
    tokenizer = transformers.MarianTokenizer.from_pretrained(folder)
    model = transformers.MarianMTModel.from_pretrained(folder)
    written = model.generate(**tokenizer("Good morning!", return_tensors="pt"))[0]
    expected = tokenizer.decode(written, skip_special_tokens=True)
    assert expected
    assert run("03", cache[0], tmp_path) == expected


def test_04_auto_classes(cache, tmp_path):
    import transformers

    printed = run("04", cache[0], tmp_path)
    ids = transformers.BertTokenizer.from_pretrained(cache[1]["bert-base-uncased"])(
        "Transformers are amazing!"
    ).input_ids
    assert str(torch.tensor([ids])) in printed
    first, second = re.findall(r"torch\.Size\(\[.*?\]\)", printed)
    assert tensor_size(first) == (1, len(ids), 32)
    tokenizer = transformers.GPT2Tokenizer.from_pretrained(cache[1]["gpt2"])
    assert tensor_size(second) == (1, len(tokenizer("Hello").input_ids), len(tokenizer))


def test_05_fine_tune(cache, tmp_path):
    """`load_dataset("imdb")` finds a folder of that name; here it holds real judgements of films."""
    pytest.importorskip("datasets", reason="datasets is not installed")
    with gzip.open(real("data/sentiment/movie.tsv.gz"), "rt", encoding="utf-8") as file:
        read = list(csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    rows = [(row[-1], int(float(row[1]) > 0)) for row in read if _number(row[1])]
    (tmp_path / "imdb").mkdir()
    for name, part in (("train", rows[:1100]), ("test", rows[1100:1700])):
        with open(tmp_path / "imdb" / f"{name}.csv", "w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([("text", "label"), *part])
    run("05", cache[0], tmp_path)
    records = [json.loads(line) for line in (tmp_path / "results/log.jsonl").read_text().splitlines()]
    assert records[-1]["step"] == 125  # 1,000 rows in eights
    assert records[-1]["valid"]["loss"] < 0.70  # chance is log 2 = 0.693, less what the bias can tell
    import transformers

    transformers.BertForSequenceClassification.from_pretrained(tmp_path / "results/last")


def _number(text: str) -> bool:
    return re.fullmatch(r"-?[\d.]+", text) is not None


def test_13_from_scratch(tmp_path):
    printed = run("13", tmp_path, tmp_path)
    assert re.sub(r"\s", "", printed) == "tensor([[1,4,3,2]])"  # start, "world", "hello", end
    assert (tmp_path / "attention.png").read_bytes().startswith(b"\x89PNG")


def test_14_attention_by_hand(tmp_path):
    scores = torch.tensor([[1.0, 0, 1], [0, 1, 1], [1, 1, 2]]) / 2**0.5  # q k^T of the snippet's three vectors
    weights = scores.exp() / scores.exp().sum(-1, keepdim=True)
    assert run("14", tmp_path, tmp_path) == str(weights)
