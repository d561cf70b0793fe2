"""Guessed tokens change nothing but the time it takes: every family that writes, every rule, every way to guess."""

from __future__ import annotations

import pytest
import torch

import regard
from regard import native
from regard.generation.decode import Decoding
from regard.generation.guess import Lookup
from regard.models.registry import families
from tests.generation.conftest import GPT2, T5, sharpened
from tests.models import oracle

CASES = [
    case
    for case in oracle.cases()
    if (a := families()[case[0]].architectures[case[2]]).head in ("causal-lm", "seq2seq-lm")
]
IDS = [f"{variant}-{architecture}".replace(" ", "_") for _, variant, architecture in CASES]
SMALL = {"gpt2": {**GPT2, "n_layer": 1}, "t5": {**T5, "num_layers": 1}}


@pytest.fixture(params=CASES, ids=IDS, scope="module")
def written(request):
    """(model, prompts that repeat themselves, what it writes after them)"""
    pytest.importorskip("transformers", reason="the reference library is not installed (extra: oracle)")
    oracle.skip_own(request.param[0])
    theirs, folder = oracle.reference(*request.param)
    model = native.remove(regard.load(folder))
    rows = [(torch.as_tensor(row).tolist()[:6] * 3)[:14] for row in oracle.random_rows(theirs)][:2]
    return model, rows, model.generate(rows, max_new_tokens=10, eos_token_id=None).tolist()


def changes_with_length(model):
    return any(a.config.rope is not None and a.config.rope.by_length for a in model.decoder.stack.attentions())


def test_every_family(written):
    model, rows, expected = written
    if changes_with_length(model):
        with pytest.raises(ValueError, match="its angles change with every token"):
            model.generate(rows, prompt_lookup_num_tokens=3)
        return
    for how in ({"prompt_lookup_num_tokens": 4}, {"assistant_model": model, "num_assistant_tokens": 3}):
        assert model.generate(rows, max_new_tokens=10, eos_token_id=None, **how).tolist() == expected
    native.apply(model, quiet=True)
    assert model.generate(rows, max_new_tokens=10, eos_token_id=None, prompt_lookup_num_tokens=4).tolist() == expected


def test_rows_in_turn_for_every_family(written):
    model, rows, expected = written
    if not changes_with_length(model):
        assert model.generate(rows, max_new_tokens=10, eos_token_id=None, batch_size=1).tolist() == expected


OPTIONS = [
    {},
    {"do_sample": True, "seed": 3, "temperature": 0.8, "num_return_sequences": 2},
    {"repetition_penalty": 1.3, "no_repeat_ngram_size": 3},
    {"min_new_tokens": 4, "frequency_penalty": 0.3, "bad_words_ids": [[7], [8, 9]]},
]
HOW = {
    "two rows": {"batch_size": 2},
    "five rows": {"batch_size": 5},
    "lookup": {"prompt_lookup_num_tokens": 5},
    "draft": {"assistant_model": "small", "num_assistant_tokens": 4},
    "itself": {"assistant_model": "same"},
}


@pytest.mark.parametrize("how", HOW, ids=[name.replace(" ", "_") for name in HOW])
@pytest.mark.parametrize("options", OPTIONS, ids=["greedy", "sampled", "histories", "counts"])
def test_rules_draws_and_ends(model, how, options):
    draw = torch.Generator().manual_seed(5)
    rows = [torch.randint(3, 61, (n,), generator=draw).tolist() * 2 for n in (5, 2, 3, 1, 4, 2, 1)]
    given = dict(HOW[how])
    if "assistant_model" in given:
        given["assistant_model"] = model if how == "itself" else sharpened(SMALL[model.raw["model_type"]])
    both = {"max_new_tokens": 14, "return_dict_in_generate": True, **options}
    free = model.generate(rows, **both, eos_token_id=None).sequences[:, -14:]
    both["eos_token_id"] = sorted({int(free[0, 5]), int(free[3, 9]), int(free[-1, 12])})  # rows end early, late, or not
    expected, found = model.generate(rows, **both), model.generate(rows, **both, **given)
    assert len(set(expected.lengths.tolist())) > 1, "all rows end together: no place is ever free"
    assert found.lengths.tolist() == expected.lengths.tolist()
    assert found.sequences.tolist() == expected.sequences.tolist()
    torch.testing.assert_close(found.logprobs, expected.logprobs, rtol=1e-4, atol=1e-4)


def test_stop_strings_and_short_models(gpt2, letters):
    for options in (
        {"stop_strings": ["ab", "c"], "tokenizer": letters},
        {"max_new_tokens": 60, "on_long_prompt": "slide"},
    ):
        options = {"max_new_tokens": 20, **options}
        for row in ([5, 6, 5, 6, 5], [9]):
            expected = gpt2.generate([row], **options).tolist()
            assert gpt2.generate([row], prompt_lookup_num_tokens=4, **options).tolist() == expected
            assert gpt2.generate([row], assistant_model=gpt2, **options).tolist() == expected


@pytest.fixture
def passes(monkeypatch):
    """The shape (rows, tokens) of each pass from here on."""
    found, real = [], Decoding.read_on

    def noted(self, ids, *rest, **named):
        found.append(tuple(ids.shape))
        return real(self, ids, *rest, **named)

    monkeypatch.setattr(Decoding, "read_on", noted)
    return found


def test_fewer_passes(gpt2, passes):
    row = gpt2.generate([[5, 6, 7]], max_new_tokens=40, eos_token_id=None)  # such a small model soon repeats itself
    plain = len(passes)
    passes.clear()
    assert gpt2.generate([[5, 6, 7]], max_new_tokens=40, eos_token_id=None, prompt_lookup_num_tokens=6).equal(row)
    assert plain == 40 and len(passes) < 25 and max(passes) == (1, 7)


def test_finished_rows_give_their_places(gpt2, passes):
    rows = [[3 + i, 9, 4 + i] for i in range(12)]
    out = gpt2.generate(rows, max_new_tokens=30, batch_size=3, return_dict_in_generate=True)
    steps = [count for count, tokens in passes if tokens == 1]
    assert max(steps) == 3 and sum(n == 3 for n in steps) > len(steps) // 2
    assert sum(steps) < out.lengths.sum() + 3 * 30, "places that nobody fills cost time"


def test_lookup_takes_the_longest_and_the_latest():
    ids = torch.tensor([1, 2, 3, 8, 1, 2, 4, 9, 7, 2, 5, 1, 2])
    assert Lookup(2, 2, None)(ids, 10).tolist() == [4, 9]
    assert Lookup(9, 2, None)(ids, 3).tolist() == [4, 9, 7]
    assert Lookup(3, 3, torch.tensor([6, 5, 1, 2, 30, 31]))(ids, 10).tolist() == [30, 31, 1]
    assert Lookup(3, 2, None)(torch.tensor([1, 2, 3]), 10).tolist() == []
    assert Lookup(3, 2, None)(torch.tensor([4]), 10).tolist() == []


def test_wrong_wishes_are_named(gpt2, t5):
    other = sharpened({**GPT2, "vocab_size": 50})
    for options, message in (
        ({"prompt_lookup_num_tokens": 3, "assistant_model": gpt2}, "are set; allowed: one of them"),
        ({"prompt_lookup_num_tokens": 0}, "prompt_lookup_num_tokens is 0; allowed: an integer from 1 to 31"),
        ({"prompt_lookup_num_tokens": 3, "num_beams": 2}, "prompt_lookup_num_tokens is set with num_beams=2"),
        ({"assistant_model": "gpt2"}, "assistant_model is 'gpt2'; allowed: a loaded model"),
        ({"assistant_model": other}, "with a vocabulary of 50; that of the model has 61"),
        ({"assistant_model": t5}, "both have an encoder, or neither"),
        ({"batch_size": 0}, "batch_size is 0; allowed: an integer of 1 or more"),
        ({"batch_size": 1, "output_scores": True}, "batch_size is 1 and goes with output_scores only where all rows"),
        ({"prompt_lookup_num_tokens": 3, "streamer": print}, "guessed tokens go with a streamer only where all rows"),
    ):
        with pytest.raises(ValueError, match=message):
            gpt2.generate([[3, 4], [5]], **options)
