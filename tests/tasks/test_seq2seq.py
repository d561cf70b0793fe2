"""Texts rewritten: what the reference's model writes for a prompt put together by hand, decoded."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

import regard
from tests.tasks.conftest import same

TEXTS = ["The quick brown fox jumps over the lazy dog.", "Hello!", "Straße und Füße: schön, nicht wahr?"]
PARAMS = {
    "summarization": {"prefix": "summarize: ", "num_beams": 2, "max_length": 9, "min_length": 4},
    "translation_en_to_de": {"prefix": "translate English to German: ", "num_beams": 2, "max_length": 7},
    "translation_en_to_fr": {"prefix": "translate English to French: ", "num_beams": 3, "max_length": 5},
}
FEW = {"max_new_tokens": 6}


def written(made: Any, prompts: list[str], tokenizer: str, **options: Any) -> list[str]:
    """The best text for each prompt alone, by the reference's model and tokenizer."""
    import transformers

    model, folder = made
    words = getattr(transformers, tokenizer).from_pretrained(folder)
    found = []
    for text in prompts:
        with torch.no_grad():
            out = model.generate(**words(text, return_tensors="pt"), **options)
        found += words.batch_decode(out, skip_special_tokens=True)
    return found


@pytest.fixture
def t5(make: Any) -> Any:
    return make("t5", "T5ForConditionalGeneration", task_specific_params=PARAMS)


@pytest.mark.parametrize("options", [{}, {"num_beams": 1}, {"num_beams": 2, "length_penalty": 2.0, "do_sample": False}])
def test_text2text(t5: Any, options: dict[str, Any]) -> None:
    pipe = regard.pipeline("text2text-generation", t5[1])
    texts = written(t5, TEXTS, "T5Tokenizer", **{"num_beams": 4, **FEW, **options})
    expected = [{"generated_text": text} for text in texts]
    same(pipe(TEXTS, **FEW, **options), expected)
    same([pipe(text, **FEW, **options)[0] for text in TEXTS], expected)
    assert len(pipe(TEXTS[0], **FEW, **options)) == 1
    assert any(texts)


def test_several_texts_for_each(t5: Any) -> None:
    pipe = regard.pipeline("text2text-generation", t5[1], **FEW, num_beams=3, num_return_sequences=2)
    texts = written(t5, TEXTS[:2], "T5Tokenizer", **FEW, num_beams=3, num_return_sequences=2)
    rows = [{"generated_text": text} for text in texts]
    same(pipe(TEXTS[:2]), [rows[:2], rows[2:]])
    same(pipe(TEXTS[0]), rows[:2])


def test_tensors_hold_the_new_tokens(t5: Any) -> None:
    import transformers

    model, folder = t5
    ids = transformers.T5Tokenizer.from_pretrained(folder)(TEXTS[0], return_tensors="pt")
    out = model.generate(**ids, num_beams=1, **FEW)[0].tolist()
    found = regard.pipeline("text2text-generation", folder)(TEXTS[0], num_beams=1, **FEW, return_tensors=True)
    assert found == [{"generated_token_ids": out[1:]}]


def test_summaries_as_config_json_says(t5: Any) -> None:
    expected = written(
        *(t5, ["summarize: " + text for text in TEXTS], "T5Tokenizer"), num_beams=2, max_length=9, min_length=4
    )
    pipe = regard.pipeline("summarization", t5[1])
    same(pipe(TEXTS), [{"summary_text": text} for text in expected])
    same(pipe(TEXTS[0]), [{"summary_text": expected[0]}])
    same(
        pipe(TEXTS[0], prefix="", num_beams=1, **FEW)[0],
        {"summary_text": written(t5, TEXTS[:1], "T5Tokenizer", **FEW)[0]},
    )


def test_long_text_in_windows(t5: Any) -> None:
    pipe = regard.pipeline("summarization", t5[1], num_beams=1, max_new_tokens=6)
    text = " ".join(TEXTS * 4)
    words = pipe.tokenizer
    prefix, body = words("summarize: ", add_special_tokens=False)["input_ids"], words(text)["input_ids"][:-1]
    room = 40 - len(prefix) - 1
    starts, windows = 0, []
    while True:
        windows.append([*prefix, *body[starts : starts + room], words.eos_token_id])
        if starts + room >= len(body):
            break
        starts += room - 10
    assert len(windows) > 2
    model, parts = t5[0], []
    for ids in windows:
        out = model.generate(torch.tensor([ids]), num_beams=1, max_new_tokens=6, min_length=4)
        parts.append(words.decode(out[0], skip_special_tokens=True).strip())
    found = pipe(text, window=40, stride=10)
    assert found == [{"summary_text": " ".join(parts)}]
    assert pipe([text, TEXTS[0]], window=40, stride=10) == [found[0], pipe(TEXTS[0])[0]]
    short = " ".join(parts)
    while len(words("summarize: " + short)["input_ids"]) > 40:
        short = pipe(short, window=40, stride=10)[0]["summary_text"]
    assert pipe(text, window=40, stride=10, summarize_again=True) == pipe(short)
    with pytest.raises(ValueError, match=f"stride is {room}; allowed: below {room}"):
        pipe(text, window=40, stride=room)


def test_translation_in_words(t5: Any) -> None:
    german = written(t5, ["translate English to German: " + t for t in TEXTS], "T5Tokenizer", num_beams=2, max_length=7)
    french = written(t5, ["translate English to French: " + t for t in TEXTS], "T5Tokenizer", num_beams=3, max_length=5)
    same(regard.pipeline("translation_en_to_de", t5[1])(TEXTS), [{"translation_text": text} for text in german])
    pipe = regard.pipeline("translation", t5[1], src_lang="en", tgt_lang="fr")
    same(pipe(TEXTS), [{"translation_text": text} for text in french])
    with pytest.raises(ValueError, match=r"this model has translation_en_to_de, .*; for others pass prefix="):
        regard.pipeline("translation_en_to_xx", t5[1])("a")
    plain = written(t5, TEXTS[:1], "T5Tokenizer", num_beams=4, **FEW)
    same(regard.pipeline("translation", t5[1])(TEXTS[0], **FEW), [{"translation_text": plain[0]}])


@pytest.mark.parametrize("name", ["mbart", "mbart50"])
def test_translation_by_tokens_on_both_sides(make: Any, name: str) -> None:
    import transformers

    made = make(name, "MBartForConditionalGeneration")
    tokenizer = {"mbart": "MBartTokenizer", "mbart50": "MBart50Tokenizer"}[name]
    model, folder = made
    pipe = regard.pipeline("translation", folder, **FEW, num_beams=2)
    for source, target in (("en_XX", "de_DE"), ("ro_RO", "fr_XX"), ("en_XX", "ro_RO")):
        words = getattr(transformers, tokenizer).from_pretrained(folder, src_lang=source, tgt_lang=target)
        forced = words.convert_tokens_to_ids(target)
        expected = []
        for text in TEXTS:
            out = model.generate(**words(text, return_tensors="pt"), **FEW, num_beams=2, forced_bos_token_id=forced)
            expected.append({"translation_text": words.decode(out[0], skip_special_tokens=True)})
        same(pipe(TEXTS, src_lang=source, tgt_lang=target), expected)
        short = {"src_lang": source[:2], "tgt_lang": target[:2]}
        same(pipe(TEXTS, **short), expected)
    with pytest.raises(ValueError, match=r"tgt_lang is 'xx'; allowed: one of 2\d|5\d languages"):
        pipe("a", src_lang="en_XX", tgt_lang="xx")
    with pytest.raises(ValueError, match="give src_lang and tgt_lang"):
        pipe("a", src_lang="en_XX")


def test_translation_by_a_mark_before_the_text(make: Any) -> None:
    made = make("marian", "MarianMTModel", pad_token_id=1, decoder_start_token_id=1, eos_token_id=0)
    for name, prefix in (("translation", ""), ("translation_en_to_fra", ">>fra<< ")):
        texts = written(made, [prefix + text for text in TEXTS], "MarianTokenizer", num_beams=2, **FEW)
        expected = [{"translation_text": text} for text in texts]
        same(regard.pipeline(name, made[1], num_beams=2, **FEW)(TEXTS), expected)
    with pytest.raises(ValueError, match="tgt_lang is 'de'; allowed: one of 1 languages, such as fra"):
        regard.pipeline("translation_en_to_de", made[1])("a")


def test_long_input(make: Any) -> None:
    folder = make("mbart", "MBartForConditionalGeneration")[1]
    pipe = regard.pipeline("text2text-generation", folder, num_beams=1, **FEW)
    text = " ".join(TEXTS * 6)
    count = len(pipe.tokenizer(text)["input_ids"])
    with pytest.raises(
        ValueError, match=f"input has {count} tokens; this model takes at most 64; pass truncation=True"
    ):
        pipe(text)
    ids = pipe.tokenizer(text, truncation=True, max_length=64)["input_ids"]
    model = make("mbart", "MBartForConditionalGeneration")[0]
    out = model.generate(torch.tensor([ids]), num_beams=1, **FEW)[0]
    expected = pipe.tokenizer.decode(out, skip_special_tokens=True)
    assert pipe(text, truncation=True) == [{"generated_text": expected}]


def test_words_missing_from_files(t5: Any, tmp_path: Path) -> None:
    path = tmp_path / "m"
    shutil.copytree(t5[1], path)
    config = json.loads((path / "config.json").read_text(encoding="utf-8"))
    (path / "config.json").write_text(json.dumps({**config, "task_specific_params": 5}), encoding="utf-8")
    same(
        regard.pipeline("summarization", path)(TEXTS[0], num_beams=1, **FEW),
        [{"summary_text": written(t5, TEXTS[:1], "T5Tokenizer", num_beams=1, **FEW)[0]}],
    )
    with pytest.raises(ValueError, match="item 1: text is an empty string"):
        regard.pipeline("summarization", path)([TEXTS[0], ""])
