"""Pixel values against the reference's Pillow processors, over kinds, sizes, settings and inputs."""

from __future__ import annotations

import importlib
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

Image = pytest.importorskip("PIL.Image")
pytest.importorskip("transformers")

from regard.preprocess.image import ImageProcessor  # noqa: E402
from regard.preprocess.image_kinds import KINDS  # noqa: E402

DATA = Path(os.environ.get("REGARD_TEST_DATA", Path(__file__).parents[3] / "shared"))
SIZES = [(37, 50), (300, 201), (224, 224), (96, 160), (1, 1), (5, 400), (1, 90), (90, 1), (333, 500)]
VIDEO = ("VideoMAE", "Timesformer")


def reference(kind: str, **settings: Any) -> Any:
    module = importlib.import_module(f"transformers.models.{kind.lower()}.image_processing_pil_{kind.lower()}")
    return getattr(module, f"{kind}ImageProcessorPil")(**settings)


def picture(height: int, width: int, mode: str = "RGB", seed: int = 0) -> Any:
    rng = np.random.default_rng(seed)
    channels = {"RGB": 3, "L": 1, "RGBA": 4, "CMYK": 4}[mode]
    noise = rng.integers(0, 256, (height, width, channels), dtype=np.uint8)
    return Image.fromarray(noise if channels > 1 else noise[..., 0]).convert(mode)


def pixels(output: Any) -> torch.Tensor:
    return output if isinstance(output, torch.Tensor) else output["pixel_values"]


def both(kind: str, folder: Path, **settings: Any) -> tuple[Any, ImageProcessor]:
    theirs = reference(kind, **settings)
    theirs.save_pretrained(folder)
    return theirs, ImageProcessor.from_folder(folder)


def check_same(ours: Any, theirs: Any) -> None:
    got, want = pixels(ours), pixels(theirs)
    assert got.shape == want.shape and got.dtype == want.dtype
    torch.testing.assert_close(got, want, rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in VIDEO])
def test_kinds_agree(kind: str, tmp_path: Path) -> None:
    theirs, ours = both(kind, tmp_path)
    for size in SIZES:
        if kind == "Yolos" and min(size) * 1333 < 16 * max(size):
            continue  # the reference resizes to nothing
        image = picture(*size)
        expected = theirs(image, return_tensors="pt")
        found = ours(image, return_tensors="pt")
        check_same(found, expected)
        if "pixel_mask" in found:
            assert torch.equal(found.pixel_mask, expected["pixel_mask"])


@pytest.mark.parametrize("kind", VIDEO)
def test_frames_make_one_item(kind: str) -> None:
    ours = ImageProcessor(kind)
    theirs = reference("VideoMAE", image_mean=list(ours.image_mean), image_std=list(ours.image_std))
    frames = [picture(60, 80, seed=i) for i in range(3)]
    for videos, shape in ((frames, (1, 3)), ([frames, frames], (2, 3)), (np.stack(frames), (1, 3))):
        found = ours(videos, return_tensors="pt")
        assert found.pixel_values.shape == (*shape, 3, 224, 224)
        check_same(found, theirs(list(videos), return_tensors="pt"))


CLIP_OLD = {"size": 30, "crop_size": 24, "feature_extractor_type": "CLIPFeatureExtractor"}
FOLDERS: list[tuple[str, dict[str, Any]]] = [
    ("CLIP", CLIP_OLD),
    ("CLIP", {"image_processor_type": "CLIPImageProcessorFast", "size": {"shortest_edge": 20}, "crop_size": 40}),
    (
        "CLIP",
        {"image_processor_type": "CLIPImageProcessor", "size": {"height": 21, "width": 31}, "crop_size": [25, 26]},
    ),
    ("CLIP", {"image_processor_type": "CLIPImageProcessor", "do_center_crop": False, "do_normalize": False}),
    ("ViT", {"feature_extractor_type": "ViTFeatureExtractor", "size": 32, "resample": 0}),
    ("ViT", {"image_processor_type": "ViTImageProcessor", "size": [20, 30], "do_rescale": False}),
    ("ViT", {"image_processor_type": "ViTImageProcessor", "do_resize": False, "rescale_factor": 1 / 127.5}),
    ("ViT", {"image_processor_type": "ViTImageProcessor", "do_rescale": False, "do_normalize": False}),
    ("ViT", {"image_processor_type": "ViTImageProcessor", "size": {"max_height": 40, "max_width": 50}}),
    ("DeiT", {"feature_extractor_type": "DeiTFeatureExtractor", "size": 40, "crop_size": 33}),
    ("Llava", {"image_processor_type": "LlavaImageProcessor", "do_pad": True}),
    ("Siglip", {"image_processor_type": "SiglipImageProcessor", "size": 30, "image_mean": 0.4, "image_std": 0.3}),
    ("Idefics", {"image_processor_type": "IdeficsImageProcessor", "image_size": 48}),
    ("Detr", {"feature_extractor_type": "DetrFeatureExtractor", "size": 50, "max_size": 70}),
    (
        "Detr",
        {
            "image_processor_type": "DetrImageProcessor",
            "pad_and_return_pixel_mask": False,
            "size": {"height": 30, "width": 20},
        },
    ),
    (
        "Detr",
        {
            "image_processor_type": "DetrImageProcessor",
            "size": {"shortest_edge": 30, "longest_edge": 90},
            "pad_size": {"height": 99, "width": 97},
        },
    ),
    ("Yolos", {"image_processor_type": "YolosImageProcessor", "size": {"shortest_edge": 64, "longest_edge": 90}}),
    (
        "MaskFormer",
        {"feature_extractor_type": "MaskFormerFeatureExtractor", "size": 60, "max_size": 80, "size_divisor": 7},
    ),
    ("Mask2Former", {"image_processor_type": "Mask2FormerImageProcessor", "max_size": 900}),
]


@pytest.mark.parametrize(("kind", "config"), FOLDERS, ids=lambda value: str(value)[:60])
def test_folders_of_every_age_agree(kind: str, config: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(config))
    names = ("feature_extractor_type", "image_processor_type")
    theirs = reference(kind, **{name: value for name, value in config.items() if name not in names})
    ours = ImageProcessor.from_folder(tmp_path)
    for size in [(37, 50), (64, 41), (24, 24)]:
        check_same(ours(picture(*size), return_tensors="pt"), theirs(picture(*size), return_tensors="pt"))


@pytest.mark.parametrize("resample", range(6))
@pytest.mark.parametrize("size", [(45, 33), (97, 130)])
def test_every_filter_agrees(resample: int, size: tuple[int, int]) -> None:
    theirs = reference("ViT", size={"height": 64, "width": 48}, resample=resample)
    names = ("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming")
    expected = theirs(picture(*size), return_tensors="pt")
    ours = ImageProcessor("ViT", {"size": {"height": 64, "width": 48}})
    check_same(ours(picture(*size), return_tensors="pt", resample=resample), expected)
    check_same(ours(picture(*size), return_tensors="pt", resample=names[resample]), expected)


@pytest.mark.parametrize("crop", [(10, 10), (33, 64), (64, 33), (51, 38), (1, 1), (80, 81)])
def test_center_crop_and_its_padding_agree(crop: tuple[int, int]) -> None:
    settings: dict[str, Any] = {"do_resize": False, "crop_size": {"height": crop[0], "width": crop[1]}}
    for size in [(50, 37), (51, 38), (64, 64), (9, 100)]:
        image = picture(*size)
        ours = ImageProcessor("CLIP", settings)(image, return_tensors="pt")
        check_same(ours, reference("CLIP", **settings)(image, return_tensors="pt"))


@pytest.mark.parametrize("kind", ["CLIP", "Siglip", "Blip"])
@pytest.mark.parametrize("mode", ["L", "RGBA", "CMYK", "P", "1", "LA", "PA"])
def test_modes_of_pillow_agree(kind: str, mode: str) -> None:
    image = picture(40, 60, "RGBA").convert(mode)
    check_same(ImageProcessor(kind)(image, return_tensors="pt"), reference(kind)(image, return_tensors="pt"))


def test_palette_with_a_transparent_colour_agrees() -> None:
    image = picture(20, 30).quantize(16)
    image.info["transparency"] = 3
    check_same(ImageProcessor("CLIP")(image, return_tensors="pt"), reference("CLIP")(image, return_tensors="pt"))


def inputs() -> dict[str, Any]:
    rng = np.random.default_rng(1)
    first = rng.integers(0, 256, (3, 40, 50), dtype=np.uint8)
    return {
        "uint8 first": first,
        "uint8 last": np.moveaxis(first, 0, 2),
        "float of 0 to 255": first.astype(np.float32),
        "int64": first.astype(np.int64),
        "fractions": rng.random((3, 40, 50), dtype=np.float32),
        "fractions last, double": rng.random((40, 50, 3)),
        "tensor": torch.from_numpy(first),
        "tensor of fractions": torch.rand(3, 40, 50, generator=torch.Generator().manual_seed(0)),
        "batch": np.stack([first, first[:, ::-1]]),
        "batch tensor": torch.rand(2, 3, 40, 50, generator=torch.Generator().manual_seed(0)),
        "list": [first, first[:, ::-1]],
        "nested": [[picture(40, 50)], [picture(30, 20)]],
        "alpha": rng.integers(0, 256, (40, 50, 4), dtype=np.uint8),
        "alpha fractions": rng.random((4, 40, 50)),
        "one channel": rng.integers(0, 256, (1, 40, 50), dtype=np.uint8),
    }


@pytest.mark.parametrize("name", inputs())
def test_arrays_and_tensors_agree(name: str) -> None:
    images = inputs()[name]
    for settings in ({}, {"do_resize": False, "do_center_crop": False}):
        if name == "nested" and settings:
            continue
        check_same(
            ImageProcessor("CLIP", settings)(images, return_tensors="pt"),
            reference("CLIP", **settings)(images, return_tensors="pt"),
        )


def test_a_batch_is_padded_with_masks_as_in_the_reference() -> None:
    images = [picture(30, 40), picture(50, 20), picture(33, 33)]
    for kind in ("Detr", "MaskFormer"):
        size = {"shortest_edge": 40, "longest_edge": 70}
        found = ImageProcessor(kind)(images, return_tensors="pt", size=size)
        expected = reference(kind)(images, return_tensors="pt", size=size)
        check_same(found, expected)
        assert torch.equal(found.pixel_mask, expected["pixel_mask"])
        assert set(found) == set(expected)


@pytest.mark.parametrize("reduce", [False, True])
def test_segmentation_maps_agree(reduce: bool) -> None:
    rng = np.random.default_rng(2)
    images = [picture(30, 40), picture(50, 20)]
    maps = [rng.integers(0, 5, image.size[::-1], dtype=np.uint8) for image in images]
    settings = {"do_reduce_labels": reduce, "size": {"height": 32, "width": 48}}
    found = ImageProcessor("Segformer", settings)(images, [m.copy() for m in maps], return_tensors="pt")
    expected = reference("Segformer", **settings)(images, [m.copy() for m in maps], return_tensors="pt")
    check_same(found, expected)
    assert torch.equal(found.labels, expected["labels"])
    settings = {"do_reduce_labels": reduce, "ignore_index": 255, "size": {"shortest_edge": 40, "longest_edge": 70}}
    found = ImageProcessor("Mask2Former", settings)(images, maps, return_tensors="pt")
    expected = reference("Mask2Former", **settings)(images, maps, return_tensors="pt")
    check_same(found, expected)
    for name in ("mask_labels", "class_labels"):
        for got, want in zip(found[name], expected[name], strict=True):
            assert torch.equal(got, want)


def test_instances_become_classes() -> None:
    labels = np.array([[1, 1, 2], [0, 2, 3]], dtype=np.uint8)
    names = {0: 7, 1: 5, 2: 5, 3: 6}
    settings = {"do_resize": False, "ignore_index": 255}
    image = picture(2, 3)
    found = ImageProcessor("MaskFormer", settings)(image, labels, instance_id_to_semantic_id=names, return_tensors="np")
    expected = reference("MaskFormer", **settings)(image, labels, names, return_tensors="np")
    np.testing.assert_array_equal(found.class_labels[0], expected["class_labels"][0])
    np.testing.assert_array_equal(found.mask_labels[0], expected["mask_labels"][0])


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in VIDEO])
def test_what_we_save_the_reference_reads(kind: str, tmp_path: Path) -> None:
    ours = ImageProcessor(kind, {"size": {"height": 32, "width": 48}, "note": "kept"})
    assert ours.save_pretrained(tmp_path) == (str(tmp_path / "preprocessor_config.json"),)
    theirs = type(reference(kind)).from_pretrained(tmp_path)
    image = picture(50, 70)
    check_same(ours(image, return_tensors="pt"), theirs(image, return_tensors="pt"))
    again = ImageProcessor.from_folder(tmp_path)
    assert again.settings == ours.settings and again.kind_name == kind and again.raw["note"] == "kept"


def test_settings_are_attributes_and_overrides_last_one_call() -> None:
    ours = ImageProcessor("ViT")
    assert ours.size == {"height": 224, "width": 224} and ours.image_mean == (0.5, 0.5, 0.5) and ours.do_resize
    image = picture(20, 30)
    assert ours(image, size=16)["pixel_values"][0].shape == (3, 16, 16)
    assert ours(image)["pixel_values"][0].shape == (3, 224, 224)
    ours.size = {"height": 8, "width": 9}
    assert ours(image, return_tensors="np").pixel_values.shape == (1, 3, 8, 9)
    half = ours(image, return_tensors="pt").to(torch.float16)
    assert half.pixel_values.dtype == torch.float16


def test_the_joined_config_wins_and_model_type_helps_out(tmp_path: Path) -> None:
    joined = {"image_processor": {"image_processor_type": "ViTImageProcessor", "size": 12}, "processor_class": "X"}
    (tmp_path / "processor_config.json").write_text(json.dumps(joined))
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"size": 20, "do_resize": True}))
    assert ImageProcessor.from_folder(tmp_path).size == {"height": 12, "width": 12}
    (tmp_path / "processor_config.json").unlink()
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "clip"}))
    ours = ImageProcessor.from_folder(tmp_path)
    assert ours.kind_name == "CLIP" and ours.size == {"shortest_edge": 20}


def test_a_real_checkpoint_gives_its_published_numbers() -> None:
    folder = DATA / "checkpoints" / "dinov2-small"
    if not folder.is_dir():
        pytest.skip(f"no {folder}; set REGARD_TEST_DATA")
    ours = ImageProcessor.from_folder(folder)
    assert ours.kind_name == "Bit" and ours.size == {"shortest_edge": 256}
    expected = json.loads((folder / "expected.json").read_text())
    for item in expected["images"]:
        found = ours(folder / item["image"], return_tensors="pt", do_resize=False, do_center_crop=False)
        assert found.pixel_values.shape == (1, 3, 224, 224)
        corner = torch.tensor(item["pixel_values_0_0_0to2_0to4"])
        torch.testing.assert_close(found.pixel_values[0, 0, :2, :4], corner, rtol=0, atol=1e-5)
        theirs = type(reference("Bit")).from_pretrained(folder)
        check_same(
            ours(folder / item["image"], return_tensors="pt"), theirs(str(folder / item["image"]), return_tensors="pt")
        )
