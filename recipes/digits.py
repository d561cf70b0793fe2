"""The handwritten digits of scikit-learn, and what is none: `python recipes/digits.py FOLDER` writes FOLDER/digits.

1,797 pictures of 8 x 8 points, dark ink on white paper, in a folder for each digit; a fifth of them, drawn with the
digits in proportion, below `test`, all else below `train`. There the folder `none` has pictures of no digit: pieces of
the two photographs that come with scikit-learn, noise, letters, shapes and scribbles. Needs scikit-learn and Pillow.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont
from sklearn.datasets import load_digits, load_sample_images

from regard.training.data.split import split

SIDE = 64
NONE = 800
LETTERS = "AEHKMNRVWX"  # the others pass for digits, written badly


def main(folder: Path) -> None:
    """Write every picture under its digit, its number in the set as its name."""
    found = load_digits()
    order = np.argsort(found.target, kind="stable")
    parts = split(len(order), {"train": 0.8, "test": 0.2}, labels=found.target[order].tolist())
    for part, places in parts.items():
        for i in order[places]:
            pixels = np.round(255 - found.images[i] * 255 / 16).astype(np.uint8)
            save(Image.fromarray(pixels), folder / "digits" / part / str(found.target[i]), i)
    rng = np.random.default_rng(0)
    photos = [Image.fromarray(photo) for photo in load_sample_images().images]
    for i in range(NONE):
        save(KINDS[i % len(KINDS)](rng, photos), folder / "digits" / "train" / "none", i)


def save(image: Image.Image, folder: Path, number: int) -> None:
    """Write a picture under its number."""
    folder.mkdir(parents=True, exist_ok=True)
    image.save(folder / f"{number:04}.png")


def piece(rng: np.random.Generator, photos: list[Image.Image]) -> Image.Image:
    """A square of a photograph, in grey."""
    photo = photos[rng.integers(len(photos))]
    side = int(rng.integers(20, min(photo.size)))
    left, top = (int(rng.integers(full - side + 1)) for full in photo.size)
    return photo.crop((left, top, left + side, top + side)).resize((SIDE, SIDE)).convert("L")


def noise(rng: np.random.Generator, photos: list[Image.Image]) -> Image.Image:
    """Clouds of any grain, brightness and contrast; the finest are grey, and empty, once they are small."""
    grain = int(rng.choice([2, 3, 4, 6, 8, 64]))
    values = rng.uniform(0, 255) + rng.uniform(0, 127) * rng.standard_normal((grain, grain))
    return Image.fromarray(values.clip(0, 255).astype(np.uint8)).resize((SIDE, SIDE), Image.Resampling.BICUBIC)


def letter(rng: np.random.Generator, photos: list[Image.Image]) -> Image.Image:
    """A letter that is no digit, turned a little."""
    image, draw = paper()
    font, place = ImageFont.load_default(int(rng.integers(52, 76))), (SIDE / 2 + rng.uniform(-6, 6), SIDE / 2)
    draw.text(place, str(rng.choice(list(LETTERS))), 0, font, anchor="mm", stroke_width=int(rng.integers(5)))
    return image.rotate(rng.uniform(-15, 15), fillcolor=255)


def shape(rng: np.random.Generator, photos: list[Image.Image]) -> Image.Image:
    """One to three filled shapes of any grey, or their outlines."""
    image, draw = paper()
    for _ in range(rng.integers(1, 4)):
        grey, corners = int(rng.integers(200)), rng.uniform(0, SIDE, (2, 2))
        box = (*corners.min(0).tolist(), *(corners.max(0) + 12).tolist())
        if rng.random() < 0.4:
            draw.ellipse(box, grey)
        elif rng.random() < 0.5:
            draw.rectangle(box, grey)
        else:
            draw.polygon([tuple(point) for point in rng.uniform(0, SIDE, (int(rng.integers(3, 7)), 2))], grey)
    return image.filter(ImageFilter.GaussianBlur(rng.uniform(0, 3)))


def scribble(rng: np.random.Generator, photos: list[Image.Image]) -> Image.Image:
    """A line to and fro over the paper."""
    image, draw = paper()
    points = [tuple(point) for point in rng.uniform(4, SIDE - 4, (int(rng.integers(6, 14)), 2))]
    draw.line(points, int(rng.integers(100)), int(rng.integers(3, 9)), joint="curve")
    return image


def paper() -> tuple[Image.Image, ImageDraw.ImageDraw]:
    """White, and what draws on it."""
    image = Image.new("L", (SIDE, SIDE), 255)
    return image, ImageDraw.Draw(image)


KINDS = (piece, shape, noise, piece, shape, letter, piece, scribble)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
