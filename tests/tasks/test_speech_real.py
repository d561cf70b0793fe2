"""A real checkpoint on real clips: published ids, texts and word errors; long recordings against the reference."""

from __future__ import annotations

import json
import re
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

pytest.importorskip("soundfile")
pytest.importorskip("soxr")

import regard
from regard.cli import app
from regard.preprocess.audio_read import read

Data = Callable[[str], Path]


@pytest.fixture(scope="module")
def folder(data: Data) -> Path:
    return data("checkpoints/whisper-tiny.en")


@pytest.fixture(scope="module")
def pipe(folder: Path) -> Any:
    return regard.pipeline("automatic-speech-recognition", folder, dtype="float32")


@pytest.fixture(scope="module")
def expected(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "expected.json").read_text(encoding="utf-8"))
    return found


def together(expected: dict[str, Any], data: Data, seconds: int) -> np.ndarray:
    """Clips after each other, with half a second between them."""
    parts = [read(data(clip["file"]), sampling_rate=16000)[0] for clip in expected["clips"]]
    return np.concatenate([np.pad(part, (0, 8000)) for part in parts])[: 16000 * seconds]


def errors(said: list[str], meant: list[str]) -> int:
    """Words to insert, drop or change (Levenshtein)."""
    row = list(range(len(meant) + 1))
    for i, word in enumerate(said, 1):
        last, row[0] = row[0], i
        for j, other in enumerate(meant, 1):
            last, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, last + (word != other))
    return row[-1]


def plain(text: str) -> list[str]:
    return re.sub("[^a-z0-9' ]", "", text.lower().replace("-", " ")).split()


def test_ids_and_texts_of_some_clips(pipe: Any, expected: dict[str, Any], data: Data) -> None:
    clips = sorted(expected["clips"], key=lambda clip: clip["samples"])[:4]
    found = pipe([data(clip["file"]) for clip in clips])
    assert [entry["text"] for entry in found] == [clip["text"] for clip in clips]
    pieces = [piece for clip in clips for piece in pipe.pieces(data(clip["file"]), pipe.read({}))]
    said = pipe.transcriber([piece.note for piece in pieces], pipe.manner(pipe.read({})))
    assert [[t for part in parts for t in part.tokens] for parts in said] == [clip["token_ids"] for clip in clips]


@pytest.mark.slow
def test_all_clips_and_their_word_errors(pipe: Any, expected: dict[str, Any], data: Data) -> None:
    clips = expected["clips"]
    found = pipe([data(clip["file"]) for clip in clips])
    assert [entry["text"] for entry in found] == [clip["text"] for clip in clips]
    wrong = sum(errors(plain(f["text"]), plain(c["reference"])) for f, c in zip(found, clips, strict=True))
    words = sum(len(plain(clip["reference"])) for clip in clips)
    assert (wrong, words) == (16, 220)  # 7.27 %


def test_errors_count_words() -> None:
    assert errors("a b c".split(), "a c".split()) == 1 and errors("x".split(), "a b".split()) == 2
    assert errors([], ["a"]) == 1 and errors(["a"], ["a"]) == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"condition_on_prev_tokens": True},
        {"logprob_threshold": -0.3, "no_speech_threshold": 0.001, "temperature": 0.0},
        {"compression_ratio_threshold": 1.35, "logprob_threshold": -1.0, "temperature": (0.0,)},
    ],
    ids=str,
)
def test_long_recordings_agree(
    pipe: Any, folder: Path, expected: dict[str, Any], data: Data, options: dict[str, Any]
) -> None:
    transformers = pytest.importorskip("transformers")
    sound = together(expected, data, 75)
    ears = transformers.AutoFeatureExtractor.from_pretrained(folder)
    model = transformers.WhisperForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
    heard = ears(
        sound, sampling_rate=16000, truncation=False, padding="longest", return_tensors="pt", return_attention_mask=True
    )
    theirs = model.generate(**heard, return_timestamps=True, return_segments=True, **options)["segments"][0]
    want = [[t for t in part["tokens"].tolist() if t < 50256] for part in theirs]
    given = {"return_timestamps": True, "chunk_length_s": 0, "generate_kwargs": options}
    ours = pipe({"array": sound, "sampling_rate": 16000}, **given)
    texts = [text for ids in want if (text := pipe.parts.tokenizer.decode(ids))]
    assert [chunk["text"] for chunk in ours["chunks"]] == texts and ours["text"] == "".join(texts)
    starts = [float(part["start"]) for part, ids in zip(theirs, want, strict=True) if ids]
    np.testing.assert_allclose([chunk["timestamp"][0] for chunk in ours["chunks"]], starts, atol=0.011)


@pytest.mark.slow
def test_words_have_the_references_times(pipe: Any, folder: Path, expected: dict[str, Any], data: Data) -> None:
    transformers = pytest.importorskip("transformers")
    clip = read(data(expected["clips"][0]["file"]), sampling_rate=16000)[0]
    theirs = transformers.pipeline("automatic-speech-recognition", str(folder), dtype=torch.float32)(
        clip.copy(), return_timestamps="word", generate_kwargs={"num_beams": 1}
    )["chunks"]
    ours = pipe({"array": clip, "sampling_rate": 16000}, return_timestamps="word")["chunks"]
    assert [word["text"] for word in ours] == [word["text"] for word in theirs]
    gaps = [abs(a["timestamp"][0] - b["timestamp"][0]) for a, b in zip(ours, theirs, strict=True)]
    assert statistics.mean(gaps) < 0.01 and max(gaps) <= 0.1
    times = [time for word in ours for time in word["timestamp"]]
    assert times == sorted(times)


def test_the_command_writes_subtitles(folder: Path, expected: dict[str, Any], data: Data, tmp_path: Path) -> None:
    clip, target = min(expected["clips"], key=lambda clip: clip["samples"]), tmp_path / "a.srt"
    words = ["run", "automatic-speech-recognition", str(data(clip["file"])), "-m", str(folder), "--json"]
    found = CliRunner().invoke(app, [*words, "-o", str(target)])
    assert found.exit_code == 0, found.output
    result = json.loads(found.stdout.strip().splitlines()[-1])
    number, when, text = target.read_text().strip().splitlines()
    assert number == "1" and when.startswith("00:00:00,000 --> 00:00:0") and text == result["text"].strip()
