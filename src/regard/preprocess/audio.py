"""Sound to what models of speech and sound take: `AudioProcessor.from_folder(path)` reads what checkpoints carry."""

from __future__ import annotations

import math
import os
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from regard.checkpoint.files import read_json, write_json

from .audio_features import KaldiFilterBank, LogMel, standardise
from .audio_read import check_rate, mono, read, resample, stream
from .features import Features
from .image import FILES, read_config
from .media import Source, is_source

PADDINGS = ("longest", "max_length", "do_not_pad")


@dataclass(frozen=True, kw_only=True)
class AudioKind:
    """How one kind of feature extractor works: the name of what it gives, how, and settings where none are said."""

    gives: str
    features: str
    padding: str
    defaults: Mapping[str, Any]


_USUAL = {"sampling_rate": 16000, "padding_value": 0.0, "padding_side": "right", "return_attention_mask": False}
KINDS: dict[str, AudioKind] = {
    "Whisper": AudioKind(
        gives="input_features",
        features="log_mel",
        padding="max_length",
        defaults={**_USUAL, "feature_size": 80, "hop_length": 160, "chunk_length": 30, "n_fft": 400, "dither": 0.0},
    ),
    "Wav2Vec2": AudioKind(
        gives="input_values",
        features="waveform",
        padding="do_not_pad",
        defaults={**_USUAL, "feature_size": 1, "do_normalize": True},
    ),
    "AST": AudioKind(
        gives="input_values",
        features="filter_bank",
        padding="max_length",
        defaults={
            **_USUAL,
            **{"feature_size": 1, "num_mel_bins": 128, "max_length": 1024, "do_normalize": True},
            **{"mean": -4.2677393, "std": 4.5689974},
        },
    ),
}
BY_MODEL: dict[str, str] = {
    "whisper": "Whisper",
    "audio-spectrogram-transformer": "AST",
    **dict.fromkeys(("wav2vec2", "hubert", "wavlm", "unispeech", "unispeech-sat", "data2vec-audio", "sew"), "Wav2Vec2"),
}
"""model_type of config.json -> kind, for folders whose preprocessor_config.json names none."""

_ENDING = "FeatureExtractor"
_RANGES = {
    "feature_size": (1, 1024),
    "hop_length": (1, 2**16),
    "chunk_length": (1, 3600),
    "n_fft": (2, 2**16),
    "num_mel_bins": (1, 1024),
    "max_length": (1, 2**20),
}


class AudioProcessor:
    """Turns sound into `input_features` or `input_values` for a model.

    Use `AudioProcessor.from_folder(folder)`; calling the object processes clips. Settings have the names of
    preprocessor_config.json and are read as attributes (`sampling_rate`, `feature_size`, ...).
    """

    def __init__(self, kind: str, raw: Mapping[str, Any] | None = None, *, where: str = "AudioProcessor") -> None:
        """`kind` is a class name such as "WhisperFeatureExtractor", `raw` settings that differ from its own."""
        self.kind_name = kind.removesuffix(_ENDING)
        if self.kind_name not in KINDS:
            known = ", ".join(f"{name}{_ENDING}" for name in KINDS)
            raise ValueError(f"{where}: feature_extractor_type is {kind!r}; known: {known}")
        self.kind = KINDS[self.kind_name]
        self.raw = dict(raw or {})
        said = {
            name: self.raw[name] for name in (*self.kind.defaults, "do_normalize") if self.raw.get(name) is not None
        }
        self.settings: dict[str, Any] = {**self.kind.defaults, **said}
        _check(self.settings, where)
        self.allow_hosts: Collection[str] = ()

    @classmethod
    def from_folder(cls, path: str | os.PathLike[str]) -> AudioProcessor:
        """Read the feature extractor in a folder; ValueError names the file that is missing or wrong."""
        raw, where = read_config(Path(path), "feature_extractor")
        name = raw.get("feature_extractor_type")
        if not isinstance(name, str):
            config = Path(path) / "config.json"
            model = read_json(config).get("model_type") if config.is_file() else None
            if model not in BY_MODEL:
                raise ValueError(f"{where}: feature_extractor_type is missing, and config.json says {model!r}")
            name = BY_MODEL[model]
        return cls(name, raw, where=where)

    def save_pretrained(self, save_directory: str | os.PathLike[str]) -> tuple[str, ...]:
        """Write preprocessor_config.json into a folder and return its path."""
        folder = Path(save_directory)
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / FILES[1], self.to_dict())
        return (str(folder / FILES[1]),)

    def to_dict(self) -> dict[str, Any]:
        """The settings as preprocessor_config.json has them, with what else the folder said."""
        kept = {name: value for name, value in self.raw.items() if name not in ("image_processor_type", "auto_map")}
        return {**kept, **self.settings, "feature_extractor_type": f"{self.kind_name}{_ENDING}"}

    def __getattr__(self, name: str) -> Any:
        settings = self.__dict__.get("settings", {})
        if name in settings:
            return settings[name]
        raise AttributeError(f"{type(self).__name__} has no {name!r}")

    def __repr__(self) -> str:
        return f"AudioProcessor({self.kind_name}, {self.settings})"

    @property
    def model_input_names(self) -> list[str]:
        """Names of what a call gives, the mask if it is asked for."""
        return [self.kind.gives, "attention_mask"]

    @property
    def n_samples(self) -> int:
        """Samples of the window that Whisper hears."""
        return int(self.settings.get("chunk_length", 0)) * int(self.settings["sampling_rate"])

    def __call__(
        self,
        audio: Any,
        *,
        sampling_rate: int | None = None,
        return_tensors: str | None = None,
        padding: bool | str | None = None,
        truncation: bool | None = None,
        max_length: int | None = None,
        pad_to_multiple_of: int | None = None,
        return_attention_mask: bool | None = None,
        do_normalize: bool | None = None,
    ) -> Features:
        """Process a clip or a batch.

        A clip is a path, URL (on a host in `allow_hosts`), bytes, open file, {"array", "sampling_rate"}, or samples:
        (T,), or (T, C) with few channels; (B, T) and lists are batches. Samples at another `sampling_rate` than the
        model's are resampled; without it they are taken to have the model's. `max_length` counts samples. ValueError
        names what is wrong.
        """
        normalise = bool(self.settings.get("do_normalize", False) if do_normalize is None else do_normalize)
        # Where waves are brought to one variance, whole numbers count as they are, as in the reference: its rule adds a
        # little to the variance, which quiet sound would feel at another scale.
        clips = self._clips(audio, sampling_rate, scaled=not (normalise and self.kind.features == "waveform"))
        if self.kind.features == "filter_bank":
            return Features({"input_values": [self._filter_bank(c) for c in clips]}).convert_to_tensors(return_tensors)
        how = "longest" if padding is True else "do_not_pad" if padding is False else padding or self.kind.padding
        if how not in PADDINGS:
            raise ValueError(f"padding is {padding!r}; allowed: True, False, {', '.join(map(repr, PADDINGS))}")
        whisper = self.kind.features == "log_mel"
        cut = whisper if truncation is None else truncation
        limit = max_length or (self.n_samples if whisper else None)
        if limit is None and (how == "max_length" or cut):
            raise ValueError(
                f"max_length is missing; {'padding to it' if how == 'max_length' else 'truncation'} needs it"
            )
        if limit is not None and limit < 1:
            raise ValueError(f"max_length is {max_length}; allowed: 1 and more samples")
        masked = bool(
            self.settings["return_attention_mask"] if return_attention_mask is None else return_attention_mask
        )
        clips = [clip[: _multiple(limit, pad_to_multiple_of)] for clip in clips] if cut and limit else clips
        lengths = [len(clip) for clip in clips]
        length = {"longest": max(lengths), "max_length": limit, "do_not_pad": None}[how]
        if length is not None:
            length = _multiple(length, pad_to_multiple_of)
        own_only = length is not None and (masked or whisper)
        rows = [self._row(clip, length, normalise, own_only=own_only) for clip in clips]
        if whisper:
            return self._log_mel(rows, lengths, masked).convert_to_tensors(return_tensors)
        if not any(len(row) for row in rows):
            raise ValueError(
                "the audio is empty: 0 samples; this model needs some (pad with max_length, or leave it out)"
            )
        out: dict[str, Any] = {"input_values": rows}
        if masked:
            out["attention_mask"] = [self._mask(n, len(row)) for n, row in zip(lengths, rows, strict=True)]
        return Features(out).convert_to_tensors(return_tensors)

    def windows(
        self, source: Source, seconds: float | None = None, *, return_tensors: str = "pt"
    ) -> Iterator[Features]:
        """Features of successive pieces of a sound file of any length, one at a time, in flat memory.

        `seconds` is the length of a piece: by default the window that the model hears, or 30.
        """
        seconds = seconds or float(self.settings.get("chunk_length", 30))
        rate = self.settings["sampling_rate"]
        for piece in stream(source, seconds, sampling_rate=rate, allow_hosts=self.allow_hosts):
            yield self(piece, sampling_rate=rate, return_tensors=return_tensors)

    def samples(self, audio: Any) -> np.ndarray:
        """The samples (T,) of one clip at the model's rate, as they are before features are made of them."""
        return self._clip(audio, None, True)

    # one clip

    def _clips(self, audio: Any, rate: int | None, *, scaled: bool) -> list[np.ndarray]:
        if rate is not None:
            check_rate(rate, "sampling_rate")
        if is_source(audio) or isinstance(audio, Mapping):
            return [self._clip(audio, rate, scaled)]
        if isinstance(audio, (list, tuple)):
            if not audio:
                raise ValueError("the audio is an empty list; pass at least one clip")
            if isinstance(audio[0], (int, float, np.number)):
                return [self._clip(audio, rate, scaled)]
            return [self._clip(clip, rate, scaled) for clip in audio]
        ndim = getattr(audio, "ndim", None)
        if ndim is None:
            raise ValueError(f"a {type(audio).__name__} is no sound; allowed: a path, URL, bytes, open file or samples")
        if ndim == 2 and not (audio.shape[1] <= 8 < audio.shape[0]):
            return [self._clip(clip, rate, scaled) for clip in audio]
        return [self._clip(audio, rate, scaled)]

    def _clip(self, audio: Any, rate: int | None, scaled: bool) -> np.ndarray:
        """(T,) at the model's rate."""
        target = self.settings["sampling_rate"]
        if is_source(audio):
            return read(audio, sampling_rate=target, allow_hosts=self.allow_hosts)[0]
        if isinstance(audio, Mapping):
            found = [audio[name] for name in ("array", "raw") if name in audio]
            if not found:
                raise ValueError(f"a clip has {', '.join(map(str, audio))}; allowed: array or raw, and sampling_rate")
            return self._clip(found[0], audio.get("sampling_rate", rate), scaled)
        return resample(mono(audio, scaled=scaled), target if rate is None else rate, target)

    def _row(self, clip: np.ndarray, length: int | None, normalise: bool, *, own_only: bool) -> np.ndarray:
        """Padded and of zero mean and unit variance: of its own samples, or of the padding too, where the model was
        trained without masks."""
        if normalise and own_only:
            clip = standardise(clip)
        if length is not None and length > len(clip):
            missing = length - len(clip)
            sides = (0, missing) if self.settings["padding_side"] == "right" else (missing, 0)
            clip = np.pad(clip, sides, constant_values=self.settings["padding_value"])
        return standardise(clip) if normalise and not own_only else clip

    def _mask(self, samples: int, length: int) -> np.ndarray:
        mask = np.zeros(length, dtype=np.int32)
        start = 0 if self.settings["padding_side"] == "right" else length - samples
        mask[start : start + samples] = 1
        return mask

    def _log_mel(self, rows: list[np.ndarray], lengths: list[int], masked: bool) -> Features:
        hop = self.settings["hop_length"]
        bank = LogMel(
            n_fft=self.settings["n_fft"],
            hop=hop,
            mels=self.settings["feature_size"],
            rate=self.settings["sampling_rate"],
        )
        if self.settings["dither"]:
            rows = [
                row + self.settings["dither"] * np.random.standard_normal(len(row)).astype(np.float32) for row in rows
            ]
        out: dict[str, Any] = {"input_features": [bank(row.astype(np.float32, copy=False)) for row in rows]}
        if masked:
            out["attention_mask"] = [
                self._mask(n, len(row))[::hop][: len(row) // hop] for n, row in zip(lengths, rows, strict=True)
            ]
        return Features(out)

    def _filter_bank(self, clip: np.ndarray) -> np.ndarray:
        """(max_length, num_mel_bins): cut, or filled with zeros before normalising."""
        frames = self.settings["max_length"]
        bank = KaldiFilterBank(mels=self.settings["num_mel_bins"], rate=self.settings["sampling_rate"])
        found = bank(clip, frames)
        found = np.pad(found, ((0, frames - len(found)), (0, 0)))
        if self.settings["do_normalize"]:
            found = (found - np.float32(self.settings["mean"])) / np.float32(self.settings["std"] * 2)
        return found


def _multiple(length: int | None, of: int | None) -> int | None:
    return length if length is None or not of else math.ceil(length / of) * of


def _check(settings: Mapping[str, Any], where: str) -> None:
    check_rate(settings["sampling_rate"], f"{where}: sampling_rate")
    for name, value in settings.items():
        low, high = _RANGES.get(name, (0, 0))
        whole = isinstance(value, int) and not isinstance(value, bool)
        if high and not (whole and low <= value <= high):
            raise ValueError(f"{where}: {name} is {value!r}; allowed: a whole number {low} to {high}")
        if name in ("do_normalize", "return_attention_mask") and not isinstance(value, bool):
            raise ValueError(f"{where}: {name} is {value!r}; allowed: true, false")
        if name in ("padding_value", "mean", "std", "dither") and not (
            isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
        ):
            raise ValueError(f"{where}: {name} is {value!r}; allowed: a number")
    if settings["padding_side"] not in ("left", "right"):
        raise ValueError(f"{where}: padding_side is {settings['padding_side']!r}; allowed: 'left', 'right'")
    if settings.get("std") == 0:
        raise ValueError(f"{where}: std is 0; allowed: a number other than 0")
