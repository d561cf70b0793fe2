"""The exact state of a run on disk, so that it can be killed at any instant and go on as if nothing had happened.

All that is random in a run is drawn from generators seeded by (seed, step), so the state is: the weights, the
optimiser's memory, the average of the weights, where in the data the run is, and what was best so far.
A state is a folder that is written under a temporary name, brought to the disk, then renamed.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from regard.checkpoint.files import read_json, write_json
from regard.training.devices import fill, shared_like, whole

_NAME = re.compile(r"step-(\d{8})")
KEEP = 2
"""How many states a run keeps: the newest, and the one before it, should the disk have lost a part of the newest."""


@dataclass
class Progress:
    """Where a run is: steps done, where in the data, the best value of the goal and when it was reached.

    `tokens` were read in `seconds`, for `items` that the loss is a mean over. `pending` are the losses of the steps
    since the last record of the log.
    """

    step: int = 0
    epoch: int = 0
    batch: int = 0
    best: float | None = None
    best_step: int = 0
    stale: int = 0
    tokens: int = 0
    items: int = 0
    seconds: float = 0.0
    stopped: bool = False
    pending: list[Any] = field(default_factory=list)


def weights(module: nn.Module) -> dict[str, Tensor]:
    """Parameters, each once, and the buffers that a checkpoint holds."""
    named = dict(module.named_parameters())
    state = module.state_dict(keep_vars=True)
    owned = {id(p) for p in module.parameters()}
    return named | {name: t.detach() for name, t in state.items() if id(t) not in owned}


def save_state(
    folder: Path,
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    ema: dict[str, Tensor],
    progress: Progress,
    leader: bool = True,
) -> None:
    """Write the state after `progress.step` steps beside older ones, and remove the oldest.

    Weights that are shared out over devices are brought together, so all devices must call this; the leader writes,
    and a run may go on with another number of devices. Raises OSError, with everything as it was, if the disk is full.
    """
    tensors, scalars = _flat(optimizer.state_dict()["state"])
    kept = {name: whole(t.detach()) for name, t in weights(module).items()}
    memory = {name: whole(t) for name, t in tensors.items()}
    average = {name: whole(t) for name, t in ema.items()}
    if not leader:
        return
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / f".{secrets.token_hex(6)}.tmp"
    target = folder / f"step-{progress.step:08}"
    temporary.mkdir()
    try:
        _write(kept, temporary / "weights.safetensors")
        _write(memory, temporary / "optimizer.safetensors")
        if average:
            _write(average, temporary / "ema.safetensors")
        record = {**asdict(progress), "pending": [float(loss) for loss in progress.pending]}
        write_json(temporary / "state.json", {"progress": record, "optimizer": scalars})
        _sync(temporary)
        if target.exists():  # the same step, saved before: the run is deterministic, so both hold the same
            shutil.rmtree(target)
        os.rename(temporary, target)
        _sync(folder)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    for old in [path for _, path in _states(folder)][:-KEEP]:
        shutil.rmtree(old, ignore_errors=True)


def load_state(
    folder: Path, module: nn.Module, optimizer: torch.optim.Optimizer, ema: dict[str, Tensor]
) -> Progress | None:
    """Bring everything to the newest whole state, in place; None if there is none. What was cut off is removed."""
    if not folder.is_dir():
        return None
    for path in folder.glob(".*.tmp"):
        shutil.rmtree(path, ignore_errors=True)
    errors = []
    for _, path in reversed(list(_states(folder))):
        try:
            return _load(path, module, optimizer, ema)
        except (OSError, ValueError, RuntimeError, KeyError) as error:
            errors.append(f"{path}: {error}")
    if errors:
        raise ValueError("no state of this run can be read:\n" + "\n".join(errors))
    return None


def _load(path: Path, module: nn.Module, optimizer: torch.optim.Optimizer, ema: dict[str, Tensor]) -> Progress:
    record = read_json(path / "state.json")
    stored = _read(path / "weights.safetensors")
    memory = _read(path / "optimizer.safetensors")
    average = _read(path / "ema.safetensors") if ema else {}
    _fill(weights(module), stored, path / "weights.safetensors")
    _fill(ema, average, path / "ema.safetensors")
    state: dict[int, dict[str, Any]] = {}
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for name, tensor in memory.items():
        index, key = name.split(".", 1)
        state.setdefault(int(index), {})[key] = shared_like(tensor, parameters[int(index)])
    for name, value in record["optimizer"].items():
        index, key = name.split(".", 1)
        state.setdefault(int(index), {})[key] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    return Progress(**record["progress"])


@torch.no_grad()
def _fill(into: dict[str, Tensor], stored: dict[str, Tensor], where: Path) -> None:
    wrong = sorted(set(into) ^ set(stored)) or [n for n, t in into.items() if t.shape != stored[n].shape]
    if wrong:
        raise ValueError(f"{where} belongs to another model: {wrong[0]!r} does not fit ({len(wrong)} in all)")
    for name, tensor in into.items():
        fill(tensor, stored[name])


def _flat(state: dict[Any, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    tensors: dict[str, Tensor] = {}
    scalars: dict[str, Any] = {}
    for index, values in state.items():
        for key, value in values.items():
            if isinstance(value, Tensor):
                tensors[f"{index}.{key}"] = value
            else:
                scalars[f"{index}.{key}"] = value
    return tensors, scalars


def _states(folder: Path) -> Iterator[tuple[int, Path]]:
    found = ((_NAME.fullmatch(path.name), path) for path in folder.iterdir())
    yield from sorted((int(match[1]), path) for match, path in found if match is not None)


def _write(tensors: dict[str, Tensor], path: Path) -> None:
    save_file({name: t.contiguous() for name, t in tensors.items()}, path)
    with open(path, "rb+") as file:
        os.fsync(file.fileno())


def _read(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except Exception as error:  # safetensors raises its own kind
        raise ValueError(f"{path} cannot be read: {error}") from None


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
