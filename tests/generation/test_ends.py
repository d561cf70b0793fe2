"""Streams, stop strings, functions that stop, the clock, and prompts beyond the model's length."""

from __future__ import annotations

import time

import pytest
import torch

from regard.generation import stream
from regard.generation.stop import Stop
from tests.generation.conftest import sharpened


class Collector:
    """Collects what a streamer is given."""

    def __init__(self):
        self.seen, self.ended = [], False

    def put(self, value):
        self.seen.append(value)

    def end(self):
        self.ended = True


@pytest.mark.parametrize("options", [{}, {"do_sample": True, "seed": 3, "num_return_sequences": 2}])
def test_stream_is_the_batch(model, rows, options):
    options = {"max_new_tokens": 12, "pad_token_id": 0, **options}
    whole = model.generate(rows, **options)
    width = whole.shape[1] - len(steps := [s for s in stream(model, rows, **options) if s.tokens is not None])
    assert torch.equal(torch.stack([s.tokens for s in steps], 1), whole[:, width:])
    collector, called = Collector(), []
    assert torch.equal(model.generate(rows, streamer=collector, **options), whole)
    assert torch.equal(torch.cat([collector.seen[0], torch.stack(collector.seen[1:], 1)], 1), whole) and collector.ended
    model.generate(rows, streamer=called.append, **options)
    assert torch.equal(torch.stack(called, 1), whole[:, width:])


def test_stream_gives_each_step_at_once(gpt2, rows):
    steps = stream(gpt2, rows, max_new_tokens=50, eos_token_id=None)
    assert next(steps).tokens.shape == (4,)
    assert not torch.is_inference_mode_enabled()
    steps.close()


def test_stream_refuses_beams(gpt2, rows):
    with pytest.raises(ValueError, match="num_beams is 2; allowed in streams: 1"):
        next(stream(gpt2, rows, num_beams=2))


def test_stop_strings_across_tokens(gpt2, rows, letters):
    options = {"max_new_tokens": 14, "eos_token_id": None}
    free = gpt2.generate([rows[0]], **options)[0, 9:].tolist()
    stop = letters.decode(free)[7:10]  # half of one token, a whole one
    expected = next(n for n in range(1, 15) if stop in letters.decode(free[:n]))
    found = gpt2.generate([rows[0]], stop_strings=[stop, "??"], tokenizer=letters, **options)[0, 9:].tolist()
    assert found == free[:expected] and len(found) < 14


def test_stop_strings_end_beams_as_a_function_would(gpt2, rows, letters):
    options = {"max_new_tokens": 14, "eos_token_id": None, "num_beams": 3, "return_dict_in_generate": True}
    free = gpt2.generate([rows[0]], **options).sequences[0, 9:].tolist()
    stop = letters.decode(free)[3:6]
    criterion = lambda ids, scores: torch.tensor([stop in letters.decode(r) for r in ids[:, 9:].tolist()])  # noqa: E731
    expected = gpt2.generate([rows[0]], stopping_criteria=criterion, **options)
    found = gpt2.generate([rows[0]], stop_strings=stop, tokenizer=letters, **options)
    assert torch.equal(found.sequences, expected.sequences)
    assert found.sequences[0, 9:].tolist() != free  # a beam that holds the string had to end there


def test_stop_strings_per_row(gpt2, rows, letters):
    options = {"max_new_tokens": 14, "eos_token_id": None, "pad_token_id": 0}
    free = gpt2.generate(rows, **options)[:, 9:].tolist()
    stop = letters.decode(free[1])[9:12]
    found = gpt2.generate(rows, stop_strings=stop, tokenizer=letters, return_dict_in_generate=True, **options)
    expected = [next((n for n in range(1, 15) if stop in letters.decode(row[:n])), 14) for row in free]
    assert found.lengths.tolist() == expected and min(expected) < 14


def test_stop_string_in_the_prompt_does_not_stop(gpt2, rows, letters):
    stop = letters.decode(rows[0][-1:])
    options = {"max_new_tokens": 3, "eos_token_id": None}
    free = gpt2.generate([rows[0]], **options)
    assert stop not in letters.decode(free[0, 9:].tolist())
    assert torch.equal(gpt2.generate([rows[0]], stop_strings=stop, tokenizer=letters, **options), free)


def test_functions_that_stop(gpt2, rows):
    found = gpt2.generate(rows, max_new_tokens=20, stopping_criteria=lambda ids, scores: ids.shape[1] >= 13)
    assert found.shape[1] == 13
    first = gpt2.generate(rows, max_new_tokens=20, eos_token_id=None)[:, 9:]
    stop = lambda ids, scores: ids[:, -1] == first[2, 3]  # noqa: E731
    out = gpt2.generate(
        rows, max_new_tokens=20, eos_token_id=None, stopping_criteria=[stop], return_dict_in_generate=True
    )
    assert out.lengths[2] == first[2].tolist().index(int(first[2, 3])) + 1


def test_clock(gpt2, rows, monkeypatch):
    now = iter(range(1000))
    monkeypatch.setattr(time, "monotonic", lambda: next(now))
    assert gpt2.generate(rows, max_new_tokens=50, max_time=3, eos_token_id=None).shape[1] == 9 + 3


def test_stop_looks_at_every_end():
    from regard.generation import GenerationConfig

    ids = torch.tensor([[4, 1], [1, 5], [4, 9], [9, 4]])
    for ends, expected in (((9,), [0, 0, 1, 0]), ((1, 9), [1, 0, 1, 0]), ((), [0, 0, 0, 0])):
        assert Stop(GenerationConfig(eos_token_id=ends), 1, 0, ids.device)(ids).long().tolist() == expected


def test_long_prompt_is_refused_with_both_numbers(gpt2):
    with pytest.raises(ValueError, match="the prompt has 70 tokens; this model takes at most 64"):
        gpt2.generate([[5] * 70], max_new_tokens=3)
    with pytest.raises(ValueError, match="60 tokens and 30 new ones are asked for; this model takes at most 64"):
        gpt2.generate([[5] * 60], max_new_tokens=30)
    assert gpt2.generate([[5] * 60], eos_token_id=None).shape[1] == 65  # a default gives way; the last is never read


def test_long_prompt_slides(gpt2, rows):
    draw = torch.Generator().manual_seed(9)
    long = torch.randint(3, 61, (100,), generator=draw).tolist()
    options = {"max_new_tokens": 10, "eos_token_id": None, "on_long_prompt": "slide"}
    found = gpt2.generate([long, rows[0]], **options)
    assert found[0, :100].tolist() == long
    kept = 64 - 10 + 1  # so many that all new tokens fit
    assert (
        found[0, 100:].tolist()
        == gpt2.generate([long[-kept:]], max_new_tokens=10, eos_token_id=None)[0, kept:].tolist()
    )
    assert found[1, 100:].tolist() == gpt2.generate([rows[0]], max_new_tokens=10, eos_token_id=None)[0, 9:].tolist()


@pytest.fixture(scope="module")
def llama():
    """Rotary positions, which have no end."""
    raw = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 32, "num_hidden_layers": 2}
    raw |= {"num_attention_heads": 4, "intermediate_size": 48, "vocab_size": 61, "eos_token_id": 2, "pad_token_id": 0}
    return sharpened(raw)


@pytest.mark.parametrize(
    ("name", "most", "option"),
    [
        ("gpt2", 64, {"on_long_prompt": "slide"}),
        ("gpt2", 20, {"max_context": 20}),
        ("llama", 20, {"max_context": 20}),
    ],
)
def test_writing_on_beyond_the_end_slides(request, rows, name, most, option):
    """Against the plain rule: when a row is full, its last half is read again."""
    model = request.getfixturevalue(name)
    found = model.generate([rows[0], rows[1]], max_new_tokens=90, eos_token_id=None, **option)
    for i, row in enumerate(rows[:2]):
        window, written = list(row), []
        for new in range(90):
            if len(window) > most:
                window = window[-max(most // 2, most - (90 - new) + 1) :]
            token = int(model(torch.tensor([window])).logits[0, -1].argmax())
            window.append(token)
            written.append(token)
        assert found[i, 9:].tolist() == written


@pytest.fixture(scope="module")
def bytes_tokenizer(tmp_path_factory):
    """A tokenizer of 59 bytes and two special tokens: letters of two bytes come in halves."""
    tokenizers = pytest.importorskip("tokenizers")
    from regard.preprocess.text import Tokenizer

    shown = [*"abcdefghijklmnopqrstuvwxyz", *"ABCDEFGHIJKLMNOPQRSTUV", "Ġ", "Ã", "¤", "¶", "¼", ".", ",", "!", "?", ";"]
    vocab = {token: i for i, token in enumerate(["<pad>", "<s>", "</s>", *shown])}
    backend = tokenizers.Tokenizer(tokenizers.models.BPE(vocab, []))
    backend.decoder = tokenizers.decoders.ByteLevel()
    backend.add_special_tokens(["<pad>", "<s>", "</s>"])
    folder = tmp_path_factory.mktemp("bytes")
    backend.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "</s>"}')
    assert len(vocab) == 61
    return Tokenizer.from_folder(folder)


def test_streamed_text_is_the_decoded_text(gpt2, rows, bytes_tokenizer):
    options = {"max_new_tokens": 40, "do_sample": True, "seed": 6, "temperature": 9.0, "tokenizer": bytes_tokenizer}
    whole = gpt2.generate(rows, **options)[:, 9:]
    pieces = [step.text for step in stream(gpt2, rows, **options)]
    for i, row in enumerate(whole):
        assert "".join(piece[i] for piece in pieces) == bytes_tokenizer.decode(row, skip_special_tokens=True)
    assert any(not piece[0] for piece in pieces) or "�" in "".join(p[0] for p in pieces)
