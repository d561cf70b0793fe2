"""`regard train` and `regard evaluate` as a user types them: runs, recipes, going on, and what is said of mistakes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import regard
from regard.cli import main
from regard.training.toml import to_toml
from tests.conftest import ROOT
from tests.training.recipes import BERT, PIECES, labelled, table, texts

CALL = "import sys, torch; torch.set_num_threads(1); sys.argv[0] = 'regard'; from regard.cli import main; main()"
SMALL = ["steps=3", "batch_size=4"]


@pytest.fixture
def say(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Any:
    """The command, in a folder of its own: (status, output, error)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("REGARD_DATA", raising=False)

    def call(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["regard", *map(str, words)])
        with pytest.raises(SystemExit) as end:
            main()
        printed = capsys.readouterr()
        return int(end.value.code or 0), printed.out, printed.err

    return call


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint to start from: a tiny BERT with a tokenizer, for masked words."""
    folder = tmp_path_factory.mktemp("base")
    from regard.training.build import build
    from regard.training.recipe import Recipe

    job = build(Recipe(objective="masked-lm", model=BERT, tokenizer=PIECES, data={"train": texts(folder)}))
    regard.save(job.model, folder / "model")
    return folder / "model"


def recipe(folder: Path, **tables: Any) -> str:
    """A .toml file beside its data."""
    labelled(folder)
    wanted = {
        **{"objective": "classification", "model": BERT, "tokenizer": PIECES, "output": "run"},
        **{"data": {"train": "animals.csv"}, "train": {"steps": 3, "batch_size": 4}},
        **tables,
    }
    (folder / "animals.toml").write_text(to_toml({k: v for k, v in wanted.items() if v is not None}))
    return str(folder / "animals.toml")


def result(out: str) -> dict[str, Any]:
    return json.loads(out.strip().splitlines()[-1])


def test_a_table_of_ones_own(say: Any, base: Path, tmp_path: Path) -> None:
    """The five-minute way: fine-tune on a CSV, run the model, judge it on the run's held-out rows and on a file."""
    data = labelled(tmp_path)
    command = ("train", "classification", f"model={base}", f"data.train={data}", *SMALL)
    status, out, err = say(*command)
    assert status == 0, err
    words = dict(line.split(maxsplit=1) for line in out.splitlines())
    assert words["steps"] == "3" and words["model"] == "runs/classification/best"
    assert {p.name for p in Path("runs/classification").iterdir()} >= {"best", "last", "states", "recipe.toml"}
    status, judged, err = say("evaluate", words["model"], "runs/classification/recipe.toml", "--json")
    assert status == 0, err
    printed, found = json.loads(words["validation"]), result(judged)
    assert found["rows"] == 2
    assert {name: round(found[name], 4) for name in printed} == printed
    assert result(say("evaluate", words["model"], data, "--json", "--limit", "7")[1])["rows"] == 7
    assert say("run", "text-classification", "the fox sees rain", "-m", words["model"])[1].count("fox") == 1
    again = say(*command)
    assert again[1].splitlines()[0].split() == ["steps", "3"] and "goes on from step 3" in again[2]


def test_columns_of_ones_own(say: Any, base: Path, tmp_path: Path) -> None:
    rows = [{"review": "good" if i % 2 else "bad", "stars": 4.5 if i % 2 else i % 3} for i in range(40)]
    train, valid = table(tmp_path / "a.csv", rows[:24]), table(tmp_path / "b.csv", rows[24:])
    ranges = "data.label={column='stars', classes={low=[0, 1], high=[4, 5]}}"
    columns = ["data.text=review", ranges]
    status, out, err = say(
        *("train", "classification", f"model={base}", f"data.train={train}", f"data.valid={valid}"),
        *(*columns, *SMALL, "--json", "-o", "run"),
    )
    assert status == 0, err
    assert "train: 4 of 24 rows are in none of the classes" in err
    model = regard.load("run/best")
    assert model.labels == {0: "low", 1: "high"}
    plain = [column.removeprefix("data.") for column in columns]
    found = result(say("evaluate", "run/best", valid, *plain, "--json")[1])
    said = result(out)["validation"]
    assert {name: round(found[name], 4) for name in said} == said


def test_a_recipe_and_changes_of_it(say: Any, tmp_path: Path) -> None:
    path = recipe(tmp_path, data={"train": "animals.csv", "valid": 0.25, "test": 0.25}, metrics=["accuracy"])
    os.mkdir("elsewhere")
    os.chdir("elsewhere")  # files stand beside the recipe; the run does not
    status, out, err = say("train", path, "steps=2", "train.seed=5", "--json")
    assert status == 0, err
    said = result(out)
    assert said["steps"] == 2 and said["model"] == "run/best" and set(said["test"]) == {"loss", "accuracy"}
    kept = json.loads(Path("run/run.json").read_text())
    assert kept["training"]["seed"] == 5 and kept["training"]["batch_size"] == 4
    found = result(say("evaluate", "run/best", path, "--json", "--metric", "accuracy")[1])
    assert {name: round(found[name], 4) for name in said["test"]} == said["test"]
    weights = (Path("run/best") / "model.safetensors").read_bytes()
    assert say("train", "run/recipe.toml", "-o", "again")[0] == 0
    assert (Path("again/best") / "model.safetensors").read_bytes() == weights, "the same to the bit"


def test_data_is_found_by_its_variable(say: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = recipe(tmp_path, about={"source": "https://example.org/animals"})
    os.mkdir("data")
    os.rename("animals.csv", "data/animals.csv")
    status, _, err = say("train", path)
    assert status == 2 and "it comes from https://example.org/animals" in err and err.count("\n") == 1
    monkeypatch.setenv("REGARD_DATA", str(tmp_path / "data"))
    assert say("train", path)[0] == 0


@pytest.mark.parametrize(
    "adapter",
    [
        '{kind="lora", r=2}',
        '{kind="lora", r=2, use_dora=true}',
        '{kind="ia3"}',
        '{kind="prefix", num_virtual_tokens=2}',
    ],
)
def test_adapters(say: Any, base: Path, tmp_path: Path, adapter: str) -> None:
    data = labelled(tmp_path)
    out = ["data.test=0.25", f"adapter={adapter}", *SMALL, "learning_rate=0.01", "-o", "run", "--json"]
    status, printed, err = say("train", "classification", f"model={base}", f"data.train={data}", *out)
    assert status == 0, err
    said = result(printed)
    files = {p.name for p in Path("run/best").iterdir()}
    assert "adapter_model.safetensors" in files and "model.safetensors" not in files
    status, judged, err = say("evaluate", "run/best", "run/recipe.toml", "--json")
    assert status == 0 and "new weights" not in err, err
    assert {name: round(result(judged)[name], 4) for name in said["test"]} == said["test"]
    status, out, err = say("run", "text-classification", "the fox sees rain", "-m", "run/best")
    assert status == 0 and ("fox" in out or "dog" in out) and err == ""


def test_an_adapter_on_int8(say: Any, base: Path, tmp_path: Path) -> None:
    data = labelled(tmp_path)
    table = 'adapter={kind="lora", r=2, precision="int8"}'
    command = ["train", "classification", f"model={base}", f"data.train={data}", "data.valid=0.25", *SMALL]
    status, printed, err = say(*command, table, "learning_rate=0.01", "-o", "run", "--json")
    assert status == 0, err
    assert "model.safetensors" not in {p.name for p in Path("run/best").iterdir()}
    status, judged, err = say("evaluate", "run/best", "run/recipe.toml", "--json")  # on the weights as they were
    assert status == 0, err
    assert result(judged)["loss"] == pytest.approx(result(printed)["validation"]["loss"], rel=0.02)
    status, _, err = say(*command, 'adapter={kind="lora", precision="int3"}')
    assert status == 2 and "adapter.precision: " in err and "allowed: bf16, int8, int4" in err


def test_fresh_forgets_a_run(say: Any, base: Path, tmp_path: Path) -> None:
    data = labelled(tmp_path)
    command = ["train", "classification", f"model={base}", f"data.train={data}", "batch_size=4", "-o", "run"]
    assert say(*command, "steps=4")[0] == 0
    before = {p: p.read_bytes() for p in Path("run").rglob("*") if p.is_file()}
    status, _, err = say(*command, "steps=2")
    assert status == 2 and err.count("\n") == 1
    assert "run holds another run: training.steps was 4 and is now 2" in err and "--fresh" in err
    assert {p: p.read_bytes() for p in Path("run").rglob("*") if p.is_file()} == before, "nothing is touched"
    status, out, err = say(*command, "steps=2", "data.valid=none", "--fresh", "--json")
    assert status == 0, err
    assert result(out) == {"steps": 2, "seconds": result(out)["seconds"], "model": "run/last"}
    assert not Path("run/best").exists(), "the best of the run that is forgotten"


def test_a_killed_run_goes_on(tmp_path: Path, base: Path) -> None:
    """Killed outright between two states, then ended politely, a run gives the model that it gives undisturbed."""
    data = labelled(tmp_path)
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}

    def start(folder: str) -> subprocess.Popen[str]:
        words = ["train", "classification", f"model={base}", f"data.train={data}", "steps=60", "batch_size=4"]
        words += ["save_every=5", "eval_every=20", "-o", folder]
        command = [sys.executable, "-c", CALL, *words]
        return subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True)

    def reach(process: subprocess.Popen[str], step: int) -> None:
        states = tmp_path / "cut" / "states"
        until = time.monotonic() + 120
        while not any(int(p.name[5:]) >= step for p in states.glob("step-*")):
            assert process.poll() is None, process.communicate()[1]
            assert time.monotonic() < until
            time.sleep(0.01)

    whole = start("whole")
    cut = start("cut")
    reach(cut, 10)
    cut.kill()
    cut.wait()
    cut = start("cut")
    reach(cut, 25)
    cut.send_signal(signal.SIGTERM)
    _, err = cut.communicate(timeout=120)
    assert cut.returncode == 128 + signal.SIGTERM and "goes on from step" in err and "Traceback" not in err
    last = start("cut")
    _, err = last.communicate(timeout=120)
    assert last.returncode == 0, err
    assert "goes on from step" in err
    assert whole.wait(timeout=120) == 0
    for kept in ("best", "last"):
        files = [(tmp_path / run / kept / "model.safetensors").read_bytes() for run in ("whole", "cut")]
        assert files[0] == files[1]


MISTAKES: dict[str, tuple[list[str], str]] = {
    "objective": (["clasification"], "did you mean 'classification'"),
    "recipe": (["no.toml"], "there is no recipe no.toml"),
    "toml": (["bad.toml"], "bad.toml is not valid TOML"),
    "folder": (["{base}"], "allowed: a .toml file, or the name of an objective"),
    "no model": (["classification", "data.train=animals.csv"], "model is missing"),
    "no data": (["classification", "model={base}"], "data.train is missing"),
    "no file": (["classification", "model={base}", "data.train=no.csv"], "there is no file or folder 'no.csv'"),
    "no such model": (["classification", "model=./no", "data.train=animals.csv"], "there is no folder './no'"),
    "table": (["{ok}", "modle.x=1"], "there is no table 'modle' in a recipe; did you mean 'model'"),
    "no change": (["{ok}", "steps"], "'steps' is no change of a recipe"),
    "option": (["{ok}", "train.leraning_rate=1"], "did you mean 'learning_rate'"),
    "value": (["{ok}", "batch_size=0"], "batch_size is 0"),
    "type": (["{ok}", "steps=many"], "steps is 'many'"),
    "data option": (["{ok}", "data.lable=x"], "data has no option 'lable' for this objective; did you mean 'label'"),
    "other option": (["{ok}", "data.block=8"], "data has no option 'block' for this objective"),
    "objective option": (
        ["{ok}", "objective={name='classification', smothing=0.1}"],
        "has no option 'smothing'; allowed: kind, smoothing, weights",
    ),
    "kind": (["{ok}", "objective={name='classification', kind='some'}"], "kind is 'some'"),
    "column": (["{ok}", "data.label=animal"], "no column 'animal'; there are 'text', 'label'"),
    "text column": (["{ok}", "data.text=words"], "no column 'words'; there are 'text', 'label'"),
    "metric": (["{ok}", "metrics=acuracy"], "there is no metric 'acuracy'"),
    "goal": (["{ok}", "goal=recall"], "goal is 'recall'; this run measures loss, accuracy, f1"),
    "one class": (["{ok}", "data.train=one.csv"], "'label' is 'fox' in every row"),
    "empty": (["{ok}", "data.train=empty.csv"], "empty.csv"),
    "no label": (["{ok}", "data.train=gap.csv"], "data.train: row 2 has no label"),
    "no text": (["{ok}", "data.train=hole.jsonl", "data.valid=0.4"], "data.train: row 3: 'text' is 'None'"),
    "other class": (["{ok}", "data.valid=cat.csv"], "data.valid: row 1: 'label' is 'cat', which is no known label"),
    "part": (["{ok}", "data.valid=1.5"], "data.valid is 1.5; allowed: a file, or a part of data.train"),
    "parts": (["{ok}", "data.valid=0.5", "data.test=0.5"], "allowed: parts that leave rows to learn from"),
    "limit": (["{ok}", "data.limit=0"], "limit is 0"),
    "ranges": (["{ok}", "data.label={column='label'}"], "allowed: a column's name, or the table"),
    "overlap": (
        ["{ok}", "data.label={column='label', classes={a=[0, 1], b=[1, 2]}}"],
        "label.classes.b is [1, 2], which overlaps a",
    ),
    "no number": (
        ["{ok}", "data.label={column='label', classes={a=[0, 1], b=[2, 3]}}"],
        "data.train: row 0: 'label' is 'fox'; allowed: a number",
    ),
    "adapter of a new model": (["{ok}", "adapter.kind=lora"], "adapter is given beside a new model"),
    "adapter": (["{tune}", "adapter.kind=lore"], "adapter.kind is 'lore'; allowed: lora, ia3, prefix"),
    "adapter option": (["{tune}", "adapter.rank=4"], "unexpected keyword argument 'rank'"),
    "tokenizer": (["{tune}", "tokenizer=characters"], "tokenizer is given beside a checkpoint"),
    "tokenizer option": (["{ok}", "tokenizer={kind='bpe', size=9}"], "tokenizer has no option 'size'"),
    "no tokenizer": (["{ok}", "tokenizer="], "tokenizer is missing, which a new model of text needs"),
    "head": (["{tune}", "objective=ctc"], "head is 'ctc'; BERT has features"),
    "other rows": (["{tune}", "objective=question-answering"], "no column 'question'"),
    "run": (["{ok}", "-o", "full"], "full holds something that is no run"),
    "run file": (["{ok}", "-o", "one.csv"], "one.csv is a file"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_are_one_line(name: str, say: Any, base: Path, tmp_path: Path) -> None:
    """One clear line, and nothing written."""
    words, message = MISTAKES[name]
    ok = recipe(tmp_path)
    tune = tmp_path / "tune.toml"
    tune.write_text(to_toml({"objective": "classification", "model": str(base), "data": {"train": "animals.csv"}}))
    (tmp_path / "bad.toml").write_text("objective = [\n")
    table(tmp_path / "one.csv", [{"text": f"a fox {i}", "label": "fox"} for i in range(30)])
    (tmp_path / "empty.csv").write_text("text,label\n")
    table(tmp_path / "gap.csv", [{"text": "a", "label": "" if i == 2 else i % 2} for i in range(30)])
    table(tmp_path / "hole.jsonl", [{"text": None if i == 3 else "a", "label": i % 2} for i in range(30)])
    table(tmp_path / "cat.csv", [{"text": "a", "label": "dog"}, {"text": "a", "label": "cat"}])
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    before = sorted(p for p in tmp_path.rglob("*"))
    status, out, err = say(
        "train", *(w.format(base=base, ok=ok, tune=tune) if "=" not in w or "{base}" in w else w for w in words)
    )
    assert status == 2, (out, err)
    assert message in err
    lines = [line for line in err.splitlines() if not line.startswith(("new weights", "fewer than", "step "))]
    assert len(lines) == 1 and lines[0].startswith("regard: ") and len(lines[0]) < 600, err
    assert out == ""
    if name != "goal":  # which only an evaluation can tell
        assert sorted(p for p in tmp_path.rglob("*")) == before, "nothing is written"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["{base}", "no.csv", "--objective", "masked-lm"], "there is no file or folder 'no.csv'"),
        (["{base}", "animals.csv", "--objective", "masked"], "objective is 'masked'; did you mean 'masked-lm'"),
        (["{base}", "animals.csv", "--objective", "classification"], "needs a model with the head 'classification'"),
        (["{base}", "animals.csv", "text=words"], "no column 'words'"),
        (["{base}", "animals.csv", "txt=words"], "data has no option 'txt' for this objective; did you mean 'text'"),
        (["{base}", "animals.csv", "words"], "'words' is no option; write key=value"),
        (["{base}", "animals.csv", "--metric", "acc"], "there is no metric 'acc'"),
        (["{base}", "animals.csv", "--limit", "-1"], "limit is -1"),
        (["{base}", "animals.csv", "--beams", "-1"], "beams is -1"),
        (["{base}", "animals.toml"], "needs a model with the head 'classification'"),
    ],
)
def test_mistakes_of_evaluate(words: list[str], message: str, say: Any, base: Path, tmp_path: Path) -> None:
    recipe(tmp_path)
    status, out, err = say("evaluate", *(w.format(base=base) for w in words))
    assert status == 2, (out, err)
    assert message in err and err.count("\n") == 1 and out == ""
