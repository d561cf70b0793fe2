"""Which learning rate to take: a short run whose rate rises, seen by its loss (the range test of 1506.01186, 3.3)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from regard.checkpoint.files import atomic, write_json
from regard.extras import need
from regard.models.model import Model
from regard.training.config import TrainConfig, settings
from regard.training.devices import start
from regard.training.loop import Loop
from regard.training.problem import Problem
from regard.training.report import Diverged

KEEP = 0.9
"""How much of the smoothed loss stays from step to step."""
DIVERGED = 0.5
"""The ramp ends where the smoothed loss has risen by so much of what it had fallen, or of a tenth of the first."""
FALL = 0.02
"""A loss that never fell by so much of itself says nothing about the rate."""


@dataclass(frozen=True)
class RateCurve:
    """What the ramp saw: a rate and a loss for each step, the loss smoothed, and what follows from it.

    `suggestion` is a tenth of the rate at which the smoothed loss is least; `steepest` the rate at which it falls
    fastest by the logarithm of the rate. Both are None where the loss never fell. `notes` say what to doubt.
    """

    rates: list[float]
    losses: list[float]
    smooth: list[float]
    suggestion: float | None
    steepest: float | None
    diverged: bool
    notes: list[str]

    def write(self, folder: Path) -> None:
        """rates.json, and rates.png where matplotlib is installed."""
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / "rates.json", asdict(self))
        try:
            figure = rate_figure(self)
        except ImportError:
            return
        with atomic(folder / "rates.png") as temporary:
            figure.savefig(temporary, format="png", dpi=150)


def find_rate(
    model: Model,
    problem: Problem,
    config: TrainConfig | None = None,
    *,
    low: float = 1e-6,
    high: float = 10.0,
    steps: int = 140,
    show: bool | None = None,
    **options: Any,
) -> RateCurve:
    """Train for up to `steps` steps while the rate rises from `low` to `high`, each step by the same factor.

    The ramp ends early where the loss diverges. Model and objective are left exactly as they were, and so are the
    random generators of torch. `options` are those of `fit`; its schedule plays no part.

    Raises ValueError for a ramp that does not rise.
    """
    if not 0 < low < high or not math.isfinite(high):
        raise ValueError(f"low is {low} and high {high}; allowed: rates above 0 that rise")
    if steps < 10:
        raise ValueError(f"steps is {steps}; allowed: 10 and more")
    config = settings(config, **({**problem.options, **options} if config is None else options))
    changes = {"ema": None, "patience": None, "unfreeze_every": None, "eval_every": None}
    config = config.replace(steps=steps, log_every=1, **changes)
    blind = Problem(objective=problem.objective, train=problem.train)
    with torch.random.fork_rng(), kept(model, problem.objective):
        ramp = Ramp(start(config), model, blind, config, None, show)
        ramp.low, ramp.factor = low, (high / low) ** (1 / (steps - 1))
        diverged = False
        try:
            ramp.run()
        except Diverged:
            diverged = True
    losses = [loss for _, loss in ramp.history.losses if math.isfinite(loss)]
    rates = [low * ramp.factor**i for i in range(len(losses))]
    return judged(rates, losses, diverged or ramp.over)


class Ramp(Loop):
    """A run whose rate rises by a factor with each step, and that ends where its loss does."""

    low: float
    factor: float
    over = False

    def rate(self, step: int) -> float:
        return self.low * self.factor ** (step - 1)

    def _step(self, micros: Iterator[Any]) -> None:
        super()._step(micros)
        causal = _averaged([loss for _, loss in self.history.losses])
        least = min(causal)
        if causal[-1] > least + DIVERGED * max(causal[0] - least, 0.1 * abs(causal[0])) and len(causal) > 10:
            self.over = self.progress.stopped = True


def judged(rates: Sequence[float], losses: Sequence[float], diverged: bool) -> RateCurve:
    """The curve of a ramp with what it suggests."""
    notes: list[str] = []
    smooth = smoothed(losses)
    suggestion = steepest = None
    fell = len(smooth) >= 3 and max(smooth[: int(np.argmin(smooth)) + 1]) - min(smooth) > FALL * abs(smooth[0])
    if not fell:
        notes.append("the loss never fell: no rate can be suggested; start lower, or look at model and data")
    else:
        best = int(np.argmin(smooth))
        suggestion = rates[best] / 10
        slope = np.gradient(np.asarray(smooth), np.log(rates))
        steepest = rates[int(np.argmin(slope[: best + 1]))]
        if not diverged:
            notes.append(f"the loss did not diverge up to {rates[-1]:.3g}: a higher end may show a better rate")
    return RateCurve(list(rates), list(losses), smooth, suggestion, steepest, diverged, notes)


def smoothed(values: Sequence[float]) -> list[float]:
    """The mean of an exponential average from the left and one from the right, so that it does not lag."""
    left, right = _averaged(values), _averaged(values[::-1])[::-1]
    return [(a + b) / 2 for a, b in zip(left, right, strict=True)]


def _averaged(values: Sequence[float]) -> list[float]:
    """An exponential average that is not drawn to 0 at its beginning (the correction of 1412.6980)."""
    found, mean = [], 0.0
    for i, value in enumerate(values, 1):
        mean = KEEP * mean + (1 - KEEP) * value
        found.append(mean / (1 - KEEP**i))
    return found


@contextmanager
def kept(*modules: nn.Module) -> Iterator[None]:
    """After the block, every parameter and buffer has its value again, and learns or not as before."""
    tensors = {id(t): t for m in modules for t in [*m.parameters(), *m.buffers()]}
    before = {key: (t.detach().clone(), t.requires_grad) for key, t in tensors.items()}
    modes = {m: m.training for module in modules for m in module.modules()}
    try:
        yield
    finally:
        with torch.no_grad():
            for key, tensor in tensors.items():
                tensor.copy_(before[key][0])
                tensor.requires_grad_(before[key][1])
                tensor.grad = None
        for module, mode in modes.items():
            module.training = mode


def rate_figure(curve: RateCurve) -> Any:
    """A matplotlib figure: the loss by the rate, and where the suggestion lies."""
    figures = need("matplotlib.figure", "plot")
    figure = figures.Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.subplots()
    axes.plot(curve.rates, curve.losses, color="#c9d5e6", linewidth=1, label="loss of a step")
    axes.plot(curve.rates, curve.smooth, color="#4c78a8", linewidth=1.8, label="smoothed")
    marks = ((curve.suggestion, "#e45756", "suggestion"), (curve.steepest, "#72b7b2", "steepest"))
    for rate, colour, name in marks:
        if rate is not None:
            axes.axvline(rate, color=colour, linestyle="--", linewidth=1.2, label=f"{name} {rate:.2g}")
    axes.set_xscale("log")
    top, least = max(curve.smooth), min(curve.smooth)
    axes.set_ylim(least - 0.1 * (top - least) - 1e-9, top + 0.15 * (top - least) + 1e-9)
    axes.set_xlabel("learning rate")
    axes.set_ylabel("loss")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    return figure
