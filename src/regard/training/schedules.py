"""Learning-rate schedules: the factor at each step, a function of the step alone, so that nothing has to be saved."""

from __future__ import annotations

import math

from regard.training.config import ScheduleConfig


def factor(config: ScheduleConfig, step: int, total: int, dim: int) -> float:
    """What to multiply `learning_rate` with at a step from 1 to `total`; `dim` is the model's width."""
    warmup, floor = _steps(config.warmup, total), config.floor
    if config.name == "transformer":
        return dim**-0.5 * min(step**-0.5, step * warmup**-1.5)
    if step < warmup:
        return step / warmup
    if config.name == "constant":
        return 1.0
    if config.name == "inverse-sqrt":
        return max((warmup / step) ** 0.5, floor)
    start = warmup
    if config.name == "warmup-stable-decay":
        start = max(total - _steps(config.decay, total), warmup)
    done = min(max((step - start) / max(total - start, 1), 0.0), 1.0)
    left = (1 + math.cos(math.pi * done)) / 2 if config.name == "cosine" else 1 - done
    return floor + (1 - floor) * left


def _steps(value: float, total: int) -> float:
    return value if value >= 1 else value * total
