"""Boxes against the reference's pipeline, in pixels of the image, and the picture of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

Image = pytest.importorskip("PIL.Image")

import regard  # noqa: E402
from regard.models.registry import families  # noqa: E402
from regard.tasks.detection import draw_boxes  # noqa: E402
from tests.tasks.conftest import same  # noqa: E402
from tests.tasks.seeing import VISION, Made, oracle, photo, saved  # noqa: E402

LABELS = ["cat", "dog", "owl"]
DETR = families()["detr"].tiny["detr"]
EDGES = {"size": {"shortest_edge": 32, "longest_edge": 64}}


@pytest.fixture(scope="module")
def yolos(tmp_path_factory: pytest.TempPathFactory) -> Made:
    pytest.importorskip("transformers")
    folder, config = tmp_path_factory.mktemp("yolos"), {**VISION, "image_size": [32, 48], "num_detection_tokens": 9}
    return saved(folder, "YolosForObjectDetection", "Yolos", settings=EDGES, labels=LABELS, **config)


def test_boxes_as_the_reference_gives_them(yolos: Made) -> None:
    ours, theirs = regard.pipeline("object-detection", yolos[2]), oracle("object-detection", yolos)
    images = [photo(80, 120, 1), photo(200, 90, 2), photo(80, 120, 3)]
    middle = sorted(entry["score"] for entry in theirs(images[0], threshold=0.0))[4]
    for threshold in (0.0, middle):
        expected = [theirs(image, threshold=threshold) for image in images]
        assert 0 < len(expected[0]) <= 9 and (threshold == 0 or len(expected[0]) < 9)
        same(ours(images, threshold=threshold), expected)
        same(ours(images[0], threshold=threshold), expected[0])
    assert ours(images[0], threshold=1.0) == []
    with pytest.raises(ValueError, match="threshold is 2"):
        ours(images[0], threshold=2)


@pytest.fixture(scope="module", params=["plain", "padded"])
def detr(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Made:
    """As it is, and with a processor that pads every image to one size, which the model is told by a mask."""
    pytest.importorskip("transformers")
    torch = pytest.importorskip("torch")
    config = {name: value for name, value in DETR.items() if name not in ("model_type", "num_labels")}
    settings: dict[str, Any] = {"size": {"shortest_edge": 128, "longest_edge": 192}}
    settings |= {"pad_size": {"height": 200, "width": 208}} if request.param == "padded" else {}
    folder = tmp_path_factory.mktemp("detr")
    model, images, _ = saved(folder, "DetrForObjectDetection", "Detr", settings=settings, labels=LABELS, **config)
    torch.nn.init.normal_(model.model.query_position_embeddings.weight, std=3.0)  # each asks for something else,
    for parameter in (*model.model.decoder.parameters(), *model.bbox_predictor.parameters()):
        parameter.data.mul_(3.0 if parameter.ndim == 2 else 1.0)  # and gets other answers
    model.save_pretrained(folder)
    return model, images, folder


def test_queries_find_boxes_as_the_reference_gives_them(detr: Made, tmp_path: Path) -> None:
    ours, theirs = regard.pipeline("object-detection", detr[2]), oracle("object-detection", detr)
    images = [photo(80, 120, 1), photo(200, 90, 2), photo(80, 120, 3)]
    scores = sorted(entry["score"] for entry in theirs(images[0], threshold=0.0))
    for threshold in (0.0, (scores[1] + scores[2]) / 2):
        expected = [theirs(image, threshold=threshold) for image in images]
        assert expected[0][0]["box"] != expected[0][1]["box"]
        same(ours(images, threshold=threshold), expected)
        same(ours(images[1], threshold=threshold), expected[1])
    ours.save(images[0], ours(images[0], threshold=0.0), tmp_path / "boxes.png")
    with Image.open(tmp_path / "boxes.png") as picture:
        assert picture.size == (120, 80) and picture.convert("RGB").tobytes() != images[0].tobytes()


FOUND: list[dict[str, Any]] = [
    {"score": 0.9, "label": "cat", "box": {"xmin": 20, "ymin": 40, "xmax": 90, "ymax": 70}},
    {"score": 0.6, "label": "dog", "box": {"xmin": -5, "ymin": -5, "xmax": 500, "ymax": 500}},
]


def test_the_picture_shows_boxes_where_they_are() -> None:
    image = Image.new("RGB", (120, 80), "white")
    drawn = np.asarray(draw_boxes(image, FOUND[:1])).astype(int)
    assert (np.asarray(image) == 255).all() and drawn.shape == (80, 120, 3)
    for row, column in ((40, 50), (70, 50), (55, 20), (55, 90)):
        assert drawn[row, column].tolist() == [0xE6, 0x19, 0x4B]
    assert (drawn[42:69, 22:89] == 255).all() and (drawn[72:] == 255).all() and (drawn[:, 92:] == 255).all()
    assert draw_boxes(image, FOUND).size == image.size  # a box beyond the edges is no error
    assert np.asarray(draw_boxes(image, [])).min() == 255


def test_a_picture_is_saved_or_refused(yolos: Made, tmp_path: Path) -> None:
    pipe = regard.pipeline("object-detection", yolos[2])
    photo().save(tmp_path / "photo.png")
    pipe.save(tmp_path / "photo.png", FOUND[:1], tmp_path / "boxes.png")
    with Image.open(tmp_path / "boxes.png") as saved_picture:
        assert saved_picture.size == (50, 40)
    with pytest.raises(ValueError, match=r"output is .*boxes\.txt.*allowed: a name that ends in \.png"):
        pipe.save(photo(), FOUND, tmp_path / "boxes.txt")
    with pytest.raises(ValueError, match="there is no folder"):
        pipe.save(photo(), FOUND, tmp_path / "none" / "boxes.png")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["boxes.png", "photo.png"]
