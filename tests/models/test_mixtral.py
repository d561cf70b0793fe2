"""Mixtral files whose experts are stacked in one tensor read like those that keep them apart."""

from __future__ import annotations

import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

import regard

pytest.importorskip("transformers", reason="the reference library is not installed (extra: oracle)")

from tests.models import oracle


def test_stacked_experts_read_like_separate_ones(tmp_path):
    _, folder = oracle.reference("mixtral", "mixtral", "MixtralForCausalLM")
    shutil.copy(folder / "config.json", tmp_path)
    old = load_file(folder / "model.safetensors")
    new = {key: value for key, value in old.items() if "block_sparse_moe" not in key}
    for layer in range(3):
        theirs, stacked = f"model.layers.{layer}.block_sparse_moe.", f"model.layers.{layer}.mlp."
        new[f"{stacked}gate.weight"] = old[f"{theirs}gate.weight"]
        experts = [{w: old[f"{theirs}experts.{e}.w{w}.weight"] for w in (1, 2, 3)} for e in range(4)]
        new[f"{stacked}experts.gate_up_proj"] = torch.stack([torch.cat([e[1], e[3]]) for e in experts])
        new[f"{stacked}experts.down_proj"] = torch.stack([e[2] for e in experts])
    save_file(new, tmp_path / "model.safetensors", metadata={"format": "pt"})
    ours, again = (dict(regard.load(f).named_parameters()) for f in (folder, tmp_path))
    assert ours.keys() == again.keys()
    assert all(torch.equal(again[name], value) for name, value in ours.items())


def test_expert_tensors_of_a_wrong_count_are_told(tmp_path):
    _, folder = oracle.reference("mixtral", "mixtral", "MixtralForCausalLM")
    shutil.copy(folder / "config.json", tmp_path)
    weights = load_file(folder / "model.safetensors")
    weights["model.layers.0.mlp.experts.down_proj"] = torch.zeros(3, 32, 48)
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"down_proj \(3x32x48\).*allowed: \(4,"):
        regard.load(tmp_path)
