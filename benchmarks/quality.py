"""What small weights cost trained checkpoints: directions of sentence vectors, guesses at hidden tokens, heard words,
and the letters that follow.

    REGARD_TEST_DATA=... python -m benchmarks.quality [--only cosine,perplexity,words,letters,steps]

`REGARD_TEST_MINILM` names a folder of all-MiniLM-L6-v2 (examples/search.py fetches one). A measure whose data is absent
is left out, and said to be. "oneDNN" is what a machine without a compiler does.
"""

from __future__ import annotations

import argparse
import gzip
import json
import math
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from benchmarks import report

import regard
from regard import native
from regard.checkpoint.find import find
from regard.nn import KVCache
from regard.training.judge import judge
from regard.training.metrics import wer

DATA = Path(os.environ.get("REGARD_TEST_DATA", Path(__file__).resolve().parents[2] / "shared"))
MINILM = Path(os.environ.get("REGARD_TEST_MINILM", "/nowhere"))
WAYS = {  # name: precision, and whether the kernels read it
    "float32": ("fp32", False),
    "bf16": ("bf16", True),
    "int8": ("int8", True),
    "int8, oneDNN": ("int8", False),
    "int4": ("int4", True),
}


def opened(folder: Path, way: str) -> regard.Model:
    """A checkpoint as that way computes it."""
    precision, kernels = WAYS[way]
    model = regard.load(folder, precision=precision)  # type: ignore[arg-type]
    return model if kernels else native.remove(model)


def lines_of(path: Path) -> list[str]:
    """The lines of a compressed text."""
    return gzip.decompress(path.read_bytes()).decode("utf-8").splitlines()


@torch.no_grad()
def cosine(way: str) -> dict[str, float]:
    """MiniLM's vectors of 96 reviews beside those of float32."""
    lines = lines_of(DATA / "data/sentiment/movie.tsv.gz")
    texts = [" ".join(max(line.split("\t"), key=len).split()[:60]) for line in lines[1:4000:40]][:96]
    pipes: list[Any] = [regard.pipeline("sentence-similarity", opened(MINILM, one)) for one in ("float32", way)]
    exact, small = (pipe.embed(texts) for pipe in pipes)
    found = torch.cosine_similarity(exact, small)
    return {"mean": float(found.mean()), "least": float(found.min())}


@torch.no_grad()
def perplexity(way: str) -> dict[str, float]:
    """rxnfp's guesses at every token of 41 texts, a third of them hidden at a time."""
    folder = DATA / "checkpoints/rxnfp-bert-mlm"
    model = opened(folder, way)
    first = json.loads((folder / "expected.json").read_text(encoding="utf-8"))["batch"]["texts"][0]
    molecules = lines_of(DATA / "data/molecules/test.smi.gz")[:4000:100]
    loss, count = 0.0, 0
    for text in [first, *(line.split()[0] for line in molecules)]:
        row = torch.tensor(list(model.processor([text])["input_ids"][0]))
        for places in (torch.arange(1 + start, len(row) - 1, 3) for start in range(3)):
            given = row.clone()
            given[places] = model.processor.mask_token_id
            scores = model(given[None]).logits[0].log_softmax(-1)
            loss -= float(scores[places, row[places]].sum())
            count += len(places)
    return {"perplexity": math.exp(loss / count)}


def words(way: str) -> dict[str, float]:
    """Word errors of Whisper tiny.en in 25 clips of 220 words."""
    folder = DATA / "checkpoints/whisper-tiny.en"
    clips = json.loads((folder / "expected.json").read_text(encoding="utf-8"))["clips"]
    pipe = regard.pipeline("automatic-speech-recognition", opened(folder, way))
    found = [pipe(DATA / clip["file"])["text"] for clip in clips]
    return {"word errors": wer(found, [clip["reference"] for clip in clips])}


def letters(way: str) -> dict[str, float]:
    """Perplexity of regard/shakespeare on the last tenth of its text."""
    folder = find("regard/shakespeare").path
    os.environ["REGARD_DATA"] = str(DATA / "data")
    return {"perplexity": judge(opened(folder, way), folder / "recipe.toml")["perplexity"]}


@torch.no_grad()
def steps(way: str) -> dict[str, float]:
    """Perplexity of regard/shakespeare where letters are read one after another, as it does when it writes: the last
    192 of 256, of 64 places in the same text. What is kept of those before is smaller too, beside small weights."""
    model = opened(find("regard/shakespeare").path, way)
    text = (DATA / "data/shakespeare/input.txt").read_text("utf-8")
    text = text[-(len(text) // 10) :]
    rows = torch.tensor([model.processor([text[i * 1700 :][:256]])["input_ids"][0] for i in range(64)])
    cache, loss = KVCache(256), 0.0
    scores = model(rows[:, :64], cache=cache).logits[:, -1]
    for column in range(64, 256):
        loss -= float(scores.log_softmax(-1).gather(1, rows[:, column : column + 1]).mean()) / 192
        scores = model(rows[:, column : column + 1], cache=cache).logits[:, -1]
    return {"perplexity": math.exp(loss)}


MEASURES: dict[str, tuple[str, Path, Callable[[str], dict[str, float]]]] = {
    "cosine": ("all-MiniLM-L6-v2, 96 reviews: cosine to float32", MINILM, cosine),
    "perplexity": ("rxnfp, hidden tokens", DATA / "checkpoints/rxnfp-bert-mlm", perplexity),
    "words": ("whisper-tiny.en, 25 clips", DATA / "checkpoints/whisper-tiny.en", words),
    "letters": ("regard/shakespeare, 111,540 letters", find("regard/shakespeare").path, letters),
    "steps": ("regard/shakespeare, letters read one by one", find("regard/shakespeare").path, steps),
}
GOALS = {"perplexity": 0.995, "word errors": 1.0}
"""How much of what float32 has int8 is to have at least, by measure."""


def main() -> None:
    """Read the command line and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(MEASURES))
    given = parser.parse_args()
    goals: list[report.Goal] = []
    print(f"kernels: {native.level()}\n\n| measure | {' | '.join(WAYS)} |\n{'|---' * (len(WAYS) + 1)}|")
    for name in given.only.split(","):
        title, folder, measure = MEASURES[name]
        if not (folder / "config.json").exists():
            print(f"{name} is left out: there is no checkpoint at {folder}", file=sys.stderr)
            continue
        found: list[dict[str, Any]] = [measure(way) for way in WAYS]
        for key in found[0]:
            print(f"| {title}: {key} | {' | '.join(f'{one[key]:.5f}' for one in found)} |", flush=True)
        exact, small = found[0], found[list(WAYS).index("int8")]
        if name == "cosine":
            goals.append(report.Goal("MiniLM: least cosine of int8 to float32", 0.995, small["least"]))
        else:
            ((key, least),) = exact.items()
            goals.append(report.Goal(f"{title}: {key} of float32 / int8", GOALS[key], least / small[key]))
    print("\n" + report.goals(goals))


if __name__ == "__main__":
    main()
