"""A trained encoder of images gives the numbers that the reference gives for it, at three sizes."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import regard

Image = pytest.importorskip("PIL.Image", reason="Pillow is not installed (extra: image)")

NAME = "checkpoints/dinov2-small"
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@pytest.fixture(scope="module")
def opened(data) -> tuple[regard.Model, dict[str, Any]]:
    folder = data(NAME)
    return regard.load(folder), json.loads((folder / "expected.json").read_text(encoding="utf-8"))


@pytest.fixture
def photo(data):
    """`photo(name)` is a picture as stored, (height, width, 3) of bytes."""

    def read(name: str) -> np.ndarray:
        with Image.open(data(f"{NAME}/{name}")) as image:
            return np.array(image.convert("RGB"))

    return read


def normalised(picture: np.ndarray) -> Tensor:
    """Bytes -> (1, 3, height, width), as the expected numbers were made: no resize, no crop."""
    x = torch.from_numpy(picture).float().div(255).sub(torch.tensor(MEAN)).div(torch.tensor(STD))
    return x.permute(2, 0, 1)[None].contiguous()


def near(ours: Tensor, theirs: Any, tolerance: float) -> None:
    expected = torch.tensor(theirs, dtype=ours.dtype)
    assert ours.shape == expected.shape
    assert float((ours - expected).abs().max()) <= tolerance


@pytest.mark.parametrize("number", [0, 1])
@torch.no_grad()
def test_photos_at_a_size_that_positions_are_resampled_for(opened, photo, number):
    model, expected = opened
    entry, within = expected["images"][number], expected["tolerance"]
    picture = photo(entry["image"])
    assert int(picture.astype(np.int64).sum()) == entry["uint8_sum"]
    pixels = normalised(picture)
    near(pixels[0, 0, :2, :4], entry["pixel_values_0_0_0to2_0to4"], within["pixel_values"])

    states: list[Tensor] = [model.encoder.front(pixels)[0]]
    hooks = [layer.register_forward_hook(lambda *a: states.append(a[2])) for layer in model.encoder.stack.layers]
    out = model(pixel_values=pixels)
    for hook in hooks:
        hook.remove()
    near(states[0][0, 0, :4], entry["embeddings_cls_first4"], within["embeddings"])
    near(states[0][0, 1, :4], entry["embeddings_patch0_first4"], within["embeddings"])
    near(states[6][0, 0, :4], entry["layer6_cls_first4"], within["last_hidden_state"])

    hidden, facts, tolerance = out.last_hidden_state, entry["last_hidden_state"], within["last_hidden_state"]
    assert list(hidden.shape) == facts["shape"]
    near(hidden[0, 0, :8], facts["cls_first8"], tolerance)
    near(hidden[0, 1, :8], facts["patch0_first8"], tolerance)
    near(hidden[0, 256, :8], facts["patch255_first8"], tolerance)
    near(hidden.abs().mean(), facts["mean_abs"], tolerance)
    near(hidden.abs().max(), facts["max_abs"], tolerance)
    near(hidden[0, 0, :8], entry["onnxruntime_fp32_graph_cls_first8"], within["onnx_fp32"])
    assert torch.equal(out.pooler_output, hidden[:, 0])


@pytest.mark.parametrize("number", [0, 1])
@torch.no_grad()
def test_a_crop_that_is_not_square(opened, photo, number):
    model, expected = opened
    entry, tolerance = expected["images"][number], expected["tolerance"]["last_hidden_state"]
    crop = entry["top_left_crop_112x168"]
    hidden = model(pixel_values=normalised(photo(entry["image"])[:112, :168])).last_hidden_state
    assert list(hidden.shape) == crop["shape"]
    near(hidden[0, 0, :8], crop["cls_first8"], tolerance)
    near(hidden[0, -1, :8], crop["last_patch_first8"], tolerance)


@torch.no_grad()
def test_the_size_it_was_trained_for(opened, photo):
    model, expected = opened
    facts, tolerance = expected["native_grid_518"], expected["tolerance"]["last_hidden_state"]
    picture = np.tile(photo("images/coffee_224.png"), (3, 3, 1))[:518, :518]
    hidden = model(pixel_values=normalised(picture), interpolate_pos_encoding=False).last_hidden_state
    assert list(hidden.shape) == facts["shape"]
    near(hidden[0, 0, :8], facts["cls_first8"], tolerance)
    near(hidden[0, -1, :8], facts["patch_last_first8"], tolerance)


@torch.no_grad()
def test_two_photos_in_one_batch_are_as_far_apart_as_they_should_be(opened, photo):
    model, expected = opened
    pixels = torch.cat([normalised(photo(entry["image"])) for entry in expected["images"]])
    cat, coffee = model(pixel_values=pixels).pooler_output
    near(torch.cosine_similarity(cat, coffee, 0), expected["cosine_cls_chelsea_coffee"], 1e-3)
