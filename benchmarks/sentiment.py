"""Film reviews: VADER's rules beside MiniLM, tuned whole and with LoRA, on sentences that none has learnt from.

    regard train recipes/movie-sentiment.toml data.train=movie.tsv
    regard train recipes/movie-sentiment-lora.toml data.train=movie.tsv
    python -m benchmarks.sentiment runs/movie-sentiment runs/movie-sentiment-lora

Needs vaderSentiment (pip install vaderSentiment==3.3.2).
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch

from regard.training.judge import judge
from regard.training.kinds import KINDS
from regard.training.metrics import accuracy, f1
from regard.training.parts import parts_of
from regard.training.recipe import read_recipe


def held_out(recipe: Path) -> tuple[list[str], list[str]]:
    """Texts and classes of the rows that a run's recipe keeps for testing."""
    rows = parts_of(read_recipe(recipe), KINDS["classification"]).rows["test"]
    return list(rows.column("text")), list(rows.column("label"))


def vader(texts: list[str]) -> list[str]:
    """Positive where the compound score is above 0; 0 as negative is right more often here (0.67) than as positive."""
    from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

    rules = SentimentIntensityAnalyzer()
    return ["positive" if rules.polarity_scores(text)["compound"] > 0 else "negative" for text in texts]


def size(folder: Path) -> float:
    """Megabytes of weights."""
    return sum(file.stat().st_size for file in folder.glob("*.safetensors")) / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, help="folders of runs")
    runs = parser.parse_args().runs
    torch.set_num_threads(1)
    texts, labels = held_out(runs[0] / "recipe.toml")
    said = vader(texts)
    print(f"{len(texts)} sentences held out")
    print(f"{'':32} accuracy  macro F1   MB of weights")
    print(f"{'VADER 3.3.2':32} {accuracy(said, labels):8.4f}  {f1(said, labels):8.4f}")
    for run in runs:
        if held_out(run / "recipe.toml") != (texts, labels):
            raise SystemExit(f"{run} holds out other sentences than {runs[0]}")
        scores = judge(str(run / "best"), run / "recipe.toml")
        kind = "LoRA" if (run / "best" / "adapter_config.json").is_file() else "all weights"
        steps = json.loads((run / "run.json").read_text("utf-8"))["training"]["steps"]
        name = f"MiniLM, {kind}, {steps} steps"
        print(f"{name:32} {scores['accuracy']:8.4f}  {scores['f1']:8.4f}  {size(run / 'best'):8.2f}")


if __name__ == "__main__":
    main()
