"""The steps of an image processor, on arrays (H, W, C): sizes, resizing, cropping, padding, numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from regard.extras import need

from .image_read import MAX_PIXELS, to_bytes


@dataclass(frozen=True, kw_only=True)
class Size:
    """A size in pixels, said in one of these ways; None where it is not said."""

    height: int | None = None
    width: int | None = None
    shortest_edge: int | None = None
    longest_edge: int | None = None
    max_height: int | None = None
    max_width: int | None = None

    def as_dict(self) -> dict[str, int]:
        """The parts that are said, as in preprocessor_config.json."""
        return {name: value for name, value in vars(self).items() if value is not None}


def output_size(size: Size, height: int, width: int, *, divisor: int = 0, floor_to: int = 0) -> tuple[int, int]:
    """(height, width) to which an image of `height` x `width` is resized.

    `divisor` rounds both up to a multiple, `floor_to` down. ValueError beyond MAX_PIXELS, which a very long and thin
    image easily is when its shortest edge grows.
    """
    if size.shortest_edge and size.longest_edge:
        new = _between_edges(height, width, size.shortest_edge, size.longest_edge, always=floor_to > 0)
    elif size.shortest_edge:
        short, long = min(height, width), max(height, width)
        grown = int(size.shortest_edge * long / short)
        new = (grown, size.shortest_edge) if width <= height else (size.shortest_edge, grown)
    elif size.max_height and size.max_width:
        scale = min(size.max_height / height, size.max_width / width)
        new = int(height * scale), int(width * scale)
    else:
        assert size.height and size.width
        new = size.height, size.width
    if divisor:
        new = math.ceil(new[0] / divisor) * divisor, math.ceil(new[1] / divisor) * divisor
    if floor_to:
        new = new[0] - new[0] % floor_to, new[1] - new[1] % floor_to
    least = max(1, floor_to)
    new = max(least, new[0]), max(least, new[1])
    if new[0] * new[1] > MAX_PIXELS:
        raise ValueError(
            f"an image of {height} x {width} would be resized to {new[0]} x {new[1]}; at most {MAX_PIXELS:,} pixels "
            f"are allowed; crop it first"
        )
    return new


def _between_edges(height: int, width: int, shortest: int, longest: int, *, always: bool) -> tuple[int, int]:
    """The shorter edge `shortest`, or less where the longer one would exceed `longest`.

    An image whose shorter edge is right already is left as it is; a tall one is not if `always`."""
    low, high = min(height, width), max(height, width)
    exact = float(shortest)
    if high / low * shortest > longest:
        exact = longest * float(low) / high
        shortest = round(exact)
    if low == shortest and not (always and width < height):
        return height, width
    if width < height:
        return int(exact * height / width), shortest
    return shortest, int(exact * width / height)


def resize(pixels: np.ndarray, size: tuple[int, int], resample: int) -> np.ndarray:
    """(H, W, C) -> (height, width, C) with Pillow's filter `resample`, at 8 bits also for floating-point pixels."""
    fractions = False
    if pixels.dtype != np.uint8:
        pixels, fractions = to_bytes(pixels)
    flat = pixels[:, :, 0] if pixels.shape[2] == 1 else pixels
    image = need("PIL.Image", "vision").fromarray(np.ascontiguousarray(flat))
    resized = np.asarray(image.resize((size[1], size[0]), resample=resample))
    resized = resized[:, :, None] if resized.ndim == 2 else resized
    return rescale(resized, 1 / 255) if fractions else resized


def center_crop(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The middle (height, width) of (H, W, C); zeros around it where the image is smaller."""
    height, width = size
    if height * width > MAX_PIXELS:
        raise ValueError(f"crop_size is {height} x {width}; at most {MAX_PIXELS:,} pixels are allowed")
    out = np.zeros((height, width, pixels.shape[2]), dtype=pixels.dtype)
    source, target = [], []
    for have, want in zip(pixels.shape[:2], size, strict=True):
        if have >= want:
            start = (have - want) // 2
            source.append(slice(start, start + want))
            target.append(slice(0, want))
        else:
            # An odd remainder goes to the side before the image.
            start = math.ceil((want - have) / 2)
            source.append(slice(0, have))
            target.append(slice(start, start + have))
    if all(part == slice(0, want) for part, want in zip(target, size, strict=True)):
        return pixels[source[0], source[1]]
    out[target[0], target[1]] = pixels[source[0], source[1]]
    return out


def pad_to_square(pixels: np.ndarray, colour: Sequence[int]) -> np.ndarray:
    """(H, W, C) in the middle of a square of one colour, its edge the longer edge."""
    height, width, channels = pixels.shape
    edge = max(height, width)
    if edge * edge > MAX_PIXELS:
        raise ValueError(
            f"an image of {height} x {width} would be padded to {edge} x {edge}; at most {MAX_PIXELS:,} pixels"
        )
    out = np.empty((edge, edge, channels), dtype=pixels.dtype)
    out[:] = np.asarray(colour, dtype=pixels.dtype)
    top, left = (edge - height) // 2, (edge - width) // 2
    out[top : top + height, left : left + width] = pixels
    return out


def pad(pixels: np.ndarray, size: tuple[int, int], fill: float = 0) -> np.ndarray:
    """(C, H, W) or (H, W) -> (..., height, width), the image at the top left."""
    height, width = pixels.shape[-2:]
    if height > size[0] or width > size[1]:
        raise ValueError(f"an image of {height} x {width} does not fit into the padded size {size[0]} x {size[1]}")
    if size[0] * size[1] > MAX_PIXELS:
        raise ValueError(f"images would be padded to {size[0]} x {size[1]}; at most {MAX_PIXELS:,} pixels are allowed")
    around = [(0, 0)] * (pixels.ndim - 2) + [(0, size[0] - height), (0, size[1] - width)]
    return np.pad(pixels, around, constant_values=fill)


def rescale(pixels: np.ndarray, factor: float) -> np.ndarray:
    """Pixels times a factor, float32; multiplied in double precision."""
    return (pixels.astype(np.float64) * factor).astype(np.float32)


def to_numbers(
    pixels: np.ndarray, factor: float | None, mean: Sequence[float] | None, std: Sequence[float] | None
) -> np.ndarray:
    """(H, W, C) -> (C, H, W): times `factor`, minus `mean`, over `std` (C numbers each, or None); uint8 if all None."""
    if factor is None and mean is None:
        return np.ascontiguousarray(np.moveaxis(pixels, 2, 0))
    if pixels.dtype == np.uint8 and pixels.shape[0] * pixels.shape[1] > 256:
        # 256 values a channel: compute each once and look the pixels up.
        values = np.repeat(np.arange(256, dtype=np.uint8)[:, None, None], pixels.shape[2], axis=2)
        table = _numbers(values, factor, mean, std)[:, 0, :]  # (256, C)
        return np.stack([np.take(table[:, c], pixels[:, :, c]) for c in range(pixels.shape[2])])
    return np.ascontiguousarray(np.moveaxis(_numbers(pixels, factor, mean, std), 2, 0))


def _numbers(
    pixels: np.ndarray, factor: float | None, mean: Sequence[float] | None, std: Sequence[float] | None
) -> np.ndarray:
    pixels = pixels.astype(np.float32) if factor is None else rescale(pixels, factor)
    if mean is not None and std is not None:
        pixels = (pixels - np.asarray(mean, dtype=np.float32)) / np.asarray(std, dtype=np.float32)
    return pixels
