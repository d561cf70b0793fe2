"""A sweep: the same training at several sizes of a new model, on several parts of the data, and the law they obey."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from regard.checkpoint.files import atomic, read_json, write_json
from regard.models.model import Model
from regard.training.base import Dataset
from regard.training.build import build
from regard.training.config import settings
from regard.training.data.batches import Batches, lengths_of
from regard.training.data.blocks import Blocks
from regard.training.data.order import order
from regard.training.data.tokens import Tokens
from regard.training.loop import fit
from regard.training.recipe import Recipe
from regard.training.report import Diverged
from regard.tuning.advice import Point, advise
from regard.tuning.scaling import Fit, fit_law

BATCHES = 64
"""How many batches an evaluation reads where the recipe does not say."""
FRACTIONS = [0.125, 0.25, 0.5, 1.0]
"""The lengths of runs where the recipe does not say: a law needs three at least, far apart."""
RATE = "learning_rate"
"""What a size may set beside fields of the model's config."""
OVERFIT = 1.02
"""A run whose last loss is so many times its least has learnt by heart."""


def sweep(recipe: Recipe, folder: str | Path, *, resume: bool = True, show: bool | None = None) -> dict[str, Any]:
    """Train every size of a recipe's [sweep] on every part of the data, fit the law, and say what follows.

    [sweep] has `sizes`, changes of the new model's config such as {n_embd = 64}, each with a `learning_rate` of its own
    if it wants one, as narrow models learn best at higher rates; `fractions`, from above 0 to 1; and `vary`: "steps"
    (all of the data, and a part of `train.steps`; the default where the recipe has them) or "data" (what is read: a run
    makes `train.steps` steps, or else `train.epochs` passes, over its part of the data). Runs lie in folders of their
    own, and those that are done are not done again. Of the runs, logs are kept.

    Writes sweep.json and sweep.png; returns {"runs", "points", "law", "refused", "advice"}. Raises ValueError for a
    table that does not fit, for a folder with another sweep, and for a run that diverges.
    """
    folder = Path(folder)
    table = _table(recipe)
    if not resume:
        for path in [*folder.glob("run-*"), *folder.glob("sweep.*")]:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    done = _done(folder, recipe, table)
    pairs = [(size, fraction) for size in table["sizes"] for fraction in table["fractions"]]
    points: list[Point] = []
    for i, (size, fraction) in enumerate(pairs):
        name = f"run-{i:03}"
        point = done.get(name)
        if point is None:
            point = _run(recipe, folder / name, size, fraction, table["vary"], show)
            if show is not False:
                said = f"{point.parameters:,} parameters, {point.tokens:,} tokens: loss {point.loss:.4f}"
                print(f"{name} of {len(pairs)}: {said} ({point.seconds:.1f} s)", file=sys.stderr, flush=True)
        points.append(point)
        _write(folder, recipe, table, points, {})
        for kept in ("states", "best", "last"):
            shutil.rmtree(folder / name / kept, ignore_errors=True)
    return _judge(recipe, folder, table, points)


def _judge(recipe: Recipe, folder: Path, table: dict[str, Any], points: list[Point]) -> dict[str, Any]:
    found: Fit | None = None
    result: dict[str, Any] = {"law": None, "refused": None, "advice": None}
    try:
        found = fit_law(
            [p.parameters for p in points], [p.worth for p in points], [p.loss for p in points], seed=recipe.config.seed
        )
        result["law"] = {
            **asdict(found.law),
            "intervals": {name: found.interval(name) for name in asdict(found.law)},
            "explained": found.explained,
        }
        advice = advise(points, found)
        result["advice"] = {"text": advice.text, "shares": advice.shares, "plans": [asdict(p) for p in advice.plans]}
    except ValueError as error:
        result["refused"] = f"no advice: {error}"
    _write(folder, recipe, table, points, result)
    try:
        from regard.tuning.draw import sweep_figure

        figure = sweep_figure(points, found)
    except ImportError:
        pass
    else:
        with atomic(folder / "sweep.png") as temporary:
            figure.savefig(temporary, format="png", dpi=150)
    notes = sorted({note for p in points for note in p.notes})
    return {"runs": len(points), "points": [p.to_dict() for p in points], "notes": notes, **result}


def _run(recipe: Recipe, folder: Path, size: Mapping[str, Any], fraction: float, vary: str, show: bool | None) -> Point:
    assert isinstance(recipe.model, Mapping)
    changes = {key: value for key, value in size.items() if key != RATE}
    try:
        job = build(replace(recipe, model={**recipe.model, **changes}))
    except ValueError as error:
        raise ValueError(f"sweep: the size {dict(size)}: {error}") from None
    problem = job.problem
    if problem.valid is None:
        raise ValueError("a sweep compares runs on data that they have not learnt from: data.valid is missing")
    options = {"eval_batches": BATCHES, **problem.options, **recipe.train}
    options |= {RATE: size[RATE]} if RATE in size else {}
    if vary == "steps":
        options["steps"] = max(1, round(options["steps"] * fraction))
    else:
        problem = replace(problem, train=part(problem.train, fraction, settings(**options).seed))
        problem = replace(problem, fingerprint=f"{problem.fingerprint} {fraction}")
        options.setdefault("steps", _steps(problem.train, options))
    shown = sys.stderr.isatty() if show is None else show
    try:
        history = fit(job.model, problem, folder=folder, show=shown, **options)
    except Diverged as error:
        raise ValueError(f"sweep: the size {dict(size)} with {fraction:g} of the data: {error}") from None
    losses = [e["valid"]["loss"] for e in history.evaluations]
    steps, tokens = history.progress.step, history.progress.tokens
    notes = []
    if losses[-1] > OVERFIT * min(losses):
        notes.append(f"{folder.name} learnt by heart: its loss rose from {min(losses):.4g} to {losses[-1]:.4g}")
    unique = unique_tokens(problem.train, settings(**options), steps, tokens)
    seconds = max(history.progress.seconds, 1e-9)
    return Point(
        folder.name, dict(size), fraction, stack_parameters(job.model), tokens, unique, losses[-1], seconds, notes
    )


def stack_parameters(model: Model) -> int:
    """Parameters without the tables of tokens and positions, and without the head, as 2203.15556 counts them."""
    out = {id(p) for m in model.modules() if isinstance(m, nn.Embedding) for p in m.parameters()}
    head = getattr(model, "head", None)
    if isinstance(head, nn.Module):
        out |= {id(p) for p in head.parameters()}
    return sum(p.numel() for p in model.parameters() if id(p) not in out)


def unique_tokens(dataset: Dataset, config: Any, steps: int, tokens: int) -> int:
    """How many different tokens a run has read, of the `tokens` that it read in all."""
    if isinstance(dataset, Blocks):
        return min(tokens, dataset.tokens.count)
    epoch = len(Batches(dataset, batch_size=config.batch_size, batch_tokens=config.batch_tokens, seed=config.seed))
    return round(tokens / max(1.0, steps * config.accumulate / epoch))


def part(dataset: Dataset, fraction: float, seed: int) -> Dataset:
    """The beginning of a text, or rows drawn at random; a smaller part lies within a larger one."""
    if fraction == 1:
        return dataset
    if isinstance(dataset, Blocks):
        count = max(1, round(dataset.tokens.count * fraction))
        ends = dataset.tokens.offsets
        cut = np.append(ends[ends < count], count)
        return Blocks(Tokens(dataset.tokens.ids[:count], cut), dataset.length, stride=dataset.stride)
    count = max(1, round(len(dataset) * fraction))
    return Rows(dataset, np.asarray(order(len(dataset), (seed, 0), shuffle=True)(np.arange(count))))


class Rows:
    """Some rows of a data set."""

    def __init__(self, dataset: Dataset, numbers: np.ndarray):
        self.dataset, self.numbers = dataset, numbers

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, index: int) -> Any:
        return self.dataset[int(self.numbers[index])]

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each row."""
        return lengths_of(self.dataset)[self.numbers]


def _steps(dataset: Dataset, options: Mapping[str, Any]) -> int | None:
    """Steps of `epochs` passes where windows overlap, so that an epoch of all windows is many passes."""
    if not isinstance(dataset, Blocks):
        return None
    config = settings(**options)
    step = (config.batch_tokens or config.batch_size * dataset.length) * config.accumulate
    return max(1, round(config.epochs * dataset.tokens.count / step))


def _table(recipe: Recipe) -> dict[str, Any]:
    """The [sweep] table, checked. Raises ValueError."""
    vary = "data" if recipe.config.steps is None else "steps"
    table = {"vary": vary, "fractions": FRACTIONS, **recipe.sweep}
    unknown = sorted(set(table) - {"sizes", "fractions", "vary"})
    if unknown:
        raise ValueError(f"sweep has no {unknown[0]!r}; allowed: sizes, fractions, vary")
    if not isinstance(recipe.model, Mapping):
        raise ValueError(f"model is {recipe.model!r}; a sweep trains new models: give a table of config.json fields")
    sizes = table.get("sizes")
    if not isinstance(sizes, Sequence) or not sizes or not all(isinstance(s, Mapping) and s for s in sizes):
        raise ValueError(f"sweep.sizes is {sizes!r}; allowed: a list such as [{{n_embd = 64}}, {{n_embd = 128}}]")
    fractions = table["fractions"]
    fine = isinstance(fractions, Sequence) and not isinstance(fractions, str) and len(fractions) > 0
    if not fine or not all(isinstance(f, (int, float)) and not isinstance(f, bool) and 0 < f <= 1 for f in fractions):
        raise ValueError(f"sweep.fractions is {fractions!r}; allowed: a list of numbers above 0 up to 1")
    if table["vary"] not in ("data", "steps"):
        raise ValueError(f"sweep.vary is {table['vary']!r}; allowed: 'data', 'steps'")
    if table["vary"] == "steps" and recipe.config.steps is None:
        raise ValueError("sweep.vary is 'steps'; allowed only with train.steps, which the fractions are of")
    for name, values in (("sizes", sizes), ("fractions", fractions)):
        if any(v in values[:i] for i, v in enumerate(values)):
            raise ValueError(f"sweep.{name} is {values!r}; allowed: each one once")
    return table


def _digest(recipe: Recipe) -> str:
    parts = (recipe.objective, recipe.model, recipe.tokenizer, recipe.data, recipe.train, recipe.adapter)
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def _done(folder: Path, recipe: Recipe, table: Mapping[str, Any]) -> dict[str, Point]:
    file = folder / "sweep.json"
    if not file.exists():
        return {}
    old = read_json(file)
    if old.get("recipe") != _digest(recipe) or old.get("sweep", {}).get("vary") != table["vary"]:
        raise ValueError(f"{folder} holds another sweep; choose another folder, or start anew with --fresh")
    derived = ("worth", "compute", "tokens_per_second")
    points = [Point(**{k: v for k, v in p.items() if k not in derived}) for p in old["points"]]
    wanted = [(dict(size), fraction) for size in table["sizes"] for fraction in table["fractions"]]
    if [(p.size, p.fraction) for p in points] != wanted[: len(points)]:
        raise ValueError(f"{folder} holds a sweep of other sizes or fractions; choose another folder, or use --fresh")
    return {p.name: p for p in points}


def _write(
    folder: Path, recipe: Recipe, table: Mapping[str, Any], points: Sequence[Point], result: Mapping[str, Any]
) -> None:
    record = {"recipe": _digest(recipe), "sweep": dict(table), "points": [p.to_dict() for p in points], **result}
    write_json(folder / "sweep.json", record)
