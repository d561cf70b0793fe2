"""Masks against the reference's pipeline, pixel for pixel; what programs get of them, and the picture."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

Image = pytest.importorskip("PIL.Image")

import regard  # noqa: E402
from regard.models import detr, maskformer, segformer  # noqa: E402
from regard.preprocess import image_results  # noqa: E402
from regard.tasks.segmentation import colour, counts, draw_masks  # noqa: E402
from tests.tasks.seeing import Made, oracle, photo, saved  # noqa: E402
from tests.tasks.test_image_command import command  # noqa: E402

LABELS = ["sky", "tree", "cat", "road", "house"]
EDGES = {"size": {"shortest_edge": 64, "longest_edge": 96}}
KINDS: dict[str, tuple[str, str, dict[str, Any], dict[str, Any]]] = {
    "segformer": (
        "SegformerForSemanticSegmentation",
        "Segformer",
        segformer.TINY,
        {"size": {"height": 64, "width": 96}},
    ),
    "maskformer": ("MaskFormerForInstanceSegmentation", "MaskFormer", maskformer.TINY, EDGES),
    "detr": ("DetrForSegmentation", "Detr", detr.TINY, EDGES),
}
QUERIES = ["maskformer", "detr"]


@torch.no_grad()
def settle(model: Any) -> None:
    """Make what a random model says differ from place to place, from label to label, and from query to query."""
    parts = dict(model.named_modules())
    if "decode_head" in parts:
        parts["decode_head.batch_norm"].momentum = 1.0  # what a picture gives becomes the mean and the variance
        model.train()(torch.randn(2, 3, 64, 96).cumsum(2).cumsum(3) / 20)
        model.eval().decode_head.classifier.bias.zero_()
    for name, part in parts.items():
        if name.endswith(("class_predictor", "class_labels_classifier")):
            part.weight.mul_(8)
            part.bias[-1] -= 20  # few queries find nothing
        elif name.endswith(("queries_embedder", "query_position_embeddings")):
            part.weight.normal_(std=3)
        elif name.endswith("fpn_adapter"):
            part.weight.mul_(0.01)  # queries weigh more than what all of them see
        elif name == "mask_head.conv1.conv":
            part.weight[:, -8:].mul_(200)
        elif isinstance(part, torch.nn.Linear) and (".decoder." in name or name.startswith(("mask_emb", "bbox_att"))):
            part.weight.mul_(2)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Made]:
    pytest.importorskip("transformers")
    kept: dict[str, Made] = {}

    def get(name: str) -> Made:
        if name not in kept:
            architecture, kind, tiny, settings = KINDS[name]
            config = {key: value for key, value in tiny.items() if key not in ("model_type", "num_labels")}
            folder = tmp_path_factory.mktemp(name)
            kept[name] = saved(folder, architecture, kind, settings=settings, labels=LABELS, **config)
            settle(kept[name][0])
            kept[name][0].save_pretrained(folder)
        return kept[name]

    return get


@pytest.fixture(scope="module")
def photos() -> list[Any]:
    return [photo(80, 120, 1), photo(200, 90, 2), photo(80, 120, 3), photo(61, 77, 4)]


@pytest.fixture(scope="module")
def real() -> list[Any]:
    """Photographs that come with scikit-image."""
    data = pytest.importorskip("skimage.data", reason="scikit-image, whose photographs are read here, is not installed")
    return [Image.fromarray(getattr(data, name)()) for name in ("astronaut", "coffee", "chelsea")]


def same(ours: list[dict[str, Any]], theirs: list[dict[str, Any]], least: float = 0.9995) -> int:
    """Compare two results and count the masks; `least`: how much of a mask must be equal (on a border two scores may
    tie but for the last bit)."""
    assert [entry["label"] for entry in ours] == [entry["label"] for entry in theirs]
    for mine, other in zip(ours, theirs, strict=True):
        assert list(mine) == list(other) == ["score", "label", "mask"]
        assert mine["score"] == (None if other["score"] is None else pytest.approx(other["score"], abs=1e-5))
        assert mine["mask"].mode == "L" and mine["mask"].size == other["mask"].size
        pixels, wanted = np.asarray(mine["mask"]), np.asarray(other["mask"])
        assert set(np.unique(pixels)) <= {0, 255} and (pixels == wanted).mean() >= least
    return len(ours)


def test_semantic_masks_as_the_reference_gives_them(made: Any, photos: list[Any]) -> None:
    ours, theirs = (
        regard.pipeline("image-segmentation", made("segformer")[2]),
        oracle("image-segmentation", made("segformer")),
    )
    expected = [theirs(image) for image in photos]
    found = ours(photos)
    assert sum(same(mine, other) for mine, other in zip(found, expected, strict=True)) > 8
    for image, entries in zip(photos, found, strict=True):
        assert (sum(np.asarray(entry["mask"]) > 0 for entry in entries) == 1).all()  # each pixel in one mask
        assert {entry["mask"].size for entry in entries} == {image.size}
    same(ours(photos[1], subtask="semantic"), expected[1])


@pytest.mark.parametrize("name", QUERIES)
@pytest.mark.parametrize("subtask", [None, "panoptic", "instance", "semantic"])
def test_masks_of_queries_as_the_reference_gives_them(made: Any, photos: list[Any], name: str, subtask: Any) -> None:
    ours, theirs = regard.pipeline("image-segmentation", made(name)[2]), oracle("image-segmentation", made(name))
    named, some = {} if subtask is None else {"subtask": subtask}, 0
    for limits in ((0.9, 0.5, 0.5), (0.1, 0.3, 0.0), (0.4, 0.5, 0.2)):
        names = ("threshold", "mask_threshold", "overlap_mask_area_threshold")
        options = {**named, **dict(zip(names, limits, strict=True))}
        for image in photos[:3]:
            some += same(ours(image, **options), theirs(image, **options))
    for mine, image in zip(ours(photos, **named), photos, strict=True):
        same(mine, theirs(image, **named))
    assert some > 5


@pytest.mark.parametrize("name", KINDS)
def test_real_photographs(made: Any, real: list[Any], name: str) -> None:
    ours, theirs = regard.pipeline("image-segmentation", made(name)[2]), oracle("image-segmentation", made(name))
    options = {"threshold": 0.1, "overlap_mask_area_threshold": 0.1}
    assert sum(same(ours(image, **options), theirs(image, **options)) for image in real) > 2


def test_a_loaded_model_serves_as_well_as_its_folder(made: Any, photos: list[Any]) -> None:
    model = regard.load(made("segformer")[2])
    pipe = regard.pipeline("image-segmentation", model)
    same(pipe(photos[0]), regard.pipeline("image-segmentation", made("segformer")[2])(photos[0]))


def test_labels_are_scaled_a_few_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    scores = torch.randn(7, 5, 6, generator=torch.Generator().manual_seed(0))
    sizes, out = [(31, 40)], {"logits": scores[None]}
    wanted = torch.nn.functional.interpolate(scores[None], sizes[0], mode="bilinear")[0].argmax(0)
    for at_once in (1, 3 * 31 * 40, 2**26):
        monkeypatch.setattr(image_results, "AT_ONCE", at_once)
        (found,) = image_results.semantic(out, "logits", sizes)
        assert found.dtype == torch.int64 and torch.equal(found, wanted)


# for programs and for people


@pytest.mark.parametrize("share", [0.0, 0.2, 0.5, 1.0])
def test_run_lengths_give_the_mask_again(share: float) -> None:
    mask = np.random.default_rng(3).random((13, 9)) < share
    found = counts(mask)
    inside = np.repeat([i % 2 == 1 for i in range(len(found))], found).reshape(9, 13).T
    assert (inside == mask).all() and min(found[1:], default=1) > 0
    assert counts(np.array([[0, 1], [1, 1]])) == [1, 3] and counts(np.array([[1, 0], [0, 0]])) == [0, 1, 3]


def test_what_the_command_gives_programs_and_people(made: Any, tmp_path: Path) -> None:
    image, folder, out = photo(60, 80, 1), made("segformer")[2], tmp_path / "masks.png"
    image.save(tmp_path / "photo.png")
    expected = regard.pipeline("image-segmentation", folder)(image)
    (line,), said = command("image-segmentation", tmp_path / "photo.png", "-m", folder, "--json", "-o", out)
    found = json.loads(line)
    assert [entry["label"] for entry in found] == [entry["label"] for entry in expected] and f"wrote {out}" in said
    for entry, other in zip(found, expected, strict=True):
        mask, pixels = entry["mask"], np.asarray(other["mask"]) > 0
        assert mask["size"] == [60, 80] and sum(mask["counts"]) == 60 * 80
        inside = np.repeat([i % 2 == 1 for i in range(len(mask["counts"]))], mask["counts"]).reshape(80, 60).T
        assert (inside == pixels).all() and entry["area"] == pixels.sum()
        rows, columns = np.nonzero(pixels)
        box = {"xmin": columns.min(), "ymin": rows.min(), "xmax": columns.max() + 1, "ymax": rows.max() + 1}
        assert entry["box"] == box and entry["score"] is None
    lines, _ = command("image-segmentation", tmp_path / "photo.png", "-m", folder)
    assert lines == [f"{e['label']}  (share={(np.asarray(e['mask']) > 0).mean():.1%})" for e in expected]
    with Image.open(out) as drawn:
        assert drawn.width == 80 and drawn.height > 60


def block(label: str, score: float | None, rows: slice, columns: slice) -> dict[str, Any]:
    pixels = np.zeros((80, 120), dtype=np.uint8)
    pixels[rows, columns] = 255
    return {"score": score, "label": label, "mask": Image.fromarray(pixels)}


def test_the_picture_shows_masks_where_they_are() -> None:
    image = Image.new("RGB", (120, 80), "white")
    found = [block("cat", 0.9, slice(10, 20), slice(10, 30)), block("dog", None, slice(0, 60), slice(0, 90))]
    drawn = np.asarray(draw_masks(image, found)).astype(int)
    mixed = [np.round(0.45 * 255 + 0.55 * np.array(colour(i))).astype(int).tolist() for i in (0, 1)]
    assert drawn[15, 15].tolist() == mixed[0] and drawn[5, 5].tolist() == mixed[1]  # the small one is not hidden
    assert (drawn[60:80] == 255).all() and (drawn[:80, 90:] == 255).all() and (np.asarray(image) == 255).all()
    legend = drawn[80:].reshape(-1, 3).tolist()
    assert list(colour(0)) in legend and list(colour(1)) in legend
    assert min(map(sum, legend)) < 150  # letters
    assert draw_masks(image, []).size == image.size
    many = [
        block(f"thing {i} with a long name that has to be cut", 0.5, slice(i, i + 1), slice(0, 5)) for i in range(60)
    ]
    assert draw_masks(image, many).width == 120
    assert len({colour(i) for i in range(150)}) == 150


# what is wrong


def test_what_a_model_cannot_do_is_named(made: Any, make: Any, tmp_path: Path) -> None:
    pipe = regard.pipeline("image-segmentation", made("segformer")[2])
    with pytest.raises(ValueError, match=r"subtask is 'panoptic'; allowed for this model: 'semantic'"):
        pipe(photo(), subtask="panoptic")
    with pytest.raises(ValueError, match=r"subtask is 'everything'; allowed: "):
        pipe(photo(), subtask="everything")
    with pytest.raises(ValueError, match="threshold is 2"):
        pipe(photo(), threshold=2)
    with pytest.raises(ValueError, match=r"there is no file 'none\.png'"):
        pipe("none.png")
    (tmp_path / "no.png").write_text("no image")
    with pytest.raises(ValueError, match="is no image of a known kind"):
        pipe(tmp_path / "no.png")
    found = pipe([photo(), "none.png"], on_error="skip")
    assert found[0][0]["mask"].size == (50, 40) and "none.png" in pipe.plain(found[1])["error"]
    assert pipe.shown(found[1]) == found[1]
    with pytest.raises(ValueError, match="nothing to draw: item 1: there is no file"):
        pipe.save("none.png", found[1], tmp_path / "masks.png")
    folder = make("bert", "BertForMaskedLM")[1]
    with pytest.raises(ValueError, match=r"BertForMaskedLM .*image-segmentation needs a checkpoint with head: "):
        regard.pipeline("image-segmentation", folder)
    with pytest.raises(ValueError, match="object-detection needs a checkpoint with head: object-detection"):
        regard.pipeline("object-detection", made("segformer")[2])


def test_a_processor_without_masks_is_refused(made: Any, tmp_path: Path) -> None:
    folder = made("segformer")[2]
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    (tmp_path / "preprocessor_config.json").write_text('{"image_processor_type": "ViTImageProcessor"}')
    with pytest.raises(ValueError, match=r"needs an image processor that makes masks, and .* has a ViTImageProcessor"):
        regard.pipeline("image-segmentation", tmp_path)
    (tmp_path / "preprocessor_config.json").write_text('{"image_processor_type": "MaskFormerImageProcessor"}')
    with pytest.raises(ValueError, match="the outputs have no class_queries_logits"):
        regard.pipeline("image-segmentation", tmp_path)(photo())


def test_labels_without_names_are_numbered(made: Any, tmp_path: Path) -> None:
    folder = made("segformer")[2]
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    raw = json.loads((tmp_path / "config.json").read_text())
    del raw["id2label"], raw["label2id"]
    (tmp_path / "config.json").write_text(json.dumps({**raw, "num_labels": 5}))
    found = regard.pipeline("image-segmentation", tmp_path)(photo())
    assert {entry["label"] for entry in found} <= {f"LABEL_{i}" for i in range(5)}
    (tmp_path / "config.json").write_text(json.dumps(raw))
    with pytest.raises(ValueError, match=r"decode_head\.classifier\.weight .* is \(2, 20, 1, 1\) by config\.json"):
        regard.pipeline("image-segmentation", tmp_path)
