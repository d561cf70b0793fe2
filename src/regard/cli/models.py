"""`regard models`: the families, their heads, and the tasks they serve."""

from __future__ import annotations

import json
from typing import Any

import typer

_PARTS = {"text": "tokenizer", "image": "image_processor", "video": "image_processor", "sound": "feature_extractor"}


def listing() -> list[dict[str, Any]]:
    """Every family as plain values: name, title, model types, heads, tasks."""
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


def models(as_json: bool = typer.Option(False, "--json", help="Print as JSON.")) -> None:
    """List model families with their heads and tasks, and the embedded models."""
    from rich.console import Console
    from rich.table import Table

    from regard.checkpoint.find import embedded_names

    found = listing()
    if as_json:
        typer.echo(json.dumps({"families": found, "embedded": embedded_names()}, indent=1))
        return
    table = Table(box=None, pad_edge=False)
    for name in ("family", "model_type", "heads"):
        table.add_column(name, overflow="fold")
    for row in found:
        table.add_row(row["title"], ", ".join(row["model_types"]), ", ".join(row["heads"]))
    console = Console(highlight=False)
    console.print(table)
    for name in embedded_names():
        console.print(f"embedded: {name}", markup=False)


def register(app: typer.Typer) -> None:
    """Add this verb to the command."""
    app.command("models")(models)
