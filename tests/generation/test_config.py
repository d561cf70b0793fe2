"""Options: where they come from, and what is said of wrong ones."""

from __future__ import annotations

import logging

import pytest
import torch

from regard.generation import GenerationConfig
from regard.generation.config import from_checkpoint, resolve

WRONG = {
    "temperature": (-1, "temperature is -1; allowed: a number above 0"),
    "top_p": (1.5, "top_p is 1.5; allowed: a number from 0 to 1"),
    "top_k": (-3, "top_k is -3; allowed: an integer of 1 or more, or 0"),
    "min_p": (float("nan"), "min_p is nan; allowed"),
    "typical_p": (0, "typical_p is 0; allowed: a number above 0"),
    "max_new_tokens": (0, "max_new_tokens is 0; allowed: an integer of 1 or more"),
    "max_length": (2.5, "max_length is 2.5; allowed"),
    "num_beams": (True, "num_beams is True; allowed: an integer"),
    "early_stopping": ("always", "early_stopping is 'always'; allowed: True, False or 'never'"),
    "repetition_penalty": (0, "repetition_penalty is 0; allowed: a number above 0"),
    "length_penalty": (float("inf"), "length_penalty is inf"),
    "bad_words_ids": ([[]], "bad_words_ids is"),
    "suppress_tokens": ([-1], "suppress_tokens is"),
    "eos_token_id": ("</s>", "eos_token_id is"),
    "seed": (-1, "seed is -1"),
    "stop_strings": ("", "stop_strings is"),
    "on_long_prompt": ("cut", "on_long_prompt is 'cut'; allowed: 'error' or 'slide'"),
    "max_context": (0, "max_context is 0; allowed: an integer of 1 or more, or None"),
    "streamer": (3, "streamer is 3"),
    "max_time": (0, "max_time is 0"),
    "logits_processor": ([1], "logits_processor is"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_values_are_named(name, gpt2):
    value, message = WRONG[name]
    with pytest.raises(ValueError, match="^" + message.replace("(", r"\(")):
        gpt2.generate([[5]], **{name: value})


@pytest.mark.parametrize(
    "options, message",
    [
        ({"num_beams": 4, "num_beam_groups": 3}, "num_beam_groups is 3; allowed: a divisor of num_beams"),
        ({"num_return_sequences": 2}, "num_return_sequences is 2; allowed: at most num_beams"),
        ({"num_beams": 2, "num_return_sequences": 3, "do_sample": True}, "at most num_beams, which is 2"),
        ({"num_beams": 2, "streamer": print}, "streamer is set with num_beams=2"),
        ({"seed": [1, 2, 3], "do_sample": True}, "seed has 3 numbers; allowed: one, or one for each of the 1 inputs"),
        ({"diversity_penalty": 1.0}, "diversity_penalty is 1.0 but num_beam_groups is 1"),
        ({"stop_strings": "x"}, "stop_strings needs a tokenizer"),
        ({"max_length": 1}, "max_length is 1 but the prompt has 1 tokens"),
    ],
)
def test_contradictions_are_named(gpt2, options, message):
    with pytest.raises(ValueError, match=message):
        gpt2.generate([[5]], **options)


def test_unknown_option_names_near_ones(gpt2):
    with pytest.raises(ValueError, match=r"no option 'max_tokens'; near: .*max_new_tokens"):
        gpt2.generate([[5]], max_tokens=3)


@pytest.mark.parametrize(
    "ids, mask, message",
    [
        (torch.zeros(2, 0).long(), None, r"shape \(2, 0\); allowed: \(batch, tokens\)"),
        (torch.ones(2, 3), None, "type torch.float32"),
        (torch.ones(2, 3).long(), torch.ones(2, 2), r"the mask of input_ids has shape \(2, 2\); allowed: \(2, 3\)"),
        (torch.ones(2, 3).long(), torch.tensor([[1, 1, 1], [0, 0, 0]]), "row 1 has no tokens"),
        ([[5], []], None, "row 1 has no tokens"),
        ([], None, "input_ids is empty"),
        ([[5, 61]], None, "holds id 61; this model's vocabulary has 61 ids, 0 to 60"),
    ],
)
def test_wrong_prompts_are_named(gpt2, ids, mask, message):
    with pytest.raises(ValueError, match=message):
        gpt2.generate(ids, mask)


def test_a_model_that_does_not_write_says_so():
    import regard

    raw = {"model_type": "bert", "architectures": ["BertModel"], "hidden_size": 16, "num_hidden_layers": 1}
    raw |= {"num_attention_heads": 2, "intermediate_size": 16, "vocab_size": 30}
    with pytest.raises(ValueError, match="BertModel does not write"):
        regard.from_config(raw).generate([[1]])


def test_sources_in_order():
    file = {"num_beams": 4, "max_length": 100, "temperature": 0.5, "transformers_version": "4.0", "top_k": 7}
    config = resolve(from_checkpoint(file, {"num_beams": 9}), {"top_k": 3}, {"temperature": 0.9, "max_new_tokens": 5})
    assert (config.num_beams, config.max_length, config.temperature) == (4, 100, 0.9)
    assert (config.top_k, config.max_new_tokens) == (3, 5)
    assert resolve(from_checkpoint(file, {}), GenerationConfig(num_beams=2), {}).num_beams == 2
    assert resolve({"max_new_tokens": 50}, None, {"max_length": 9}).max_new_tokens is None


def test_none_turns_off():
    config = resolve({"top_k": 7, "temperature": 0.5, "eos_token_id": 4}, None, {"top_k": None, "eos_token_id": None})
    assert (config.top_k, config.eos_token_id, config.temperature) == (0, (), 0.5)


def test_old_fields_of_config_json():
    """As BART's and Marian's first files have them: no generation_config.json, options beside the architecture."""
    raw = {"model_type": "x", "num_beams": 6, "bad_words_ids": [[9]], "forced_eos_token_id": 2, "d_model": 8}
    assert from_checkpoint({}, raw) == {"num_beams": 6, "bad_words_ids": [[9]], "forced_eos_token_id": 2}
    assert from_checkpoint({"num_beams": 2}, raw) == {"num_beams": 2}
    inner = {"decoder": {"max_length": 30, "pad_token_id": -1, "num_beams": 3}, "num_beams": 5}
    assert from_checkpoint({}, inner) == {"max_length": 30, "pad_token_id": None, "num_beams": 5}


def test_a_wrong_file_is_named():
    with pytest.raises(ValueError, match=r"generation_config.json: top_p is 7; allowed"):
        from_checkpoint({"top_p": 7}, {})
    with pytest.raises(ValueError, match="num_beams is 'x'; allowed"):
        resolve(from_checkpoint({"num_beams": "x"}, {}), None, {})


def test_what_is_not_built_is_said(caplog):
    with caplog.at_level(logging.WARNING, "regard"):
        from_checkpoint({"guidance_scale": 3.0, "penalty_alpha": 0}, {})
    assert "guidance_scale=3.0, which is not built here" in caplog.text and "penalty_alpha" not in caplog.text


def test_several_ends_and_minimum_length(gpt2, rows):
    free = gpt2.generate([rows[0]], max_new_tokens=12, eos_token_id=None)[0, 9:].tolist()
    for ends in ([free[4], free[7]], [free[7], free[4]]):
        stop = min(free.index(end) for end in ends) + 1
        assert gpt2.generate([rows[0]], max_new_tokens=12, eos_token_id=ends)[0, 9:].tolist() == free[:stop]
        late = gpt2.generate([rows[0]], max_new_tokens=12, eos_token_id=ends, min_new_tokens=9)[0, 9:].tolist()
        assert len(late) >= 9 and not set(late[:9]) & set(ends)
        assert late == gpt2.generate([rows[0]], max_new_tokens=12, eos_token_id=ends, min_length=18)[0, 9:].tolist()
