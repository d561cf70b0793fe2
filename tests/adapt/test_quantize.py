"""Linears of int8, int4 and bfloat16: against the formulas, in files, under adapters."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import regard
from regard import adapt, native
from regard.adapt import quantize as change
from regard.adapt.quantized import HalfLinear, Int4Linear, Int8Linear, round4, round8, rows8
from regard.nn.linear import Linear

RAW = {
    "model_type": "bert",
    "architectures": ["BertForMaskedLM"],
    "vocab_size": 120,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 96,
    "max_position_embeddings": 40,
}
IDS = torch.arange(5, 25)[None]


def model(seed: int = 0) -> regard.Model:
    return regard.from_config(RAW, seed=seed).eval()


def linear(inputs: int = 96, outputs: int = 64, bias: bool = True) -> Linear:
    torch.manual_seed(1)
    return Linear(inputs, outputs, bias)


def test_int8_weights_are_the_nearest_of_255_steps():
    weight = torch.randn(7, 33)
    q, scale = round8(weight)
    assert q.dtype == torch.int8 and int(q.min()) >= -127
    assert torch.allclose(scale, weight.abs().amax(1) / 127)
    assert float(((q * scale[:, None] - weight).abs() / scale[:, None]).max()) <= 0.5001


def test_int4_holds_two_numbers_in_a_byte_low_half_first():
    weight = torch.arange(-8.0, 8.0).repeat(2, 4)  # every step, exactly: the scale is 1
    q, scale = round4(weight)
    assert q.dtype == torch.uint8 and q.shape == (2, 32) and scale.shape == (2, 2)
    steps = torch.stack([q & 15, q >> 4], 2).flatten(1).to(torch.int8)
    assert torch.equal(torch.where(steps > 7, steps - 16, steps) * scale.repeat_interleave(32, 1), weight)


def test_rows_are_rounded_by_themselves():
    x = torch.randn(300, 40) * torch.rand(300, 1) * 5 + torch.randn(300, 1)
    q, scale, middle = rows8(x)
    again = (q.float() - 128) * scale + middle
    assert float(((again - x).abs() / scale).max()) <= 0.502
    for i in (0, 150, 299):
        alone = rows8(x[i : i + 1])
        assert torch.equal(alone[0][0], q[i]) and torch.equal(alone[1][0], scale[i])


@torch.no_grad()
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(1, 96), (3, 96), (2, 150, 96), (0, 96)])
def test_int8_product_is_the_formula(shape, bias):
    base = linear(bias=bias)
    layer, x = Int8Linear.of(base), torch.randn(shape) * 3 + 1
    q, scale, middle = rows8(x.reshape(-1, 96)) if x.numel() else (x, x, x)
    if x.numel():
        whole = ((q.double() - 128) * scale + middle) @ layer.floats().double().T
        whole = (whole + base.bias if bias else whole).reshape(*shape[:-1], 64)
        assert torch.allclose(layer(x).double(), whole, atol=1e-4)
    assert layer(x).shape == (*shape[:-1], 64)


@torch.no_grad()
@pytest.mark.parametrize("rows", [1, 5, 40])
@pytest.mark.parametrize("inputs", [96, 80])
def test_int4_and_bf16_products_are_near_their_own_floats(rows, inputs):
    base, x = linear(inputs), torch.randn(rows, inputs)
    for kind in (Int4Linear, HalfLinear):
        layer = kind.of(base)
        whole = torch.nn.functional.linear(x, layer.floats(), base.bias)
        assert float((layer(x).float() - whole).norm() / whole.norm()) < 0.01


@torch.no_grad()
def test_packed_weights_take_the_place_of_kept_ones_and_come_back():
    layer = Int8Linear.of(linear())
    before, x = layer.weight.clone(), torch.randn(4, 96)
    y = layer(x)
    assert layer.kept is None
    assert torch.equal(layer.weight, before)
    assert torch.equal(copy.deepcopy(layer)(x), y)
    other = Int8Linear.of(Linear(96, 64))
    other.load_state_dict(layer.state_dict())
    assert torch.equal(other(x), y)
    assert torch.allclose(layer.to(torch.bfloat16)(x), y)  # half precision is not for scales


def test_gradients_pass_through_and_lora_learns_on_int8():
    small, plain = change(model(), "int8", force=True), model()
    adapt.add(small, adapt.LoraConfig(r=4))
    adapt.add(plain, adapt.LoraConfig(r=4))
    for one in (small, plain):
        torch.manual_seed(3)
        for p in (p for p in one.parameters() if p.requires_grad):
            torch.nn.init.normal_(p, std=0.1)
    wanted = torch.tensor([7])
    grads = []
    for one in (small, plain):
        loss = torch.nn.functional.cross_entropy(one(IDS).logits[0, :1], wanted)
        loss.backward()
        grads.append(torch.cat([p.grad.flatten() for p in one.parameters() if p.grad is not None]))
    assert grads[0].numel() == grads[1].numel() > 0
    assert float(torch.cosine_similarity(grads[0], grads[1], dim=0)) > 0.98
    with pytest.raises(ValueError, match="adapters are on this model"):
        change(plain, "int8", force=True)


def as_opened(small):
    """Files open with the kernels wherever those can be had."""
    return native.apply(small, quiet=True) if native.suits(small) else small


@torch.no_grad()
@pytest.mark.parametrize("to", ["int8", "int4", "bf16"])
def test_files(tmp_path, to):
    small = change(model(), to, force=True)
    small.save_pretrained(tmp_path)
    wanted = as_opened(small)(IDS).logits
    assert json.loads((tmp_path / "config.json").read_text())["quantization_config"]["precision"] == to
    again = regard.load(tmp_path)
    assert torch.equal(again(IDS).logits, wanted)
    assert regard.load(tmp_path, head="features")(IDS).last_hidden_state.shape == (1, 20, 64)
    with pytest.raises(ValueError, match="has no other"):
        regard.load(tmp_path, head="classification")
    other = "bf16" if to == "int8" else "int8"
    with pytest.raises(ValueError, match=f"precision is '{other}', but .* has weights of {to}; allowed: auto, {to}"):
        regard.load(tmp_path, precision=other)
    assert torch.equal(regard.load(tmp_path, precision=to)(IDS).logits, wanted)
    floats = adapt.dequantize(again)
    floats.save_pretrained(tmp_path / "floats")
    assert "quantization_config" not in json.loads((tmp_path / "floats" / "config.json").read_text())
    assert torch.equal(regard.load(tmp_path / "floats")(IDS).logits, floats(IDS).logits)


def test_language_head_is_taken_only_when_asked_and_then_apart_from_the_table(tmp_path):
    whole = change(model(), "int8", head=True, force=True)
    assert isinstance(whole.head.out, Int8Linear)
    with torch.no_grad():
        found, plain = whole(IDS).logits, model()(IDS).logits
        assert float((found - plain).norm() / plain.norm()) < 0.1
        whole.save_pretrained(tmp_path)
        assert torch.equal(regard.load(tmp_path)(IDS).logits, as_opened(whole)(IDS).logits)
    assert not isinstance(change(model(), "int8", force=True).head.out, Int8Linear)


def test_wrong_files_are_refused_in_words(tmp_path):
    change(model(), "int8", force=True).save_pretrained(tmp_path)
    tensors, config = load_file(tmp_path / "model.safetensors"), json.loads((tmp_path / "config.json").read_text())
    first = config["quantization_config"]["modules"][0]

    def wrong(message: str, **changes: object) -> None:
        bad = {**config, "quantization_config": {**config["quantization_config"], **changes}}
        (tmp_path / "config.json").write_text(json.dumps(bad))
        with pytest.raises(ValueError, match=message):
            regard.load(tmp_path)

    wrong("precision is 'int3'; allowed", precision="int3")
    wrong("is no module", modules=["no.such"])
    wrong("is a LayerNorm", modules=[next(k for k in tensors if "norm.weight" in k).removesuffix(".weight")])
    wrong("modules has 1 entries", modules=[3])
    wrong("is torch.int8 .* but must be torch.float32", modules=config["quantization_config"]["modules"][1:])
    (tmp_path / "config.json").write_text(json.dumps(config))
    for changed, message in (
        ({k: v for k, v in tensors.items() if k != f"{first}.scale"}, f"nothing fills {first}.scale"),
        ({**tensors, f"{first}.scale": tensors[f"{first}.scale"] * torch.nan}, "holds NaN or infinity"),
        ({**tensors, "more": torch.zeros(2)}, "more: this model has no such tensor"),
    ):
        save_file(changed, tmp_path / "model.safetensors")
        with pytest.raises(ValueError, match=message):
            regard.load(tmp_path)


def test_wrong_wishes_are_refused(monkeypatch):
    with pytest.raises(ValueError, match="quantize is 'int3'; allowed: bf16, int8, int4"):
        change(model(), "int3")
    monkeypatch.setattr(sys.modules["regard.adapt.quantize"], "refused", lambda to, written: f"{to} is slower than x")
    with pytest.raises(ValueError, match="int8 is slower than x; pass force=True"):
        change(model(), "int8")


MEASURE = """
import resource, sys, torch, regard, regard.front, regard.adapt.quantized_files, regard.models.bert
from pathlib import Path
def peak(): return int(next(l for l in open("/proc/self/status") if l.startswith("VmHWM")).split()[1]) * 1024
regard.load(sys.argv[2])
before = peak()
model = regard.load(sys.argv[1])
loaded = peak() - before
print(loaded)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="no /proc to read the peak from")
def test_loading_takes_no_more_memory_than_the_file(tmp_path):
    big = {**RAW, "hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 8, "vocab_size": 8000}
    change(regard.from_config(big, seed=0), "int8", force=True).save_pretrained(tmp_path / "big")
    change(model(), "int8", force=True).save_pretrained(tmp_path / "small")
    size = (tmp_path / "big" / "model.safetensors").stat().st_size
    words = [sys.executable, "-c", MEASURE, str(tmp_path / "big"), str(tmp_path / "small")]
    done = subprocess.run(words, capture_output=True, text=True, check=True, env=_environment())
    assert int(done.stdout) <= 1.1 * size


def _environment() -> dict[str, str]:
    import os

    return {**os.environ, "PYTHONPATH": str(Path(regard.__file__).parent.parent), "OMP_NUM_THREADS": "1"}
