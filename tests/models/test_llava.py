"""Images among words: every layout, cached steps, and writing, against the reference; wrong pairs are named."""

from __future__ import annotations

import pytest
import torch

import regard
from regard.nn import KVCache

pytest.importorskip("transformers", reason="the reference library is not installed (extra: oracle)")

from tests.models import oracle, senses


@pytest.fixture(params=["llava", "llava of other parts"])
def case(request):
    """(reference, ours, rows of unequal length that hold one image each, the images)"""
    theirs, folder = oracle.reference("llava", request.param, "LlavaForConditionalGeneration")
    rows = [senses.with_images(theirs, row[None])[0] for row in oracle.random_words(theirs, (5, 9, 7))]
    pixels = senses.inputs(theirs)["pixel_values"]
    return theirs, regard.load(folder), rows, torch.cat([pixels, pixels[:1].flip(-1)])


@pytest.mark.parametrize("layout", ["right", "left", "packed"])
@torch.no_grad()
def test_every_layout_equals_the_reference_row_by_row(case, layout):
    theirs, ours, rows, pixels = case
    logits = ours(pixel_values=pixels, **oracle.laid_out(rows, layout, "input_ids")).logits
    for i, part in enumerate(oracle.cut(logits, [len(row) for row in rows], layout)):
        oracle.close(part, theirs(input_ids=rows[i][None], pixel_values=pixels[i : i + 1]).logits[0])


@torch.no_grad()
def test_cached_steps_equal_one_pass(case):
    _, ours, rows, pixels = case
    row, image, cache = rows[1][None], pixels[1:2], KVCache()
    whole = ours(row, pixel_values=image).logits
    steps = [ours(row[:, :-3], pixel_values=image, cache=cache).logits]
    steps += [ours(row[:, i : i + 1], cache=cache).logits for i in range(row.shape[1] - 3, row.shape[1])]
    oracle.close(torch.cat(steps, 1), whole)


@torch.no_grad()
def test_it_writes_what_the_reference_writes(case):
    theirs, ours, rows, pixels = case
    ids, mask = oracle.pad(rows, "left")
    options = {"max_new_tokens": 6, "min_new_tokens": 6, "do_sample": False}
    for beams in (1, 3):
        written = ours.generate(ids, mask, pixel_values=pixels, num_beams=beams, **options)
        for i, row in enumerate(rows):
            alone = theirs.generate(
                input_ids=row[None], pixel_values=pixels[i : i + 1], num_beams=beams, pad_token_id=0, **options
            )
            assert written[i, -6:].tolist() == alone[0, len(row) :].tolist()


def test_images_without_places_are_named(case):
    _, ours, rows, pixels = case
    with pytest.raises(ValueError, match=r"input_ids has \d+ tokens 90 for images; allowed: \d+"):
        ours(rows[0][None], pixel_values=pixels)
    with pytest.raises(ValueError, match="pixel_values needs input_ids"):
        ours(pixel_values=pixels)
