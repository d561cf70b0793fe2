"""Every family that sees or hears, every class of it, against the reference: forward, other sizes, to disk and back."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from safetensors.torch import load_file, save_file

import regard

pytest.importorskip("transformers", reason="the reference library is not installed (extra: oracle)")

from tests.models import oracle, senses

CASES = [case for case in oracle.sense_cases() if oracle.reads(case[2]) & {"image", "video"}]
CASES = [case for case in CASES if case[2] not in senses.WRITTEN]
IDS = [f"{variant}-{architecture}".replace(" ", "_") for _, variant, architecture in CASES]
# Files whose positions hold for one size: a clear error takes the place of another result.
ONE_SIZE = {"videomae"}


@pytest.fixture(params=CASES, ids=IDS)
def case(request):
    """(family's name, reference model, its folder, our model loaded from that folder)"""
    theirs, folder = oracle.reference(*request.param)
    # A copy, as some of the reference's layers remember the size of an image and treat the next one by it.
    return request.param[0], copy.deepcopy(theirs), folder, regard.load(folder)


def test_outputs_equal_the_reference(case):
    _, theirs, _, ours = case
    given = senses.inputs(theirs)
    senses.compare(senses.outputs(ours, given), senses.outputs(theirs, given))


def test_images_of_another_size_equal_the_reference(case):
    name, theirs, _, ours = case
    given = senses.inputs(theirs, other=True)
    if name == "llava":
        pytest.skip("the reference's towers inside others are not told to resample")
    if name in ONE_SIZE:
        with pytest.raises(ValueError, match=r"pixel_values is of .* allowed: "):
            ours(**given)
        return
    senses.compare(senses.outputs(ours, given), senses.outputs(theirs, given))


@torch.no_grad()
def test_a_batch_equals_its_images_one_by_one(case):
    _, theirs, _, ours = case
    given = senses.inputs(theirs)
    if set(given) != {"pixel_values"}:
        pytest.skip("pairs are held together by their logits, compared above")
    whole = senses.outputs(ours, given)
    for i, image in enumerate(given["pixel_values"]):
        for name, value in senses.outputs(ours, {"pixel_values": image[None]}).items():
            n = len(value)  # more than one where each frame of a video has a row
            oracle.close(value, whole[name][i * n : (i + 1) * n])


def test_save_gives_the_same_file_and_the_reference_opens_it(case, tmp_path):
    _, theirs, folder, ours = case
    regard.save(ours, tmp_path)
    before, after = load_file(folder / "model.safetensors"), load_file(tmp_path / "model.safetensors")
    computed = oracle.computed(ours, before)
    assert set(after) == set(before) - computed
    for key, value in after.items():
        assert torch.equal(value, before[key]), key
    again, info = type(theirs).from_pretrained(tmp_path, output_loading_info=True)
    missing = {key for key in info["missing_keys"] if not {key, key.removeprefix("model.")} & computed}
    assert not missing and not info["unexpected_keys"]
    given = senses.inputs(theirs)
    senses.compare(senses.outputs(again.eval(), given), senses.outputs(theirs, given))


def test_names_as_the_reference_has_them_in_memory_open_too(case, tmp_path):
    _, theirs, folder, ours = case
    state = {key: value.contiguous().clone() for key, value in theirs.state_dict().items()}
    save_file(state, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    assert json.loads((tmp_path / "config.json").read_text())["architectures"] == [type(theirs).__name__]
    given = senses.inputs(theirs)
    senses.compare(senses.outputs(regard.load(tmp_path), given), senses.outputs(ours, given))


@torch.no_grad()
def test_new_weights_run_and_are_the_same_for_a_seed(case):
    _, theirs, folder, _ = case
    raw = json.loads((folder / "config.json").read_text())
    one, two = (regard.from_config(raw, seed=1).eval() for _ in range(2))
    given = senses.inputs(theirs)
    first, second = senses.outputs(one, given), senses.outputs(two, given)
    assert first and all(bool(value.isfinite().all()) for value in first.values())
    assert all(torch.equal(value, second[name]) for name, value in first.items())


def test_wrong_pixels_are_named(case):
    _, theirs, _, ours = case
    given = senses.inputs(theirs)
    good = given["pixel_values"]
    for bad in (good[0], good.long(), good[..., :0, :], good.repeat_interleave(2, -3)):
        with pytest.raises(ValueError, match="pixel_values"):
            ours(**{**given, "pixel_values": bad})


OLDER = [
    ("clip", "clip text", "CLIPTextModel", "text_model."),
    ("clip", "clip vision", "CLIPVisionModel", "vision_model."),
    ("siglip", "siglip text", "SiglipTextModel", "text_model."),
    ("siglip", "siglip vision", "SiglipVisionModel", "vision_model."),
]


@pytest.mark.parametrize(("family", "variant", "architecture", "prefix"), OLDER, ids=[row[2] for row in OLDER])
def test_a_tower_alone_as_the_fourth_version_wrote_it(tmp_path, family, variant, architecture, prefix):
    theirs, folder = oracle.reference(family, variant, architecture)
    state = {prefix + key: value for key, value in load_file(folder / "model.safetensors").items()}
    state[f"{prefix}embeddings.position_ids"] = torch.arange(5)[None]
    save_file(state, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    given = senses.inputs(theirs)
    senses.compare(senses.outputs(regard.load(tmp_path), given), senses.outputs(theirs, given))


@pytest.mark.parametrize(("family", "architecture"), [("clip", "CLIPModel"), ("siglip", "SiglipModel")])
@torch.no_grad()
def test_texts_of_a_pair_mean_the_same_in_every_layout(family, architecture):
    theirs, folder = oracle.reference(family, family, architecture)
    ours, pixels = regard.load(folder), senses.inputs(theirs)["pixel_values"]
    rows = oracle.random_words(theirs, (7, 11, 4))
    alone = torch.cat([ours.get_text_features(row[None]) for row in rows])
    for layout in ("right", "left", "packed"):
        given = oracle.laid_out(rows, layout, "input_ids")
        oracle.close(ours.get_text_features(**given), alone)
        assert ours(pixel_values=pixels, **given).logits_per_image.shape == (2, 3)
    found = theirs.get_text_features(rows[0][None]).pooler_output
    oracle.close(alone[:1], found)
    found = theirs.get_image_features(pixels).pooler_output
    oracle.close(ours.get_image_features(pixels), found)
