"""Where the time of a pass through the kernels goes."""

from __future__ import annotations

import ctypes
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch

from regard.native import layout
from regard.native.branches import AttentionBranch, FeedForwardBranch
from regard.native.run import NativeStack

Clock = Callable[[], float]
KINDS = {AttentionBranch: "attention", FeedForwardBranch: "feed-forward"}


Run = Callable[[Callable[[], None]], float]
"""Makes passes and says how many seconds they took; what it is given it calls when they begin."""


def table(stack: NativeStack, rows: int, passes: int, run: Run, head: Any, clock: Clock) -> str:
    """A row for each part of a pass of so many rows, of which `run` makes `passes`; `head` is a NativeBest, which is
    called where a pass does not choose by itself, or None.

    Passes run whole, then once more call by call; linears and norms are timed by themselves too, on the same weights,
    and what is left of a branch is attention proper, or the activation. What is left of all is Python and torch.
    """
    branches = [one for layer in stack.branches.values() for one in layer]
    spent: Counter[str] = Counter()
    run(spent.clear)
    kernels = layout.kernels()
    timed = [Timed(kernels, "rg_run", whole, spent, clock)]
    timed += [] if head is None else [Timed(head, "find", logits, spent, clock)]
    total = run(spent.clear) / passes
    at_once = dict(spent)
    timed[0].how = apart
    run(spent.clear)
    for one in timed:
        one.stop()
    each = {name: seconds / passes for name, seconds in {**spent, "layers": at_once["layers"]}.items()}
    alone: Counter[str] = Counter()
    for branch in branches:
        s, kind = branch.structure, KINDS[type(branch)]  # type: ignore[attr-defined,index]
        linears = (s.q, s.k, s.v, s.out) if kind == "attention" else (s.up, s.gate, s.down)
        alone[f"{kind}, linears"] += sum(linear(part, rows, clock) for part in linears if part.kind)
        norms = (s.branch.before, s.branch.within, s.branch.after)
        alone[f"{kind}, norms"] += sum(norm(part, rows, s.branch.dim, clock) for part in norms if part.kind)
    found = {
        "linears of attention": alone["attention, linears"],
        "linears of feed-forward layers": alone["feed-forward, linears"],
        "norms": alone["attention, norms"] + alone["feed-forward, norms"] + each.get("norm", 0.0),
        "attention itself": each["attention"] - alone["attention, linears"] - alone["attention, norms"],
        "activations": each["feed-forward"] - alone["feed-forward, linears"] - alone["feed-forward, norms"],
    }
    if head is not None:
        found["logits, and the choice"] = each.get("logits", 0.0) + each.get("choose", 0.0)
        found["vectors of tokens, and what they see"] = each.get("embed", 0.0) + each.get("see", 0.0)
    found["Python and torch"] = total - each["layers"] - each.get("logits", 0.0)
    lines = ["| part | ms | share |", "|---|---|---|"]
    lines += [f"| {name} | {seconds * 1e3:.2f} | {seconds / total:.0%} |" for name, seconds in found.items()]
    return "\n".join([*lines, f"| all | {total * 1e3:.2f} | 100% |"])


def whole(real: Any, spent: Counter[str], clock: Clock, *arguments: Any) -> Any:
    """A pass in one call."""
    return added("layers", real, spent, clock, *arguments)


def logits(real: Any, spent: Counter[str], clock: Clock, *arguments: Any) -> Any:
    """The likeliest of all words."""
    return added("logits", real, spent, clock, *arguments)


def apart(real: Any, spent: Counter[str], clock: Clock, calls: Any, count: int, *arguments: Any) -> Any:
    """A pass call by call."""
    names = {number: name for name, number in layout.TASKS.items()}
    for call in calls:
        added(names[call.task], real, spent, clock, ctypes.byref(call), 1, *arguments)


def added(name: str, real: Any, spent: Counter[str], clock: Clock, *arguments: Any) -> Any:
    """What a function gives; its time is added to what `name` took."""
    start = clock()
    done = real(*arguments)
    spent[name] += clock() - start  # type: ignore[assignment]
    return done


class Timed:
    """Lets a function that an object holds be called by `how`, with the function, what was spent and the clock."""

    def __init__(self, owner: Any, function: str, how: Callable[..., Any], spent: Counter[str], clock: Clock):
        self.owner, self.function, self.how, self.real = owner, function, how, getattr(owner, function)
        setattr(owner, function, lambda *arguments: self.how(self.real, spent, clock, *arguments))

    def stop(self) -> None:
        """Put the real one back."""
        setattr(self.owner, self.function, self.real)


def linear(part: Any, rows: int, clock: Clock) -> float:
    """Seconds of one linear on so many rows, its input rounded on the way."""
    x, y = torch.randn(rows, part.in_), torch.empty(rows, part.out)
    start = clock()
    layout.kernels().rg_linear(ctypes.byref(part), rows, torch.get_num_threads(), x.data_ptr(), y.data_ptr())
    return clock() - start


def norm(part: Any, rows: int, dim: int, clock: Clock) -> float:
    """Seconds of one norm of so many rows."""
    x = torch.randn(rows, dim)
    start = clock()
    layout.kernels().rg_norm(ctypes.byref(part), rows, dim, x.data_ptr(), x.data_ptr())
    return clock() - start
