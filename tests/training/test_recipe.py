"""Recipes: what a file and changes mean, where files are looked for, how data is shared out, and that docs name all."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from regard.training.config import OptimizerConfig, ScheduleConfig, TrainConfig
from regard.training.data.classes import by_ranges
from regard.training.data.rows import Rows
from regard.training.kinds import KINDS
from regard.training.metrics import METRICS
from regard.training.objectives import OBJECTIVES
from regard.training.parts import OWN, parts_of
from regard.training.recipe import Recipe, read_recipe
from regard.training.toml import recipe_text
from tests.conftest import ROOT, real
from tests.training.recipes import labelled, table, texts


def read(source: str | Path, *changes: str) -> Recipe:
    return read_recipe(source, changes, objectives=OBJECTIVES)


def test_changes_are_toml_or_plain_words(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text('objective = "causal-lm"\n[train]\nsteps = 5\nbatch_size = 2\n')
    found = read(tmp_path / "a.toml", "steps=7", "learning_rate=3e-4", "train.clip=none", "data.by=file", "model=gpt2",
                 "adapter={kind='lora', r=4}", "betas=[0.9, 0.95]", "metrics=bleu")  # fmt: skip
    assert found.config.steps == 7 and found.config.batch_size == 2 and found.config.clip is None
    assert found.config.optimizer.learning_rate == 3e-4 and found.config.optimizer.betas == (0.9, 0.95)
    assert (found.data, found.model, found.adapter) == ({"by": "file"}, "gpt2", {"kind": "lora", "r": 4})
    assert found.metrics == ("bleu",)
    again = tmp_path / "b.toml"
    again.write_text(recipe_text(found))
    back = read(again)
    assert (back.objective, back.model, back.adapter, back.metrics) == ("causal-lm", "gpt2", found.adapter, ("bleu",))


def test_files_are_looked_for_in_three_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    places = [tmp_path / name for name in ("beside", "here", "data")]
    for place in places:
        place.mkdir()
        (place / "x.txt").write_text(place.name)
    (places[0] / "r.toml").write_text('objective = "causal-lm"\n')
    monkeypatch.chdir(places[1])
    monkeypatch.setenv("REGARD_DATA", str(places[2]))
    recipe = read(places[0] / "r.toml")
    for place in places:
        assert recipe.path("x.txt").read_text() == place.name
        (place / "x.txt").unlink()
    assert not recipe.path("x.txt").exists()


def test_ranges_of_a_number_are_classes() -> None:
    values = [-4, -0.5, -0.4, 0, 0.5, 4, "3.5"]
    wanted = {"column": "rating", "classes": {"negative": [-4, -0.5], "positive": [0.5, 4]}}
    rows, numbers = by_ranges(Rows({"rating": values, "text": list("abcdefg")}), wanted)
    assert rows.column("label") == ["negative", "negative", "positive", "positive", "positive"]
    assert rows.column("text") == list("abefg") and numbers.tolist() == [0, 1, 4, 5, 6]


def parts(train: str, kind: str = "classification", **data: Any) -> Any:
    return parts_of(Recipe(objective=kind, data={"train": train, **data}), KINDS[kind])


def test_rows_are_shared_out_with_their_classes(tmp_path: Path) -> None:
    rows = [{"text": f"row {i}", "label": "rare" if i % 8 == 0 else "common"} for i in range(80)]
    found = parts(table(tmp_path / "a.csv", rows), valid=0.2, test=0.2)
    assert {name: len(part) for name, part in found.rows.items()} == {"train": 48, "valid": 16, "test": 16}
    assert all(
        list(part.column("label")).count("rare") in (len(part) // 8, len(part) // 8 + 1) for part in found.rows.values()
    )
    everything = sorted(text for part in found.rows.values() for text in part.column("text"))
    assert everything == sorted(row["text"] for row in rows), "each row is in one part"
    for name, part in found.rows.items():
        assert [f"row {n}" for n in found.numbers[name]] == list(part.column("text"))
    assert (
        parts(str(tmp_path / "a.csv"), valid=0.2, seed=1).numbers["valid"].tolist() != found.numbers["valid"].tolist()
    )


def test_what_is_held_out_where_nobody_says(tmp_path: Path) -> None:
    assert {k: len(v) for k, v in parts(labelled(tmp_path)).rows.items()} == {"train": 22, "valid": 2}
    assert set(parts(labelled(tmp_path), valid=0).rows) == {"train"}
    few = parts(labelled(tmp_path), limit=12)
    assert set(few.rows) == {"train"} and "fewer than 20 rows" in few.notes[0]
    assert set(few.rows["train"].column("label")) == {"dog", "fox"}, "spread over a sorted file"
    whole = Path(texts(tmp_path)).read_text().strip()
    cut = parts(texts(tmp_path), "causal-lm", by="file", test=0.2).rows
    assert "".join(cut[name][0]["text"] for name in ("train", "test", "valid")).strip() == whole
    assert len(cut["valid"][0]["text"]) == pytest.approx(len(whole) / 10, abs=2)
    folder = tmp_path / "parts"
    folder.mkdir()
    for name in ("train", "validation", "test"):
        (folder / f"{name}.csv").write_text((tmp_path / "animals.csv").read_text())
    assert {k: len(v) for k, v in parts(str(folder)).rows.items()} == {"train": 24, "valid": 24, "test": 24}


def test_a_class_that_is_rare_is_still_a_class(tmp_path: Path) -> None:
    """One that lies in the held-out part only is known, as classes are read before rows are held out."""
    rows = [{"text": f"row {i}", "label": "once" if i == 3 else "common"} for i in range(40)]
    found = [parts(table(tmp_path / "a.csv", rows), valid=0.5, seed=seed) for seed in range(6)]
    assert any("once" in part.rows["valid"].column("label") for part in found)
    assert all(part.labels.names == ("common", "once") for part in found)


def test_groups_stay_together(tmp_path: Path) -> None:
    rows = [{"text": f"row {i}", "label": i % 2, "writer": i // 5} for i in range(60)]
    found = parts(table(tmp_path / "a.csv", rows), valid=0.3, group="writer").rows
    assert not set(found["train"].column("writer")) & set(found["valid"].column("writer"))


def test_rows_of_some_values_are_taken_out(tmp_path: Path) -> None:
    rows = [{"text": f"row {i}", "label": i % 2, "speaker": "abc"[i % 3], "take": i} for i in range(60)]
    file = table(tmp_path / "a.csv", rows)
    found = parts(file, test={"column": "speaker", "values": ["b"]}, valid={"column": "take", "values": [0, 2, 58]})
    assert set(found.rows["test"].column("speaker")) == {"b"} and len(found.rows["test"]) == 19
    assert [int(take) for take in found.rows["valid"].column("take")] == [0, 2, 58]
    assert set(found.rows["train"].column("speaker")) == {"a", "c"} and len(found.rows["train"]) == 38
    assert found.numbers["test"].tolist() == list(range(1, 58, 3))
    for wrong in ({"column": "speaker", "values": ["d"]}, {"column": "speaker", "values": ["a", "b", "c"]}):
        with pytest.raises(ValueError, match=r"data.test: (no|every) row has one of .* in its column 'speaker'"):
            parts(file, test=wrong)
    with pytest.raises(ValueError, match=r"allowed: files, or for valid and test \{column"):
        parts(file, test={"column": "speaker", "values": "b"})


@pytest.mark.parametrize("path", sorted((ROOT / "recipes").glob("*.toml")), ids=lambda path: path.stem)
def test_recipes_of_the_repository(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each says where its data is from and under which licence, names nothing absolute, and reads its data."""
    recipe = read(path)
    assert {"data", "source", "licence", "expect"} <= set(recipe.about)
    assert not re.search(r'"(/|\.\.|~)', path.read_text())
    assert recipe.config.seed >= 0
    monkeypatch.setenv("REGARD_DATA", str(real("data")))
    sources = recipe.data["train"]
    for name in [sources] if isinstance(sources, str) else sources.values():
        real(f"data/{name}")
    kind = KINDS[recipe.objective if isinstance(recipe.objective, str) else recipe.objective["name"]]
    found = parts_of(recipe, kind)
    assert {"train", "valid"} <= set(found.rows)
    if path.stem.startswith("movie-"):
        assert found.labels is not None and found.labels.names == ("negative", "positive")
        assert (len(found.rows["train"]), len(found.rows["valid"]), len(found.rows["test"])) == (8058, 1007, 1007)


def test_docs_name_every_option() -> None:
    page = (ROOT / "docs" / "training.md").read_text()
    named = set(re.findall(r"`([\w.-]+)`", page))
    wanted = {*OBJECTIVES, *METRICS, *OWN, *(option for kind in KINDS.values() for option in kind.options)}
    wanted |= {name for part in (TrainConfig, OptimizerConfig, ScheduleConfig) for name in part.__dataclass_fields__}
    assert sorted(wanted - named - {"name"}) == []
