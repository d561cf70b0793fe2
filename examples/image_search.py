"""Find photos like a photo: `python examples/image_search.py MODEL FOLDER PHOTO... -o sheet.png --keep FILE`.

MODEL is any checkpoint that gives vectors of images, such as facebook/dinov2-small (a folder, or a hub id). The photos
of FOLDER are read once; with --keep their vectors are kept in a file and read from there the next time.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

SIDE = 180  # pixels of a small picture on the sheet


def search(
    model: str | os.PathLike[str], folder: Path, photos: Sequence[Path], *, count: int = 5, keep: Path | None = None
) -> list[list[dict[str, Any]]]:
    """For each photo its nearest in the folder, [{"image", "score"}], best first; the score is a cosine."""
    import regard

    pipe = regard.pipeline("image-text-retrieval", model)
    kept = keep is not None and keep.is_file()
    index = keep if kept else pipe.index(folder, on_error="skip")
    if not kept:
        for name, why in index.skipped.items():
            print(f"left out {name}: {why}", file=sys.stderr)
        if keep is not None:
            index.save(keep)
    found: list[list[dict[str, Any]]] = pipe([{"image": photo} for photo in photos], index=index, top_k=count)
    return found


def sheet(photos: Sequence[Path], found: Sequence[Sequence[dict[str, Any]]]) -> Any:
    """A picture with a row for each photo: itself on the left, and what was found, with the scores."""
    from PIL import Image, ImageDraw, ImageOps

    gap, text = 12, 16
    width = (1 + max(map(len, found))) * (SIDE + gap) + 3 * gap
    out = Image.new("RGB", (width, len(photos) * (SIDE + text + gap) + gap), "white")
    draw = ImageDraw.Draw(out)
    for row, (photo, near) in enumerate(zip(photos, found, strict=True)):
        top = gap + row * (SIDE + text + gap)
        entries = [(str(photo), "asked"), *((entry["image"], f"{entry['score']:.2f}") for entry in near)]
        for column, (name, note) in enumerate(entries):
            left = gap + column * (SIDE + gap) + (2 * gap if column else 0)
            with Image.open(name) as image:
                out.paste(ImageOps.fit(image.convert("RGB"), (SIDE, SIDE)), (left, top))
            draw.text((left, top + SIDE + 2), f"{note}  {Path(name).stem}"[:30], fill="#2b2b3a")
    return out


def main(words: Sequence[str] | None = None) -> None:
    """Search, print, and draw if asked to."""
    parser = argparse.ArgumentParser(description="Find photos like a photo.")
    parser.add_argument("model", help="a checkpoint that gives vectors of images")
    parser.add_argument("folder", type=Path, help="the photos to search")
    parser.add_argument("photos", type=Path, nargs="+", metavar="photo", help="what to look for")
    parser.add_argument("-n", "--count", type=int, default=5, help="how many to find for each (5)")
    parser.add_argument("-o", "--out", type=Path, help="draw what was found into this file")
    parser.add_argument("--keep", type=Path, help="keep the vectors in this file (.safetensors), or read them from it")
    given = parser.parse_args(words)
    try:
        found = search(given.model, given.folder, given.photos, count=given.count, keep=given.keep)
        for photo, near in zip(given.photos, found, strict=True):
            print(photo)
            for entry in near:
                print(f"  {entry['score']:.3f}  {entry['image']}")
        if given.out is not None:
            sheet(given.photos, found).save(given.out)
    except (ValueError, ImportError, OSError) as error:
        sys.exit(f"image_search: {error}")


if __name__ == "__main__":
    main()
