"""From a run to a folder of the package, and what the commands make of it."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

import regard
from regard.checkpoint import find as find_module
from regard.checkpoint.find import Folder, find
from regard.cli import app
from regard.cli import train as verb
from regard.training.recipe import read_recipe
from regard.zoo.card import cards, default_model, read_card, readme
from regard.zoo.embed import calibrate, embed

RECIPE = """
objective = "classification"
tokenizer = {kind = "wordpiece", vocab_size = 120}
[model]
model_type = "bert"
hidden_size = 32
num_hidden_layers = 1
num_attention_heads = 2
intermediate_size = 32
[data]
train = "weather.csv"
valid = 0.2
test = {column = "place", values = ["north"]}
[train]
steps = 30
batch_size = 8
learning_rate = 3e-3
[about]
title = "Tells rain from sun"
tasks = ["text-classification"]
example = '"rain again"'
data = "forty made-up lines"
source = "this test"
licence = "none needed"
weights_licence = "Apache-2.0"
held_out = "lines from the north"
limits = "It knows | two words."
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A run, its recipe, and a zoo that holds its model."""
    folder = tmp_path_factory.mktemp("zoo")
    lines = ["text,label,place"]
    for i in range(40):
        what = ("rain", "sun")[i % 2]
        lines.append(f"{what} over hill {i % 7} and {what},{what},{'north' if i % 5 == 0 else 'south'}")
    (folder / "weather.csv").write_text("\n".join(lines) + "\n")
    recipe = folder / "weather.toml"
    recipe.write_text(RECIPE)
    for name, changes in (("run", []), ("other", ["data.test.values=['south']"])):
        verb.run(read_recipe(recipe, changes), folder / name, {})
    (folder / "zoo").mkdir()
    card = embed(folder / "run", recipe, zoo=folder / "zoo", beside=[folder / "other"])
    return {"folder": folder, "recipe": recipe, "card": card, "zoo": folder / "zoo"}


@pytest.fixture
def zoo(made: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(find_module, "_zoo", lambda: made["zoo"])
    monkeypatch.setenv("REGARD_DATA", str(made["folder"]))
    monkeypatch.chdir(made["zoo"])
    return made["zoo"]


def test_the_card_says_what_the_run_says(made: dict[str, Any]) -> None:
    card, folder = made["card"], made["zoo"] / "weather"
    record = json.loads((made["folder"] / "run" / "run.json").read_text())
    assert (card.name, card.tasks, card.figure, card.rows) == (
        "regard/weather",
        ("text-classification",),
        "accuracy",
        8,
    )
    assert card.made["seed"] == record["training"]["seed"] == 0
    assert (card.made["steps"], card.made["commit"]) == (30, record["made"]["git"])
    assert card.beside[0]["changes"] == ['data.test={column = "place", values = ["south"]}']
    assert read_card(Folder(path=folder, name="x")) == dataclasses.replace(card, beside=card.beside)
    page = (folder / "README.md").read_text()
    assert page == readme(card)
    for said in (card.data, card.source, card.licence, card.held_out, "seed 0", "regard train recipes/weather.toml"):
        assert said in page
    assert str(made["folder"]) not in page + (folder / "card.json").read_text() + (folder / "recipe.toml").read_text()
    assert (folder / "recipe.toml").read_text() == RECIPE


def test_a_run_beside_it_that_began_from_another_says_so(made: dict[str, Any], tmp_path: Path) -> None:
    """A model for new speakers, say, must begin from one that has not heard them either."""
    folder, recipe = made["folder"], tmp_path / "tuned.toml"
    shutil.copyfile(folder / "weather.csv", tmp_path / "weather.csv")
    start, end = RECIPE.index("tokenizer"), RECIPE.index("[data]")
    first, second = (f"{folder}/{name}/best" for name in ("run", "other"))
    recipe.write_text(f'{RECIPE[:start]}model = "{first}"\n{RECIPE[end:]}'.replace("steps = 30", "steps = 3"))
    verb.run(read_recipe(recipe, ["save_every=2"]), tmp_path / "run", {})  # which is the same run
    south = 'data.test={column = "place", values = ["south"]}'
    verb.run(read_recipe(recipe, [south, f"model={second}"]), tmp_path / "new", {})
    verb.run(read_recipe(recipe, [south]), tmp_path / "same", {})
    card = embed(tmp_path / "run", recipe, zoo=tmp_path / "zoo", beside=[tmp_path / "new", tmp_path / "same"])
    assert [other["changes"] for other in card.beside] == [[south, "model=runs/other/best"], [south]]


def test_weights_are_stored_in_half_and_computed_in_full(zoo: Path) -> None:
    assert {t.dtype for t in load_file(zoo / "weather" / "model.safetensors").values()} == {torch.bfloat16}
    assert regard.load("regard/weather").dtype == torch.float32


def test_it_is_found_listed_measured_and_taken_by_default(zoo: Path, made: dict[str, Any]) -> None:
    assert [card.name for card in cards()] == ["regard/weather"]
    assert default_model("sentiment-analysis", "text-classification") == "regard/weather"
    assert default_model("translation") is None
    said = CliRunner().invoke(app, ["run", "text-classification", "rain over hill 3 and rain"])
    assert said.exit_code == 0 and "rain" in said.stdout
    assert said.stderr == "model: regard/weather, which comes with regard; -m names another\n"
    listed = json.loads(CliRunner().invoke(app, ["models", "--json"]).stdout)["embedded"]
    assert [row["measured"] for row in listed] == [f"{made['card'].said} on 8 rows"]
    scores = json.loads(CliRunner().invoke(app, ["evaluate", "regard/weather", "--json"]).stdout)
    assert {name: scores[name] for name in made["card"].scores} == pytest.approx(made["card"].scores, abs=1e-6)
    moved = CliRunner().invoke(app, ["evaluate", "regard/weather", f"data.train={made['folder'] / 'weather.csv'}"])
    assert moved.exit_code == 0


def test_without_its_data_it_says_where_to_get_it(zoo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("REGARD_DATA")
    with pytest.raises(ValueError, match=r"no file or folder 'weather.csv' .*; it comes from this test"):
        CliRunner().invoke(app, ["evaluate", "regard/weather"], catch_exceptions=False)
    with pytest.raises(ValueError, match="does not say what it was measured on"):
        CliRunner().invoke(app, ["evaluate", str(zoo.parent / "run" / "best")], catch_exceptions=False)


def test_a_task_without_a_model_says_so(zoo: Path) -> None:
    with pytest.raises(ValueError, match="no model for fill-mask comes with regard"):
        regard.pipeline("fill-mask")


def test_a_model_of_one_direction_is_no_default_of_another(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, ...]] = []

    def none(*tasks: str) -> None:
        asked.append(tasks)

    monkeypatch.setattr("regard.tasks.pipeline.default_model", none)
    for task in ("translation", "translation_en_to_fr", "sentiment-analysis"):
        with pytest.raises(ValueError, match=f"no model for {task} comes with regard"):
            regard.pipeline(task)
    assert asked == [
        ("translation", "translation"),
        ("translation_en_to_fr",),
        ("sentiment-analysis", "text-classification"),
    ]


def test_int8_is_smaller_and_says_the_same(made: dict[str, Any], tmp_path: Path) -> None:
    card = embed(made["folder"] / "run", made["recipe"], to="int8", zoo=tmp_path)
    kinds = {t.dtype for t in load_file(tmp_path / "weather" / "model.safetensors").values()}
    assert kinds == {torch.int8, torch.bfloat16, torch.float32}  # weights, the rest, scales
    assert card.scores["accuracy"] == made["card"].scores["accuracy"]
    assert find(str(tmp_path / "weather")).file("card.json")


def test_temperature_suits_the_validation_rows(made: dict[str, Any]) -> None:
    recipe = read_recipe(made["recipe"])
    model = regard.load(str(made["folder"] / "run" / "best"))
    with torch.no_grad():
        for parameter in model.head.out.parameters():
            parameter.mul_(-20)  # sure of what is wrong
    before = {name: p.clone() for name, p in model.head.out.named_parameters()}
    found = calibrate(model, recipe)
    assert found == pytest.approx(10)  # the most that is tried
    for name, parameter in model.head.out.named_parameters():
        torch.testing.assert_close(parameter * found, before[name])
    assert calibrate(regard.load(str(made["folder"] / "run" / "best")), recipe) is None  # right, and not too sure


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("steps = 30", "steps = 40", r"is no run of .* it has train.steps=30"),
        ("licence = ", "license = ", "does not say licence"),
        ('"text-classification"', '"text-clasification"', "did you mean 'text-classification'"),
    ],
)
def test_what_does_not_fit_is_named(made: dict[str, Any], tmp_path: Path, old: str, new: str, message: str) -> None:
    shutil.copyfile(made["folder"] / "weather.csv", tmp_path / "weather.csv")
    recipe = made["folder"] / "changed.toml"
    recipe.write_text(RECIPE.replace(old, new, 1))
    with pytest.raises(ValueError, match=message):
        embed(made["folder"] / "run", recipe, zoo=tmp_path)
    assert not (tmp_path / "changed").exists()


def test_how_a_trained_model_writes_may_be_chosen_afterwards(tmp_path: Path) -> None:
    (tmp_path / "source.txt").write_text("a b\nb a\n" * 12)
    (tmp_path / "target.txt").write_text("b a\na b\n" * 12)
    sides = '{source = "source.txt", target = "target.txt"}'
    text = f"""
objective = "seq2seq"
tokenizer = "characters"
[model]
model_type = "transformer"
d_model = 16
d_ff = 16
num_heads = 2
num_layers = 1
max_length = 16
[data]
train = {sides}
valid = {sides}
[train]
steps = 2
batch_size = 4
{RECIPE[RECIPE.index("[about]") :].replace("text-classification", "translation")}
measure = ["bleu"]
"""
    recipe = tmp_path / "turned.toml"
    recipe.write_text(text)
    verb.run(read_recipe(recipe, []), tmp_path / "run", {})
    recipe.write_text(text.replace("max_length = 16", "max_length = 16\nnum_beams = 2\nlength_penalty = 1.5"))
    embed(tmp_path / "run", recipe, zoo=tmp_path / "zoo")
    raw = json.loads((tmp_path / "zoo" / "turned" / "config.json").read_text())
    assert (raw["num_beams"], raw["length_penalty"], raw["max_length"]) == (2, 1.5, 16)
    recipe.write_text(text.replace("max_length = 16", "max_length = 32"))
    with pytest.raises(ValueError, match=r"it has model=\.\.\."):
        embed(tmp_path / "run", recipe, zoo=tmp_path / "zoo")
