"""Weights at GPT-2's size: opened, they take no more memory than their file, turned or quantized."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import regard

RAW = {"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], "n_positions": 1024, "vocab_size": 50257}
RAW |= {"n_embd": 768, "n_layer": 12, "n_head": 12}
MEASURE = """
import sys, regard
from regard import native
# not getrusage: its peak begins with that of the process that started this one
def peak(): return int(next(l for l in open("/proc/self/status") if l.startswith("VmHWM")).split()[1]) * 1024
small = regard.load(sys.argv[2])
small.generate([[1, 2]], max_new_tokens=2)
before = peak()
model = regard.load(sys.argv[1])
loaded = peak() - before
assert native.taken(model.decoder.stack) and not native.unknown(model)
model.generate([[11, 12, 13]], max_new_tokens=4, eos_token_id=None)
print(loaded, peak() - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="no /proc to read the peak from")
@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8", "int4"])
def test_peak_of_loading_and_writing(tmp_path, precision):
    for folder, size in (("big", {}), ("small", {"n_embd": 64, "n_layer": 1, "n_head": 2, "vocab_size": 64})):
        model = regard.from_config({**RAW, **size}, seed=0)
        if precision != "fp32":
            regard.adapt.quantize(model, precision, head=True, force=True)
        model.save_pretrained(tmp_path / folder)
    del model
    size = (tmp_path / "big" / "model.safetensors").stat().st_size
    words = [sys.executable, "-c", MEASURE, str(tmp_path / "big"), str(tmp_path / "small")]
    env = {**os.environ, "PYTHONPATH": str(Path(regard.__file__).parent.parent)}
    done = subprocess.run(words, capture_output=True, text=True, check=True, env=env)
    loaded, used = map(int, done.stdout.split())
    print(f"{precision}: file {size / 1e6:.1f} MB, peak of loading {loaded / 1e6:.1f}, of writing too {used / 1e6:.1f}")
    assert 0 < loaded <= 1.1 * size
    assert used <= 1.2 * size


def test_what_was_written_to_is_not_forgotten(tmp_path):
    from regard import native

    raw = {**RAW, "n_embd": 64, "n_layer": 1, "n_head": 2, "vocab_size": 8192, "n_positions": 64}
    regard.adapt.quantize(regard.from_config(raw, seed=0), "int8", head=True, force=True).save_pretrained(tmp_path)
    model = native.remove(regard.load(tmp_path))
    with torch.no_grad():
        model.head.out.weight[7] = 1
    native.apply(model, required=True)
    assert bool((model.head.out.weight[7] == 1).all())
