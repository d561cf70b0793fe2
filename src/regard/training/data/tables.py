"""One reader for each kind of file: each gives rows as dicts, one at a time."""

from __future__ import annotations

import csv
import json
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from regard.training.data.files import head, lines

Path_ = str | os.PathLike[str]

BY = ("auto", "paragraph", "line", "file")
JSON_LIMIT = 2**30
"""Largest .json file; one that is larger should be .jsonl."""

_FIELD_LIMIT = 2**28
_SNIFF = ",;\t|"
_NAME_LIMIT = 64
_AT_ONCE = 200
_CSV_LOCK = threading.Lock()


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How files are read: see `read_rows`. `tolerant` notes what is wrong in `problems` instead of raising."""

    columns: Sequence[str] | None = None
    by: str = "auto"
    delimiter: str | None = None
    quoting: bool | None = None
    encoding: str | None = None
    limit: int | None = None
    tolerant: bool = False
    problems: list[str] = field(default_factory=list)

    def wrong(self, message: str) -> None:
        """Raise ValueError, or note the message and go on."""
        if not self.tolerant:
            raise ValueError(message)
        self.problems.append(message)

    def lines(self, path: Path_) -> Iterator[str]:
        """The lines of a file under these settings."""
        return lines(path, encoding=self.encoding, limit=self.limit)


# text


def text_rows(path: Path_, how: Reading) -> Iterator[dict[str, Any]]:
    """{"text"}: paragraphs where there are blank lines, or else lines; or as `by` says."""
    by = how.by
    if by == "auto":
        start = head(path).replace(b"\r\n", b"\n").replace(b"\0", b"").strip()
        by = "paragraph" if b"\n\n" in start or b"\r\r" in start else "line"
    if by == "file":
        yield {"text": "".join(how.lines(path))}
    elif by == "line":
        yield from ({"text": line.rstrip("\r\n")} for line in how.lines(path) if line.strip())
    else:
        for block in _blocks(how.lines(path)):
            yield {"text": "\n".join(block)}


def line_rows(path: Path_, how: Reading) -> list[str]:
    """All lines, empty ones too, as aligned files need them."""
    return [line.rstrip("\r\n") for line in how.lines(path)]


def _blocks(source: Iterable[str]) -> Iterator[list[str]]:
    block: list[str] = []
    for line in source:
        if line.strip():
            block.append(line.rstrip("\r\n"))
        elif block:
            yield block
            block = []
    if block:
        yield block


def tagged_rows(path: Path_, how: Reading) -> Iterator[dict[str, Any]]:
    """{"words", "tags"} of CoNLL files: a word and its columns a line, the tag last, blank lines between sentences."""
    for block in _blocks(line for line in how.lines(path) if not line.startswith(("-DOCSTART-", "# "))):
        cells = [line.split("\t") if "\t" in line else line.split() for line in block]
        short = next((line for line, row in zip(block, cells, strict=True) if len(row) < 2), None)
        if short is not None:
            how.wrong(f"{path}: the line {short[:80]!r} has a word and no tag")
            continue
        yield {"words": [row[0] for row in cells], "tags": [row[-1] for row in cells]}


def fasta_rows(path: Path_, how: Reading) -> Iterator[dict[str, Any]]:
    """{"id", "description", "text"} of FASTA: `>id description`, then the sequence on any number of lines."""
    row: dict[str, Any] | None = None
    parts: list[str] = []
    for number, line in enumerate(how.lines(path), 1):
        line = line.strip()
        if line.startswith(">"):
            if row is not None:
                yield {**row, "text": "".join(parts)}
            name, _, description = line[1:].partition(" ")
            row, parts = {"id": name, "description": description.strip()}, []
        elif line and not line.startswith(";"):
            if row is None:
                raise ValueError(f"{path}: line {number} is {line[:60]!r}; a FASTA file begins with '>'")
            parts.append(line)
    if row is not None:
        yield {**row, "text": "".join(parts)}


def smiles_rows(path: Path_, how: Reading) -> Iterator[dict[str, Any]]:
    """{"text"} and, where the line goes on after white space, {"name"}."""
    for line in how.lines(path):
        parts = line.split(None, 1)
        if parts:
            yield {"text": parts[0]} if len(parts) == 1 else {"text": parts[0], "name": parts[1].strip()}


# tables


def csv_rows(path: Path_, how: Reading) -> Iterator[dict[str, Any]]:
    """Rows of comma- or otherwise separated values; fields in double quotes may hold delimiters and new lines."""
    if how.delimiter is None:
        how = replace(how, delimiter=sniffed(path, how))
    return _table(path, how, quoted=how.quoting is not False)


def tsv_rows(path: Path_, how: Reading) -> Iterator[dict[str, Any]]:
    """Rows of tab-separated values. Quotes are ordinary characters, unless `quoting`, or the table only fits with."""
    how = replace(how, delimiter=how.delimiter or "\t")
    quoted = how.quoting if how.quoting is not None else _needs_quotes(path, how)
    return _table(path, how, quoted=quoted)


def _table(path: Path_, how: Reading, *, quoted: bool) -> Iterator[dict[str, Any]]:
    assert how.delimiter is not None
    records = _records(path, how, how.delimiter, quoted)
    first = next(records, None)
    if first is None:
        raise ValueError(f"{path} is empty")
    names, is_row = header(path, first[1], how)
    if is_row:
        yield from _fitted(path, names, iter([first]), how)
    yield from _fitted(path, names, records, how)


def _fitted(
    path: Path_, names: Sequence[str], records: Iterator[tuple[int, list[str]]], how: Reading
) -> Iterator[dict[str, Any]]:
    for number, cells in records:
        if len(cells) != len(names):
            how.wrong(
                f"{path}: line {number} has {len(cells)} fields, and there are {len(names)} columns "
                f"({', '.join(names)}): {_shown(cells)}"
            )
        yield dict(zip(names, cells, strict=False))


def _records(path: Path_, how: Reading, delimiter: str, quoted: bool) -> Iterator[tuple[int, list[str]]]:
    """(number of its last line, fields) of every record that is not blank."""
    if len(delimiter) != 1 or delimiter in '\r\n"':
        raise ValueError(f"delimiter is {delimiter!r}; allowed: one character, such as ',' or '\\t'")
    if not quoted:
        for number, line in enumerate(how.lines(path), 1):
            if line.strip("\r\n"):
                yield number, line.rstrip("\r\n").split(delimiter)
        return
    reader = csv.reader(how.lines(path), delimiter=delimiter, strict=True)
    while True:
        some: list[tuple[int, list[str]]] = []
        begin = 0
        try:
            with _long_fields():
                while len(some) < _AT_ONCE:
                    begin = reader.line_num + 1
                    record = next(reader)
                    if record:
                        some.append((reader.line_num, record))
        except StopIteration:
            yield from some
            return
        except csv.Error as error:
            raise ValueError(
                f"{path}: the record from line {begin} on has a stray quote ({error}); if quotes are ordinary "
                f"characters there, pass quoting=False"
            ) from None
        yield from some


@contextmanager
def _long_fields() -> Iterator[None]:
    """The csv module's limit on fields is one for the whole process: raised only while records are read."""
    with _CSV_LOCK:
        before = csv.field_size_limit(_FIELD_LIMIT)
        try:
            yield
        finally:
            csv.field_size_limit(before)


def header(path: Path_, first: list[str], how: Reading) -> tuple[list[str], bool]:
    """(names of the columns, whether the first record is a row and no header).

    ValueError shows the first record where it is no header and no `columns` are given; `tolerant` numbers them.
    """
    if how.columns is not None:
        names = list(how.columns)
        if len(set(names)) < len(names):
            raise ValueError(f"columns are {', '.join(names)}; allowed: a different name for each")
        if len(names) != len(first):
            raise ValueError(f"columns has {len(names)} names, but {path} has {len(first)} fields: {_shown(first)}")
        return names, [cell.strip() for cell in first] != names
    names = [cell.strip() for cell in first]
    if is_header(names):
        return names, False
    numbered = [f"column{i + 1}" for i in range(len(first))]
    how.wrong(
        f"{path} has no header: its first line is {_shown(first)}; name its {len(first)} columns, for example "
        f"columns={numbered}"
    )
    return numbered, True


def is_header(names: Sequence[str]) -> bool:
    """Whether these look like names of columns: all there, different, short, and not numbers."""
    return len(set(names)) == len(names) and all(
        name and len(name) <= _NAME_LIMIT and len(name.split()) <= 6 and to_number(name) is None for name in names
    )


def to_number(text: str) -> float | None:
    """What a text says as a number, or None. Unlike in Python's own code, "1_1" is none."""
    try:
        return None if "_" in text else float(text)
    except ValueError:
        return None


def _shown(cells: Sequence[str]) -> str:
    shown = ", ".join(repr(cell if len(cell) <= 40 else cell[:37] + "...") for cell in cells[:8])
    return shown + (", ..." if len(cells) > 8 else "")


def sniffed(path: Path_, how: Reading) -> str:
    """The delimiter of a .csv file: the one of , ; tab | by which its first records have the most equal fields."""
    best, found = (0, 0), ","
    for delimiter in _SNIFF:
        widths: list[int] = []
        try:
            for _, cells in _records(path, how, delimiter, how.quoting is not False):
                widths.append(len(cells))
                if len(widths) == 50:
                    break
        except ValueError:  # a stray quote under this delimiter; the reading proper will say so
            continue
        if not widths:
            continue
        usual = max(set(widths), key=lambda width: (widths.count(width), width))
        score = (round(100 * widths.count(usual) / len(widths)), usual) if usual > 1 else (0, 0)
        if score > best:
            best, found = score, delimiter
    return found


def _needs_quotes(path: Path_, how: Reading) -> bool:
    """Whether the first records agree in their number of fields only if quotes hold fields together."""
    assert how.delimiter is not None
    widths = []
    for quoted in (False, True):
        found = set()
        try:
            for k, (_, cells) in enumerate(_records(path, how, how.delimiter, quoted)):
                found.add(len(cells))
                if not quoted and k == 0 and cells and all(len(c) > 1 and c[0] == c[-1] == '"' for c in cells):
                    return True
                if k == 2000:
                    break
        except ValueError:
            return False
        widths.append(len(found))
    return widths[0] > 1 and widths[1] == 1


# JSON


def jsonl_rows(path: Path_, how: Reading) -> Iterator[dict[str, Any]]:
    """An object a line."""
    for number, line in enumerate(how.lines(path), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            how.wrong(f"{path}: line {number} is not JSON ({error}): {line.strip()[:80]!r}")
            continue
        if not isinstance(row, dict):
            how.wrong(f"{path}: line {number} is {line.strip()[:80]!r}; allowed: an object, {{...}}, on each line")
            continue
        yield row


def json_value(path: Path_, how: Reading) -> Any:
    """What a .json file holds."""
    limit = JSON_LIMIT if how.limit is None else how.limit
    text = "".join(lines(path, encoding=how.encoding, limit=limit))
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        more = "; a file with an object on each line should be called .jsonl" if "Extra data" in str(error) else ""
        raise ValueError(f"{path} is not JSON: {error}{more}") from None


def json_rows(path: Path_, how: Reading, value: Any = None) -> Iterator[dict[str, Any]]:
    """A list of objects, an object of equally long columns, {"data": [...]}, or questions as SQuAD publishes them."""
    value = json_value(path, how) if value is None else value
    if isinstance(value, dict):
        lists = {name: v for name, v in value.items() if isinstance(v, list)}
        if isinstance(value.get("data"), list):
            value = value["data"]
        elif lists and len(lists) == len(value) and len({len(v) for v in lists.values()}) == 1:
            value = [dict(zip(lists, row, strict=True)) for row in zip(*lists.values(), strict=True)]
        else:
            value = [value]
    if not isinstance(value, list):
        raise ValueError(f"{path} holds {str(value)[:80]!r}; allowed: a list of objects")
    for number, row in enumerate(value):
        if not isinstance(row, dict):
            yield {"value": row}
        elif isinstance(row.get("paragraphs"), list):
            yield from _questions(row, path, number)
        else:
            yield row


def _questions(article: Mapping[str, Any], path: Path_, number: int) -> Iterator[dict[str, Any]]:
    try:
        for paragraph in article["paragraphs"]:
            for question in paragraph["qas"]:
                answers = question.get("answers", [])
                yield {
                    "id": question.get("id"),
                    "title": article.get("title"),
                    "context": paragraph["context"],
                    "question": question["question"],
                    "answers": {
                        "text": [answer["text"] for answer in answers],
                        "answer_start": [answer["answer_start"] for answer in answers],
                    },
                }
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: data[{number}] is not as SQuAD has it: {error!r} is missing or wrong") from None


READERS: dict[str, Callable[[Path_, Reading], Iterator[dict[str, Any]]]] = {
    **dict.fromkeys((".txt", ".text", ".md"), text_rows),
    ".csv": csv_rows,
    **dict.fromkeys((".tsv", ".tab"), tsv_rows),
    **dict.fromkeys((".jsonl", ".ndjson"), jsonl_rows),
    ".json": json_rows,
    **dict.fromkeys((".conll", ".bio", ".iob", ".iob2"), tagged_rows),
    **dict.fromkeys((".fasta", ".fa", ".faa", ".fna"), fasta_rows),
    **dict.fromkeys((".smi", ".smiles"), smiles_rows),
}
"""Ending of a file's name, without .gz -> its reader; other text is read as .txt is."""


def suffix(path: Path_) -> str:
    """The ending that tells a file's kind, in lower case, without .gz."""
    name = Path(path).name.lower().removesuffix(".gz")
    return Path(name).suffix
