"""Images to pixel values: `ImageProcessor.from_folder(path)` reads what published checkpoints carry."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from regard.checkpoint.files import read_json, write_json

from . import image_ops as ops
from . import image_results as results
from .features import Features
from .image_kinds import BY_MODEL, KINDS, NEAREST, kind_name
from .image_labels import class_masks, map_of, reduced
from .image_read import load, with_channels
from .image_settings import SETTINGS, ImageSettings, parse
from .media import is_source

FILES = ("processor_config.json", "preprocessor_config.json")


class ImageProcessor:
    """Turns images into `pixel_values` for a model, and a model's boxes and masks back into those of the images.

    Use `ImageProcessor.from_folder(folder)`; calling the object processes images. Settings (`size`, `image_mean`,
    `do_resize`, ...) are attributes with the names of preprocessor_config.json, and may be assigned.
    """

    def __init__(self, kind: str, raw: Mapping[str, Any] | None = None, *, where: str = "ImageProcessor") -> None:
        """`kind` is a class name such as "ViTImageProcessor", `raw` settings that differ from its own."""
        self.kind_name = kind_name(kind if kind not in KINDS else f"{kind}ImageProcessor")
        self.kind = KINDS[self.kind_name]
        self.raw = dict(raw or {})
        if "image_num_channels" in self.kind.defaults and isinstance(self.raw.get("image_size"), int):
            self.raw["size"] = self.raw.pop("image_size")
        self.where = where
        self.allow_hosts: Collection[str] = ()
        self.settings = parse(self.kind, self.raw, where)

    @classmethod
    def from_folder(cls, path: str | os.PathLike[str]) -> ImageProcessor:
        """Read the image processor in a folder; ValueError names the file that is missing or wrong."""
        raw, where = read_config(Path(path), "image_processor")
        name = raw.get("image_processor_type") or raw.get("feature_extractor_type")
        if name is None:
            config = Path(path) / "config.json"
            model = read_json(config).get("model_type") if config.is_file() else None
            if model not in BY_MODEL:
                raise ValueError(f"{where}: image_processor_type is missing, and config.json says {model!r}")
            name = BY_MODEL[model]
            return cls(name, raw, where=where)
        if not isinstance(name, str):
            raise ValueError(f"{where}: image_processor_type is {name!r}; allowed: a name such as ViTImageProcessor")
        return cls(name, raw, where=where)

    def save_pretrained(self, save_directory: str | os.PathLike[str]) -> tuple[str, ...]:
        """Write preprocessor_config.json into a folder and return its path."""
        folder = Path(save_directory)
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / FILES[1], self.to_dict())
        return (str(folder / FILES[1]),)

    def to_dict(self) -> dict[str, Any]:
        """The settings as preprocessor_config.json has them, with what else the folder said."""
        said = {name: value for name, value in self.raw.items() if name not in ("feature_extractor_type", "auto_map")}
        values = {name: getattr(self, name) for name in SETTINGS if name in self.kind.defaults or name in self.raw}
        lists = {name: list(value) for name, value in values.items() if isinstance(value, tuple)}
        own = {name: value for name, value in values.items() if value is not None}
        return {**self.kind.defaults, **said, **own, **lists, "image_processor_type": f"{self.kind_name}ImageProcessor"}

    def __getattr__(self, name: str) -> Any:
        if name in SETTINGS and "settings" in self.__dict__:
            value = getattr(self.settings, name)
            return value.as_dict() if isinstance(value, ops.Size) else value
        raise AttributeError(f"{type(self).__name__} has no {name!r}")

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in SETTINGS:
            return super().__setattr__(name, value)
        raw = {**self.raw, name: value}
        self.settings = parse(self.kind, raw, self.where)
        self.raw = raw
        return None

    def __repr__(self) -> str:
        return f"ImageProcessor({self.kind_name}, {self.settings})"

    @property
    def model_input_names(self) -> list[str]:
        """Names of what a call gives."""
        return ["pixel_values", "pixel_mask"] if self.kind.pad in ("batch", "always") else ["pixel_values"]

    def __call__(
        self,
        images: Any,
        segmentation_maps: Any = None,
        *,
        return_tensors: str | None = None,
        instance_id_to_semantic_id: Any = None,
        **overrides: Any,
    ) -> Features:
        """Process an image or a batch: `pixel_values` (B, C, H, W), or (B, T, C, H, W) where items are lists of frames.

        An image is a path, URL (on a host in `allow_hosts`), bytes, open file, PIL image, array or tensor. `overrides`
        are settings for this call. ValueError names what is wrong.
        """
        unknown = sorted(set(overrides) - set(SETTINGS))
        if unknown:
            raise ValueError(f"{unknown[0]} is no setting of an image processor; allowed: {', '.join(SETTINGS)}")
        settings = self.settings
        if overrides:
            settings = parse(self.kind, {**self.raw, **overrides}, "this call")
        if self.kind.video:
            if segmentation_maps is not None:
                raise ValueError("segmentation_maps: videos take none")
            videos = [[self._pixels(frame, settings) for frame in video] for video in nested(images)]
            return Features({"pixel_values": videos}).convert_to_tensors(return_tensors)
        out = self._images(flat(images), settings)
        if segmentation_maps is not None:
            self._labels(out, flat(segmentation_maps, least=2), settings, instance_id_to_semantic_id)
        lists = {name: out.pop(name) for name in ("mask_labels", "class_labels") if name in out}
        features = Features(out).convert_to_tensors(return_tensors)
        for name, value in lists.items():  # one count of classes an image: no common tensor
            features[name] = [Features({name: item}).convert_to_tensors(return_tensors)[name] for item in value]
        return features

    preprocess = __call__

    def _images(self, images: list[Any], settings: ImageSettings) -> dict[str, Any]:
        pixels = [self._pixels(image, settings) for image in images]
        if not (self.kind.pad == "always" or (self.kind.pad == "batch" and settings.do_pad)) or not pixels:
            return {"pixel_values": pixels}
        size = self._padded(pixels, settings)
        masks = [ops.pad(np.ones(image.shape[1:], dtype=np.int64), size) for image in pixels]
        return {"pixel_values": [ops.pad(image, size) for image in pixels], "pixel_mask": masks}

    def _padded(self, pixels: list[np.ndarray], settings: ImageSettings) -> tuple[int, int]:
        if settings.pad_size is not None:
            assert settings.pad_size.height and settings.pad_size.width
            return settings.pad_size.height, settings.pad_size.width
        return max(image.shape[-2] for image in pixels), max(image.shape[-1] for image in pixels)

    def _pixels(self, source: Any, settings: ImageSettings) -> np.ndarray:
        """(C, H, W) of one image."""
        image = with_channels(load(source, allow_hosts=self.allow_hosts), settings.channels)
        channels = image.shape[2]
        mean, std = _per_channel(settings.image_mean, channels), _per_channel(settings.image_std, channels)
        if self.kind.pad == "square" and settings.do_pad:
            image = ops.pad_to_square(image, [int(x * 255) for x in mean] if mean else [0] * channels)
        image = self._resized(image, settings, settings.resample)
        if settings.do_center_crop and settings.crop_size is not None:
            assert settings.crop_size.height and settings.crop_size.width
            image = ops.center_crop(image, (settings.crop_size.height, settings.crop_size.width))
        factor = settings.rescale_factor if settings.do_rescale else None
        return ops.to_numbers(image, factor, *((mean, std) if settings.do_normalize else (None, None)))

    def _resized(self, image: np.ndarray, settings: ImageSettings, resample: int) -> np.ndarray:
        if not settings.do_resize or settings.size is None:
            return image
        size = ops.output_size(
            settings.size, *image.shape[:2], divisor=settings.size_divisor, floor_to=self.kind.floor_to
        )
        return ops.resize(image, size, resample)

    def _labels(self, out: dict[str, Any], maps: list[Any], settings: ImageSettings, instances: Any) -> None:
        """Add what segmentation maps become, resized with the images."""
        if self.kind.masks == "none":
            raise ValueError(f"segmentation_maps: {self.kind_name} takes none")
        if len(maps) != len(out["pixel_values"]):
            raise ValueError(f"{len(out['pixel_values'])} images but {len(maps)} segmentation maps")
        found = [map_of(source, allow_hosts=self.allow_hosts) for source in maps]
        if self.kind.masks == "labels":
            if settings.do_reduce_labels:
                found = [reduced(labels, 255) for labels in found]
            out["labels"] = [self._resized(labels, settings, NEAREST)[..., 0].astype(np.int64) for labels in found]
            return
        size = self._padded(out["pixel_values"], settings)
        out["mask_labels"], out["class_labels"] = [], []
        for index, labels in enumerate(found):
            names = instances[index] if isinstance(instances, list) else instances
            labels, fill = self._resized(labels, settings, NEAREST)[..., 0], settings.ignore_index or 0
            masks, classes = class_masks(labels, names, settings.ignore_index, reduce=settings.do_reduce_labels)
            out["mask_labels"].append(ops.pad(masks, size, fill))
            out["class_labels"].append(classes)

    # back from the model

    def _how(self, task: str) -> str:
        if task not in self.kind.results:
            raise ValueError(
                f"{self.kind_name} gives no {task.replace('_', ' ')}; it gives: {', '.join(self.kind.results)}"
            )
        return self.kind.results[task]

    def post_process_object_detection(
        self, outputs: Any, threshold: float = 0.5, target_sizes: Any = None
    ) -> list[dict[str, Any]]:
        """For each image `scores` (N,), `labels` (N,) and `boxes` (N, 4) as x0, y0, x1, y1: in pixels of
        `target_sizes`, (height, width) of each image, or else in fractions."""
        self._how("object_detection")
        return results.detections(outputs, threshold, target_sizes)

    def post_process_semantic_segmentation(self, outputs: Any, target_sizes: Any = None) -> list[Any]:
        """For each image a map (H, W) of class numbers, at its (height, width) in `target_sizes` or the model's own."""
        return results.semantic(outputs, self._how("semantic"), target_sizes)

    def post_process_instance_segmentation(
        self,
        outputs: Any,
        threshold: float = 0.5,
        mask_threshold: float = 0.5,
        overlap_mask_area_threshold: float = 0.8,
        target_sizes: Any = None,
        return_coco_annotation: bool = False,
    ) -> list[dict[str, Any]]:
        """For each image `segmentation` (H, W), the number of the segment at each pixel, and `segments_info`."""
        how = results.Segments(threshold=threshold, mask_threshold=mask_threshold, overlap=overlap_mask_area_threshold)
        found = results.instances(outputs, self._how("instance"), how, target_sizes)
        if return_coco_annotation:
            for item in found:
                item["segmentation"] = results.run_lengths(item["segmentation"])
        return found

    def post_process_panoptic_segmentation(
        self,
        outputs: Any,
        threshold: float = 0.5,
        mask_threshold: float = 0.5,
        overlap_mask_area_threshold: float = 0.8,
        label_ids_to_fuse: Collection[int] | None = None,
        target_sizes: Any = None,
    ) -> list[dict[str, Any]]:
        """As for instances, every pixel in at most one segment; labels in `label_ids_to_fuse` make one segment each."""
        how = results.Segments(
            threshold=threshold,
            mask_threshold=mask_threshold,
            overlap=overlap_mask_area_threshold,
            fuse=frozenset(label_ids_to_fuse or ()),
        )
        return results.panoptic(outputs, self._how("panoptic"), how, target_sizes)


def _per_channel(value: tuple[float, ...] | float | None, channels: int) -> tuple[float, ...] | None:
    return (value,) * channels if isinstance(value, float) else value


def flat(images: Any, least: int = 3) -> list[Any]:
    """Images in whatever lists or batches they come, as one list; an array of over `least` dimensions is a batch."""
    if isinstance(images, (list, tuple)):
        return [item for image in images for item in flat(image, least)]
    if not is_source(images) and getattr(images, "ndim", 0) > least:
        return [item for image in images for item in flat(image, least)]
    return [images]


def nested(videos: Any) -> list[list[Any]]:
    """Videos as lists of frames: one video is a list of frames or an array (T, ...), a batch is a list of videos."""
    if not isinstance(videos, (list, tuple)):
        ndim = getattr(videos, "ndim", 0)
        return [flat(video) for video in videos] if ndim == 5 else [flat(videos)]
    if any(isinstance(item, (list, tuple)) or getattr(item, "ndim", 0) == 4 for item in videos):
        return [flat(video) for video in videos]
    return [list(videos)]


def read_config(folder: Path, part: str) -> tuple[dict[str, Any], str]:
    """Settings of a part ("image_processor", "feature_extractor") of a folder's processor, and the file they are from.

    processor_config.json wins where it holds the part; ValueError where there are none.
    """
    joined, plain = folder / FILES[0], folder / FILES[1]
    if joined.is_file():
        found = read_json(joined)
        names: Sequence[str] = (part, "video_processor") if part == "image_processor" else (part, "audio_processor")
        for name in names:
            if isinstance(found.get(name), dict):
                return found[name], f"{joined}: {name}"
        own = "image_processor_type" if part == "image_processor" else "feature_extractor_type"
        if not plain.is_file() and own in found:
            return found, str(joined)
    for file in (plain, folder / "video_preprocessor_config.json"):
        if file.is_file():
            return read_json(file), str(file)
    raise ValueError(f"{folder} has no {' or '.join(FILES)} with an {part}")
