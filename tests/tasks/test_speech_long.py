"""Long recordings: memory does not grow with them, and words are neither lost nor said twice where windows meet."""

from __future__ import annotations

import itertools
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

import regard
from regard.preprocess.audio_read import duration, read
from regard.preprocess.audio_stream import BLOCK_SECONDS, Recording, last_pause
from regard.tasks import windows
from regard.tasks.marks import Marks
from regard.tasks.transcribe import Manner, Written

soundfile = pytest.importorskip("soundfile")
pytest.importorskip("soxr")


Data = Callable[[str], Path]

CHILD = """
import json, resource, sys, torch, regard
torch.set_num_threads(1)
pipe = regard.pipeline("automatic-speech-recognition", sys.argv[1], dtype="float32")
text = pipe(sys.argv[2], **json.loads(sys.argv[3]))["text"]
print(json.dumps({"peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, "text": text}))
"""


def heard(folder: Path, sound: Path, options: dict[str, Any]) -> dict[str, Any]:
    """Text and peak of memory (MiB) of a process that hears one file."""
    command = [sys.executable, "-c", CHILD, str(folder), str(sound), json.dumps(options)]
    path = os.pathsep.join([str(Path(__file__).resolve().parents[2] / "src"), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path}, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def plain(text: str) -> str:
    return " ".join(re.sub("[^a-z0-9' ]", "", text.lower().replace("-", " ")).split())


@pytest.mark.slow
@pytest.mark.parametrize("options", [{"chunk_length_s": 0}, {}], ids=["seeking", "windows"])
def test_memory_is_flat_and_words_stay(data: Data, tmp_path: Path, options: dict[str, Any]) -> None:
    jiwer = pytest.importorskip("jiwer")
    folder = data("checkpoints/whisper-tiny.en")
    clips = json.loads((folder / "expected.json").read_text(encoding="utf-8"))["clips"]
    once = np.concatenate([np.pad(read(data(c["file"]), sampling_rate=16000)[0], (0, 8000)) for c in clips])
    meant, found = plain(" ".join(clip["reference"] for clip in clips)), []
    for minutes in (5, 25):
        times = round(minutes * 60 * 16000 / len(once))
        sound = tmp_path / f"{minutes}.wav"
        with soundfile.SoundFile(sound, "w", 16000, 1, subtype="PCM_16") as file:
            for _ in range(times):
                file.write(once)
        found.append(heard(folder, sound, options))
        wrong = jiwer.wer(" ".join([meant] * times), plain(found[-1]["text"]))
        print(f"{minutes} minutes: {found[-1]['peak']:.0f} MiB, word errors {wrong:.2%}")
        assert wrong < 0.10  # alone, the clips have 7.27 %
    assert found[1]["peak"] - found[0]["peak"] < 60


RATE = 16000


def speech(pattern: str, noise: float = 0.0, seed: int = 0) -> np.ndarray:
    """A quarter of a second for each letter: loud ("x") or silent (" "), over noise."""
    rng = np.random.default_rng(seed)
    loud = np.repeat([letter == "x" for letter in pattern], RATE // 4)
    return (0.3 * loud * rng.standard_normal(len(loud)) + noise * rng.standard_normal(len(loud))).astype(np.float32)


@pytest.mark.parametrize("noise", [0.0, 0.003, 0.03])
@pytest.mark.parametrize(
    ("pattern", "where"),
    [
        ("x" * 32 + "  xx  xx", (8.0, 9.5, 0.25)),  # of two pauses the last, in its middle
        ("xx  " * 5 + "x" * 16 + "  " + "xx", (9.0, 9.5, 0.25)),  # earlier ones do not count
        ("x" * 38 + "  ", (9.5, 10.0, 0.25)),  # it goes on to the end
    ],
)
def test_the_last_pause_is_found(pattern: str, where: tuple[float, float, float], noise: float) -> None:
    sound = speech(pattern, noise)
    last = pattern.rstrip("x").rstrip(" ")
    start, end = len(last) / 4, len(pattern.rstrip("x")) / 4
    assert start <= last_pause(sound, RATE) / RATE <= end
    assert start >= where[0]
    assert last_pause(sound + np.float32(0.4), RATE) == last_pause(sound, RATE)  # a recorder's offset is no sound


def test_without_a_pause_the_cut_is_where_it_is_quietest() -> None:
    sound = speech("x" * 40)
    sound[9 * RATE : 9 * RATE + RATE // 4] *= 0.7
    assert abs(last_pause(sound, RATE) / RATE - 9.125) < 0.06
    assert last_pause(np.zeros(10 * RATE, np.float32), RATE) > 7.5 * RATE
    assert last_pause(np.zeros(100, np.float32), RATE) == 100


@pytest.mark.parametrize("seconds", [2.2 * BLOCK_SECONDS, 29.0, 1.0])
def test_windows_are_the_whole_recording_and_none_is_too_long(tmp_path: Path, seconds: float) -> None:
    sound = speech("xxxxx x  xxx" * 100, 0.01)[: round(seconds * RATE)]
    soundfile.write(tmp_path / "a.wav", sound, RATE, subtype="FLOAT")
    for item in (sound, tmp_path / "a.wav"):
        windows = list(Recording.of(item, RATE).cut(29 * RATE))
        np.testing.assert_array_equal(np.concatenate(windows), sound)
        assert all(0 < len(window) <= 29 * RATE for window in windows)
        assert all(not window[-800:].std() > 0.02 for window in windows[:-1])  # no word is cut


class HalfDeaf:
    """Understands the first ten seconds of any window, and of shorter ones everything."""

    marks = Marks(start=11, end=10, plain=14, precision=0.5)

    def __init__(self) -> None:
        self.heard: list[float] = []

    def listen(self, rows: Any, windows: Any, frames: list[int], manner: Manner, *, timed: bool) -> list[Written]:
        self.heard += [count / 100 for count in frames]
        return [Written([15, 1, 15 + min(20, count // 50)]) for count in frames]


class Ears:
    settings: ClassVar[dict[str, Any]] = {"chunk_length": 30, "hop_length": 160}

    def __call__(self, sounds: list[np.ndarray], **options: Any) -> dict[str, torch.Tensor]:
        return {"input_features": torch.zeros(len(sounds), 1)}


@pytest.mark.parametrize("rows", [1, 2, 8])
def test_what_was_not_understood_is_heard_again_where_it_is_loud(rows: int) -> None:
    sound = speech("x" * 400)
    sound[80 * RATE :] *= 0.1
    model, done = HalfDeaf(), []
    found = windows.transcribe(  # type: ignore[arg-type]
        model, [Recording.of(sound, RATE)], Ears(), Manner(timed=True), seconds=29, rows=rows, progress=done.append
    )
    assert sum(done) == pytest.approx(100)
    said = [(part.start, part.end) for part in found[0]]
    assert said == sorted(said) and max(b - a for a, b in said) <= 10
    assert all(abs(b - c) < 0.51 for (_, b), (c, _) in itertools.pairwise(said) if c < 75)  # nothing is left out
    assert sum(model.heard) > 100


def test_times_of_a_long_recording_are_those_of_its_clips(data: Data) -> None:
    folder = data("checkpoints/whisper-tiny.en")
    clips = json.loads((folder / "expected.json").read_text(encoding="utf-8"))["clips"][:12]
    parts = [np.pad(read(data(c["file"]), sampling_rate=RATE)[0], (0, RATE)) for c in clips]
    starts = np.cumsum([0, *map(len, parts[:-1])]) / RATE
    pipe, sound = regard.pipeline("automatic-speech-recognition", folder, dtype="float32"), np.concatenate(parts)
    assert len(sound) > 45 * RATE
    found = pipe(sound, return_timestamps=True)
    assert found["text"] == "".join(chunk["text"] for chunk in found["chunks"]) == pipe(sound)["text"]
    said = [chunk["timestamp"][0] for chunk in found["chunks"]]
    assert said == sorted(said)
    later = [at for at in said if at > 28]  # in the second window, whose offset is added
    assert later and all(np.abs(starts - at).min() < 1.0 for at in later)
    words = pipe(sound, return_timestamps="word")["chunks"]
    assert "".join(word["text"] for word in words) == found["text"]
    first = [next(w["timestamp"][0] for w in words if w["timestamp"][1] > start + 0.3) for start in starts]
    assert np.median(np.abs(np.array(first) - starts)) < 0.5


def test_a_file_says_how_long_it_is(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.zeros(24000, np.float32), 16000)
    assert duration(tmp_path / "a.wav") == 1.5
    (tmp_path / "b.wav").write_bytes(b"no sound")
    with pytest.raises(ValueError, match=r"b\.wav"):
        duration(tmp_path / "b.wav")
