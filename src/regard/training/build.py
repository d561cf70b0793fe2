"""A recipe -> a model and a problem, ready for `fit`."""

from __future__ import annotations

import hashlib
import inspect
import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import regard
from regard import adapt, front
from regard.models.model import Model
from regard.training.data.clean import clean, deduplicate
from regard.training.data.labels import Labels
from regard.training.data.read import read_rows
from regard.training.data.rows import column_of
from regard.training.data.split import class_weights, split
from regard.training.data.tokenizer import train_tokenizer
from regard.training.data.tokens import fingerprint_of_files, fingerprint_of_texts
from regard.training.kinds import KINDS, Kind
from regard.training.metrics import find_metrics
from regard.training.problem import Problem
from regard.training.recipe import Recipe

READING = ("columns", "by", "delimiter", "quoting", "encoding", "pattern", "tolerant")
"""Options of [data] that say how files are read."""
_HERE = (*READING, "train", "valid", "test", "clean", "deduplicate", "limit", "group", "seed")


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
    name, options = _named(recipe.objective)
    if name not in KINDS:
        raise ValueError(f"objective is {name!r}; allowed: {', '.join(KINDS)}")
    kind = KINDS[name]
    notes: list[str] = []
    parts = _parts(recipe, kind, notes)
    labels = _labels(recipe, kind, parts["train"], options)
    model = _model(recipe, kind, parts["train"], labels)
    if labels is not None:
        model.name_labels(labels.id2label)
    if options.get("weights") == "balanced":
        options["weights"] = _balanced(parts["train"], recipe, kind, labels)
    objective = kind.make(model, **_fitting(kind.make, name, options))
    how = {key: value for key, value in recipe.data.items() if key not in _HERE}
    ready = {part: prepared(kind, rows, model, labels, how) for part, rows in parts.items()}
    notes += [f"{part}: {note}" for part, rows in ready.items() for note in getattr(rows, "notes", [])]
    if recipe.adapter:
        _adapt(model, recipe.adapter, kind)
    metrics = recipe.metrics or (kind.metrics if options.get("kind", "single") == "single" else ())
    problem = Problem(
        objective=objective,
        train=ready["train"],
        valid=ready.get("valid"),
        metrics=find_metrics(metrics),
        labels={} if labels is None else labels.id2label,
        fingerprint=_fingerprint(recipe, parts),
        options=_suiting(recipe),
    )
    return Job(model, problem, ready.get("test"), tuple(notes))


def _named(objective: str | Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    if isinstance(objective, str):
        return objective, {}
    options = dict(objective)
    return str(options.pop("name", "")), options


def _parts(recipe: Recipe, kind: Kind, notes: list[str]) -> dict[str, Any]:
    """Rows of "train", "valid" and "test"; a part that is given as a number is taken from "train"."""
    data = recipe.data
    if "train" not in data:
        raise ValueError("data.train is missing: which file, folder or files to learn from")
    how = {key: data[key] for key in READING if key in data}
    parts = {"train": read_rows(_source(recipe, data["train"]), **how)}
    wanted = {name: data.get(name, 0.1 if name == "valid" else None) for name in ("valid", "test")}
    for name, value in wanted.items():
        if value and not isinstance(value, (int, float)):
            parts[name] = read_rows(_source(recipe, value), **how)
    if data.get("limit"):
        parts["train"] = selected(parts["train"], np.arange(min(int(data["limit"]), len(parts["train"]))))
    columns = [str(data.get(name, name)) for name in kind.texts]
    if data.get("clean"):
        parts["train"], report = clean(parts["train"], columns)
        notes.append(f"train: {report}")
    if data.get("deduplicate"):
        near = data["deduplicate"] if isinstance(data["deduplicate"], float) else None
        parts["train"], report = deduplicate(parts["train"], columns, near=near)
        notes.append(f"train: {report}")
    shares = {name: float(value) for name, value in wanted.items() if isinstance(value, (int, float)) and value}
    return {**parts, **_shared_out(parts["train"], shares, recipe, kind)} if shares else parts


def _shared_out(rows: Any, shares: dict[str, float], recipe: Recipe, kind: Kind) -> dict[str, Any]:
    if sum(shares.values()) >= 1:
        raise ValueError(f"data.{next(iter(shares))} is {shares}; allowed: parts that leave some rows for training")
    if len(rows) == 1 and kind.texts:  # one long text: its end is held out
        column = str(recipe.data.get(kind.texts[0], kind.texts[0]))
        return _cut(rows, column, shares)
    labels = groups = None
    if kind.label is not None and recipe.data.get("group") is None:
        values = column_of(rows, str(recipe.data.get("label", kind.label)))
        counts = {value: values.count(value) for value in set(values)} if _hashable(values) else {}
        labels = values if counts and min(counts.values()) > 1 and len(counts) < len(values) / 2 else None
    if recipe.data.get("group") is not None:
        groups = column_of(rows, str(recipe.data["group"]))
    found = split(
        len(rows),
        {"train": 1 - sum(shares.values()), **shares},
        seed=int(recipe.data.get("seed", 0)),
        labels=labels,
        groups=groups,
    )
    return {name: selected(rows, numbers) for name, numbers in found.items()}


def _cut(rows: Any, column: str, shares: dict[str, float]) -> dict[str, Any]:
    text = column_of(rows, column)[0]
    ends, start = {}, int(len(text) * (1 - sum(shares.values())))
    found = {"train": [{column: text[:start]}]}
    for name, share in shares.items():
        ends[name] = start + int(len(text) * share)
        found[name] = [{column: text[start : ends[name]]}]
        start = ends[name]
    return found


def _hashable(values: Any) -> bool:
    return all(isinstance(value, (str, int, bool)) for value in values)


def selected(rows: Any, numbers: Any) -> Any:
    """The rows of these numbers."""
    return rows.select(numbers) if hasattr(rows, "select") else [rows[int(i)] for i in numbers]


def _source(recipe: Recipe, value: Any) -> Any:
    if isinstance(value, str):
        return recipe.path(value)
    if isinstance(value, Mapping):
        return {key: recipe.path(str(path)) for key, path in value.items()}
    return [recipe.path(str(path)) for path in value]


def _labels(recipe: Recipe, kind: Kind, rows: Any, options: Mapping[str, Any]) -> Labels | None:
    if kind.label is None or options.get("kind") == "regression":
        return None
    return Labels.of_column(rows, str(recipe.data.get("tags" if kind.label == "tags" else "label", kind.label)))


def _balanced(rows: Any, recipe: Recipe, kind: Kind, labels: Labels | None) -> list[float]:
    if labels is None or kind.head != "classification":
        raise ValueError("weights is 'balanced'; allowed only with classes")
    column = str(recipe.data.get("label", kind.label))
    weights = class_weights([labels.id(value, i, column) for i, value in enumerate(column_of(rows, column))])
    return [float(weights[i]) for i in range(len(labels))]


def _model(recipe: Recipe, kind: Kind, rows: Any, labels: Labels | None) -> Model:
    count = None if labels is None else len(labels)
    if isinstance(recipe.model, str):
        if not recipe.model:
            raise ValueError("model is missing: a checkpoint to start from, or a table of config.json for a new one")
        folder = recipe.path(recipe.model)
        model = regard.load(folder if folder.exists() else recipe.model, head=kind.head, num_labels=count)
        if recipe.tokenizer:
            raise ValueError("tokenizer is given beside a checkpoint, which has its own; leave it out")
        return model
    raw = dict(recipe.model)
    processor = raw.pop("processor", None)
    tokenizer = _tokenizer(recipe, kind, rows)
    if tokenizer is not None:
        raw.setdefault("vocab_size", len(tokenizer))
        for name in ("pad", "bos", "eos", "cls", "sep", "mask"):
            number = getattr(tokenizer, f"{name}_token_id", None)
            if number is not None and name in ("pad", "bos", "eos"):
                raw.setdefault(f"{name}_token_id", number)
    if count is not None:
        raw |= {"id2label": labels.id2label, "label2id": {name: i for i, name in enumerate(labels)}}  # type: ignore
    model = regard.from_config(raw, head=kind.head, seed=recipe.config.seed)
    model.processor = tokenizer if processor is None else _processor(processor, tokenizer)
    return model


def _tokenizer(recipe: Recipe, kind: Kind, rows: Any) -> Any:
    wanted = recipe.tokenizer
    if not wanted:
        return None
    if isinstance(wanted, str) and wanted != "characters":
        found = front.processor(recipe.path(wanted))
        return getattr(found, "tokenizer", found)
    options = {"kind": "characters", "vocab_size": 2**16} if isinstance(wanted, str) else dict(wanted)
    columns = [str(recipe.data.get(name, name)) for name in kind.texts]
    texts = [text for column in columns for text in column_of(rows, column)]
    return train_tokenizer(texts, use=options.pop("use", kind.use), **options)


def _processor(fields: Mapping[str, Any], tokenizer: Any) -> Any:
    """What a preprocessor_config.json of these fields makes, beside a tokenizer if there is one."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "preprocessor_config.json").write_text(json.dumps(dict(fields)), "utf-8")
        if tokenizer is not None:
            tokenizer.save_pretrained(folder)
        return front.processor(folder)


def prepared(kind: Kind, rows: Any, model: Model, labels: Labels | None, how: Mapping[str, Any]) -> Any:
    """Rows as the objective wants them. Raises ValueError for an option that this kind of rows does not have."""
    try:
        return kind.rows(rows, model, labels, **how)
    except TypeError as error:  # an option of [data] that this kind of rows does not have
        unknown = str(error).partition("unexpected keyword argument ")[2]
        if not unknown:
            raise
        raise ValueError(f"data has no option {unknown} for this objective") from None


def _fitting(make: Any, name: str, options: Mapping[str, Any]) -> Mapping[str, Any]:
    from regard.training.objectives import OBJECTIVES

    known = set(inspect.signature(OBJECTIVES[name].__init__).parameters) | set(inspect.signature(make).parameters)
    unknown = sorted(set(options) - known)
    if unknown:
        allowed = ", ".join(sorted(known - {"self", "model", "options"}))
        raise ValueError(f"objective {name!r} has no option {unknown[0]!r}; allowed: {allowed}")
    return options


def _adapt(model: Model, table: Mapping[str, Any], kind_of_training: Kind) -> None:
    options = {"task_type": _TASK_TYPES.get(kind_of_training.head), **table}
    kind = str(options.pop("kind", "lora"))
    kinds = {"lora": adapt.LoraConfig, "ia3": adapt.IA3Config, "prefix": adapt.PrefixTuningConfig}
    if kind not in kinds:
        raise ValueError(f"adapter.kind is {kind!r}; allowed: {', '.join(kinds)}")
    try:
        config = kinds[kind](**{k: tuple(v) if isinstance(v, list) else v for k, v in options.items()})
    except TypeError as error:
        raise ValueError(f"adapter: {str(error).partition(') ')[2] or error}") from None
    adapt.add(model, config)


def _suiting(recipe: Recipe) -> dict[str, Any]:
    """A new model learns faster than one that is only tuned."""
    return {} if isinstance(recipe.model, str) else {"learning_rate": 1e-3, "warmup": 0.05}


def _fingerprint(recipe: Recipe, parts: Mapping[str, Any]) -> str:
    digest = hashlib.sha256(json.dumps([recipe.objective, dict(recipe.data)], sort_keys=True, default=str).encode())
    for name in ("train", "valid", "test"):
        value = recipe.data.get(name)
        if isinstance(value, (str, os.PathLike)) and recipe.path(str(value)).is_file():
            digest.update(fingerprint_of_files([recipe.path(str(value))]).encode())
        elif name in parts:
            digest.update(fingerprint_of_texts(str(row) for row in parts[name]).encode())
    return digest.hexdigest()
