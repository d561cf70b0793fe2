"""Speech recognition beside the reference library and faster-whisper (where it is there), in one run on this machine.

    REGARD_TEST_DATA=... python -m benchmarks.asr

Whisper tiny.en, float32, greedy, on the clips of the test data, one at a time and as a batch. Rounds alternate; medians
are reported, as seconds of sound in a second of work. Only ratios are worth quoting.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import torch
import transformers

import regard
from regard.preprocess.audio_read import read

DATA = Path(os.environ.get("REGARD_TEST_DATA", Path(__file__).resolve().parents[2] / "shared"))
FOLDER = DATA / "checkpoints/whisper-tiny.en"
ROUNDS = int(os.environ.get("ROUNDS", "5"))
Transcribe = Callable[[list[np.ndarray], int], object]


def ours() -> Transcribe:
    pipe = regard.pipeline("automatic-speech-recognition", FOLDER, dtype="float32")
    return lambda clips, rows: pipe([{"array": c, "sampling_rate": 16000} for c in clips], batch_size=rows)


def theirs() -> Transcribe:
    pipe = transformers.pipeline("automatic-speech-recognition", str(FOLDER), dtype=torch.float32)
    how = {"num_beams": 1}
    return lambda clips, rows: pipe([c.copy() for c in clips], batch_size=rows, generate_kwargs=how)


def faster() -> Transcribe | None:
    """faster-whisper reads its own format: a folder named by FASTER_WHISPER."""
    try:
        from faster_whisper import WhisperModel
    except ModuleNotFoundError:
        return None
    if "FASTER_WHISPER" not in os.environ:
        return None
    model = WhisperModel(
        os.environ["FASTER_WHISPER"], device="cpu", compute_type="float32", cpu_threads=torch.get_num_threads()
    )
    how = {"beam_size": 1, "without_timestamps": True, "temperature": 0.0}
    return lambda clips, rows: [[part.text for part in model.transcribe(clip, **how)[0]] for clip in clips]


def main() -> None:
    clips = [read(file, sampling_rate=16000)[0] for file in sorted((DATA / "data/speech").glob("*.wav"))]
    sound = sum(map(len, clips)) / 16000
    ways = {"regard": ours(), "transformers": theirs(), "faster-whisper": faster()}
    there = {name: way for name, way in ways.items() if way is not None}
    print(f"{len(clips)} clips, {sound:.0f} s, {torch.get_num_threads()} threads; seconds of sound a second\n")
    print("| rows | " + " | ".join(there) + " | ratio to transformers |\n|---" * 1 + "|---" * (len(there) + 1) + "|")
    for rows in (1, 8):
        found: dict[str, list[float]] = {name: [] for name in there}
        for way in there.values():
            way(clips[:rows], rows)
        for _ in range(ROUNDS):
            for name, way in there.items():
                start = time.perf_counter()
                way(clips, rows)
                found[name].append(time.perf_counter() - start)
        speed = {name: sound / statistics.median(seconds) for name, seconds in found.items()}
        shown = " | ".join(f"{value:.1f}" for value in speed.values())
        print(f"| {rows} | {shown} | {speed['regard'] / speed['transformers']:.2f} |", flush=True)


if __name__ == "__main__":
    main()
