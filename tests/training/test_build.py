"""Every objective from its data file to a saved model that opens, runs, and is judged as the run was."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest
import torch

import regard
from regard.training.build import build
from regard.training.judge import judge
from regard.training.loop import fit
from regard.training.recipe import Recipe
from tests.training.recipes import CASES

TASKS = {
    "documents": ("text-generation", "the fox"),
    "masks": ("fill-mask", "the [MASK] sees rain"),
    "translation": ("text2text-generation", "turn: the fox sees rain"),
    "captions": ("image-to-text", "pictures/dark/01.png"),
    "classes": ("text-classification", "the fox sees rain"),
    "several": ("text-classification", "the fox sees rain"),
    "ratings": ("text-classification", "the fox sees rain"),
    "images": ("image-classification", "pictures/dark/01.png"),
    "sounds": ("audio-classification", "sounds/1.wav"),
    "tags": ("token-classification", "the fox sees rain"),
    "letters": ("automatic-speech-recognition", "sounds/1.wav"),
}


def recipe(name: str, folder: Path, **changes: Any) -> Recipe:
    objective, model, tokenizer, make, data = CASES[name]
    pytest.importorskip("PIL")
    pytest.importorskip("soundfile")
    train = {"steps": 3, "batch_size": 4, "eval_every": 1, "learning_rate": 1e-3}
    return Recipe(
        **{
            "objective": objective,
            "model": model,
            "tokenizer": tokenizer,
            "data": {"train": make(folder), "valid": 0.25, **data},
            "train": train,
            **changes,
        }
    )


@pytest.mark.parametrize("name", CASES)
def test_every_objective_ends_in_a_model_that_opens(name: str, tmp_path: Path) -> None:
    wanted = recipe(name, tmp_path)
    job = build(wanted)
    history = fit(job.model, job.problem, folder=tmp_path / "run", **{**job.problem.options, **wanted.train})
    assert [step for step, _ in history.losses][-1] == 3
    assert len(history.evaluations) == 3 and all(math.isfinite(e["valid"]["loss"]) for e in history.evaluations)
    for kept in ("best", "last"):
        opened = regard.load(str(tmp_path / "run" / kept))
        assert type(opened.processor) is type(job.model.processor)
    for key, value in job.model.state_dict().items():
        assert torch.equal(value, opened.state_dict()[key]), key
    assert opened.labels == job.model.labels
    if name == "views":
        return  # its loss is beside a teacher, which is not kept
    printed = max(reversed(history.evaluations), key=lambda e: e["best"])["valid"]
    found = judge(str(tmp_path / "run" / "best"), tmp_path / "run" / "recipe.toml")
    measured = set(printed) & set(found)
    assert {"loss"} <= measured
    assert {m: found[m] for m in measured} == pytest.approx({m: printed[m] for m in measured}, rel=1e-5)
    if name in TASKS:
        task, given = TASKS[name]
        path = tmp_path / given
        assert regard.pipeline(task, str(tmp_path / "run" / "best"))(str(path) if path.is_file() else given)


def test_a_new_model_that_would_never_hear_a_whole_sound_is_spoken_of(tmp_path: Path) -> None:
    wanted = recipe("letters", tmp_path)
    for fields, said in (({}, True), ({"mask_time_min_masks": 0}, False), ({"mask_time_prob": 0.0}, False)):
        fields = {**wanted.model, "mask_time_prob": 0.1, "mask_time_length": 2, **fields}  # type: ignore[dict-item]
        notes = build(dataclasses.replace(wanted, model=fields)).notes
        assert any("mask_time_min_masks" in note for note in notes) is said


def test_sounds_that_are_learnt_from_change(tmp_path: Path) -> None:
    pytest.importorskip("soxr")
    for name in ("letters", "sounds", "transcripts"):
        wanted = recipe(name, tmp_path)
        job = build(dataclasses.replace(wanted, data={**wanted.data, "augment": {"speed": 0.3}}))
        assert job.problem.train.augment.speed == 0.3 and job.problem.valid.augment is None  # type: ignore
        fit(job.model, job.problem, **{**job.problem.options, **wanted.train})


def test_only_images_that_are_learnt_from_change(tmp_path: Path) -> None:
    wanted = recipe("images", tmp_path)
    made = {k: v for k, v in wanted.data.items() if k != "augment"}
    changing = recipe("images", tmp_path, data={**made, "augment": {"area": [0.5, 1.0], "warp": 0.1}})
    plain, varied = build(wanted), build(changing)
    assert varied.problem.train.augment.area == (0.5, 1.0) and varied.problem.valid.augment is None  # type: ignore
    assert plain.problem.train.augment is None  # type: ignore[attr-defined]
    losses = [fit(job.model, job.problem, **{**job.problem.options, **wanted.train}) for job in (plain, varied)]
    assert losses[0].losses[0] != losses[1].losses[0]
    assert (
        fit(build(changing).model, varied.problem, **{**varied.problem.options, **wanted.train}).losses
        == losses[1].losses
    )
    with pytest.raises(ValueError, match="data has the option 'augment', which rows like these do not have"):
        build(recipe("classes", tmp_path, data={"train": CASES["classes"][3](tmp_path), "augment": True}))
