"""Images that change each time they are learnt from: what may come out, and that a run that goes on sees the same."""

from __future__ import annotations

import math
from itertools import islice
from typing import Any

import numpy as np
import pytest
import torch

from regard.preprocess.audio import AudioProcessor
from regard.training.data.augment import AugmentImage, AugmentSound, augmentation, crop, mirrored, shifted, warped
from regard.training.data.batches import Batches, stream
from regard.training.data.senses import Lazy, sounds

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
    still = warped(SLOPE, 0.0, rng)
    torch.testing.assert_close(still[:, 2:-2, 2:-2], SLOPE[:, 2:-2, 2:-2], rtol=1e-4, atol=1e-2)


def test_a_small_image_keeps_its_contrast() -> None:
    """Interpolation between four neighbours takes half of the energy of noise; what is drawn larger first, a third."""
    noise, rng, kept = torch.randn(100, 8, 8, generator=torch.manual_seed(0)), np.random.default_rng(0), []
    for _ in range(50):
        kept.append(float(warped(noise, 0.1, rng)[:, 2:-2, 2:-2].square().mean()))
    assert 0.6 < np.mean(kept) < 1


def rows(count: int, augment: AugmentImage | None) -> Lazy:
    images = np.random.default_rng(1).normal(size=(count, 3, 12, 10)).astype(np.float32)
    return Lazy(count, lambda i: {"pixel_values": images[i], "labels": i}, keep=True, augment=augment)


def plain(some: Any, rng: np.random.Generator) -> Any:
    return [(row["labels"], row["pixel_values"]) for row in some]


def test_a_run_that_goes_on_sees_the_same_images() -> None:
    data = rows(10, AugmentImage(warp=0.1))
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
        augmentation(AugmentImage, value)


def test_true_false_and_a_table() -> None:
    assert augmentation(AugmentImage, True) == AugmentImage() and augmentation(AugmentSound, True) == AugmentSound()
    assert augmentation(AugmentImage, False) is None and augmentation(AugmentSound, None) is None
    found = augmentation(AugmentImage, {"area": [0.5, 1], "flip": False})
    assert found == AugmentImage(area=(0.5, 1), flip=False)
    with pytest.raises(ValueError, match=r"pixel_values is \(2, 3, 4, 4\)"):
        AugmentImage()({"pixel_values": np.zeros((2, 3, 4, 4))}, np.random.default_rng(0))


TONE = np.sin(2 * np.pi * 400 * np.arange(8000) / 16000).astype(np.float32)  # 400 Hz at 16 kHz
NOTHING = {"speed": 0.0, "shift": 0.0, "noise": 0.0, "gain": 0.0}


def pitch(sound: np.ndarray) -> float:
    """The loudest frequency, in Hz at 16 kHz."""
    spectrum = np.abs(np.fft.rfft(sound * np.hanning(len(sound)), 2**17))
    return float(spectrum.argmax()) * 16000 / 2**17


def test_a_sound_that_is_played_faster_is_shorter_and_higher() -> None:
    pytest.importorskip("soxr")
    rng, seen = np.random.default_rng(0), []
    for _ in range(100):
        sound = AugmentSound(**{**NOTHING, "speed": 0.2})(TONE, rng)
        factor = len(TONE) / len(sound)
        assert sound.dtype == np.float32 and pitch(sound) == pytest.approx(400 * factor, rel=1e-3)
        seen.append(factor)
    assert 0.8 <= min(seen) < 0.82 and 1.18 < max(seen) <= 1.2 and abs(np.mean(seen) - 1) < 0.03


def test_a_sound_is_cut_or_filled_up_at_both_ends() -> None:
    steps, rng, ends = np.arange(1.0, 1001.0, dtype=np.float32), np.random.default_rng(0), []
    for _ in range(200):
        sound = shifted(steps, 0.1, rng)
        own = sound[sound > 0]  # what is left of it is one piece
        assert np.array_equal(own, np.arange(own[0], own[-1] + 1))
        ends.append((own[0] - 1, 1000 - own[-1], np.argmax(sound > 0), np.argmax(sound[::-1] > 0)))
    cut = np.array(ends).max(0)
    assert (cut > 90).all() and (cut <= 100).all()
    assert all((a == 0 or c == 0) and (b == 0 or d == 0) for a, b, c, d in ends)
    for length in range(1, 5):
        assert all(len(shifted(np.ones(length), 0.49, rng)) for _ in range(50))


def test_noise_and_gain_are_what_is_asked_for() -> None:
    rng, levels, gains = np.random.default_rng(0), [], []
    for _ in range(200):
        noise = AugmentSound(**{**NOTHING, "noise": 0.1})(TONE, rng) - TONE
        levels.append(noise.std() / TONE.std())
        louder = AugmentSound(**{**NOTHING, "gain": 6})(TONE, rng)
        ratio = louder[1:] / TONE[1:]
        gains.append(20 * math.log10(float(np.median(ratio))))
        np.testing.assert_allclose(louder, TONE * np.median(ratio), atol=1e-5)
    assert min(levels) < 0.003 and 0.097 < max(levels) < 0.103 and abs(np.mean(levels) - 0.05) < 0.006
    assert -6 <= min(gains) < -5.8 and 5.8 < max(gains) <= 6.001 and abs(np.mean(gains)) < 0.6
    assert np.array_equal(AugmentSound(**NOTHING)(TONE, rng), TONE)
    assert not AugmentSound()(np.zeros(800, np.float32), rng).any()  # silence stays so


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({"area": 1}, "augment is .* allowed: true, false, or a table of speed, shift, noise, gain"),
        ({"speed": 1}, "augment.speed is 1; allowed: 0 up to, but not, 1"),
        ({"shift": 0.5}, "augment.shift is 0.5; allowed: 0 up to, but not, 0.5"),
        ({"noise": -0.1}, "augment.noise is -0.1"),
        ({"gain": "loud"}, "augment.gain is 'loud'; allowed: 0 up to, but not, 100"),
    ],
)
def test_what_is_no_option_for_sounds_is_refused(value: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        augmentation(AugmentSound, value)


def test_sounds_change_before_they_are_made_features() -> None:
    """A row that is learnt from is what the processor makes of the changed sound; one that is only read is not."""
    pytest.importorskip("soxr")
    ears = AudioProcessor("Wav2Vec2FeatureExtractor", {"sampling_rate": 8000})
    rows = [{"audio": {"array": TONE[: 4000 + 100 * i], "sampling_rate": 16000}, "label": str(i % 2)} for i in range(4)]
    for augment in (None, {**NOTHING, "speed": 0.1}):
        data = sounds(rows, ears, label="label", keep=True, augment=augment)
        for i in range(4):
            plain = ears(rows[i]["audio"], return_tensors="np")["input_values"][0]
            np.testing.assert_array_equal(data[i]["input_values"], plain)
            found = data.changed(i, np.random.default_rng(7))
            if augment is None:
                np.testing.assert_array_equal(found["input_values"], plain)
                continue
            heard = AugmentSound(**augment)(ears.samples(rows[i]["audio"]), np.random.default_rng(7))
            np.testing.assert_array_equal(found["input_values"], ears(heard, return_tensors="np")["input_values"][0])
            assert len(heard) != len(plain) and abs(float(found["input_values"].std()) - 1) < 1e-3
            assert found["labels"] == i % 2
        batches = Batches(data, batch_size=4, seed=0)
        _, (_, second) = islice(stream(data, batches, lambda some, rng: some), 2)
        lengths = [len(row["input_values"]) for row in second]
        original = [len(data[i]["input_values"]) for i in batches.batch(1, 0)]
        assert (lengths == original) is (augment is None)
