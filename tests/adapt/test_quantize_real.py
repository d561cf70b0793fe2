"""What int8 costs trained checkpoints: sentence vectors, guesses at masked tokens, words that are heard."""

from __future__ import annotations

import copy
import gzip
import json
import math
import os
from pathlib import Path

import pytest
import torch

import regard
from regard.adapt import quantize

pytestmark = pytest.mark.slow


def lines_of(path: Path) -> list[str]:
    """The lines of a compressed text."""
    return gzip.decompress(path.read_bytes()).decode("utf-8").splitlines()


@torch.no_grad()
def test_sentence_vectors_keep_their_direction(data):
    folder = Path(os.environ.get("REGARD_TEST_MINILM", ""))
    if not (folder / "config.json").exists():
        pytest.skip("REGARD_TEST_MINILM names no folder of all-MiniLM-L6-v2")
    lines = lines_of(data("data/sentiment/movie.tsv.gz"))
    texts = [" ".join(max(line.split("\t"), key=len).split()[:60]) for line in lines[1:4000:40]][:96]
    pipe = regard.pipeline("sentence-similarity", model=folder)
    before = pipe.embed(texts)
    quantize(pipe.model, "int8", force=True)
    cosine = torch.cosine_similarity(before, pipe.embed(texts))
    assert float(cosine.min()) >= 0.995  # seen: 0.9978, mean 0.9987
    assert float(cosine.mean()) >= 0.998


@torch.no_grad()
def test_masked_tokens_are_guessed_as_well(data):
    folder = data("checkpoints/rxnfp-bert-mlm")
    model = regard.load(folder)
    expected = json.loads((folder / "expected.json").read_text(encoding="utf-8"))
    molecules = lines_of(data("data/molecules/test.smi.gz"))[:4000:100]
    texts = [expected["batch"]["texts"][0], *(line.split()[0] for line in molecules)]
    rows = [torch.tensor(list(model.processor([text])["input_ids"][0])) for text in texts]
    small = quantize(copy.deepcopy(model), "int8", force=True)
    before, after = (perplexity(one, rows, model.processor.mask_token_id) for one in (model, small))
    assert after / before <= 1.005  # seen: 1.0003


def perplexity(model: regard.Model, rows: list[torch.Tensor], mask: int) -> float:
    """Every token guessed once, a third of them hidden at a time."""
    loss, count = 0.0, 0
    for row in rows:
        for places in (torch.arange(1 + start, len(row) - 1, 3) for start in range(3)):
            given = row.clone()
            given[places] = mask
            scores = model(given[None]).logits[0].log_softmax(-1)
            loss -= float(scores[places, row[places]].sum())
            count += len(places)
    return math.exp(loss / count)


def test_words_are_heard_as_well(data):
    pytest.importorskip("soundfile")
    pytest.importorskip("soxr")
    from tests.tasks.test_speech_real import errors, plain

    folder = data("checkpoints/whisper-tiny.en")
    clips = json.loads((folder / "expected.json").read_text(encoding="utf-8"))["clips"]
    pipe = regard.pipeline("automatic-speech-recognition", quantize(regard.load(folder), "int8", force=True))
    found = [pipe(data(clip["file"]))["text"] for clip in clips]
    wrong = sum(errors(plain(f), plain(c["reference"])) for f, c in zip(found, clips, strict=True))
    assert wrong <= 16  # of 220 words, as in float32; seen: 14, with other texts for 3 of 25 clips
