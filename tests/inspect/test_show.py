"""`regard show` and `regard models` against counts by hand and the registry itself."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from typer.testing import CliRunner

import regard
from regard.cli import app
from regard.inspect.tree import counted, summary, tree_lines
from regard.models.registry import families
from regard.tasks import find_task
from tests.checkpoint import hostile
from tests.conftest import ROOT

COUNT = sum(tensor.numel() for tensor in hostile.state_dict().values())


def call(*words: object) -> str:
    done = CliRunner().invoke(app, [str(word) for word in words])
    assert done.exit_code == 0, done.output
    return done.output


def test_show_as_json_counts_what_is_there(reader: Path) -> None:
    found = json.loads(call("show", reader, "--json"))
    assert found["architecture"] == "BertModel"
    assert found["parameters"] == COUNT
    assert found["bytes"] == 4 * COUNT
    assert found["dtypes"] == ["float32"]
    assert found["max_length"] == hostile.CONFIG["max_position_embeddings"]
    assert found["labels"] == {}
    assert found["config"]["encoder"]["stack"]["dim"] == hostile.CONFIG["hidden_size"]


def test_show_tells_of_the_types_in_the_file(reader: Path, tmp_path: Path) -> None:
    regard.load(reader, dtype="bfloat16").save_pretrained(tmp_path)
    found = json.loads(call("show", tmp_path, "--json"))
    assert (found["dtypes"], found["bytes"]) == (["bfloat16"], 2 * COUNT)


def test_show_prints_the_tree_and_the_counts(reader: Path) -> None:
    text = call("show", reader)
    assert f"{counted(COUNT)} parameters" in text
    assert "takes up to 16 tokens" in text
    assert "Linear 8x16" in text or "Linear 16x8" in text
    assert len(call("show", reader, "--depth", "1").splitlines()) < len(text.splitlines())


def test_every_parameter_is_in_the_tree(reader: Path) -> None:
    model = regard.load(reader)
    top = [line for line in tree_lines(model) if line[0] == 0]
    assert [line[3] for line in top] == [counted(COUNT)]


def test_the_cache_is_counted_from_heads(translator: Path) -> None:
    found = json.loads(call("show", translator, "--json"))
    assert found["cache_bytes_per_token"] == 2 * 2 * 32 * 4  # keys and values of two layers of 32 floats


def test_queries_that_are_answered_at_once_cache_nothing() -> None:
    model = regard.from_config(dict(families()["detr"].tiny["detr"]))
    assert model.decoder is not None and summary(model)["cache_bytes_per_token"] == 0


def test_models_as_json_is_the_registry() -> None:
    found = json.loads(call("models", "--json"))["families"]
    assert [row["family"] for row in found] == list(families())
    for row in found:
        family = families()[row["family"]]
        assert (row["title"], row["model_types"]) == (family.title, list(family.model_types))
        assert row["heads"] == list(family.head_kinds)
        for task in row["tasks"]:
            assert {*row["heads"], "features"} & set(find_task(task)[0].heads)
    assert {row["family"]: "text-generation" in row["tasks"] for row in found if row["family"] in ("gpt2", "bert")} == {
        "gpt2": True,
        "bert": False,
    }


def test_models_names_every_family() -> None:
    text = " ".join(call("models").split())
    assert all(family.title.split()[0].strip(",") in text for family in families().values())


def test_a_mistake_is_one_line_and_status_2(tmp_path: Path) -> None:
    code = "import sys; sys.argv[0] = 'regard'; from regard.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, "show", str(tmp_path)],
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.splitlines() == [f"regard: {tmp_path} has no config.json; it holds nothing"]
