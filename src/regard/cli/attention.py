"""`regard attention REF TEXT -o heads.png`: who looks at whom, in every layer and head."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import typer


def attention(
    ref: str = typer.Argument(..., help="A folder, a hub id, or an embedded name."),
    text: str = typer.Argument(..., help="The text to read."),
    out: Path = typer.Option(Path("heads.png"), "--out", "-o", help="Where to write: .png, .svg, .pdf or .json."),
    kind: str = typer.Option("self", help="self, cross (encoder-decoder models), or rollout (all layers in one)."),
    target: str = typer.Option("", help="For encoder-decoder models: the output text; by default the model writes it."),
    layer: int | None = typer.Option(None, help="Draw one layer only."),
    head: int | None = typer.Option(None, help="Draw one head only."),
) -> None:
    """Draw attention weights as a grid of layers x heads with the tokens along the edges."""
    from regard.inspect.view import attention_of

    suffix = out.suffix.lower()
    if suffix not in (".png", ".svg", ".pdf", ".json"):
        raise ValueError(f"output is {str(out)!r}; allowed: a name that ends in .png, .svg, .pdf or .json")
    found = attention_of(ref, text, kind=kind, target=target or None)
    weights = [_one(w, head, "head", found) for w in _one(found.weights, layer, "layer", found)]
    if suffix == ".json":
        data = {"rows": found.rows, "columns": found.columns, "weights": [w.tolist() for w in weights]}
        _write(out, lambda path: path.write_text(json.dumps(data)))
    else:
        from regard.inspect.draw import heads_figure

        figure = heads_figure(weights, found.rows, found.columns, f"{kind} attention: {text}")
        _write(out, lambda path: figure.savefig(path, format=suffix[1:], dpi=120))
    layers, heads = len(weights), weights[0].shape[0]
    typer.echo(f"wrote {out}: {layers} x {heads} (layers x heads), {len(found.rows)} x {len(found.columns)} tokens")


def _one(items: Any, index: int | None, name: str, found: Any) -> Any:
    if index is None:
        return items
    if not 0 <= index < len(items):
        raise ValueError(f"{name} is {index}; this model has {name}s 0 to {len(items) - 1}")
    return items[index : index + 1]


def _write(out: Path, write: Any) -> None:
    from regard.checkpoint.files import atomic

    if not out.parent.is_dir():
        raise ValueError(f"there is no folder {os.fspath(out.parent)!r} to write {out.name!r} into")
    with atomic(out) as temporary:
        write(temporary)


def register(app: typer.Typer) -> None:
    """Add this verb to the command."""
    app.command("attention")(attention)
