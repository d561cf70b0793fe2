"""Images that are never twice the same: crops, mirror images and small shifts, drawn anew each time a row is read."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from regard.training.base import Row


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

    What comes in from outside continues the edge.
    """
    change = torch.from_numpy(rng.uniform(-most, most, (1, 2, 3))).to(image.dtype)
    places = F.affine_grid(torch.eye(2, 3, dtype=image.dtype) + change, [1, *image.shape], align_corners=False)
    return F.grid_sample(image[None], places, padding_mode="border", align_corners=False)[0]


@dataclass(frozen=True, kw_only=True)
class Augment:
    """What is done to an image when it is learnt from: a crop of a part of its `area`, a mirror image half of the time
    (`flip`), a `warp` by up to such a part of its size. Crops are as large as what they are cut from, once scaled."""

    area: tuple[float, float] = (0.08, 1.0)
    flip: bool = True
    warp: float = 0.0

    def __post_init__(self) -> None:
        pair = isinstance(self.area, tuple) and len(self.area) == 2 and all(type(x) in (int, float) for x in self.area)
        if not pair or not 0 < self.area[0] <= self.area[1] <= 1:
            raise ValueError(f"augment.area is {self.area}; allowed: two rising numbers above 0, up to 1")
        if type(self.warp) not in (int, float) or not 0 <= self.warp < 1:
            raise ValueError(f"augment.warp is {self.warp!r}; allowed: 0 up to, but not, 1")
        if not isinstance(self.flip, bool):
            raise ValueError(f"augment.flip is {self.flip!r}; allowed: true or false")

    @staticmethod
    def of(value: Any) -> Augment | None:
        """From the option of a recipe: true, false or a table of these fields. Raises ValueError for anything else."""
        known = {field.name for field in dataclasses.fields(Augment)}
        if isinstance(value, bool) or value is None:
            return Augment() if value else None
        if not isinstance(value, Mapping) or not set(value) <= known:
            raise ValueError(f"augment is {value!r}; allowed: true, false, or a table of {', '.join(sorted(known))}")
        fields: dict[str, Any] = {name: tuple(x) if isinstance(x, list) else x for name, x in value.items()}
        return Augment(**fields)

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
