"""`regard data inspect FILE...` and `regard data tokenizer FILE -o FOLDER`: look at data, learn its vocabulary."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from regard.training.data.columns import Column
    from regard.training.data.inspect import Report

data = typer.Typer(no_args_is_help=True, help="Look at data before training, and train tokenizers.")

_MARKS = {"bad": ("!", "bold red"), "maybe": ("?", "yellow"), "note": ("-", "dim")}
_BAR = 30
_MOST_CLASSES = 12

_COLUMNS = typer.Option(None, help="Names of the columns of a table without a header: label,title,text")
_BY = typer.Option("auto", help="How plain text is cut: auto, paragraph, line, file.")
_ENCODING = typer.Option(None, help="UTF-8 unless said otherwise, such as cp1252.")
_SPLIT = typer.Option(None, help="The part to take where there are several, such as train.")


@data.command("inspect")
def inspect(
    files: list[Path] = typer.Argument(..., help="A file or folder; several are the parts of one data set."),
    aligned: bool = typer.Option(False, "--aligned", help="The files are line by line the sides of one data set."),
    columns: str = _COLUMNS,
    split: str = _SPLIT,
    by: str = _BY,
    encoding: str = _ENCODING,
    pattern: str = typer.Option(None, help="Columns from names of files: '(?P<label>[0-9])_.*'"),
    near: float = typer.Option(0.8, help="From which share of common three-word runs two texts are nearly the same."),
    no_quoting: bool = typer.Option(False, "--no-quoting", help="Quotes in tables are ordinary characters."),
    as_json: bool = typer.Option(False, "--json", help="Print as JSON."),
) -> None:
    """Say what is in files, and what looks wrong: lengths, classes, duplicates, odd rows, leaks between parts."""
    from rich.console import Console

    from regard.training.data.inspect import compare, inspect_data

    if not 0 < near <= 1:
        raise ValueError(f"--near is {near}; allowed: above 0, at most 1")
    reading = _reading(columns, split, by, encoding) | {"pattern": pattern, "quoting": False if no_quoting else None}
    if aligned:
        if len(files) < 2:
            raise ValueError("--aligned needs two files and more, such as train.en train.de")
        sources: list[Any] = [{_side(path, files): path for path in files}]
    else:
        sources = list(files)
    reports = [inspect_data(source, near=near, **reading) for source in sources]
    between = compare(reports, near=near) if len(reports) > 1 else []
    if as_json:
        found = {"files": [report.to_dict() for report in reports], "between": [asdict(one) for one in between]}
        typer.echo(json.dumps(found, indent=1, ensure_ascii=False))
        return
    console = Console(highlight=False)
    for report in reports:
        _show(console, report)
    if len(reports) > 1:
        console.print("between the files", style="bold")
        for one in between:
            _finding(console, "", one)
        if not between:
            console.print("  nothing looks wrong: no row of one is in another", style="green")


def _side(path: Path, files: list[Path]) -> str:
    """The name of a side: what tells its file from the others, "en" of train.en.gz."""
    parts = path.name.removesuffix(".gz").split(".")
    others = {part for other in files if other != path for part in other.name.split(".")}
    return next((part for part in reversed(parts) if part not in others), path.name)


def _reading(columns: str | None, split: str | None, by: str, encoding: str | None) -> dict[str, Any]:
    named = [name.strip() for name in columns.split(",")] if columns else None
    return {"columns": named, "split": split, "by": by, "encoding": encoding}


def _show(console: Console, report: Report) -> None:
    from rich.table import Table

    console.print(f"{report.source or 'data'}: {report.rows:,} rows", style="bold", markup=False)
    if report.columns:
        table = Table(box=None, pad_edge=True)
        for name in ("column", "kind", "empty", "distinct", "content"):
            table.add_column(name, overflow="fold", justify="right" if name in ("empty", "distinct") else "left")
        for column in report.columns:
            empty = report.rows - column.filled
            distinct = "" if column.distinct is None else f"{column.distinct:,}"
            table.add_row(column.name, column.kind, f"{empty:,}" if empty else "", distinct, _content(column))
        console.print(table)
    drawn = [column for column in report.columns if "histogram" in column.facts or "classes" in column.facts]
    for column in drawn[:6]:
        _bars(console, column)
    for name, finding in report.all_findings():
        _finding(console, name, finding)
    if not report.all_findings():
        console.print("  nothing looks wrong", style="green")
    console.print()


def _content(column: Column) -> str:
    facts = column.facts
    if "words" in facts:
        words, chars = facts["words"], facts["chars"]
        if facts["unit"] == "chars":
            return (
                f"{chars['50']:,.0f} characters ({chars['0']:,.0f} to {chars['100']:,.0f}, 95 % up to "
                f"{chars['95']:,.0f}); {facts['letters']} different ones"
            )
        return (
            f"{words['50']:,.0f} words ({words['0']:,.0f} to {words['100']:,.0f}, 95 % up to {words['95']:,.0f}), "
            f"{chars['50']:,.0f} characters (up to {chars['100']:,.0f}); {facts['total_words']:,} words in all"
        )
    if "classes" in facts and column.kind == "class":
        return ", ".join(f"{name} {count:,}" for name, count in list(facts["classes"].items())[:5]) + (
            ", ..." if len(facts["classes"]) > 5 else ""
        )
    if "mean" in facts:
        seen = facts["percentiles"]
        ends = f"{seen['0']:.4g} to {seen['100']:.4g}, median {seen['50']:.4g}"
        return f"{ends}, mean {facts['mean']:.4g} ± {facts['std']:.4g}"
    if "step" in facts:
        return f"{facts['first']} to {facts['last']}, a row each {facts['step']}"
    if "items" in facts:
        return f"{facts['items']['50']:,.0f} items (up to {facts['items']['100']:,.0f})"
    if "seconds" in facts:
        seconds = facts["seconds"]
        total = facts["total_seconds"]
        return (
            f"{', '.join(facts['kinds'])}; {seconds['50']:.2f} s ({seconds['0']:.2f} to {seconds['100']:.2f}), "
            + (f"{total / 3600:.1f} h" if total > 3600 else f"{total:.1f} s")
            + " in all"
        )
    if "width" in facts:
        width, height = facts["width"], facts["height"]
        sizes = f"{width['0']:.0f}x{height['0']:.0f}"
        if (width["0"], height["0"]) != (width["100"], height["100"]):
            sizes += f" to {width['100']:.0f}x{height['100']:.0f}"
        return f"{sizes}, {', '.join(facts['kinds'])}"
    if "examples" in facts:
        return ", ".join(facts["examples"])
    return ", ".join(facts.get("keys", ()))


def _bars(console: Console, column: Column) -> None:
    from rich.text import Text

    classes = column.facts.get("classes")
    if classes is not None:
        lines = [(str(name), count) for name, count in list(classes.items())[:_MOST_CLASSES]]
        if len(classes) > _MOST_CLASSES:
            lines.append((f"{len(classes) - _MOST_CLASSES} more", sum(list(classes.values())[_MOST_CLASSES:])))
        title = column.name
    else:
        bins = column.facts["histogram"]
        lines = [(_span(low, high), count) for low, high, count in bins]
        title = f"{column.name}, {column.facts.get('unit', 'values')}"
    console.print(f"  {title}", style="dim", markup=False)
    most = max(count for _, count in lines)
    width = min(40, max(len(name) for name, _ in lines))
    for name, count in lines:
        bar = "█" * round(_BAR * count / most) or ("▏" if count else "")
        console.print(Text(f"  {name[:width]:>{width}} {bar} {count:,}"), soft_wrap=True)


def _span(low: float, high: float) -> str:
    return f"{low:,.6g}" if low == high else f"{low:,.6g} to {high:,.6g}"


def _finding(console: Console, column: str, finding: Any) -> None:
    mark, style = _MARKS[finding.level]
    where = f"{column}: " if column else ""
    count = ""
    if finding.rows:
        some = ", ".join(map(str, finding.rows[:3])) + (", ..." if finding.count > 3 else "")
        count = f": {finding.count:,} row{'s' if finding.count > 1 else ''} ({some})"
    elif finding.count > 1:
        count = f" ({finding.count:,})"
    console.print(f"  {mark} {where}{finding.message}{count}", style=style, markup=False, soft_wrap=True)


@data.command("tokenizer")
def tokenizer(
    files: list[Path] = typer.Argument(..., help="Files of text, or tables with a column of it."),
    out: Path = typer.Option(..., "--out", "-o", help="The folder to write to."),
    kind: str = typer.Option("bpe", help="bpe, wordpiece, unigram or characters."),
    vocab_size: int = typer.Option(8000, help="Most tokens, special ones included."),
    use: str = typer.Option(None, help="causal, masked or seq2seq: which special tokens there are."),
    text: str = typer.Option("text", help="The column to learn from; several as source,target"),
    special: list[str] = typer.Option([], help="A special token more; may be given several times."),
    lowercase: bool = typer.Option(False, "--lowercase", help="Write everything in lower case."),
    max_length: int = typer.Option(None, help="Longest text that the model is to take."),
    columns: str = _COLUMNS,
    by: str = _BY,
    encoding: str = _ENCODING,
) -> None:
    """Learn a tokenizer from texts and save it where models and transformers find it."""
    from regard.training.data.read import read_rows
    from regard.training.data.rows import column_of
    from regard.training.data.tokenizer import train_tokenizer

    tables = [read_rows(path, **_reading(columns, None, by, encoding)) for path in files]
    texts = [t for table in tables for name in text.split(",") for t in column_of(table, name.strip()) if t is not None]
    made = train_tokenizer(
        texts,
        out,
        kind=kind,
        vocab_size=vocab_size,
        use=use,
        special_tokens=special,
        lowercase=lowercase,
        max_length=max_length,
    )
    some = texts[:: max(1, len(texts) // 2000)]
    tokens = sum(len(ids) for ids in made(some, add_special_tokens=False)["input_ids"])
    chars = sum(map(len, some))
    typer.echo(
        f"{out}: {len(made):,} tokens from {len(texts):,} texts; {chars / max(1, tokens):.2f} characters a token"
    )


def register(app: typer.Typer) -> None:
    """Add this verb to the command."""
    app.add_typer(data, name="data")
