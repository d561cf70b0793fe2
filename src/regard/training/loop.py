"""The loop, on Lightning Fabric: the same for one CPU, one GPU, and many machines."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from regard.models.model import Model
from regard.training.base import Batch
from regard.training.config import TrainConfig, settings
from regard.training.data.batches import Batches, stream
from regard.training.devices import SHARED_OUT, run_all_layers, set_up, settle, start, whole, whole_model
from regard.training.evaluate import evaluate
from regard.training.folder import RunFolder
from regard.training.learner import Learner
from regard.training.memory import checkpointed
from regard.training.metrics import LESS
from regard.training.objectives.choose import head_kind
from regard.training.optimizers import freeze, set_rate, unfreeze
from regard.training.problem import Problem
from regard.training.products import quick_products
from regard.training.report import Diverged, Report
from regard.training.schedules import factor
from regard.training.state import Progress, load_state, save_state


@dataclass
class History:
    """What a run has said: a record per logged step and per evaluation, as in the run folder's log.jsonl."""

    records: list[dict[str, Any]] = field(default_factory=list)
    progress: Progress = field(default_factory=Progress)
    folder: Path | None = None

    @property
    def losses(self) -> list[tuple[int, float]]:
        """(step, mean training loss since the last record)."""
        return [(r["step"], r["loss"]) for r in self.records if "loss" in r]

    @property
    def evaluations(self) -> list[dict[str, Any]]:
        """{"step": ..., "valid": {"loss": ..., metric: ...}} for every evaluation."""
        return [r for r in self.records if "valid" in r]


Watch = Callable[[int, Mapping[str, float]], bool]
"""Is told the step and the scores of an evaluation, and says whether the run is to stop there."""


class Interrupted(SystemExit):
    """A signal asked for the end; the state was saved."""


def fit(
    model: Model,
    problem: Problem,
    config: TrainConfig | None = None,
    *,
    folder: str | Path | None = None,
    resume: bool = True,
    show: bool | None = None,
    watch: Watch | None = None,
    **options: Any,
) -> History:
    """Train a model, in place; `options` are those of `TrainConfig`, its optimiser and its schedule, side by side.

    With a `folder` the run keeps its state there: the same call goes on where it was cut off, to the bit on a CPU, and
    the trained model lies in `best` (when it was evaluated) and `last`. Without `resume` it starts anew, and an earlier
    run of the folder is forgotten. `show` forces the progress bar on or off; `watch` may stop the run at an evaluation.

    Raises ValueError for options that do not fit, a folder with another run, or a loss that is not finite.
    """
    config = settings(config, **({**problem.options, **options} if config is None else options))
    if problem.metrics and problem.objective.writes and config.strategy in SHARED_OUT:
        raise ValueError(
            f"strategy is {config.strategy!r}, where all devices make each pass of the model together, and the metrics "
            f"{', '.join(problem.metrics)} need texts, which differ in length; allowed: no metrics, or ddp"
        )
    fabric = start(config)
    store = None if folder is None else RunFolder(Path(folder), config, problem, model, resume, fabric.is_global_zero)
    return Loop(fabric, model, problem, config, store, show, watch).run()


class Loop:
    """A run in progress."""

    def __init__(
        self,
        fabric: Any,
        model: Model,
        problem: Problem,
        config: TrainConfig,
        store: RunFolder | None,
        show: bool | None,
        watch: Watch | None = None,
    ):
        if len(problem.train) == 0:
            raise ValueError("there is nothing to learn from: the training data has no rows")
        kind = head_kind(model)
        if kind is not None and kind != problem.objective.head:
            raise ValueError(
                f"the objective {problem.objective.name!r} needs a model with the head {problem.objective.head!r}, and "
                f"this one has {kind!r}: load it with head={problem.objective.head!r}"
            )
        self.fabric, self.model, self.problem, self.config, self.store = fabric, model, problem, config, store
        self.width = next(model.towers()).stack.config.dim
        self.frozen = frozenset(f"model.{name}" for name in freeze(model, config.freeze))
        learner = Learner(model, problem.objective)
        if config.strategy in SHARED_OUT:
            run_all_layers(learner)
        self.learner, self.optimizer = set_up(fabric, learner, config.optimizer)
        self.bare: Learner = self.learner.module
        self.batches = Batches(
            problem.train,
            batch_size=config.batch_size,
            batch_tokens=config.batch_tokens,
            shuffle=config.shuffle,
            seed=config.seed,
            world=fabric.world_size,
            rank=fabric.global_rank,
        )
        self.total = config.steps or max(1, round(config.epochs * len(self.batches) / config.accumulate))
        self.average = {n: p.detach().clone() for n, p in self.bare.named_parameters()} if config.ema else {}
        self.progress = Progress()
        self.report = Report(self.total, show, store, fabric.is_global_zero)
        self.history = History(self.report.records, self.progress, None if store is None else store.path)
        self.signal: int | None = None
        self.watch = watch

    def run(self) -> History:
        """All steps, from where the folder's state is."""
        if self.store is not None:
            found = load_state(self.store.states, self.bare, self.optimizer, self.average)
            if found is not None:
                self.progress = self.history.progress = found
            self.store.log.rewind(self.progress.step)
            self.report.records[:] = self.store.log.records()
        layers = checkpointed(self.model) if self.config.checkpointing else nullcontext()
        with layers, quick_products(self.model), self._signals(), self.report.shown(self.progress):
            if self.progress.step:
                self.report.say(f"goes on from step {self.progress.step}")
            self.learner.train()
            self._steps()
        self._finish()
        return self.history

    def _steps(self) -> None:
        c, p = self.config, self.progress
        micros = stream(self.problem.train, self.batches, self.problem.objective.collate, start=(p.epoch, p.batch))
        try:
            while p.step < self.total and not p.stopped:
                self._step(micros)
                last = p.step == self.total
                if self.problem.valid is not None and (last or _due(p.step, c.eval_every)):
                    self._evaluate()
                if self.store is not None and (last or p.stopped or self.signal or _due(p.step, c.save_every)):
                    self._save()
                if self.signal is not None:
                    where = "" if self.store is None else f"; the same command goes on from step {p.step}"
                    self.report.say(f"stopped by signal {self.signal} after step {p.step}{where}")
                    raise Interrupted(128 + self.signal)
        finally:
            micros.close()

    def _step(self, micros: Iterator[tuple[tuple[int, int], Batch]]) -> None:
        c, p, fabric = self.config, self.progress, self.fabric
        start = time.perf_counter()
        step = p.step + 1
        if c.unfreeze_every is not None:
            unfreeze(self.bare, step - 1, c.unfreeze_every, self.frozen)
        seed = int(np.random.SeedSequence((c.seed, step, fabric.global_rank)).generate_state(1)[0])
        if fabric.device.type == "cpu":  # torch's own keeps a note for each absent device, every time
            torch.default_generator.manual_seed(seed)
        else:
            torch.manual_seed(seed)
        taken = [next(micros) for _ in range(c.accumulate)]
        count = self._sum(sum(batch.count for _, batch in taken))
        loss = torch.zeros((), device=fabric.device)
        for i, (_, batch) in enumerate(taken):
            with fabric.no_backward_sync(self.learner, enabled=i + 1 < len(taken)):
                value = self.learner(batch.to(fabric.device))
                fabric.backward(value * (fabric.world_size / max(count, 1)))
            loss += value.detach().float()
        norm = None
        if c.clip is not None:
            norm = whole(fabric.clip_gradients(self.learner, self.optimizer, max_norm=c.clip, error_if_nonfinite=False))
        rate = self.rate(step)
        set_rate(self.optimizer, rate)
        if norm is not None and not bool(torch.isfinite(norm)):  # such a step would destroy the weights
            kept = None if self.store is None else self.store.newest()
            raise Diverged(
                f"the gradient of step {step} is not finite (loss {float(loss) / max(count, 1):.4g}, learning rate "
                f"{rate:.3g}): lower the learning rate or look at the data"
                + ("" if kept is None else f"; the state after step {kept} is whole")
            )
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.bare.objective.after_step(self.model, step)
        self._follow(step)
        (p.epoch, p.batch), p.step = taken[-1][0], step
        p.tokens += sum(batch.tokens for _, batch in taken) * fabric.world_size
        p.items += int(count)
        p.seconds += time.perf_counter() - start
        mean = self._sum(loss) / max(count, 1)
        self.report.step(p, mean, rate, norm, c.log_every)

    def rate(self, step: int) -> float:
        """The learning rate of a step, from 1 on."""
        c = self.config
        return c.optimizer.learning_rate * factor(c.schedule, step, self.total, self.width)

    def _follow(self, step: int) -> None:
        """Move the average of the weights; early on it forgets faster, as it starts from untrained weights."""
        if self.config.ema:
            decay = min(self.config.ema, (1 + step) / (10 + step))
            named = dict(self.bare.named_parameters())
            torch._foreach_lerp_(list(self.average.values()), [named[n].detach() for n in self.average], 1 - decay)

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Within, the model has the average of its weights, if one is kept."""
        named = dict(self.bare.named_parameters())
        own = {name: named[name].detach().clone() for name in self.average}
        _copy(self.average, named)
        try:
            yield
        finally:
            _copy(own, named)

    def _evaluate(self) -> None:
        c, p = self.config, self.progress
        assert self.problem.valid is not None
        with self.averaged():
            scores = evaluate(
                self.model, self.problem, batches=c.eval_batches, fabric=self.fabric, learner=self.learner
            )
            settle(self.bare)
            self.learner.train()
            if c.goal not in scores:
                raise ValueError(f"goal is {c.goal!r}; this run measures {', '.join(scores)}")
            value = scores[c.goal]
            better = p.best is None or (value < p.best if c.goal in LESS else value > p.best)
            if better and self.store is not None:
                self.store.export(whole_model(self.model), "best")
        if better:
            p.best, p.best_step, p.stale = value, p.step, 0
        else:
            p.stale += 1
        p.stopped = c.patience is not None and p.stale >= c.patience
        p.stopped |= self.watch is not None and self.watch(p.step, scores)
        self.report.evaluated(p, scores, better)

    def _save(self) -> None:
        assert self.store is not None
        state = (self.bare, self.optimizer, self.average, self.progress)
        try:
            save_state(self.store.states, *state, leader=self.fabric.is_global_zero)
        except OSError as error:
            kept = self.store.newest()
            raise OSError(
                f"the state after step {self.progress.step} cannot be written to {self.store.states}: {error}; "
                f"{'no state is kept' if kept is None else f'the state after step {kept} is whole'}"
            ) from error
        self.fabric.barrier()

    def _finish(self) -> None:
        with self.averaged():
            if self.store is not None:
                self.store.export(whole_model(self.model), "last")
        if self.average:
            _copy(self.average, dict(self.bare.named_parameters()))
        self.model.eval()
        self.report.done(self.progress)

    def _sum(self, value: Any) -> float:
        """A number added up over the devices."""
        if self.fabric.world_size == 1:
            return value
        return self.fabric.all_reduce(
            torch.as_tensor(value, device=self.fabric.device).double(), reduce_op="sum"
        ).item()

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """SIGTERM, and the first Ctrl-C, let the step in work end and the state be saved."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def note(number: int, frame: FrameType | None) -> None:
            self.signal = number
            signal.signal(signal.SIGINT, signal.default_int_handler)  # a second Ctrl-C ends at once

        before = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def _due(step: int, every: int | None) -> bool:
    return every is not None and step % every == 0


@torch.no_grad()
def _copy(source: Mapping[str, Tensor], target: Mapping[str, Tensor]) -> None:
    for name, tensor in source.items():
        target[name].copy_(tensor)
