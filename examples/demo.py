"""The tour: what the models that come with this package do, offline. `make demo`, or `make demo ARGS=translation`.

Every line after a $ is a command to type yourself; the tour runs these very commands.
"""

from __future__ import annotations

import os
import shlex
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TASKS = (
    *("text-generation", "translation", "translation_en_to_fr", "summarization", "text-classification", "fill-mask"),
    *("image-classification", "automatic-speech-recognition", "audio-classification"),
)
READERS = ("fill-mask", "text-classification")
"""Tasks whose models read a sentence to and fro: the first that is there has its attention drawn."""
SENTENCE = "The actors are good but the story is far too long."
PICTURE = "runs/attention.png"


def main(wanted: list[str]) -> int:
    """Run each part in turn; the number of those that failed."""
    from regard.zoo.card import cards, default_model

    start, failed = time.perf_counter(), 0
    known = {card.name: card for card in cards()}
    unknown = sorted(set(wanted) - {*TASKS, "attention"})
    if unknown:
        print(f"demo: there is no part {unknown[0]!r}; allowed: {', '.join([*TASKS, 'attention'])}", file=sys.stderr)
        return 2
    for task in wanted or TASKS:
        name = default_model(task)
        if name is not None:
            failed += show(known[name].title, ["run", task, *shlex.split(known[name].example)])
        elif wanted and task != "attention":
            print(f"\n{task}: no model for it comes with this package")
    reader = next(filter(None, map(default_model, READERS)), None)
    if reader is not None and (not wanted or "attention" in wanted):
        (ROOT / PICTURE).parent.mkdir(exist_ok=True)
        failed += show(f"What {reader} looks at", ["attention", reader, SENTENCE, "-o", PICTURE])
    print(f"\n{time.perf_counter() - start:.0f} s. All models: regard models. How good one is: regard evaluate NAME")
    return failed


def show(title: str, words: list[str]) -> int:
    """Say a command and run it; 1 if it fails, which ends nothing else."""
    from regard.cli import app

    print(f"\n{title}\n  $ {shlex.join(['regard', *words])}", flush=True)
    try:
        app(words, standalone_mode=False)
    except (ValueError, ImportError, OSError) as error:
        print(f"demo: {error}", file=sys.stderr, flush=True)
        return 1
    return 0


if __name__ == "__main__":
    os.chdir(ROOT)
    os.environ["HF_HUB_OFFLINE"] = "1"
    sys.exit(main(sys.argv[1:]))
