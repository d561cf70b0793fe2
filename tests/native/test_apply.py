"""The pass over a model: what it takes, what it leaves to torch, and that it can be taken back."""

from __future__ import annotations

import copy
import threading

import pytest
import torch

import regard
from regard import native
from regard.adapt.quantize import quantize
from regard.native import build
from regard.native.passes import Pass
from regard.native.run import NativeStack, put
from regard.native.weights import Store
from regard.nn import KVCache
from tests.generation.conftest import GPT2, T5, Letters, sharpened
from tests.native.formula import rounded_model

OPTIONS = {"max_new_tokens": 12, "return_dict_in_generate": True, "output_scores": True, "eos_token_id": None}


@pytest.fixture
def gpt2():
    return sharpened(GPT2)


@pytest.fixture(params=[GPT2, T5], ids=["gpt2", "t5"])
def model(request):
    """A decoder, and an encoder with a decoder."""
    return sharpened(request.param)


@pytest.fixture
def rows():
    """Prompts of four lengths."""
    draw = torch.Generator().manual_seed(5)
    return [torch.randint(3, 61, (n,), generator=draw).tolist() for n in (9, 3, 6, 1)]


def through(model):
    return model.decoder.stack.__dict__["through"]


def reads(model):
    """A list that grows with each pass that torch does."""
    stack, calls = through(model), []
    real = stack.torch
    stack.torch = lambda *args: (calls.append(None), real(*args))[1]
    return calls


@pytest.mark.parametrize("precision", ["bf16", "int8", "int4"])
def test_scores_are_those_of_the_same_rounding(model, rows, precision):
    expected = rounded_model(model, precision).generate(rows, **OPTIONS)
    found = native.apply(model, precision, required=True).generate(rows, **OPTIONS)
    assert found.sequences.tolist() == expected.sequences.tolist()
    a, b = torch.stack(found.scores), torch.stack(expected.scores)
    torch.testing.assert_close(a[1:], b[1:], rtol=1e-4, atol=1e-4 * float(b.abs().max()))


@pytest.mark.parametrize("precision", ["bf16", "int8", "int4"])
def test_a_quantized_model_is_read_as_it_is(model, rows, precision):
    expected = native.apply(copy.deepcopy(model), precision, required=True).generate(rows, **OPTIONS)
    quantize(model, precision, head=True, force=True)
    native.apply(model, required=True)
    assert native.unknown(model) == []
    found = model.generate(rows, **OPTIONS)
    a, b = found.scores[0], expected.scores[0]
    torch.testing.assert_close(a, b, rtol=0.3, atol=0.3 * float(b.abs().max()))  # prompts are read in other precisions
    kinds = {branch.structure.branch.dim for layer in through(model).branches.values() for branch in layer}
    assert kinds == {32}


def test_a_model_of_bfloat16(gpt2, rows):
    model = gpt2.bfloat16()
    expected = model.generate(rows, **OPTIONS).scores
    native.apply(model, required=True)
    calls = reads(model)
    found = model.generate(rows, **OPTIONS).scores
    assert len(calls) == 1
    torch.testing.assert_close(found[1], expected[1], rtol=0.1, atol=0.05 * float(expected[1].abs().max()))


def test_everything_can_be_taken_back(model, rows):
    before = {name: dict(m.__dict__) for name, m in model.named_modules()}
    expected = model.generate(rows, **OPTIONS).scores
    native.apply(model, "int8", required=True)
    assert not torch.equal(model.generate(rows, **OPTIONS).scores[2], expected[2])
    native.remove(model)
    assert before == {name: dict(m.__dict__) for name, m in model.named_modules()}
    for a, b in zip(model.generate(rows, **OPTIONS).scores, expected, strict=True):
        assert torch.equal(a, b)


def test_a_copy_is_torchs(model, rows):
    expected = model.generate(rows, **OPTIONS).scores
    other = copy.deepcopy(native.apply(model, "int8", required=True))
    for a, b in zip(other.generate(rows, **OPTIONS).scores, expected, strict=True):
        assert torch.equal(a, b)


def test_hooks_see_torch(model, rows):
    native.apply(model, "int8", required=True)
    del model.head.out.__dict__["forward"]
    calls = reads(model)
    with regard.capture(model, "attention") as seen:
        found = model.generate(rows, **OPTIONS).scores
    assert len(seen.attention) >= 2 * 12 and len(calls) == 12
    model.generate(rows, **OPTIONS)
    assert len(calls) == 13, "without hooks the kernels write again"
    expected = native.remove(model).generate(rows, **OPTIONS).scores
    for a, b in zip(found, expected, strict=True):
        assert torch.equal(a, b)


def test_many_rows_and_gradients_are_torchs(gpt2):
    model = native.apply(gpt2, required=True)
    calls = reads(model)
    many = [[3, 4 + i % 50] for i in range(33)]
    expected = model.generate(many, max_new_tokens=3, eos_token_id=None)
    assert len(calls) == 3
    native.apply(model, "int8", required=True)
    calls = reads(model)
    assert torch.equal(model.generate(many, max_new_tokens=3, eos_token_id=None)[:, :2], expected[:, :2])
    assert len(calls) == 1, "with int8 the kernels take many rows too"
    native.apply(model, required=True)
    out = model(input_ids=torch.tensor([[3, 4]])).logits
    out.sum().backward()
    assert model.decoder.stack.layers[0].attn.fn.q.weight.grad is not None


def test_exchanged_modules_and_weights_are_noticed(gpt2, rows):
    model = native.apply(gpt2, "int8", required=True)
    calls = reads(model)
    layer = model.decoder.stack.layers[1].ffn.fn
    layer.up = copy.deepcopy(layer.up)
    model.generate(rows, **OPTIONS)
    assert len(calls) == 12
    native.apply(model, "int8", required=True)
    calls = reads(model)
    with torch.no_grad():
        layer.down.weight.mul_(2)
    model.generate(rows, **OPTIONS)
    assert len(calls) == 12
    native.apply(model, required=True)
    calls = reads(model)
    model.double()
    model.generate(rows, **OPTIONS)
    assert len(calls) == 12


def test_a_pass_is_kept_while_nothing_moves(gpt2, monkeypatch):
    """One plan for a text; another one when the cache grows, or rows leave it."""
    made, real = [], Pass.__init__
    noted = lambda self, *given, **named: (made.append(None), real(self, *given, **named))[1]  # noqa: E731
    monkeypatch.setattr(Pass, "__init__", noted)
    model = native.apply(gpt2, required=True)
    ids = torch.tensor([[3, 4, 5], [6, 7, 8]])
    free = model.generate(ids, max_new_tokens=12, eos_token_id=None)[:, 3:]
    assert len(made) == 1
    rows = free.tolist(), free.flip(0).tolist()
    own = next(t for row, other in rows for t in row[2:9] if t not in row[:2] + other)
    model.generate(ids, max_new_tokens=12, eos_token_id=own)  # one row ends early
    assert len(made) == 3
    cache = KVCache()
    with torch.no_grad():
        for step in range(8):  # room for 1, then 4, then 10
            model(ids[:, :1] + step, cache=cache)
    assert len(made) == 5 and len(through(model).passes) == 1
    del cache
    assert not through(model).passes, "it goes with its cache"


@pytest.mark.parametrize("change", ["a hook", "weights"])
def test_what_a_streamer_changes_is_noticed(gpt2, rows, change):
    model, layer = native.apply(gpt2, required=True), gpt2.decoder.stack.layers[1].ffn.fn
    calls, steps = reads(model), []

    def put(tokens):
        steps.append(tokens)
        if len(steps) == 5 and change == "a hook":
            layer.register_forward_hook(lambda *given: None)
        elif len(steps) == 5:
            layer.down.weight.data = layer.down.weight.data * 2

    model.generate(rows, max_new_tokens=9, eos_token_id=None, streamer=put)
    assert len(calls) == 1 + 4, "the prompt, and the steps after the change"


def test_whole_layers_of_torch_one_after_another(gpt2, rows):
    """Layers of another kind go through torch, between those that are known and beside each other."""
    model, expected = gpt2, gpt2.generate(rows, **OPTIONS)
    for layer in model.decoder.stack.layers:
        layer.__class__ = type("Own", (type(layer),), {})
    native.apply(model, quiet=True)
    assert not native.taken(model.decoder.stack), "there is nothing to gain"
    stack = NativeStack(model.decoder.stack, Store("fp32"))
    assert len(stack.unknown) == 2
    put(model.decoder.stack, "through", stack)
    found = model.generate(rows, **OPTIONS)
    assert found.sequences.tolist() == expected.sequences.tolist()


def test_beams_are_the_same_among_many(model, rows):
    """Beams of int8, whose rows the kernels look up in a table, beside those of each input alone."""
    native.apply(model, "int8", required=True)
    options = {"num_beams": 5, "max_new_tokens": 16, "return_dict_in_generate": True, "bad_words_ids": [[5], [7]]}
    together = model.generate([*rows, *rows], **options)
    for i, row in enumerate([*rows, *rows]):
        alone = model.generate([row], **options)
        new = int(alone.lengths[0])
        assert (
            together.sequences[i, together.sequences.shape[1] - 16 :][:new].tolist()
            == alone.sequences[0, -new:].tolist()
        )
    assert not {5, 7} & set(together.sequences[:, -16:].flatten().tolist()) - {model.config.tokens.pad}


@pytest.mark.parametrize(
    "options",
    [
        {"do_sample": True, "seed": 3, "top_p": 0.9, "num_return_sequences": 3},
        {"num_beams": 4, "num_return_sequences": 2, "length_penalty": 0.5},
        {"repetition_penalty": 1.5, "no_repeat_ngram_size": 2},
        {"stop_strings": ["ab", "c"], "tokenizer": Letters()},
        {"max_new_tokens": 60, "on_long_prompt": "slide"},
    ],
    ids=["sampled", "beams", "rules", "stop strings", "slide"],
)
def test_every_way_of_writing(model, rows, options):
    options = {"max_new_tokens": 16, **options}
    expected = model.generate(rows, **options)
    assert native.apply(model, required=True).generate(rows, **options).tolist() == expected.tolist()


def test_streams(gpt2, rows):
    from regard.generation.stream import stream

    model = gpt2
    expected = [step.tokens.tolist() for step in stream(model, rows, max_new_tokens=9) if step.tokens is not None]
    native.apply(model, required=True)
    assert [s.tokens.tolist() for s in stream(model, rows, max_new_tokens=9) if s.tokens is not None] == expected


def test_threads_may_share_a_model(gpt2, rows):
    model = native.apply(gpt2, required=True)
    expected = [model.generate([row], max_new_tokens=20).tolist() for row in rows]
    found = [None] * len(rows)

    def work(i):
        for _ in range(5):
            found[i] = model.generate([rows[i]], max_new_tokens=20).tolist()

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(rows))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == expected


def test_bad_input_is_named(gpt2):
    with pytest.raises(ValueError, match="precision is 'int3'; allowed: auto, fp32, bf16, int8, int4"):
        native.apply(gpt2, "int3")
    raw = {"model_type": "bert", "architectures": ["BertModel"], "hidden_size": 8, "num_hidden_layers": 1}
    encoder = regard.from_config({**raw, "num_attention_heads": 2, "intermediate_size": 8, "vocab_size": 9})
    with pytest.raises(ValueError, match="BertModel neither writes nor has quantized layers"):
        native.apply(encoder)


def test_without_a_compiler_torch_goes_on(gpt2, rows, monkeypatch, capsys):
    expected = gpt2.generate(rows, max_new_tokens=5).tolist()
    monkeypatch.setattr(build, "compiler", lambda: None)
    build.library.cache_clear()
    native.layout.kernels.cache_clear()
    try:
        assert not native.available()
        model = native.apply(gpt2, "int8")
        assert "there is no C++ compiler" in capsys.readouterr().err
        assert model.generate(rows, max_new_tokens=5).tolist() == expected
        with pytest.raises(native.NoKernels, match="there is no C"):
            native.apply(model, required=True)
    finally:
        build.library.cache_clear()
        native.layout.kernels.cache_clear()


def test_a_compiler_that_fails_is_quoted(tmp_path, monkeypatch):
    bad = tmp_path / "g++"
    bad.write_text("#!/bin/sh\necho 'kernels.cpp:1: fatal error: no such thing' >&2; exit 1\n")
    bad.chmod(0o755)
    monkeypatch.setenv("CXX", str(bad))
    with pytest.raises(native.NoKernels, match="fatal error: no such thing"):
        build.compile_to(tmp_path / "k.so")
    assert [f.name for f in tmp_path.iterdir()] == ["g++"], "nothing half-made is left"
