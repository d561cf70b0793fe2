"""A run's folder: what it is (run.json), what it said (log.jsonl, loss.png), its states, and the models it gave."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import regard
from regard.adapt.adapters import adapters
from regard.adapt.files import save_adapter
from regard.checkpoint.files import atomic, read_json, write_json
from regard.checkpoint.save import save
from regard.models.model import Model
from regard.training.config import TrainConfig
from regard.training.problem import Problem

_FREE = {"log_every", "save_every", "device", "devices", "nodes", "strategy"}
"""Settings that may differ when a run goes on: they do not change what is learnt."""


class RunFolder:
    """Opens or starts the folder of a run; without `resume` an earlier run there is forgotten.

    Raises ValueError if another run lives there.
    """

    def __init__(
        self, path: Path, config: TrainConfig, problem: Problem, model: Model, resume: bool, leader: bool = True
    ):
        self.path, self.leader = path, leader
        self.states = path / "states"
        self.log = Log(path / "log.jsonl", leader)
        self.problem = problem
        record = {
            "training": config.to_dict(),
            "objective": problem.objective.name,
            "model": model.config.to_dict(),
            "data": {"rows": len(problem.train), "fingerprint": problem.fingerprint},
        }
        file = path / "run.json"
        if leader and not resume:
            for name in ("best", "last") if file.exists() else ():
                shutil.rmtree(path / name, ignore_errors=True)
            file.unlink(missing_ok=True)
            self.log.path.unlink(missing_ok=True)
            shutil.rmtree(self.states, ignore_errors=True)
        if file.exists():
            _same_run(read_json(file), json.loads(json.dumps(record)), path)
        elif leader:
            path.mkdir(parents=True, exist_ok=True)
            write_json(file, {**record, "made": _made()})
            if problem.recipe:
                with atomic(path / "recipe.toml") as temporary:
                    temporary.write_text(problem.recipe, "utf-8")

    def newest(self) -> int | None:
        """The step of the newest state, if there is one."""
        names = sorted(p.name for p in self.states.glob("step-*")) if self.states.is_dir() else []
        return int(names[-1].removeprefix("step-")) if names else None

    def export(self, model: Model, name: str) -> None:
        """Write the model, or the adapters on it, to a folder that `regard.load` opens.

        A model that was built from bricks has no such form.
        """
        if not (self.leader and model.raw):
            return
        keep(model, self.path / name)

    def draw(self) -> None:
        """The loss curve as loss.png, if matplotlib is installed."""
        if self.leader and importlib.util.find_spec("matplotlib") is not None:
            from regard.training.draw import loss_figure

            with atomic(self.path / "loss.png") as temporary:
                loss_figure(self.log.records()).savefig(temporary, format="png", dpi=150)


def keep(model: Model, folder: Path) -> None:
    """Write a model, or the adapter at work on it, to a folder that `regard.load` opens."""
    record = adapters(model)
    if not record.plans:
        save(model, folder)
        return
    save_adapter(model, folder, record.active[0])
    raw = {**model.raw, "architectures": [model.architecture]}
    write_json(folder / "config.json", raw)  # it names the head and the classes
    if model.processor is not None:
        model.processor.save_pretrained(folder)


class Log:
    """Records, one JSON object a line; what was said after the state that a run goes on from is forgotten."""

    def __init__(self, path: Path, leader: bool = True):
        self.path, self.leader = path, leader

    def write(self, record: dict[str, Any]) -> None:
        """Append a record; a line cut off by a crash is dropped by `rewind`."""
        if self.leader:
            with open(self.path, "a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")

    def records(self) -> list[dict[str, Any]]:
        """All records."""
        if not self.path.exists():
            return []
        found = []
        for line in self.path.read_text("utf-8").splitlines():
            try:
                found.append(json.loads(line))
            except ValueError:
                break
        return found

    def rewind(self, step: int) -> None:
        """Keep the records up to a step."""
        kept = [record for record in self.records() if record["step"] <= step]
        if self.leader and self.path.exists():
            with atomic(self.path) as temporary:
                temporary.write_text("".join(json.dumps(record) + "\n" for record in kept), "utf-8")


def _same_run(old: dict[str, Any], new: dict[str, Any], path: Path) -> None:
    before, after = _flat(old), _flat(new)
    names = sorted(name for name in before.keys() | after.keys() if not name.startswith("made."))
    changed = [n for n in names if before.get(n) != after.get(n) and n.rpartition(".")[2] not in _FREE]
    if changed:
        name = changed[0]
        raise ValueError(
            f"{path} holds another run: {name} was {before.get(name)!r} and is now {after.get(name)!r}"
            f"{f' (and {len(changed) - 1} more differ)' if len(changed) > 1 else ''}; "
            "choose another folder, or start anew (--fresh, resume=False), which forgets that run"
        )


def _flat(value: Any, name: str = "") -> dict[str, Any]:
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else None
    if pairs is None:
        return {name: value}
    return {key: v for k, item in pairs for key, v in _flat(item, f"{name}.{k}".lstrip(".")).items()}


def _made() -> dict[str, Any]:
    versions = {"regard": regard.__version__, "python": platform.python_version()}
    for package in ("torch", "numpy", "tokenizers", "safetensors", "lightning-fabric"):
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "command": [os.path.basename(sys.argv[0]), *sys.argv[1:]],
        "versions": versions,
        "git": _commit(),
        "machine": platform.machine(),
    }


def _commit() -> str | None:
    """The commit of the folder that the run was started in, with a plus if files have changed; None outside of one."""
    try:
        ask = {"capture_output": True, "text": True, "timeout": 10, "check": True}
        head = subprocess.run(["git", "rev-parse", "HEAD"], **ask).stdout.strip()  # type: ignore[call-overload]
        dirty = subprocess.run(["git", "status", "--porcelain", "-uno"], **ask).stdout  # type: ignore[call-overload]
    except (OSError, subprocess.SubprocessError):
        return None
    return head + ("+" if dirty.strip() else "")
