"""Scaling laws: how the loss falls with the size of a model and with what it reads, fitted to runs (2203.15556).

L(N, D) = E + A / N^alpha + B / D^beta, for N parameters without embeddings and D tokens. Tokens that are read again
count less: after 2305.16264, U tokens read D / U times are worth U (1 + R (1 - exp((1 - D / U) / R))), R = 15.4.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

CONSTANTS = 5
HUBER = 1e-3
"""Residuals of the logarithm beyond this count by their size, no more by their square (2203.15556, D.3)."""
REPEATS = 15.387756
EXPLAINED = 0.9
"""A fit must explain so much of the variance of the log loss to be used."""
_LOW = np.array([-30.0, -30.0, -15.0, 1e-3, 1e-3])
_HIGH = np.array([30.0, 30.0, 30.0, 3.0, 3.0])


def effective_tokens(tokens: np.ndarray | float, unique: np.ndarray | float) -> np.ndarray:
    """What `tokens` read from a text of `unique` tokens are worth, in tokens that are read once."""
    again = np.maximum(np.asarray(tokens, float) / unique - 1, 0.0)
    return np.minimum(tokens, unique) + unique * REPEATS * -np.expm1(-again / REPEATS)


@dataclass(frozen=True)
class Law:
    """L(N, D) = E + A / N^alpha + B / D^beta."""

    E: float
    A: float
    B: float
    alpha: float
    beta: float

    def loss(self, parameters: np.ndarray | float, tokens: np.ndarray | float) -> np.ndarray:
        """The loss of models of N parameters that have read D tokens, in nats."""
        n, d = np.asarray(parameters, float), np.asarray(tokens, float)
        return self.E + self.A * n**-self.alpha + self.B * d**-self.beta

    def optimum(self, compute: float) -> tuple[float, float]:
        """(N, D) of the least loss for C = 6 N D floating-point operations (2203.15556, eq. 4)."""
        total = self.alpha + self.beta
        share = (self.alpha * self.A / (self.beta * self.B)) ** (1 / total)
        return share * (compute / 6) ** (self.beta / total), (compute / 6) ** (self.alpha / total) / share


CHINCHILLA = Law(E=1.69, A=406.4, B=410.7, alpha=0.34, beta=0.28)
"""The constants of 2203.15556 (eq. 10)."""


@dataclass(frozen=True)
class Fit:
    """A law, what it leaves over (of log L), how much it explains, and laws that the runs might as well have given.

    `doubts` say why it should not be used; empty where nothing speaks against it.
    """

    law: Law
    residuals: np.ndarray
    explained: float
    draws: tuple[Law, ...]
    doubts: tuple[str, ...]

    def interval(self, what: str | Callable[[Law], float], level: float = 0.9) -> tuple[float, float]:
        """The interval of a constant's name, or of a function of the law, at a confidence level."""
        values = [getattr(law, what) if isinstance(what, str) else what(law) for law in self.draws]
        low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
        return float(low), float(high)


def fit_law(
    parameters: Sequence[float] | np.ndarray,
    tokens: Sequence[float] | np.ndarray,
    losses: Sequence[float] | np.ndarray,
    *,
    draws: int = 200,
    seed: int = 0,
) -> Fit:
    """Fit the law to runs: least Huber loss of the residuals of log L, from many starts.

    Intervals come from a parametric bootstrap: losses are drawn anew around the law, with the spread of the residuals
    over the degrees of freedom, itself drawn as uncertain as so few points leave it.

    Raises ValueError where runs are too few, or too much alike, to tell the five constants.
    """
    n, d, l = (np.asarray(values, dtype=np.float64) for values in (parameters, tokens, losses))
    if not (n.shape == d.shape == l.shape) or n.ndim != 1:
        raise ValueError(f"there are {n.size} sizes, {d.size} counts of tokens and {l.size} losses; allowed: the same")
    if not all(np.isfinite(v).all() and (v > 0).all() for v in (n, d, l)):
        raise ValueError("sizes, tokens and losses must be finite and above 0")
    if len(n) <= CONSTANTS:
        raise ValueError(f"there are {len(n)} runs, and the law has {CONSTANTS} constants: at least 6 runs are needed")
    for name, values in (("sizes", n), ("counts of tokens", d)):
        if levels(values) < 3:
            raise ValueError(
                f"the runs have {levels(values)} different {name}; the law needs 3 at least to tell a power"
            )
    shift = np.array([np.log(n).mean(), np.log(d).mean()])
    x, y, z = np.log(n) - shift[0], np.log(d) - shift[1], np.log(l)
    rng = np.random.default_rng(seed)
    starts = _starts(z)
    found, costs = minimise(starts, x, y, np.broadcast_to(z, (len(starts), len(z))))
    best = found[int(np.argmin(costs))]
    mean = predict(best[None], x, y)[0]
    left = z - mean
    free = len(z) - CONSTANTS
    spread = np.sqrt((left**2).sum() / rng.chisquare(free, size=draws))
    again = mean + spread[:, None] * rng.standard_normal((draws, len(z)))
    laws = minimise(np.broadcast_to(best, (draws, CONSTANTS)), x, y, again)[0]
    explained = float(1 - (left**2).sum() / ((z - z.mean()) ** 2).sum()) if np.ptp(z) > 0 else 0.0
    fit = Fit(_law(best, shift), left, explained, tuple(_law(one, shift) for one in laws), ())
    return Fit(fit.law, left, explained, fit.draws, tuple(_doubts(fit, l)))


def levels(values: np.ndarray) -> int:
    """How many values differ by more than 5 %."""
    rising = np.sort(values)
    return 1 + int((rising[1:] / rising[:-1] > 1.05).sum())


def predict(theta: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """log L (P, n) for constants (P, 5) = log A, log B, log E, alpha, beta, at log N and log D (n,)."""
    return np.logaddexp.reduce(_terms(theta, x, y), axis=0)


def _terms(theta: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    a, b, e, alpha, beta = (column[:, None] for column in theta.T)
    return np.stack([a - alpha * x, b - beta * y, np.broadcast_to(e, (len(theta), len(x)))])


def minimise(
    start: np.ndarray, x: np.ndarray, y: np.ndarray, z: np.ndarray, *, rounds: int = 60
) -> tuple[np.ndarray, np.ndarray]:
    """Constants (P, 5) and costs (P,) of least Huber loss for P problems at once, observations z (P, n).

    Levenberg-Marquardt on reweighted squares, with a Huber bound that shrinks to `HUBER`, as a sharp one is slow from
    afar.
    """
    theta = np.clip(start, _LOW, _HIGH).astype(np.float64)
    for bound in (1.0, 0.03, HUBER):
        damping = np.full(len(theta), 1e-2)
        terms = _terms(theta, x, y)
        mean = np.logaddexp.reduce(terms, axis=0)
        cost = _huber(z - mean, bound)
        for _ in range(rounds):
            share = np.exp(terms - mean)  # d log L / d log of each term
            slope = np.stack([share[0], share[1], share[2], -share[0] * x, -share[1] * y], axis=2)  # (P, n, 5)
            left = z - mean
            weight = np.minimum(1.0, bound / np.maximum(np.abs(left), 1e-300))
            weighted = slope * weight[:, :, None]
            square = np.einsum("pni,pnj->pij", weighted, slope)
            pull = np.einsum("pni,pn->pi", weighted, left)
            scale = np.einsum("pii->pi", square) + 1e-12
            square[:, range(CONSTANTS), range(CONSTANTS)] += damping[:, None] * scale + 1e-14
            tried = np.clip(theta + np.linalg.solve(square, pull[:, :, None])[:, :, 0], _LOW, _HIGH)
            new_terms = _terms(tried, x, y)
            new_mean = np.logaddexp.reduce(new_terms, axis=0)
            new_cost = _huber(z - new_mean, bound)
            good = new_cost < cost
            theta = np.where(good[:, None], tried, theta)
            terms = np.where(good[None, :, None], new_terms, terms)
            mean = np.where(good[:, None], new_mean, mean)
            gain = float(np.max(np.where(good, (cost - new_cost) / np.maximum(cost, 1e-300), 0.0)))
            cost = np.where(good, new_cost, cost)
            damping = np.clip(np.where(good, damping / 3, damping * 4), 1e-12, 1e8)
            if gain < 1e-10 and (damping > 1e4).all():
                break
    return theta, cost


def _huber(left: np.ndarray, bound: float) -> np.ndarray:
    size = np.abs(left)
    return np.where(size <= bound, size**2 / 2, bound * (size - bound / 2)).sum(-1)


def _starts(z: np.ndarray) -> np.ndarray:
    """A grid of starts: how much of the loss each term has where the runs are, and both powers."""
    least = float(z.min())
    return np.array(
        [
            [least + math.log(part), least + math.log(other), least + math.log(rest), alpha, beta]
            for part in (0.05, 0.3)
            for other in (0.05, 0.3)
            for rest in (0.1, 0.8)
            for alpha in (0.1, 0.4, 1.0)
            for beta in (0.1, 0.4, 1.0)
        ]
    )


def _law(theta: np.ndarray, shift: np.ndarray) -> Law:
    a, b, e, alpha, beta = (float(v) for v in theta)
    return Law(math.exp(e), math.exp(a + alpha * shift[0]), math.exp(b + beta * shift[1]), alpha, beta)


def _doubts(fit: Fit, losses: np.ndarray) -> list[str]:
    found = []
    if fit.explained < EXPLAINED:
        found.append(
            f"the law explains {max(fit.explained, 0):.0%} of how the losses differ, less than {EXPLAINED:.0%}"
        )
    for name, what in (("alpha", "larger models"), ("beta", "more tokens")):
        value, (low, high) = getattr(fit.law, name), fit.interval(name)
        if value <= 1.01e-3 or value >= 2.99:
            found.append(f"{name} ended at the edge of what is allowed ({value:.3g}): what {what} bring is not seen")
        elif low <= 1.01e-3 and high >= 2.99:
            found.append(f"{name} may be anything from {low:.2g} to {high:.2g}: what {what} bring is not seen")
    spread = math.sqrt(float((fit.residuals**2).sum()) / (len(losses) - CONSTANTS))
    if spread > 0.05:
        found.append(f"the runs lie {spread:.1%} from the law, more than 5%")
    return found
