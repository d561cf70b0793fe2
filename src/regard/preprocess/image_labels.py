"""Segmentation maps, one class or instance number a pixel, to what models are trained on."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from .image_read import MAX_PIXELS, decode
from .media import is_source


def map_of(source: Any, *, allow_hosts: Collection[str] = ()) -> np.ndarray:
    """(H, W, 1) of uint8, from an image with one channel (grey or palette) or a 2-dimensional array."""
    if is_source(source) and not hasattr(source, "getbands"):
        source = decode(source, allow_hosts=allow_hosts)
    if hasattr(source, "detach"):
        source = source.detach().cpu().numpy()
    if hasattr(source, "getbands"):
        if source.size[0] * source.size[1] > MAX_PIXELS or source.mode not in ("L", "P", "1"):
            raise ValueError(f"a segmentation map of mode {source.mode!r}; allowed: one number a pixel, 'L' or 'P'")
        return np.asarray(source).astype(np.uint8)[:, :, None]
    if isinstance(source, np.ndarray):
        labels = source.squeeze(0) if source.ndim == 3 and source.shape[0] == 1 else source
        if labels.ndim != 2 or not np.issubdtype(labels.dtype, np.integer):
            raise ValueError(f"a segmentation map of {source.dtype} {source.shape}; allowed: whole numbers (H, W)")
        if labels.size and (labels.min() < 0 or labels.max() > 255):
            raise ValueError(f"a segmentation map with numbers {labels.min()} to {labels.max()}; allowed: 0 to 255")
        return labels.astype(np.uint8)[:, :, None]
    raise ValueError(f"a {type(source).__name__} is no segmentation map; allowed: a path, PIL image, array or tensor")


def reduced(labels: np.ndarray, ignore: int) -> np.ndarray:
    """Numbers less one, for maps where 0 is a background that no class stands for; 0 and `ignore` become `ignore`."""
    return np.where((labels == 0) | (labels == ignore), ignore, labels - 1).astype(labels.dtype)


def class_masks(
    labels: np.ndarray, names: Mapping[int, int] | None, ignore: int | None, *, reduce: bool
) -> tuple[np.ndarray, np.ndarray]:
    """A map (H, W) as one mask a number that occurs (N, H, W) float32, and the class of each (N,).

    `names` maps instance numbers to classes. With `reduce`, numbers and classes are one less, and 0 is `ignore`.
    """
    if reduce and ignore is None:
        raise ValueError("do_reduce_labels is true, so ignore_index must be given")
    wide = labels.astype(np.int64)
    if reduce and ignore is not None:
        wide = np.where(wide == 0, ignore, wide - 1)
    numbers = np.unique(wide)
    if ignore is not None:
        numbers = numbers[numbers != ignore]
    masks = (wide[None] == numbers[:, None, None]).astype(np.float32)
    if names is None:
        return masks, numbers
    shift = 1 if reduce else 0
    missing = [int(n) + shift for n in numbers if int(n) + shift not in names]
    if missing:
        raise ValueError(f"instance_id_to_semantic_id has no class for instance {missing[0]}")
    return masks, np.array([names[int(n) + shift] - shift for n in numbers], dtype=np.int64)
