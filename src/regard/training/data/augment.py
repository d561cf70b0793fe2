"""Images and sounds that are never twice the same: what is done to them is drawn anew each time a row is read."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from regard.preprocess.audio_read import resample
from regard.training.base import Row

Kind = TypeVar("Kind", "AugmentImage", "AugmentSound")


def augmentation(kind: type[Kind], value: Any) -> Kind | None:
    """From the option of a recipe: true, false or a table of the kind's fields. Raises ValueError for anything else."""
    known = [field.name for field in dataclasses.fields(kind)]
    if isinstance(value, bool) or value is None:
        return kind() if value else None
    if not isinstance(value, Mapping) or not set(value) <= set(known):
        raise ValueError(f"augment is {value!r}; allowed: true, false, or a table of {', '.join(known)}")
    fields: dict[str, Any] = {name: tuple(x) if isinstance(x, list) else x for name, x in value.items()}
    return kind(**fields)


def _check(name: str, value: Any, below: float) -> None:
    if type(value) not in (int, float) or not 0 <= value < below:
        raise ValueError(f"augment.{name} is {value!r}; allowed: 0 up to, but not, {below:g}")


def crop(image: Tensor, size: tuple[int, int], area: tuple[float, float], rng: np.random.Generator) -> Tensor:
    """A random part of the area of an image (C, H, W), of sides between 3:4 and 4:3, at a size (1409.4842, 6)."""
    height, width = image.shape[1:]
    part = rng.uniform(*area) * height * width
    ratio = math.exp(rng.uniform(math.log(3 / 4), math.log(4 / 3)))
    h = min(height, max(1, round(math.sqrt(part / ratio))))
    w = min(width, max(1, round(math.sqrt(part * ratio))))
    top, left = int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1))
    view = image[None, :, top : top + h, left : left + w]
    return F.interpolate(view, size=size, mode="bicubic", antialias=True, align_corners=False)[0]


def mirrored(image: Tensor, rng: np.random.Generator) -> Tensor:
    """Left and right exchanged, half of the time."""
    return image.flip(-1) if rng.random() < 0.5 else image


def warped(image: Tensor, most: float, rng: np.random.Generator) -> Tensor:
    """An image (C, H, W) moved, turned and stretched: the six numbers of the map are up to `most` from doing nothing.

    What comes in from outside continues the edge. A small image is drawn larger first, as it would blur otherwise.
    """
    change = torch.from_numpy(rng.uniform(-most, most, (1, 2, 3))).to(image.dtype)
    places = F.affine_grid(torch.eye(2, 3, dtype=image.dtype) + change, [1, *image.shape], align_corners=False)
    fine, factor = image[None], _FINE // min(image.shape[1:])
    if factor > 1:
        fine = F.interpolate(fine, scale_factor=factor, mode="bicubic", antialias=True, align_corners=False)
    return F.grid_sample(fine, places, padding_mode="border", align_corners=False)[0]


_FINE = 64
"""Points of a side from which a warp between points loses little."""


@dataclass(frozen=True, kw_only=True)
class AugmentImage:
    """What is done to an image when it is learnt from: a crop of a part of its `area`, a mirror image half of the time
    (`flip`), a `warp` by up to such a part of its size. Crops are as large as what they are cut from, once scaled."""

    area: tuple[float, float] = (0.08, 1.0)
    flip: bool = True
    warp: float = 0.0

    def __post_init__(self) -> None:
        pair = isinstance(self.area, tuple) and len(self.area) == 2 and all(type(x) in (int, float) for x in self.area)
        if not pair or not 0 < self.area[0] <= self.area[1] <= 1:
            raise ValueError(f"augment.area is {self.area}; allowed: two rising numbers above 0, up to 1")
        _check("warp", self.warp, 1)
        if not isinstance(self.flip, bool):
            raise ValueError(f"augment.flip is {self.flip!r}; allowed: true or false")

    def __call__(self, row: Row, rng: np.random.Generator) -> Row:
        """The row with its `pixel_values` (C, H, W) changed. Raises ValueError for other shapes."""
        pixels = np.asarray(row["pixel_values"])
        if pixels.ndim != 3:
            raise ValueError(f"augment: pixel_values is {pixels.shape}; allowed: (channels, height, width)")
        image = torch.from_numpy(pixels.astype(np.float32))
        if self.area != (1, 1):
            image = crop(image, (image.shape[1], image.shape[2]), self.area, rng)
        if self.flip:
            image = mirrored(image, rng)
        if self.warp:
            image = warped(image, self.warp, rng)
        return {**row, "pixel_values": image.numpy()}


def shifted(sound: np.ndarray, most: float, rng: np.random.Generator) -> np.ndarray:
    """A sound (T,) that begins and ends up to a part `most` of its length earlier or later: cut, or with silence."""
    start, end = (int(x * len(sound)) for x in rng.uniform(-most, most, 2))
    sound = sound[max(start, 0) : len(sound) - max(-end, 0)]
    return np.pad(sound, (max(-start, 0), max(end, 0)))


@dataclass(frozen=True, kw_only=True)
class AugmentSound:
    """What is done to a sound when it is learnt from, each by up to so much: played faster or slower, and so higher or
    lower, by a part of its `speed` (Ko et al. 2015); moved by a part of its length at either end (`shift`); white
    `noise`, as a part of its loudness; made louder or softer by `gain` decibels, which a processor that evens loudness
    out undoes."""

    speed: float = 0.1
    shift: float = 0.05
    noise: float = 0.05
    gain: float = 6.0

    def __post_init__(self) -> None:
        for name, below in (("speed", 1), ("shift", 0.5), ("noise", 10), ("gain", 100)):
            _check(name, getattr(self, name), below)

    def __call__(self, sound: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Samples (T,), at least one, to others, of another number where speed or ends change."""
        speed, noise, gain = 1 + rng.uniform(-self.speed, self.speed), rng.uniform(0, self.noise), rng.uniform(-1, 1)
        if self.speed:
            sound = resample(sound, round(_RATE * speed), _RATE)
        if self.shift:
            sound = shifted(sound, self.shift, rng)
        if self.noise:
            loudness = math.sqrt(float(np.mean(sound.astype(np.float64) ** 2)))
            sound = sound + noise * loudness * rng.standard_normal(len(sound), dtype=np.float32)
        return (sound * 10 ** (gain * self.gain / 20)).astype(np.float32, copy=False)


_RATE = 16000
"""The rate at which sounds are thought to be played, whatever it is: only its change matters."""
