"""Speech recognition beside the reference library and faster-whisper, in one run on this machine.

    REGARD_TEST_DATA=... python -m benchmarks.asr

Whisper tiny.en, float32, greedy, on the clips of the test data, one at a time and as batches of eight. Rounds
alternate; medians are reported, as seconds of sound in a second of work, and the median of each round's ratios. Only
ratios are worth quoting. faster-whisper lives in .venv-peers (made at the first run, where a package index is in
reach) and runs in a process of its own, on weights converted by CTranslate2; it writes one clip at a time.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import torch
import transformers

import regard
from regard.preprocess.audio_read import read

ROOT = Path(__file__).resolve().parents[1]
DATA = Path(os.environ.get("REGARD_TEST_DATA", ROOT.parent / "shared"))
FOLDER = DATA / "checkpoints/whisper-tiny.en"
PEERS = ROOT / ".venv-peers"
ROUNDS = int(os.environ.get("ROUNDS", "5"))
CLIPS = int(os.environ.get("CLIPS", "25"))
Transcribe = Callable[[list[np.ndarray], int], list[str]]

WORKER = """
import sys, json, time, numpy as np
from faster_whisper import WhisperModel
model = WhisperModel(sys.argv[1], device="cpu", compute_type="float32", cpu_threads=int(sys.argv[2]))
clips = [np.load(path) for path in sys.argv[3:]]
print("ready", flush=True)
for line in sys.stdin:
    start, texts = time.perf_counter(), []
    for clip in clips[: int(line)]:
        parts, _ = model.transcribe(clip, beam_size=1, without_timestamps=True, temperature=0.0)
        texts.append("".join(part.text for part in parts))
    print(json.dumps([time.perf_counter() - start, texts]), flush=True)
"""


def ours() -> Transcribe:
    pipe = regard.pipeline("automatic-speech-recognition", FOLDER, dtype="float32")

    def run(clips: list[np.ndarray], rows: int) -> list[str]:
        found = pipe([{"array": clip, "sampling_rate": 16000} for clip in clips], batch_size=rows)
        return [entry["text"] for entry in found]

    return run


def theirs() -> Transcribe:
    pipe = transformers.pipeline("automatic-speech-recognition", str(FOLDER), dtype=torch.float32)

    def run(clips: list[np.ndarray], rows: int) -> list[str]:
        found = pipe([clip.copy() for clip in clips], batch_size=rows, generate_kwargs={"num_beams": 1})
        return [entry["text"] for entry in found]

    return run


class Faster:
    """faster-whisper in its own process; `why` says what is missing where it does not run."""

    def __init__(self, clips: list[np.ndarray], work: Path):
        self.why = ""
        python = PEERS / "bin/python"
        try:
            if not python.exists():
                venv.create(PEERS, with_pip=True)
                subprocess.run([python, "-m", "pip", "install", "-q", "faster-whisper"], check=True)
            packages = next((PEERS / "lib").glob("python3*")) / "site-packages"
            convert = [sys.executable, "-m", "ctranslate2.converters.transformers", "--model", FOLDER]
            convert += ["--output_dir", work / "ct2", "--copy_files", "tokenizer.json", "preprocessor_config.json"]
            found = subprocess.run(
                convert, env={**os.environ, "PYTHONPATH": str(packages)}, capture_output=True, text=True, check=False
            )
            if found.returncode:
                self.why = f"conversion failed: {found.stderr.strip().splitlines()[-1]}"
                return
        except (OSError, subprocess.CalledProcessError) as error:
            self.why = f"not installed: {error}"
            return
        for i, clip in enumerate(clips):
            np.save(work / f"{i}.npy", clip)
        files = [str(work / f"{i}.npy") for i in range(len(clips))]
        command = [str(python), "-c", WORKER, str(work / "ct2"), str(torch.get_num_threads()), *files]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._line()

    def _line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline()

    def __call__(self, count: int) -> tuple[float, list[str]]:
        """Seconds and texts for the first clips."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{count}\n")
        self.process.stdin.flush()
        seconds, texts = json.loads(self._line())
        return seconds, texts


def bandwidth() -> float:
    """GB/s at which memory is read now: what a machine shared with others has to give."""
    x, best = torch.zeros(2**26), 1e9
    for _ in range(3):
        start = time.perf_counter()
        x.sum()
        best = min(best, time.perf_counter() - start)
    return x.nbytes / best / 1e9


def timed(way: Transcribe, clips: list[np.ndarray], rows: int) -> float:
    start = time.perf_counter()
    way(clips, rows)
    return time.perf_counter() - start


def main() -> None:
    clips = [read(file, sampling_rate=16000)[0] for file in sorted((DATA / "data/speech").glob("*.wav"))[:CLIPS]]
    sound = sum(map(len, clips)) / 16000
    ways = {"regard": ours(), "transformers": theirs()}
    with tempfile.TemporaryDirectory() as work:
        faster = Faster(clips, Path(work))
        print(f"{len(clips)} clips, {sound:.0f} s, {torch.get_num_threads()} threads; seconds of sound a second")
        print(f"faster-whisper: {faster.why or 'one clip at a time'}\n")
        texts = [way(clips, 8) for way in ways.values()]
        print(f"texts equal to transformers': {sum(a == b for a, b in zip(*texts, strict=True))} of {len(clips)}\n")
        print(
            "| rows | regard | transformers | faster-whisper | regard / transformers | read GB/s |\n" + "|---" * 6 + "|"
        )
        for rows in (1, 8):
            found: dict[str, list[float]] = {name: [] for name in (*ways, "faster-whisper")}
            speeds = []
            for way in ways.values():
                way(clips[:rows], rows)
            if not faster.why:
                faster(1)
            for _ in range(ROUNDS):
                speeds.append(bandwidth())
                for name, way in ways.items():
                    found[name].append(timed(way, clips, rows))
                if not faster.why:
                    found["faster-whisper"].append(faster(len(clips))[0])
            shown = [f"{sound / statistics.median(s):.1f}" if s else "" for s in found.values()]
            pairs = zip(found["transformers"], found["regard"], strict=True)
            ratio = statistics.median(a / b for a, b in pairs)
            print(f"| {rows} | {' | '.join(shown)} | {ratio:.2f} | {statistics.median(speeds):.0f} |", flush=True)


if __name__ == "__main__":
    main()
