"""Long recordings: memory does not grow with them, and words are neither lost nor said twice where windows meet."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from regard.preprocess.audio_read import duration, read
from regard.tasks.chunks import join

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
@pytest.mark.parametrize("options", [{}, {"chunk_length_s": 30, "batch_size": 4}], ids=["seeking", "windows"])
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


def test_windows_are_joined_where_they_agree() -> None:
    assert join([1, 2, 3, 4, 5, 9], [3, 4, 5, 6, 7]) == ([1, 2, 3, 4], [5, 6, 7])
    assert join([1, 2, 3, 4, 5, 9], [8, 4, 5, 6, 7]) == ([1, 2, 3, 4], [5, 6, 7])  # neither knows the other's end
    assert join([1, 2], [3, 4]) == ([1, 2], [3, 4]) and join([1, 2], [2, 3]) == ([1, 2], [2, 3])
    assert join([], [1, 2]) == ([], [1, 2]) and join([1, 2], []) == ([1, 2], [])
    assert join([1, 2, 3], [1, 2, 3]) == ([1], [2, 3])


def test_a_file_says_how_long_it_is(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.zeros(24000, np.float32), 16000)
    assert duration(tmp_path / "a.wav") == 1.5
    (tmp_path / "b.wav").write_bytes(b"no sound")
    with pytest.raises(ValueError, match=r"b\.wav"):
        duration(tmp_path / "b.wav")
