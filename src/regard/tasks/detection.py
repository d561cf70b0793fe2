"""What is where in an image: labels, scores and boxes in pixels, and a picture of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from regard.checkpoint.files import atomic
from regard.extras import need
from regard.models.model import Output
from regard.preprocess.image_read import read
from regard.tasks.base import Piece
from regard.tasks.images import ImageOptions, ImageTask

COLOURS = ("#e6194b", "#3cb44b", "#4363d8", "#f58231", "#911eb4", "#008080", "#9a6324", "#800000", "#808000", "#000075")
WRITTEN = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}
"""Suffixes of pictures that are written, and Pillow's names of them."""


@dataclass(frozen=True, kw_only=True)
class DetectionOptions(ImageOptions):
    """Only what scores above `threshold` is told."""

    threshold: float = 0.5

    def check(self) -> None:
        super().check()
        self.require(0 <= self.threshold <= 1, "threshold", "0 to 1")


class ObjectDetection(ImageTask[DetectionOptions]):
    """[{"score", "label", "box": {"xmin", "ymin", "xmax", "ymax"}}] for an image, boxes in its own pixels."""

    options = DetectionOptions

    def split(self, out: Output, options: DetectionOptions) -> list[dict[str, Tensor]]:
        pairs = zip(out["logits"].float().cpu(), out["pred_boxes"].float().cpu(), strict=True)
        return [{"logits": logits[None], "pred_boxes": boxes[None]} for logits, boxes in pairs]

    def finish(
        self, item: Any, pieces: Sequence[Piece], outputs: Sequence[Any], options: DetectionOptions
    ) -> list[dict[str, Any]]:
        (found,) = self.image_processor.post_process_object_detection(outputs[0], options.threshold, [pieces[0].note])
        names = self.labels(outputs[0]["logits"].shape[-1] - 1)
        rows = zip(found["scores"].tolist(), found["labels"].tolist(), found["boxes"].int().tolist(), strict=True)
        sides = ("xmin", "ymin", "xmax", "ymax")
        return [
            {"score": score, "label": names[label], "box": dict(zip(sides, box, strict=True))}
            for score, label, box in rows
        ]

    def save(self, item: Any, result: Any, path: Path) -> None:
        """The image with its boxes drawn, as .png, .jpg or .webp."""
        save_picture(draw_boxes(read(item), result), path)


def draw_boxes(image: Any, found: Sequence[dict[str, Any]]) -> Any:
    """A copy of a PIL image with the boxes of `found` (a result of object detection) and what they hold.

    Each label has a colour; the less likely come first, so that they hide nothing.
    """
    drawn = image.convert("RGB").copy()
    pen = need("PIL.ImageDraw", "vision").Draw(drawn)
    width = max(1, round(min(drawn.size) / 200))
    font = need("PIL.ImageFont", "vision").load_default(size=max(10, round(min(drawn.size) / 36)))
    labels = sorted({entry["label"] for entry in found})
    for entry in sorted(found, key=lambda entry: float(entry["score"])):
        colour = COLOURS[labels.index(entry["label"]) % len(COLOURS)]
        left, right = sorted((entry["box"]["xmin"], entry["box"]["xmax"]))
        top, bottom = sorted((entry["box"]["ymin"], entry["box"]["ymax"]))
        pen.rectangle((left, top, right, bottom), outline=colour, width=width)
        text = f"{entry['label']} {entry['score']:.2f}"
        _, _, wide, high = pen.textbbox((0, 0), text, font=font)
        x, y = max(0, min(left, drawn.width - wide - 4)), max(0, top - high - 4)
        pen.rectangle((x, y, x + wide + 4, y + high + 4), fill=colour)
        pen.text((x + 2, y + 1), text, fill="white", font=font)
    return drawn


def save_picture(image: Any, path: Path) -> None:
    """Write a PIL image to a file; ValueError for a suffix that is none of WRITTEN, or a folder that is not there."""
    kind = WRITTEN.get(path.suffix.lower())
    if kind is None:
        raise ValueError(f"output is {str(path)!r}; allowed: a name that ends in {', '.join(WRITTEN)}")
    if not path.parent.is_dir():
        raise ValueError(f"there is no folder {str(path.parent)!r} to write {path.name!r} into")
    with atomic(path) as temporary:
        image.save(temporary, format=kind)
