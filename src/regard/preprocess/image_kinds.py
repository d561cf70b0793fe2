"""The kinds of image processor that checkpoints name, as data: what each starts from and in what it differs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

HALF = (0.5, 0.5, 0.5)
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
NEAREST, LANCZOS, BILINEAR, BICUBIC, BOX, HAMMING = range(6)
"""Pillow's numbers of its filters, as configuration files have them."""


@dataclass(frozen=True, kw_only=True)
class ImageKind:
    """How one kind of image processor works, where its folder does not say otherwise."""

    defaults: Mapping[str, Any] = field(default_factory=dict)
    square: bool = True
    """Whether a size given as one number means height and width, not the shorter edge."""
    video: bool = False
    """Whether an item is a list of frames: pixel_values (B, T, C, H, W)."""
    pad: str = "none"
    """What do_pad does: "square" before resizing, "batch" to the largest at the end with pixel_mask, "none" nothing.
    "always" is "batch" whatever do_pad says."""
    floor_to: int = 0
    """Resized edges are cut to a multiple of this."""
    size_divisor: int = 0
    """Resized edges are raised to a multiple of this, unless the folder says another."""
    masks: str = "none"
    """What segmentation_maps become: "labels" (one map), "masks" (one mask a class), "none" where they are refused."""
    results: Mapping[str, str] = field(default_factory=dict)
    """Task of `post_process_*` -> how."""


def _kind(**options: Any) -> ImageKind:
    """A kind from the fields of ImageKind; every other name is a default setting. All resize, rescale, normalise."""
    own = {name: options.pop(name) for name in list(options) if name in ImageKind.__dataclass_fields__}
    usual = {"do_resize": True, "do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True}
    return ImageKind(defaults={**usual, **options}, **own)


_SQUARE_224 = {"height": 224, "width": 224}
_CLIP = {"image_mean": CLIP_MEAN, "image_std": CLIP_STD, "resample": BICUBIC, "do_convert_rgb": True}
_CROPPED = {"size": {"shortest_edge": 224}, "crop_size": _SQUARE_224, "do_center_crop": True, "square": False}
_IMAGENET = {"image_mean": IMAGENET_MEAN, "image_std": IMAGENET_STD, "resample": BILINEAR}
_PLAIN = {"image_mean": HALF, "image_std": HALF, "resample": BILINEAR}
_EDGES = {"size": {"shortest_edge": 800, "longest_edge": 1333}, "square": False}
_DETECT = {**_IMAGENET, **_EDGES, "do_pad": True, "pad": "batch"}
_SEGMENT = {**_IMAGENET, **_EDGES, "pad": "always", "size_divisor": 32, "masks": "masks"}

KINDS: dict[str, ImageKind] = {
    "ViT": _kind(**_PLAIN, size=_SQUARE_224),
    "DeiT": _kind(
        **{**_PLAIN, "resample": BICUBIC},
        size={"height": 256, "width": 256},
        crop_size=_SQUARE_224,
        do_center_crop=True,
    ),
    "Bit": _kind(**_CLIP, **_CROPPED),
    "CLIP": _kind(**_CLIP, **_CROPPED),
    "Llava": _kind(**_CLIP, **_CROPPED, pad="square", do_pad=False),
    "Siglip": _kind(**{**_PLAIN, "resample": BICUBIC}, size=_SQUARE_224, square=False, do_convert_rgb=True),
    "Blip": _kind(**_CLIP, size={"height": 384, "width": 384}),
    "Idefics": _kind(**_CLIP, size=_SQUARE_224, image_num_channels=3),
    "VideoMAE": _kind(**_PLAIN, **_CROPPED, video=True),
    "Timesformer": _kind(**_IMAGENET, **_CROPPED, video=True),
    "Detr": _kind(
        **_DETECT,
        results={"object_detection": "softmax", "semantic": "detr", "instance": "detr", "panoptic": "detr"},
    ),
    "Yolos": _kind(**_DETECT, floor_to=16, results={"object_detection": "softmax"}),
    "Segformer": _kind(
        **_IMAGENET,
        size={"height": 512, "width": 512},
        do_reduce_labels=False,
        masks="labels",
        results={"semantic": "logits"},
    ),
    "MaskFormer": _kind(
        **_SEGMENT,
        do_reduce_labels=False,
        results={"semantic": "maskformer", "instance": "maskformer", "panoptic": "maskformer"},
    ),
    "Mask2Former": _kind(
        **_SEGMENT,
        do_reduce_labels=False,
        results={"semantic": "mask2former", "instance": "mask2former", "panoptic": "mask2former"},
    ),
}

BY_MODEL: dict[str, str] = {
    model: kind
    for kind, models in {
        "ViT": "vit swin vit_msn",
        "DeiT": "deit",
        "Bit": "dinov2 dinov2_with_registers bit",
        "CLIP": "clip clip_vision_model altclip",
        "Llava": "llava",
        "Siglip": "siglip siglip_vision_model",
        "Blip": "blip blip-2 instructblip",
        "Idefics": "idefics",
        "VideoMAE": "videomae timesformer",
        "Detr": "detr",
        "Yolos": "yolos",
        "Segformer": "segformer",
        "MaskFormer": "maskformer",
        "Mask2Former": "mask2former",
    }.items()
    for model in models.split()
}
"""model_type of config.json -> kind, for folders whose preprocessor_config.json names none."""

_ENDINGS = ("ImageProcessorFast", "ImageProcessorPil", "ImageProcessor", "FeatureExtractor", "VideoProcessor")


def kind_name(class_name: str) -> str:
    """The kind behind a class name of any age, such as ViTFeatureExtractor or CLIPImageProcessorFast.

    ValueError for a kind that is not known here, as its steps are not known either.
    """
    for ending in _ENDINGS:
        if class_name.endswith(ending):
            stem = class_name.removesuffix(ending)
            if stem in KINDS:
                return stem
    raise ValueError(f"image_processor_type is {class_name!r}; known: {', '.join(f'{k}ImageProcessor' for k in KINDS)}")
