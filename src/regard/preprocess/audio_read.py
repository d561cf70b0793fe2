"""Sound of any kind to one channel of float32 at the rate that a model hears, whole or in a stream of flat memory."""

from __future__ import annotations

import os
import struct
from collections.abc import Collection, Iterator
from typing import Any, BinaryIO

import numpy as np

from regard.extras import need

from .media import TIMEOUT, Source, opened

MAX_AUDIO_BYTES = 4 * 2**30
"""Largest sound file that is read."""

MAX_SECONDS = 4 * 3600.0
"""Longest sound that is held in memory as a whole; `stream` reads longer ones."""

MIN_RATE, MAX_RATE = 1000, 768_000
"""Sample rates that are taken, in Hz."""

MAX_CHANNELS = 64
_BLOCK = 2**17  # samples a channel decoded at once
_UNKNOWN_LENGTH = 0xFFFFFFFF  # what writers put into a WAV header when they cannot know the length yet
_SCALES = {np.dtype(np.int16): 2.0**15, np.dtype(np.int32): 2.0**31}


def read(
    source: Source,
    *,
    sampling_rate: int | None = None,
    allow_hosts: Collection[str] = (),
    max_seconds: float = MAX_SECONDS,
    timeout: float = TIMEOUT,
) -> tuple[np.ndarray, int]:
    """A sound file as (samples (T,) of float32, the mean of its channels; rate in Hz).

    With `sampling_rate`, resampled to that. Raises ValueError, naming the source, for what is no sound, is cut short,
    has NaN, or lasts longer than `max_seconds`.
    """
    with opened(source, limit=MAX_AUDIO_BYTES, allow_hosts=allow_hosts, timeout=timeout) as (file, name):
        blocks = _Blocks(file, name, sampling_rate, max_seconds)
        parts = list(blocks)
    return np.concatenate(parts) if parts else np.zeros(0, np.float32), blocks.rate


def stream(
    source: Source,
    seconds: float,
    *,
    sampling_rate: int | None = None,
    allow_hosts: Collection[str] = (),
    max_seconds: float = float("inf"),
) -> Iterator[np.ndarray]:
    """Successive pieces (T,) of `seconds` each, the last one shorter, of a sound file of any length.

    Holds one piece at a time; with `sampling_rate`, resampled to that. Raises ValueError as `read` does.
    """
    if not seconds > 0:
        raise ValueError(f"seconds is {seconds}; allowed: more than 0")
    with opened(source, limit=MAX_AUDIO_BYTES, allow_hosts=allow_hosts) as (file, name):
        blocks = _Blocks(file, name, sampling_rate, max_seconds)
        size = max(1, round(seconds * blocks.rate))
        held, waiting = 0, []
        for block in blocks:
            waiting.append(block)
            held += len(block)
            while held >= size:
                joined = np.concatenate(waiting)
                yield joined[:size].copy()
                waiting, held = [joined[size:]], held - size
        if held:
            yield np.concatenate(waiting)


def duration(source: Source, *, allow_hosts: Collection[str] = ()) -> float | None:
    """The seconds of a sound file as it says itself, unread; None where the format does not. ValueError as `read`."""
    with opened(source, limit=MAX_AUDIO_BYTES, allow_hosts=allow_hosts) as (file, name):
        blocks = _Blocks(file, name, None, float("inf"))
        return blocks.claimed / blocks.own_rate if blocks.claimed < 2**62 else None


class _Blocks:
    """The samples of an open file, block by block, in one channel at `rate`."""

    def __init__(self, file: BinaryIO, name: str, rate: int | None, max_seconds: float) -> None:
        self.name, self.max_seconds = name, max_seconds
        soundfile = need("soundfile", "audio")
        check_whole(file, name)
        self.failure: type[Exception] = soundfile.SoundFileError
        try:
            self.sound = soundfile.SoundFile(file)
        except (soundfile.SoundFileError, TypeError, OSError) as error:
            reason = str(error).rpartition(": ")[2]  # before it stands the open file itself
            raise ValueError(f"{name} cannot be read as sound: {reason}") from None
        self.own_rate = int(self.sound.samplerate)
        check_rate(self.own_rate, name)
        if self.sound.channels > MAX_CHANNELS:
            raise ValueError(f"{name} has {self.sound.channels} channels; at most {MAX_CHANNELS} are read")
        self.rate = self.own_rate if rate is None else rate
        self.claimed = int(self.sound.frames)
        if self.claimed < 2**62:  # else the format does not say
            self._check_length(self.claimed)

    def _check_length(self, frames: int) -> None:
        if frames / self.own_rate > self.max_seconds:
            raise ValueError(
                f"{self.name} lasts more than {self.max_seconds:g} seconds, the most that are held in memory; "
                f"read it with stream"
            )

    def __iter__(self) -> Iterator[np.ndarray]:
        resampler = None
        if self.rate != self.own_rate:
            check_rate(self.rate, "sampling_rate")
            resampler = need("soxr", "audio").ResampleStream(self.own_rate, self.rate, 1, dtype="float32", quality="HQ")
        got = 0
        for block in self._mono():
            got += len(block)
            self._check_length(got)
            yield block if resampler is None else resampler.resample_chunk(block)
        if resampler is not None:
            yield resampler.resample_chunk(np.zeros(0, np.float32), last=True)
        if got < self.claimed < 2**62:
            raise ValueError(f"{self.name} is cut short: {got:,} samples of the {self.claimed:,} that it says it has")

    def _mono(self) -> Iterator[np.ndarray]:
        step = max(1, _BLOCK // self.sound.channels)
        while True:
            try:
                block = self.sound.read(step, dtype="float32", always_2d=True)  # (T, C)
            except (self.failure, OSError) as error:
                raise ValueError(f"{self.name} is damaged or cut short: {error}") from None
            if not len(block):
                return
            yield _finite(block.mean(axis=1, dtype=np.float32), self.name)


def check_whole(file: BinaryIO, name: str) -> None:
    """Refuse WAV and Ogg files that end before their own headers say, which decoders pass over in silence."""
    head = file.read(12)
    size = file.seek(0, os.SEEK_END)
    if head[:4] in (b"RIFF", b"RIFX") and head[8:] == b"WAVE":
        _check_wav(file, name, size, "<I" if head[:4] == b"RIFF" else ">I")
    elif head[:4] == b"OggS":
        file.seek(max(0, size - 2**17))
        tail = file.read()
        page = tail.rfind(b"OggS")
        whole = page >= 0 and len(tail) >= page + 27
        if whole:
            lengths = tail[page + 27 : page + 27 + tail[page + 26]]
            whole = len(lengths) == tail[page + 26] and page + 27 + len(lengths) + sum(lengths) <= len(tail)
        if not whole or not tail[page + 5] & 4:
            raise ValueError(f"{name} is cut short: its last Ogg page is missing")
    file.seek(0)


def _check_wav(file: BinaryIO, name: str, size: int, number: str) -> None:
    at = 12
    for _ in range(1000):
        file.seek(at)
        head = file.read(8)
        if len(head) < 8:
            raise ValueError(f"{name} is cut short: a WAV file without its data chunk")
        length = struct.unpack(number, head[4:])[0]
        if head[:4] == b"data":
            if length != _UNKNOWN_LENGTH and at + 8 + length > size:
                raise ValueError(
                    f"{name} is cut short: {size - at - 8:,} bytes of sound of the {length:,} that it says it has"
                )
            return
        at += 8 + length + length % 2
    raise ValueError(f"{name} has over 1,000 chunks before its sound")


def check_rate(rate: Any, name: str) -> None:
    """ValueError for a sample rate that is no whole number of Hz within MIN_RATE and MAX_RATE."""
    if isinstance(rate, bool) or not isinstance(rate, (int, np.integer)) or not MIN_RATE <= rate <= MAX_RATE:
        raise ValueError(f"{name}: the sample rate is {rate!r} Hz; allowed: a whole number {MIN_RATE} to {MAX_RATE}")


def mono(value: Any, name: str = "the audio", *, scaled: bool = True) -> np.ndarray:
    """Samples as float32 (T,): int16, int32 and uint8 `scaled` to -1..1; (T, C) or (C, T) averaged over channels.

    Of two dimensions the smaller is taken for the channels. ValueError for other types, NaN and infinities.
    """
    if hasattr(value, "detach"):
        value = value.detach().cpu()
        value = value.float().numpy() if value.is_floating_point() else value.numpy()
    try:
        array = np.asarray(value)
    except ValueError:
        raise ValueError(f"{name}: rows of different lengths are no sound") from None
    if array.ndim == 2:
        channels_last = array.shape[1] <= array.shape[0]
        if min(array.shape) > MAX_CHANNELS:
            raise ValueError(f"{name} has shape {array.shape}; allowed: (T,), (T, C) or (C, T)")
    elif array.ndim != 1:
        raise ValueError(f"{name} has shape {array.shape}; allowed: (T,), (T, C) or (C, T)")
    if not scaled and (array.dtype == np.uint8 or array.dtype in _SCALES):
        pass
    elif array.dtype == np.uint8:
        array = (array.astype(np.float32) - 128) / 128
    elif array.dtype in _SCALES:
        array = (array / _SCALES[array.dtype]).astype(np.float32)
    elif array.size and not np.issubdtype(array.dtype, np.floating):
        raise ValueError(f"{name} is of {array.dtype}; allowed: floating point, int16, int32, uint8")
    array = array.astype(np.float32, copy=False)
    if array.ndim == 2:
        array = array.mean(axis=1 if channels_last else 0, dtype=np.float32) if array.size else array.reshape(-1)
    return _finite(array, name)


def _finite(samples: np.ndarray, name: str) -> np.ndarray:
    if not np.isfinite(samples).all():
        raise ValueError(f"{name} has NaN or infinite samples")
    return samples


def resample(samples: np.ndarray, rate: int, target: int) -> np.ndarray:
    """(T,) at `rate` Hz to `target` Hz, by a band-limited filter; one sample in gives at least one out."""
    if rate == target or not len(samples):
        return samples
    check_rate(rate, "sampling_rate")
    if len(samples) / rate > MAX_SECONDS:
        raise ValueError(
            f"the audio lasts {len(samples) / rate:g} seconds; at most {MAX_SECONDS:g} are resampled at once"
        )
    found = need("soxr", "audio").resample(samples, rate, target, quality="HQ")
    return found if len(found) else samples[:1]
