"""The handwritten digits of scikit-learn as pictures: `python recipes/digits.py FOLDER` writes FOLDER/digits.

1,797 pictures of 8 x 8 points, dark ink on white paper, in a folder for each digit. Needs scikit-learn and Pillow.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits


def main(folder: Path) -> None:
    """Write every picture under its digit, its number in the set as its name."""
    found = load_digits()
    for i, (ink, digit) in enumerate(zip(found.images, found.target, strict=True)):
        path = folder / "digits" / str(digit) / f"{i:04}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.round(255 - ink * 255 / 16).astype(np.uint8)).save(path)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
