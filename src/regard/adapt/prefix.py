"""Learned keys and values in front of every text, in every layer: prefix tuning (2101.00190).

To a model they are tokens that its cache holds already; so positions, masks and writing need to know nothing of them.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor, nn

from regard.adapt.config import PrefixTuningConfig, TaskType
from regard.adapt.surgery import Wrapped
from regard.models.model import EncoderDecoder, Model, SingleTower, Tower
from regard.nn import Attention, KVCache


class Prefix(nn.Module):
    """One prefix: `table` (T, layers * 2 * channels), or with a projection (T, channels) and the network after it."""

    def __init__(self, config: PrefixTuningConfig, *, flat: bool = False):
        super().__init__()
        assert config.num_layers is not None and config.token_dim is not None
        self.config = config
        width = config.num_layers * 2 * config.token_dim
        self.project: nn.Sequential | None = None
        if config.prefix_projection and not flat:
            hidden = config.encoder_hidden_size or config.token_dim
            self.table = nn.Parameter(torch.randn(config.num_virtual_tokens, config.token_dim))
            self.project = nn.Sequential(nn.Linear(config.token_dim, hidden), nn.Tanh(), nn.Linear(hidden, width))
            last: Any = self.project[2]
            if config.init_weights == "zero":
                nn.init.zeros_(last.weight)
                nn.init.zeros_(last.bias)
            return
        self.table = nn.Parameter(torch.randn(config.num_virtual_tokens, width))
        if config.init_weights == "zero":
            nn.init.zeros_(self.table)

    def flat(self) -> Tensor:
        """(T, layers * 2 * channels), as it is kept in a file."""
        return self.table if self.project is None else self.project(self.table)

    def layers(self) -> tuple[list[Tensor], list[Tensor]]:
        """Keys and values of each layer (Hkv, T, D)."""
        c = self.config
        assert c.num_layers is not None and c.num_attention_heads is not None
        slots = self.flat().unflatten(-1, (2 * c.num_layers, c.num_attention_heads, -1)).permute(1, 2, 0, 3)
        # The file format knows slots for self- and cross-attention by turns and fills both from one table; only the
        # former are looked at, so that a layer beside an encoder finds its own at every fourth place.
        step = 2 * (c.num_transformer_submodules or 1)
        at = [step * layer % len(slots) for layer in range(c.num_layers)]
        return [slots[i] for i in at], [slots[i + 1] for i in at]


class Prefixes(nn.Module):
    """The prefixes of a model by name; the active one begins every row of a new cache."""

    unsaved_because = Wrapped.unsaved_because

    def __init__(self) -> None:
        super().__init__()
        self.adapters = nn.ModuleDict()
        self.active: tuple[str, ...] = ()

    def begin(self, tower: Tower, inputs: tuple[Any, ...], named: dict[str, Any]) -> tuple[Any, dict[str, Any]] | None:
        """Called with every input of the tower, which gets a cache that begins with the prefix."""
        name = next((name for name in self.active if name in self.adapters), None)
        if name is None:
            return None
        cache = named.get("cache")
        if cache is None:
            cache = KVCache()
        if not cache.lengths:
            prefix = self.adapters[name]
            assert isinstance(prefix, Prefix)
            tokens = next(x for x in (*inputs, named.get("input_ids"), named.get("inputs_embeds")) if x is not None)
            rows = len(named["lengths"]) if named.get("lengths") is not None else tokens.shape[0]
            kind = next(tower.parameters()).dtype
            keys, values = prefix.layers()
            cache.begin([k.to(kind) for k in keys], [v.to(kind) for v in values], rows)
        return inputs, {**named, "cache": cache}


def tower_of(model: Model) -> Tower:
    """The tower that gets the prefix: the decoder, or the only one. Raises ValueError if it has no use for one."""
    if not isinstance(model, (SingleTower, EncoderDecoder)):
        raise ValueError(
            f"prefix tuning is for models with one tower, or with a decoder; this is a {type(model).__name__}"
        )
    tower = model.decoder if isinstance(model, EncoderDecoder) else model.tower
    if "cache" not in inspect.signature(tower.front.forward).parameters:
        raise ValueError("prefix tuning needs a model that reads words; this one's input takes no cache")
    return tower


def completed(model: Model, config: PrefixTuningConfig) -> PrefixTuningConfig:
    """The config with the model's sizes. Raises ValueError, all in one, for sizes that are not the model's."""
    tower = tower_of(model)
    found = tower.stack.attentions()
    shapes = {(a.config.kv_heads, a.config.head_dim) for a in found}
    plain = all(type(a).forward is Attention.forward for a in found)
    if len(found) != len(tower.stack.config.order) or len(shapes) != 1 or not plain:
        raise ValueError("prefix tuning needs a stack with one ordinary attention of the same heads in each layer")
    ((heads, head_dim),) = shapes
    both = isinstance(model, EncoderDecoder) and config.task_type in (None, TaskType.SEQ_2_SEQ_LM)
    mine = {"num_layers": len(found), "num_attention_heads": heads, "token_dim": heads * head_dim}
    if isinstance(model, EncoderDecoder):
        mine["num_transformer_submodules"] = config.num_transformer_submodules or (2 if both else 1)
    else:
        mine["num_transformer_submodules"] = 1
    told = {name: getattr(config, name) for name in mine}
    wrong = [
        f"{name} is {told[name]}, this model's is {mine[name]}" for name in mine if told[name] not in (None, mine[name])
    ]
    limit: int | None = tower.front.limit  # type: ignore[assignment]
    if limit is not None and config.num_virtual_tokens >= limit:
        wrong.append(f"num_virtual_tokens is {config.num_virtual_tokens}, this model has {limit} positions in all")
    if wrong:
        raise ValueError("the prefix does not fit the model: " + "; ".join(wrong))
    completed: PrefixTuningConfig = config.replace(**mine)
    return completed
