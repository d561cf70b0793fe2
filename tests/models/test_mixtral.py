"""Mixtral: stacked experts read like those that are kept apart in files, and all are used alike: the balance loss."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import regard
from regard.training.objectives import CausalLM
from tests.models import oracle
from tests.training.lessons import padded, pair, words

pytest.importorskip("transformers", reason="the reference library is not installed (extra: oracle)")


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


@pytest.mark.parametrize("variant", ["mixtral", "mixtral window"])
def test_the_loss_is_the_references_with_the_balance_of_all_layers(variant):
    theirs, ours = pair("mixtral", variant, "MixtralForCausalLM")
    theirs, ours = theirs.float(), ours.float()  # the reference groups products, which double precision has not
    rows, weight = words((7, 11, 3, 11)), ours.config.decoder.stack.layers[0].feed_forward.balance
    ids, mask = padded(rows, 5)
    labels = ids.masked_fill(mask == 0, -100)
    mask[torch.arange(4), mask.sum(1) - 1] = 0  # the last word of a row has none to predict, and we do not read it
    for coefficient in (weight, 1.5):  # 0.001 hardly shows
        theirs.router_aux_loss_coef = coefficient
        theirs.train()  # there is no dropout
        wanted = theirs(input_ids=ids, attention_mask=mask, labels=labels, output_router_logits=True)
        expert = ours.config.decoder.stack.layers[0].feed_forward.replace(balance=coefficient)
        for layer in ours.decoder.stack.layers:
            layer.ffn.fn.config = expert
        objective = CausalLM().train()
        batch = objective.collate([{"input_ids": row} for row in rows], np.random.default_rng(0))
        assert "lengths" in batch.inputs  # packed: padding is nowhere
        loss = objective(ours.train(), batch) / batch.count
        torch.testing.assert_close(loss, wanted.loss, rtol=1e-5, atol=0)
        _, ctx = ours.hidden(input_ids=ids, attention_mask=mask)
        (padded_too,) = ctx.losses
        torch.testing.assert_close(padded_too, coefficient * wanted.aux_loss, rtol=1e-5, atol=0)
    ours.eval()
    assert ours.hidden(input_ids=ids, attention_mask=mask)[1].losses == []
    assert list(ours(input_ids=ids).losses) == []
