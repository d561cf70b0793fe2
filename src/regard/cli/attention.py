"""`regard attention REF INPUT -o heads.png`: who looks at whom, in a text, an image, or what is written about them."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import typer

from regard.cli.lasting import lasting

_INPUT = "The text to read, or a file: an image for models that see, a sound for those that hear."
_KIND = "self; cross (from what a model writes to what it reads, sees or hears: usual over sounds and for captions); "
_KIND += "rollout (all layers in one)."


def attention(
    words: list[str] = typer.Argument(..., metavar="REF INPUT", help=f"A checkpoint. {_INPUT}"),
    model: str = typer.Option(None, "--model", "-m", help="The checkpoint, in place of REF: a folder, hub id or name."),
    out: Path = typer.Option(Path("heads.png"), "--out", "-o", help="Where to write: .png, .svg, .pdf or .json."),
    kind: str = typer.Option("", help=_KIND),
    target: str = typer.Option("", help="What is written, for cross; by default the model writes it."),
    layer: int | None = typer.Option(None, help="Draw one layer only."),
    head: int | None = typer.Option(None, help="Draw one head only."),
) -> None:
    """Draw attention weights: a grid of layers x heads with tokens along the edges, maps over an image, or for what is
    written about a sound or an image the mean over heads, words against seconds or patches."""
    suffix = out.suffix.lower()
    if suffix not in (".png", ".svg", ".pdf", ".json"):
        raise ValueError(f"output is {str(out)!r}; allowed: a name that ends in .png, .svg, .pdf or .json")
    given = [model, *words] if model else words
    if len(given) != 2:
        raise ValueError(f"a checkpoint and one input are needed; got {', '.join(map(repr, given))}")
    ref, text = given
    with lasting():
        from regard.front import load

        loaded = load(ref)
    if _writes_about(loaded, text, kind):
        _written(loaded, text, kind, target or None, out, (layer, head))
    elif _sees(loaded, text):
        _over_image(loaded, text, kind or "self", out, (layer, head))
    else:
        _over_text(loaded, text, kind or "self", target or None, out, (layer, head))


def _over_text(
    model: Any, text: str, kind: str, target: str | None, out: Path, chosen: tuple[int | None, int | None]
) -> None:
    from regard.inspect.view import attention_of

    found = attention_of(model, text, kind=kind, target=target)
    weights = [_one(w, chosen[1], "head", found) for w in _one(found.weights, chosen[0], "layer", found)]
    if out.suffix.lower() == ".json":
        data = {"rows": found.rows, "columns": found.columns, "weights": [w.tolist() for w in weights]}
        _write(out, lambda path: path.write_text(json.dumps(data)))
    else:
        from regard.inspect.draw import heads_figure

        figure = heads_figure(weights, found.rows, found.columns, f"{kind} attention: {text}")
        _write(out, lambda path: figure.savefig(path, format=out.suffix.lower()[1:], dpi=120))
    layers, heads = len(weights), weights[0].shape[0]
    typer.echo(f"wrote {out}: {layers} x {heads} (layers x heads), {len(found.rows)} x {len(found.columns)} tokens")


def _writes_about(model: Any, text: str, kind: str) -> bool:
    """Whether cross-attention from what the model writes about a sound or an image is meant."""
    from regard.inspect.written import captions, hears

    if hears(model):
        return True
    return kind in ("", "cross") and captions(model) and _sees(model, text)


def _written(
    model: Any, name: str, kind: str, target: str | None, out: Path, which: tuple[int | None, int | None]
) -> None:
    """The mean over the heads that were chosen, or that are usual; as numbers all of them."""
    from regard.inspect.written import SoundWritten, chosen, hears, image_written, sound_written
    from regard.tasks.media import reading

    if kind not in ("", "cross"):
        raise ValueError(f"kind is {kind!r}; allowed over a sound: cross")
    with reading(name):
        found = (sound_written if hears(model) else image_written)(model, name, target=target)
    sound = found if isinstance(found, SoundWritten) else None
    heads = chosen(found, *which, found.all_heads() if sound is None else sound.aligned)
    if out.suffix.lower() == ".json":
        data: dict[str, Any] = {"tokens": found.tokens, "words": found.words, "heads": heads}
        data |= {} if sound is None else {"seconds": sound.step}
        data["weights"] = [found.weights[i][h].tolist() for i, h in heads]
        _write(out, lambda path: path.write_text(json.dumps(data)))
    else:
        from regard.inspect.written_draw import sound_figure, words_figure

        draw: Any = words_figure if sound is None else sound_figure
        figure = draw(
            found, heads, f"Where it {'looked' if sound is None else 'listened'} for each word: {Path(name).name}"
        )
        _write(out, lambda path: figure.savefig(path, format=out.suffix.lower()[1:], dpi=150))
    shape = found.weights[0].shape
    size = f"{shape[-2]} x {shape[-1]} patches" if sound is None else f"{shape[-1] * sound.step:.2f} seconds"
    typer.echo(
        f"wrote {out}: {len(found.words)} words x {size}, {len(heads)} heads: {' '.join(w for w, _ in found.words)}"
    )


def _sees(model: Any, text: str) -> bool:
    """Whether the word is an image for this model: it is asked with images alone, or there is such a file."""
    from regard.inspect.written import captions
    from regard.tasks.parts import split

    parts = split(model.processor)
    return "image_processor" in parts and ("tokenizer" not in parts or captions(model) or Path(text).is_file())


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
