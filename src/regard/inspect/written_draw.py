"""Pictures of what a writer looked at: words against seconds, and words over an image."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

from regard.extras import need
from regard.inspect.written import ImageWritten, SoundWritten

MAX_WORDS = 64
"""Beyond this rows cannot be read; the picture shows the first ones and says so."""

_COLOURS = "viridis"
_INK = "#2b2b3a"


def sound_figure(found: SoundWritten, heads: Sequence[tuple[int, int]] | None = None, title: str = "") -> Any:
    """A matplotlib figure: the wave, and below it a row for each word, both along the same seconds.

    `heads` are the (layer, head) pairs whose mean is drawn, by default those that follow the sound. Raises
    MissingExtra without matplotlib.
    """
    figures = need("matplotlib.figure", "plot")
    map_ = found.mean(found.aligned if heads is None else heads)[:MAX_WORDS]  # (words, moments)
    words = [_label(text) for text, _ in found.words[:MAX_WORDS]]
    end = map_.shape[1] * found.step
    height = 0.26 * len(words)
    figure = figures.Figure(figsize=(min(16.0, max(7.0, 1.2 * end + 2.5)), height + 2.3), layout="constrained")
    grid = figure.add_gridspec(2, 1, height_ratios=[0.9, max(1.0, height)])
    wave = figure.add_subplot(grid[0])
    _wave(wave, found.samples, found.rate, end)
    axis = figure.add_subplot(grid[1], sharex=wave)
    drawn = axis.imshow(
        map_.numpy(),
        cmap=_COLOURS,
        vmin=0.0,
        vmax=_top(map_),
        extent=(0.0, end, len(words) - 0.5, -0.5),
        aspect="auto",
        interpolation="nearest",
    )
    axis.set_yticks(range(len(words)), words, fontsize=9)
    axis.tick_params(length=0, axis="y")
    axis.set_xlabel("seconds")
    axis.set_xlim(0.0, end)
    axis.spines[:].set_visible(False)
    for row in range(1, len(words)):
        axis.axhline(row - 0.5, color="white", linewidth=0.4, alpha=0.35)
    _bar(figure, drawn, [wave, axis])
    notes = [f"first {MAX_WORDS} words"] if len(found.words) > MAX_WORDS else []
    notes += [f"first {end:.0f} seconds"] if found.cut else []
    _title(figure, title, notes)
    return figure


def _wave(axis: Any, samples: np.ndarray, rate: int, end: float) -> None:
    """Loudness as a band between the lowest and the highest sample of each small stretch."""
    count = max(1, min(1200, len(samples)))
    cuts = np.linspace(0, len(samples), count + 1).astype(int)[:-1]
    low, high = np.minimum.reduceat(samples, cuts), np.maximum.reduceat(samples, cuts)
    axis.fill_between(cuts / rate, low, high, color=_INK, linewidth=0.3)
    axis.set_ylim(*(np.array([-1.1, 1.1]) * max(1e-6, float(np.abs(samples).max()))))
    axis.set_xlim(0.0, end)
    axis.set_yticks([])
    axis.tick_params(labelbottom=False, length=0)
    axis.spines[:].set_visible(False)


def words_figure(found: ImageWritten, heads: Sequence[tuple[int, int]] | None = None, title: str = "") -> Any:
    """A matplotlib figure: the image, and for each word the image again with the patches that were looked at.

    `heads` are the (layer, head) pairs whose mean is drawn, by default all. Raises MissingExtra without matplotlib.
    """
    figures = need("matplotlib.figure", "plot")
    maps = found.mean(found.all_heads() if heads is None else heads)[:MAX_WORDS]  # (words, rows, columns)
    words = [_label(text) for text, _ in found.words[:MAX_WORDS]]
    picture = found.image.permute(1, 2, 0).numpy()
    height, width = picture.shape[:2]
    grey = np.repeat(picture.mean(2, keepdims=True), 3, axis=2)
    columns = min(6, len(words) + 1)
    lines = math.ceil((len(words) + 1) / columns)
    side = 2.1
    tall = side * height / width + 0.35
    figure = figures.Figure(figsize=(columns * side + 0.9, lines * tall + 0.5), layout="constrained")
    axes = list(figure.subplots(lines, columns, squeeze=False).flat)
    for axis in axes:
        axis.set_axis_off()
    axes[0].imshow(picture)
    axes[0].set_title("image", fontsize=10, color="0.45", style="italic")
    drawn: Any = None
    for axis, word, map_ in zip(axes[1:], words, maps, strict=False):
        axis.imshow(grey, vmin=0.0, vmax=1.0)
        drawn = axis.imshow(
            map_.numpy(),
            cmap=_COLOURS,
            vmin=float(maps.min()),
            vmax=_top(maps),
            alpha=0.62,
            extent=(0, width, height, 0),
            interpolation="bilinear",
        )
        axis.set_xlim(0, width)
        axis.set_ylim(height, 0)
        axis.set_title(word, fontsize=11, color=_INK)
    _bar(figure, drawn, axes)
    _title(figure, title, [f"first {MAX_WORDS} words"] if len(found.words) > MAX_WORDS else [])
    return figure


def _top(values: Tensor) -> float:
    """Where the colours end: a few cells beyond it do not leave all others dark."""
    return max(1e-9, float(values.flatten().float().quantile(0.998)))


def _bar(figure: Any, drawn: Any, axes: Sequence[Any]) -> None:
    bar = figure.colorbar(drawn, ax=list(axes), fraction=0.03, pad=0.02, extend="max")
    bar.set_label("share of attention", fontsize=9)
    bar.ax.tick_params(labelsize=8, length=2)
    bar.outline.set_visible(False)


def _title(figure: Any, title: str, notes: Sequence[str]) -> None:
    said = _label(title, 110) + (f"  ({', '.join(notes)})" if notes else "")
    if said:
        figure.suptitle(said, fontsize=10, color=_INK)


def _label(text: str, most: int = 22) -> str:
    text = text.replace("$", r"\$").replace("\n", " ")
    return text if len(text) <= most else f"{text[: most - 1]}\u2026"
