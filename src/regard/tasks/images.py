"""Tasks on images: what they share, labels for an image, and its vectors."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from regard.config.vision import PooledHeadConfig
from regard.models.model import DualEncoder, Model, Output
from regard.preprocess.image import ImageProcessor
from regard.preprocess.image_read import load
from regard.tasks.base import Piece, Task
from regard.tasks.classification import label_scores
from regard.tasks.inputs import Inputs
from regard.tasks.media import LabelOptions, M, MediaOptions, read_media, reading
from regard.tasks.options import TaskOptions
from regard.tasks.progress import Meter

SUFFIXES = (".png", ".jpg", ".jpeg", ".jpe", ".gif", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".jp2", ".avif")


@dataclass(frozen=True, kw_only=True)
class ImageOptions(MediaOptions):
    """What every task of images takes."""


class ImageTask(Task[M]):
    """A task on images: each is a path, bytes, a `data:` URL, an open file, a PIL image, or an array or tensor.

    The path object of a folder stands for the images in it, an array of four dimensions for a batch. Images run in
    packs of equal size, never padded, so that a result depends on no other image.
    """

    options: ClassVar[type[TaskOptions]] = ImageOptions

    @property
    def image_processor(self) -> ImageProcessor:
        """What turns images into pixel values."""
        found: ImageProcessor = self.parts.image_processor
        return found

    def opened(self, inputs: Any) -> Inputs:
        return read_media(inputs, is_image, SUFFIXES)

    def picture(self, item: Any, options: M) -> Piece:
        """An image as a piece, its (height, width) as the note. ValueError says what is wrong with it."""
        return picture(item, options.access, self.image_processor, self.model)

    def pieces(self, item: Any, options: M) -> list[Piece]:
        return [self.picture(item, options)]

    def fits(self, pack: Sequence[Piece], piece: Piece, options: M) -> bool:
        shapes = [{name: value.shape for name, value in p.values.items()} for p in (pack[0], piece)]
        return shapes[0] == shapes[1] and super().fits(pack, piece, options)

    def inputs(self, pieces: Sequence[Piece]) -> dict[str, Tensor]:
        """The model's arguments for a pack."""
        names = pieces[0].values
        return {name: torch.cat([piece.values[name] for piece in pieces]).to(self.model.device) for name in names}

    def run(self, pieces: Sequence[Piece], options: M, meter: Meter) -> list[Any]:
        return self.split(self.model(**self.inputs(pieces)), options)

    def split(self, out: Output, options: M) -> list[Any]:
        """What each image keeps of a pack's output; unless a task says otherwise, the scores of its labels."""
        return list(out["logits"].float().cpu())


def picture(item: Any, access: dict[str, Any], processor: ImageProcessor, model: Model) -> Piece:
    """An image as a piece, as large as the patches that it makes; its (height, width) is the note."""
    with reading(item):
        image = load(item, **access)
    height, width = image.shape[:2] if hasattr(image, "shape") else image.size[::-1]
    features, front = processor(image, return_tensors="pt"), next(model.towers()).front
    values = {"pixel_values": features["pixel_values"]}
    if "pixel_mask" in features and "pixel_mask" in inspect.signature(front.forward).parameters:
        values["pixel_mask"] = features["pixel_mask"]
    pixels, patch = values["pixel_values"], getattr(front.config, "patch", (16, 16))
    size = max(1, (pixels.shape[-2] // patch[-2]) * (pixels.shape[-1] // patch[-1]))
    return Piece(values=values, size=size, note=(int(height), int(width)))


def is_image(value: Any) -> bool:
    """Whether this is one image that is in memory already."""
    return hasattr(value, "getbands") or (hasattr(value, "ndim") and value.ndim <= 3)


@dataclass(frozen=True, kw_only=True)
class ImageLabelOptions(LabelOptions):
    """Of images, five labels unless said."""

    top_k: int | None = 5


class ImageClassification(ImageTask[ImageLabelOptions]):
    """[{"label", "score"}] for an image, best first."""

    options = ImageLabelOptions

    def finish(
        self, item: Any, pieces: Sequence[Piece], outputs: Sequence[Tensor], options: ImageLabelOptions
    ) -> list[dict[str, Any]]:
        scores = label_scores(outputs[0], options.function_to_apply, self.model.raw.get("problem_type")).tolist()
        found = [
            {"label": label, "score": score} for label, score in zip(self.labels(len(scores)), scores, strict=True)
        ]
        found.sort(key=lambda entry: -entry["score"])
        return found[: options.top_k]


@dataclass(frozen=True, kw_only=True)
class ImageFeatureOptions(ImageOptions):
    """With `pool` one vector (1, C) in place of one for each token, (1, T, C); with `return_tensors` (True or "pt") a
    tensor instead of nested lists; with `vectors` the vector (C,) by which images are compared."""

    pool: bool | None = None
    return_tensors: bool | str | None = None
    vectors: bool = False


class ImageFeatureExtraction(ImageTask[ImageFeatureOptions]):
    """The last hidden state of each token (class token first), as nested lists (1, T, C); or one vector an image."""

    options = ImageFeatureOptions

    def run(self, pieces: Sequence[Piece], options: ImageFeatureOptions, meter: Meter) -> list[Tensor]:
        values = self.inputs(pieces)
        if options.vectors:
            return list(image_vectors(self.model, values["pixel_values"]).cpu())
        if isinstance(self.model, DualEncoder):
            pooled = options.pool
            found = self.model.get_image_features(**values) if pooled else self.model.vision(**values)[0]
        else:
            out = self.model(**values)
            name = "pooler_output" if options.pool else "last_hidden_state"
            if name not in out:
                raise ValueError(f"pool is True, but a {self.model.architecture} has no pooler; leave it out")
            found = out[name]
        return list(found.float().cpu())

    def finish(
        self, item: Any, pieces: Sequence[Piece], outputs: Sequence[Tensor], options: ImageFeatureOptions
    ) -> Any:
        if options.vectors:
            return outputs[0]
        return outputs[0][None].clone() if options.return_tensors else outputs[0][None].tolist()

    def embed(self, images: Any, **options: Any) -> Tensor:
        """One vector of length 1 for each image, (N, C), whose products are cosines; the options are those of a call.

        `images` is a list, a folder's path object, or anything lazy. Raises ValueError if there are none.
        """
        found = self(images, **options, vectors=True, on_error="raise")
        rows = [found] if isinstance(found, Tensor) else list(found)
        if not rows:
            raise ValueError("there are no images to embed; pass at least one")
        return torch.stack(rows)


def image_vectors(model: Model, pixels: Tensor) -> Tensor:
    """Vectors of length 1 for pixels (B, C, H, W) -> (B, D), float32: of the space shared with text where there is
    one, of the head that pools, or else of the first token (a plain pooler is seldom trained)."""
    if isinstance(model, DualEncoder):
        found = model.get_image_features(pixels)
    else:
        out, head = model(pixels), model.config.head
        found = out[head.output] if isinstance(head, PooledHeadConfig) else out["last_hidden_state"][:, 0]
    return F.normalize(found.float(), dim=-1)
