"""One vector for a sentence: how its tokens' vectors become one, as sentence-transformers writes it beside a model."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch import Tensor
from torch.nn import functional as F

from regard.checkpoint.files import read_bytes
from regard.checkpoint.find import Folder
from regard.config import Config

Mode = Literal["mean", "cls", "max", "last", "mean_sqrt_len", "weighted_mean"]

_MODES: dict[str, Mode] = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len",
    "pooling_mode_weightedmean_tokens": "weighted_mean",
    "pooling_mode_lasttoken": "last",
}
_NAMES: dict[str, Mode] = {
    "lasttoken": "last",
    "mean_sqrt_len_tokens": "mean_sqrt_len",
    "weightedmean": "weighted_mean",
}


@dataclass(frozen=True, kw_only=True)
class Pooling(Config):
    """Ways to pool (several are put end to end), whether the result gets length 1, and the longest sentence."""

    modes: tuple[Mode, ...] = ("mean",)
    normalize: bool = True
    max_length: int | None = None

    def __call__(self, hidden: Tensor) -> Tensor:
        """(T, C) -> (C,), or (C * number of modes,)."""
        parts = [_pooled(hidden, mode) for mode in self.modes]
        vector = torch.cat(parts)
        return F.normalize(vector, dim=0) if self.normalize else vector


def _pooled(hidden: Tensor, mode: Mode) -> Tensor:
    if mode == "cls":
        return hidden[0]
    if mode == "last":
        return hidden[-1]
    if mode == "max":
        return hidden.max(0).values
    if mode == "mean_sqrt_len":
        return hidden.sum(0) / len(hidden) ** 0.5
    if mode == "weighted_mean":
        weights = hidden.new_tensor([float(i) for i in range(1, len(hidden) + 1)])
        return (hidden * weights[:, None]).sum(0) / weights.sum()
    return hidden.mean(0)


def read_pooling(path: Path | None) -> Pooling:
    """What modules.json and its folders say of a checkpoint; mean and length 1 where they say nothing.

    Raises ValueError for a module that is none of Transformer, Pooling and Normalize.
    """
    folder = None if path is None else Folder(path=path, name=str(path))
    if folder is None or folder.file("modules.json") is None:
        return Pooling()
    where = folder.path / "modules.json"
    try:
        modules = json.loads(read_bytes(where, limit=2**20))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where} is not valid JSON: {error}") from None
    if not isinstance(modules, list) or not all(isinstance(m, dict) for m in modules):
        raise ValueError(f"{where} must hold a list of modules")
    modes: tuple[Mode, ...] = ("mean",)
    normalize = False
    for module in modules:
        kind = str(module.get("type")).rpartition(".")[2]
        if kind == "Normalize":
            normalize = True
        elif kind == "Pooling":
            modes = _modes(folder.json(f"{module.get('path') or '1_Pooling'}/config.json") or {}, where)
        elif kind != "Transformer":
            raise ValueError(f"{where} has a module {kind!r:.80}; allowed: Transformer, Pooling, Normalize")
    settings = folder.json("sentence_bert_config.json") or {}
    return Pooling(modes=modes, normalize=normalize, max_length=settings.get("max_seq_length"))


def _modes(settings: dict[str, Any], where: Path) -> tuple[Mode, ...]:
    named = settings.get("pooling_mode")
    if named is not None:
        names = [named] if isinstance(named, str) else list(named)
        return tuple(cast(Mode, _NAMES.get(str(name), name)) for name in names)
    unknown = [k for k, v in settings.items() if k.startswith("pooling_mode_") and v is True and k not in _MODES]
    if unknown:
        raise ValueError(f"{where}: pooling has {unknown[0]}; allowed: {', '.join(_MODES)}")
    return tuple(mode for key, mode in _MODES.items() if settings.get(key) is True) or ("mean",)
