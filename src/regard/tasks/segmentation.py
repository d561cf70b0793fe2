"""Which pixels of an image are what: a mask for each label or each thing, and a picture of them."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from torch import Tensor

from regard.extras import need
from regard.models.model import Output
from regard.preprocess.image_read import read
from regard.tasks.base import Piece
from regard.tasks.detection import COLOURS, save_picture
from regard.tasks.images import ImageOptions, ImageTask

SUBTASKS = ("panoptic", "instance", "semantic")
"""The best first: what is tried where none is asked for."""
FIELDS = ("logits", "pred_masks", "class_queries_logits", "masks_queries_logits")
"""Outputs from which segments are made, by the kind of model."""
MOST_NAMED = 40  # entries of a legend


@dataclass(frozen=True, kw_only=True)
class SegmentationOptions(ImageOptions):
    """`subtask` is "semantic" (one mask a label, no scores), "instance" or "panoptic" (no pixel in two masks); unsaid
    the last of these that the model can. `threshold` is the least score of an instance's label, `mask_threshold` that
    of a pixel; what others leave less than `overlap_mask_area_threshold` of is dropped."""

    subtask: Literal["semantic", "instance", "panoptic"] | None = None
    threshold: float = 0.9
    mask_threshold: float = 0.5
    overlap_mask_area_threshold: float = 0.5

    def check(self) -> None:
        super().check()
        for name in ("threshold", "mask_threshold", "overlap_mask_area_threshold"):
            self.require(0 <= getattr(self, name) <= 1, name, "0 to 1")


class ImageSegmentation(ImageTask[SegmentationOptions]):
    """[{"score", "label", "mask"}] for an image: masks are PIL images of its size, 255 inside and 0 outside."""

    options = SegmentationOptions

    def setup(self) -> None:
        super().setup()
        if not self.able:
            kind = self.image_processor.kind_name
            raise ValueError(
                f"{self.info.name} needs an image processor that makes masks, and {self.model.name or 'this model'} "
                f"has a {kind}ImageProcessor"
            )

    @property
    def able(self) -> list[str]:
        """The subtasks of this model, the best first."""
        return [name for name in SUBTASKS if name in self.image_processor.kind.results]

    def pieces(self, item: Any, options: SegmentationOptions) -> list[Piece]:
        if options.subtask not in (None, *self.able):
            allowed = ", ".join(map(repr, self.able))
            raise ValueError(f"subtask is {options.subtask!r}; allowed for this model: {allowed}")
        return super().pieces(item, options)

    def split(self, out: Output, options: SegmentationOptions) -> list[dict[str, Tensor]]:
        found = {name: out[name].float().cpu() for name in FIELDS if name in out}
        count = len(next(iter(found.values()), ()))
        return [{name: value[i : i + 1] for name, value in found.items()} for i in range(count)]

    def finish(
        self, item: Any, pieces: Sequence[Piece], outputs: Sequence[Any], options: SegmentationOptions
    ) -> list[dict[str, Any]]:
        out, sizes, task = outputs[0], [pieces[0].note], options.subtask or self.able[0]
        if task == "semantic":
            (classes,) = self.image_processor.post_process_semantic_segmentation(out, sizes)
            names = self.labels(self._count(out))
            return [
                {"score": None, "label": names[label], "mask": _mask(classes, label)}
                for label in classes.unique().tolist()
            ]
        post = getattr(self.image_processor, f"post_process_{task}_segmentation")
        limits = (options.threshold, options.mask_threshold, options.overlap_mask_area_threshold)
        (found,) = post(out, *limits, target_sizes=sizes)
        names = self.labels(self._count(out))
        return [
            {
                "score": entry["score"],
                "label": names[entry["label_id"]],
                "mask": _mask(found["segmentation"], entry["id"]),
            }
            for entry in found["segments_info"]
        ]

    @staticmethod
    def _count(out: dict[str, Tensor]) -> int:
        """How many labels there are; models of queries have one more, "nothing"."""
        if "class_queries_logits" in out:
            return out["class_queries_logits"].shape[-1] - 1
        logits = out["logits"]
        return logits.shape[1] if logits.ndim == 4 else logits.shape[-1] - 1

    def plain(self, result: Any) -> Any:
        """Masks as COCO's run lengths, with `area` in pixels and `box`; what `--json` prints.

        `mask` is {"size": [height, width], "counts": [...]}: lengths of runs outside, inside, outside, ... of the
        pixels column by column, as pycocotools takes them.
        """
        return result if isinstance(result, dict) else [_plain(entry) for entry in result]

    def shown(self, result: Any) -> Any:
        """Labels with their share of the image, in place of masks."""
        if isinstance(result, dict):
            return result
        rows = [{"score": entry["score"], "label": entry["label"], "share": _share(entry["mask"])} for entry in result]
        return [{**row, "share": f"{row['share']:.1%}"} for row in rows]

    def save(self, item: Any, result: Any, path: Path) -> None:
        """The image with its masks in colours and a legend below, as .png, .jpg or .webp."""
        if isinstance(result, dict):
            raise ValueError(f"nothing to draw: {result.get('error')}")
        save_picture(draw_masks(read(item), result), path)


def _mask(segmentation: Tensor, number: int) -> Any:
    return need("PIL.Image", "vision").fromarray((segmentation == number).numpy().astype(np.uint8) * 255)


def _share(mask: Any) -> float:
    return float((np.asarray(mask) > 0).mean())


def _plain(entry: dict[str, Any]) -> dict[str, Any]:
    inside = np.asarray(entry["mask"]) > 0
    rows, columns = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
    edges = (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1) if len(rows) else (0, 0, 0, 0)
    box = dict(zip(("xmin", "ymin", "xmax", "ymax"), map(int, edges), strict=True))
    kept = {"score": entry["score"], "label": entry["label"], "area": int(inside.sum()), "box": box}
    return {**kept, "mask": {"size": list(inside.shape), "counts": counts(inside)}}


def counts(mask: np.ndarray) -> list[int]:
    """Lengths of runs outside and inside a mask (height, width), in turn, column by column; the first may be 0."""
    flat = np.concatenate([[False], np.asarray(mask, dtype=bool).ravel(order="F")])
    edges = np.flatnonzero(flat[1:] != flat[:-1])
    return [int(n) for n in np.diff(np.concatenate([[0], edges, [flat.size - 1]]))]


def colour(number: int) -> tuple[int, int, int]:
    """A colour for a segment, far from those of its neighbours in number."""
    if number < len(COLOURS):
        value = int(COLOURS[number][1:], 16)
        return value >> 16, value >> 8 & 255, value & 255
    hue = number * 0.618034 % 1
    red, green, blue = colorsys.hsv_to_rgb(hue, 0.9 if number % 2 else 0.6, 0.85 if number % 3 else 0.6)
    return round(255 * red), round(255 * green), round(255 * blue)


def draw_masks(image: Any, found: Sequence[dict[str, Any]]) -> Any:
    """A copy of a PIL image with the masks of `found` (a result of image segmentation) in colours, and below it a
    legend: what each colour is, with its score, or else its share of the image. Smaller masks lie above larger ones.
    """
    pil = need("PIL.Image", "vision")
    picture = image.convert("RGB")
    pixels = np.asarray(picture).astype(np.float32)
    order = sorted(range(len(found)), key=lambda i: -_share(found[i]["mask"]))
    for i in order:
        inside = np.asarray(found[i]["mask"]) > 0
        pixels[inside] = 0.45 * np.asarray(picture)[inside] + 0.55 * np.asarray(colour(i), dtype=np.float32)
    drawn = pil.fromarray(np.round(pixels).astype(np.uint8))
    return _with_legend(drawn, [(colour(i), _named(found[i])) for i in order])


def _named(entry: dict[str, Any]) -> str:
    score = entry["score"]
    return f"{entry['label']} " + (f"{_share(entry['mask']):.1%}" if score is None else f"{score:.2f}")


def _with_legend(drawn: Any, names: list[tuple[tuple[int, int, int], str]]) -> Any:
    """The picture with rows of coloured squares and names below it, on white."""
    if not names:
        return drawn
    size = max(10, round(min(drawn.size) / 36))
    font = need("PIL.ImageFont", "vision").load_default(size=size)
    left = len(names) - MOST_NAMED
    shown = [(fill, text if len(text) <= 40 else text[:39] + "…") for fill, text in names[:MOST_NAMED]]
    shown += [((255, 255, 255), f"and {left} more")] if left > 0 else []
    places, x, y, high = [], size // 2, size // 2, round(1.5 * size)
    for _, text in shown:
        wide = round(1.5 * size + font.getlength(text) + size)
        if x > size and x + wide > drawn.width:
            x, y = size // 2, y + high
        places.append((x, y))
        x += wide
    pil = need("PIL.Image", "vision")
    whole = pil.new("RGB", (drawn.width, drawn.height + y + high), "white")
    whole.paste(drawn, (0, 0))
    pen = need("PIL.ImageDraw", "vision").Draw(whole)
    for (fill, text), (x, y) in zip(shown, places, strict=True):
        top = drawn.height + y
        pen.rectangle((x, top, x + size, top + size), fill=fill)
        pen.text((x + round(1.4 * size), top - size // 8), text, fill="black", font=font)
    return whole
