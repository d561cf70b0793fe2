"""Chat templates: a model's own way to write a conversation, as a Jinja template that came with the checkpoint.

A template is a small program by a stranger. It runs in Jinja's sandbox on plain data, and every loop step, call and
piece of output is counted, so that it can neither run for long nor fill the memory.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

from .chat_limits import MAX_OUTPUT, MAX_TEMPLATE, Budget, Guards, LimitError, counted, current

_KEPT_FILTERS = frozenset(
    [
        "abs",
        "attr",
        "capitalize",
        "count",
        "d",
        "default",
        "dictsort",
        "e",
        "escape",
        "first",
        "float",
        "groupby",
        "indent",
        "int",
        "items",
        "join",
        "last",
        "length",
        "list",
        "lower",
        "map",
        "max",
        "min",
        "reject",
        "rejectattr",
        "replace",
        "reverse",
        "round",
        "safe",
        "select",
        "selectattr",
        "sort",
        "string",
        "title",
        "trim",
        "truncate",
        "unique",
        "upper",
        "wordcount",
    ]
)
_REASONING = ("reasoning_content", "thinking", "reasoning")


def _raise(message: Any) -> None:
    raise jinja2.TemplateError(str(message))


def _strftime_now(pattern: Any) -> str:
    current().text(str(pattern))
    return datetime.now().strftime(str(pattern)[:1000])


def _tojson(
    value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
) -> str:
    current().data(value)
    if (isinstance(indent, int) and not 0 <= indent <= 64) or (isinstance(indent, str) and len(indent) > 64):
        raise LimitError("tojson: indent is over 64")
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


class _Dict:
    """`dict` for templates: a callable without the methods of a type."""

    def __call__(self, *args: Any, **values: Any) -> dict[Any, Any]:
        return dict(*args, **values)


class _Namespace(Namespace):
    """Jinja's namespace, in which no name may begin with an underscore."""

    def __init__(*args: Any, **values: Any) -> None:
        self, rest = args[0], args[1:]
        for name in dict(*rest, **values):
            _check_name(name)
        Namespace.__init__(self, *rest, **values)

    def __setitem__(self, name: str, value: Any) -> None:
        _check_name(name)
        super().__setitem__(name, value)


def _check_name(name: Any) -> None:
    if not isinstance(name, str) or name.startswith("_"):
        raise jinja2.exceptions.SecurityError(f"a namespace may not hold {name!r}")


class _Generation(Extension):
    """`{% generation %}` marks what the model wrote, for training; the text is the same with and without it."""

    tags = {"generation"}  # noqa: RUF012 - the name and form that Jinja looks for

    def parse(self, parser: Any) -> Any:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _Environment(Guards, ImmutableSandboxedEnvironment):
    """The sandbox, with every costly thing counted (`Guards`)."""


def _environment() -> _Environment:
    made = _Environment(
        trim_blocks=True,
        lstrip_blocks=True,
        optimized=False,  # folding constants would run a template's sums before anything counts them
        extensions=[_Generation, loopcontrols],
        cache_size=0,
    )
    made.filters = {
        name: counted(name, call)  # type: ignore[arg-type]
        for name, call in made.filters.items()
        if name in _KEPT_FILTERS
    }
    made.filters["tojson"] = _tojson
    made.tests = {name: counted(f"is {name}", call) for name, call in made.tests.items()}  # type: ignore[arg-type]
    made.globals = {
        "range": made.globals["range"],
        "dict": _Dict(),
        "namespace": _Namespace,
        "raise_exception": _raise,
        "strftime_now": _strftime_now,
    }
    made.install()
    return made


@lru_cache(maxsize=32)
def _compiled(source: str) -> jinja2.Template:
    environment = _environment()
    tree = environment.guarded(environment.parse(source))
    assert isinstance(tree, nodes.Template)
    code = environment.compile(tree, filename="chat template")
    return jinja2.Template.from_code(environment, code, environment.globals)


def plain(value: Any, depth: int = 0) -> Any:
    """Only text, numbers, lists and mappings: nothing else of ours is within a template's reach."""
    if depth > 64:
        raise ValueError("the conversation is nested more than 64 deep")
    if value is None or type(value) in (str, int, float, bool):
        return value
    for kind in (str, int, float):
        if isinstance(value, kind):
            return kind(value)
    if isinstance(value, Mapping):
        return {plain(key, depth + 1): plain(item, depth + 1) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item, depth + 1) for item in value]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {entry.name: plain(getattr(value, entry.name), depth + 1) for entry in dataclasses.fields(value)}
    if hasattr(value, "item") and getattr(value, "ndim", None) == 0:
        return plain(value.item(), depth + 1)
    return f"<{type(value).__name__}>"


def _message(value: Any, position: int) -> dict[str, Any]:
    made = plain(value)
    if not isinstance(made, dict):
        raise ValueError(
            f"message {position} is {value!r}; allowed: a mapping such as {{'role': 'user', 'content': ...}}"
        )
    made = {name: item for name, item in made.items() if item is not None}
    thought = next((made[name] for name in _REASONING if made.get(name) is not None), None)
    return made if thought is None else {"thinking": thought, **made, "reasoning_content": thought}


def pick_template(stored: str | Mapping[str, str] | None, asked: str | None, *, with_tools: bool) -> str:
    """The template to use: the one asked for (by name or as text), else the one for tools, else the default."""
    if isinstance(stored, Mapping):
        if asked is not None:
            return stored.get(asked, asked)
        for name in ("tool_use", "default") if with_tools else ("default",):
            if name in stored:
                return stored[name]
        raise ValueError(f"chat_template: name one of {', '.join(sorted(stored))}")
    if asked is not None:
        return asked
    if stored is None:
        raise ValueError("this tokenizer has no chat template; assign tokenizer.chat_template or pass chat_template")
    return stored


def render_chat(
    source: str,
    messages: Sequence[Any],
    *,
    tools: Sequence[Any] | None,
    add_generation_prompt: bool,
    variables: Mapping[str, Any],
) -> str:
    """Write one conversation with a template.

    Raises ValueError with the template's own message, for a template that is wrong, or one that goes over a limit.
    """
    if not isinstance(source, str) or len(source) > MAX_TEMPLATE:
        raise ValueError(f"the chat template should be text of at most {MAX_TEMPLATE} characters")
    given = {name: plain(value) for name, value in variables.items()}
    given["messages"] = [_message(message, position) for position, message in enumerate(messages)]
    given["tools"] = plain(tools)
    given.setdefault("documents", None)
    given["add_generation_prompt"] = add_generation_prompt
    try:
        template = _compiled(source)
        with Budget().active() as budget:
            out, size = [], 0
            for chunk in template.generate(**given):
                size += len(chunk)
                if size > MAX_OUTPUT:
                    raise LimitError(f"more than {MAX_OUTPUT} characters of output")
                out.append(chunk)
                budget.step()
            return "".join(out)
    except LimitError as error:
        raise ValueError(f"the chat template was stopped: {error}") from None
    except RecursionError:
        raise ValueError("the chat template was stopped: it is nested too deeply") from None
    except MemoryError:
        raise ValueError("the chat template was stopped: it needs too much memory") from None
    except jinja2.TemplateSyntaxError as error:
        raise ValueError(f"chat template, line {error.lineno}: {error.message}") from None
    except jinja2.TemplateError as error:
        raise ValueError(f"chat template: {error.message or type(error).__name__}") from None
    except Exception as error:
        # A template may bring any Python error about ({{ 1/0 }}); it is the template's, not ours.
        raise ValueError(f"chat template: {type(error).__name__}: {error}") from None
