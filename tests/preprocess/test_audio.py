"""Features of sound against the reference's extractors, and against published numbers of a real checkpoint."""

from __future__ import annotations

import json
import os
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

soundfile = pytest.importorskip("soundfile")
pytest.importorskip("soxr")
transformers = pytest.importorskip("transformers")

from regard.preprocess.audio import AudioProcessor  # noqa: E402
from regard.preprocess.audio_features import LogMel, kaldi_filters, mel_filters  # noqa: E402
from regard.preprocess.audio_read import read, resample, stream  # noqa: E402

DATA = Path(os.environ.get("REGARD_TEST_DATA", Path(__file__).parents[3] / "shared"))
RATE = 16000


def speech(samples: int, seed: int = 0) -> np.ndarray:
    """Something with silence, tones and noise, so that no band is empty and the range limit bites."""
    rng = np.random.default_rng(seed)
    t = np.arange(samples) / RATE
    tone = 0.3 * np.sin(2 * np.pi * 220 * t) + 0.1 * np.sin(2 * np.pi * (1000 + 800 * t) * t)
    noise = rng.standard_normal(samples) * 0.05 * (np.sin(2 * np.pi * 0.7 * t) > 0)
    return (tone * (t % 2 < 1.3) + noise).astype(np.float32)


def check_same(ours: Any, theirs: Any, atol: float = 1e-4) -> None:
    assert set(ours) == set(theirs)
    for name in ours:
        got, want = ours[name], theirs[name]
        assert got.shape == want.shape and got.dtype == want.dtype, name
        torch.testing.assert_close(got, want, rtol=0, atol=atol)


def both(name: str, folder: Path, **settings: Any) -> tuple[Any, AudioProcessor]:
    theirs = getattr(transformers, f"{name}FeatureExtractor")(**settings)
    theirs.save_pretrained(folder)
    return theirs, AudioProcessor.from_folder(folder)


@pytest.mark.parametrize("settings", [{}, {"feature_size": 128}, {"chunk_length": 2, "padding_value": 0.1}], ids=str)
def test_whisper_agrees(settings: dict[str, Any], tmp_path: Path) -> None:
    theirs, ours = both("Whisper", tmp_path, **settings)
    clips = [speech(20_000), speech(8_001, 1), speech(70_000, 2)]
    common = {"sampling_rate": RATE, "return_tensors": "pt"}
    for options in (
        {},
        {"return_attention_mask": True},
        {"do_normalize": True, "return_attention_mask": True},
        {"padding": "longest"},
        {"padding": True, "truncation": False, "return_attention_mask": True},
        {"padding": "longest", "pad_to_multiple_of": 480, "return_attention_mask": True},
        {"max_length": 9_000},
    ):
        check_same(ours(clips, **common, **options), theirs(clips, **common, **options))
        check_same(ours(clips[0], **common, **options), theirs(clips[0], **common, **options))


def test_long_sound_in_blocks_agrees(tmp_path: Path) -> None:
    theirs, ours = both("Whisper", tmp_path)
    options = {"sampling_rate": RATE, "return_tensors": "pt", "padding": "longest", "truncation": False}
    for samples in (RATE * 65 + 77, RATE * 30 + 1, 3000 * 160, 3001 * 160, 3000 * 160 - 1, 401, 250):
        check_same(ours(speech(samples), **options), theirs(speech(samples), **options))


def test_wav2vec2_agrees(tmp_path: Path) -> None:
    clips = [speech(4000), speech(2500, 1) * 20, speech(3333, 2)]
    common = {"sampling_rate": RATE, "return_tensors": "pt"}
    for settings in ({}, {"return_attention_mask": True}, {"do_normalize": False}, {"padding_side": "left"}):
        theirs, ours = both("Wav2Vec2", tmp_path, **settings)
        for options in (
            {"padding": True},
            {"padding": "longest", "return_attention_mask": False},
            {"padding": "max_length", "max_length": 5000},
            {"padding": "max_length", "max_length": 3000, "truncation": True},
            {"padding": True, "pad_to_multiple_of": 512},
            {"padding": True, "max_length": 3001, "truncation": True, "pad_to_multiple_of": 512},
        ):
            check_same(ours(clips, **common, **options), theirs(clips, **common, **options))
        check_same(ours(clips[1], **common), theirs(clips[1], **common))
        check_same(ours(np.stack([clips[0]] * 2), **common), theirs(np.stack([clips[0]] * 2), **common))
        check_same(ours(list(map(float, clips[1])), **common), theirs(list(map(float, clips[1])), **common))
    rows = ours(clips)["input_values"]
    assert [len(row) for row in rows] == [4000, 2500, 3333]
    masked = AudioProcessor("Wav2Vec2", {"return_attention_mask": True})
    padded = masked(clips, padding=True, return_tensors="pt")
    alone = masked(clips[1], return_tensors="pt")
    torch.testing.assert_close(padded.input_values[1, :2500], alone.input_values[0])  # padding changes nothing


@pytest.mark.parametrize(
    "settings", [{}, {"max_length": 90, "num_mel_bins": 64}, {"do_normalize": False, "max_length": 50}]
)
def test_ast_agrees(settings: dict[str, Any], tmp_path: Path) -> None:
    theirs, ours = both("AST", tmp_path, **settings)
    clips = [speech(20_000), speech(8_001, 1), speech(400, 2)]
    check_same(
        ours(clips, sampling_rate=RATE, return_tensors="pt"), theirs(clips, sampling_rate=RATE, return_tensors="pt")
    )


def test_filters_agree() -> None:
    from transformers.audio_utils import mel_filter_bank

    for mels in (40, 80, 128):
        want = mel_filter_bank(201, mels, 0.0, 8000.0, RATE, norm="slaney", mel_scale="slaney")
        np.testing.assert_allclose(mel_filters(201, mels, RATE), want, atol=1e-12)
        want = mel_filter_bank(257, mels, 20, 8000, RATE, mel_scale="kaldi", triangularize_in_mel_space=True)
        np.testing.assert_allclose(kaldi_filters(257, mels, RATE), want, atol=1e-12)


def test_log_mel_is_its_formula() -> None:
    """A slow Fourier transform of one frame in the middle."""
    samples, frame = speech(6000).astype(np.float64), 17
    piece = samples[frame * 160 - 200 : frame * 160 + 200] * np.hanning(401)[:-1]
    angles = -2j * np.pi * np.outer(np.arange(201), np.arange(400)) / 400
    power = np.abs(np.exp(angles) @ piece) ** 2
    found = LogMel()(samples.astype(np.float32))
    want = (np.log10(np.maximum(power @ mel_filters(201, 80, RATE), 1e-10)) + 4) / 4
    loud = want > found.max() - 2 + 1e-3  # the rest is raised to 80 dB below the loudest
    assert loud.sum() > 20
    np.testing.assert_allclose(found[loud, frame], want[loud], atol=1e-4)
    assert found.max() - found.min() <= 2 + 1e-6


@pytest.mark.parametrize("name", ["Whisper", "Wav2Vec2", "AST"])
def test_what_we_save_the_reference_reads(name: str, tmp_path: Path) -> None:
    AudioProcessor(f"{name}FeatureExtractor", {"padding_value": 0.5, "note": "kept"}).save_pretrained(tmp_path)
    theirs = getattr(transformers, f"{name}FeatureExtractor").from_pretrained(tmp_path)
    again = AudioProcessor.from_folder(tmp_path)
    assert again.padding_value == 0.5 == theirs.padding_value and again.raw["note"] == "kept"
    check_same(again(speech(5000), return_tensors="pt"), theirs(speech(5000), sampling_rate=RATE, return_tensors="pt"))


# samples of every kind


@pytest.mark.parametrize("kind", ["Whisper", "Wav2Vec2", "AST"])
def test_types_and_channels_mean_the_same(kind: str) -> None:
    ours = AudioProcessor(kind)
    whole = np.round(speech(4000) * 2**15).clip(-(2**15), 2**15 - 1).astype(np.int16)
    real = whole / np.float32(2**15)
    want = ours(real, return_tensors="pt")
    clips = {
        "int16": whole,
        "int32": whole.astype(np.int32) * 2**16,
        "double": real.astype(np.float64),
        "list": real.tolist(),
        "tensor": torch.from_numpy(real),
        "int16 tensor": torch.from_numpy(whole),
        "stereo": np.stack([real, real], axis=1),
        "stereo tensor": torch.from_numpy(np.stack([real * 2, real * 0], axis=1)),
        "one channel": real[:, None],
        "channels first, in a list": [np.stack([real, real])],
        "named": {"array": real, "sampling_rate": RATE},
        "raw": {"raw": whole, "sampling_rate": RATE},
    }
    for name, clip in clips.items():
        found = ours(clip, return_tensors="pt")[ours.kind.gives]
        torch.testing.assert_close(found, want[ours.kind.gives], rtol=0, atol=1e-4, msg=name)
    assert ours([real, whole], padding=True, return_tensors="pt")[ours.kind.gives].shape[0] == 2
    assert ours(np.stack([real, real]), return_tensors="pt")[ours.kind.gives].shape[0] == 2


def test_eight_bits_are_centred() -> None:
    ours = AudioProcessor("Wav2Vec2", {"do_normalize": False})
    found = ours(np.array([0, 64, 128, 255], dtype=np.uint8), return_tensors="np").input_values[0]
    np.testing.assert_allclose(found, [-1, -0.5, 0, 127 / 128])


@pytest.mark.parametrize("rate", [8000, 11025, 22050, 44100, 48000])
def test_other_rates_are_resampled(rate: int) -> None:
    seconds, hertz = 1.0, 440
    tone = np.sin(2 * np.pi * hertz * np.arange(int(seconds * rate)) / rate).astype(np.float32)
    want = np.sin(2 * np.pi * hertz * np.arange(RATE) / RATE)
    found = AudioProcessor("Wav2Vec2", {"do_normalize": False})(tone, sampling_rate=rate, return_tensors="np")
    assert abs(found.input_values.shape[1] - RATE) <= 1
    np.testing.assert_allclose(
        found.input_values[0, 2000:-2000], want[2000 : found.input_values.shape[1] - 2000], atol=2e-3
    )


def test_very_short_sounds() -> None:
    for samples in (0, 1, 2, 100, 399):
        clip = speech(samples)
        assert AudioProcessor("Whisper")(clip, return_tensors="pt").input_features.shape == (1, 80, 3000)
        short = AudioProcessor("Whisper")(clip, padding="longest", return_tensors="pt").input_features
        assert short.shape == (1, 80, samples // 160) and bool(short.isfinite().all())
        spectra = AudioProcessor("AST")(clip, return_tensors="pt").input_values
        assert spectra.shape == (1, 1024, 128) and bool(spectra.isfinite().all())
        if samples:
            assert AudioProcessor("Wav2Vec2")(clip, return_tensors="pt").input_values.shape == (1, samples)
            assert len(resample(clip, 48000, RATE)) >= 1
    with pytest.raises(ValueError, match="the audio is empty"):
        AudioProcessor("Wav2Vec2")(speech(0))
    both = AudioProcessor("Wav2Vec2")(
        [speech(0), speech(9)], padding=True, return_attention_mask=True, return_tensors="pt"
    )
    assert both.attention_mask.sum(1).tolist() == [0, 9] and bool(both.input_values.isfinite().all())


# files and streams


def test_files_of_every_kind(tmp_path: Path) -> None:
    clip = speech(9000)
    for kind, subtype, atol in (
        ("wav", "PCM_16", 1e-4),
        ("wav", "PCM_24", 1e-6),
        ("wav", "FLOAT", 0),
        ("wav", "PCM_U8", 1e-2),
        ("wav", "ULAW", 3e-2),
        ("flac", "PCM_16", 1e-4),
        ("aiff", "PCM_16", 1e-4),
        ("ogg", "VORBIS", 0.2),
    ):
        path = tmp_path / f"{subtype}.{kind}"
        soundfile.write(path, np.stack([clip, clip * 0.5], axis=1), RATE, subtype=subtype)
        found, rate = read(path)
        assert rate == RATE and found.dtype == np.float32 and found.shape == clip.shape
        np.testing.assert_allclose(found, clip * 0.75, atol=atol + 1e-7)
        with open(path, "rb") as file:
            np.testing.assert_array_equal(read(file)[0], found)
        np.testing.assert_array_equal(read(path.read_bytes())[0], found)


def test_a_stream_is_the_whole_in_pieces(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, speech(300_001), 44100, subtype="FLOAT")
    for rate in (None, RATE):
        whole = read(path, sampling_rate=rate)[0]
        pieces = list(stream(path, 0.7, sampling_rate=rate))
        size = round(0.7 * (rate or 44100))
        assert {len(piece) for piece in pieces[:-1]} == {size} and 0 < len(pieces[-1]) <= size
        np.testing.assert_array_equal(np.concatenate(pieces), whole)
    np.testing.assert_allclose(whole, resample(read(path)[0], 44100, RATE), atol=1e-5)
    windows = list(AudioProcessor("Whisper").windows(path, 3))
    assert len(windows) == 3 and windows[0].input_features.shape == (1, 80, 3000)
    want = AudioProcessor("Whisper")(whole[: 3 * RATE], return_tensors="pt")
    torch.testing.assert_close(windows[0].input_features, want.input_features)


def test_streams_need_no_more_memory_for_longer_files(tmp_path: Path) -> None:
    def peak(minutes: int) -> int:
        path = tmp_path / f"{minutes}.wav"
        with soundfile.SoundFile(path, "w", 44100, 1, subtype="PCM_16") as file:
            for second in range(minutes * 60):
                file.write(speech(44100, second))
        tracemalloc.start()
        samples = sum(len(piece) for piece in stream(path, 10, sampling_rate=RATE))
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert abs(samples - minutes * 60 * RATE) <= 2
        return most

    short, long = peak(1), peak(6)
    assert long < 1.2 * short and long < 8 * 2**20


def test_real_speech_gives_the_published_numbers() -> None:
    folder = DATA / "checkpoints" / "whisper-tiny.en"
    if not folder.is_dir():
        pytest.skip(f"no {folder}; set REGARD_TEST_DATA")
    ours = AudioProcessor.from_folder(folder)
    expected = json.loads((folder / "expected.json").read_text())
    checked = 0
    for clip in expected["clips"]:
        want = clip.get("input_features")
        if want is None:
            continue
        found = ours(DATA / clip["file"], return_tensors="pt").input_features
        assert list(found.shape) == want["shape"]
        corner = torch.tensor(want["corner_0_0to4_0to8"])
        torch.testing.assert_close(found[0, :4, :8], corner, rtol=0, atol=1e-4)
        torch.testing.assert_close(found[0, :8, 100], torch.tensor(want["frame_100_first8"]), rtol=0, atol=1e-4)
        assert float(found.mean()) == pytest.approx(want["mean"], abs=1e-4)
        checked += 1
    assert checked >= 2
