"""Boxes against the reference's pipeline, in pixels of the image, and the picture of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

Image = pytest.importorskip("PIL.Image")

import regard  # noqa: E402
from regard.tasks.detection import draw_boxes  # noqa: E402
from tests.tasks.conftest import same  # noqa: E402
from tests.tasks.seeing import VISION, Made, oracle, photo, saved  # noqa: E402

LABELS = ["cat", "dog", "owl"]
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
