"""The learning-rate finder: what it suggests where the answer is known, and that it leaves no trace."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from regard.training.loop import fit
from regard.tuning.finder import find_rate, judged, smoothed
from tests.training.learners import model, problem

PLAIN = {"attn_pdrop": 0.0, "resid_pdrop": 0.0, "embd_pdrop": 0.0}


def test_the_ramp_is_a_plain_run_with_these_rates() -> None:
    """Stochastic gradient descent by hand, on the same batches, with the rate that the curve gives for each step."""
    case = problem()
    curve = find_rate(
        model(**PLAIN), case, low=1e-3, high=1e-1, steps=12, batch_size=64, optimizer="sgd", weight_decay=0.0, clip=None
    )
    assert curve.rates[0] == pytest.approx(1e-3)
    assert curve.rates[-1] == pytest.approx(1e-1)
    assert curve.rates[6] / curve.rates[5] == pytest.approx(curve.rates[1] / curve.rates[0])
    hand = model(**PLAIN)
    batch = case.objective.collate(case.train, None)  # type: ignore[arg-type]
    for rate, said in zip(curve.rates, curve.losses, strict=True):
        loss = case.objective(hand, batch) / batch.count
        assert said == pytest.approx(float(loss.detach()), rel=1e-5)
        for p, g in zip(hand.parameters(), torch.autograd.grad(loss, list(hand.parameters())), strict=True):
            p.data -= rate * g


def test_it_leaves_no_trace() -> None:
    """Weights, gradients, modes, what is frozen, random numbers; and the run after it is the run without it."""
    searched, fresh, case = model(), model(), problem()
    searched.eval()
    before = {name: t.clone() for name, t in searched.state_dict().items()}
    torch.manual_seed(5)
    curve = find_rate(searched, case, steps=60, batch_size=8, freeze=["decoder.front.*"])
    drawn = torch.rand(3)
    torch.manual_seed(5)
    assert torch.equal(drawn, torch.rand(3))
    assert len(curve.rates) > 20
    assert all(torch.equal(t, before[name]) for name, t in searched.state_dict().items())
    assert all(p.requires_grad and p.grad is None for p in searched.parameters())
    assert not any(m.training for m in searched.modules())
    for one in (searched, fresh):
        fit(one, problem(), steps=5, batch_size=8)
    assert all(torch.equal(a, b) for a, b in zip(searched.parameters(), fresh.parameters(), strict=True))


def test_it_leaves_no_trace_when_it_fails() -> None:
    one, case = model(), problem()
    before = {name: t.clone() for name, t in one.state_dict().items()}
    forward, calls = case.objective.forward, []

    def fail(*inputs: Any) -> torch.Tensor:
        calls.append(1)
        if len(calls) > 5:
            raise RuntimeError("out of memory")
        return forward(*inputs)

    case.objective.forward = fail  # type: ignore[method-assign]
    with pytest.raises(RuntimeError, match="out of memory"):
        find_rate(one, case, low=0.1, steps=20, batch_size=8)
    assert all(torch.equal(t, before[name]) for name, t in one.state_dict().items())


def test_the_suggestion_learns_better_than_its_neighbours() -> None:
    """Against what it stands for: short runs at the suggested rate, far below it and far above it."""
    curve = find_rate(model(), problem(), batch_size=16)
    assert curve.diverged
    assert curve.suggestion is not None
    losses = {}
    for factor in (0.01, 1, 100):
        history = fit(model(), problem(), steps=60, batch_size=16, learning_rate=curve.suggestion * factor)
        losses[factor] = history.evaluations[-1]["valid"]["loss"]
    assert losses[1] < losses[0.01] - 0.3
    assert losses[1] < losses[100] - 0.3


def test_a_curve_with_a_known_minimum() -> None:
    """A parabola in the logarithm of the rate, least at 0.1; steepest where its slope begins, at the lower end."""
    rates = [10 ** (-6 + 0.05 * i) for i in range(130)]
    losses = [2 + 0.1 * (math.log10(r) + 1) ** 2 for r in rates]
    curve = judged(rates, losses, True)
    assert curve.suggestion == pytest.approx(0.01, rel=0.3)
    assert not curve.notes
    falls = [3 - 2 / (1 + math.exp(-4 * (math.log10(r) + 3))) for r in rates]  # a step down, steepest at 1e-3
    curve = judged(rates, falls, False)
    assert curve.steepest == pytest.approx(1e-3, rel=0.3)
    assert "did not diverge up to" in curve.notes[0]


def test_smoothing_does_not_lag() -> None:
    values = [abs(i - 50) / 50 for i in range(101)]
    assert smoothed(values).index(min(smoothed(values))) == 50
    assert smoothed([2.0] * 30) == pytest.approx([2.0] * 30)


def test_where_nothing_falls_nothing_is_suggested() -> None:
    curve = find_rate(model(), problem(), low=1e-12, high=1e-10, steps=20, batch_size=8)
    assert curve.suggestion is None
    assert "never fell" in curve.notes[0]


def test_it_is_written(tmp_path: Path) -> None:
    curve = judged([1e-3, 1e-2, 1e-1, 1.0], [3.0, 2.0, 1.0, 4.0], True)
    curve.write(tmp_path / "new")
    assert json.loads((tmp_path / "new/rates.json").read_text())["suggestion"] == pytest.approx(curve.suggestion)
    assert (tmp_path / "new/rates.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"low": 0.0}, "low is 0.0 and high 10.0; allowed: rates above 0 that rise"),
        ({"low": 1.0, "high": 0.1}, "low is 1.0 and high 0.1"),
        ({"steps": 3}, "steps is 3; allowed: 10 and more"),
        ({"batchsize": 3}, "there is no training option 'batchsize'; did you mean 'batch_size'"),
    ],
)
def test_mistakes_are_named(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        find_rate(model(), problem(), **options)
