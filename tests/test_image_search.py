"""The example that finds photos like a photo, on scikit-image's own photos and a real DINOv2."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

pytest.importorskip("PIL.Image")
from PIL import Image, ImageOps

from tests.conftest import ROOT, real

NAMES = (
    *("astronaut.png", "brick.png", "camera.png", "coffee.png", "coins.png", "grass.png"),
    *("motorcycle_left.png", "motorcycle_right.png", "rocket.jpg"),
)


@pytest.fixture(scope="module")
def example() -> ModuleType:
    spec = importlib.util.spec_from_file_location("image_search", ROOT / "examples" / "image_search.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_a_photo_is_nearest_to_what_was_made_of_it(
    example: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    skimage = pytest.importorskip("skimage", reason="scikit-image, whose photos are searched, is not installed")
    model = real("checkpoints/dinov2-small")
    folder, asked = tmp_path / "photos", tmp_path / "asked"
    folder.mkdir()
    asked.mkdir()
    for name in NAMES:
        with Image.open(Path(skimage.__file__).parent / "data" / name) as file:
            photo = file.convert("RGB")
        photo.thumbnail((320, 320))
        photo.save(folder / f"{Path(name).stem}.png")
        width, height = photo.size
        cut = (width // 6, height // 6, width - width // 6, height - height // 6)
        ImageOps.mirror(photo).save(asked / f"flip_{Path(name).stem}.png")
        if "motorcycle" not in name:  # two eyes' views, whose middles are the same
            photo.crop(cut).save(asked / f"crop_{Path(name).stem}.png")
    (folder / "broken.png").write_bytes(b"no image")
    kept, photos = tmp_path / "kept.safetensors", sorted(asked.iterdir())
    found = example.search(model, folder, photos, count=3, keep=kept)
    assert "broken.png" in capsys.readouterr().err
    for photo, near in zip(photos, found, strict=True):
        assert Path(near[0]["image"]).stem == photo.stem.partition("_")[2], (photo, near)
        assert near[0]["score"] > near[1]["score"] > near[2]["score"]
    (pair,) = example.search(model, folder, [folder / "motorcycle_left.png"], keep=kept)
    assert [Path(entry["image"]).stem for entry in pair[:2]] == ["motorcycle_left", "motorcycle_right"]
    assert pair[0]["score"] == pytest.approx(1, abs=1e-3) and pair[1]["score"] - pair[2]["score"] > 0.05
    example.main([str(model), str(folder), str(photos[0]), "--keep", str(kept), "-o", str(tmp_path / "sheet.png")])
    assert f"  {found[0][0]['score']:.3f}  {found[0][0]['image']}" in capsys.readouterr().out
    assert Image.open(tmp_path / "sheet.png").size[0] > 4 * example.SIDE


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["/no/such/model", "{here}", "x.png"], "/no/such/model"),
        (["{model}", "/no/such/photos", "x.png"], "there is no folder '/no/such/photos'"),
        (["{model}", "{here}", "x.png"], "there are no files in"),
    ],
)
def test_mistakes_are_one_line(example: ModuleType, tmp_path: Path, words: list[str], message: str) -> None:
    places = {"{model}": str(real("checkpoints/dinov2-small")), "{here}": str(tmp_path)}
    with pytest.raises(SystemExit, match=message) as caught:
        example.main([places.get(word, word) for word in words])
    assert "\n" not in str(caught.value)
