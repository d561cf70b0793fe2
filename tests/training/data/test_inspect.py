"""What `inspect_data` finds was put there, and it finds nothing where nothing is wrong; the command says the same."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from regard.training.data.columns import histogram, look_at
from regard.training.data.inspect import compare, inspect_data
from tests.conftest import ROOT

WORDS = [f"word{i}" for i in range(500)]


def texts(count: int, seed: int = 0) -> list[str]:
    rng = random.Random(seed)
    return [" ".join(rng.choices(WORDS, k=rng.randint(8, 20))) for _ in range(count)]


def good(count: int = 200, seed: int = 0) -> list[dict[str, Any]]:
    return [{"text": text, "label": ("no", "yes")[i % 2]} for i, text in enumerate(texts(count, seed))]


def said(report: Any) -> list[tuple[str, str, int]]:
    return [
        (name, finding.message.split(" (")[0].split(":")[0], finding.count) for name, finding in report.all_findings()
    ]


def test_nothing_is_wrong_with_good_data() -> None:
    report = inspect_data(good())
    assert said(report) == []
    assert [(column.name, column.kind, column.filled) for column in report.columns] == [
        ("text", "text", 200),
        ("label", "class", 200),
    ]
    words = [len(text.split()) for text in texts(200)]
    facts = report.columns[0].facts
    assert facts["total_words"] == sum(words) and facts["words"]["50"] == np.median(words)
    assert facts["words"]["0"] == min(words) and facts["words"]["100"] == max(words)
    assert sum(count for _, _, count in facts["histogram"]) == 200
    assert report.columns[1].facts["classes"] == {"no": 100, "yes": 100}
    json.dumps(report.to_dict())


def test_everything_that_is_wrong_is_found() -> None:
    rows = good()
    rows[3] = {"text": rows[1]["text"], "label": "no"}  # the same text as row 1, "yes"
    rows[5] = dict(rows[2], label="no")
    rows[7]["text"] = rows[6]["text"] + " more"
    rows[9]["text"] = ""
    rows[11]["text"] = "caf\ufffd au lait"
    rows[13]["text"] = "CafÃ© crÃ¨me is nice"
    rows[15]["text"] = "bell \x07 rings"
    rows[17]["text"] = "a &lt;b&gt; tag"
    rows[19]["text"] = "?!"
    rows[21]["text"] = "word " * 1000
    rows[23]["text"] = "cafe\u0301 in pieces"
    rows[25]["label"] = "Yes"
    rows[27]["label"] = None
    report = inspect_data(rows)
    found = set(said(report))
    assert {
        ("", "text the same as in an earlier row, but label differs", 1),
        ("", "rows the same as an earlier one", 1),
        ("", "text nearly the same as in an earlier row", 1),
        ("text", "empty", 1),
        ("text", "text that was decoded wrongly once", 1),
        ("text", "text that looks like UTF-8 read as another encoding", 1),
        ("text", "control characters", 1),
        ("text", "remains of HTML", 1),
        ("text", "no letter and no digit", 1),
        ("text", "far longer than the rest", 1),
        ("text", "characters in pieces", 1),
        ("label", "classes that differ in capitals only, such as 'yes'", 1),
        ("label", "empty", 1),
    } <= found
    where = {f.message.split(" (")[0]: f.rows for _, f in report.all_findings()}
    assert where["text the same as in an earlier row, but label differs"] == (3,)
    assert where["text nearly the same as in an earlier row"] == (7,)
    assert where["control characters"] == (15,) and where["far longer than the rest"] == (21,)
    assert [f.level for _, f in report.all_findings()] == sorted(
        (f.level for _, f in report.all_findings()), key=["bad", "maybe", "note"].index
    )


@pytest.mark.parametrize(
    ("values", "kind", "message"),
    [
        (["1", "2", "3"] * 40, "class", None),
        ([str(i * 7 % 97) for i in range(300)], "integer", None),
        ([f"{i / 7:.3f}" for i in range(100)], "number", None),
        ([f"{i / 7:.3f}" for i in range(99)] + ["n/a"], "number", "not a number, such as 'n/a'"),
        ([0.5, float("inf")] + [i / 3 for i in range(98)], "number", "NaN or infinite"),
        ([1.5] * 30, "number", "always 1.5"),
        ([f"2020-01-{d:02}" for d in range(1, 29)], "date", None),
        ([f"2020-01-{d:02}" for d in range(1, 29) if d != 9], "date", "not 1 day"),
        ([f"doc_{i}" for i in range(50)], "id", None),
        ([f"{i}_1" for i in range(50)], "id", None),
        (["a"] * 95 + ["b"] * 5, "class", "unbalanced"),
        (["a"] * 40, "class", "always 'a'"),
        ([None, "", " ", float("nan")], "empty", "nothing in it"),
        ([[1, 2], [3]], "list", None),
        ([{"a": 1}, {"b": 2}], "object", None),
        ([{"a": 1}, [1], "x"], "object", "values of several kinds"),
        (["train"] * 90 + ["test"] * 5, "class", "says to which part"),
    ],
)
def test_kinds_of_columns(values: list[Any], kind: str, message: str | None) -> None:
    column = look_at("x", values)
    assert column.kind == kind
    assert (message is None and column.findings == []) or column.findings[0].message.startswith(str(message))


def test_a_histogram_counts_everything_once() -> None:
    rng = np.random.default_rng(0)
    for values in (rng.normal(size=500), rng.integers(0, 7, 300), rng.integers(0, 1000, 300), np.ones(5)):
        bins = histogram(values)
        assert sum(count for _, _, count in bins) == len(values)
        assert bins[0][0] == values.min() and bins[-1][1] == values.max()
        if values.dtype.kind == "i":
            for low, high, count in bins:
                assert ((values >= low) & (values <= high)).sum() == count


def test_leaks_and_differences_between_files() -> None:
    train, test = good(300, 0), good(60, 1)
    assert compare([inspect_data(train), inspect_data(test)]) == []
    test[4]["text"] = train[9]["text"]
    test[6]["text"] = train[12]["text"] + " more"
    test[8]["label"] = "maybe"
    found = compare([inspect_data(train), inspect_data(test)])
    assert [(one.count, one.rows) for one in found] == [(1, ()), (1, (4,)), (1, (6,))]
    assert "'maybe'" in found[0].message and "row 4 as 9" in found[1].message and "row 6 as 12" in found[2].message
    lacking = compare([inspect_data(train), inspect_data([{"text": t} for t in texts(60, 5)])])
    assert "lacks columns" in lacking[0].message
    both = [{**row, "split": "train"} for row in train] + [{**row, "split": "dev"} for row in test]
    inner = [f for _, f in inspect_data(both).all_findings() if "dev has text that train has too" in f.message]
    assert [(f.count, f.rows) for f in inner] == [(2, (304, 306))]


def test_sides_of_a_translation() -> None:
    rows = [{"en": text, "de": text.replace("word", "wort")} for text in texts(100)]
    assert said(inspect_data(rows)) == []
    rows[4]["de"] = rows[4]["en"]
    rows[8]["de"] = "kurz"
    assert ("", "en and de are the same", 1) in said(inspect_data(rows))
    assert ("", "en and de of very different length than elsewhere", 1) in said(inspect_data(rows))


def test_images_and_sounds(tmp_path: Path) -> None:
    pil, soundfile = pytest.importorskip("PIL.Image"), pytest.importorskip("soundfile")
    rng = np.random.default_rng(0)
    for i in range(6):
        pil.fromarray(rng.integers(0, 255, (10, 8 + i, 3), dtype=np.uint8)).save(tmp_path / f"{i}.png")
    (tmp_path / "6.png").write_bytes((tmp_path / "2.png").read_bytes())
    (tmp_path / "7.png").write_bytes(b"broken")
    column = inspect_data(tmp_path).columns[0]
    assert column.kind == "image" and column.facts["width"]["100"] == 13 and column.facts["height"]["0"] == 10
    assert [(f.message.split(":")[0].split(",")[0], f.rows) for f in column.findings] == [
        ("cannot be read", (7,)),
        ("the same file as an earlier one", (6,)),
    ]
    sounds = tmp_path / "sounds"
    sounds.mkdir()
    for i in range(3):
        soundfile.write(sounds / f"{i}.wav", rng.normal(0, 0.1, 800 * (i + 1)), 8000)
    column = inspect_data(sounds).columns[0]
    assert column.facts["seconds"]["50"] == pytest.approx(0.2) and column.facts["total_seconds"] == pytest.approx(0.6)
    assert column.facts["kinds"] == {"8000 Hz mono": 3}


def test_files_that_are_not_quite_right(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes("text,label\ncafé,1\n".encode("cp1252"))
    report = inspect_data(path)
    assert report.rows == 1 and "is not UTF-8: line 2" in report.findings[0].message
    path.write_text("1,good one\n2,bad,extra\n")
    found = [f.message for f in inspect_data(path).findings if f.level == "bad"]
    assert "has no header" in found[0] and "line 2 has 3 fields" in found[1]
    path.write_text("a,b\n")
    assert [f.message for f in inspect_data(path).findings] == ["there are no rows"]


# the command


def call(*words: str) -> subprocess.CompletedProcess[str]:
    code = (
        "import sys; sys.argv[0] = 'regard'\n"
        "from regard.cli import app, data, main\n"
        "if not any(group.name == 'data' for group in app.registered_groups): data.register(app)\n"
        "main()"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "COLUMNS": "160"}
    return subprocess.run(
        [sys.executable, "-c", code, "data", *words], env=environment, capture_output=True, text=True, timeout=300
    )


def test_the_command_inspects(tmp_path: Path) -> None:
    for name, rows in (("train", good(100)), ("test", good(40, 1))):
        rows[5]["text"] = "the very same words in both of the files"
        (tmp_path / f"{name}.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    files = [str(tmp_path / f"{name}.jsonl") for name in ("train", "test")]
    done = call("inspect", *files)
    assert done.returncode == 0, done.stderr
    assert "train.jsonl: 100 rows" in done.stdout and "█" in done.stdout
    assert "has text the same as in" in done.stdout
    done = call("inspect", *files, "--json")
    found = json.loads(done.stdout)
    assert [file["rows"] for file in found["files"]] == [100, 40] and found["between"][0]["rows"] == [5]
    for words, message in (
        (["nowhere.csv"], "there is no file or folder nowhere.csv"),
        ([files[0], "--near", "2"], "--near is 2.0; allowed"),
        ([files[0], "--aligned"], "--aligned needs two files"),
    ):
        done = call("inspect", *words)
        assert done.returncode == 2 and message in done.stderr and "Traceback" not in done.stderr


def test_the_command_learns_a_tokenizer(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("\n".join(texts(100)))
    out = tmp_path / "out"
    done = call("tokenizer", str(tmp_path / "a.txt"), "-o", str(out), "--vocab-size", "400", "--special", "<x>")
    assert done.returncode == 0, done.stderr
    assert "400 tokens from 100 texts" in done.stdout
    from regard.preprocess.text import Tokenizer

    assert len(Tokenizer.from_folder(out)) == 400
    done = call("tokenizer", str(tmp_path / "a.txt"), "-o", str(out), "--text", "words")
    assert done.returncode == 2 and "no column 'words'; there are 'text'" in done.stderr


def test_real_data_is_looked_at(data: Callable[[str], Path]) -> None:
    news = inspect_data(data("data/ag_news/test.csv"))
    assert news.rows == 7600 and news.columns[0].facts["classes"] == dict.fromkeys("3421", 1900)
    assert any("has no header" in finding.message for finding in news.findings)
    series = inspect_data(data("data/ett/ETTh1.csv"))
    assert series.columns[0].facts["step"] == "1:00:00" and said(series) == []
    parts = [inspect_data(data(f"data/summaries/{name}.jsonl.gz"), near=None) for name in ("val", "test")]
    assert [column.kind for column in parts[0].columns] == ["id", "text", "text"]
    assert any("has summary the same as" in finding.message for finding in compare(parts))
