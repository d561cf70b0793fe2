"""Captions and answers as the reference writes them; readings and judgements in every layout; towers of two widths."""

from __future__ import annotations

import pytest
import torch

import regard
from tests.models import oracle, senses

transformers = pytest.importorskip("transformers", reason="the reference library is not installed (extra: oracle)")

LONG = {"max_new_tokens": 7, "min_new_tokens": 7, "do_sample": False}


def both(architecture, tmp_path, **vision):
    """The reference and ours; `vision` changes what the tower that sees is like."""
    if not vision:
        theirs, folder = oracle.reference("blip", "blip", architecture)
        return theirs, regard.load(folder)
    known, _ = oracle.reference("blip", "blip", architecture)
    config = transformers.BlipConfig(
        text_config=known.config.text_config.to_dict(), vision_config={**known.config.vision_config.to_dict(), **vision}
    )
    theirs = getattr(transformers, architecture)(config).eval()
    for parameter in theirs.parameters():
        parameter.data.normal_(0, 0.2)
    theirs.save_pretrained(tmp_path)
    return theirs, regard.load(tmp_path)


@pytest.mark.parametrize("vision", [{}, {"hidden_size": 40}], ids=["one width", "two widths"])
@pytest.mark.parametrize("beams", [1, 3])
@torch.no_grad()
def test_captions_equal_the_reference(tmp_path, vision, beams):
    theirs, ours = both("BlipForConditionalGeneration", tmp_path, **vision)
    pixels = senses.inputs(theirs)["pixel_values"]
    expected = theirs.generate(pixel_values=pixels, num_beams=beams, **LONG)
    assert ours.generate(pixel_values=pixels, num_beams=beams, **LONG).tolist() == expected[:, :8].tolist()
    # The reference puts its start in the place of the first word, and leaves out the last: here it is as it stands.
    words = torch.tensor([[3, 11, 12, 5], [3, 40, 41, 5]])
    expected = theirs.generate(pixel_values=pixels, input_ids=words.clone(), num_beams=beams, **LONG)
    assert ours.generate(words[:, :-1], pixel_values=pixels, num_beams=beams, **LONG).tolist() == expected.tolist()


@pytest.mark.parametrize("beams", [1, 3])
@torch.no_grad()
def test_answers_equal_the_reference(tmp_path, beams):
    theirs, ours = both("BlipForQuestionAnswering", tmp_path)
    pixels = senses.inputs(theirs)["pixel_values"]
    ids, mask = oracle.pad(oracle.random_words(theirs, (6, 9)), "right")
    expected = theirs.generate(input_ids=ids, attention_mask=mask, pixel_values=pixels, num_beams=beams, **LONG)
    found = ours.generate(ids, mask, pixel_values=pixels, num_beams=beams, **LONG)
    assert found.tolist() == expected.tolist()
    regard.save(ours, tmp_path / "saved")
    assert regard.load(tmp_path / "saved").generate(ids, mask, pixel_values=pixels, **LONG).shape == found.shape
    again, info = type(theirs).from_pretrained(tmp_path / "saved", output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    for key, value in theirs.state_dict().items():
        assert torch.equal(again.state_dict()[key], value), key


@pytest.mark.parametrize("layout", ["right", "left", "packed"])
@torch.no_grad()
def test_judgements_in_every_layout(tmp_path, layout):
    theirs, ours = both("BlipForImageTextRetrieval", tmp_path)
    pixels, rows = senses.inputs(theirs)["pixel_values"], oracle.random_words(theirs, (6, 9))
    found = ours(pixel_values=pixels, **oracle.laid_out(rows, layout, "input_ids")).logits
    for i, row in enumerate(rows):
        expected = theirs(input_ids=row[None], pixel_values=pixels[i : i + 1]).itm_score
        oracle.close(found[i : i + 1], expected)


@torch.no_grad()
def test_images_and_texts_that_do_not_pair_are_named(tmp_path):
    theirs, ours = both("BlipForImageTextRetrieval", tmp_path)
    given = senses.inputs(theirs)
    with pytest.raises(ValueError, match="pixel_values holds 1 images; allowed: 2"):
        ours(given["input_ids"], pixel_values=given["pixel_values"][:1])
    with pytest.raises(ValueError, match="pixel_values is missing"):
        ours(given["input_ids"])
