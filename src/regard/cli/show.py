"""`regard show REF`: what a checkpoint is made of."""

from __future__ import annotations

import json

import typer

from regard.cli.lasting import lasting


def show(
    ref: str = typer.Argument(..., help="A folder, a hub id, or an embedded name such as regard/shakespeare."),
    depth: int = typer.Option(99, help="How many levels of the tree to print."),
    as_json: bool = typer.Option(False, "--json", help="Print the config tree and the counts as JSON."),
) -> None:
    """Print a model's resolved tree, with shapes, parameter counts and memory."""
    from rich.console import Console
    from rich.table import Table

    with lasting():
        from regard.checkpoint.load import load
        from regard.inspect.tree import counted, summary, tree_lines

        model = load(ref, dtype=None)  # as the file has it: nothing is made larger to be looked at
    facts = summary(model)
    if as_json:
        typer.echo(json.dumps({**facts, "config": model.config.to_dict()}, indent=1))
        return
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(overflow="fold")
    table.add_column(overflow="fold")
    table.add_column(justify="right")
    for level, name, what, count in tree_lines(model, depth=depth):
        table.add_row("  " * level + name, what, count)
    console = Console(highlight=False, soft_wrap=True)
    console.print(f"{facts['name']}: {facts['architecture']}", markup=False)
    console.print(table)
    line = f"{counted(facts['parameters'])} parameters, {counted(facts['bytes'], ' KMGT', 1024)}B of "
    line += ", ".join(facts["dtypes"])
    line += f"; takes up to {facts['max_length']} tokens" if facts["max_length"] else "; no limit on length"
    if facts["cache_bytes_per_token"]:
        line += f"; cache {counted(facts['cache_bytes_per_token'], ' KMGT', 1024)}B per token"
    console.print(line, markup=False)


def register(app: typer.Typer) -> None:
    """Add this verb to the command."""
    app.command("show")(show)
