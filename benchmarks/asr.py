"""Speech recognition beside the reference library and faster-whisper, in one run on this machine.

    REGARD_TEST_DATA=... python -m benchmarks.asr [--threads 1] [--rounds 3] [--minutes 25] [--base]

Whisper tiny.en, greedy, on the clips of the test data: one at a time, as batches of eight, and put together to one
recording of so many minutes, eight windows together (ours cut at pauses; faster-whisper's by its batched pipeline,
which cuts where a model of voice activity says), and the same in order, each window from where the last was understood
to. `--base` takes random weights of Whisper base's shape for the clips, writing 24 tokens each. Rounds alternate;
medians are reported, as seconds of sound in a second of work, and the word errors of the texts. With one thread it is
the processor's time that counts, so that other work on the machine does not. faster-whisper lives in .venv-peers
(benchmarks/peers.py), in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import torch
import transformers
from benchmarks import peers, report

import regard
from regard.preprocess.audio_read import read

DATA = Path(os.environ.get("REGARD_TEST_DATA", report.ROOT.parent / "shared"))
FOLDER = DATA / "checkpoints/whisper-tiny.en"
RATE, TOGETHER, NEW = 16000, 8, 24
LONG = ("long", "in order")
Way = Callable[[str], tuple[float, list[str]]]
"""What to hear ("clips", "batches", "long" or "in order") -> seconds, and the texts."""

CONVERTER = """
from ctranslate2.converters import TransformersConverter
files = ["tokenizer.json", "preprocessor_config.json"]
TransformersConverter(sys.argv[1], copy_files=files).convert(sys.argv[2])
"""
WORKER = """
import sys, json, time, numpy as np
from faster_whisper import BatchedInferencePipeline, WhisperModel
folder, kind, threads, clock, sounds, new, together = sys.argv[1:]
clock, sounds, new = getattr(time, clock), np.load(sounds), int(new) or None
clips = [sounds[name] for name in sounds.files if name != "long"]
model = WhisperModel(folder, device="cpu", compute_type=kind, cpu_threads=int(threads))
batched = BatchedInferencePipeline(model)
print("0", flush=True)
for line in sys.stdin:
    what, texts, start = json.loads(line), [], clock()
    options = dict(beam_size=1, without_timestamps=True, temperature=0.0, max_new_tokens=new, language="en")
    if what == "in order":
        options |= dict(without_timestamps=False, condition_on_previous_text=False)
        parts, _ = model.transcribe(sounds["long"], **options)
        texts.append("".join(part.text for part in parts))
    elif what == "long":
        parts, _ = batched.transcribe(sounds["long"], batch_size=int(together), **options)
        texts.append("".join(part.text for part in parts))
    else:
        for clip in clips:
            parts, _ = model.transcribe(clip, **options)
            texts.append("".join(part.text for part in parts))
    print(json.dumps([clock() - start, texts]), flush=True)
"""


def ours(folder: Path, sounds: dict[str, np.ndarray], clock: Callable[[], float], precision: Any, new: int) -> Way:
    model = regard.load(folder, dtype="float32", precision=precision)
    pipe = regard.pipeline("automatic-speech-recognition", model)
    clips = [{"array": clip, "sampling_rate": RATE} for name, clip in sounds.items() if name != "long"]
    limit = {"max_new_tokens": new} if new else {}

    def way(what: str) -> tuple[float, list[str]]:
        start = clock()
        if what in LONG:
            whole = {"array": sounds["long"], "sampling_rate": RATE}
            found = [pipe(whole, batch_size=TOGETHER, chunk_length_s=0 if what == "in order" else None)]
        else:
            found = pipe(clips, batch_size=1 if what == "clips" else TOGETHER, **limit)
        return clock() - start, [entry["text"] for entry in found]

    return way


def theirs(folder: Path, sounds: dict[str, np.ndarray], clock: Callable[[], float], new: int) -> Way:
    pipe = transformers.pipeline("automatic-speech-recognition", str(folder), dtype=torch.float32)
    options = {"num_beams": 1, **({"max_new_tokens": new} if new else {})}

    def way(what: str) -> tuple[float, list[str]]:
        start = clock()
        if what in LONG:
            return 0.0, []
        clips = [clip.copy() for name, clip in sounds.items() if name != "long"]
        found = pipe(clips, batch_size=1 if what == "clips" else TOGETHER, generate_kwargs=options)
        return clock() - start, [entry["text"] for entry in found]

    return way


def faster(folder: Path, work: Path, kind: str, given: argparse.Namespace, clock: str, new: int) -> Way:
    converted = work / "ct2"
    if not converted.exists():
        peers.convert(CONVERTER, str(folder), str(converted))
    arguments = [str(converted), kind, str(given.threads), clock, str(work / "sounds.npz"), str(new), str(TOGETHER)]
    engine = peers.Peer(WORKER, *arguments, threads=given.threads)
    return lambda what: tuple(engine(what))  # type: ignore[return-value]


def random_base(work: Path) -> Path:
    """A checkpoint of Whisper base's shape, with the words of tiny.en."""
    raw = json.loads((FOLDER / "config.json").read_text(encoding="utf-8"))
    raw |= {"d_model": 512, "encoder_ffn_dim": 2048, "decoder_ffn_dim": 2048}
    raw |= {
        f"{side}_{name}": n for side in ("encoder", "decoder") for name, n in (("layers", 6), ("attention_heads", 8))
    }
    torch.manual_seed(0)
    model = transformers.WhisperForConditionalGeneration(transformers.WhisperConfig(**raw))
    model.save_pretrained(work / "base")
    for file in FOLDER.iterdir():
        if file.suffix == ".json" and not (work / "base" / file.name).exists() and file.name != "expected.json":
            shutil.copy(file, work / "base" / file.name)
    return work / "base"


def plain(text: str) -> list[str]:
    return re.sub("[^a-z0-9' ]", "", text.lower().replace("-", " ")).split()


def errors(found: Sequence[str], meant: Sequence[str]) -> int:
    """Words to insert, leave out or exchange."""
    row = list(range(len(meant) + 1))
    for i, word in enumerate(found, 1):
        before, row = row, [i]
        for j, other in enumerate(meant, 1):
            row.append(min(before[j] + 1, row[-1] + 1, before[j - 1] + (word != other)))
    return row[-1]


def sounds_of(given: argparse.Namespace) -> tuple[dict[str, np.ndarray], list[str]]:
    """The clips by number and, as "long", the recording; and what is said in each clip."""
    known = json.loads((FOLDER / "expected.json").read_text(encoding="utf-8"))["clips"][: given.clips]
    clips = [read(DATA / clip["file"], sampling_rate=RATE)[0] for clip in known]
    once = np.concatenate([np.pad(clip, (0, RATE // 2)) for clip in clips])
    times = round(given.minutes * 60 * RATE / len(once))
    sounds = {str(i): clip for i, clip in enumerate(clips)}
    return sounds | ({"long": np.tile(once, times)} if times else {}), [clip["reference"] for clip in known]


def table(ways: dict[str, Way], what: str, sounds: dict[str, np.ndarray], meant: list[str], rounds: int) -> str:
    """Medians of alternating rounds, and their ratios to faster-whisper's int8."""
    long = what in LONG
    parts = [len(clip) for name, clip in sounds.items() if (name == "long") == long]  # samples
    repeats = (
        round(len(sounds["long"]) / sum(len(c) + RATE // 2 for n, c in sounds.items() if n != "long")) if long else 1
    )
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    texts: dict[str, list[str]] = {}
    for turn in range(rounds + (not long)):  # a short first round warms up
        for name, way in ways.items():
            spent, texts[name] = way(what)
            if turn or long:
                seconds[name].append(spent)
    last = list(ways)[-1]
    lines = [f"| {what} | seconds of sound a second | / {last} | word errors |", "|---" * 4 + "|"]
    truth = [word for text in meant for word in plain(text)] * repeats
    for name, spent in seconds.items():
        if not texts[name]:
            continue
        speed = sum(parts) / RATE / statistics.median(spent)
        ratio = statistics.median(a / b for a, b in zip(seconds[last], spent, strict=True))
        said = [plain(text) for text in texts[name]]
        wrong = errors(said[0], truth) if long else sum(errors(s, plain(m)) for s, m in zip(said, meant, strict=True))
        lines.append(f"| {name} | {speed:.1f} | {ratio:.2f} | {wrong} of {len(truth)} |")
    goal = []
    if "regard int8" in seconds and last == "faster-whisper int8" and what != "in order":
        found = statistics.median(a / b for a, b in zip(seconds[last], seconds["regard int8"], strict=True))
        goal = ["", report.goals([report.Goal(f"{what}, int8 / {last}", 1.3, found)])]
    return "\n".join([*lines, *goal])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--clips", type=int, default=25)
    parser.add_argument("--minutes", type=float, default=25)
    parser.add_argument("--only", default="transformers,regard,faster")
    parser.add_argument("--what", default="clips,batches,long,in order")
    parser.add_argument("--base", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    clock, new = "process_time" if given.threads == 1 else "perf_counter", NEW if given.base else 0
    counter = getattr(time, clock)
    sounds, meant = sounds_of(given)
    print(
        f"{len(meant)} clips, {given.threads} threads ({clock}), {given.rounds} rounds; torch {torch.__version__}, "
        f"transformers {transformers.__version__}, {', '.join(peers.PACKAGES[:2])}",
        flush=True,
    )
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        np.savez(work / "sounds.npz", **sounds)
        model = random_base(work) if given.base else FOLDER
        makers: dict[str, Callable[[], Way]] = {
            "transformers float32": lambda: theirs(model, sounds, counter, new),
            "regard float32": lambda: ours(model, sounds, counter, "fp32", new),
            "regard int8": lambda: ours(model, sounds, counter, "int8", new),
            "regard int4": lambda: ours(model, sounds, counter, "int4", new),
            "faster-whisper float32": lambda: faster(model, work, "float32", given, clock, new),
            "faster-whisper int8": lambda: faster(model, work, "int8", given, clock, new),
        }
        ways: dict[str, Way] = {}
        for name, make in makers.items():
            if any(word in name for word in given.only.split(",")):
                try:
                    ways[name] = make()
                except peers.Missing as error:
                    print(f"{name} is left out: {error}", flush=True)
        for what in given.what.split(","):
            if what in LONG and ("long" not in sounds or given.base):
                continue
            print(f"\n{table(ways, what, sounds, meant, 1 if what in LONG else given.rounds)}", flush=True)


if __name__ == "__main__":
    main()
