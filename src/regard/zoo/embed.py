"""A run -> a folder of this package: `python -m regard.zoo.embed runs/digits recipes/digits.toml`.

The best model of the run is stored small and measured as it is stored; the card says what the run's own record says.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

import regard
from regard.adapt.quantize import quantize
from regard.checkpoint.files import atomic, read_json
from regard.checkpoint.find import Folder
from regard.models.model import Model
from regard.tasks.registry import find_task
from regard.training.build import build
from regard.training.data.batches import Batches, stream
from regard.training.judge import judge
from regard.training.objectives.classification import Classification
from regard.training.recipe import Recipe, read_recipe
from regard.training.toml import recipe_text, toml_value
from regard.zoo.card import Card, write_card

LIMIT = 15_000_000
"""Bytes that one model may take, all files together."""
STORED = {
    "bf16": "bfloat16",
    "int8": "int8, and bfloat16 what no linear holds",
    "int4": "int4, and bfloat16 what no linear holds",
    "float32": "float32",
}
NEEDED = ("title", "tasks", "example", "data", "source", "licence", "weights_licence", "held_out", "limits")
"""What [about] of a recipe must say for a card."""
_FREE = ("model", "output", "about")
"""Parts of a recipe in which a run may differ from it: where things lie, and what is said of them."""
_BESIDE = ("save_every", "log_every")
"""Options of [train] in which it may, as they change nothing that is learnt."""
_WRITING = ("num_beams", "length_penalty", "no_repeat_ngram_size", "max_new_tokens", "max_context")
"""Fields of a new [model] in which it may: how the trained model writes is chosen on the validation rows."""


def embed(
    run: Path, recipe: Path, *, to: str = "bf16", beside: Sequence[Path] = (), zoo: Path = Path(__file__).parent
) -> Card:
    """Put the best model of a run into the package, under the name of its recipe, and write its card.

    `to` is how weights are stored; `beside` are other runs of the recipe, trained with changes, to be named with their
    scores. Raises ValueError for a run of another recipe, one that has not ended, and a model above the limit.
    """
    about = _about(recipe)
    changes = _changes(run, recipe)
    if changes:
        raise ValueError(f"{run} is no run of {recipe} as it is: it has {' '.join(changes)}")
    _check_ended(run)
    model = regard.load(str(run / "best"))
    count = sum(p.numel() for p in model.parameters())
    temperature = calibrate(model, read_recipe(run / "recipe.toml"))
    asked = read_recipe(recipe).model
    if not isinstance(asked, str):
        model.raw |= {name: asked[name] for name in _WRITING if name in asked}
    if to in ("int8", "int4"):
        quantize(model, to, force=True)  # type: ignore[arg-type]
    if to == "bf16":
        model = model.to(torch.bfloat16)
    folder = zoo / recipe.stem
    shutil.rmtree(folder, ignore_errors=True)
    model.save_pretrained(folder)
    if to in ("int8", "int4"):
        _halve(folder / "model.safetensors")
    shutil.copyfile(recipe, folder / "recipe.toml")
    scores = _scores(str(folder), recipe, about)
    said: dict[str, Any] = {name: about[name] for name in (*NEEDED, "base") if name in about}
    said["tasks"] = tuple(said["tasks"])
    card = Card(
        name=f"regard/{recipe.stem}",
        **said,
        figure=_figure(scores, about),
        rows=scores.pop("rows"),
        scores=scores,
        parameters=count,
        stored=STORED[to],
        made={**_made(run, recipe, to, beside), **({"temperature": temperature} if temperature else {})},
        beside=tuple(_other(other, recipe, about) for other in beside),
    )
    write_card(card, Folder(path=folder, name=card.name))
    files = [file for file in folder.rglob("*") if file.is_file()]
    for file in files:
        file.chmod(0o644)
    size = sum(file.stat().st_size for file in files)
    if size > LIMIT:
        raise ValueError(f"{folder} has {size:,} bytes; allowed: {LIMIT:,}")
    return card


def calibrate(model: Model, recipe: Recipe) -> float | None:
    """Divide the scores of a model of classes by the temperature that suits the validation rows best (1706.04599).

    It goes into the head's weights, so that nobody needs to know. It never makes a model surer, as what users bring is
    less like the training rows than the validation rows are. None for other models, and where nothing is won.
    """
    job = build(recipe)
    goal, rows = job.problem.objective, job.problem.valid
    if not isinstance(goal, Classification) or goal.kind != "single" or rows is None:
        return None
    found: list[tuple[Any, Any]] = []
    with torch.no_grad():
        for _, batch in stream(rows, Batches(rows, batch_size=32, shuffle=False, seed=0), goal.collate, epochs=1):
            found.append((model(**batch.inputs)["logits"].double(), batch.targets["labels"]))
    scores, labels = torch.cat([s for s, _ in found]), torch.cat([t for _, t in found])

    def loss(temperature: float) -> float:
        return float(torch.nn.functional.cross_entropy(scores / temperature, labels))

    best = min(torch.logspace(0, 1, 101).tolist(), key=loss)
    if loss(best) > 0.99 * loss(1.0):
        return None
    with torch.no_grad():
        for parameter in model.head.out.parameters():
            parameter.div_(best)
    return best


def _halve(path: Path) -> None:
    """Keep as bfloat16 what is float32 in a file, but for the scales of quantized weights."""
    tensors = load_file(path)
    half = {k: t.bfloat16() if t.dtype == torch.float32 and not k.endswith(".scale") else t for k, t in tensors.items()}
    with atomic(path) as temporary:
        save_file(half, temporary, metadata={"format": "pt"})


def _about(recipe: Path) -> Mapping[str, Any]:
    about = read_recipe(recipe).about
    missing = [name for name in NEEDED if not about.get(name)]
    if missing:
        raise ValueError(f"{recipe}: [about] does not say {', '.join(missing)}, which a card needs")
    for task in about["tasks"]:
        find_task(task)
    return about


def _changes(run: Path, recipe: Path) -> list[str]:
    """key=value of what a run has otherwise than the recipe."""
    asked = tomllib.loads(recipe_text(read_recipe(recipe)))
    had = tomllib.loads((run / "recipe.toml").read_text("utf-8"))
    found = []
    for table in sorted({*asked, *had} - set(_FREE)):
        old, new = asked.get(table), had.get(table)
        if isinstance(old, dict) and isinstance(new, dict):
            same = _BESIDE if table == "train" else ()
            names = [name for name in new if new[name] != old.get(name) and name not in same]
            found += [f"{table}.{name}={toml_value(new[name])}" for name in names]
            found += [f"{table}.{name}=none" for name in old if name not in new and name not in same]
        elif old != new:
            found.append(f"{table}={toml_value(new)}")
    if isinstance(asked.get("model"), dict) and _learnt(asked["model"]) != _learnt(had.get("model")):
        found.append("model=...")
    return found


def _learnt(model: Any) -> Any:
    return {k: v for k, v in model.items() if k not in _WRITING} if isinstance(model, dict) else model


def _check_ended(run: Path) -> None:
    training = read_json(run / "run.json")["training"]
    last = _log(run)[-1]["step"]
    if training.get("steps") and last < training["steps"]:
        raise ValueError(f"{run} is at step {last:,} of {training['steps']:,}; train it to its end first")


def _log(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "log.jsonl").read_text("utf-8").splitlines()]


def _scores(model: str, recipe: Path, about: Mapping[str, Any]) -> dict[str, Any]:
    scores = judge(model, recipe, metrics=tuple(name for name in about.get("measure", ()) if name != "loss"))
    del scores["seconds"]
    return scores


def _figure(scores: Mapping[str, Any], about: Mapping[str, Any]) -> str:
    """The score that stands for a model: the first that the recipe asks for, or else the first that is no loss."""
    wanted = about.get("measure") or [name for name in scores if name not in ("rows", "loss")] or ["loss"]
    return str(wanted[0])


def _other(run: Path, recipe: Path, about: Mapping[str, Any]) -> dict[str, Any]:
    scores = _scores(str(run / "best"), run / "recipe.toml", about)
    changes, began, usual = _changes(run, recipe), read_recipe(run / "recipe.toml").model, read_recipe(recipe).model
    if isinstance(began, str) and began != usual:  # another run's best model, say: its path is of this machine alone
        changes.append(f"model=runs/{'/'.join(Path(began).parts[-2:])}")
    return {"changes": changes, "rows": scores.pop("rows"), "scores": scores}


def _made(run: Path, recipe: Path, to: str, beside: Sequence[Path]) -> dict[str, Any]:
    record, log = read_json(run / "run.json"), _log(run)
    best = next(entry for entry in reversed(log) if entry.get("best"))
    others = "".join(f" --beside runs/{other.name}" for other in beside)
    return {
        "command": f"regard train recipes/{recipe.name}",
        "embedded": f"python -m regard.zoo.embed runs/{run.name} recipes/{recipe.name} --to {to}{others}",
        "seed": record["training"]["seed"],
        "steps": log[-1]["step"],
        "best_step": best["step"],
        "valid": best["valid"],
        "data": record["data"],
        "commit": record["made"]["git"],
        "time": record["made"]["time"],
        "versions": record["made"]["versions"],
        "machine": record["made"]["machine"],
    }


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m regard.zoo.embed", description=embed.__doc__)
    parser.add_argument("run", type=Path, help="the run's folder")
    parser.add_argument("recipe", type=Path, help="the recipe that it ran, recipes/NAME.toml")
    parser.add_argument("--to", choices=list(STORED), default="bf16", help="how weights are stored (bf16)")
    parser.add_argument("--beside", type=Path, action="append", default=[], help="a run with changes, to be named too")
    given = parser.parse_args()
    try:
        card = embed(given.run, given.recipe, to=given.to, beside=given.beside)
    except (ValueError, OSError) as error:
        print(f"embed: {error}", file=sys.stderr)
        sys.exit(2)
    print(f"{card.name}: {card.said} on {card.rows:,} rows")


if __name__ == "__main__":
    main()
