"""Limits on what a chat template may do: steps, time, sizes.

Jinja's sandbox keeps a template away from attributes; it does not keep it from looping or from doubling a string.
Here the parsed
template is rewritten so that each loop, output, joined string and comparison passes through a function that counts,
and the environment's own hooks (operators, calls, subscripts) check sizes before they work.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from itertools import islice
from typing import Any

from jinja2 import nodes, pass_context
from jinja2.runtime import Macro, Undefined
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace
from jinja2.visitor import NodeTransformer

MAX_TEMPLATE = 1 << 20  # characters
MAX_OUTPUT = 10 << 20  # characters
MAX_STEPS = 2_000_000
MAX_SECONDS = 5.0
MAX_NODES = 1_000_000  # values inside one value, counted through all nesting
MAX_BITS = 4096  # of a whole number
_PERCENT_WIDTH = re.compile(r"%(\([^)]*\))?[-+ #0]*(\*|\d{5,}|\d*\.(\*|\d{5,}))")
_BRACE_WIDTH = re.compile(r"\{[^{}]*:[^{}]*(\d{5,}|\{)")
_ATOMS = (str, int, float, bool, type(None))


class LimitError(Exception):
    """A template went over a limit."""


class Budget:
    """What one rendering has used so far."""

    def __init__(self) -> None:
        self.steps = 0
        self.written = 0
        self.deadline = time.monotonic() + MAX_SECONDS

    @contextmanager
    def active(self) -> Iterator[Budget]:
        """Make this the budget that the guards count on, in this thread."""
        token = _BUDGET.set(self)
        try:
            yield self
        finally:
            _BUDGET.reset(token)

    def step(self, count: int = 1) -> None:
        """Count work; the clock is read every few steps."""
        before = self.steps
        self.steps = before + count
        if self.steps > MAX_STEPS:
            raise LimitError(f"more than {MAX_STEPS} steps")
        if before >> 6 != self.steps >> 6 and time.monotonic() > self.deadline:
            raise LimitError(f"more than {MAX_SECONDS:g} seconds")

    def text(self, value: str) -> str:
        """Count written text."""
        self.length(len(value))
        self.written += len(value)
        if self.written > 4 * MAX_OUTPUT:
            raise LimitError(f"more than {4 * MAX_OUTPUT} characters written")
        return value

    def length(self, size: int) -> None:
        """Check the length of a value about to be made."""
        if size > MAX_OUTPUT:
            raise LimitError(f"a value longer than {MAX_OUTPUT}")

    def data(self, value: Any) -> int:
        """The size of a value through all its nesting (shared parts count each time); LimitError when it is too
        large."""
        if isinstance(value, str):
            return len(value)
        if isinstance(value, _ATOMS):
            return 1
        stack, count, size = [iter((value,))], 0, 0
        while stack:
            for item in stack[-1]:
                count += 1
                if count > MAX_NODES or len(stack) > 500:
                    raise LimitError(f"a value of more than {MAX_NODES} parts")
                if isinstance(item, str):
                    size += len(item)
                elif isinstance(item, Mapping):
                    stack.append(_pairs(item))
                    break
                elif isinstance(item, (list, tuple, set, frozenset)):
                    stack.append(iter(item))
                    break
                elif isinstance(item, Namespace):
                    stack.append(iter((object.__getattribute__(item, "_Namespace__attrs"),)))
                    break
            else:
                stack.pop()
            self.length(size)
        self.step(1 + count // 16)
        return size + count


def _pairs(mapping: Mapping[Any, Any]) -> Iterator[Any]:
    for key, value in mapping.items():
        yield key
        yield value


_BUDGET: ContextVar[Budget] = ContextVar("chat template budget")


def current() -> Budget:
    """The budget of the rendering under way."""
    return _BUDGET.get()


def _each(values: Any) -> Any:
    """An iterable whose every step is counted; sized ones keep their length for `loop.last`."""
    if isinstance(values, Undefined):
        return values
    return _Counted(values)


class _Counted:
    def __init__(self, values: Iterable[Any]) -> None:
        self.values = values

    def __iter__(self) -> Iterator[Any]:
        budget = current()
        for value in self.values:
            budget.step()
            yield value

    def __len__(self) -> int:
        return len(self.values)  # type: ignore[arg-type]


def _emit(value: Any) -> Any:
    budget = current()
    budget.step()
    if isinstance(value, str):
        return budget.text(value)
    budget.data(value)
    return budget.text(str(value))


def _weigh(value: Any) -> Any:
    if not isinstance(value, _ATOMS):
        current().data(value)
    return value


def _concat(values: list[Any]) -> str:
    budget = current()
    budget.length(sum(budget.data(value) for value in values))
    return budget.text("".join(map(str, values)))


def _replaced(text: Any, old: Any, new: Any, count: Any = None) -> int:
    """How long a replacement's result will be at most."""
    text, old, new = str(text), str(old), str(new)
    found = text.count(old) if old else len(text) + 1
    return len(text) + found * len(new)


def _estimate(name: str, args: tuple[Any, ...]) -> int:
    """How long the result of a text method or filter can be, for those that can make text much longer."""
    whole = [abs(value) for value in args if isinstance(value, int) and not isinstance(value, bool)]
    text = args[0] if args else ""
    if name == "replace" and len(args) >= 3:
        return _replaced(*args[:4])
    if name == "join":
        if isinstance(text, str):  # "sep".join(list)
            separator, values = text, args[1] if len(args) > 1 else ()
        else:
            separator, values = str(args[1]) if len(args) > 1 else "", text
        count = len(values) if hasattr(values, "__len__") else MAX_STEPS // 16
        return len(separator) * count
    if name in ("ljust", "rjust", "center", "zfill", "to_bytes", "expandtabs", "indent", "translate", "round"):
        lines = text.count("\n") + text.count("\t") + 1 if isinstance(text, str) else 1
        longest = max([*whole, *(len(value) for value in args[1:] if isinstance(value, str)), 1])
        return lines * longest
    return 0


_FORMATS = ("format", "format_map")


def _check_call(name: str, args: tuple[Any, ...], values: Mapping[str, Any]) -> None:
    budget = current()
    budget.step()
    total = 0
    for value in (*args, *values.values()):
        if isinstance(value, (Macro, _Counted)) or callable(value):
            continue
        total += budget.data(value)
        if isinstance(value, int) and value.bit_length() > MAX_BITS:
            raise LimitError("a number that is too large")
    budget.length(_estimate(name, (*args, *values.values())))
    if name in _FORMATS and args:
        _check_format(str(args[0]))


def _check_format(pattern: str) -> None:
    if _PERCENT_WIDTH.search(pattern) or _BRACE_WIDTH.search(pattern):
        raise LimitError("a format with a width over 9999, or one that is not written out")


def _check_result(value: Any) -> Any:
    if isinstance(value, str):
        current().length(len(value))
    return value


def counted(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
    """A filter or test that checks what goes in and what comes out. Lazy results are read at once, within the
    limits."""
    skipped = 1 if hasattr(call, "jinja_pass_arg") else 0  # the context or environment comes first

    def guarded(*args: Any, **values: Any) -> Any:
        args = tuple(list(islice(arg, MAX_NODES)) if hasattr(arg, "__next__") else arg for arg in args)
        _check_call(name, args[skipped:], values)
        result = call(*args, **values)
        if hasattr(result, "__next__"):
            result = list(islice(_Counted(result), MAX_NODES))
        return _check_result(result)

    if skipped:
        guarded.jinja_pass_arg = call.jinja_pass_arg  # type: ignore[attr-defined]
    return guarded


class _Rewriter(NodeTransformer):
    """Puts the counting functions into a parsed template."""

    def _wrap(self, name: str, value: Any) -> nodes.Expr:
        return nodes.Filter(value, name, [], [], None, None, lineno=value.lineno)

    def visit_For(self, node: nodes.For) -> nodes.Node:
        node = self.generic_visit(node)  # type: ignore[assignment]
        node.iter = self._wrap("regard_each", node.iter)
        return node

    def visit_Output(self, node: nodes.Output) -> nodes.Node:
        node = self.generic_visit(node)  # type: ignore[assignment]
        node.nodes = [self._wrap("regard_emit", self._plain(part)) for part in node.nodes]
        return node

    def _plain(self, part: Any) -> Any:
        return nodes.Const(part.data, lineno=part.lineno) if isinstance(part, nodes.TemplateData) else part

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        node = self.generic_visit(node)  # type: ignore[assignment]
        return self._wrap("regard_concat", nodes.List(node.nodes, lineno=node.lineno))

    def visit_Compare(self, node: nodes.Compare) -> nodes.Node:
        node = self.generic_visit(node)  # type: ignore[assignment]
        node.expr = self._wrap("regard_weigh", node.expr)
        for operand in node.ops:
            operand.expr = self._wrap("regard_weigh", operand.expr)
        return node

    def visit_Pair(self, node: nodes.Pair) -> nodes.Node:
        node = self.generic_visit(node)  # type: ignore[assignment]
        node.key = self._wrap("regard_weigh", node.key)
        return node


class Guards(ImmutableSandboxedEnvironment):
    """The hooks of Jinja's environment that check sizes and count steps."""

    intercepted_binops = frozenset(["+", "-", "*", "/", "//", "**", "%"])

    def install(self) -> None:
        """Make the counting functions known under names that no template writes by chance."""
        for name, call in (("each", _each), ("emit", _emit), ("weigh", _weigh), ("concat", _concat)):
            self.filters[f"regard_{name}"] = pass_context(lambda context, value, call=call: call(value))

    def guarded(self, tree: nodes.Template) -> nodes.Node:
        """The template with counting put in."""
        return _Rewriter().visit(tree)

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        """Check a sum or product before it is worked out."""
        budget = current()
        budget.step()
        sizes = [len(value) for value in (left, right) if isinstance(value, (str, list, tuple, bytes))]
        bits = [value.bit_length() for value in (left, right) if isinstance(value, int)]
        if any(size > MAX_BITS for size in bits):
            raise LimitError("a number that is too large")
        if operator == "*" and sizes and bits:
            budget.length(sizes[0] * max(0, right if isinstance(right, int) else left))
        elif operator == "+":
            budget.length(sum(sizes))
        elif operator == "**" and len(bits) == 2 and bits[0] * abs(right) > MAX_BITS:
            raise LimitError("a number that is too large")
        elif operator == "%" and isinstance(left, str):
            budget.data(right)
            _check_format(left)
        return super().call_binop(context, operator, left, right)

    def call(__self, __context: Any, __obj: Any, *args: Any, **values: Any) -> Any:
        """Check a call's arguments before it, and its result after it."""
        bound = getattr(__obj, "__wrapped__", __obj)  # the sandbox wraps str.format
        owner = getattr(bound, "__self__", None)
        method = owner is not None and isinstance(owner, (str, bytes, int))
        name = getattr(bound, "__name__", "") if method else ""
        _check_call(name, (owner, *args) if method else args, values)
        return _check_result(super().call(__context, __obj, *args, **values))

    def getitem(self, obj: Any, argument: Any) -> Any:
        """Check a subscript: hashing nested tuples is work, too."""
        if not isinstance(argument, _ATOMS):
            _weigh(argument)
        return super().getitem(obj, argument)
