"""Images beside words: every layout, cached steps, and writing, against the reference; wrong input is named."""

from __future__ import annotations

import pytest
import torch

import regard
from regard.nn import KVCache

pytest.importorskip("transformers", reason="the reference library is not installed (extra: oracle)")

from regard.models.registry import families
from tests.models import oracle, senses
from tests.preprocess.folders import FOLDERS
from tests.tasks.conftest import sharpen
from tests.tasks.seeing import photo, words

OPTIONS = {"max_new_tokens": 6, "min_new_tokens": 6, "do_sample": False}


@pytest.fixture(params=["idefics", "idefics plain", "idefics tied"])
def case(request):
    """(reference, ours, rows of unequal length, three images for each, which of them each word sees)"""
    theirs, folder = oracle.reference("idefics", request.param, "IdeficsForVisionText2Text")
    draw, pixels = torch.Generator().manual_seed(5), senses.inputs(theirs)["pixel_values"]
    rows = [row[:-1] for row in oracle.random_words(theirs, (6, 10, 8))]  # not yet at their end
    seen = [(torch.rand(len(row), 3, generator=draw) < 0.5).long() for row in rows]
    for look, last in zip(seen, ([0, 1, 1], [0, 0, 0], [1, 0, 0]), strict=True):
        look[-1] = torch.tensor(last)  # what is written sees two images, none, or one
    return theirs, regard.load(folder), rows, torch.cat([pixels, pixels[:1].flip(-1)]), seen


def laid_out(rows, seen, layout):
    given = oracle.laid_out(rows, layout, "input_ids")
    if layout == "packed":
        return {**given, "image_attention_mask": torch.cat(seen)}
    mask = torch.ones(*given["input_ids"].shape, 3, dtype=torch.long)  # padding that would see everything
    for i, look in enumerate(seen):
        mask[i, given["attention_mask"][i].bool()] = look
    return {**given, "image_attention_mask": mask}


@pytest.mark.parametrize("layout", ["right", "left", "packed"])
@torch.no_grad()
def test_every_layout_equals_the_reference_row_by_row(case, layout):
    theirs, ours, rows, pixels, seen = case
    logits = ours(pixel_values=pixels, **laid_out(rows, seen, layout)).logits
    for i, part in enumerate(oracle.cut(logits, [len(row) for row in rows], layout)):
        given = {"pixel_values": pixels[i : i + 1], "image_attention_mask": seen[i][None]}
        oracle.close(part, theirs(input_ids=rows[i][None], **given).logits[0])


@torch.no_grad()
def test_cached_steps_equal_one_pass(case):
    _, ours, rows, pixels, seen = case
    row, image, look = rows[1][None], pixels[1:2], seen[1][None]
    whole = ours(row, pixel_values=image, image_attention_mask=look).logits
    for told in (True, False):  # which images to look at, or to look on at what the last word saw
        cache = KVCache()
        if not told:
            look[:, -4:] = look[:, -4:-3]
            whole = ours(row, pixel_values=image, image_attention_mask=look).logits
        steps = [ours(row[:, :-3], pixel_values=image, image_attention_mask=look[:, :-3], cache=cache).logits]
        for i in range(row.shape[1] - 3, row.shape[1]):
            more = {"image_attention_mask": look[:, i : i + 1]} if told else {}
            steps.append(ours(row[:, i : i + 1], cache=cache, **more).logits)
        oracle.close(torch.cat(steps, 1), whole)


@torch.no_grad()
def test_without_images_gated_layers_add_nothing_from_them(case):
    theirs, ours, rows, pixels, _ = case
    row = rows[1][None]
    blind = torch.zeros(1, row.shape[1], 3, dtype=torch.long)
    expected = theirs(input_ids=row, pixel_values=pixels[:1], image_attention_mask=blind).logits
    oracle.close(ours(row).logits, expected)
    everything = theirs(input_ids=row, pixel_values=pixels[:1], image_attention_mask=blind + 1).logits
    oracle.close(ours(row, pixel_values=pixels[:1]).logits, everything)


@pytest.mark.parametrize("layout", ["left", "right", "packed"])
@pytest.mark.parametrize("beams", [1, 3])
@torch.no_grad()
def test_it_writes_what_the_reference_writes(case, beams, layout):
    theirs, ours, rows, pixels, seen = case
    written = ours.generate(**laid_out(rows, seen, layout), pixel_values=pixels, num_beams=beams, **OPTIONS)
    for i, row in enumerate(rows):
        given = {"pixel_values": pixels[i : i + 1], "image_attention_mask": seen[i][None]}
        alone = theirs.generate(
            input_ids=row[None], attention_mask=torch.ones_like(row[None]), num_beams=beams, **given, **OPTIONS
        )
        assert written[i, -6:].tolist() == alone[0, len(row) :].tolist()


@torch.no_grad()
def test_writing_from_equal_rows_padded_and_without_a_mask_for_images(case):
    theirs, ours, rows, pixels, seen = case
    row, look = rows[1], seen[2].new_tensor([[0, 1, 0]]).expand(len(rows[1]), 3)
    padded = torch.nn.functional.pad(torch.stack([row, row.flip(0)]), (2, 1))  # equal again once padding is gone
    mask = torch.nn.functional.pad(torch.ones(2, len(row), dtype=torch.long), (2, 1))
    looks = torch.nn.functional.pad(torch.stack([look, look]), (0, 0, 2, 1), value=1)
    written = ours.generate(padded, mask, pixel_values=pixels[:2], image_attention_mask=looks, **OPTIONS)
    for i, ids in enumerate((row, row.flip(0))):
        given = {"pixel_values": pixels[i : i + 1], "image_attention_mask": look[None]}
        alone = theirs.generate(input_ids=ids[None], attention_mask=torch.ones_like(ids[None]), **given, **OPTIONS)
        assert written[i, -6:].tolist() == alone[0, len(ids) :].tolist()
    alone = theirs.generate(
        input_ids=row[None],
        attention_mask=torch.ones_like(row[None]),
        pixel_values=pixels[:1],
        image_attention_mask=torch.ones_like(look[None]),
        **OPTIONS,
    )
    assert ours.generate(row[None], pixel_values=pixels[:1], **OPTIONS).tolist() == alone.tolist()


def test_wrong_input_is_named(case):
    _, ours, rows, pixels, seen = case
    row, look, cache = rows[0][None], seen[0][None], KVCache()
    for given, said in [
        ({"pixel_values": pixels}, "pixel_values holds images for 3 texts; allowed: 1"),
        ({"image_attention_mask": look}, "image_attention_mask needs pixel_values"),
        ({"pixel_values": pixels[:1], "image_attention_mask": look[:, 1:]}, r"is \(1, 4, 3\); allowed: 1 x 5 x 3"),
        ({"pixel_values": pixels[:1], "image_attention_mask": look[..., 1:]}, r"is \(1, 5, 2\); allowed: 1 x 5 x 3"),
    ]:
        with pytest.raises(ValueError, match=said):
            ours(row, **given)
    ours(row, pixel_values=pixels[:1], cache=cache)
    with pytest.raises(ValueError, match="the cache holds images"):
        ours(row, pixel_values=pixels[:1], cache=cache)
    with pytest.raises(ValueError, match=r"image_attention_mask is \(1, 5, 4\); allowed"):
        ours(row, image_attention_mask=torch.ones(1, 5, 4), cache=cache)
    with pytest.raises(ValueError, match=r"image_attention_mask has shape .* must begin as input_ids"):
        ours.generate(row, pixel_values=pixels[:1], image_attention_mask=look[:, 1:])


def test_layers_that_do_not_share_out_are_refused():
    folder = oracle.reference("idefics", "idefics", "IdeficsModel")[1]
    raw = {**regard.load(folder).raw, "cross_layer_interval": 3}
    with pytest.raises(ValueError, match="cross_layer_interval is 3; allowed: a divisor of 4"):
        regard.from_config(raw)


@torch.no_grad()
def test_prompts_of_words_and_images_are_answered_as_by_the_reference(tmp_path):
    """A folder with everything in it, from prompts to text."""
    pytest.importorskip("PIL.Image")
    import transformers

    FOLDERS["llama"](tmp_path)
    tokenizer = words(tmp_path)
    count = len(tokenizer)
    added = ["<fake_token_around_image>", "<image>", "<end_of_utterance>"]
    tokenizer.add_special_tokens({"additional_special_tokens": added, "pad_token": tokenizer.unk_token})
    module = transformers.models.idefics.image_processing_pil_idefics
    processor = transformers.IdeficsProcessor(module.IdeficsImageProcessorPil(image_size=32), tokenizer)
    processor.save_pretrained(tmp_path)
    fields = {name: value for name, value in families()["idefics"].tiny["idefics"].items() if name != "model_type"}
    sizes = {"vocab_size": count, "additional_vocab_size": len(tokenizer) - count}
    ids = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    torch.manual_seed(2)
    theirs = transformers.IdeficsForVisionText2Text(transformers.IdeficsConfig(**{**fields, **sizes, **ids})).eval()
    sharpen(theirs)
    for name, parameter in theirs.named_parameters():
        if "alpha" in name:
            torch.nn.init.normal_(parameter)  # open gates
    theirs.save_pretrained(tmp_path)
    ours = regard.load(tmp_path)
    one, two = photo(40, 50, 1), photo(60, 33, 2)
    prompts = [["User:", one, "What is this? ", two, "And this?"], ["User: the quick brown fox"], [two, "The dog"]]
    expected = theirs.generate(**processor(text=prompts, return_tensors="pt"), **OPTIONS)
    written = ours.generate(**ours.processor(text=prompts), **OPTIONS)
    assert written.tolist() == expected.tolist()
    decoded = ours.processor.batch_decode(written, skip_special_tokens=True)
    assert decoded == processor.batch_decode(expected, skip_special_tokens=True)
    other = ours.generate(**ours.processor(text=[["User:", two, "What is this? ", one, "And this?"]]), **OPTIONS)
    assert other[0, -6:].tolist() != written[0, -6:].tolist()  # the images are looked at
