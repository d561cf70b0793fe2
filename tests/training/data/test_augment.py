"""Images that change each time they are learnt from: what may come out, and that a run that goes on sees the same."""

from __future__ import annotations

from itertools import islice
from typing import Any

import numpy as np
import pytest
import torch

from regard.training.data.augment import Augment, crop, mirrored, warped
from regard.training.data.batches import Batches, stream
from regard.training.data.senses import Lazy

SLOPE = torch.arange(24.0)[None, :, None] + 100 * torch.arange(32.0)[None, None, :]  # tells where a pixel was


def test_crops_are_parts_of_the_area_and_of_the_shape_that_is_asked_for() -> None:
    rng, parts, ratios = np.random.default_rng(0), [], []
    for _ in range(400):
        view = crop(SLOPE, (48, 48), (0.2, 0.6), rng)[0]
        assert view.shape == (48, 48)
        # A slope stays a slope: what it rises by over the view is the part that the view shows.
        height, width = (view[40, 20] - view[8, 20]) / 32 * 48, (view[20, 40] - view[20, 8]) / 32 * 48 / 100
        parts.append(float(height * width) / (24 * 32))
        ratios.append(float(width / height))
    assert 0.15 < min(parts) < 0.25 and 0.5 < max(parts) < 0.65 and abs(np.mean(parts) - 0.4) < 0.02
    assert min(ratios) > 0.6 and max(ratios) < 1.6
    torch.testing.assert_close(crop(SLOPE[:, :, :24], (24, 24), (1.0, 1.0), _Still()), SLOPE[:, :, :24])


class _Still:
    """Draws the middle."""

    def uniform(self, low: float, high: float) -> float:
        return (low + high) / 2

    def integers(self, high: int) -> int:
        return 0


def test_half_of_the_images_are_mirrored() -> None:
    rng = np.random.default_rng(0)
    seen = [bool(torch.equal(mirrored(SLOPE, rng), SLOPE.flip(-1))) for _ in range(1000)]
    assert abs(np.mean(seen) - 0.5) < 0.05


def test_a_warp_is_an_affine_map() -> None:
    """Inside, a slope stays a slope; by how much it moved is within what was asked for."""
    rng = np.random.default_rng(0)
    for _ in range(50):
        view = warped(SLOPE, 0.1, rng)[0, 8:16, 10:22]
        for axis in (0, 1):
            steps = view.diff(dim=axis)
            torch.testing.assert_close(steps, steps.mean().expand_as(steps), rtol=1e-3, atol=1e-2)
        moved = warped(SLOPE, 0.1, rng)[0, 12, 16] - SLOPE[0, 12, 16]
        assert abs(float(moved)) < 100 * 0.15 * 32
    torch.testing.assert_close(warped(SLOPE, 0.0, rng), SLOPE, rtol=1e-4, atol=1e-2)


def rows(count: int, augment: Augment | None) -> Lazy:
    images = np.random.default_rng(1).normal(size=(count, 3, 12, 10)).astype(np.float32)
    return Lazy(count, lambda i: {"pixel_values": images[i], "labels": i}, keep=True, augment=augment)


def plain(some: Any, rng: np.random.Generator) -> Any:
    return [(row["labels"], row["pixel_values"]) for row in some]


def test_a_run_that_goes_on_sees_the_same_images() -> None:
    data = rows(10, Augment(warp=0.1))
    plan = Batches(data, batch_size=4, seed=3)
    whole = list(islice(stream(data, plan, plain), 7))
    for cut in (1, 3, 5):
        rest = list(islice(stream(data, Batches(data, batch_size=4, seed=3), plain, start=whole[cut - 1][0]), 7 - cut))
        for (a, first), (b, second) in zip(whole[cut:], rest, strict=True):
            assert a == b and all(i == j and np.array_equal(x, y) for (i, x), (j, y) in zip(first, second, strict=True))
    seen: dict[int, list[np.ndarray]] = {}
    for _, batch in whole:
        for i, pixels in batch:
            assert pixels.shape == (3, 12, 10) and pixels.dtype == np.float32
            seen.setdefault(i, []).append(pixels)
    assert any(len(found) > 1 for found in seen.values())  # another epoch, another view
    assert all(not np.array_equal(found[0], found[1]) for found in seen.values() if len(found) > 1)
    other = next(iter(stream(data, Batches(data, batch_size=4, seed=3), plain)))[1]
    assert all(np.array_equal(x, y) for (_, x), (_, y) in zip(whole[0][1], other, strict=True))
    still = next(iter(stream(rows(10, None), plan, plain)))[1]
    assert all(np.array_equal(pixels, rows(10, None)[i]["pixel_values"]) for i, pixels in still)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("crop", "augment is 'crop'; allowed: true, false, or a table of area, flip, warp"),
        ({"areas": 1}, "augment is .* allowed: true, false, or a table of area, flip, warp"),
        ({"area": [0.5]}, r"augment.area is \(0.5,\); allowed: two rising numbers above 0, up to 1"),
        ({"area": [0.5, 0.2]}, r"augment.area is \(0.5, 0.2\)"),
        ({"area": ["a", "b"]}, "augment.area is"),
        ({"area": 0.5}, "augment.area is 0.5"),
        ({"warp": 1}, "augment.warp is 1; allowed: 0 up to, but not, 1"),
        ({"warp": "much"}, "augment.warp is 'much'"),
        ({"flip": 1}, "augment.flip is 1; allowed: true or false"),
    ],
)
def test_what_is_not_an_option_is_refused(value: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Augment.of(value)


def test_true_false_and_a_table() -> None:
    assert Augment.of(True) == Augment() and Augment.of(False) is None and Augment.of(None) is None
    assert Augment.of({"area": [0.5, 1], "flip": False}) == Augment(area=(0.5, 1), flip=False)
    with pytest.raises(ValueError, match=r"pixel_values is \(2, 3, 4, 4\)"):
        Augment()({"pixel_values": np.zeros((2, 3, 4, 4))}, np.random.default_rng(0))
