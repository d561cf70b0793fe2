"""Quantized towers that read: the same numbers as torch with the same rounding, however texts are laid out."""

from __future__ import annotations

import copy

import pytest
import torch

import regard
from regard import native
from regard.adapt import quantize
from regard.native.run import NativeStack
from regard.native.weights import Store
from regard.nn import KVCache
from tests.generation.conftest import GPT2, T5, sharpened
from tests.native.formula import rounded

BERT = {"model_type": "bert", "architectures": ["BertModel"], "hidden_size": 32, "num_hidden_layers": 2}
BERT |= {"num_attention_heads": 4, "intermediate_size": 70, "vocab_size": 61, "max_position_embeddings": 300}
LLAMA = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 32, "num_hidden_layers": 2}
LLAMA |= {"num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 70, "vocab_size": 61}
LLAMA |= {"max_position_embeddings": 300, "rms_norm_eps": 1e-5}
MODELS, NAMES = (BERT, T5, GPT2, LLAMA), ("bert", "t5", "gpt2", "llama")
LENGTHS = (3, 3, 3, 9, 1, 200, 40, 40, 40, 40)


def varied(raw):
    """A model whose norms and biases are not those it is born with."""
    torch.manual_seed(1)
    model = regard.from_config(raw, seed=0).eval() if raw in (BERT, LLAMA) else sharpened(raw)
    for parameter in model.parameters():
        if parameter.ndim == 1:
            parameter.data += torch.randn_like(parameter) * 0.3
    return model


def tower(model):
    return model.encoder if model.encoder is not None else model.decoder


def layouts(model):
    """Rows of many lengths end to end, and padded; the real tokens of both."""
    lengths = LENGTHS if tower(model).front.limit != 64 else [min(n, 60) for n in LENGTHS]
    rows = [torch.randint(3, 60, (n,)) for n in lengths]
    ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    mask = torch.arange(ids.shape[1]) < torch.tensor(lengths)[:, None]
    packed = tower(model)(torch.cat(rows), lengths=list(lengths))[0]
    return packed, tower(model)(ids, attention_mask=mask.long())[0][mask]


def natively(model, through):
    """Let a stack read; torch must not."""
    tower(model).stack.__dict__["through"] = through
    through.torch = None
    return model


@pytest.mark.parametrize("raw", MODELS, ids=NAMES)
@torch.no_grad()
def test_layouts_without_rounding(raw):
    model = varied(raw)
    expected = seeded(model)
    through = NativeStack(tower(model).stack, Store("fp32"))
    assert through.unknown == [] and not through.small, "float32 is read by torch"
    through.small = True
    natively(model, through)
    for found, wanted in zip(seeded(model), expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5 * float(wanted.abs().max()))


@pytest.mark.parametrize("raw", [GPT2, LLAMA], ids=["gpt2", "llama"])
@torch.no_grad()
def test_prompts_fill_the_cache(raw):
    """Equal prompts and ragged ones, as torch reads them; a prompt that goes on is read by torch."""
    model = varied(raw)
    equal, ragged = torch.randint(3, 60, (2, 30)), torch.randint(3, 60, (41,))
    ways = {"equal": (equal, None), "ragged": (ragged, [7, 7, 1, 26])}
    expected = {name: read(model, *way) for name, way in ways.items()}
    through = NativeStack(tower(model).stack, Store("fp32"))
    through.small, real = True, through.torch
    natively(model, through)
    for name, way in ways.items():
        for found, wanted in zip(read(model, *way), expected[name], strict=True):
            torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5 * float(wanted.abs().max()))
    through.torch = real
    cache, whole = KVCache(), tower(model)(equal)[0]
    found = [tower(model)(part, cache=cache)[0] for part in equal.split([3, 20, 7], 1)]
    torch.testing.assert_close(torch.cat(found, 1), whole, rtol=0, atol=1e-5 * float(whole.abs().max()))


@pytest.mark.parametrize("raw", [GPT2, LLAMA], ids=["gpt2", "llama"])
@torch.no_grad()
def test_keys_beside_small_weights(raw):
    """In bf16; what follows a prompt is as near to reading all at once as bf16 is, by the kernels and, with a hook, by
    torch."""
    model = native.apply(quantize(varied(raw), "int8", force=True), required=True)
    ids = torch.randint(3, 60, (2, 40))
    whole = tower(model)(ids)[0]
    for way in ("kernels", "torch"):
        cache = KVCache()
        tower(model)(ids[:, :37], cache=cache)
        assert {part.dtype for pair in cache.pairs() for part in pair} == {torch.bfloat16}
        layer = tower(model).stack.layers[0]
        handle = layer.register_forward_hook(lambda *given: None) if way == "torch" else None
        found = torch.cat([tower(model)(ids[:, i : i + 1], cache=cache)[0] for i in range(37, 40)], 1)
        if handle is not None:
            handle.remove()
        assert 0 < float((found - whole[:, 37:]).norm() / whole[:, 37:].norm()) < 2e-2, way


def read(model, ids, lengths):
    """States of a prompt, and what is then held of each row."""
    cache = KVCache()
    states = tower(model)(ids, lengths=lengths, cache=cache)[0]
    held = [part[row, :, :n] for pair in cache.pairs() for part in pair for row, n in enumerate(cache.lengths)]
    return [states, *held]


@pytest.mark.parametrize("kind", ["int8", "int4"])
@pytest.mark.parametrize("raw", MODELS, ids=NAMES)
@torch.no_grad()
def test_rounding(raw, kind):
    """Now and then a number lies so near the middle of two steps that it falls to the other side than in the formula,
    and all tokens of its sequence change a little with it (the longest has half of all); the rest is the same."""
    model = varied(raw)
    exact = copy.deepcopy(model)
    rounded(tower(exact).stack, kind)
    native.apply(quantize(model, kind, force=True), required=True)
    natively(model, tower(model).stack.__dict__["through"])
    for found, wanted in zip(*(seeded(one) for one in (model, exact)), strict=True):
        assert float((found - wanted).norm() / wanted.norm()) < 5e-3
        near = (found - wanted).abs() < 2e-4 * wanted.abs().max()
        assert float(near.float().mean()) > 0.5


def seeded(model):
    torch.manual_seed(2)
    return layouts(model)


@torch.no_grad()
def test_others_are_torchs():
    """Hooks, gradients and float weights."""
    model = native.apply(quantize(varied(BERT), "int8", force=True), required=True)
    through, reading = model.encoder.stack.__dict__["through"], []
    real = through.torch
    through.torch = lambda *given: (reading.append(None), real(*given))[1]
    ids = torch.randint(3, 60, (2, 5))
    model(ids)
    assert not reading
    handle = model.encoder.stack.layers[0].register_forward_hook(lambda *given: None)
    model(ids)
    handle.remove()
    with torch.enable_grad():
        model(ids)
    assert len(reading) == 2
    native.remove(model)
    assert "through" not in model.encoder.stack.__dict__
