"""Groups, frozen weights and rates by depth; the optimisers beside their formulas."""

from __future__ import annotations

import pytest
import torch

import regard
from regard.training.config import OptimizerConfig
from regard.training.muon import orthogonal
from regard.training.optimizers import build_optimizer, depths, freeze, groups, set_rate, unfreeze

RAW = {
    **{"model_type": "bert", "architectures": ["BertForSequenceClassification"], "hidden_size": 16, "vocab_size": 31},
    **{"num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 24, "max_position_embeddings": 16},
}


@pytest.fixture
def model() -> torch.nn.Module:
    return regard.from_config(RAW)


def test_only_matrices_decay(model: torch.nn.Module) -> None:
    for group in groups(model, OptimizerConfig(weight_decay=0.1)):
        assert all((p.ndim >= 2) == (group["weight_decay"] == 0.1) for p in group["params"])
    assert sum(len(g["params"]) for g in groups(model, OptimizerConfig())) == len(list(model.parameters()))


def test_depth_counts_layers_from_the_head(model: torch.nn.Module) -> None:
    depth = depths(model)
    assert depth["head.out.weight"] == 0
    assert depth["encoder.stack.layers.2.attn.fn.q.weight"] == 1
    assert depth["encoder.stack.layers.0.attn.fn.q.weight"] == 3
    assert depth["encoder.front.token.weight"] == 4


def test_rates_fall_with_depth(model: torch.nn.Module) -> None:
    optimizer = build_optimizer(model, OptimizerConfig(layer_decay=0.5))
    set_rate(optimizer, 1.0)
    rates = {id(p): g["lr"] for g in optimizer.param_groups for p in g["params"]}
    for name, p in model.named_parameters():
        assert rates[id(p)] == 0.5 ** depths(model)[name]


def test_frozen_weights_stay(model: torch.nn.Module) -> None:
    frozen = freeze(model, ["encoder.front.*", "*.layers.0.*"])
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = build_optimizer(model, OptimizerConfig(learning_rate=0.1))
    set_rate(optimizer, 0.1)
    model(input_ids=torch.arange(5)[None]).logits.sum().backward()
    optimizer.step()
    for name, p in model.named_parameters():
        assert torch.equal(p, before[name]) == (name in frozen or (name == "head.out.weight" and p.grad is None)), name
    with pytest.raises(ValueError, match=r"freeze is 'nothing\.\*'; it matches no parameter; there are: encoder"):
        freeze(model, ["nothing.*"])


def test_layers_thaw_from_the_top(model: torch.nn.Module) -> None:
    for step, awake in ((0, 0), (9, 0), (10, 1), (25, 2), (40, 4)):
        unfreeze(model, step, 10, frozenset())
        assert {depths(model)[n] for n, p in model.named_parameters() if p.requires_grad} == set(range(awake + 1))


def test_adamw_is_its_formula() -> None:
    torch.manual_seed(0)
    module = torch.nn.Linear(4, 3, bias=False)
    weight = module.weight.detach().clone().double()
    config = OptimizerConfig(learning_rate=0.01, betas=(0.8, 0.9), eps=1e-6, weight_decay=0.1)
    optimizer = build_optimizer(module, config)
    m = v = torch.zeros_like(weight)
    for step in range(1, 6):
        optimizer.zero_grad()
        x = torch.randn(7, 4)
        module(x).pow(2).sum().backward()
        gradient = module.weight.grad.double()
        m, v = 0.8 * m + 0.2 * gradient, 0.9 * v + 0.1 * gradient**2
        set_rate(optimizer, 0.01)
        optimizer.step()
        weight = weight - 0.01 * 0.1 * weight
        weight = weight - 0.01 * (m / (1 - 0.8**step)) / ((v / (1 - 0.9**step)).sqrt() + 1e-6)
        torch.testing.assert_close(module.weight.double(), weight, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["adam", "adafactor", "muon", "sgd"])
def test_every_optimizer_goes_downhill(name: str) -> None:
    torch.manual_seed(0)
    module = torch.nn.Linear(4, 4)
    x = torch.randn(16, 4)
    optimizer = build_optimizer(module, OptimizerConfig(name=name, learning_rate=0.05, momentum=0.5))
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        loss = (module(x) - x).pow(2).mean()
        loss.backward()
        set_rate(optimizer, 0.05)
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.5 * losses[0]


@pytest.mark.parametrize("shape", [(3, 16, 16), (2, 8, 24), (2, 24, 8)])
def test_orthogonal_keeps_the_singular_vectors(shape: tuple[int, int, int]) -> None:
    torch.manual_seed(0)
    left, right = torch.linalg.qr(torch.randn(shape))[0], torch.linalg.qr(torch.randn(shape).mT)[0]
    few = min(shape[1:])
    values = torch.linspace(0.1, 1, few)
    left, right = left[..., :few], right[..., :few]
    moved = left.mT @ orthogonal(left * values @ right.mT).float() @ right  # singular values, on the diagonal
    assert moved.diagonal(dim1=-2, dim2=-1).sub(1).abs().max() < 0.4
    assert moved.sub(torch.diag_embed(moved.diagonal(dim1=-2, dim2=-1))).abs().max() < 0.05


def test_muon_moves_layers_as_the_reference_and_all_else_as_adamw(model: torch.nn.Module) -> None:
    torch.manual_seed(0)
    options = {"lr": 0.01, "weight_decay": 0.1}
    named = dict(model.named_parameters())
    copies = {name: torch.nn.Parameter(p.detach().clone()) for name, p in named.items()}
    inner = [p for name, p in copies.items() if ".layers." in name and p.ndim == 2]
    outer = [p for name, p in copies.items() if ".layers." not in name and p.ndim == 2]
    flat = [p for p in copies.values() if p.ndim == 1]
    theirs = [
        torch.optim.Muon(inner, momentum=0.95, nesterov=True, adjust_lr_fn="match_rms_adamw", **options),
        torch.optim.AdamW([{"params": outer}, {"params": flat, "weight_decay": 0.0}], betas=(0.9, 0.95), **options),
    ]
    assert inner and outer and flat
    optimizer = build_optimizer(model, OptimizerConfig(name="muon", betas=(0.9, 0.95), weight_decay=0.1))
    for _ in range(4):
        set_rate(optimizer, 0.01)
        for name, p in named.items():
            copies[name].grad = torch.randn_like(p)
            p.grad = copies[name].grad.clone()
        optimizer.step()
        for one in theirs:
            one.step()
    for name, p in named.items():
        torch.testing.assert_close(p, copies[name], rtol=1e-3, atol=2e-4, msg=name)
