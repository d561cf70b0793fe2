"""Captions and answers against the reference's own `generate`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("PIL.Image")

import regard
from tests.preprocess.folders import FOLDERS
from tests.tasks.seeing import SIDE, SMALL, VISION, Made, photo, saved, words

LONG = {"max_new_tokens": 6, "min_new_tokens": 6, "do_sample": False}


def blip(folder: Path, architecture: str) -> Made:
    pytest.importorskip("transformers")
    FOLDERS["bert"](folder)
    ends = words(folder)
    text = {**SIDE, "vocab_size": len(ends), "max_position_embeddings": 64, "encoder_hidden_size": 32}
    text |= {"bos_token_id": ends.cls_token_id, "sep_token_id": ends.sep_token_id, "pad_token_id": ends.pad_token_id}
    vision = {**VISION, "initializer_range": 0.05}  # the reference's own is 1e-10: all images would look the same
    config = {"text_config": {**text, "eos_token_id": ends.sep_token_id}, "vision_config": vision}
    return saved(folder, architecture, "Blip", settings=SMALL, tokenizer="bert", **config)


def test_captions_as_the_reference_writes_them(tmp_path: Path) -> None:
    model, images, folder = blip(tmp_path, "BlipForConditionalGeneration")
    photos = [photo(40 + 9 * i, 50, i) for i in range(3)]
    written = model.generate(**images(photos, return_tensors="pt"), **LONG)[:, 1:7]
    expected = [words(folder).decode(row, skip_special_tokens=True).strip() for row in written]
    pipe = regard.pipeline("image-to-text", folder, **LONG)
    assert pipe(photos) == [[{"generated_text": text}] for text in expected] and any(expected)
    assert pipe(photos[1]) == [{"generated_text": expected[1]}]
    with pytest.raises(ValueError, match="there is no file"):
        pipe("none.png")


def test_answers_as_the_reference_gives_them(tmp_path: Path) -> None:
    model, images, folder = blip(tmp_path, "BlipForQuestionAnswering")
    pipe = regard.pipeline("visual-question-answering", folder, **LONG)
    items: list[Any] = []
    expected = []
    for i, question in enumerate(["the quick brown fox?", "how lazy is the dog, doesn't it?"]):
        image = photo(40, 50, i)
        ids = words(folder)(question, return_tensors="pt")
        with torch.no_grad():
            row = model.generate(
                input_ids=ids.input_ids, attention_mask=ids.attention_mask, **images(image, return_tensors="pt"), **LONG
            )[0]
        expected.append([{"answer": words(folder).decode(row[1:], skip_special_tokens=True).strip()}])
        items.append({"image": image, "question": question})
    assert pipe(items) == expected
    assert pipe(**items[0]) == pipe(items[0]) == pipe(items[0]["image"], items[0]["question"]) == expected[0]
    for wrong, message in [
        ({"image": photo()}, "the item has image"),
        ({"image": photo(), "question": ""}, "question is"),
    ]:
        with pytest.raises(ValueError, match=message):
            pipe(wrong)
