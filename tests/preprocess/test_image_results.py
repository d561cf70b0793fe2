"""A model's outputs back to boxes and segments, against the reference's post-processing."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

pytest.importorskip("PIL")
pytest.importorskip("transformers")

from regard.preprocess.image import ImageProcessor
from tests.preprocess.test_image import reference

KINDS = ["Detr", "MaskFormer", "Mask2Former"]


def outputs(kind: str, seed: int, batch: int = 2, queries: int = 12, labels: int = 5) -> Any:
    """Logits with clear winners and masks of smooth blobs, so that several segments come out."""
    draw = torch.Generator().manual_seed(seed)
    logits = 6 * torch.randn(batch, queries, labels + 1, generator=draw)
    coarse = 8 * torch.randn(batch, queries, 4, 5, generator=draw)
    masks = torch.nn.functional.interpolate(coarse, size=(24, 32), mode="bilinear")
    boxes = torch.rand(batch, queries, 4, generator=draw)
    if kind in ("Detr", "Yolos"):
        return SimpleNamespace(logits=logits, pred_boxes=boxes, pred_masks=masks)
    return SimpleNamespace(class_queries_logits=logits, masks_queries_logits=masks)


SIZES: list[Any] = [None, [(40, 50), (61, 33)], torch.tensor([[40, 50], [61, 33]])]


def pair(kind: str) -> tuple[Any, ImageProcessor]:
    return reference(kind), ImageProcessor(kind)


@pytest.mark.parametrize("kind", ["Detr", "Yolos"])
@pytest.mark.parametrize("sizes", SIZES, ids=["none", "list", "tensor"])
def test_boxes_agree(kind: str, sizes: Any) -> None:
    theirs, ours = pair(kind)
    for threshold in (0.0, 0.5, 0.9, 1.0):
        out = outputs(kind, 0)
        want = theirs.post_process_object_detection(out, threshold, sizes)
        got = ours.post_process_object_detection(out, threshold, sizes)
        assert len(got) == len(want) == 2
        for mine, other in zip(got, want, strict=True):
            assert set(mine) == {"scores", "labels", "boxes"}
            for name, value in mine.items():
                torch.testing.assert_close(value, other[name])


def test_boxes_are_in_pixels() -> None:
    logits = torch.tensor([[[0.0, 9.0, 0.0], [0.0, 0.0, 9.0]]])  # the second is "nothing"
    out = {"logits": logits, "pred_boxes": torch.tensor([[[0.5, 0.5, 0.2, 0.4], [0.1, 0.1, 0.1, 0.1]]])}
    (found,) = ImageProcessor("Detr").post_process_object_detection(out, target_sizes=[(100, 200)])
    assert found["labels"].tolist() == [1]
    torch.testing.assert_close(found["boxes"], torch.tensor([[80.0, 30.0, 120.0, 70.0]]))


@pytest.mark.parametrize("kind", [*KINDS, "Segformer"])
@pytest.mark.parametrize("sizes", SIZES[:2], ids=["none", "list"])
def test_semantic_maps_agree(kind: str, sizes: Any) -> None:
    theirs, ours = pair(kind)
    out = outputs(kind, 1)
    if kind == "Segformer":
        out = SimpleNamespace(logits=torch.randn(2, 5, 24, 32, generator=torch.Generator().manual_seed(0)))
    want = theirs.post_process_semantic_segmentation(out, sizes)
    got = ours.post_process_semantic_segmentation(out, sizes)
    assert [m.shape for m in got] == [m.shape for m in want]
    assert all(torch.equal(mine, other) for mine, other in zip(got, want, strict=True))


def equal(got: list[dict[str, Any]], want: list[dict[str, Any]]) -> None:
    assert len(got) == len(want)
    for mine, other in zip(got, want, strict=True):
        assert mine["segmentation"].dtype == other["segmentation"].dtype
        assert torch.equal(mine["segmentation"], other["segmentation"])
        assert [{**s, "score": pytest.approx(s["score"], abs=2e-6)} for s in mine["segments_info"]] == other[
            "segments_info"
        ]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sizes", SIZES[:2], ids=["none", "list"])
def test_instances_agree(kind: str, sizes: Any) -> None:
    theirs, ours = pair(kind)
    some = 0
    for seed in range(3):
        for threshold, overlap in ((0.5, 0.8), (0.2, 0.1), (1.0, 0.8)):
            options = {"threshold": threshold, "overlap_mask_area_threshold": overlap, "target_sizes": sizes}
            want = theirs.post_process_instance_segmentation(outputs(kind, seed), **options)
            got = ours.post_process_instance_segmentation(outputs(kind, seed), **options)
            equal(got, want)
            some += sum(len(item["segments_info"]) for item in got)
    assert some > 10


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sizes", SIZES[:2], ids=["none", "list"])
def test_panoptic_segments_agree(kind: str, sizes: Any) -> None:
    theirs, ours = pair(kind)
    fused = 0
    for seed in range(3):
        for fuse in (None, {0, 1, 2, 3, 4}):
            options = {"label_ids_to_fuse": fuse, "overlap_mask_area_threshold": 0.2, "target_sizes": sizes}
            want = theirs.post_process_panoptic_segmentation(outputs(kind, seed), **options)
            got = ours.post_process_panoptic_segmentation(outputs(kind, seed), **options)
            equal(got, want)
            fused += sum(segment["was_fused"] for item in got for segment in item["segments_info"])
    assert fused > 2


@pytest.mark.parametrize("kind", KINDS)
def test_run_lengths_agree(kind: str) -> None:
    theirs, ours = pair(kind)
    options = {"return_coco_annotation": True, "overlap_mask_area_threshold": 0.2}
    want = theirs.post_process_instance_segmentation(outputs(kind, 0), **options)
    got = ours.post_process_instance_segmentation(outputs(kind, 0), **options)
    for mine, other in zip(got, want, strict=True):
        assert mine["segmentation"] == [[int(n) for n in runs] for runs in other["segmentation"]]


def test_wrong_outputs_and_sizes_are_named() -> None:
    out = outputs("Detr", 0)
    ours = ImageProcessor("Detr")
    with pytest.raises(ValueError, match="1 entries for 2 images"):
        ours.post_process_object_detection(out, target_sizes=[(1, 2)])
    with pytest.raises(ValueError, match=r"\(height, width\)"):
        ours.post_process_object_detection(out, target_sizes=[(1, 2), (0, 3)])
    with pytest.raises(ValueError, match="no pred_boxes"):
        ours.post_process_object_detection({"logits": out.logits})
    with pytest.raises(ValueError, match="ViT gives no object detection"):
        ImageProcessor("ViT").post_process_object_detection(out)
