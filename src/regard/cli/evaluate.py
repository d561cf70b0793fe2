"""`regard evaluate`: how good a model is on data with the right answers beside."""

from __future__ import annotations

import json
from pathlib import Path

import typer

from regard.cli.lasting import lasting


def evaluate(
    model: str = typer.Argument(..., help="A folder, a hub id, or an embedded name."),
    data: str = typer.Argument("", help="Rows, or a recipe: what that holds out. Embedded models have their own."),
    changes: list[str] = typer.Argument(None, help="key=value, as in a recipe's [data]: label=stars by=line ..."),
    metric: list[str] = typer.Option([], "--metric", help="A metric by name; may be given several times."),
    objective: str = typer.Option("", help="What the model is judged as, where its head leaves a choice."),
    beams: int = typer.Option(0, help="Beams, where texts are written; by default what the model says."),
    limit: int = typer.Option(0, help="At most so many rows, spread over the data."),
    batch_size: int = typer.Option(32, help="Rows at a time."),
    as_json: bool = typer.Option(False, "--json", help="Print as JSON."),
) -> None:
    """Measure a model on data with the right answers beside: loss, accuracy, F1, BLEU, WER, ... by its head.

    regard evaluate runs/classification/best test.csv label=stars

    A run's own recipe judges it on what was held out of its data: regard evaluate runs/x/best runs/x/recipe.toml

    An embedded model knows what it was measured on: regard evaluate regard/digits. The files are looked for in the
    folder that REGARD_DATA names; data.train=FILE says where they are otherwise.
    """
    with lasting():
        from regard.training.judge import judge

    changes = changes or []
    if "=" in data and not Path(data).exists():
        data, changes = "", [data, *changes]
    if not data:
        data, said = _measured(model)
        metric = metric or said
    scores = judge(
        model,
        data,
        changes,
        metrics=metric,
        objective=objective,
        beams=beams,
        limit=limit,
        batch_size=batch_size,
    )
    if as_json:
        typer.echo(json.dumps(scores))
        return
    for name, value in scores.items():
        typer.echo(f"{name:12} {value:,.4f}" if isinstance(value, float) else f"{name:12} {value:,}")


def _measured(model: str) -> tuple[str, list[str]]:
    """The recipe that an embedded model came from, and the metrics of its card."""
    from regard.checkpoint.find import find
    from regard.training.metrics import METRICS
    from regard.zoo.card import read_card

    folder = find(model)
    card, recipe = read_card(folder), folder.file("recipe.toml")
    if card is None or recipe is None:
        raise ValueError(f"{model} does not say what it was measured on; give a file of rows, or a recipe")
    typer.echo(f"the card says {card.said} on {card.rows:,} rows: {card.held_out}", err=True)
    return str(recipe), [name for name in card.scores if name in METRICS]


def register(app: typer.Typer) -> None:
    """Add this verb to the command."""
    app.command("evaluate")(evaluate)
