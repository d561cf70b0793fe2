"""A model's linears with small weights: fewer bytes to keep and read, and faster products where the processor can.

`quantize(model, "int8")` changes a model in place; `model.save_pretrained(folder)` keeps it so and
`regard.load(folder)` opens it again without conversion. `dequantize` makes floats of it, rounded as they are.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from functools import cache
from typing import Literal

import torch
from torch import nn

from regard.adapt.quantized import KINDS, HalfLinear, Quantized, plain
from regard.adapt.surgery import Wrapped, replace
from regard.models.model import Model
from regard.nn import FeedForward, LanguageHead, MoE
from regard.nn.linear import Linear

Precision = Literal["bf16", "int8", "int4"]
_ORDER = ("fp32", "bf16", "int8", "int4")
_PROBE = 640, 1920  # inputs and outputs of the linear that is timed
_SLACK = 1.1  # timings this near to each other count as equal


def quantize(model: Model, to: Precision = "int8", *, head: bool = False, force: bool = False) -> Model:
    """Give the linears of a model's stacks weights of another precision, in place; the same model.

    "int8": a scale per output, inputs rounded row by row. "bf16": products in bfloat16. "int4": a scale per 32 inputs.
    Embeddings, norms and heads stay float32; `head=True` takes the language head too (a copy, where it is the table
    of vectors). Raises ValueError for another precision, a model that is quantized or adapted already, and, unless
    `force`, a precision that is slower here than the next higher one.
    """
    if to not in KINDS:
        raise ValueError(f"quantize is {to!r:.80}; allowed: {', '.join(KINDS)}")
    if (before := precision(model)) is not None:
        raise ValueError(f"this model is {before} already; dequantize it first")
    if any(isinstance(module, Wrapped) for module in model.modules()):
        raise ValueError("adapters are on this model; quantize it first, then put adapters on")
    names = chosen(model, head=head)
    if not names:
        raise ValueError(f"{model.architecture or 'this model'} has no linears to quantize")
    from regard import native  # beside this room: it reads the layers made here

    written = to != "bf16" and native.writes(model) and native.available()  # read by the kernels, prompts too
    if not force and (why := refused(to, written)):
        raise ValueError(f"{why}; pass force=True to take it all the same")
    for name in names:
        module = model.get_submodule(name)
        assert isinstance(module, nn.Linear)
        put(model, name, KINDS[to].of(module))
    return model


def put(model: Model, name: str, layer: Quantized | HalfLinear) -> None:
    """Put a layer in the place of a linear; what is tied to the linear keeps its weights."""
    owner = f"{name}.weight"
    if any(owner == alias for alias, _ in model.config.tied):
        kept = tuple(pair for pair in model.config.tied if pair[0] != owner)
        model.config = model.config.replace(tied=kept)
    parent = model.get_submodule(name.rpartition(".")[0])
    if isinstance(layer, HalfLinear) and isinstance(parent, FeedForward):
        layer.narrow = not name.endswith(".down")  # nothing but an activation comes in between
    layer.train(model.get_submodule(name).training)
    replace(model, name, layer)


def chosen(model: Model, *, head: bool = False) -> list[str]:
    """The names of the linears that `quantize` changes: those of stacks, but for routers and what others share."""
    stacks = {id(part) for tower in model.towers() for part in tower.stack.modules()}
    routers = {id(part.router) for part in model.modules() if isinstance(part, MoE)}
    shared = {owner for _, owner in model.config.tied} | {alias for alias, _ in model.config.tied}
    found = []
    for name, module in model.named_modules():
        if type(module) not in (Linear, nn.Linear) or id(module) in routers:
            continue
        if id(module) in stacks and f"{name}.weight" not in shared:
            found.append(name)
        if head and isinstance(model.head, LanguageHead) and module is model.head.out:
            found.append(name)
    return found


def layers(model: nn.Module) -> Iterator[tuple[str, Quantized | HalfLinear]]:
    """The quantized layers of a model by name."""
    for name, module in model.named_modules():
        if isinstance(module, (Quantized, HalfLinear)):
            yield name, module


def precision(model: nn.Module) -> str | None:
    """What a model's linears were quantized to; None if they were not."""
    return next((layer.precision for _, layer in layers(model)), None)


def dequantize(model: Model) -> Model:
    """Make the weights float32 linears again, in place; what rounding took is gone."""
    for name, layer in list(layers(model)):
        replace(model, name, plain(layer).train(layer.training))
    return model


# ------------------------------------------------------------------------------------------- is it worth it here?


@cache
def refused(to: str, writing: bool = False) -> str | None:
    """Why a precision is not worth having on this processor: slower than the next higher one. None if it is.

    Many rows are timed, but one for int4, whose use is to be small and read fast; `writing` times one row in the
    native kernels.
    """
    higher = _ORDER[_ORDER.index(to) - 1]
    rows = 1 if to == "int4" or writing else 256
    spent = _timed({kind: _written(kind) if writing else _read(kind, rows) for kind in (to, higher)})
    if spent[to] <= _SLACK * spent[higher]:
        return None
    times = (
        f"{spent[to] * 1e3:.2f} ms for a product of {rows} row{'s' * (rows > 1)}, {higher} {spent[higher] * 1e3:.2f}"
    )
    return f"{to} is slower than {higher} on this processor ({times})"


def _read(kind: str, rows: int) -> Callable[[], object]:
    inputs, outputs = _PROBE
    base = Linear(inputs, outputs)
    x = torch.randn(rows, inputs, generator=torch.Generator().manual_seed(0))
    work: Callable[..., torch.Tensor] = base if kind == "fp32" else KINDS[kind].of(base)
    return lambda: work(x)


def _written(kind: str) -> Callable[[], object]:
    from regard.native.threads import Product

    return Product(kind)


def _timed(works: dict[str, Callable[[], object]], rounds: int = 7) -> dict[str, float]:
    """Seconds of one thread's processor time for each, in turns: who else is busy does not count."""
    spent: dict[str, list[float]] = {kind: [] for kind in works}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.no_grad():
            for kind, work in [*works.items()] * rounds:
                start = time.thread_time()
                work()
                spent[kind].append(time.thread_time() - start)
    finally:
        torch.set_num_threads(threads)
    return {kind: statistics.median(sorted(times)[: rounds // 2 + 1]) for kind, times in spent.items()}
