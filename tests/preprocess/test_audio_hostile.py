"""Sound that is odd, damaged or made to do harm."""

from __future__ import annotations

import io
import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

soundfile = pytest.importorskip("soundfile")
pytest.importorskip("soxr")

from regard.preprocess import audio_read  # noqa: E402
from regard.preprocess.audio import AudioProcessor  # noqa: E402
from regard.preprocess.audio_read import read, stream  # noqa: E402


def encoded(samples: np.ndarray, kind: str, subtype: str | None = None, rate: int = 16000) -> bytes:
    out = io.BytesIO()
    soundfile.write(out, samples, rate, format=kind, subtype=subtype)
    return out.getvalue()


def noise(samples: int = 20_000) -> np.ndarray:
    return np.random.default_rng(0).uniform(-0.5, 0.5, samples).astype(np.float32)


def wav(data: bytes, *, size: int | None = None, rate: int = 16000, channels: int = 1, bits: int = 16) -> bytes:
    frame = channels * bits // 8
    form = struct.pack("<HHIIHH", 1, channels, rate, (rate * frame) % 2**32, frame % 2**16, bits)
    body = b"WAVEfmt " + struct.pack("<I", 16) + form
    body += b"data" + struct.pack("<I", len(data) if size is None else size) + data
    return b"RIFF" + struct.pack("<I", len(body)) + body


FLAC, OGG, WAV = encoded(noise(), "FLAC"), encoded(noise(), "OGG"), encoded(noise(), "WAV")
HOSTILE: dict[str, bytes] = {
    "nothing": b"",
    "text": b"this is no sound at all, it is text",
    "wav that says too much": wav(b"\0" * 1000, size=2**31),
    "wav that says a little too much": wav(b"\0" * 1000, size=1002),
    "wav cut short": WAV[: len(WAV) // 2],
    "wav header only": WAV[:20],
    "wav without data": b"RIFF" + struct.pack("<I", 4) + b"WAVE",
    "wav of one chunk that goes on for ever": b"RIFF" + struct.pack("<I", 12) + b"WAVEjunk" + b"\xff\xff\xff\xff",
    "wav of many chunks": b"RIFF" + struct.pack("<I", 4) + b"WAVE" + b"junk\0\0\0\0" * 2000,
    "wav at no rate": wav(b"\0" * 1000, rate=0),
    "wav at a rate beyond measure": wav(b"\0" * 1000, rate=2**31 - 1),
    "wav at one sample a second": wav(b"\0" * 1000, rate=1),
    "wav of no channels": wav(b"\0" * 1000, channels=0),
    "wav of too many channels": wav(b"\0" * 100_000, channels=1000),
    "wav of no bits": wav(b"\0" * 1000, bits=0),
    "flac cut short": FLAC[: len(FLAC) // 2],
    "flac header only": FLAC[:60],
    "ogg cut short": OGG[: len(OGG) // 2],
    "ogg without its last byte": OGG[:-1],
    "ogg header only": OGG[:100],
    "wav of NaN": encoded(np.full(100, np.nan, np.float32), "WAV", "FLOAT"),
    "wav with infinity": encoded(np.array([0, np.inf, 0], np.float32), "WAV", "FLOAT"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_get_one_clear_error(name: str, tmp_path: Path) -> None:
    path = tmp_path / "some sound"
    path.write_bytes(HOSTILE[name])
    for source in (path, HOSTILE[name], io.BytesIO(HOSTILE[name])):
        with pytest.raises(ValueError, match=r"some sound|bytes \(|BytesIO") as error:
            AudioProcessor("Whisper")(source)
        assert error.type is ValueError and len(str(error.value)) < 400
    with pytest.raises(ValueError, match="some sound"):
        list(stream(path, 1.0, sampling_rate=16000))


def test_a_damaged_middle_is_an_error_or_sound() -> None:
    rng = np.random.default_rng(1)
    for data in (FLAC, OGG, WAV):
        for _ in range(15):
            broken = bytearray(data)
            for at in rng.integers(0, len(data), 20):
                broken[at] = int(rng.integers(0, 256))
            try:
                found, rate = read(bytes(broken))
            except ValueError as error:
                assert "bytes (" in str(error)
            else:
                assert np.isfinite(found).all() and 1000 <= rate <= 768_000


def test_unknown_lengths_are_read_to_the_end() -> None:
    piped = wav(b"\1\0" * 500, size=0xFFFFFFFF)
    assert len(read(piped)[0]) == 500


def test_limits_hold_before_memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    silence = encoded(np.zeros(16000 * 120, np.int16), "FLAC")  # two minutes in some kilobytes
    assert len(silence) < 100_000
    with pytest.raises(ValueError, match=r"more than 60 seconds.*stream"):
        read(silence, max_seconds=60)
    assert sum(map(len, stream(silence, 7))) == 16000 * 120
    monkeypatch.setattr(audio_read, "MAX_AUDIO_BYTES", 1000)
    path = tmp_path / "a.wav"
    path.write_bytes(WAV)
    for source in (path, WAV, io.BytesIO(WAV)):
        with pytest.raises(ValueError, match="at most 1,000"):
            read(source)


class Endless:
    """Samples that say they last for days."""

    ndim, shape, dtype = 1, (10**12,), np.dtype(np.float32)


@pytest.mark.parametrize(
    ("audio", "options", "reason"),
    [
        (np.array([0.0, np.nan]), {}, "NaN"),
        (np.array([0.0, np.inf]), {}, "NaN or infinite"),
        (np.zeros(10, np.int64), {}, "int64; allowed: floating point, int16"),
        (np.zeros(10, bool), {}, "bool"),
        (np.zeros(10, complex), {}, "complex"),
        ([0, 1, 2], {}, "int64"),
        (np.zeros((2, 3, 4)), {}, r"shape"),
        ([np.zeros((100, 100))], {}, r"shape \(100, 100\)"),
        ([], {}, "empty list"),
        (None, {}, "NoneType is no sound"),
        ({"samples": [0.0]}, {}, "allowed: array or raw"),
        (noise(), {"sampling_rate": 0}, "sample rate is 0 Hz"),
        (noise(), {"sampling_rate": -16000}, "sample rate is -16000"),
        (noise(), {"sampling_rate": 10**9}, "sample rate is"),
        (noise(), {"sampling_rate": 44100.5}, "sample rate is 44100.5"),
        (noise(), {"sampling_rate": "16k"}, "'16k'"),
        (noise(), {"padding": "most"}, "padding is 'most'"),
        (noise(), {"return_tensors": "tf"}, "return_tensors is 'tf'"),
        (noise(), {"max_length": -5}, "max_length is -5"),
        (Endless(), {}, "Endless|samples|float|shape|is of"),
        (object(), {}, "object is no sound"),
    ],
)
def test_wrong_calls_are_named(audio: Any, options: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        AudioProcessor("Whisper")(audio, **options)


def test_lengths_that_make_no_tensor_and_missing_limits() -> None:
    ours = AudioProcessor("Wav2Vec2")
    with pytest.raises(ValueError, match="items of shapes"):
        ours([noise(10), noise(20)], return_tensors="pt")
    for options in ({"padding": "max_length"}, {"truncation": True}):
        with pytest.raises(ValueError, match="max_length is missing"):
            ours(noise(10), **options)
    with pytest.raises(ValueError, match="seconds is 0"):
        next(stream(WAV, 0))


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({}, "feature_extractor_type is missing"),
        ({"feature_extractor_type": "OurFeatureExtractor"}, "known: WhisperFeatureExtractor"),
        ({"sampling_rate": 0}, "sampling_rate"),
        ({"hop_length": 0}, "hop_length is 0"),
        ({"feature_size": 10**9}, "feature_size is 1000000000"),
        ({"n_fft": "400"}, "n_fft is '400'"),
        ({"chunk_length": 10**9}, "chunk_length"),
        ({"padding_value": "x"}, "padding_value"),
        ({"padding_side": "top"}, "padding_side is 'top'"),
        ({"return_attention_mask": 1}, "return_attention_mask is 1"),
    ],
)
def test_folders_that_make_no_processor(config: dict[str, Any], reason: str, tmp_path: Path) -> None:
    if config and "feature_extractor_type" not in config:
        config = {"feature_extractor_type": "WhisperFeatureExtractor", **config}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=reason) as error:
        AudioProcessor.from_folder(tmp_path)
    assert "preprocessor_config.json" in str(error.value)
