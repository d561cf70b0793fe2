"""Attention over an image against the reference's weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

pytest.importorskip("PIL.Image")

import regard
from regard.cli import app
from regard.inspect.pictures import image_attention_of
from tests.tasks.seeing import SMALL, VISION, Made, photo, saved


@pytest.fixture(scope="module")
def vit(tmp_path_factory: pytest.TempPathFactory) -> Made:
    pytest.importorskip("transformers")
    size = {"size": {"height": 32, "width": 48}}
    return saved(tmp_path_factory.mktemp("vit"), "ViTModel", "ViT", settings=size, **{**VISION, "image_size": [32, 48]})


def theirs(made: Made, image: Any) -> list[torch.Tensor]:
    """The reference's weights of each layer, (H, T, T)."""
    made[0].set_attn_implementation("eager")
    with torch.no_grad():
        found = made[0](made[1](image, return_tensors="pt")["pixel_values"], output_attentions=True).attentions
    return [layer[0] for layer in found]


def test_maps_are_what_the_class_token_looks_at(vit: Made) -> None:
    view = image_attention_of(regard.load(vit[2]), photo())
    expected = theirs(vit, photo())
    assert len(view.weights) == 2 and view.weights[0].shape == (4, 4, 6) and view.image.shape == (3, 32, 48)
    for ours, layer in zip(view.weights, expected, strict=True):
        torch.testing.assert_close(ours.flatten(1), layer[:, 0, 1:], rtol=0, atol=1e-5)
    assert float(view.image.min()) == 0 and float(view.image.max()) == 1


def test_rollout_is_the_product_over_layers(vit: Made) -> None:
    (found,) = image_attention_of(regard.load(vit[2]), photo(), kind="rollout").weights
    total = torch.eye(25)
    for layer in theirs(vit, photo()):
        total = (0.5 * torch.eye(25) + 0.5 * layer.mean(0)) @ total
    torch.testing.assert_close(found.flatten(), total[0, 1:], rtol=0, atol=1e-5)


def test_the_command_draws_or_says_why_not(vit: Made, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    photo().save(tmp_path / "photo.png")

    def command(*words: object) -> str:
        found = CliRunner().invoke(app, ["attention", str(vit[2]), *map(str, words)], catch_exceptions=False)
        assert found.exit_code == 0
        return found.stdout

    out = tmp_path / "heads.png"
    assert "2 x 4 (layers x heads), 4 x 6 patches" in command(tmp_path / "photo.png", "-o", out)
    assert out.read_bytes()[:4] == b"\x89PNG"
    said = command(tmp_path / "photo.png", "-o", tmp_path / "x.json", "--kind", "rollout")
    assert "1 x 1" in said and len(json.loads((tmp_path / "x.json").read_text())["weights"][0][0]) == 4
    with pytest.raises(ValueError, match=r"there is no file .*none\.png"):
        command(tmp_path / "none.png", "-o", out)
    with pytest.raises(ValueError, match="kind is 'cross'"):
        command(tmp_path / "photo.png", "-o", out, "--kind", "cross")


def test_models_that_look_in_windows_are_refused(tmp_path: Path) -> None:
    small = {"image_size": 32, "patch_size": 4, "embed_dim": 16, "depths": [1, 1], "num_heads": [2, 2]}
    saved(tmp_path, "SwinModel", "ViT", settings=SMALL, window_size=2, **small)
    with pytest.raises(ValueError, match="there is nothing to draw"):
        image_attention_of(regard.load(tmp_path), photo())
