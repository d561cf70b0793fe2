"""Reading: every kind of file gives its rows, and what is wrong with one is said with its line."""

from __future__ import annotations

import csv
import gzip
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from regard.training.data.read import iter_rows, read_rows, read_splits
from regard.training.data.rows import Rows, column_of

AWKWARD = [
    {"text": "plain", "label": "a"},
    {"text": 'she said "no", twice', "label": "b"},
    {"text": "two\nlines", "label": "a"},
    {"text": "tab\there; semi|bar", "label": "ü"},
    {"text": "日本語 🙂 \u200d", "label": ""},
    {"text": "x" * 200_000, "label": "long"},
]


def write(path: Path, text: str, encoding: str = "utf-8") -> Path:
    data = text.encode(encoding)
    path.write_bytes(gzip.compress(data, mtime=0) if path.suffix == ".gz" else data)
    return path


@pytest.mark.parametrize("end", ["", ".gz"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_csv_as_the_standard_library_writes_it(tmp_path: Path, delimiter: str, encoding: str, end: str) -> None:
    plain = tmp_path / "plain"
    with open(plain, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ["text", "label"], delimiter=delimiter)
        writer.writeheader()
        writer.writerows(AWKWARD)
    path = write(tmp_path / f"rows.csv{end}", plain.read_bytes().decode(), encoding)
    before = csv.field_size_limit()
    assert list(read_rows(path)) == AWKWARD
    assert csv.field_size_limit() == before


def test_json_and_lines_of_it(tmp_path: Path) -> None:
    lines = "\n".join(json.dumps(row) for row in AWKWARD) + "\n\n"
    assert list(read_rows(write(tmp_path / "a.jsonl.gz", lines))) == AWKWARD
    assert list(read_rows(write(tmp_path / "a.json", json.dumps(AWKWARD)))) == AWKWARD
    assert list(read_rows(write(tmp_path / "b.json", json.dumps({"data": AWKWARD})))) == AWKWARD
    columns = {name: [row[name] for row in AWKWARD] for name in ("text", "label")}
    assert list(read_rows(write(tmp_path / "c.json", json.dumps(columns)))) == AWKWARD
    uneven = read_rows(write(tmp_path / "d.jsonl", '{"a": 1}\n{"b": [2]}\n'))
    assert list(uneven) == [{"a": 1, "b": None}, {"a": None, "b": [2]}]


def test_questions_as_squad_has_them(tmp_path: Path) -> None:
    answer = {"text": "cat", "answer_start": 2}
    question = {"id": "q", "question": "Who?", "answers": [answer]}
    article = {"title": "T", "paragraphs": [{"context": "a cat", "qas": [question]}]}
    rows = read_rows(write(tmp_path / "q.json", json.dumps({"version": "1", "data": [article]})))
    wanted = {"id": "q", "title": "T", "context": "a cat", "question": "Who?"}
    assert list(rows) == [{**wanted, "answers": {"text": ["cat"], "answer_start": [2]}}]
    with pytest.raises(ValueError, match=r"data\[0\] is not as SQuAD"):
        read_rows(write(tmp_path / "q.json", json.dumps([{"paragraphs": [{"qas": [{}]}]}])))


def test_tsv_takes_quotes_as_they_are_unless_the_table_needs_them(tmp_path: Path) -> None:
    loose = write(tmp_path / "a.tsv", 'id\ttext\n1\t"Quoted" start\n2\t"unbalanced\n3\tsay ""hi""\n')
    assert [row["text"] for row in read_rows(loose)] == ['"Quoted" start', '"unbalanced', 'say ""hi""']
    tight = write(tmp_path / "b.tsv", 'id\ttext\n1\t"two\nlines, one ""tab"""\n2\tx\n')
    assert [row["text"] for row in read_rows(tight)] == ['two\nlines, one "tab"', "x"]
    named = write(tmp_path / "c.tsv", '"id"\t"text"\n"1"\t"x"\n')
    assert list(read_rows(named)) == [{"id": "1", "text": "x"}]


def test_text_by_paragraph_line_and_file(tmp_path: Path) -> None:
    text = "one\ntwo\n\n\nthree  \r\n \nfour"
    path = write(tmp_path / "a.txt", text)
    assert [row["text"] for row in read_rows(path)] == ["one\ntwo", "three  ", "four"]
    assert [row["text"] for row in read_rows(path, by="line")] == ["one", "two", "three  ", "four"]
    assert [row["text"] for row in read_rows(path, by="file")] == [text]
    assert [row["text"] for row in read_rows(write(tmp_path / "b.en", "a\nb\n"))] == ["a", "b"]
    assert [row["text"] for row in iter_rows(path)] == ["one\ntwo", "three  ", "four"]
    assert [row["text"] for row in read_rows(write(tmp_path / "mac.txt", "a\rb\r"))] == ["a", "b"]


def test_sequences_molecules_and_tags(tmp_path: Path) -> None:
    fasta = write(tmp_path / "a.fa", ">p1 first one\nMK\nLV\n\n>p2\nGG\n")
    assert list(read_rows(fasta)) == [
        {"id": "p1", "description": "first one", "text": "MKLV"},
        {"id": "p2", "description": "", "text": "GG"},
    ]
    assert list(read_rows(write(tmp_path / "a.smi", "CCO ethyl alcohol\nC\n"))) == [
        {"text": "CCO", "name": "ethyl alcohol"},
        {"text": "C", "name": None},
    ]
    conll = "-DOCSTART- -X- O O\n\nEU NNP B-ORG\nrejects VBZ O\n\nPeter NNP B-PER\n"
    assert list(read_rows(write(tmp_path / "a.conll", conll))) == [
        {"words": ["EU", "rejects"], "tags": ["B-ORG", "O"]},
        {"words": ["Peter"], "tags": ["B-PER"]},
    ]


def test_aligned_files_and_several_files(tmp_path: Path) -> None:
    english, german = write(tmp_path / "a.en", "one\n\nthree\n"), write(tmp_path / "a.de.gz", "eins\nzwei\ndrei\n")
    assert list(read_rows({"source": english, "target": german})) == [
        {"source": "one", "target": "eins"},
        {"source": "", "target": "zwei"},
        {"source": "three", "target": "drei"},
    ]
    short = write(tmp_path / "b.de", "eins\n")
    with pytest.raises(ValueError, match=r"a\.en has 3, .*b\.de has 1"):
        read_rows({"source": english, "target": short})
    one, two = write(tmp_path / "1.jsonl", '{"a": 1}\n'), write(tmp_path / "2.jsonl", '{"a": 2}\n')
    assert [row["a"] for row in read_rows([one, two])] == [1, 2]
    with pytest.raises(ValueError, match="has the columns a, but"):
        read_rows([english, one])


def test_data_in_memory_is_passed_through() -> None:
    rows = [{"text": "a"}, {"text": "b"}]
    assert read_rows(rows) is rows
    datasets = pytest.importorskip("datasets")
    table = datasets.Dataset.from_list(rows)
    assert read_rows(table) is table
    assert column_of(table, "text") == ["a", "b"]
    both = datasets.DatasetDict({"train": table, "validation": table.select([0])})
    assert read_rows(both, split="train") is table
    assert len(read_rows(both, split="val")) == 1
    assert {name: len(part) for name, part in read_splits(both).items()} == {"train": 2, "validation": 1}
    with pytest.raises(ValueError, match="holds train, validation; say which with split"):
        read_rows(both)
    with pytest.raises(ValueError, match="row 0 is 'a'"):
        read_rows(_Texts())


class _Texts:
    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> str:
        return "a"


# folders


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")


def test_images_by_class_and_split(tmp_path: Path) -> None:
    touch(*(tmp_path / s / c / f"{i}.PNG" for s in ("train", "val") for c in ("cat", "dog") for i in range(2)))
    touch(tmp_path / "train" / "cat" / ".hidden.png", tmp_path / "train" / "cat" / "notes.txt")
    rows = read_rows(tmp_path, split="train")
    assert [(Path(r["image"]).name, r["label"]) for r in rows] == [
        (f"{i}.PNG", c) for c in ("cat", "dog") for i in (0, 1)
    ]
    assert len(read_rows(tmp_path / "val")) == 4
    assert sorted(read_splits(tmp_path)) == ["train", "valid"]
    with pytest.raises(ValueError, match="holds train, val; say which"):
        read_rows(tmp_path)
    with pytest.raises(ValueError, match="split is 'test'"):
        read_rows(tmp_path, split="test")


def test_captions_and_metadata(tmp_path: Path) -> None:
    touch(tmp_path / "images" / "a.png", tmp_path / "images" / "b.png")
    table = write(tmp_path / "captions.tsv", "file\tcaption\tkind\na.png\tAn a.\tletter\nimages/b.png\tA b.\tletter\n")
    rows = read_rows(tmp_path)
    assert [(Path(row["image"]).name, row["text"]) for row in rows] == [("a.png", "An a."), ("b.png", "A b.")]
    write(table, "file\tcaption\nc.png\tA c.\na.png\tA.\n")
    with pytest.raises(ValueError, match=r"row 0 names 'c\.png'"):
        read_rows(tmp_path)
    some = read_rows(tmp_path, tolerant=True)
    assert len(some) == 1 and len(some.problems) == 1
    write(table, "file\tcaption\n../../x.png\tA c.\n")
    with pytest.raises(ValueError, match="which is not in"):
        read_rows(tmp_path, tolerant=True)


def test_sounds_with_transcripts(tmp_path: Path) -> None:
    libri = tmp_path / "libri"
    touch(libri / "19" / "198" / "19-198-0000.flac", libri / "19" / "198" / "19-198-0001.flac")
    write(libri / "19" / "198" / "19-198.trans.txt", "19-198-0000 HELLO THERE\n19-198-0001 BYE\n")
    rows = read_rows(libri)
    assert [(row["id"], row["speaker"], row["text"]) for row in rows] == [
        ("19-198-0000", "19", "HELLO THERE"),
        ("19-198-0001", "19", "BYE"),
    ]
    folder = tmp_path / "hf"
    touch(folder / "clips" / "a.wav")
    write(folder / "metadata.csv", "file_name,transcription\nclips/a.wav,hi\n")
    write(folder / "more.csv", "x,y\n1,2\n")
    assert [(Path(r["audio"]).name, r["text"]) for r in read_rows(folder)] == [("a.wav", "hi")]
    beside = tmp_path / "beside"
    touch(beside / "x.wav", beside / "y.wav")
    write(beside / "x.txt", "words\n")
    with pytest.raises(ValueError, match=r"1 of 2 files have no \.txt"):
        read_rows(beside)
    assert [r["text"] for r in read_rows(beside, tolerant=True)] == ["words"]


def test_columns_from_names_of_files(tmp_path: Path) -> None:
    touch(tmp_path / "0_ann_1.wav", tmp_path / "7_bob_2.wav")
    rows = read_rows(tmp_path, pattern=r"(?P<label>\d)_(?P<speaker>[a-z]+)_")
    assert [(r["label"], r["speaker"]) for r in rows] == [("0", "ann"), ("7", "bob")]
    for pattern, said in (("(", "no regular expression"), ("x", "named groups"), ("(?P<a>x)", "does not fit")):
        with pytest.raises(ValueError, match=said):
            read_rows(tmp_path, pattern=pattern)


def test_a_folder_of_one_table_a_split(tmp_path: Path) -> None:
    for name in ("train", "val", "test"):
        write(tmp_path / f"{name}.jsonl", f'{{"a": "{name}"}}\n')
    assert read_rows(tmp_path, split="validation")[0] == {"a": "val"}
    with pytest.raises(ValueError, match="holds test, train, valid; say which"):
        read_rows(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="holds nothing; allowed: images, sounds, or one table"):
        read_rows(tmp_path / "empty")


# what is wrong


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.csv", b"a,b\n1,2\n1,2,3\n", r"line 3 has 3 fields, and there are 2 columns \(a, b\): '1', '2', '3'"),
        ("a.csv", b'a,b\n1,"open\n', "the record from line 2 on has a stray quote"),
        ("a.csv", b"a,b\n1,caf\xe9\n", r"not UTF-8: line 2, byte 9 of the file is 0xE9, near .*cp1252"),
        ("a.csv", b'"3","Fears for T N"\n"4","The Race"\n', r"has no header: its first line is '3', 'Fears for T N'"),
        ("a.csv", b"a,a\n1,2\n", "has no header"),
        ("a.csv", b"", "is empty"),
        ("a.tsv", b"a\tb\n1\n", "line 2 has 1 fields"),
        ("a.txt", b"ab\0cd", "not text: it has a zero byte at offset 2"),
        ("a.jsonl", b'{"a": 1}\n{"a": \n', "line 2 is not JSON"),
        ("a.jsonl", b"[1]\n", r"line 1 is '\[1\]'; allowed: an object"),
        ("a.jsonl", b"[" * 100_000, "line 1 is not JSON"),
        ("a.json", b'{"a": 1}\n{"a": 2}', "should be called .jsonl"),
        ("a.json", b"3", "holds '3'; allowed: a list of objects"),
        ("a.fa", b"MKV\n", "line 1 is 'MKV'; a FASTA file begins with '>'"),
        ("a.conll", b"word\n", "'word' has a word and no tag"),
        ("a.parquet", b"PAR1", "is Parquet, which is not read; allowed: .txt"),
        ("a.bin", b"\x00\x01", "not text"),
        ("a.txt.gz", gzip.compress(b"hello" * 99, mtime=0)[:-12], "is a damaged gzip file"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, name: str, content: bytes, said: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=said) as error:
        read_rows(tmp_path / name)
    assert name in str(error.value)


def test_options_that_do_not_fit(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "1,2\n3,4\n")
    assert list(read_rows(path, columns=["a", "b"])) == [{"a": "1", "b": "2"}, {"a": "3", "b": "4"}]
    assert list(read_rows(write(tmp_path / "b.csv", "a,b\n3,4\n"), columns=["a", "b"])) == [{"a": "3", "b": "4"}]
    bad: list[tuple[dict[str, Any], str]] = [
        ({"columns": ["a"]}, "columns has 1 names, but"),
        ({"columns": ["a", "a"]}, "a different name for each"),
        ({"by": "word"}, "by is 'word'"),
        ({"encoding": "klingon"}, "encoding is 'klingon'"),
        ({"delimiter": ",,", "columns": ["a", "b"]}, "delimiter is ',,'"),
        ({"limit": 3}, "larger than 3 bytes"),
    ]
    for options, said in bad:
        with pytest.raises(ValueError, match=said):
            read_rows(path, **options)
    with pytest.raises(ValueError, match="there is no file or folder"):
        read_rows(tmp_path / "nope.csv")
    with pytest.raises(ValueError, match="a int is no data"):
        read_rows(3)  # type: ignore[arg-type]
    assert read_rows(write(tmp_path / "l.csv", "a,b\ncafé,2\n", "cp1252"), encoding="cp1252")[0]["a"] == "café"


def test_a_bomb_of_gzip_is_bounded(tmp_path: Path) -> None:
    path = tmp_path / "a.txt.gz"
    path.write_bytes(gzip.compress(b"word\n" * 4_000_000, mtime=0))
    with pytest.raises(ValueError, match="larger than 1,000 bytes"):
        read_rows(path, limit=1000)


def test_tolerant_reading_notes_what_it_met(tmp_path: Path) -> None:
    rows = read_rows(write(tmp_path / "a.csv", "a,b\n1,2\n1,2,3\n4\n"), tolerant=True)
    assert list(rows) == [{"a": "1", "b": "2"}, {"a": "1", "b": "2"}, {"a": "4", "b": None}]
    assert [problem.split(": ")[1].split(",")[0] for problem in rows.problems] == [
        "line 3 has 3 fields",
        "line 4 has 1 fields",
    ]


def test_rows_are_a_sequence() -> None:
    rows = Rows.of([{"a": i, "b": str(i)} for i in range(5)], source="x.csv")
    assert rows[-1] == {"a": 4, "b": "4"} and list(rows[1:3]) == [{"a": 1, "b": "1"}, {"a": 2, "b": "2"}]
    assert [row["a"] for row in rows.select([3, 0])] == [3, 0]
    assert rows.renamed({"a": "z"}).column_names == ["z", "b"]
    assert rows.with_column("c", range(5))[2] == {"a": 2, "b": "2", "c": 2}
    with pytest.raises(ValueError, match=r"x\.csv has no column 'q'; there are 'a', 'b'"):
        rows.column("q")
    with pytest.raises(IndexError):
        rows[5]
    with pytest.raises(ValueError, match="row 1 has no 'a'; it has 'b'"):
        column_of([{"a": 1}, {"b": 2}], "a")


def test_any_table_survives_writing_and_reading(tmp_path: Path) -> None:
    rng = random.Random(0)
    letters = 'ab,;\t|"\n\r é日'
    for trial in range(60):
        rows = [{"x": "".join(rng.choices(letters, k=rng.randint(0, 8))), "y": "."} for _ in range(6)]
        path = tmp_path / f"{trial}.csv"
        with open(path, "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, ["x", "y"], quoting=csv.QUOTE_ALL)
            writer.writeheader()
            writer.writerows(rows)
        assert list(read_rows(path)) == rows


def test_real_files(data: Callable[[str], Path]) -> None:
    news = read_rows(data("data/ag_news/test.csv"), columns=["label", "title", "text"])
    assert len(news) == 7600 and {row["label"] for row in news} == set("1234")
    for name, count in (("movie", 10_605), ("tweets", 4_200), ("amazon", 3_708), ("nyt", 5_190)):
        rows = read_rows(data(f"data/sentiment/{name}.tsv.gz"))
        assert len(rows) == count and all(-4 <= float(r["rating"]) <= 4 and r["text"] for r in rows)
    pairs = {name: data(f"data/multi30k/train.{name}.gz") for name in ("en", "de", "fr")}
    assert len(read_rows(pairs)) == 29_000
    assert len(read_rows(data("data/captions"))) == 785
    speech = read_rows(data("data/speech"))
    assert len(speech) == 25 and all(Path(r["audio"]).is_file() and r["text"] for r in speech)
    assert len(read_rows(data("data/fsdd/recordings"), pattern=r"(?P<label>\d)_")) == 3000
    assert {len(row["text"]) >= 50 for row in read_rows(data("data/proteins/uniprot_2000.fasta.gz"))} == {True}
    parts = read_splits(data("data/summaries"))
    assert {name: len(rows) for name, rows in parts.items()} == {"train": 23_266, "valid": 1_355, "test": 1_379}
