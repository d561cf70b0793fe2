"""Reads src/regard as syntax trees, without importing it; shared by the house tests."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

SRC = Path(__file__).resolve().parents[2] / "src" / "regard"

# The floors, lowest first: a floor imports itself and what is below.
FLOORS = ("config", "nn", "senses", "models", "checkpoint", "generation", "tasks", "serving", "cli")
# What hangs off the side: the floors up to the models know nothing of it.
SIDE = ("preprocess", "adapt", "inspect", "export", "training", "tuning", "hf", "zoo", "native")
# Single files anyone may import; they import no room. `regard/__init__.py` and `front.py` behind it are the front door
# and may name every room.
LEAVES = ("extras", "memory")
# Functions that import the module they are given by name.
IMPORTERS = ("import_module", "__import__", "need")
# Files of models/ that are not a family.
NOT_FAMILIES = ("__init__", "registry", "model", "common", "base")


@dataclass(frozen=True)
class Module:
    """One source file: where it is (relative to src/regard, in POSIX form), and its text."""

    path: str
    text: str

    @property
    def room(self) -> str:
        """The first part of the path: "nn" for nn/norm.py, "config" for config.py, "" for the front door."""
        first = self.path.partition("/")[0].removesuffix(".py")
        return "" if first in ("__init__", "__main__", "front") else first

    @property
    def lines(self) -> int:
        return len(self.text.splitlines())

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.text, filename=self.path)

    def imports(self) -> Iterator[tuple[int, str]]:
        """(line, absolute dotted name) of everything imported anywhere in the file, inside functions as well.

        `from regard import nn` and `from . import nn` name `regard.nn`; so does `import_module("regard.nn")`.
        """
        package = ["regard", *self.path.split("/")[:-1]]
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                yield from ((node.lineno, alias.name) for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                base = package[: len(package) - node.level + 1] if node.level else []
                stem = ".".join([*base, *([node.module] if node.module else [])])
                yield from ((node.lineno, f"{stem}.{alias.name}") for alias in node.names)
            elif isinstance(node, ast.Call) and called(node).rpartition(".")[2] in IMPORTERS:
                argument = node.args[0] if node.args else None
                if isinstance(argument, ast.Constant) and isinstance(argument.value, str):
                    yield node.lineno, argument.value

    def functions(self) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
        yield from (n for n in ast.walk(self.tree) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef))


def called(node: ast.Call) -> str:
    """The dotted name of what is called, or "" where it has none."""
    names = []
    function: ast.expr = node.func
    while isinstance(function, ast.Attribute):
        names.append(function.attr)
        function = function.value
    return ".".join(reversed([*names, function.id])) if isinstance(function, ast.Name) else ""


def modules(root: Path = SRC) -> list[Module]:
    """Every Python file under `root`, sorted by path."""
    return [Module(p.relative_to(root).as_posix(), p.read_text(encoding="utf-8")) for p in sorted(root.rglob("*.py"))]


def families(found: list[Module]) -> set[str]:
    """Stems of the family files."""
    stems = {m.path.removeprefix("models/").removesuffix(".py") for m in found if m.room == "models"}
    return {stem for stem in stems if "/" not in stem and stem not in NOT_FAMILIES and not stem.startswith("_")}
