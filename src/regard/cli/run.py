"""`regard run TASK INPUT...`: any task on texts, images or sounds, files of lines, or standard input."""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

from regard.cli.lasting import lasting

_EPILOG = """\
INPUT is a text, @FILE (an item on each line), or - (lines of standard input); for tasks on images and sounds it is a
file or a folder of them, and the lines are their names. A word NAME=VALUE gives an option or a
part of the input by name, its value read as JSON where it is JSON: top_k=3 candidate_labels="sports, politics"
question="Who?" context=@page.txt
"""


def run(
    task: str = typer.Argument(..., help="For example text-generation, fill-mask, translation_en_to_de."),
    inputs: list[str] = typer.Argument(None, metavar="INPUT...", help="Texts or files, @FILE, -, or NAME=VALUE."),
    model: str = typer.Option(None, "--model", "-m", help="A folder, a hub id, or an embedded name (the default)."),
    out: Path = typer.Option(
        None, "--out", "-o", help="Write results as pictures or subtitles: a file, or a folder for several."
    ),
    as_json: bool = typer.Option(False, "--json", help="One line of JSON for each item."),
    dtype: str = typer.Option("auto", help="auto, float32, bfloat16 or float16."),
    precision: str = typer.Option("auto", help="Of linears: auto (as the file has them), fp32, bf16, int8 or int4."),
    draft: str = typer.Option(None, help="A smaller checkpoint that guesses what a model will write."),
    device: str = typer.Option("cpu", help="cpu, cuda, ..."),
    batch_tokens: int = typer.Option(1024, help="Tokens worked on at once."),
) -> None:
    """Run a task and print its results."""
    from regard.tasks import find_task

    info, _ = find_task(task)
    words, named = _sorted(inputs or [])
    if not words and not named:
        raise ValueError(f"{info.name} needs input; try: regard run {info.name} {info.example}")
    if out is not None and _several(words) and not out.is_dir():
        raise ValueError(f"--out is {str(out)!r}; for several inputs it must be a folder that is there")
    how: dict[str, Any] = {"dtype": dtype, "device": device, "precision": precision, "batch_tokens": batch_tokens}
    with lasting():
        from regard import pipeline

        pipe = pipeline(task, model=model, assistant_model=draft, **how)
    if model is None:
        typer.echo(f"model: {pipe.model.name}, which comes with regard; -m names another", err=True)
    if out is not None:
        named = {**pipe.to_write(out / f"x{pipe.suffix}" if out.is_dir() else out), **named}
    together = pipe.from_words(words) if words else None
    if together is not None:
        results: Iterator[tuple[Any, Any]] = iter([(words[0], pipe(together, **named))])
    elif info.modality == "text":
        results = _results(pipe, words, named)
    else:
        results = _results_of_files(pipe, words, named)
    for item, result in results:
        if out is not None:
            typer.echo(f"wrote {_save(pipe, item, result, out)}", err=True)
        if as_json:
            typer.echo(json.dumps(_plain(pipe.plain(result)), ensure_ascii=False))
        else:
            _print(item, _plain(pipe.shown(result)))


def _sorted(words: list[str]) -> tuple[list[str], dict[str, Any]]:
    """Inputs, and NAME=VALUE words. A text with "=" in it counts as input unless it begins with a name."""
    inputs, named = [], {}
    for word in words:
        name, equals, value = word.partition("=")
        if equals and name.isidentifier() and name.islower() and not value.startswith("="):
            named[name] = _value(value)
        else:
            inputs.append(word)
    return inputs, named


def _value(text: str) -> Any:
    if text.startswith("@"):
        return _read(text[1:])
    try:
        return json.loads(text)
    except ValueError:
        return text


def _read(name: str) -> str:
    path = Path(name)
    if not path.is_file():
        raise ValueError(f"there is no file {name!r}")
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{name} is not UTF-8 text: byte {error.start} cannot be decoded") from None


def _results(pipe: Any, words: list[str], named: dict[str, Any]) -> Iterator[tuple[Any, Any]]:
    """(input, result) pairs, files and standard input lazily."""
    if not words:
        yield None, pipe(**named)
        return
    texts: list[str] = []
    for word in words:
        if word == "-" or word.startswith("@"):
            lines = (line.rstrip("\r\n") for line in sys.stdin) if word == "-" else Path(word[1:])
            for result in pipe(lines, **named):
                yield None, result
        else:
            texts.append(word)
    if len(texts) == 1:
        yield texts[0], pipe(texts[0], **named)
    elif texts:
        yield from zip(texts, pipe(texts, **named), strict=True)


def _results_of_files(pipe: Any, words: list[str], named: dict[str, Any]) -> Iterator[tuple[Any, Any]]:
    """(file, result) pairs of what is seen or heard, lazily; with several files, each is named before its result."""
    if not words:
        yield None, pipe(**named)
        return
    if not _several(words):
        yield words[0], pipe(words[0], **named)
        return
    first, second = itertools.tee(_names(pipe, words))
    for name, result in zip(first, pipe(second, **named), strict=True):
        typer.echo(f"{name}:", err=True)
        yield name, result


def _several(words: list[str]) -> bool:
    """Whether the words of the command stand for more than one file."""
    return len(words) > 1 or any(word == "-" or word[:1] == "@" or (word and Path(word).is_dir()) for word in words)


def _names(pipe: Any, words: list[str]) -> Iterator[str]:
    """The files that the words of the command stand for."""
    for word in words:
        if word == "-" or word.startswith("@"):
            lines = sys.stdin if word == "-" else _read(word[1:]).splitlines()
            yield from (line.strip() for line in lines if line.strip())
        elif _several([word]):
            yield from map(str, pipe.opened(Path(word)).items)
        else:
            yield word


def _save(pipe: Any, item: Any, result: Any, out: Path) -> Path:
    """Write one result; into a folder under the name of its item. ValueError where that is the item itself."""
    target = out / f"{Path(str(item)).stem}{pipe.suffix}" if out.is_dir() else out
    if item and target.exists() and Path(str(item)).exists() and target.samefile(str(item)):
        raise ValueError(f"--out would write over {str(item)!r} itself; give another name or folder")
    pipe.save(item, result, target)
    return target


def _plain(result: Any) -> Any:
    """Tensors and numbers of numpy as plain lists and numbers."""
    if hasattr(result, "tolist"):
        return result.tolist()
    if isinstance(result, dict):
        return {str(key): _plain(value) for key, value in result.items()}
    return [_plain(value) for value in result] if isinstance(result, (list, tuple)) else result


_MAIN = ("generated_text", "translation_text", "summary_text", "answer", "text")


def _print(item: Any, result: Any) -> None:
    """Results as a person would like to read them; `--json` is for programs."""
    if isinstance(result, list) and result and all(isinstance(entry, dict) for entry in result):
        for entry in result:
            _print(item, entry)
    elif isinstance(result, list) and all(isinstance(score, float) for score in result):
        typer.echo("  ".join(f"{score:.4f}" for score in result))
    elif isinstance(result, list) and result and isinstance(result[0], list):
        depth = _shape(result)
        typer.echo(f"{' x '.join(map(str, depth))} numbers (use --json to see them)")
    elif isinstance(result, dict):
        typer.echo(_line(result))
    else:
        typer.echo(f"{result:.4f}" if isinstance(result, float) else str(result))


def _shape(rows: Any) -> list[int]:
    return [len(rows), *_shape(rows[0])] if isinstance(rows, list) and rows else []


def _line(entry: dict[str, Any]) -> str:
    main = next((name for name in _MAIN if name in entry), None)
    if main is not None and not isinstance(entry[main], str):  # a conversation: its last message
        return str(entry[main][-1]["content"])
    if "labels" in entry and "scores" in entry:
        return "\n".join(f"{s:.4f}  {label}" for label, s in zip(entry["labels"], entry["scores"], strict=True))
    score = f"{entry['score']:.4f}  " if isinstance(entry.get("score"), float) else ""
    if main is not None:
        return score + (_timed(entry) if "chunks" in entry else entry[main].strip() if main == "text" else entry[main])
    rest = {name: value for name, value in entry.items() if name not in ("score", "token", "index")}
    names = ("sequence", "label", "entity_group", "image")
    label = next((rest.pop(name) for name in names if rest.get(name)), "")
    rest |= rest.pop("box", {})
    where = " ".join(f"{name}={value}" for name, value in rest.items() if name != "token_str")
    return f"{score}{label}" + (f"  ({where})" if where else "")


def _timed(entry: dict[str, Any]) -> str:
    """What was said, a line for each part with its seconds."""
    lines = []
    for chunk in entry["chunks"]:
        start, end = chunk.get("timestamp") or (None, None)
        when = "" if start is None else f"[{start:.2f} - {start if end is None else end:.2f}]  "
        lines.append(when + str(chunk["text"]).strip())
    return "\n".join(lines)


def register(app: typer.Typer) -> None:
    """Add this verb to the command."""
    app.command("run", epilog=_EPILOG)(run)
