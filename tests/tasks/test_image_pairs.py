"""Labels of one's own for images, and finding images, against the reference and slow formulas."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("PIL.Image")

import regard
from regard.tasks.retrieval import ImageIndex
from tests.conftest import real
from tests.preprocess.folders import CORPUS, FOLDERS
from tests.tasks.conftest import same
from tests.tasks.seeing import CROPPED, SMALL, TEXT, VISION, Made, oracle, photo, saved, words

LABELS = ["dog", "brown fox", "quick", "Hello, world"]


@pytest.fixture(scope="module", params=["clip", "siglip"])
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Made:
    """A model of images and texts: one whose scores are 1 together, and one of sigmoids."""
    pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp(request.param)
    if request.param == "clip":
        FOLDERS["clip"](folder)
        ends = words(folder)
        size = {"vocab_size": len(ends), "max_position_embeddings": 96, "pad_token_id": ends.pad_token_id}
        size |= {"bos_token_id": ends.bos_token_id, "eos_token_id": ends.eos_token_id}
        config = {"text_config": {**TEXT, **size}, "vision_config": VISION, "projection_dim": 24}
        return saved(folder, "CLIPModel", "CLIP", settings=CROPPED, tokenizer="clip", **config)
    text = {**TEXT, "vocab_size": 3000, "max_position_embeddings": 64}
    config = {"text_config": text, "vision_config": VISION}
    made = saved(folder, "SiglipModel", "Siglip", settings=SMALL, tokenizer="t5", **config)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**settings, "model_input_names": ["input_ids"]}))
    return made


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for i in range(6):
        photo(40 + 3 * i, 50, i).save(folder / f"{i}.png")
    return folder


def theirs_alike(pair: Made, texts: list[str], images: list[Any]) -> Any:
    """The reference's own cosines of texts with images."""
    model, processor, folder = pair
    fixed = "siglip" in model.config.model_type
    how = {"padding": "max_length", "max_length": 64} if fixed else {"padding": True}
    with torch.no_grad():
        ids = words(folder)(texts, return_tensors="pt", **how)
        text = model.get_text_features(**{name: ids[name] for name in ("input_ids", "attention_mask") if name in ids})
        image = model.get_image_features(**processor(images, return_tensors="pt"))
    text, image = (getattr(found, "pooler_output", found) for found in (text, image))
    return torch.nn.functional.normalize(text, dim=1) @ torch.nn.functional.normalize(image, dim=1).T


def test_labels_of_ones_own_as_the_reference_gives_them(pair: Made) -> None:
    ours = regard.pipeline("zero-shot-image-classification", pair[2])
    theirs = oracle("zero-shot-image-classification", pair, text=True)
    images = [photo(40, 50, 1), photo(70, 30, 2)]
    for options in ({}, {"hypothesis_template": "{} here"}):
        expected = theirs(images, candidate_labels=LABELS, **options)
        same(ours(images, candidate_labels=LABELS, **options), expected)
        same(ours(images[0], LABELS, **options), expected[0])
    same(ours(images[0], candidate_labels="dog, quick"), theirs(images[0], candidate_labels=["dog", "quick"]))
    same(ours(images[0], candidate_labels="dog"), theirs(images[0], candidate_labels=["dog"]))


def test_what_labels_are_refused(pair: Made, make: Any, tmp_path: Path) -> None:
    pipe = regard.pipeline("zero-shot-image-classification", pair[2])
    with pytest.raises(ValueError, match="candidate_labels is"):
        pipe(photo())
    with pytest.raises(ValueError, match="hypothesis_template is 'a photo'"):
        pipe(photo(), candidate_labels=LABELS, hypothesis_template="a photo")
    with pytest.raises(ValueError, match=r"a text has \d+ tokens; this model takes at most"):
        pipe(photo(), candidate_labels=["word " * 90])
    with pytest.raises(ValueError, match="needs a tokenizer and an image processor"):
        saved(tmp_path, "ViTModel", "ViT", settings=SMALL, **VISION)
        (tmp_path / "preprocessor_config.json").unlink()
        regard.pipeline("zero-shot-image-classification", tmp_path)


def test_words_find_images(pair: Made, photos: Path, tmp_path: Path) -> None:
    pipe = regard.pipeline("image-text-retrieval", pair[2])
    names = [str(photos / f"{i}.png") for i in range(6)]
    cosines = theirs_alike(pair, CORPUS[:3], [photo(40 + 3 * i, 50, i) for i in range(6)])
    for text, row in zip(CORPUS[:3], cosines, strict=True):
        best = row.argsort(descending=True)[:4].tolist()
        expected = [{"image": names[i], "score": float(row[i])} for i in best]
        same(pipe(text, index=photos, top_k=4), expected)
    same(pipe(CORPUS[:2], index=photos), [pipe(text=text, index=photos) for text in CORPUS[:2]])


def test_an_index_is_kept_and_read_again(pair: Made, photos: Path, tmp_path: Path) -> None:
    pipe, file = regard.pipeline("image-text-retrieval", pair[2]), tmp_path / "photos.safetensors"
    expected = pipe("dog", index=photos, keep=str(file), top_k=None)
    assert len(expected) == 6
    index = ImageIndex.load(file)
    assert len(index) == 6 and list(index.names) == sorted(index.names)
    same([pipe("dog", index=file, top_k=None), pipe("dog", index=index, top_k=None)], [expected] * 2)
    again = regard.pipeline("image-text-retrieval", pair[2], index=str(file))
    same(again("dog"), expected[:5])


def test_an_image_finds_itself_first(pair: Made, photos: Path) -> None:
    pipe = regard.pipeline("image-text-retrieval", pair[2], index=photos)
    for way in ({"image": str(photos / "3.png")}, photos / "3.png", photo(49, 50, 3), (photos / "3.png").read_bytes()):
        first, second, *_ = pipe(way)
        assert first["image"].endswith("3.png") and first["score"] == pytest.approx(1, abs=1e-5)
        assert second["score"] < 0.9999
    assert pipe(image=photos / "3.png")[0]["image"].endswith("3.png")
    found = list(pipe(photos, top_k=1))
    assert [Path(row[0]["image"]).name for row in found] == [f"{i}.png" for i in range(6)]


def test_what_cannot_be_indexed_is_named_or_left_out(pair: Made, photos: Path) -> None:
    pipe = regard.pipeline("image-text-retrieval", pair[2])
    (photos / "2.png").write_bytes(b"broken")
    with pytest.raises(ValueError, match=r"2\.png.*no image of a known kind"):
        pipe.index(photos)
    index = pipe.index(photos, on_error="skip")
    assert len(index) == 5 and list(index.skipped) == [str(photos / "2.png")]
    named = pipe.index([photo(seed=1), photo(seed=2)], names=["one", "two"])
    assert pipe({"image": photo(seed=2)}, index=named)[0]["image"] == "two"
    with pytest.raises(ValueError, match="names has 1 entries for 2 images"):
        pipe.index([photo(), photo()], names=["one"])
    with pytest.raises(ValueError, match="no images to index"):
        pipe.index([])


def test_wrong_indexes_and_queries(pair: Made, photos: Path, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    pipe, file = regard.pipeline("image-text-retrieval", pair[2]), tmp_path / "x.safetensors"
    for wrong in (b"", b"\xff" * 64, b"{}" * 40):
        file.write_bytes(wrong)
        with pytest.raises(ValueError, match=r"x\.safetensors is no image index"):
            pipe("dog", index=file)
    good = {"format": "regard image index 1", "model": "x", "names": json.dumps(["a", "b"])}
    for vectors, about in [
        (torch.zeros(3, 4), good),
        (torch.zeros(2), good),
        (torch.zeros(2, 4).half(), good),
        (torch.zeros(0, 4), {**good, "names": "[]"}),
        (torch.zeros(2, 4), {**good, "names": "{"}),
        (torch.zeros(2, 4), {**good, "format": "other"}),
    ]:
        save_file({"vectors": vectors}, file, about)
        with pytest.raises(ValueError, match=r"x\.safetensors is no image index"):
            pipe("dog", index=file)
    save_file({"vectors": torch.zeros(2, 4)}, file, good)
    with pytest.raises(ValueError, match="index was made with a x other than this"):
        pipe("dog", index=file)
    for wrong, message in [
        ("", "text is ''"),
        ({"words": "dog"}, "the item has words"),
        (5, "the item is 5"),
        ({"image": str(tmp_path / "none.png")}, "there is no file"),
    ]:
        with pytest.raises(ValueError, match=message):
            pipe(wrong, index=photos)
    with pytest.raises(ValueError, match="index is None; allowed: a folder"):
        pipe("dog")


def test_neighbours_among_real_photos(tmp_path: Path) -> None:
    from PIL import Image

    folder = real("checkpoints/dinov2-small")
    cat, coffee = (Image.open(folder / "images" / f"{name}_224.png") for name in ("chelsea", "coffee"))
    kinds = {"cat": cat, "coffee": coffee}
    for name, image in kinds.items():
        image.save(tmp_path / f"{name}.png")
        image.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(tmp_path / f"{name}-mirrored.png")
        image.crop((20, 10, 210, 200)).convert("L").save(tmp_path / f"{name}-grey.jpg")
    pipe = regard.pipeline("image-text-retrieval", folder, dtype="float32", index=tmp_path)
    for name, image in kinds.items():
        found = pipe({"image": image}, top_k=3)
        assert {Path(row["image"]).stem.split("-")[0] for row in found} == {name}
    with pytest.raises(ValueError, match="reads images alone; words need a model of images and texts"):
        pipe("a cat")
    with pytest.raises(ValueError, match="needs a tokenizer"):
        regard.pipeline("zero-shot-image-classification", folder)
