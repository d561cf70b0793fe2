"""What a family file is made of: a typed reader of config.json, reversible key rules, and `Family` itself."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from regard.config import MAX_SIZE, Activation, ModelConfig, TokenIds

HeadKind = Literal[
    "features",
    "causal-lm",
    "masked-lm",
    "seq2seq-lm",
    "ctc",
    "classification",
    "token-classification",
    "question-answering",
    "object-detection",
    "semantic-segmentation",
    "universal-segmentation",
]
HEAD_KINDS: tuple[HeadKind, ...] = get_args(HeadKind)

_REQUIRED: Any = object()
_ACTIVATIONS: dict[str, Activation] = {
    "gelu": "gelu",
    "gelu_python": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_python_tanh": "gelu_tanh",
    "quick_gelu": "quick_gelu",
    "relu": "relu",
    "relu2": "relu2",
    "silu": "silu",
    "swish": "silu",
    "tanh": "tanh",
    "sigmoid": "sigmoid",
    "mish": "mish",
    "linear": "identity",
}


class Raw:
    """config.json, read by name and type. A getter raises a ValueError naming field, value and what is allowed."""

    def __init__(self, data: Mapping[str, Any], where: str = "config.json"):
        self.data, self.where = data, where

    def _get(self, name: str, default: Any, ok: Callable[[Any], bool], allowed: str) -> Any:
        value = self.data.get(name)
        if value is None:
            if default is _REQUIRED:
                raise ValueError(f"{self.where} lacks {name!r}; it must be {allowed}")
            return default
        if not ok(value):
            shown = repr(value)
            shown = shown if len(shown) <= 80 else shown[:77] + "..."
            raise ValueError(f"{self.where}: {name} is {shown}; allowed: {allowed}")
        return value

    def integer(self, name: str, default: Any = _REQUIRED, *, low: int = 1, high: int = MAX_SIZE) -> Any:
        """An integer from `low` to `high`."""

        def ok(v: Any) -> bool:
            return isinstance(v, int) and not isinstance(v, bool) and low <= v <= high

        return self._get(name, default, ok, f"an integer from {low} to {high}")

    def size(self, name: str, default: Any = _REQUIRED, *, high: int = 2**14) -> tuple[int, int]:
        """Height and width, or one number for both."""

        def ok(v: Any) -> bool:
            many = v if isinstance(v, list) and len(v) == 2 else [v]
            return all(isinstance(n, int) and not isinstance(n, bool) and 1 <= n <= high for n in many)

        value = self._get(name, default, ok, f"an integer from 1 to {high}, or two of them")
        return (value, value) if isinstance(value, int) else (value[0], value[1])

    def layers(self, name: str, default: Any = _REQUIRED) -> int:
        """A number of layers: small enough that building them all ends in good time."""
        return int(self.integer(name, default, high=1024))

    def number(self, name: str, default: Any = _REQUIRED, *, low: float = -1e12, high: float = 1e12) -> Any:
        """A finite number."""

        def ok(v: Any) -> bool:
            return isinstance(v, (int, float)) and not isinstance(v, bool) and math.isfinite(v) and low <= v <= high

        value = self._get(name, default, ok, f"a number from {low:g} to {high:g}")
        return value if value is default else float(value)

    def rate(self, name: str, default: float = 0.0) -> float:
        """A probability (dropout)."""
        return float(self.number(name, default, low=0.0, high=1.0))

    def flag(self, name: str, default: Any = _REQUIRED) -> bool:
        """true or false."""
        return bool(self._get(name, default, lambda v: isinstance(v, bool), "true or false"))

    def text(self, name: str, default: Any = _REQUIRED) -> Any:
        """A string."""
        return self._get(name, default, lambda v: isinstance(v, str), "a string")

    def one_of(self, name: str, allowed: tuple[Any, ...], default: Any = _REQUIRED) -> Any:
        """One of a few values; anything else is a variant that nobody built."""
        return self._get(name, default, lambda v: v in allowed, ", ".join(map(repr, allowed)))

    def items(self, name: str, default: Any = _REQUIRED) -> Any:
        """A list of at most 65,536 items."""
        return self._get(name, default, lambda v: isinstance(v, list) and len(v) <= 2**16, "a list")

    def sub(self, name: str) -> Raw:
        """A nested object; empty if it is absent."""
        data = self._get(name, {}, lambda v: isinstance(v, dict), "an object")
        return Raw(data, f"{self.where}: {name}")

    def has(self, name: str) -> bool:
        """Whether the field is there and not null."""
        return self.data.get(name) is not None

    def over(self, defaults: Mapping[str, Any]) -> Raw:
        """The same with defaults for absent fields. A null in the file stays null: it says "none", not "as usual"."""
        return Raw({**defaults, **self.data}, self.where)

    def activation(self, name: str, default: str) -> Activation:
        """An activation by its name on disk."""
        return _ACTIVATIONS[self.one_of(name, tuple(_ACTIVATIONS), default)]

    def ids(self, name: str, default: tuple[int, ...] = ()) -> tuple[int, ...]:
        """One token id or a list of them."""

        def ok(v: Any) -> bool:
            many = v if isinstance(v, list) else [v]
            return len(many) <= 1024 and all(isinstance(i, int) and not isinstance(i, bool) for i in many)

        value = self._get(name, list(default), ok, "a token id or a list of them")
        many = value if isinstance(value, list) else [value]
        return tuple(i for i in many if i >= 0)  # some checkpoints write -1 for "none"

    def id(self, name: str, default: int | None = None) -> int | None:
        """One token id or None."""
        return next(iter(self.ids(name, () if default is None else (default,))), None)

    def tokens(
        self,
        *,
        pad: int | None = None,
        bos: int | None = None,
        eos: int | None = None,
        decoder_start: int | None = None,
    ) -> TokenIds:
        """Special ids; the arguments are what the family's reference assumes when the file is silent."""
        return TokenIds(
            pad=self.id("pad_token_id", pad),
            bos=self.id("bos_token_id", bos),
            eos=self.ids("eos_token_id", () if eos is None else (eos,)),
            decoder_start=self.id("decoder_start_token_id", decoder_start),
        )

    def labels(self) -> dict[int, str]:
        """Names of classes; two of them if the file says nothing."""
        named = self.sub("id2label").data
        if not named:
            return {i: f"LABEL_{i}" for i in range(self.integer("num_labels", 2, high=2**20))}
        if len(named) > 2**20 or not all(str(k).isdigit() and isinstance(v, (str, int)) for k, v in named.items()):
            raise ValueError(f"{self.where}: id2label has a strange entry; allowed: class number -> name")
        return dict(sorted((int(k), str(v)) for k, v in named.items()))


# ---------------------------------------------------------------------------------------------------- rules


class Op:
    """A reversible change of layout between what is on disk and our parameters."""

    def read(self, parts: list[Tensor]) -> list[Tensor]:
        """disk -> ours"""
        raise TypeError(f"{type(self).__name__} cannot read")

    def write(self, parts: list[Tensor]) -> list[Tensor]:
        """ours -> disk"""
        raise TypeError(f"{type(self).__name__} cannot write")


@dataclass(frozen=True)
class Transpose(Op):
    """(in, out) <-> (out, in) for matrices; vectors pass (GPT-2's Conv1D)."""

    def read(self, parts: list[Tensor]) -> list[Tensor]:
        return [x.mT if x.ndim == 2 else x for x in parts]

    write = read


@dataclass(frozen=True)
class Split(Op):
    """One tensor <-> several along axis 0; equal parts unless sizes are given."""

    parts: int
    sizes: tuple[int, ...] | None = None

    def read(self, parts: list[Tensor]) -> list[Tensor]:
        (x,) = parts
        sizes = list(self.sizes or [x.shape[0] // self.parts] * self.parts)
        if sum(sizes) != x.shape[0]:
            raise ValueError(f"axis 0 has {x.shape[0]} rows; this rule splits it into {sizes}")
        return list(x.split(sizes))

    def write(self, parts: list[Tensor]) -> list[Tensor]:
        return [torch.cat(parts)]


@dataclass(frozen=True)
class Join(Op):
    """Several tensors <-> one along axis 0, of equal parts."""

    parts: int

    def read(self, parts: list[Tensor]) -> list[Tensor]:
        return [torch.cat(parts)]

    def write(self, parts: list[Tensor]) -> list[Tensor]:
        (x,) = parts
        return list(x.chunk(self.parts))


@dataclass(frozen=True)
class SplitHeads(Op):
    """One tensor <-> `parts`, interleaved head by head: (H, parts, D, ...) -> parts of (H * D, ...) (GPT-NeoX)."""

    heads: int
    parts: int = 3

    def read(self, parts: list[Tensor]) -> list[Tensor]:
        (x,) = parts
        if x.shape[0] % (self.heads * self.parts):
            raise ValueError(f"axis 0 has {x.shape[0]} rows; allowed: a multiple of {self.heads} heads x {self.parts}")
        return [p.flatten(0, 1) for p in x.unflatten(0, (self.heads, self.parts, -1)).unbind(1)]

    def write(self, parts: list[Tensor]) -> list[Tensor]:
        return [torch.stack([p.unflatten(0, (self.heads, -1)) for p in parts], 1).flatten(0, 2)]


@dataclass(frozen=True)
class Squeeze(Op):
    """(1, ...) <-> (...)"""

    def read(self, parts: list[Tensor]) -> list[Tensor]:
        return [x.squeeze(0) for x in parts]

    def write(self, parts: list[Tensor]) -> list[Tensor]:
        return [x.unsqueeze(0) for x in parts]


@dataclass(frozen=True)
class Unsqueeze(Op):
    """(...) <-> (1, ...)"""

    def read(self, parts: list[Tensor]) -> list[Tensor]:
        return [x.unsqueeze(0) for x in parts]

    def write(self, parts: list[Tensor]) -> list[Tensor]:
        return [x.squeeze(0) for x in parts]


@dataclass(frozen=True)
class Rule:
    """Key(s) on disk <-> key(s) of ours. `*` stands for a number, `@` for weight or bias, `**` (in drops) for anything.

    No key of ours means that the tensor is known and not needed. `read_only` marks an older spelling; what is
    `optional` is zero where a file lacks it.
    """

    disk: str | tuple[str, ...]
    ours: str | tuple[str, ...] = ()
    ops: tuple[Op, ...] = ()
    read_only: bool = False
    optional: bool = False

    @property
    def disk_keys(self) -> tuple[str, ...]:
        """Patterns on disk."""
        return (self.disk,) if isinstance(self.disk, str) else self.disk

    @property
    def our_keys(self) -> tuple[str, ...]:
        """Patterns of ours."""
        return (self.ours,) if isinstance(self.ours, str) else self.ours


# ---------------------------------------------------------------------------------------------------- family


@dataclass(frozen=True)
class Architecture:
    """A class name in config.json: which head it means, and what precedes the backbone's keys on disk."""

    head: HeadKind
    prefix: str = ""


@dataclass(frozen=True, kw_only=True)
class Family:
    """A family of models, as data.

    `model_types`: values of `model_type` that mean this family. `architectures`: class names on disk; the first of a
    head kind is the one written. `config`: config.json -> our tree for a head. `backbone`, `heads`: key rules.
    `tiny`: small reference configs (fields of config.json) for the parity suite, by variant. `own` marks a family that
    only this library has, so that the parity suite has nothing to compare it with. `reads`: text, image, video, sound.
    """

    name: str
    title: str
    model_types: tuple[str, ...]
    architectures: Mapping[str, Architecture]
    config: Callable[[Raw, HeadKind], ModelConfig]
    backbone: Callable[[Raw], list[Rule]]
    heads: Callable[[Raw, HeadKind], list[Rule]]
    tiny: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    own: bool = False
    reads: tuple[str, ...] = ("text",)

    @property
    def head_kinds(self) -> tuple[HeadKind, ...]:
        """The heads that this family has, in their usual order."""
        have = {a.head for a in self.architectures.values()}
        return tuple(kind for kind in HEAD_KINDS if kind in have)

    def architecture_for(self, head: HeadKind, like: str = "") -> str:
        """The class name to write for a head: a file's own (`like`), or the first one, if possible of the same stem.

        Raises ValueError listing the heads that there are.
        """
        names = [name for name, architecture in self.architectures.items() if architecture.head == head]
        if not names:
            raise ValueError(f"head is {head!r}; {self.title} has {', '.join(self.head_kinds)}")
        if like in names and not like.endswith(_PARTLY):
            return like
        return next((name for name in names if _stem(name) == _stem(like)), names[0])


_PARTLY = ("ForPreTraining", "ForCausalLM")
"""Endings of classes that are opened for another head than all of theirs where they are not the first of a head."""


def _stem(name: str) -> str:
    return name.partition("For")[0].removesuffix("Model")
