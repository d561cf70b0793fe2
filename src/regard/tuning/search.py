"""A search for hyper-parameters with Optuna (1907.10902): each trial a run, those behind the median stopped early."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from regard.checkpoint.files import write_json
from regard.extras import need
from regard.training.build import build
from regard.training.config import settings
from regard.training.loop import fit
from regard.training.metrics import LESS
from regard.training.recipe import Recipe
from regard.training.report import Diverged
from regard.training.toml import write_recipe

EVALUATIONS = 10
"""How often a trial is judged where the recipe gives `steps` and does not say."""
BATCHES = 64
"""How many batches an evaluation reads where the recipe does not say."""
_OWN = {"trials": 20, "prune": True, "storage": ""}


@dataclass(frozen=True)
class Range:
    """What one option may be: a list of `choices`, or numbers from `low` to `high`."""

    name: str
    choices: tuple[Any, ...] = ()
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    step: float | None = None

    def draw(self, trial: Any) -> Any:
        """A value for a trial; one that it has already stays."""
        if self.choices:
            plain = [c if isinstance(c, (bool, int, float, str)) else json.dumps(c) for c in self.choices]
            return self.choices[plain.index(trial.suggest_categorical(self.name, plain))]
        if isinstance(self.low, int) and isinstance(self.high, int):
            return trial.suggest_int(self.name, self.low, self.high, log=self.log, step=int(self.step or 1))
        return trial.suggest_float(self.name, self.low, self.high, log=self.log, step=self.step)

    @property
    def ends(self) -> tuple[Any, ...]:
        """Values that tell whether the option takes such."""
        return self.choices or (self.low, self.high)


def ranges(table: Mapping[str, Any], prefix: str = "") -> Iterator[Range]:
    """The ranges of a [search] table: `rate = {low = 1e-5, high = 1e-3, log = true}`, `warmup = [0.0, 0.1]`.

    Names are training options; those of other tables stand in a table, as in [search.adapter]. Raises ValueError.
    """
    for key, value in table.items():
        name = f"{prefix}{key}"
        if not prefix and key in _OWN:
            continue
        if isinstance(value, list) and value:
            yield Range(name, tuple(value))
        elif isinstance(value, Mapping) and {"low", "high"} <= set(value):
            yield _numbers(name, value)
        elif isinstance(value, Mapping) and value and not {"low", "high", "log", "step"} & set(value):
            yield from ranges(value, f"{name}.")
        else:
            raise ValueError(f"search.{name} is {value!r}; allowed: a list of choices, or {{low = ..., high = ...}}")


def _numbers(name: str, value: Mapping[str, Any]) -> Range:
    unknown = sorted(set(value) - {"low", "high", "log", "step"})
    if unknown:
        raise ValueError(f"search.{name} has no {unknown[0]!r}; allowed: low, high, log, step")
    low, high, log, step = value["low"], value["high"], value.get("log", False), value.get("step")
    numbers = [low, high] if step is None else [low, high, step]
    fit_ = all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in numbers)
    if not fit_ or not low < high or (log and (low <= 0 or step is not None)) or (step is not None and step <= 0):
        raise ValueError(
            f"search.{name} is {dict(value)!r}; allowed: numbers low < high, above 0 with log, and a step without it"
        )
    return Range(name, low=low, high=high, log=bool(log), step=step)


def with_values(recipe: Recipe, values: Mapping[str, Any]) -> Recipe:
    """A recipe with other values; a name without a table is a training option. Raises ValueError for no table."""
    for name, value in values.items():
        table, _, key = name.rpartition(".")
        table = table or "train"
        there = getattr(recipe, table, None)
        if not isinstance(there, Mapping):
            raise ValueError(f"search.{name}: {table} is no table of this recipe, but {there!r}")
        named: dict[str, Any] = {table: {**there, key: value}}
        recipe = replace(recipe, **named)
    return recipe


def search(recipe: Recipe, folder: str | Path, *, resume: bool = True, show: bool | None = None) -> dict[str, Any]:
    """Run the trials that a recipe's [search] asks for, each in a folder of its own, and write the best as best.toml.

    What was tried lies in search.db, so that the same call goes on where it was cut off, in the middle of a trial too.
    What is tried next follows from the seed and from what was tried, so the same search gives the same trials. Of the
    runs, logs are kept, and the model of the best. `resume` False forgets an earlier search of the folder.

    Returns {"trials", "pruned", "best", "goal", "value", "values", "recipe"}. Raises ValueError for ranges and options
    that do not fit, for a folder with another search, and for a trial that cannot be built.
    """
    return Search(recipe, Path(folder), resume, show).run()


class Search:
    """A search in progress."""

    def __init__(self, recipe: Recipe, folder: Path, resume: bool, show: bool | None):
        self.optuna = need("optuna", "train")
        self.optuna.logging.set_verbosity(self.optuna.logging.WARNING)
        self.recipe, self.folder, self.show = _judged(recipe), folder, show
        self.ranges = list(ranges(recipe.search))
        self.trials, self.prune = int(recipe.search.get("trials", _OWN["trials"])), bool(recipe.search.get("prune", 1))
        self.goal, self.seed = self.recipe.config.goal, self.recipe.config.seed
        _check(self.recipe, self.ranges, self.trials)
        if not resume:
            for path in [*folder.glob("trial-*"), *folder.glob("search.*"), *folder.glob("best.toml")]:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        folder.mkdir(parents=True, exist_ok=True)
        median = self.optuna.pruners.MedianPruner() if self.prune else self.optuna.pruners.NopPruner()
        self.study = self.optuna.create_study(
            storage=str(recipe.search.get("storage") or f"sqlite:///{(folder / 'search.db').resolve()}"),
            study_name="search" if not recipe.search.get("storage") else str(folder.resolve()),
            direction="minimize" if self.goal in LESS else "maximize",
            pruner=median,
            load_if_exists=True,
        )
        self._same()

    def run(self) -> dict[str, Any]:
        """All trials that are not done, then the best."""
        states = self.optuna.trial.TrialState
        cut = [t for t in self.study.get_trials(deepcopy=False) if t.state == states.RUNNING]
        for trial in cut:
            self._try(self.optuna.trial.Trial(self.study, trial._trial_id))
        while len(self._done()) < self.trials:
            number = len(self.study.get_trials(deepcopy=False))
            # A sampler of its own for each trial, so that a search which was cut off goes on with the same draws.
            seed = int(np.random.SeedSequence((self.seed, number)).generate_state(1)[0])
            self.study.sampler = self.optuna.samplers.TPESampler(seed=seed)
            self._try(self.study.ask())
        return self._best()

    def _try(self, trial: Any) -> None:
        values = {r.name: r.draw(trial) for r in self.ranges}
        states = self.optuna.trial.TrialState
        said = ", ".join(f"{name}={_short(value)}" for name, value in values.items())
        seen = set(self.study.get_trials(deepcopy=False)[trial.number].intermediate_values)

        def watch(step: int, scores: Mapping[str, float]) -> bool:
            if step not in seen and self.goal in scores:
                trial.report(scores[self.goal], step)
            stop = bool(trial.should_prune())  # it may be a bool of numpy, which no state can hold
            if stop:
                trial.set_user_attr("pruned", True)
            return stop

        try:
            recipe = with_values(self.recipe, values)
            job = build(recipe)
            options = {**job.problem.options, **recipe.train}
            history = fit(
                job.model, job.problem, folder=self._folder(trial.number), show=self._show, watch=watch, **options
            )
        except Diverged as error:
            self.study.tell(trial.number, state=states.PRUNED)
            self._say(f"trial {trial.number}: {error}  {said}")
        except (ValueError, RuntimeError) as error:
            self.study.tell(trial.number, state=states.FAIL)
            raise ValueError(f"trial {trial.number} ({said}): {error}") from error
        else:
            value = history.progress.best
            if value is None:
                raise ValueError("a search compares runs on data that they have not learnt from: data.valid is missing")
            pruned = self.study.get_trials(deepcopy=False)[trial.number].user_attrs.get("pruned", False)
            if pruned:
                self.study.tell(trial.number, state=states.PRUNED)
            else:
                self.study.tell(trial.number, value)
            how = f"stopped after step {history.progress.step}" if pruned else f"{self.goal} {value:.4f}"
            self._say(f"trial {trial.number}: {how}  {said}")
        self._tidy()

    @property
    def _show(self) -> bool | None:
        return sys.stderr.isatty() if self.show is None else self.show

    def _say(self, text: str) -> None:
        if self.show is not False:
            print(text, file=sys.stderr, flush=True)

    def _folder(self, number: int) -> Path:
        return self.folder / f"trial-{number:03}"

    def _done(self) -> list[Any]:
        states = self.optuna.trial.TrialState
        return self.study.get_trials(deepcopy=False, states=(states.COMPLETE, states.PRUNED))

    def _tidy(self) -> None:
        """Of all that is done, keep the logs, and the model of the best; and write down what is known."""
        done = self._done()
        complete = [t for t in done if t.value is not None and t.state == self.optuna.trial.TrialState.COMPLETE]
        best = self.study.best_trial.number if complete else None
        for trial in done:
            for name in ("states", "last", *(("best",) if trial.number != best else ())):
                shutil.rmtree(self._folder(trial.number) / name, ignore_errors=True)
        record = [
            {"trial": t.number, "state": t.state.name.lower(), "value": t.value, "values": t.params} for t in done
        ]
        write_json(self.folder / "search.json", {"goal": self.goal, "best": best, "trials": record})

    def _best(self) -> dict[str, Any]:
        done = self._done()
        complete = [t for t in done if t.state == self.optuna.trial.TrialState.COMPLETE]
        if not complete:
            raise ValueError(f"none of {len(done)} trials came to its end; search lower learning rates")
        trial = self.study.best_trial
        values = {r.name: r.choices[self._index(r, trial)] if r.choices else trial.params[r.name] for r in self.ranges}
        remark = f"Trial {trial.number} of {len(done)}: {self.goal} {trial.value:.6g}"
        best = replace(with_values(replace(self.recipe, train=dict(self.recipe.train)), values), search={}, output="")
        write_recipe(self.folder / "best.toml", best, remark)
        return {
            "trials": len(done),
            "pruned": len(done) - len(complete),
            "best": trial.number,
            "goal": self.goal,
            "value": trial.value,
            "values": values,
            "recipe": str(self.folder / "best.toml"),
        }

    def _index(self, span: Range, trial: Any) -> int:
        return int(trial.distributions[span.name].to_internal_repr(trial.params[span.name]))

    def _same(self) -> None:
        """Hold the folder to one search. Raises ValueError for another."""
        named = {"search": {**self.recipe.search, **_OWN, "storage": ""}, "train": dict(self.recipe.train)}
        for part in ("objective", "model", "tokenizer", "data", "adapter", "metrics"):
            named[part] = getattr(self.recipe, part)
        new = json.loads(json.dumps({**named, "search": {**named["search"], "prune": self.prune}}, default=str))
        old = self.study.user_attrs.get("recipe")
        if old is None:
            self.study.set_user_attr("recipe", new)
        elif old != new:
            name = next(part for part in new if old.get(part) != new[part])
            raise ValueError(
                f"{self.folder} holds another search: {name} was {_short(old.get(name))} and is now "
                f"{_short(new[name])}; choose another folder, or start anew with --fresh"
            )


def _judged(recipe: Recipe) -> Recipe:
    """A recipe whose runs are evaluated often enough to be stopped, and on not too much."""
    train = {"eval_batches": BATCHES, **recipe.train}
    steps = recipe.config.steps
    if steps is not None:
        train.setdefault("eval_every", max(1, steps // EVALUATIONS))
    return replace(recipe, train=train)


def _check(recipe: Recipe, found: list[Range], trials: int) -> None:
    if not found:
        raise ValueError(
            "search names no range; write one such as search.learning_rate={low=1e-5, high=1e-3, log=true}"
        )
    if trials < 1:
        raise ValueError(f"search.trials is {trials}; allowed: 1 and more")
    if recipe.data.get("valid", 0.1) in (0, False, ""):
        raise ValueError("a search compares runs on data that they have not learnt from: data.valid is missing")
    for span in found:
        for value in span.ends:
            tried = with_values(recipe, {span.name: value})
            if "." not in span.name or span.name.startswith("train."):
                try:
                    settings(**tried.train)
                except ValueError as error:
                    raise ValueError(f"search.{span.name}: {error}") from None


def _short(value: Any) -> str:
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    return text if len(text) <= 80 else text[:77] + "..."
