"""`regard attention REF TEXT_OR_IMAGE -o heads.png`: who looks at whom, in every layer and head."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import typer


def attention(
    ref: str = typer.Argument(..., help="A folder, a hub id, or an embedded name."),
    text: str = typer.Argument(..., help="The text to read, or for models that see, the image file."),
    out: Path = typer.Option(Path("heads.png"), "--out", "-o", help="Where to write: .png, .svg, .pdf or .json."),
    kind: str = typer.Option("self", help="self, cross (encoder-decoder models), or rollout (all layers in one)."),
    target: str = typer.Option("", help="For encoder-decoder models: the output text; by default the model writes it."),
    layer: int | None = typer.Option(None, help="Draw one layer only."),
    head: int | None = typer.Option(None, help="Draw one head only."),
) -> None:
    """Draw attention weights as a grid of layers x heads: tokens along the edges, or maps over an image."""
    from regard.front import load
    from regard.inspect.view import attention_of

    suffix = out.suffix.lower()
    if suffix not in (".png", ".svg", ".pdf", ".json"):
        raise ValueError(f"output is {str(out)!r}; allowed: a name that ends in .png, .svg, .pdf or .json")
    model = load(ref)
    if _sees(model, text):
        _over_image(model, text, kind, out, (layer, head))
        return
    found = attention_of(model, text, kind=kind, target=target or None)
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


def _sees(model: Any, text: str) -> bool:
    """Whether the word is an image for this model: it reads images alone, or there is such a file."""
    from regard.tasks.parts import split

    parts = split(model.processor)
    return "image_processor" in parts and ("tokenizer" not in parts or Path(text).is_file())


def _over_image(model: Any, name: str, kind: str, out: Path, chosen: tuple[int | None, int | None]) -> None:
    from regard.inspect.pictures import image_attention_of, image_figure
    from regard.tasks.media import reading

    with reading(name):
        found = image_attention_of(model, name, kind=kind)
    weights = [_one(w, chosen[1], "head", found) for w in _one(found.weights, chosen[0], "layer", found)]
    if out.suffix.lower() == ".json":
        _write(out, lambda path: path.write_text(json.dumps({"weights": [w.tolist() for w in weights]})))
    else:
        figure = image_figure(weights, found.image, f"{kind} attention: {name}")
        _write(out, lambda path: figure.savefig(path, format=out.suffix.lower()[1:], dpi=120))
    rows, columns = weights[0].shape[1:]
    typer.echo(f"wrote {out}: {len(weights)} x {len(weights[0])} (layers x heads), {rows} x {columns} patches")


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
