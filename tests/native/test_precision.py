"""One wish for how precise linears are: what `regard.load(precision=)` gives, and what it refuses."""

from __future__ import annotations

import json
import os
import sys

import pytest
import torch

import regard
from regard import native
from regard.native import threads
from tests.generation.conftest import GPT2, T5, sharpened

ROWS = [[7, 9, 11, 4, 5], [3, 40]]
OPTIONS = {"max_new_tokens": 10, "eos_token_id": None}


@pytest.fixture(params=[GPT2, T5], ids=["gpt2", "t5"])
def saved(request, tmp_path):
    model = sharpened(request.param)
    model.save_pretrained(tmp_path)
    return tmp_path, model


def native_parts(model):
    return [name for name, module in model.named_modules() if native.taken(module)]


def test_by_default_floats_are_written_natively_and_the_tokens_are_torchs(saved):
    folder, model = saved
    loaded = regard.load(folder)
    assert {"decoder.stack", "head.out"} <= set(native_parts(loaded))
    assert loaded.generate(ROWS, **OPTIONS).tolist() == model.generate(ROWS, **OPTIONS).tolist()


@pytest.mark.parametrize("precision", ["bf16", "int8", "int4"])
def test_asked_for_or_saved_so_it_is_the_same_model(saved, precision, monkeypatch, tmp_path):
    monkeypatch.setattr(sys.modules["regard.adapt.quantize"], "refused", lambda to, written: None)
    folder, _ = saved
    asked = regard.load(folder, precision=precision)
    assert "head.out" in native_parts(asked), "where a model writes, its head is small too"
    asked.save_pretrained(tmp_path / "small")
    read = regard.load(tmp_path / "small")
    options = {**OPTIONS, "return_dict_in_generate": True, "output_scores": True}
    a, b = asked.generate(ROWS, **options), read.generate(ROWS, **options)
    assert a.sequences.tolist() == b.sequences.tolist()
    assert all(torch.equal(x, y) for x, y in zip(a.scores, b.scores, strict=True))


@pytest.mark.parametrize("precision", ["bf16", "int8", "int4"])
def test_small_linears_are_made_from_the_halves_of_a_file(saved, precision, monkeypatch, tmp_path):
    monkeypatch.setattr(sys.modules["regard.adapt.quantize"], "refused", lambda to, written: None)
    regard.load(saved[0], dtype="bfloat16").save_pretrained(tmp_path / "half")
    model = regard.load(tmp_path / "half", precision=precision)
    wide = regard.load(tmp_path / "half")
    expected = regard.adapt.quantize(wide, precision, head=True, force=True)
    expected, found = expected.state_dict(), model.state_dict()
    assert set(found) == set(expected)
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert all(found[name].dtype == expected[name].dtype for name in expected)


def test_quantized_weights_are_kept_in_one_form(saved):
    model = regard.adapt.quantize(saved[1], "int8", head=True, force=True)
    native.apply(model, required=True)
    model.generate([[5] * 40], **OPTIONS)
    inside = [m for m in (*model.decoder.stack.modules(), model.head.out) if hasattr(m, "packed")]
    assert inside and all(layer.packed is None for layer in inside), "prompts are read by the kernels as well"


def test_wishes_that_cannot_be_had(saved, monkeypatch, tmp_path, capsys):
    folder, _ = saved
    with pytest.raises(ValueError, match="precision is 'int2'; allowed: auto, fp32, bf16, int8, int4"):
        regard.load(folder, precision="int2")
    with pytest.raises(ValueError, match="precision is 'fp32', but dtype is 'bfloat16'"):
        regard.load(folder, precision="fp32", dtype="bfloat16")
    monkeypatch.setattr(sys.modules["regard.adapt.quantize"], "refused", lambda to, written: f"{to} is slower than x")
    with pytest.raises(ValueError, match="bf16 is slower than x"):
        regard.load(folder, precision="bf16")
    monkeypatch.setattr(native, "reason", lambda: "it rains")
    assert native_parts(regard.load(folder)) == [] and capsys.readouterr().err == ""
    assert native_parts(regard.load(folder, precision="fp32")) == []
    assert capsys.readouterr().err == "regard: writing goes through torch, as it rains\n"


def test_a_processor_where_bytes_read_slower_refuses_them(monkeypatch):
    module = sys.modules["regard.adapt.quantize"]
    for slow, message in ((2.0, "int8 is slower than bf16 on this processor"), (0.5, None)):
        module.refused.cache_clear()
        monkeypatch.setattr(
            module, "_timed", lambda works, slow=slow: {kind: slow if kind == "int8" else 1.0 for kind in works}
        )
        said = module.refused("int8", True)
        assert said is None if message is None else said.startswith(message)
    module.refused.cache_clear()


def test_threads_are_measured_once_and_remembered(tmp_path, monkeypatch):
    calls = []
    monkeypatch.setenv("REGARD_NATIVE_CACHE", str(tmp_path))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 8)
    monkeypatch.setattr(threads, "measured", lambda counts: calls.append(counts) or {1: 4.0, 2: 2.0, 4: 1.01, 8: 1.5})
    monkeypatch.setattr(os, "getloadavg", lambda: (99.0, 0.0, 0.0))
    threads._best.cache_clear()
    assert threads.threads() == 4 and not list(tmp_path.iterdir()), "others work here now: nothing is remembered"
    monkeypatch.setattr(os, "getloadavg", lambda: (0.1, 99.0, 99.0))
    threads._best.cache_clear()
    calls.clear()
    assert threads.threads() == 4 and calls == [[1, 2, 4, 8]]
    assert threads.threads(8) == 4 and threads.threads(9) == 8, "many rows are work for all"
    threads._best.cache_clear()
    assert threads.threads() == 4 and len(calls) == 1, "the file is read"
    (file,) = tmp_path.glob("*.json")
    file.write_text("{")
    threads._best.cache_clear()
    assert threads.threads() == 4 and len(calls) == 2 and 4 in json.loads(file.read_text()).values()
    monkeypatch.setenv("OMP_NUM_THREADS", "8")
    assert threads.threads() == 8, "the user has said it"
    threads._best.cache_clear()


def test_one_and_two_threads_are_timed():
    times = threads.measured([1, 2], rounds=2)
    assert set(times) == {1, 2} and all(0 < seconds < 10 for seconds in times.values())
