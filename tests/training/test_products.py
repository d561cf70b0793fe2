"""oneDNN's products in training are torch's own to rounding, gradients too, and leave no trace."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import regard
from regard.nn import Linear
from regard.nn.attention import Attend
from regard.training.loop import fit
from regard.training.objectives.classification import Classification
from regard.training.problem import Problem
from regard.training.products import quick_products

SHAPES = [(1, 9), (7, 5), (33,)]


def gradients(layer: nn.Module, x: Tensor) -> list[Tensor]:
    x = x.clone().requires_grad_()
    used = [x, *(p for p in layer.parameters() if p.requires_grad)]
    y = layer(x)
    return [y.detach(), *torch.autograd.grad(y.sin().sum(), used)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("frozen", [True, False])
def test_same_as_in_double(shape: tuple[int, ...], bias: bool, frozen: bool) -> None:
    torch.manual_seed(0)
    layer = Linear(520, 512, bias)
    layer.weight.requires_grad_(not frozen)
    x = torch.randn(*shape, 520)
    wanted = gradients(layer.double(), x.double())
    layer.float()
    with quick_products(layer):
        assert "_Product" in type(layer(x.requires_grad_()).grad_fn).__name__
        found = gradients(layer, x.detach())
    assert "forward" not in vars(layer)
    for a, b in zip(found, wanted, strict=True):
        assert a.shape == b.shape
        torch.testing.assert_close(a.double(), b, rtol=0, atol=2e-6 * float(b.abs().max()))


def test_strided_input_and_slope() -> None:
    torch.manual_seed(0)
    layer = Linear(512, 520)
    x = torch.randn(512, 6, 5).permute(1, 2, 0)
    weight = torch.randn(520, 5, 6).permute(2, 1, 0)

    def slope() -> list[Tensor]:
        return list(torch.autograd.grad((layer(x) * weight).sum(), list(layer.parameters())))

    wanted = slope()
    with quick_products(layer):
        found = slope()
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


def test_gradient_of_the_gradient() -> None:
    torch.manual_seed(0)
    layer = Linear(512, 512)
    x = torch.randn(3, 512, requires_grad=True)

    def second() -> Tensor:
        (first,) = torch.autograd.grad(layer(x).square().sum(), x, create_graph=True)
        return torch.autograd.grad(first.square().sum(), layer.weight)[0]

    wanted = second()
    with quick_products(layer):
        torch.testing.assert_close(second(), wanted, rtol=1e-3, atol=1e-3)


def test_others_are_left_alone() -> None:
    layers = nn.ModuleList([Linear(16, 16), nn.Linear(512, 512), Linear(512, 512)])
    with quick_products(layers):
        assert [("forward" in vars(layer)) for layer in layers] == [False, False, True]
        with torch.autocast("cpu", torch.bfloat16):
            assert layers[2](torch.randn(3, 512)).dtype == torch.bfloat16
        assert layers[2].double()(torch.randn(3, 512).double()).dtype == torch.float64


@pytest.mark.parametrize("masked", ["no", "causal", "mask", "bias"])
def test_attention_in_bfloat16_is_as_exact_as_its_inputs(masked: str) -> None:
    torch.manual_seed(0)
    layer = Attend(None, None, 0.0)
    parts = [torch.randn(2, 4, 9, 8).bfloat16().requires_grad_() for _ in range(3)]
    mask: Any = {"causal": "causal", "mask": torch.rand(2, 1, 9, 9) > 0.3}.get(masked)
    bias = torch.randn(1, 4, 9, 9).bfloat16() if masked == "bias" else None
    slope = torch.randn(2, 4, 9, 8).bfloat16()

    def found(x: list[Tensor], slope: Tensor) -> list[Tensor]:
        y = layer(*x, mask, bias if bias is None else bias.to(x[0].dtype))
        return [y, *torch.autograd.grad(y, x, slope)]

    wanted = found([x.detach().double().requires_grad_() for x in parts], slope.double())
    with quick_products(layer), torch.autocast("cpu", torch.bfloat16):
        ours = found(parts, slope)
    assert "forward" not in vars(layer)
    for a, b in zip(ours, wanted, strict=True):
        assert a.dtype == torch.bfloat16 and a.shape == b.shape
        torch.testing.assert_close(a.double(), b, rtol=2**-8, atol=1e-6)  # one rounding


def test_turned_queries_and_keys_are_not_rounded() -> None:
    torch.manual_seed(0)
    layer = Attend(None, None, 0.0)
    q, k, v = (torch.randn(2, 4, 9, 8).requires_grad_() for _ in range(3))
    half = v.detach().bfloat16().requires_grad_()
    wanted = layer(q, k, half.detach().float(), "causal", None)
    with quick_products(layer), torch.autocast("cpu", torch.bfloat16):
        found = layer(q, k, half, "causal", None)
    torch.testing.assert_close(found, wanted.bfloat16(), rtol=0, atol=0)


def test_a_wide_model_goes_on_to_the_bit(tmp_path: Path) -> None:
    raw = {"model_type": "bert", "vocab_size": 50, "hidden_size": 512, "num_hidden_layers": 1}
    raw |= {"num_attention_heads": 8, "intermediate_size": 512, "num_labels": 2}
    rng = np.random.default_rng(0)
    rows = [{"input_ids": rng.integers(0, 50, 3 + i % 5), "labels": i % 2} for i in range(32)]

    def trained(stops: tuple[int, ...], folder: Path) -> dict[str, Tensor]:
        for stop in stops:
            torch.manual_seed(0)
            model = regard.from_config(raw, head="classification")
            problem = Problem(Classification(), rows)

            def enough(step: int, stop: int = stop) -> None:
                if step == stop:
                    raise KeyboardInterrupt

            problem.objective.after_step = lambda model, step: enough(step)
            with suppress(KeyboardInterrupt):
                fit(model, problem, steps=6, batch_size=4, save_every=1, folder=folder, show=False)
        return model.state_dict()

    straight, halting = trained((0,), tmp_path / "a"), trained((3, 0), tmp_path / "b")
    assert all(torch.equal(straight[name], halting[name]) for name in straight)
