"""Where the next hour of a machine is best spent, by a law that was fitted to runs on it; in numbers and in words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from regard.tuning.scaling import Fit, Law, effective_tokens

FAR = 10.0
"""A law is stretched where it is asked about so many times the compute of the largest run."""
SURE = 0.8
"""What comes out best in so many of the laws that the runs might have given is called settled."""
GAIN = 0.005
"""Fresh text is called for where it would lower the loss by so much of itself."""


@dataclass(frozen=True)
class Point:
    """A run: N parameters without embeddings, tokens read and how many of them are different, and what it came to."""

    name: str
    size: dict[str, Any]
    fraction: float
    parameters: int
    tokens: int
    unique: int
    loss: float
    seconds: float
    notes: list[str] = field(default_factory=list)

    @property
    def worth(self) -> float:
        """Tokens, those read again at what they are worth."""
        return float(effective_tokens(self.tokens, self.unique))

    @property
    def compute(self) -> float:
        """Floating-point operations, as 6 N D."""
        return 6.0 * self.parameters * self.tokens

    @property
    def speed(self) -> float:
        """Floating-point operations a second, as measured."""
        return self.compute / max(self.seconds, 1e-9)

    def to_dict(self) -> dict[str, Any]:
        """All of it, for JSON."""
        rate = round(self.tokens / max(self.seconds, 1e-9), 1)
        return {**asdict(self), "worth": round(self.worth), "compute": self.compute, "tokens_per_second": rate}


@dataclass(frozen=True)
class Plan:
    """A way to spend compute: the model, what it reads, the loss to be expected, and its interval (90 %)."""

    name: str
    parameters: float
    tokens: float
    passes: float
    loss: float
    low: float
    high: float


@dataclass(frozen=True)
class Advice:
    """Plans by expected loss, the best first; how often each was best among the laws drawn; and it all in words."""

    plans: tuple[Plan, ...]
    shares: dict[str, float]
    text: str


def advise(points: Sequence[Point], fit: Fit, *, seconds: float = 3600.0) -> Advice:
    """Compare what a run of so many seconds, from scratch on this machine, would come to.

    From the best run on: a larger model on the same tokens, or more steps over the data that there are, or more steps
    on fresh data; and the balance of both by the law. Speeds are those measured, of the largest model for larger ones.

    Raises ValueError where the fit is not to be trusted, saying why.
    """
    if fit.doubts:
        raise ValueError(f"the fit is not good enough to advise from: {'; '.join(fit.doubts)}")
    best = min(points, key=lambda p: p.loss)
    largest = max(points, key=lambda p: p.parameters)
    there = max(p.unique for p in points)
    budget = {p.name: _speed(points, p.parameters) * seconds for p in (best, largest)}
    wide = budget[largest.name] / (6 * best.tokens)
    long = budget[best.name] / (6 * best.parameters)
    sizes = np.geomspace(min(p.parameters for p in points) / 10, largest.parameters * 1000, 2000)
    reads = budget[largest.name] / (6 * sizes)

    def balanced(law: Law) -> int:
        return int(np.argmin(law.loss(sizes, effective_tokens(reads, there))))

    at = balanced(fit.law)
    asked = {
        "a larger model": (wide, float(best.tokens), best.unique),
        "more steps": (best.parameters, long, there),
        "more data": (best.parameters, long, long),
        "a balance of size and steps": (float(sizes[at]), float(reads[at]), there),
    }
    plans = [_plan(name, fit, *values) for name, values in asked.items()]
    shares = _shares(fit, asked)
    text = _words(
        points,
        fit,
        {p.name: p for p in plans},
        shares,
        seconds,
        budget[largest.name],
        sizes[[balanced(w) for w in fit.draws]],
    )
    return Advice(tuple(sorted(plans, key=lambda p: p.loss)), shares, text)


def _speed(points: Sequence[Point], parameters: int) -> float:
    return float(np.median([p.speed for p in points if p.parameters == parameters]))


def _plan(name: str, fit: Fit, parameters: float, tokens: float, unique: float) -> Plan:
    worth = float(effective_tokens(tokens, unique))
    low, high = fit.interval(lambda law: float(law.loss(parameters, worth)))
    loss = float(fit.law.loss(parameters, worth))
    return Plan(name, parameters, tokens, max(tokens / unique, 1.0), loss, low, high)


def _shares(fit: Fit, asked: dict[str, tuple[float, float, float]]) -> dict[str, float]:
    """How often a larger model, and how often more steps, come out better among the laws drawn."""
    names = ("a larger model", "more steps")
    losses = {}
    for name in names:
        parameters, tokens, unique = asked[name]
        worth = float(effective_tokens(tokens, unique))
        losses[name] = np.array([float(law.loss(parameters, worth)) for law in fit.draws])
    larger = float((losses[names[0]] < losses[names[1]]).mean())
    return {names[0]: larger, names[1]: 1 - larger}


def _words(
    points: Sequence[Point],
    fit: Fit,
    plans: dict[str, Plan],
    shares: dict[str, float],
    seconds: float,
    compute: float,
    balances: np.ndarray,
) -> str:
    best = min(points, key=lambda p: p.loss)
    largest = max(p.compute for p in points)
    hours = "An hour" if seconds == 3600 else f"{seconds:,.0f} seconds"
    lines = [
        f"{hours} of this machine is {compute:.2g} floating-point operations (6 N D, at the speed measured with the "
        f"largest model), {compute / largest:.3g} times the largest run of the sweep."
    ]
    if compute <= best.compute:
        return f"{lines[0]} That is less than the best run took: to do better takes longer. {_constants(fit)}"
    larger, steps, data = (plans[name] for name in ("a larger model", "more steps", "more data"))
    balance = plans["a balance of size and steps"]
    first = larger if larger.loss < steps.loss else steps
    second = steps if first is larger else larger
    sure = shares[first.name]
    verdict = (
        f"It is best spent on {first.name}" if sure >= SURE else f"The runs do not settle it; {first.name} is likelier"
    )
    lines.append(
        f"{verdict} ({sure:.0%} of the laws that fit): {_said(first)}, against {_said(second)} with {second.name}; "
        f"the best run so far has {best.loss:.4g}."
    )
    gain = (steps.loss - data.loss) / steps.loss
    if gain > GAIN:
        lines.append(
            f"More data would matter to it: those steps read the text {steps.passes:.3g} times, and fresh text would "
            f"give {data.loss:.4g} in place of {steps.loss:.4g}."
        )
    else:
        lines.append(f"More data would change little: {data.loss:.4g} in place of {steps.loss:.4g} for as many steps.")
    low, high = np.quantile(balances, [0.05, 0.95])
    lines.append(
        f"The law's own balance is {_said(balance)} with {_count(balance.parameters)} parameters "
        f"({_count(low)} to {_count(high)}) and {_count(balance.tokens)} tokens, {balance.passes:.3g} passes."
    )
    if compute > FAR * largest:
        lines.append(
            f"That stretches the law {compute / largest:.3g} times beyond what was run, and the intervals know only "
            "the noise of the runs, not whether the law still holds there: sweep larger sizes before trusting it."
        )
    return " ".join([*lines, _constants(fit)])


def _said(plan: Plan) -> str:
    return f"loss {plan.loss:.4g} ({plan.low:.4g} to {plan.high:.4g})"


def _constants(fit: Fit) -> str:
    said = []
    for name in ("E", "alpha", "beta"):
        low, high = fit.interval(name)
        said.append(f"{name} {getattr(fit.law, name):.3g} ({low:.3g} to {high:.3g})")
    return f"The law explains {fit.explained:.1%} of the spread: {', '.join(said)}; intervals are of 90%."


def _count(value: float) -> str:
    for unit, size in (("billion", 1e9), ("million", 1e6), ("thousand", 1e3)):
        if value >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value:.3g}"
