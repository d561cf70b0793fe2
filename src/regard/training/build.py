"""A recipe -> a model and a problem, ready for `fit`."""

from __future__ import annotations

import difflib
import hashlib
import inspect
import json
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

import regard
from regard import adapt, front
from regard.adapt.targets import leaves
from regard.checkpoint.find import find
from regard.models.base import Raw
from regard.models.model import Model
from regard.preprocess.ctc import CTCTokenizer
from regard.training.base import Objective
from regard.training.config import TrainConfig
from regard.training.data.labels import Labels
from regard.training.data.rows import column_of
from regard.training.data.split import class_weights
from regard.training.data.tokenizer import train_tokenizer
from regard.training.data.tokens import fingerprint_of_files, fingerprint_of_texts
from regard.training.kinds import KINDS, Kind
from regard.training.metrics import find_metrics
from regard.training.objectives import OBJECTIVES
from regard.training.parts import Parts, label_column, parts_of
from regard.training.problem import Problem
from regard.training.recipe import Recipe
from regard.training.toml import recipe_text

SAVE_EVERY = 500
"""Steps after which the state of a run is kept at the latest."""
_PROBLEMS = {"single": "single_label_classification", "multi": "multi_label_classification", "regression": "regression"}
_TASK_TYPES = {
    "classification": "SEQ_CLS",
    "token-classification": "TOKEN_CLS",
    "causal-lm": "CAUSAL_LM",
    "seq2seq-lm": "SEQ_2_SEQ_LM",
    "question-answering": "QUESTION_ANS",
    "features": "FEATURE_EXTRACTION",
}


@dataclass(frozen=True)
class Job:
    """What a recipe asks for: the model as it is before training, the problem, and the rows of the test split."""

    model: Model
    problem: Problem
    test: Any = None
    notes: tuple[str, ...] = ()


def build(recipe: Recipe) -> Job:
    """Read the data, make or load the model, and prepare the rows. Raises ValueError naming what does not fit."""
    name, options = named(recipe.objective)
    kind = KINDS[name]
    _check_start(recipe)
    config = recipe.config
    metrics = find_metrics(recipe.metrics)
    parts = parts_of(recipe, kind, classes=options.get("kind") != "regression")
    with torch.random.fork_rng(devices=[]):  # a new head, a new adapter: the same in every run
        torch.manual_seed(config.seed)
        model = _model(recipe, kind, parts, options)
        if recipe.adapter:
            _adapt(model, recipe.adapter, kind)
        objective = objective_of(name, model, parts, options)
        ready = {part: prepared(kind, parts, part, model, objective) for part in parts.rows}
    notes = parts.notes + [f"{part}: {note}" for part, rows in ready.items() for note in getattr(rows, "notes", [])]
    notes += _always_hidden(recipe, name, model)
    problem = Problem(
        objective=objective,
        train=ready["train"],
        valid=ready.get("valid"),
        metrics=metrics or find_metrics(kind.usual(objective)),
        labels={} if parts.labels is None else parts.labels.id2label,
        fingerprint=_fingerprint(recipe, parts.rows),
        options=_suiting(recipe, config, ready["train"]),
        recipe=recipe_text(recipe),
    )
    return Job(model, problem, ready.get("test"), tuple(notes))


def _always_hidden(recipe: Recipe, name: str, model: Model) -> list[str]:
    """A word on a new model that would never hear a whole sound: it learns to write where one is hidden, and there
    alone. One that has heard whole sounds before is safe."""
    front = getattr(getattr(model.config, "encoder", None), "front", None)
    runs = getattr(front, "hidden_moments", None)
    if name != "ctc" or isinstance(recipe.model, str) or runs is None or runs.least == 0:
        return []
    return [
        f"model: at least {runs.least} stretches of every sound are hidden from it (mask_time_min_masks), and a new "
        "model may learn to write there alone; 0, and a mask_time_prob that hides nothing of some sounds, prevents it"
    ]


def _check_start(recipe: Recipe) -> None:
    if not recipe.model:
        raise ValueError(
            "model is missing: a checkpoint to start from, as in model=FOLDER, or a table of config.json for a new one"
        )
    if recipe.adapter and not isinstance(recipe.model, str):
        raise ValueError("adapter is given beside a new model, which would not learn then; leave the adapter out")
    if recipe.shrink and not isinstance(recipe.model, str):
        raise ValueError("shrink is given beside a new model; make that one small in [model]")
    if recipe.tokenizer and isinstance(recipe.model, str):
        raise ValueError("tokenizer is given beside a checkpoint, which has its own; leave it out")


def objective_of(name: str, model: Model, parts: Parts, options: dict[str, Any]) -> Objective:
    """An objective for a model. Raises ValueError for options that it does not have."""
    kind = KINDS[name]
    if options.get("weights") == "balanced":
        options = {**options, "weights": _balanced(parts, kind)}
    _check_options(kind.make, name, options)
    try:
        return kind.make(model, **options)
    except TypeError as error:  # one that must be given, or of another type
        said = str(error).partition("missing ")[2].partition(": ")[2] or str(error)
        raise ValueError(f"objective {name!r} needs {said}; write objective={{name = {name!r}, ...}}") from None


def named(objective: str | Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """The name and the options of an objective. Raises ValueError for a name that there is not."""
    options = {"name": objective} if isinstance(objective, str) else dict(objective)
    name = options.pop("name", None)
    if name not in KINDS:
        near = difflib.get_close_matches(str(name), KINDS, 1)
        hint = f"; did you mean {near[0]!r}?" if near else f"; allowed: {', '.join(KINDS)}"
        raise ValueError(f"objective is {name!r}{hint}")
    return str(name), options


def _balanced(parts: Parts, kind: Kind) -> list[float]:
    if parts.labels is None or kind.head != "classification":
        raise ValueError("weights is 'balanced'; allowed only with classes")
    column = label_column(parts.how, kind)
    values = column_of(parts.rows["train"], column)
    with parts.located("train"):
        weights = class_weights([parts.labels.id(value, i, column) for i, value in enumerate(values)])
    return [float(weights.get(i, 1.0)) for i in range(len(parts.labels))]


def _model(recipe: Recipe, kind: Kind, parts: Parts, options: Mapping[str, Any]) -> Model:
    labels, count = parts.labels, None
    if labels is not None:
        count = len(labels)
    elif kind.head == "classification":
        count = int(np.size(column_of(parts.rows["train"], label_column(parts.how, kind))[0]))  # numbers a row
    if isinstance(recipe.model, str):
        model = _shrunk(recipe, _loaded(recipe, recipe.model, kind, count), kind, parts)
    else:
        model = _new(recipe, recipe.model, kind, parts, count)
    if labels is not None:
        if set(labels.names) == set(model.labels.values()):  # the model goes on with its own order
            labels = parts.labels = Labels(model.labels[i] for i in range(len(model.labels)))
        model.name_labels(labels.id2label)
    if kind.head == "classification":
        model.raw = {**model.raw, "problem_type": _PROBLEMS.get(str(options.get("kind", "single")))}
    return model


def _loaded(recipe: Recipe, ref: str, kind: Kind, count: int | None) -> Model:
    folder = recipe.path(ref)
    found = find(folder if folder.exists() else ref)
    own = Raw(found.json("config.json") or {}).labels()  # as many classes: their names are looked at, and kept
    model = regard.load(
        folder if folder.exists() else ref, head=kind.head, num_labels=None if len(own) == count else count
    )
    if recipe.adapter and adapt.trainable(model)[0] < adapt.trainable(model)[1]:
        raise ValueError(f"adapter: {ref} has one already; merge it first, or start from the model that it belongs to")
    return model


def _shrunk(recipe: Recipe, model: Model, kind: Kind, parts: Parts) -> Model:
    unknown = sorted(set(recipe.shrink) - {"layers", "vocabulary"})
    if unknown:
        raise ValueError(f"shrink has no option {unknown[0]!r}; allowed: layers, vocabulary")
    rows = parts.rows["train"]
    texts = (text for column in kind.columns(rows, parts.how) for text in _words(rows, column))
    return adapt.shrink(model, **recipe.shrink, texts=texts) if recipe.shrink else model


def _new(recipe: Recipe, fields: Mapping[str, Any], kind: Kind, parts: Parts, count: int | None) -> Model:
    raw = dict(fields)
    processor = raw.pop("processor", None)
    tokenizer = _tokenizer(recipe, kind, parts)
    if tokenizer is None and kind.columns(parts.rows["train"], parts.how):
        raise ValueError(
            "tokenizer is missing, which a new model of text needs: a folder that holds one, 'characters', or a table "
            "such as {kind = 'bpe', vocab_size = 8000}"
        )
    if tokenizer is not None:
        raw.setdefault("vocab_size", len(tokenizer))
        for name in ("pad", "bos", "eos"):
            number = getattr(tokenizer, f"{name}_token_id", None)
            if number is not None:
                raw.setdefault(f"{name}_token_id", number)
    if count is not None:
        raw["num_labels"] = count
    model = regard.from_config(raw, head=kind.head, seed=recipe.config.seed)
    model.processor = tokenizer if processor is None else _processor(processor, tokenizer)
    return model


def _tokenizer(recipe: Recipe, kind: Kind, parts: Parts) -> Any:
    wanted, rows = recipe.tokenizer, parts.rows["train"]
    if not wanted:
        return None
    if isinstance(wanted, str) and wanted != "characters":
        found = front.processor(recipe.path(wanted))
        if found is None:
            raise ValueError(f"tokenizer is {wanted!r}; allowed: a folder that holds one, 'characters', or a table")
        return getattr(found, "tokenizer", found)
    letters = {"kind": "characters", "vocab_size": 2**16}
    options = {
        **({"special_tokens": kind.marks} if kind.marks else {}),
        **(letters if isinstance(wanted, str) else wanted),
    }
    with parts.located("train"):
        texts = [text for column in kind.columns(rows, parts.how) for text in _words(rows, column)]
    if kind.use == "letters":
        if options != letters:
            raise ValueError(f"tokenizer is {wanted!r}; allowed for a model that hears letters: 'characters'")
        return _letters(texts)
    known = set(inspect.signature(train_tokenizer).parameters) - {"texts", "folder"}
    unknown = sorted(set(options) - known)
    if unknown:
        raise ValueError(f"tokenizer has no option {unknown[0]!r}; allowed: {', '.join(sorted(known))}")
    return train_tokenizer(texts, use=options.pop("use", kind.use), **options)


def _words(rows: Any, column: str) -> Iterator[str]:
    """The texts of a column; those of lists one by one."""
    for i, value in enumerate(column_of(rows, column)):
        several = value if isinstance(value, (list, tuple)) else [value]
        if not all(isinstance(text, str) for text in several):
            raise ValueError(f"row {i}: {column!r} is {str(value)[:60]!r}; allowed: text")
        yield from several


def _letters(texts: Sequence[str]) -> CTCTokenizer:
    """A tokenizer of the letters that occur, a word's end among them, as of models that hear."""
    found = sorted({letter for text in texts for letter in text} - {" "})
    return CTCTokenizer({token: i for i, token in enumerate(("<pad>", "<s>", "</s>", "<unk>", "|", *found))})


def _processor(fields: Mapping[str, Any], tokenizer: Any) -> Any:
    """What a preprocessor_config.json of these fields makes, beside a tokenizer if there is one."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "preprocessor_config.json").write_text(json.dumps(dict(fields)), "utf-8")
        if tokenizer is not None:
            tokenizer.save_pretrained(folder)
        return front.processor(folder)


def prepared(
    kind: Kind, parts: Parts, name: str, model: Model, objective: Objective, *, learn: bool | None = None
) -> Any:
    """The rows of a part as the objective wants them, to learn from or to be judged on.

    Raises ValueError naming what does not fit, and its row.
    """
    how = {**parts.how, **{key: getattr(objective, key) for key in kind.shared}}
    learn = name == "train" if learn is None else learn
    if not learn and "block" in how:
        how["stride"] = how["block"]  # to be judged on, each token once
    if not learn:
        how.pop("augment", None)
    try:
        with parts.located(name):
            return kind.rows(parts.rows[name], model, parts.labels, **how)
    except TypeError as error:  # an option of [data] for text where there are images, say
        unknown = str(error).partition("unexpected keyword argument ")[2]
        if not unknown:
            raise
        raise ValueError(f"data has the option {unknown}, which rows like these do not have") from None


def _check_options(make: Any, name: str, options: Mapping[str, Any]) -> None:
    known = set(inspect.signature(OBJECTIVES[name].__init__).parameters) | set(inspect.signature(make).parameters)
    known -= {"self", "model", "options", "vocabulary", "crops", "mask", "special", "sentinel", "last_sentinel"}
    unknown = sorted(set(options) - known)
    if unknown:
        allowed = ", ".join(sorted(known)) or "none"
        raise ValueError(f"objective {name!r} has no option {unknown[0]!r}; allowed: {allowed}")


def _adapt(model: Model, table: Mapping[str, Any], kind_of_training: Kind) -> None:
    options = {"task_type": _TASK_TYPES.get(kind_of_training.head), **table}
    kind, precision = str(options.pop("kind", "lora")), options.pop("precision", None)
    kinds = {"lora": adapt.LoraConfig, "ia3": adapt.IA3Config, "prefix": adapt.PrefixTuningConfig}
    if kind not in kinds:
        raise ValueError(f"adapter.kind is {kind!r}; allowed: {', '.join(kinds)}")
    known = leaves(model)
    new = {name.rpartition(".")[0] for name in model.fresh}  # what was drawn anew must learn, and be kept
    options["modules_to_save"] = [*(options.get("modules_to_save") or ()), *(known[n][-1] for n in known if n in new)]
    try:
        config = kinds[kind](**{k: tuple(v) if isinstance(v, list) else v for k, v in options.items()})
    except TypeError as error:
        raise ValueError(f"adapter: {str(error).partition(') ')[2] or error}") from None
    if precision is not None:
        try:
            adapt.quantize(model, precision, force=True)  # to hold less, even where that is slower
        except ValueError as error:
            raise ValueError(f"adapter.precision: {error}") from None
    adapt.add(model, config)


def _suiting(recipe: Recipe, config: TrainConfig, train: Any) -> dict[str, Any]:
    """A new model learns faster than one that is only tuned. Both are judged and kept once an epoch, and at the end."""
    epoch = max(1, len(train) // (config.batch_size * config.accumulate))
    often = {"eval_every": epoch, "save_every": min(epoch, SAVE_EVERY)}
    return often if isinstance(recipe.model, str) else {"learning_rate": 1e-3, "warmup": 0.05, **often}


def _fingerprint(recipe: Recipe, parts: Mapping[str, Any]) -> str:
    digest = hashlib.sha256(json.dumps([recipe.objective, dict(recipe.data)], sort_keys=True, default=str).encode())
    for name in ("train", "valid", "test"):
        value = recipe.data.get(name)
        if isinstance(value, (str, os.PathLike)) and recipe.path(str(value)).is_file():
            digest.update(fingerprint_of_files([recipe.path(str(value))]).encode())
        elif name in parts:
            digest.update(fingerprint_of_texts(str(row) for row in parts[name]).encode())
    return digest.hexdigest()
