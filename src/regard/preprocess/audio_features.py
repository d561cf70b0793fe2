"""Spectral features of sound: the log-mel spectrogram of Whisper, the filter bank of Kaldi. Computed in blocks of
frames, so that only the features themselves grow with the length of the sound."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
import torch

_FRAMES = 3000  # frames computed at once


def _slaney_mel(hertz: np.ndarray) -> np.ndarray:
    """Mels of Slaney's Auditory Toolbox: linear below 1 kHz, logarithmic above."""
    linear = 3 * hertz / 200
    return np.where(hertz < 1000, linear, 15 + 27 * np.log(np.maximum(hertz, 1000) / 1000) / np.log(6.4))


def _slaney_hertz(mel: np.ndarray) -> np.ndarray:
    return np.where(mel < 15, 200 * mel / 3, 1000 * np.exp(np.log(6.4) * (np.maximum(mel, 15) - 15) / 27))


def _kaldi_mel(hertz: np.ndarray) -> np.ndarray:
    return 1127 * np.log1p(hertz / 700)


def _triangles(points: np.ndarray, corners: np.ndarray) -> np.ndarray:
    """(len(points), len(corners) - 2): filter i rises from corner i to i + 1 and falls to i + 2."""
    rise = (points[:, None] - corners[:-2]) / np.diff(corners)[:-1]
    fall = (corners[2:] - points[:, None]) / np.diff(corners)[1:]
    return np.maximum(0, np.minimum(rise, fall))


@functools.cache
def mel_filters(bins: int, mels: int, rate: int) -> np.ndarray:
    """(bins, mels): Slaney's triangles from 0 to 8 kHz, each of unit area."""
    corners = _slaney_hertz(np.linspace(0.0, float(_slaney_mel(np.array(8000.0))), mels + 2))
    filters = _triangles(np.linspace(0, rate // 2, bins), corners)
    return filters * (2 / (corners[2:] - corners[:-2]))


@functools.cache
def kaldi_filters(bins: int, mels: int, rate: int) -> np.ndarray:
    """(bins, mels): triangles in mels from 20 Hz to half the rate."""
    low, high = _kaldi_mel(np.array([20.0, float(rate // 2)]))
    points = _kaldi_mel(rate / (2 * (bins - 1)) * np.arange(bins))
    return _triangles(points, np.linspace(low, high, mels + 2))


@dataclass(frozen=True, kw_only=True)
class LogMel:
    """Whisper's log-mel spectrogram: frames of `n_fft` samples around every `hop`-th, `mels` bands."""

    n_fft: int = 400
    hop: int = 160
    mels: int = 80
    rate: int = 16000

    def __call__(self, samples: np.ndarray) -> np.ndarray:
        """(T,) -> (mels, T // hop), float32; the range is the loudest 80 dB of the whole."""
        out = self.levels(samples, 0, len(samples) // self.hop)
        return self.scaled(out, out.max()).numpy() if out.numel() else out.numpy()

    @staticmethod
    def scaled(levels: torch.Tensor, peak: torch.Tensor | float) -> torch.Tensor:
        """Levels within 80 dB of the loudest, brought to about -1 to 1; changed in place."""
        return levels.clamp_(min=float(peak) - 8.0).add_(4.0).div_(4.0)

    def levels(self, samples: np.ndarray, first: int, last: int) -> torch.Tensor:
        """(mels, last - first): decimal logarithms of the power in each band, of frames `first` to `last`."""
        out = torch.empty(self.mels, last - first)
        if last <= first:
            return out
        filters = torch.from_numpy(mel_filters(self.n_fft // 2 + 1, self.mels, self.rate).T.astype(np.float32))
        window = torch.hann_window(self.n_fft)
        for start in range(first, last, _FRAMES):
            end = min(start + _FRAMES, last)
            piece = torch.from_numpy(self._around(samples, start, end))
            spectrum = torch.stft(piece, self.n_fft, self.hop, window=window, center=False, return_complex=True)
            power = spectrum.abs().square_()  # (bins, end - start)
            torch.matmul(filters, power, out=out[:, start - first : end - first])
        return out.clamp_(min=1e-10).log10_()

    def _around(self, samples: np.ndarray, first: int, last: int) -> np.ndarray:
        """The samples of frames `first` to `last`, mirrored at the ends."""
        half = self.n_fft // 2
        start, end = first * self.hop - half, (last - 1) * self.hop - half + self.n_fft
        inside = samples[max(0, start) : max(0, min(end, len(samples)))]
        before, after = max(0, -start), max(0, end - len(samples))
        if max(before, after) < len(inside):
            return np.pad(inside, (before, after), mode="reflect")
        return np.pad(samples, (half, half), mode="reflect")[start + half : end + half]  # a very short sound


@dataclass(frozen=True, kw_only=True)
class KaldiFilterBank:
    """Kaldi's log filter bank: 25 ms every 10 ms at 16 kHz, each frame centred and pre-emphasised."""

    mels: int = 128
    rate: int = 16000
    frame: int = 400
    hop: int = 160
    n_fft: int = 512
    preemphasis: float = 0.97
    floor: float = 1.192092955078125e-07

    def __call__(self, samples: np.ndarray, max_frames: int) -> np.ndarray:
        """(T,) -> (frames, mels), float32, of the first `max_frames` frames that fit."""
        frames = min(max_frames, max(0, 1 + (len(samples) - self.frame) // self.hop))
        out = np.empty((frames, self.mels), dtype=np.float32)
        filters = kaldi_filters(self.n_fft // 2 + 1, self.mels, self.rate)
        window = np.hanning(self.frame)
        for first in range(0, frames, _FRAMES):
            last = min(first + _FRAMES, frames)
            piece = samples[first * self.hop : (last - 1) * self.hop + self.frame].astype(np.float64)
            cut = np.lib.stride_tricks.sliding_window_view(piece, self.frame)[:: self.hop]
            cut = cut - cut.mean(axis=1, keepdims=True)
            before = np.concatenate([cut[:, :1], cut[:, :-1]], axis=1)
            spectrum = np.fft.rfft((cut - self.preemphasis * before) * window, n=self.n_fft)
            power = spectrum.real**2 + spectrum.imag**2
            out[first:last] = np.log(np.maximum(power @ filters, self.floor))
        return out


def standardise(samples: np.ndarray) -> np.ndarray:
    """Mean 0 and variance 1, as float32; nothing for nothing."""
    if not len(samples):
        return samples
    return (samples - samples.mean()) / np.sqrt(samples.var() + 1e-7)
