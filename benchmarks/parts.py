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


def table(stack: NativeStack, rows: int, passes: int, run: Callable[[], float], head: Any, clock: Clock) -> str:
    """A row for each part of a pass of so many rows; `run` makes `passes` of them and says how many seconds they took;
    `head` is a NativeBest or None.

    Branches are timed as they are called; their linears and norms once more by themselves, on the same weights, and
    what is left of a branch is attention proper, or the activation. What is left of all is Python and torch.
    """
    branches = [one for layer in stack.branches.values() for one in layer]
    spent: Counter[str] = Counter()
    run()
    timed = [Timed(one, "call", KINDS[type(one)], spent, clock) for one in branches]  # type: ignore[index]
    timed += [] if head is None else [Timed(head, "find", "logits", spent, clock)]
    total = run() / passes
    for one in timed:
        one.stop()
    each = {name: seconds / passes for name, seconds in spent.items()}
    alone: Counter[str] = Counter()
    for one in branches:
        s, kind = one.structure, KINDS[type(one)]  # type: ignore[attr-defined,index]
        linears = (s.q, s.k, s.v, s.out) if kind == "attention" else (s.up, s.gate, s.down)
        alone[f"{kind}, linears"] += sum(linear(part, rows, clock) for part in linears if part.kind)
        norms = (s.branch.before, s.branch.within, s.branch.after)
        alone[f"{kind}, norms"] += sum(norm(part, rows, s.branch.dim, clock) for part in norms if part.kind)
    found = {
        "linears of attention": alone["attention, linears"],
        "linears of feed-forward layers": alone["feed-forward, linears"],
        "norms": alone["attention, norms"] + alone["feed-forward, norms"],
        "attention itself": each["attention"] - alone["attention, linears"] - alone["attention, norms"],
        "activations": each["feed-forward"] - alone["feed-forward, linears"] - alone["feed-forward, norms"],
        **({"logits, and the likeliest of them": each["logits"]} if head is not None else {}),
        "Python and torch": total - sum(each.values()),
    }
    lines = ["| part | ms | share |", "|---|---|---|"]
    lines += [f"| {name} | {seconds * 1e3:.2f} | {seconds / total:.0%} |" for name, seconds in found.items()]
    return "\n".join([*lines, f"| all | {total * 1e3:.2f} | 100% |"])


class Timed:
    """Adds up the time that a function which an object holds takes."""

    def __init__(self, owner: Any, function: str, name: str, spent: Counter[str], clock: Clock):
        self.owner, self.function, self.real = owner, function, getattr(owner, function)

        def call(*arguments: Any) -> Any:
            start = clock()
            done = self.real(*arguments)
            spent[name] += clock() - start  # type: ignore[assignment]
            return done

        setattr(owner, function, call)

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
