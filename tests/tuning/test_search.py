"""The search: the same trials each time, killed or not; those behind are stopped; the best is a recipe that runs."""

from __future__ import annotations

import json
import os
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from regard.training.recipe import Recipe, read_recipe
from regard.training.toml import to_toml, write_recipe
from regard.tuning import search as module
from regard.tuning.search import Range, ranges, search, with_values

optuna = pytest.importorskip("optuna")

TINY = {
    **{"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], "n_embd": 16, "n_layer": 1, "n_head": 2},
    **{"n_positions": 16, "attn_pdrop": 0.0, "resid_pdrop": 0.0, "embd_pdrop": 0.0},
}
SPACE = {"learning_rate": {"low": 1e-4, "high": 1e-1, "log": True}, "model": {"n_layer": [1, 2]}, "trials": 4}


def recipe(folder: Path, **fields: Any) -> Recipe:
    """Characters of a text in which every next one follows from the last."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "text.txt").write_text("abcdefgh. " * 200)
    whole = Recipe(
        objective="causal-lm",
        model=TINY,
        tokenizer="characters",
        data={"train": "text.txt", "by": "file", "valid": 0.2, "block": 12},
        train={"steps": 12, "batch_size": 8, "eval_every": 3, "eval_batches": 2, "log_every": 6},
        search=SPACE,
        folder=folder,
    )
    return replace(whole, **fields)


def tried(folder: Path) -> list[Any]:
    return json.loads((folder / "search.json").read_text())["trials"]


def test_a_search_is_the_same_each_time_also_when_it_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut off in the middle of its third trial, and again between drawing the values of the fourth and its run."""
    case = recipe(tmp_path)
    alone = search(case, tmp_path / "alone", show=False)
    real, calls = module.fit, []

    class Killed(BaseException):
        pass

    def cut(*inputs: Any, watch: Any, **options: Any) -> Any:
        calls.append(1)

        def stop(step: int, scores: Any) -> bool:
            said = watch(step, scores)
            if len(calls) == 3 and step == 6:
                raise Killed
            return said

        if len(calls) == 5:
            raise Killed
        return real(*inputs, watch=stop, **{**options, "save_every": 2})

    monkeypatch.setattr(module, "fit", cut)
    for _ in range(2):
        with pytest.raises(Killed):
            search(case, tmp_path / "killed", show=False)
    killed = search(case, tmp_path / "killed", show=False)
    assert len(calls) == 6
    assert tried(tmp_path / "killed") == tried(tmp_path / "alone")
    for name in ("trials", "pruned", "best", "value", "values"):
        assert killed[name] == alone[name]
    monkeypatch.setattr(module, "fit", None)  # a search that is done has nothing left to run
    assert search(case, tmp_path / "killed", show=False) == killed


def test_the_best_is_the_best_and_runs_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its recipe, read from another folder, gives the very loss that the search had."""
    found = search(recipe(tmp_path), tmp_path / "runs", show=False)
    trials = tried(tmp_path / "runs")
    assert len(trials) == found["trials"] == 4
    done = [t for t in trials if t["state"] == "complete"]
    assert found["value"] == min(t["value"] for t in done)
    assert {t["values"]["model.n_layer"] for t in trials} == {1, 2}
    assert all(1e-4 <= t["values"]["learning_rate"] <= 1e-1 for t in trials)
    monkeypatch.chdir("/")
    best = read_recipe(found["recipe"])
    assert best.train["learning_rate"] == found["values"]["learning_rate"]
    assert best.model["n_layer"] == found["values"]["model.n_layer"]  # type: ignore[index]
    assert not best.search
    job = module.build(best)
    history = module.fit(job.model, job.problem, **{**job.problem.options, **best.train})
    assert history.progress.best == pytest.approx(found["value"], abs=1e-12)


def test_logs_are_kept_and_states_are_not(tmp_path: Path) -> None:
    found = search(recipe(tmp_path), tmp_path / "runs", show=False)
    for number in range(4):
        folder = tmp_path / f"runs/trial-{number:03}"
        assert (folder / "log.jsonl").is_file()
        assert not (folder / "states").exists()
        assert not (folder / "last").exists()
        assert (folder / "best").exists() == (number == found["best"])


def test_a_trial_behind_the_median_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs whose losses are known: 1, 2, 3, 4, 5, then 9, which the median of those before is not."""
    case = recipe(tmp_path, search={"learning_rate": {"low": 1e-4, "high": 1e-1}, "trials": 7})
    values = iter([1.0, 2.0, 3.0, 4.0, 5.0, 9.0, 0.5])
    steps: list[int] = []

    class History:
        def __init__(self, step: int, best: float):
            self.progress = type("Progress", (), {"step": step, "best": best})

    def fake(*inputs: Any, watch: Any, **options: Any) -> History:
        value = next(values)
        stop = next((step for step in (3, 6, 9, 12) if watch(step, {"loss": value})), 12)
        steps.append(stop)
        return History(stop, value)

    monkeypatch.setattr(module, "fit", fake)
    found = search(case, tmp_path / "runs", show=False)
    assert steps == [12, 12, 12, 12, 12, 3, 12]
    assert (found["pruned"], found["best"], found["value"]) == (1, 6, 0.5)
    values, steps[:] = iter([1.0, 2.0, 3.0, 4.0, 5.0, 9.0, 0.5]), []  # type: ignore[assignment]
    case = replace(case, search={**case.search, "prune": False})
    assert search(case, tmp_path / "all", show=False)["pruned"] == 0
    assert steps == [12] * 7


def test_a_trial_that_diverges_is_one_to_avoid(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without clipping and with rates up to 1e30, some runs break; the search goes on."""
    case = recipe(tmp_path, search={"learning_rate": {"low": 1e-3, "high": 1e30, "log": True}, "trials": 3})
    case = replace(case, train={**case.train, "optimizer": "sgd", "clip": 1e30})
    try:
        found = search(case, tmp_path / "runs")
        assert found["trials"] == 3
    except ValueError as error:
        assert "none of 3 trials came to its end" in str(error)
    assert "is not finite" in capsys.readouterr().err


def test_a_folder_holds_one_search(tmp_path: Path) -> None:
    case = recipe(tmp_path, search={**SPACE, "trials": 1})
    search(case, tmp_path / "runs", show=False)
    assert search(replace(case, search={**SPACE, "trials": 2}), tmp_path / "runs", show=False)["trials"] == 2
    other = replace(case, search={**SPACE, "batch_size": [4, 8]})
    with pytest.raises(ValueError, match="holds another search: search was"):
        search(other, tmp_path / "runs", show=False)
    fresh = search(replace(other, search={**other.search, "trials": 1}), tmp_path / "runs", resume=False, show=False)
    assert fresh["trials"] == 1
    assert not (tmp_path / "runs/trial-001").exists()


def test_ranges_of_a_table() -> None:
    table = tomllib.loads(
        "learning_rate = {low = 1e-5, high = 1e-3, log = true}\nwarmup = [0.0, 0.1]\ntrials = 3\n"
        "batch_size = {low = 4, high = 64, step = 4}\n[adapter]\nrank = [4, 8]\n"
    )
    assert list(ranges(table)) == [
        Range("learning_rate", low=1e-5, high=1e-3, log=True),
        Range("warmup", (0.0, 0.1)),
        Range("batch_size", low=4, high=64, step=4),
        Range("adapter.rank", (4, 8)),
    ]
    case = with_values(Recipe(adapter={"kind": "lora"}), {"adapter.rank": 8, "warmup": 0.1})
    assert case.adapter == {"kind": "lora", "rank": 8}
    assert case.train == {"warmup": 0.1}


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"search": {"trials": 3}}, "search names no range"),
        ({"search": {"learning_rate": 1e-3}}, "search.learning_rate is 0.001; allowed: a list of choices"),
        ({"search": {"learning_rate": {"low": 1, "high": 0}}}, "search.learning_rate is .*low < high"),
        ({"search": {"learning_rate": {"low": 0.0, "high": 1, "log": True}}}, "above 0 with log"),
        ({"search": {"learning_rate": {"low": 1e-3, "hihg": 1}}}, "search.learning_rate is"),
        ({"search": {"learning_rat": [1e-3]}}, "search.learning_rat: there is no training option .*learning_rate"),
        ({"search": {"batch_size": [0, 8]}}, "search.batch_size: TrainConfig.batch_size is 0; allowed: 1 or more"),
        ({"search": {"modle": {"n_layer": [1]}}}, "search.modle.n_layer: modle is no table of this recipe"),
        ({"search": {"model": {"n_head": [3]}}}, r"trial 0 \(model.n_head=3\): .*"),
        ({"search": {**SPACE, "trials": 0}}, "search.trials is 0"),
        ({"data": {"train": "text.txt", "valid": 0}}, "data.valid is missing"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, fields: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        search(recipe(tmp_path, **fields), tmp_path / "runs", show=False)


def test_toml_is_read_back(tmp_path: Path) -> None:
    value = {
        **{"a": 1, "b": 2.5, "c": True, "d": 'quote " and \\ and\nline é', "e": [1, 2], "f": 1e-05, "odd key": "x"},
        **{"list": [{"x": 1, "y": ["z"]}], "table": {"empty": {}, "inner": {"deep": [0.1]}, "k": -3}},
    }
    assert tomllib.loads(to_toml({**value, "none": None})) == value
    case = recipe(tmp_path / "here")
    os.makedirs(tmp_path / "there")
    write_recipe(tmp_path / "there/best.toml", case, "a remark\non two lines")
    back = read_recipe(tmp_path / "there/best.toml")
    assert back.data["train"] == str((tmp_path / "here/text.txt").resolve())
    assert (back.train, back.model, back.tokenizer) == (case.train, case.model, "characters")
