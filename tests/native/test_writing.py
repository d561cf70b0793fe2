"""A whole step in one call of the kernels: which models and ways it takes, what it writes, and when it steps aside."""

from __future__ import annotations

import ctypes

import pytest
import torch

from regard import native
from regard.config import AllOf, Causal, Prefix, Window
from regard.generation.config import GenerationConfig
from regard.generation.sampling import draw, warp
from regard.native import layout
from regard.native.weights import Unknown
from regard.native.writing import window
from tests.generation.conftest import GPT2, T5, Letters, sharpened

LLAMA = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 32, "intermediate_size": 48}
LLAMA |= {"num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 61}
LLAMA |= {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "max_position_embeddings": 64}
MISTRAL = {**LLAMA, "model_type": "mistral", "architectures": ["MistralForCausalLM"], "sliding_window": 5}
MARIAN = {"model_type": "marian", "architectures": ["MarianMTModel"], "d_model": 32, "vocab_size": 61}
MARIAN |= {"encoder_layers": 1, "decoder_layers": 2, "encoder_attention_heads": 4, "decoder_attention_heads": 4}
MARIAN |= {"encoder_ffn_dim": 48, "decoder_ffn_dim": 48, "pad_token_id": 0, "eos_token_id": 2, "scale_embedding": True}
MARIAN |= {"decoder_start_token_id": 0, "forced_eos_token_id": None, "max_position_embeddings": 64}
MODELS = {"gpt2": GPT2, "llama": LLAMA, "mistral": MISTRAL, "marian": MARIAN, "t5": T5}
WAYS = {
    "greedy": {},
    "sampled": {"do_sample": True, "seed": 3, "top_k": 20},
    "cut": {"do_sample": True, "seed": 3, "top_p": 0.8, "temperature": 1.7, "top_k": 30, "min_p": 0.02},
    "copies": {"do_sample": True, "num_return_sequences": 3, "seed": (4, 5, 6, 7)},
    "forbidden": {"suppress_tokens": [5, 6], "bad_words_ids": [[7], [8]], "min_new_tokens": 9},
    "a few at once": {"batch_size": 2, "do_sample": True, "seed": 1, "top_k": 9},
    "stop strings": {"stop_strings": ["ab", "c"], "tokenizer": Letters()},
}


@pytest.fixture
def rows():
    """Prompts of four lengths."""
    draw = torch.Generator().manual_seed(5)
    return [torch.randint(3, 61, (n,), generator=draw).tolist() for n in (9, 3, 6, 1)]


def counted(model):
    """A list that grows with the tokens of each step that is one call."""
    writer, found = model.__dict__["write"], []

    def write(*given, **named):
        tokens = type(writer).__call__(writer, *given, **named)
        found.append(tokens)
        return tokens

    model.__dict__["write"] = write
    return found


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", MODELS)
def test_tokens_are_those_of_torch(name, way, rows):
    model = sharpened(MODELS[name])
    options = {"max_new_tokens": 15, "return_dict_in_generate": True, **WAYS[way]}
    expected = model.generate(rows, **options)
    native.apply(model, "fp32", required=True)
    steps = counted(model)
    found = model.generate(rows, **options)
    assert found.sequences.tolist() == expected.sequences.tolist()
    assert found.lengths.tolist() == expected.lengths.tolist()
    torch.testing.assert_close(found.logprobs, expected.logprobs, rtol=1e-4, atol=1e-4)
    assert len(steps) >= int(expected.lengths.max()) - 1 and None not in steps
    options.pop("return_dict_in_generate")
    assert model.generate(rows, **options).tolist() == expected.sequences.tolist(), "without log-probabilities"


@pytest.mark.parametrize("precision", ["bf16", "int8", "int4"])
def test_tokens_are_those_of_the_parts(precision, rows):
    """The same kernels, one call a step or several: no number differs."""
    for raw in (GPT2, LLAMA, MARIAN, T5):
        model = native.apply(sharpened(raw), precision, required=True)
        options = {"max_new_tokens": 12, "return_dict_in_generate": True, "eos_token_id": None}
        steps = counted(model)
        found = model.generate(rows, **options)
        assert len(steps) == 11 and None not in steps
        del model.__dict__["write"]
        expected = model.generate(rows, **options)
        assert found.sequences.tolist() == expected.sequences.tolist()
        torch.testing.assert_close(found.logprobs, expected.logprobs, rtol=1e-6, atol=1e-6)


def test_a_model_of_bfloat16(rows):
    model = native.apply(sharpened(GPT2).bfloat16(), required=True)
    steps = counted(model)
    found = model.generate(rows, max_new_tokens=5, eos_token_id=None, return_dict_in_generate=True)
    assert len(steps) == 4 and None not in steps
    wide = native.remove(model).float()
    logits = wide(found.sequences[:1]).logits.log_softmax(-1)[0, 8:-1]
    expected = logits.gather(1, found.sequences[0, 9:, None])[:, 0]
    torch.testing.assert_close(found.logprobs[0], expected.detach(), rtol=0.1, atol=0.3)


def test_what_is_left_to_the_parts(rows):
    """Scores or functions that look at all tokens, beams that move, guesses, many candidates, other layers."""
    model = native.apply(sharpened({**GPT2, "vocab_size": 400}), required=True)
    for options in (
        {"output_scores": True, "return_dict_in_generate": True},
        {"stopping_criteria": [lambda ids, scores: ids.shape[1] > 12]},
        {"repetition_penalty": 1.2},
        {"num_beams": 2},
        {"do_sample": True, "top_k": 0},
        {"do_sample": True, "top_k": 300},
        {"do_sample": True, "typical_p": 0.5},
        {"prompt_lookup_num_tokens": 2},
    ):
        steps = counted(model)
        model.generate(rows, max_new_tokens=6, **options)
        assert not [tokens for tokens in steps if tokens is not None], options
        native.apply(model, required=True)
    capped = {**LLAMA, "model_type": "gemma2", "architectures": ["Gemma2ForCausalLM"], "head_dim": 8}
    capped |= {"final_logit_softcapping": 5.0}
    assert "write" not in native.apply(sharpened(capped), required=True).__dict__, "logits that are changed"


@pytest.mark.parametrize("change", ["a hook", "weights", "a table", "taken back"])
def test_what_a_streamer_changes_is_noticed(rows, change):
    model = native.apply(sharpened(GPT2), required=True)
    steps, seen = counted(model), []
    real = model.__dict__["write"]

    def put(tokens):
        seen.append(tokens)
        if len(seen) != 5:
            return
        if change == "a hook":
            model.decoder.front.register_forward_hook(lambda *given: None)
        elif change == "weights":
            down = model.decoder.stack.layers[1].ffn.fn.down
            down.weight.data = down.weight.data * 2
        elif change == "a table":
            with torch.no_grad():
                model.decoder.front.position.weight.add_(1)
        else:
            assert model.__dict__.pop("write") is real

    model.generate(rows, max_new_tokens=9, eos_token_id=None, streamer=put)
    done = [tokens for tokens in steps if tokens is not None]
    assert len(done) == 4 and [t.tolist() for t in seen[1:5]] == done


def test_masks():
    assert window(Causal()) == 0 and window(Causal() & Window(4)) == 4
    for mask in (None, Window(4), Causal() | Prefix(3), AllOf(masks=(Causal(), Prefix(2)))):
        with pytest.raises(Unknown):
            window(mask)


CUTS = [{}, {"temperature": 0.4}, {"top_p": 0.7}, {"top_p": 0.0}, {"min_p": 0.1}, {"min_p": 1.0}]
CUTS += [{"temperature": 2.5, "top_p": 0.9, "min_p": 0.01}]


@pytest.mark.parametrize("options", CUTS, ids=str)
def test_draws_are_those_of_torch(options):
    """Candidates as a linear gives them, cut and drawn in one task, beside `warp` and `draw`."""
    rows, count = 64, 50
    scores = (torch.randn(rows, 200, generator=torch.Generator().manual_seed(1)) * 3).contiguous()
    draws = torch.rand(rows, generator=torch.Generator().manual_seed(2))
    draws[:2] = torch.tensor([0.0, 1 - 2**-24])
    c = GenerationConfig(do_sample=True, top_k=count, **options)
    values, names = scores.topk(count)
    expected = names.gather(1, draw(warp(values, c, index=names)[0], draws)[:, None])[:, 0]
    ids, laid = torch.zeros(rows, 2, dtype=torch.long), torch.stack([draws, draws], 1).contiguous()
    found = chosen(scores, ids, laid, count, c.temperature, 1 - c.top_p, c.min_p or 0.0)
    assert found == ids[:, 1].tolist() == expected.tolist()


def chosen(scores, histories, draws, count, temperature=1.0, tail=0.0, least=0.0, **fields):
    """Tokens that the kernel chooses from scores (R, V): rows look one of the identity's inputs up each."""
    rows, vocab = scores.shape
    weight, x = scores.T.contiguous(), torch.eye(rows)
    linear = layout.Linear(weight.data_ptr(), None, None, vocab, rows, layout.KINDS["fp32"])
    columns, newest = (ctypes.c_int64 * rows)(), (ctypes.c_int64 * rows)()
    at = ctypes.addressof
    writing = layout.Writing(rows, histories.shape[1], 1, histories.data_ptr(), None, draws.data_ptr(), at(columns))
    values, names = torch.empty(rows, count), torch.empty(rows, count, dtype=torch.long)
    best = layout.Best(count, values.data_ptr(), names.data_ptr())
    choice = layout.Choice(at(writing), at(linear), None, best, at(newest), 1.0, temperature, tail, least)
    for name, value in fields.items():
        setattr(choice if hasattr(choice, name) else writing, name, value)
    calls = (layout.Call * 1)(layout.Call(layout.TASKS["choose"], at(choice), out=x.data_ptr()))
    layout.kernels().rg_run(calls, 1, rows, rows, 1)
    return newest[:]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"writing": None}, "an address is missing"),
        ({"linear": None}, "an address is missing"),
        ({"newest": None}, "an address is missing"),
        ({"columns": None}, "an address is missing"),
        ({"ids": None}, "an address is missing"),
        ({"logs": 64}, "an address is missing"),
        ({"rows": 3}, "rows or threads"),
        ({"at": 0}, "outside the cache"),
        ({"at": 2}, "outside the cache"),
        ({"temperature": 0.0}, "a number is out of range"),
    ],
    ids=str,
)
def test_bad_choices_are_named(fields, message):
    with pytest.raises(ValueError, match=f"rg_run: .*{message}"):
        chosen(torch.randn(4, 9), torch.zeros(4, 2, dtype=torch.long), torch.rand(4, 2), 3, **fields)


@pytest.mark.parametrize(
    ("token", "place", "message"), [(9, 0, "a number is"), (-1, 0, "a number is"), (3, 5, "outside")]
)
def test_bad_tokens_are_named(token, place, message):
    ids, table, x, at = torch.tensor([[token, 0]]), torch.randn(9, 8), torch.empty(1, 8), ctypes.addressof
    columns = (ctypes.c_int64 * 1)(place)
    writing = layout.Writing(1, 2, 1, ids.data_ptr(), None, None, at(columns))
    words = layout.Embedding(at(writing), table.data_ptr(), None, table.data_ptr(), 9, 5, False, 2.0)
    calls = (layout.Call * 1)(layout.Call(layout.TASKS["embed"], at(words), out=x.data_ptr()))
    with pytest.raises(ValueError, match=f"rg_run: .*{message}"):
        layout.kernels().rg_run(calls, 1, 1, 8, 1)
    ids[0, 0], columns[0] = 4, 2
    layout.kernels().rg_run(calls, 1, 1, 8, 1)
    assert torch.equal(x[0], table[4] * 2 + table[2])
