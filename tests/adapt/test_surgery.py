"""Modules by the checkpoint's names and by ours; fused ones whole."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from regard import adapt
from regard.adapt.surgery import matches
from regard.models.base import Split, SplitHeads
from tests.adapt.both import pair

LAYERS = "decoder.stack.layers."


def ours(name, patterns) -> list[str]:
    return [part for site in adapt.find(pair(name)[1], patterns) for part in site.ours]


def test_both_names_lead_to_the_same_modules():
    expected = [f"{LAYERS}{i}.attn.fn.{p}" for i in range(3) for p in "qv"]
    for patterns in (
        ["q_proj", "v_proj"],
        ["attn.fn.q", "attn.fn.v"],
        ["model.layers.*.self_attn.[qv]_proj"],
        ["*.attn.fn.q", "v"],
        r".*\.[qv]_proj",
        r"decoder\..*\.fn\.(q|v)",
    ):
        assert sorted(ours("llama", patterns)) == sorted(expected), patterns
    assert ours("bert", ["layer.1.attention.self.query"]) == ["encoder.stack.layers.1.attn.fn.q"]


def test_a_fused_module_is_whole_or_refused():
    whole = [f"{LAYERS}{i}.attn.fn.{p}" for i in range(3) for p in "qkv"]
    assert ours("gpt2", ["c_attn"]) == ours("gpt2", ["attn.fn.q", "attn.fn.k", "attn.fn.v"]) == whole
    with pytest.raises(ValueError, match=r"'attn.fn.q' fits only a part of transformer.h.0.attn.c_attn.*name 'c_attn'"):
        ours("gpt2", ["attn.fn.q"])


@pytest.mark.parametrize("ops", [(Split(3),), (Split(3, (2, 4, 6)),), (SplitHeads(2),)])
def test_rows_are_split_and_joined(ops):
    site = adapt.Site("qkv", ("q", "k", "v"), ops)
    rows = torch.randn(12, 5)
    parts = site.split(rows)
    assert len(parts) == 3 and torch.equal(site.join(parts), rows)
    assert torch.equal(torch.cat(site.split(rows[:, 0])), torch.cat(parts)[:, 0])


@pytest.mark.parametrize(
    ("pattern", "name", "fits"),
    [
        ("q", "a.q", True), ("q", "a.qq", False), ("a.q", "a.q", True), ("q", "q", True), ("a.*.q", "a.1.q", True),
        ("*.q", "b.q", True), ("layers.*.q", "model.layers.2.q", True), ("Q", "a.q", False), ("[qv]", "a.v", True),
    ],
)  # fmt: skip
def test_patterns(pattern, name, fits):
    assert matches(pattern, name) == fits


def test_replace_and_restore():
    model = pair("llama")[1]
    before, name = str(model), f"{LAYERS}1.ffn.fn.up"
    old = adapt.replace(model, name, nn.Identity())
    assert isinstance(model.get_submodule(name), nn.Identity) and isinstance(old, nn.Linear)
    adapt.replace(model, name, old)
    adapt.add(model, adapt.LoraConfig(target_modules=["up"]))
    assert str(model) != before
    adapt.restore(model)
    assert str(model) == before


@pytest.mark.parametrize("name", ["bert", "gpt2", "llama", "t5", "bart", "gpt_neox", "deberta"])
def test_every_linear_module_of_the_reference_is_a_site(name):
    """The names of sites are those of the reference's modules, and none is left out but what the checkpoint lacks."""
    from transformers.pytorch_utils import Conv1D

    theirs, mine, _ = pair(name)
    named = {n for n, m in theirs.named_modules() if isinstance(m, (nn.Linear, Conv1D))}
    found = {site.disk for site in adapt.sites(mine) if not site.ours[0].startswith("head.")}
    assert {n for n in named - found if "layer" in n or ".h." in n or "block" in n} == set()
    kinds = (nn.Linear, Conv1D, nn.Embedding)
    assert [disk for disk in found if not isinstance(theirs.get_submodule(disk), kinds)] == []
