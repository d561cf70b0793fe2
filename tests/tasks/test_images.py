"""Labels and vectors of images against the reference's pipelines, and every way in which images come."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("PIL.Image")

import regard
from tests.conftest import real
from tests.tasks.conftest import same
from tests.tasks.seeing import CROPPED, SMALL, VISION, Made, oracle, photo, saved

LABELS = ["cat", "dog", "owl", "bat", "cow", "hen", "elk"]


@pytest.fixture(scope="module")
def vit(tmp_path_factory: pytest.TempPathFactory) -> Made:
    pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("vit")
    return saved(folder, "ViTForImageClassification", "ViT", settings=SMALL, labels=LABELS, **VISION)


@pytest.fixture(scope="module")
def dino(tmp_path_factory: pytest.TempPathFactory) -> Made:
    pytest.importorskip("transformers")
    config = {name: value for name, value in VISION.items() if name != "intermediate_size"}
    return saved(tmp_path_factory.mktemp("dino"), "Dinov2Model", "Bit", settings=CROPPED, **config)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for i, (height, width) in enumerate([(40, 50), (64, 33), (32, 32), (90, 41)]):
        photo(height, width, i).save(folder / f"{'dbca'[i]}.png")
    (folder / "notes.txt").write_text("no image")
    return folder


# ------------------------------------------------------------------------------------------------ labels


@pytest.mark.parametrize("options", [{}, {"top_k": 2}, {"top_k": 100}, {"function_to_apply": "sigmoid"}])
def test_labels_as_the_reference_gives_them(vit: Made, options: dict[str, Any]) -> None:
    images = [photo(40, 50, 1), photo(70, 30, 2), photo(32, 32, 3)]
    ours, theirs = regard.pipeline("image-classification", vit[2]), oracle("image-classification", vit)
    same(ours(images, **options), theirs(images, **options))
    same(ours(images[0], **options), theirs(images[0], **options))


def test_the_kind_of_problem_makes_the_scores(vit: Made, tmp_path: Path) -> None:
    import transformers

    model, images, _ = vit
    model = transformers.ViTForImageClassification.from_pretrained(vit[2], problem_type="multi_label_classification")
    model.save_pretrained(tmp_path)
    images.save_pretrained(tmp_path)
    expected = oracle("image-classification", (model.eval(), images, tmp_path))(photo())
    same(regard.pipeline("image-classification", tmp_path)(photo()), expected)
    assert sum(entry["score"] for entry in expected) > 1.1


def test_an_image_comes_in_every_way(vit: Made, photos: Path) -> None:
    pipe, path = regard.pipeline("image-classification", vit[2]), photos / "d.png"
    expected, data = pipe(str(path)), path.read_bytes()
    image = photo(40, 50, 0)
    pixels = np.asarray(image)
    ways = [path, data, bytearray(data), io.BytesIO(data), image, pixels, torch.from_numpy(pixels.copy())]
    ways.append(f"data:image/png;base64,{base64.b64encode(data).decode()}")
    for way in ways:
        assert pipe(way) == expected, type(way)
    with open(path, "rb") as file:
        assert pipe(file) == expected
    same(pipe([path, image]), [expected, expected])
    same(pipe(np.stack([pixels, pixels])), [expected, expected])


def test_folders_and_generators_are_lazy_and_in_order(vit: Made, photos: Path) -> None:
    pipe = regard.pipeline("image-classification", vit[2])
    names = ["a.png", "b.png", "c.png", "d.png"]
    expected = [pipe(photos / name) for name in names]
    found = pipe(photos)
    assert iter(found) is iter(found)
    same(list(found), expected)
    same(list(pipe(photos / name for name in names)), expected)
    (photos / "a.png").write_bytes(b"broken")
    bad, *rest = pipe(photos, on_error="skip")
    assert "a.png" in bad["error"]
    same(rest, expected[1:])
    with pytest.raises(ValueError, match=r"no files in .* that end in \.png"):
        pipe(vit[2])


def test_an_endless_stream_is_read_little_by_little(vit: Made) -> None:
    seen = 0

    def endless() -> Any:
        nonlocal seen
        while True:
            seen += 1
            yield photo(seed=seen % 3)

    found = regard.pipeline("image-classification", vit[2], batch_tokens=64)(endless())
    assert next(found)[0]["score"] > 0 and 1 <= seen <= 512


def test_the_pack_changes_nothing(vit: Made) -> None:
    images = [photo(30 + i, 40, i) for i in range(9)]
    one = regard.pipeline("image-classification", vit[2], batch_tokens=1)(images)
    same(regard.pipeline("image-classification", vit[2], batch_tokens=4096)(images), one)
    same(regard.pipeline("image-classification", vit[2])(images, batch_size=2), one)


# ------------------------------------------------------------------------------------------------ wrong input


def bomb() -> bytes:
    """A PNG of 108 bytes that says it is 60,000 pixels each way."""
    import struct
    import zlib

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0" * 99)) + chunk(b"IEND", b"")


def test_wrong_images_are_named(vit: Made, photos: Path, tmp_path: Path) -> None:
    pipe, whole = regard.pipeline("image-classification", vit[2]), (photos / "d.png").read_bytes()
    files = {"cut.png": whole[:-900], "bomb.png": bomb(), "words.png": b"no image at all", "empty.png": b""}
    said = {
        "cut.png": "cut short",
        "bomb.png": "pixels",
        "words.png": "no image of a known kind",
        "empty.png": "0 bytes",
    }
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(ValueError, match=rf"^item 1: .*{name}.*{said[name]}"):
            pipe([photo(), tmp_path / name])
        (one, bad, two) = pipe([photo(), str(tmp_path / name), photo()], on_error="skip")
        same([one, two], [pipe(photo())] * 2)
        assert bad["error"].startswith("item 1: ") and name in bad["error"]
    for wrong, message in [
        (tmp_path / "none.png", "there is no file .*none.png"),
        ("", "name of the file is empty"),
        (str(tmp_path), "is not a regular file"),
        (5, "a int is no image"),
        (None, "a NoneType is no image"),
        (np.zeros((5, 5, 7)), r"shape \(5, 5, 7\)"),
        (np.full((3, 8, 8), np.nan), "NaN"),
        ("https://example.org/a.png", "name it in allow_hosts"),
    ]:
        with pytest.raises(ValueError, match=message):
            pipe(wrong)


def test_hosts_are_named_to_be_read(vit: Made, photos: Path) -> None:
    import functools
    import http.server
    import threading

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(photos)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        pipe, url = regard.pipeline("image-classification", vit[2]), f"http://127.0.0.1:{server.server_port}/d.png"
        assert pipe(url, allow_hosts=["127.0.0.1"], timeout=5) == pipe(photos / "d.png")
        with pytest.raises(ValueError, match="allow_hosts"):
            pipe(url)
    finally:
        server.shutdown()


def test_wrong_options_and_models(vit: Made, make: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no option 'topk'; did you mean 'top_k'"):
        regard.pipeline("image-classification", vit[2], topk=3)
    with pytest.raises(ValueError, match="top_k is 0"):
        regard.pipeline("image-classification", vit[2], top_k=0)
    with pytest.raises(ValueError, match=r"text-classification needs a tokenizer, and .* has none; give tokenizer="):
        regard.pipeline("text-classification", vit[2])
    words = make("bert", "BertForSequenceClassification", labels=["no", "yes"])[1]
    with pytest.raises(
        ValueError, match="a BertForSequenceClassification reads text; image-classification needs a mod"
    ):
        regard.pipeline("image-classification", words)
    with pytest.raises(ValueError, match="image-classification needs a checkpoint with head: classification"):
        regard.pipeline("image-classification", make("bert", "BertForMaskedLM")[1])
    with pytest.raises(ValueError, match="has no such part; allowed: an image processor"):
        regard.pipeline("image-classification", vit[2], image_processor=words)


def test_a_processor_of_another_folder_stands_in(vit: Made, dino: Made) -> None:
    model = regard.load(vit[2])
    assert type(model.processor).__name__ == "ImageProcessor"
    expected = oracle("image-classification", (vit[0], dino[1], vit[2]))(photo())
    for part in (dino[2], regard.load(dino[2]).processor):
        same(regard.pipeline("image-classification", model, image_processor=part)(photo()), expected)


# ------------------------------------------------------------------------------------------------ vectors


def test_features_as_the_reference_gives_them(dino: Made, vit: Made, tmp_path: Path) -> None:
    import transformers

    plain = transformers.ViTModel.from_pretrained(vit[2]).eval()
    vit[1].save_pretrained(tmp_path)
    plain.save_pretrained(tmp_path)
    for made in (dino, (plain, vit[1], tmp_path)):
        ours = regard.pipeline("image-feature-extraction", made[2])
        theirs = oracle("image-feature-extraction", made)
        images = [photo(40, 50, 1), photo(70, 30, 2)]
        same(ours(images), theirs(images), 1e-4)
        same(ours(images[0], pool=True), theirs(images[0], pool=True), 1e-4)
        found = ours(images[0], return_tensors=True)
        torch.testing.assert_close(found, theirs(images[0], return_tensors=True), rtol=0, atol=1e-4)


def test_features_of_a_model_with_labels_and_vectors_of_length_one(vit: Made) -> None:
    with torch.no_grad():
        pixels = vit[1](photo(), return_tensors="pt")["pixel_values"]
        hidden = vit[0].vit(pixels).last_hidden_state
    pipe = regard.pipeline("image-feature-extraction", vit[2])
    torch.testing.assert_close(pipe(photo(), return_tensors=True), hidden, rtol=0, atol=1e-4)
    expected = hidden[0, 0] / hidden[0, 0].norm()
    torch.testing.assert_close(pipe.embed(photo())[0], expected, rtol=0, atol=1e-5)
    with pytest.raises(ValueError, match="no images to embed"):
        pipe.embed([])


def test_a_published_encoder_gives_its_published_vectors() -> None:
    folder = real("checkpoints/dinov2-small")
    truth = json.loads((folder / "expected.json").read_text())
    pipe = regard.pipeline("image-feature-extraction", folder, dtype="float32")
    pipe.image_processor.do_resize = pipe.image_processor.do_center_crop = False  # as the numbers were made
    for entry in truth["images"]:
        tokens = pipe(folder / entry["image"], return_tensors=True)
        assert list(tokens.shape) == entry["last_hidden_state"]["shape"]
        first = torch.tensor(entry["last_hidden_state"]["cls_first8"])
        assert (tokens[0, 0, :8] - first).abs().max() <= truth["tolerance"]["last_hidden_state"]
    vectors = pipe.embed(folder / "images")
    assert float(vectors[0] @ vectors[1]) == pytest.approx(truth["cosine_cls_chelsea_coffee"], abs=1e-3)
