"""Recordings of any length, to be read several times from their beginning, and their log-mel frames, in flat memory."""

from __future__ import annotations

import functools
import os
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .audio import AudioProcessor
from .audio_features import LogMel
from .audio_read import duration, mono, read, resample, stream
from .media import is_source

BLOCK_SECONDS = 30.0
HELD_SECONDS = 2 * BLOCK_SECONDS
"""Recordings up to this are held in memory as a whole; longer files are read block by block."""
FRAME, PAUSE, QUIET = 0.05, 0.25, 0.03
"""Seconds over which levels are taken, seconds of the shortest pause (longer than the closure of a consonant), and how
loud it may be, as a share."""


class Recording:
    """One channel of sound at `rate` Hz: `samples` (T,) where it is held, else read from `source` in blocks."""

    def __init__(self, name: str, rate: int, samples: np.ndarray | None, source: Any, hosts: Collection[str]):
        self.name, self.rate, self.samples, self.source, self.hosts = name, rate, samples, source, hosts

    @staticmethod
    def of(item: Any, rate: int, allow_hosts: Collection[str] = ()) -> Recording:
        """A path, URL, bytes, open file, {"array" or "raw", "sampling_rate"}, or samples at `rate`.

        Raises ValueError, naming the source, for what is no sound, damaged, empty, or has NaN; OSError where a path
        cannot be opened.
        """
        if is_source(item):
            found = _from_source(item, rate, allow_hosts)
        elif isinstance(item, Mapping):
            found = _from_mapping(item, rate, allow_hosts)
        else:
            if not hasattr(item, "ndim") and not _is_samples(item):
                raise ValueError(
                    f"a {type(item).__name__} is no sound; allowed: a path, URL, bytes, open file, samples, or "
                    '{"array": ..., "sampling_rate": ...}'
                )
            found = Recording("the audio", rate, mono(item), None, ())
        if found.samples is not None and not len(found.samples):
            raise ValueError(f"{found.name} is empty: 0 samples of sound")
        return found

    @property
    def seconds(self) -> float | None:
        """How long it lasts, where that is known without reading it."""
        return None if self.samples is None else len(self.samples) / self.rate

    @functools.cached_property
    def lasts(self) -> float | None:
        """About how long it lasts: known, or as its file says; None where that says nothing."""
        return duration(self.source, allow_hosts=self.hosts) if self.samples is None else self.seconds

    def blocks(self) -> Iterator[np.ndarray]:
        """Its samples from the beginning, some seconds at a time."""
        if self.samples is None:
            yield from stream(self.source, BLOCK_SECONDS, sampling_rate=self.rate, allow_hosts=self.hosts)
            return
        size = round(BLOCK_SECONDS * self.rate)
        for start in range(0, len(self.samples), size):
            yield self.samples[start : start + size]

    def windows(self, length: int, left: int, right: int) -> Iterator[tuple[np.ndarray, int, int]]:
        """Windows of `length` samples that overlap: (samples, how many on the left and right belong to neighbours).

        The first has no left and the last no right neighbour.
        """
        if not 0 <= left + right < length:
            raise ValueError(
                f"windows of {length} samples cannot share {left} and {right}; allowed: less than the whole"
            )
        held, start, step = np.zeros(0, np.float32), 0, length - left - right
        for block in self.blocks():
            held = np.concatenate([held, block])
            while len(held) > length:  # so that the last one is not empty
                yield held[:length], left if start else 0, right
                held, start = held[step:], start + step
        if len(held):
            yield held, left if start else 0, 0

    def cut(self, length: int) -> Iterator[np.ndarray]:
        """The samples in windows of at most `length`, cut where it is quiet."""
        held = np.zeros(0, np.float32)
        for block in self.blocks():
            held = np.concatenate([held, block])
            while len(held) > length:
                end = last_pause(held[:length], self.rate)
                yield held[:end]
                held = held[end:]
        if len(held):
            yield held


def last_pause(samples: np.ndarray, rate: int) -> int:
    """The sample in the middle of the last pause in the last quarter of `samples`, or of the quietest place there.

    A place is as loud as the mean magnitude of the PAUSE seconds around it. It is a pause if it is louder than the
    quietest by at most QUIET of what the loudest is, as in Rabiner and Sambur 1975 (Bell System Technical Journal 54).
    To cut at the weakest point late in a window is WhisperX's rule (2303.00747, 3.2), where a model measures it.
    """
    size = max(1, round(FRAME * rate))
    count = len(samples) // size
    if count < 2 * PAUSE / FRAME:  # too short to have a place
        return len(samples)
    frames = samples[: count * size].reshape(count, size)
    width = round(PAUSE / FRAME)
    levels = np.convolve(np.abs(frames - frames.mean()).mean(1), np.full(width, 1 / width), "valid")
    late = levels[len(levels) * 3 // 4 :]
    quiet = np.flatnonzero(late <= late.min() + QUIET * (levels.max() - late.min()))
    return round((len(levels) - len(late) + int(quiet[-1]) + width / 2) * size)


def _is_samples(item: Any) -> bool:
    return isinstance(item, (list, tuple)) and len(item) > 0 and isinstance(item[0], (int, float, np.number))


def _name(source: Any) -> str:
    if isinstance(source, (bytes, bytearray, memoryview)):
        return f"bytes ({len(source):,})"
    return os.fspath(source) if isinstance(source, (str, os.PathLike)) else str(getattr(source, "name", "the file"))


def _from_source(source: Any, rate: int, hosts: Collection[str]) -> Recording:
    name = _name(source)
    if hasattr(source, "read"):  # cannot be opened a second time
        return Recording(name, rate, read(source, sampling_rate=rate, allow_hosts=hosts)[0], None, ())
    if isinstance(source, str) and not source:
        raise ValueError("the path is an empty string; allowed: the path of a sound file")
    pieces = stream(source, HELD_SECONDS, sampling_rate=rate, allow_hosts=hosts)
    samples = next(pieces, np.zeros(0, np.float32))
    longer = next(pieces, None) is not None
    pieces.close()  # type: ignore[attr-defined]
    return Recording(name, rate, None if longer else samples, source if longer else None, hosts)


def _from_mapping(item: Mapping[Any, Any], rate: int, hosts: Collection[str]) -> Recording:
    found = next((item[name] for name in ("array", "raw") if item.get(name) is not None), None)
    path, data = item.get("path"), item.get("bytes")
    name = str(path) if path is not None else "the audio"
    if found is not None:
        if "sampling_rate" not in item:
            raise ValueError(
                f'{name} has samples without "sampling_rate"; allowed: {{"array": ..., "sampling_rate": ...}}'
            )
        return Recording(name, rate, resample(mono(found, name), item["sampling_rate"], rate), None, ())
    if data is not None or path is not None:
        return _from_source(path if data is None else data, rate, hosts)
    raise ValueError(f"a clip has {', '.join(map(str, item)) or 'nothing'}; allowed: array (or raw) and sampling_rate")


class MelFrames:
    """Log-mel frames of a recording, read forward.

    One that fits the model's window is padded with silence; a longer one is normalised by its loudest frame, which a
    first pass finds, and its last window is filled with zeros.
    """

    def __init__(self, recording: Recording, processor: AudioProcessor):
        s = processor.settings
        self.recording, self.hop = recording, int(s["hop_length"])
        self.window = processor.n_samples // self.hop
        self.bank = LogMel(n_fft=s["n_fft"], hop=self.hop, mels=s["feature_size"], rate=s["sampling_rate"])
        self.whole: Tensor | None = None
        held = recording.samples
        if held is not None and len(held) <= processor.n_samples:
            found = processor(held, sampling_rate=recording.rate, return_tensors="pt")
            self.whole, self.total = found["input_features"][0], max(1, len(held) // self.hop)
            return
        self.peak, self.total = -float("inf"), 0
        for levels in self._levels(self.window):
            self.peak, self.total = max(self.peak, float(levels.max())), self.total + levels.shape[1]
        self._rewind()

    def _rewind(self) -> None:
        self.blocks, self.held, self.base, self.ended = self.recording.blocks(), np.zeros(0, np.float32), 0, False

    def _levels(self, count: int) -> Iterator[Tensor]:
        self._rewind()
        first = 0
        while (found := self._at(first, count)).shape[1]:
            yield found
            first += found.shape[1]

    def _at(self, first: int, count: int) -> Tensor:
        """(mels, at most `count`) from frame `first`, which never goes back."""
        half = self.bank.n_fft // 2
        need = (first + count + 1) * self.hop + half
        parts, length = [self.held], len(self.held)
        while not self.ended and self.base * self.hop + length < need:
            block = next(self.blocks, None)
            self.ended = block is None
            if block is not None:
                parts.append(block)
                length += len(block)
        self.held = np.concatenate(parts) if len(parts) > 1 else self.held
        keep = max(self.base, min(first, self.base + length // self.hop) - half // self.hop - 2)
        self.held, self.base = self.held[(keep - self.base) * self.hop :], keep
        last = min(first + count, self.base + len(self.held) // self.hop)
        return self.bank.levels(self.held, first - self.base, max(first, last) - self.base)

    def read(self, first: int) -> Tensor:
        """The model's window from frame `first` on: (mels, frames). `first` may only grow from call to call."""
        if self.whole is not None:
            found = self.whole[:, first:]
        else:
            found = LogMel.scaled(self._at(first, min(self.window, self.total - first)), self.peak)
        return torch.nn.functional.pad(found, (0, self.window - found.shape[1]))
