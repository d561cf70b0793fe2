"""`regard models`: the families, their heads, and the tasks they serve; the models that are embedded."""

from __future__ import annotations

import json
from typing import Any

import typer

from regard.cli.lasting import lasting

_PARTS = {"text": "tokenizer", "image": "image_processor", "video": "image_processor", "sound": "feature_extractor"}


def listing() -> list[dict[str, Any]]:
    """Every family as plain values: name, title, model types, heads, tasks."""
    with lasting():
        from regard.models.registry import families
        from regard.tasks import tasks_for

    return [
        {
            "family": family.name,
            "title": family.title,
            "model_types": list(family.model_types),
            "heads": list(family.head_kinds),
            "reads": list(family.reads),
            "tasks": tasks_for(
                family.head_kinds, [_PARTS[sense] for sense in family.reads], video="video" in family.reads
            ),
        }
        for family in families().values()
    ]


def embedded() -> list[dict[str, Any]]:
    """Every model that comes with the package: its tasks, its size, and how good it is."""
    from regard.checkpoint.find import find
    from regard.zoo.card import cards, megabytes

    return [
        {
            "model": card.name,
            "title": card.title,
            "tasks": list(card.tasks),
            "megabytes": round(megabytes(find(card.name).path), 2),
            "measured": f"{card.said} on {card.rows:,} rows",
        }
        for card in cards()
    ]


def models(as_json: bool = typer.Option(False, "--json", help="Print as JSON.")) -> None:
    """List model families with their heads and tasks, and the embedded models."""
    from rich.console import Console
    from rich.table import Table

    found, inside = listing(), embedded()
    if as_json:
        typer.echo(json.dumps({"families": found, "embedded": inside}, indent=1))
        return
    table = Table(box=None, pad_edge=False)
    for name in ("family", "model_type", "heads"):
        table.add_column(name, overflow="fold")
    for row in found:
        table.add_row(row["title"], ", ".join(row["model_types"]), ", ".join(row["heads"]))
    console = Console(highlight=False)
    console.print(table)
    if not inside:
        return
    table = Table(box=None, pad_edge=False)
    for name in ("embedded", "task", "MB", "measured"):
        table.add_column(name, no_wrap=name != "measured", justify="right" if name == "MB" else "left")
    for row in inside:
        table.add_row(row["model"], row["tasks"][0], f"{row['megabytes']:.1f}", row["measured"])
    console.print()
    console.print(table)


def register(app: typer.Typer) -> None:
    """Add this verb to the command."""
    app.command("models")(models)
