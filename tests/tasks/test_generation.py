"""Texts continued, against the reference's pipeline; code against prompts written out by hand."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

import regard
from tests.tasks.conftest import same

PROMPTS = ["The quick brown fox", "def main(argv", "Übergrößen: Füße", "a", "The quick brown fox jumps over the lazy"]
CHAT = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "What does the fox do? "},
]
TEMPLATE = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content | trim }}\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
GREEDY = {"do_sample": False, "max_new_tokens": 8}


@pytest.fixture
def gpt2(make: Any) -> Any:
    return make("gpt2", "GPT2LMHeadModel")


@pytest.mark.parametrize(
    ("inputs", "options"),
    [
        (PROMPTS[0], GREEDY),
        (PROMPTS, GREEDY),
        (PROMPTS[:1], GREEDY),
        (PROMPTS[0], {**GREEDY, "return_full_text": False}),
        (PROMPTS, {**GREEDY, "return_full_text": True}),
        (PROMPTS[0], {**GREEDY, "num_beams": 4, "num_return_sequences": 3}),
        (PROMPTS[:3], {**GREEDY, "num_beams": 2}),
        (PROMPTS[0], {"do_sample": False, "max_length": 20}),
        (PROMPTS[0], {**GREEDY, "min_new_tokens": 6}),
        (PROMPTS[0], {**GREEDY, "prefix": "argument parser "}),
        (PROMPTS[0], {**GREEDY, "return_tensors": True}),
        (PROMPTS[0], {**GREEDY, "repetition_penalty": 1.5, "no_repeat_ngram_size": 2}),
        (PROMPTS[0], {**GREEDY, "skip_special_tokens": False, "clean_up_tokenization_spaces": True}),
        ("", GREEDY),
    ],
)
def test_text_generation(gpt2: Any, oracle: Any, inputs: Any, options: dict[str, Any]) -> None:
    theirs = oracle("text-generation", gpt2)
    same(regard.pipeline("text-generation", gpt2[1])(inputs, **options), theirs(inputs, **options))


def test_a_string_that_stops(gpt2: Any, oracle: Any) -> None:
    pipe = regard.pipeline("text-generation", gpt2[1], do_sample=False)
    long = pipe(PROMPTS[0], max_new_tokens=20, return_full_text=False)[0]["generated_text"]
    stop = long[7:9]
    mine = pipe(PROMPTS[0], max_new_tokens=20, stop_sequence=stop)
    same(mine, oracle("text-generation", gpt2)(PROMPTS[0], do_sample=False, max_new_tokens=20, stop_sequence=stop))
    assert len(mine[0]["generated_text"]) < len(PROMPTS[0] + long)


@pytest.fixture
def chat(gpt2: Any, tmp_path: Path) -> Any:
    model, folder = gpt2
    path = tmp_path / "chat"
    shutil.copytree(folder, path)
    settings = json.loads((path / "tokenizer_config.json").read_text(encoding="utf-8"))
    (path / "tokenizer_config.json").write_text(json.dumps({**settings, "chat_template": TEMPLATE}), encoding="utf-8")
    return model, path


@pytest.mark.parametrize(
    ("inputs", "options"),
    [
        (CHAT, {}),
        ([CHAT, CHAT[1:]], {}),
        (CHAT, {"return_full_text": False}),
        ([*CHAT, {"role": "assistant", "content": "The fox"}], {}),
        ([*CHAT, {"role": "assistant", "content": "It jumps"}], {"continue_final_message": False}),
        (CHAT, {"continue_final_message": True}),
    ],
)
def test_conversations(chat: Any, oracle: Any, inputs: Any, options: dict[str, Any]) -> None:
    theirs = oracle("text-generation", chat)(inputs, **GREEDY, **options)
    same(regard.pipeline("text-generation", chat[1])(inputs, **GREEDY, **options), theirs)


def test_bad_conversations_are_said(gpt2: Any, chat: Any) -> None:
    with pytest.raises(ValueError, match="has no chat template"):
        regard.pipeline("text-generation", gpt2[1])(CHAT)
    pipe = regard.pipeline("text-generation", chat[1])
    with pytest.raises(ValueError, match=r"message 1 has words; allowed: {\"role\", \"content\"}"):
        pipe([CHAT[0], {"words": "x"}])
    with pytest.raises(ValueError, match="item 1: message 0"):
        pipe([CHAT, [{"role": 5, "content": "x"}]])


def test_a_batch_gives_what_each_gives_alone(gpt2: Any) -> None:
    pipe = regard.pipeline("text-generation", gpt2[1])
    for options in (
        GREEDY,
        {"do_sample": False, "max_length": 24},
        {"do_sample": True, "seed": 3, "max_new_tokens": 8, "num_return_sequences": 2},
        {"do_sample": False, "num_beams": 3, "max_new_tokens": 6},
    ):
        same(pipe(PROMPTS, **options), [pipe(prompt, **options) for prompt in PROMPTS])


def test_texts_that_wait_for_a_place_are_what_they_are_alone(gpt2: Any) -> None:
    pipe = regard.pipeline("text-generation", gpt2[1], max_new_tokens=12)
    texts = [f"{words} {n}" for n in range(3) for words in PROMPTS]
    alone = [pipe(text, do_sample=False) for text in texts]
    assert pipe(texts, do_sample=False, batch_size=2) == alone
    assert pipe(texts, do_sample=False, prompt_lookup_num_tokens=4) == alone
    small = regard.pipeline("text-generation", gpt2[1], assistant_model=gpt2[1], max_new_tokens=12)
    assert small(texts[:3], do_sample=False) == alone[:3]
    copies = {"seed": 5, "do_sample": True, "num_return_sequences": 3}
    assert pipe(texts, batch_size=4, **copies) == [pipe(text, **copies) for text in texts]


def test_without_any_word_of_length_256_tokens_are_drawn(gpt2: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = regard.pipeline("text-generation", gpt2[1])
    seen: dict[str, Any] = {}

    def generate(ids: Any, **options: Any) -> Any:
        seen.update(options)
        raise ValueError("stop here")

    monkeypatch.setattr(pipe.model, "generate", generate)
    with pytest.raises(ValueError, match="stop here"):
        pipe("a")
    room = 128 + 1 - len(pipe.tokenizer("a")["input_ids"])
    assert seen["max_new_tokens"] == min(256, room)
    assert (seen["do_sample"], seen["temperature"]) == (True, 0.7)


def test_the_checkpoint_says_before_the_task_does(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    params = {"text-generation": {"do_sample": False, "max_length": 12, "prefix": "argument "}}
    folder = make("gpt2", "GPT2LMHeadModel", task_specific_params=params)[1]
    pipe = regard.pipeline("text-generation", folder)
    with_prefix = len(pipe.tokenizer("argument a")["input_ids"])
    found = pipe("a", return_tensors=True)[0]["generated_token_ids"]
    assert len(found) == 12 and found[:with_prefix] == pipe.tokenizer("argument a")["input_ids"]
    assert len(pipe("a", max_new_tokens=3, return_tensors=True)[0]["generated_token_ids"]) == with_prefix + 3


def test_long_prompts(gpt2: Any) -> None:
    pipe = regard.pipeline("text-generation", gpt2[1])
    words = " ".join(["a dog"] * 200)
    ids = pipe.tokenizer(words)["input_ids"]
    with pytest.raises(ValueError, match=f"input has {len(ids)} tokens; this model takes at most 128; pass truncation"):
        pipe(words, **GREEDY)
    for option in ({"truncation": True}, {"handle_long_generation": "hole"}):
        found = pipe(words, **GREEDY, **option, return_tensors=True)[0]["generated_token_ids"]
        assert found[:-8] == ids[-(128 + 1 - 8) :] and len(found) == 129
    nearly = pipe.tokenizer.decode(ids[:125])
    with pytest.raises(ValueError, match="and 8 new ones are asked for; this model takes at most 128"):
        pipe(nearly, **GREEDY)
    assert len(pipe(nearly, do_sample=False, return_tensors=True)[0]["generated_token_ids"]) <= 129
    with pytest.raises(ValueError, match=r"item 1: max_length leaves no room after a prompt of"):
        pipe(["a", PROMPTS[4]], max_length=3)


def test_a_streamer_sees_one_text_after_another(gpt2: Any) -> None:
    seen: list[list[int]] = []
    pipe = regard.pipeline("text-generation", gpt2[1])
    found = pipe(PROMPTS[:2], **GREEDY, return_tensors=True, streamer=lambda tokens: seen.append(tokens.tolist()))
    assert all(len(tokens) == 1 for tokens in seen)
    new = [entry[0]["generated_token_ids"][-8:] for entry in found]
    assert sorted([[t for (t,) in seen[:8]], [t for (t,) in seen[8:]]]) == sorted(new)


def test_options_of_generate_are_checked_by_name(gpt2: Any) -> None:
    with pytest.raises(ValueError, match="text-generation has no option 'max_tokens'; did you mean"):
        regard.pipeline("text-generation", gpt2[1])("a", max_tokens=5)
    with pytest.raises(ValueError, match="num_beams is 0"):
        regard.pipeline("text-generation", gpt2[1], num_beams=0)


# ------------------------------------------------------------------------------------------------ code


def gapped(folder: Path, to: Path, tokens: tuple[str, ...]) -> Path:
    """A copy whose tokenizer knows these tokens: written over words that it has."""
    shutil.copytree(folder, to)
    vocab = json.loads((to / "vocab.json").read_text(encoding="utf-8"))
    last = sorted(vocab, key=vocab.__getitem__)[-len(tokens) :]
    kept = {token: i for token, i in vocab.items() if token not in last}
    (to / "vocab.json").write_text(json.dumps(kept | {t: vocab[old] for t, old in zip(tokens, last, strict=True)}))
    merges = (to / "merges.txt").read_text(encoding="utf-8").splitlines()
    merges = [line for line in merges if line.replace(" ", "") not in last and not set(line.split(" ")) & set(last)]
    (to / "merges.txt").write_text("\n".join(merges), encoding="utf-8")
    settings = json.loads((to / "tokenizer_config.json").read_text(encoding="utf-8"))
    settings["additional_special_tokens"] = list(tokens)
    (to / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    return to


@pytest.mark.parametrize(
    "tokens",
    [
        ("<fim_prefix>", "<fim_suffix>", "<fim_middle>"),
        ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"),
        ("<PRE>", "<SUF>", "<MID>"),
    ],
)
def test_gaps_in_code_are_filled(gpt2: Any, tmp_path: Path, tokens: tuple[str, ...]) -> None:
    model, folder = gpt2
    pipe = regard.pipeline("code-completion", gapped(folder, tmp_path / "m", tokens), **GREEDY)
    words = pipe.tokenizer
    before, after, middle = (words.convert_tokens_to_ids(token) for token in tokens)
    prefix, suffix = "def main(argv):\n    return ", "\n\nprint(1)"
    prompt = [before, *words(prefix)["input_ids"], after, *words(suffix)["input_ids"], middle]
    out = model.generate(torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt)).long(), **GREEDY)[0]
    text = words.decode(out[len(prompt) :], skip_special_tokens=True)
    item = {"prefix": prefix, "suffix": suffix}
    assert pipe(item, return_full_text=False) == [{"generated_text": text}]
    assert pipe(item) == pipe(**item) == pipe(prefix, suffix=suffix) == [{"generated_text": prefix + text + suffix}]
    assert pipe(item, return_tensors=True) == [{"generated_token_ids": out.tolist()}]


def test_code_goes_on_and_gaps_need_tokens(gpt2: Any) -> None:
    pipe = regard.pipeline("code-completion", gpt2[1], **GREEDY)
    same(pipe(PROMPTS), regard.pipeline("text-generation", gpt2[1], **GREEDY)(PROMPTS))
    same(pipe({"prefix": PROMPTS[1]}), pipe(PROMPTS[1]))
    with pytest.raises(ValueError, match="no tokens to mark a gap, so suffix must be left out; known: <fim_prefix>"):
        pipe({"prefix": "a", "suffix": "b"})
