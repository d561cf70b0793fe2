"""`regard run` on files: words of the command are names of images, and pictures are written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

Image = pytest.importorskip("PIL.Image")

import regard  # noqa: E402
from regard.cli import app  # noqa: E402
from tests.tasks.seeing import SMALL, VISION, Made, photo, saved  # noqa: E402
from tests.tasks.test_image_boxes import EDGES  # noqa: E402


@pytest.fixture(scope="module")
def vit(tmp_path_factory: pytest.TempPathFactory) -> Made:
    pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("vit")
    return saved(folder, "ViTForImageClassification", "ViT", settings=SMALL, labels=["cat", "dog", "owl"], **VISION)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for i in range(3):
        photo(64, 80, i).save(folder / f"{i}.png")
    return folder


def command(*words: object) -> tuple[list[str], str]:
    """Lines of standard output, and standard error."""
    found = CliRunner().invoke(app, ["run", *map(str, words)], catch_exceptions=False)
    assert found.exit_code == 0, found.output
    return found.stdout.splitlines(), found.stderr


def test_words_are_files_and_folders(vit: Made, photos: Path, tmp_path: Path) -> None:
    pipe = regard.pipeline("image-classification", vit[2])
    expected = [pipe(photos / f"{i}.png") for i in range(3)]
    lines, _ = command("image-classification", photos / "1.png", "-m", vit[2], "top_k=2")
    assert [line.split()[1] for line in lines] == [entry["label"] for entry in expected[1][:2]]
    (tmp_path / "list.txt").write_text("\n".join(str(photos / f"{i}.png") for i in range(3)) + "\n")
    for words in ([photos], [f"@{tmp_path / 'list.txt'}"], [photos / f"{i}.png" for i in range(3)]):
        lines, named = command("image-classification", *words, "-m", vit[2], "--json")
        labels = [[entry["label"] for entry in json.loads(line)] for line in lines]
        assert labels == [[entry["label"] for entry in row] for row in expected]
        assert all(f"{i}.png:" in named for i in range(3))
    with pytest.raises(ValueError, match="there is no file"):
        command("image-classification", "", photos / "none.png", "-m", vit[2], "on_error=skip")
        command("image-classification", photos / "none.png", "-m", vit[2])


def test_pictures_are_written(photos: Path, tmp_path: Path, vit: Made) -> None:
    config = {**VISION, "image_size": [32, 48], "num_detection_tokens": 9}
    model = saved(tmp_path / "m", "YolosForObjectDetection", "Yolos", settings=EDGES, labels=["a", "b"], **config)[2]
    out = tmp_path / "boxes.png"
    lines, said = command("object-detection", photos / "0.png", "-m", model, "-o", out, "threshold=0.0")
    assert len(lines) == 9 and "xmin=" in lines[0] and f"wrote {out}" in said
    with Image.open(out) as drawn, Image.open(photos / "0.png") as image:
        assert drawn.size == image.size and drawn.tobytes() != image.tobytes()
    with pytest.raises(ValueError, match="for several inputs it must be a folder"):
        command("object-detection", photos, "-m", model, "-o", out)
    (tmp_path / "all").mkdir()
    command("object-detection", photos, "-m", model, "-o", tmp_path / "all")
    assert sorted(path.name for path in (tmp_path / "all").iterdir()) == ["0.png", "1.png", "2.png"]
    before = (photos / "1.png").read_bytes()
    for target in (photos, photos / "1.png"):
        with pytest.raises(ValueError, match=r"would write over .*1\.png' itself"):
            command("object-detection", photos / "1.png", "-m", model, "-o", target)
    assert (photos / "1.png").read_bytes() == before
    with pytest.raises(ValueError, match="image-classification writes no files"):
        command("image-classification", photos / "0.png", "-m", vit[2], "-o", out)
