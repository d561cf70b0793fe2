"""The structures of kernels.cpp, seen from here, and its functions; an error code becomes a ValueError."""

from __future__ import annotations

import ctypes
from ctypes import POINTER, Structure, byref, c_float, c_int, c_int64, c_void_p
from functools import cache
from typing import Any

from regard.native.build import library

KINDS = {"none": 0, "fp32": 1, "bf16": 2, "int8": 3, "int4": 4}
TASKS = {"attention": 0, "feed-forward": 1, "norm": 2, "copy": 3, "embed": 4, "see": 5, "choose": 6}
NORMS = {"none": 0, "layer": 1, "rms": 2}
ACTIVATIONS = ("gelu", "gelu_tanh", "quick_gelu", "relu", "relu2", "silu", "tanh", "sigmoid", "mish", "identity")
LEVELS = ("portable", "avx2", "avx512", "avx512bf16")
ERRORS = {
    1: "an address is missing",
    2: "rows or threads are out of range; attention takes up to 2048 rows, a whole number of tokens for each sequence",
    3: "a size is out of range",
    4: "a kind of weight, norm or activation is unknown, or linears of one input differ in kind",
    5: "weights are not aligned",
    6: "sizes of neighbouring parts do not fit each other",
    7: "a new token's column or a key's row lies outside the cache",
    8: "this processor does not have that level of instructions",
    9: "a number is out of range",
    10: "there is no memory left for intermediate results",
}


class Norm(Structure):
    """A layer or RMS norm; kind 0 is none."""

    _fields_ = (("weight", c_void_p), ("bias", c_void_p), ("eps", c_float), ("offset", c_float), ("kind", c_int64))


class Linear(Structure):
    """x W^T + bias, its weight as `kind` says."""

    _fields_ = (
        *(("weight", c_void_p), ("scale", c_void_p), ("bias", c_void_p)),
        *(("out", c_int64), ("in_", c_int64), ("kind", c_int64)),
    )


class Branch(Structure):
    """What lies around a branch: x = after(x + scale * within(f(before(x))))."""

    _fields_ = (("dim", c_int64), ("before", Norm), ("within", Norm), ("after", Norm), ("scale", c_void_p))


class Attention(Structure):
    """An attention branch; k and v of kind 0 for cross-attention, whose keys are at hand."""

    _fields_ = (
        *(("branch", Branch), ("q", Linear), ("k", Linear), ("v", Linear), ("out", Linear)),
        *(("q_norm", Norm), ("k_norm", Norm), ("heads", c_int64), ("kv_heads", c_int64), ("head_dim", c_int64)),
        *(("norm_over_all", c_int64), ("interleaved", c_int64), ("scale", c_float), ("softcap", c_float)),
    )


class FeedForward(Structure):
    """A feed-forward branch; gate of kind 0 where it has none."""

    _fields_ = (("branch", Branch), ("up", Linear), ("gate", Linear), ("down", Linear), ("activation", c_int64))


class View(Structure):
    """What the rows of one step look at; strides are in numbers, not bytes."""

    _fields_ = (
        *(("rows", c_int64), ("length", c_int64), ("threads", c_int64)),
        *(("keys", c_int64), ("capacity", c_int64), ("half", c_int64)),
        *(("by_row", c_int64), ("by_head", c_int64), ("by_key", c_int64)),
        *(("start", c_int64), ("columns", c_void_p)),
        *(("cos", c_void_p), ("sin", c_void_p), ("rope_dim", c_int64)),
        *(("mask", c_void_p), ("mask_by_row", c_int64), ("mask_by_token", c_int64)),
        *(("bias", c_void_p), ("bias_by_row", c_int64), ("bias_by_head", c_int64), ("bias_by_token", c_int64)),
        *(("origins", c_void_p), ("origin_by_row", c_int64), ("origin_by_key", c_int64), ("places", c_int64)),
    )


class Best(Structure):
    """Where the largest outputs of each row go, and what all of them weigh."""

    _fields_ = (
        *(("count", c_int64), ("values", c_void_p), ("ids", c_void_p)),
        *(("peak", c_void_p), ("mass", c_void_p)),
    )


class Call(Structure):
    """One of the calls that make up a pass; `view`, `keys` and `values` are of attention."""

    _fields_ = (
        *(("task", c_int64), ("structure", c_void_p), ("view", c_void_p), ("keys", c_void_p), ("values", c_void_p)),
        *(("in_", c_void_p), ("out", c_void_p)),
    )


class Writing(Structure):
    """Rows that are written, `at` which column of their histories; `logs` and `draws` are laid out as `ids`."""

    _fields_ = (
        *(("rows", c_int64), ("room", c_int64), ("at", c_int64)),
        *(("ids", c_void_p), ("logs", c_void_p), ("draws", c_void_p), ("columns", c_void_p)),
    )


class Embedding(Structure):
    """Tables of tokens and positions, and one vector for all; the newest tokens are looked up."""

    _fields_ = (
        *(("writing", c_void_p), ("tokens", c_void_p), ("segment", c_void_p), ("positions", c_void_p)),
        *(("vocab", c_int64), ("places", c_int64), ("half", c_int64), ("scale", c_float)),
    )


class Sight(Structure):
    """How a view is renewed for the newest tokens."""

    _fields_ = (
        *(("view", c_void_p), ("writing", c_void_p), ("window", c_int64)),
        *(("mask", c_void_p), ("turns", c_void_p), ("turned", c_void_p)),
        *(("scores", c_void_p), ("bias", c_void_p), ("heads", c_int64)),
    )


class Choice(Structure):
    """How the next tokens are chosen, and where they go."""

    _fields_ = (
        *(("writing", c_void_p), ("linear", c_void_p), ("rule", c_void_p), ("best", Best), ("newest", c_void_p)),
        *(("scale", c_float), ("temperature", c_float), ("tail", c_float), ("least", c_float)),
    )


STRUCTURES = (Norm, Linear, Branch, Attention, FeedForward, View, Best, Call, Writing, Embedding, Sight, Choice)
_P, _N = c_void_p, c_int64
SIGNATURES: dict[str, tuple[Any, ...]] = {
    "rg_linear": (_P, _N, _N, _P, _P),
    "rg_best": (_P, _N, _N, _P, _P, _P),
    "rg_norm": (_P, _N, _N, _P, _P),
    "rg_run": (_P, _N, _N, _N, _N),
    "rg_pack8": (_P, _N, _N, _P, _N),
    "rg_pack4": (_P, _P, _N, _N, _P, _N),
    "rg_set_level": (c_int,),
}


def _checked(code: int, function: Any, arguments: tuple[Any, ...]) -> int:
    if code:
        raise ValueError(f"{function.__name__}: {ERRORS.get(code, f'error {code}')}")
    return code


@cache
def kernels() -> Any:
    """The library, its functions typed so that errors raise ValueError. Raises `NoKernels` where it cannot be had."""
    found = library()
    for name, arguments in SIGNATURES.items():
        function = getattr(found, name)
        function.argtypes, function.restype, function.errcheck = arguments, c_int, _checked
    found.rg_read.argtypes = (POINTER(c_void_p), POINTER(c_int64), c_int64, c_int64)
    found.rg_read.restype = found.rg_size_of.restype = c_int64
    for number, structure in enumerate(STRUCTURES):
        assert found.rg_size_of(number) == ctypes.sizeof(structure), f"{structure.__name__} has another size in C"
    return found


def level() -> str:
    """Which instructions are in use: one of LEVELS."""
    return LEVELS[kernels().rg_level()]


def address(structure: Structure) -> Any:
    """A pointer to pass."""
    return byref(structure)
