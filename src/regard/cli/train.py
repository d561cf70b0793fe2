"""`regard train`: learn from a recipe, and go on where a run was cut off."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import typer

from regard.cli.lasting import lasting


def train(
    recipe: str = typer.Argument(..., help="A .toml file, or an objective such as classification or causal-lm."),
    changes: list[str] = typer.Argument(None, help="key=value over the recipe, such as steps=500."),
    output: str = typer.Option("", "--output", "-o", help="The run's folder; by default runs/NAME."),
    devices: int = typer.Option(1, help="How many devices of this machine."),
    nodes: int = typer.Option(1, help="How many machines, started by torchrun."),
    strategy: str = typer.Option("auto", help="auto, ddp, fsdp, deepspeed_stage_1, ..."),
    fresh: bool = typer.Option(False, "--fresh", help="Start anew, and forget an earlier run of this folder."),
    find_rate: bool = typer.Option(False, "--find-rate", help="Only look for a learning rate."),
    search: bool = typer.Option(False, "--search", help="Search hyper-parameters, as the recipe's [search] says."),
    sweep: bool = typer.Option(False, "--sweep", help="Fit a scaling law, over the sizes and data of [sweep]."),
    as_json: bool = typer.Option(False, "--json", help="Print the result as JSON."),
) -> None:
    """Train, fine-tune or adapt a model.

    \b
    Tune a checkpoint on a table, ask it, judge it:
      regard train classification model=FOLDER data.train=my.csv \\
          data.text=review data.label=stars -o runs/stars
      regard run text-classification "Never again." -m runs/stars/best
      regard evaluate runs/stars/best other.csv text=review label=stars

    \b
    RECIPE is a .toml file with the tables model, tokenizer, data, train, adapter
    and metrics; or an objective. Objectives, and the columns of the data that
    they read (data.COLUMN=NAME says what your file calls one):
      causal-lm, masked-lm   text (also span-corruption, denoising)
      classification         text (and pair), image or audio; label
      token-classification   words, tags
      seq2seq                source, target; or image or audio, and text
      question-answering     question, context, answers
      sentence-pairs         first, second, perhaps negative
      ctc                    audio, text
      image-text             image, text
      self-distillation      image

    CHANGES go over the recipe. Options of training need no table before them: steps=500, epochs=3, batch_size=16,
    learning_rate=5e-5, precision=bf16, eval_every=100, patience=3, seed=0, device=cpu. An adapter in place of all
    weights is adapter.kind=lora; a new model is model={model_type="bert", ...} with tokenizer={kind="wordpiece",
    vocab_size=8000}. docs/training.md has them all, and `regard data inspect FILE` shows what a file holds.

    A tenth of the rows is held out to judge the model, unless data.valid names a file or a part. The run's folder
    holds its recipe, its log, its states, and the model as `best` and `last`. The same command goes on with a run
    that was cut off.
    """
    with lasting():
        from regard.training.objectives import OBJECTIVES
        from regard.training.recipe import read_recipe

    found = read_recipe(recipe, changes or [], objectives=OBJECTIVES)
    folder = output or found.output or f"runs/{Path(recipe).stem}"
    where = {"devices": devices, "nodes": nodes, "strategy": strategy}
    instead = _instead({"find-rate": find_rate, "search": search, "sweep": sweep}, where)
    if instead is None:
        result = run(found, Path(folder), where, fresh=fresh)
    else:
        apart = folder if output or find_rate else f"{folder}-{instead}"
        result = explore(instead, found, Path(apart), fresh=fresh)
    lines = [f"{name:12} {value if isinstance(value, str) else json.dumps(value)}" for name, value in result.items()]
    typer.echo(json.dumps(result) if as_json else "\n".join(lines))


def _instead(asked: dict[str, bool], where: dict[str, Any]) -> str | None:
    """What is to be done in place of one run. Raises ValueError for two wishes, or several devices."""
    wanted = [name for name, wish in asked.items() if wish]
    if len(wanted) > 1:
        raise ValueError(f"--{wanted[0]} and --{wanted[1]} are given; allowed: one at a time")
    if wanted and where != {"devices": 1, "nodes": 1, "strategy": "auto"}:
        raise ValueError(f"--{wanted[0]} runs on one device; leave out --devices, --nodes and --strategy")
    return wanted[0] if wanted else None


def run(recipe: Any, folder: Path, devices: dict[str, Any], *, fresh: bool = False) -> dict[str, Any]:
    """Build what a recipe asks for, train it, judge it on the test split; gives what there is to say."""
    import regard
    from regard.training.build import build
    from regard.training.evaluate import evaluate
    from regard.training.loop import fit
    from regard.training.problem import with_valid

    _check_folder(folder)
    job = build(recipe)
    leader = os.environ.get("RANK", os.environ.get("LOCAL_RANK", "0")) == "0"
    for note in job.notes if leader else ():
        typer.echo(note, err=True)
    given = {name: value for name, value in devices.items() if value != {"devices": 1, "nodes": 1}.get(name, "auto")}
    options = {**job.problem.options, **recipe.train, **given}
    history = fit(job.model, job.problem, folder=folder, resume=not fresh, **options)
    if not _leads():
        raise typer.Exit  # another process says what there is to say
    result: dict[str, Any] = {"steps": history.progress.step, "seconds": round(history.progress.seconds, 1)}
    best = next((e for e in reversed(history.evaluations) if e["best"]), None)
    if best is not None:
        result |= {"best_step": best["step"], "validation": _short(best["valid"])}
    kept = folder / ("last" if best is None else "best")
    if job.test is not None:
        model = job.model if best is None else regard.load(str(kept)).to(job.model.device)
        result["test"] = _short(evaluate(model, with_valid(job.problem, job.test)))
    return {**result, "model": str(kept)}


def _check_folder(folder: Path) -> None:
    """Raise a ValueError for a place that is not for a run, before any work is done."""
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file; choose another folder with --output")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / "run.json").is_file():
        raise ValueError(f"{folder} holds something that is no run; choose another folder with --output")


def _leads() -> bool:
    """Whether this process speaks for all of a run on several devices."""
    import torch

    return not torch.distributed.is_initialized() or torch.distributed.get_rank() == 0


def _short(scores: dict[str, float]) -> dict[str, float]:
    return {name: round(value, 4) for name, value in scores.items()}


def explore(what: str, recipe: Any, folder: Path, *, fresh: bool = False) -> dict[str, Any]:
    """Find a rate, search, or sweep; gives what there is to say."""
    if what == "search":
        from regard.tuning.search import search

        return search(recipe, folder, resume=not fresh)
    if what == "sweep":
        from regard.tuning.sweep import sweep

        found = sweep(recipe, folder, resume=not fresh)
        said = {"advice": found["advice"]["text"]} if found["advice"] else {"refused": found["refused"]}
        return {"runs": found["runs"], "law": found["law"], "notes": found["notes"], **said, "folder": str(folder)}
    from regard.training.build import build
    from regard.training.config import settings
    from regard.tuning.finder import find_rate

    job = build(recipe)
    curve = find_rate(job.model, job.problem, settings(**{**job.problem.options, **recipe.train}))
    curve.write(folder)
    named = {"learning_rate": curve.suggestion, "steepest": curve.steepest}
    rates = {name: value if value is None else float(f"{value:.3g}") for name, value in named.items()}
    return {**rates, "steps": len(curve.rates), "notes": curve.notes, "folder": str(folder)}


def register(app: typer.Typer) -> None:
    """Add this verb to the command."""
    app.command("train")(train)
