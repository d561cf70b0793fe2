"""The doors to models and processors of images, and the tutorials' code that goes through them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("PIL.Image")

import regard.hf as hf
from regard.models.registry import families
from tests.hf import hub
from tests.hf.test_snippets import run, tensor_size
from tests.preprocess.folders import FOLDERS
from tests.tasks.seeing import CROPPED, SMALL, TEXT, VISION, Made, photo, saved, words

MASKFORMER = families()["maskformer"].tiny["maskformer"]
PAIRS = [
    ("ViTImageProcessor", "ViTForImageClassification"),
    ("AutoImageProcessor", "AutoModelForImageClassification"),
]


@pytest.fixture(scope="module")
def vit(tmp_path_factory: pytest.TempPathFactory) -> Made:
    pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("vit")
    return saved(folder, "ViTForImageClassification", "ViT", settings=SMALL, labels=["cat", "dog", "owl"], **VISION)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Made:
    pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("clip")
    FOLDERS["clip"](folder)
    ends = words(folder)
    text = {**TEXT, "vocab_size": len(ends), "bos_token_id": ends.bos_token_id, "eos_token_id": ends.eos_token_id}
    text["pad_token_id"] = ends.pad_token_id
    config = {"text_config": text, "vision_config": VISION, "projection_dim": 24}
    return saved(folder, "CLIPModel", "CLIP", settings=CROPPED, tokenizer="clip", **config)


@pytest.mark.parametrize("names", PAIRS)
def test_classes_of_images_give_what_the_reference_gives(vit: Made, names: tuple[str, str]) -> None:
    processor, model = (getattr(hf, name).from_pretrained(vit[2]) for name in names)
    assert isinstance(processor, getattr(hf, names[0])) and isinstance(model, getattr(hf, names[1]))
    with torch.no_grad():
        ours = model.eval()(**processor(images=photo(), return_tensors="pt")).logits
        theirs = vit[0](**vit[1](images=photo(), return_tensors="pt")).logits
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["CLIPProcessor", "AutoProcessor"])
def test_a_joined_processor(clip: Made, name: str) -> None:
    processor, model = getattr(hf, name).from_pretrained(clip[2]), hf.CLIPModel.from_pretrained(clip[2]).eval()
    assert isinstance(processor, hf.CLIPProcessor) and not isinstance(processor, hf.CLIPImageProcessor)
    inputs = processor(text=["a photo of a cat", "a dog"], images=photo(), return_tensors="pt", padding=True)
    ids = words(clip[2])(["a photo of a cat", "a dog"], return_tensors="pt", padding=True)
    with torch.no_grad():
        expected = clip[0](**ids, **clip[1](photo(), return_tensors="pt")).logits_per_image
        torch.testing.assert_close(model(**inputs).logits_per_image, expected, rtol=0, atol=1e-4)
    assert isinstance(hf.CLIPImageProcessor.from_pretrained(clip[2]), hf.AutoImageProcessor)


@pytest.mark.parametrize("door", ["AutoModelForUniversalSegmentation", "MaskFormerForInstanceSegmentation"])
def test_masks(door: str, tmp_path: Path) -> None:
    fields = {name: value for name, value in MASKFORMER.items() if name != "model_type"}
    settings = {"size": {"shortest_edge": 64, "longest_edge": 96}}
    pytest.importorskip("transformers")
    theirs, images, folder = saved(
        tmp_path, "MaskFormerForInstanceSegmentation", "MaskFormer", settings=settings, **fields
    )
    model, processor = getattr(hf, door).from_pretrained(folder), hf.MaskFormerImageProcessor.from_pretrained(folder)
    with torch.no_grad():
        found = model(**processor([photo(), photo(60, 40)], return_tensors="pt"))
        expected = theirs(**images([photo(), photo(60, 40)], return_tensors="pt"))
    for name in ("class_queries_logits", "masks_queries_logits"):
        torch.testing.assert_close(found[name], expected[name], rtol=0, atol=1e-4)
    sizes = [(40, 50), (60, 40)]
    maps = processor.post_process_semantic_segmentation(found, target_sizes=sizes)
    for ours, other in zip(maps, images.post_process_semantic_segmentation(expected, sizes), strict=True):
        assert torch.equal(ours, other)


def test_a_processor_that_is_not_there(vit: Made, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no files of a feature extractor for AutoFeatureExtractor"):
        hf.AutoFeatureExtractor.from_pretrained(vit[2])
    (tmp_path / "config.json").write_text('{"model_type": "vit"}')
    with pytest.raises(ValueError, match=r"no files of a processor for AutoProcessor; it holds config\.json"):
        hf.AutoProcessor.from_pretrained(tmp_path)


def test_09_vit(vit: Made, tmp_path: Path) -> None:
    import transformers

    folder, cache = tmp_path / "model", tmp_path / "cache"
    config = transformers.ViTConfig(**{**VISION, "image_size": 224, "patch_size": 16})
    transformers.ViTModel(config).save_pretrained(folder)
    hub.publish(cache, "google/vit-base-patch16-224-in21k", folder)
    assert tensor_size(run("09", cache, tmp_path)) == (1, 197, 32)


def test_12_clip(clip: Made, tmp_path: Path) -> None:
    """The snippet's picture is random, so that only the shape of its answer is known."""
    hub.publish(tmp_path / "cache", "openai/clip-vit-base-patch16", clip[2])
    printed: Any = run("12", tmp_path / "cache", tmp_path)
    assert printed.startswith("tensor([[") and printed.count(",") == 1 and "grad_fn" in printed
