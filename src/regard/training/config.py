"""How to train: everything that a run may set, checked before anything starts."""

from __future__ import annotations

import dataclasses
import difflib
from dataclasses import dataclass
from typing import Any, Literal

from regard.config.base import Config


@dataclass(frozen=True, kw_only=True)
class ScheduleConfig(Config):
    """How the learning rate moves. `warmup` and `decay` below 1 are parts of the run, from 1 on they are steps.

    - `constant`, `linear` and `cosine` (1608.03983) fall from the peak to `floor` times the peak;
    - `inverse-sqrt` falls as (warmup / step)^0.5;
    - `transformer` is 1706.03762 (5.3): dim^-0.5 min(step^-0.5, step warmup^-1.5) times `learning_rate`;
    - `warmup-stable-decay` (2404.06395) stays at the peak until the last `decay`, then falls linearly.
    """

    name: Literal["constant", "linear", "cosine", "inverse-sqrt", "transformer", "warmup-stable-decay"] = "linear"
    warmup: float = 0.0
    decay: float = 0.1
    floor: float = 0.0

    def check(self) -> None:
        self.require(self.warmup >= 0, "warmup", "a part of the run from 0 to 1, or a number of steps")
        self.require(self.decay > 0, "decay", "a part of the run above 0, or a number of steps")
        self.require(0 <= self.floor <= 1, "floor", "0 to 1 times the peak")
        needs = self.name in ("inverse-sqrt", "transformer")
        self.require(not needs or self.warmup > 0, "warmup", f"above 0 for the schedule {self.name!r}")


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig(Config):
    """Adam (1412.6980), AdamW (1711.05101), Adafactor (1804.04235), Muon (2502.16982) or SGD.

    Muon moves the matrices of layers, and AdamW all else; both take the same rate, which may be higher than for AdamW
    alone.

    Weight decay leaves biases, norms and other vectors alone. `layer_decay` multiplies the rate once for each layer
    that lies between a weight and the head (1801.06146, 2003.10555).
    """

    name: Literal["adamw", "adam", "adafactor", "muon", "sgd"] = "adamw"
    learning_rate: float = 5e-5
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.01
    momentum: float = 0.0
    layer_decay: float = 1.0

    def check(self) -> None:
        self.require(self.learning_rate > 0, "learning_rate", "above 0")
        self.require(all(0 <= beta < 1 for beta in self.betas), "betas", "two numbers from 0 to below 1")
        self.require(self.eps > 0, "eps", "above 0")
        self.require(self.weight_decay >= 0, "weight_decay", "0 or more")
        self.require(0 <= self.momentum < 1, "momentum", "0 to below 1")
        self.require(0 < self.layer_decay <= 1, "layer_decay", "above 0 up to 1")


@dataclass(frozen=True, kw_only=True)
class TrainConfig(Config):
    """One run.

    Length: `steps`, or else `epochs`. Batches: `batch_size` rows, or else `batch_tokens` tokens, times `accumulate`,
    shared out over the devices, so that a step is the same whatever runs it. `clip` bounds the norm of the gradient.
    `ema` is the decay of an average of the weights, used to evaluate and kept as the result. `freeze` names what does
    not learn, by patterns such as "encoder.front.*"; `unfreeze_every` lets the layers learn one by one from the top,
    so many steps apart (1801.06146). `patience`: stop after so many evaluations without a better one; `goal` is the
    metric that tells (`loss` wants to be low, all else high). `checkpointing` computes layers twice to hold less.
    """

    steps: int | None = None
    epochs: float = 3.0
    batch_size: int = 16
    batch_tokens: int | None = None
    accumulate: int = 1
    optimizer: OptimizerConfig = OptimizerConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    clip: float | None = 1.0
    ema: float | None = None
    freeze: tuple[str, ...] = ()
    unfreeze_every: int | None = None
    precision: Literal["32", "bf16"] = "32"
    checkpointing: bool = False
    shuffle: bool = True
    seed: int = 0
    eval_every: int | None = None
    eval_batches: int | None = None
    save_every: int | None = None
    log_every: int = 10
    goal: str = "loss"
    patience: int | None = None
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    devices: int = 1
    nodes: int = 1
    strategy: str = "auto"

    def check(self) -> None:
        self.require(self.steps is None or self.steps > 0, "steps", "1 or more, or None for `epochs`")
        self.require(self.epochs > 0, "epochs", "above 0")
        for field in ("batch_size", "accumulate", "log_every", "devices", "nodes"):
            self.require(getattr(self, field) > 0, field, "1 or more")
        for field in ("batch_tokens", "eval_every", "eval_batches", "save_every", "patience", "unfreeze_every"):
            self.require(getattr(self, field) in (None,) or getattr(self, field) > 0, field, "1 or more, or None")
        self.require(self.clip is None or self.clip > 0, "clip", "above 0, or None")
        self.require(self.ema is None or 0 < self.ema < 1, "ema", "between 0 and 1, or None")
        many = self.devices * self.nodes > 1
        self.require(not (many and self.unfreeze_every), "unfreeze_every", "None with more than one device")


def settings(base: TrainConfig | None = None, **options: Any) -> TrainConfig:
    """A config from flat options: `settings(steps=600, learning_rate=1e-3, schedule="cosine", warmup=0.1)`.

    Options of the optimiser and the schedule stand beside those of the run; `optimizer` and `schedule` may be names.
    Raises ValueError for an option that there is not, with the nearest one that there is.
    """
    config = TrainConfig() if base is None else base
    parts = {"optimizer": config.optimizer, "schedule": config.schedule}
    homes = {f.name: part for part in parts for f in dataclasses.fields(parts[part]) if f.name != "name"}
    own = {f.name for f in dataclasses.fields(TrainConfig)}
    changes: dict[str, Any] = {}
    nested: dict[str, dict[str, Any]] = {part: {} for part in parts}
    for name, value in options.items():
        if name in parts and isinstance(value, str):
            nested[name]["name"] = value
        elif name in own:
            changes[name] = tuple(value) if isinstance(value, list) else value
        elif name in homes:
            nested[homes[name]][name] = tuple(value) if isinstance(value, list) else value
        else:
            near = difflib.get_close_matches(name, own | set(homes), 1)
            hint = f"; did you mean {near[0]!r}?" if near else f"; allowed: {', '.join(sorted(own | set(homes)))}"
            raise ValueError(f"there is no training option {name!r}{hint}")
    for part, fields in nested.items():
        if fields:
            changes[part] = changes.get(part, parts[part]).replace(**fields)
    return config.replace(**changes)
