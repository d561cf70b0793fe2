"""The rules of the house. Each takes modules and returns complaints, "path:line: what"; no complaint is a pass."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping

from tests.house.source import FLOORS, LEAVES, NOT_FAMILIES, SIDE, Module, called, families

# The oracle and its relatives (we would be measuring them, not us), and what executes code found in a file.
BANNED = (
    *("transformers", "peft", "accelerate", "datasets", "evaluate", "optimum", "trl", "bitsandbytes"),
    *("sentence_transformers", "timm", "diffusers", "torchvision", "torchaudio"),
    *("pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"),
)
# Family files named like something else that the bricks may well say.
COMMON_WORDS = ("clip", "opt")
# The floors that know nothing of what hangs off the side.
LOWEST = FLOORS[: FLOORS.index("models") + 1]

FILE_LINES = 400
FAMILY_LINES = 150
NN_LINES = 1_700
FUNCTION_LINES = 60
CONSTRUCTOR_PARAMETERS = 10


def import_direction(found: list[Module]) -> list[str]:
    """Imports run down the floors; those up to the models know nothing of the side; nobody imports a door (hf, cli)."""
    complaints = []
    for module in found:
        here = module.room
        if here and here not in (*FLOORS, *SIDE, *LEAVES):
            complaints.append(f"{module.path}:1: {here!r} is no room of the house: add it to tests/house/source.py")
            continue
        for line, name in module.imports():
            parts = name.split(".")
            if parts[0] != "regard" or not here:
                continue
            there = parts[1] if len(parts) > 1 else ""
            if there == here or there in LEAVES:
                continue
            if reason := _forbidden(here, there):
                complaints.append(f"{module.path}:{line}: imports {name}, but {reason}")
    return complaints


def _forbidden(here: str, there: str) -> str:
    if here in LEAVES:
        return f"{here} is a leaf and imports no room"
    if here in FLOORS and there in FLOORS and FLOORS.index(there) > FLOORS.index(here):
        return f"{there} stands above {here}"
    if here in LOWEST and there in SIDE:
        return f"{here} knows nothing of {there}"
    if here in LOWEST and there not in FLOORS:
        return f"{here} does not go through the front door"
    if there in ("hf", "cli"):
        return f"{there} is a door for people, not for the library"
    return ""


def banned_imports(found: list[Module]) -> list[str]:
    """The oracle is never imported, nor anything that unpickles."""
    return [
        f"{module.path}:{line}: imports {name}"
        for module in found
        for line, name in module.imports()
        if name.partition(".")[0] in BANNED
    ]


def unknown_extras(found: list[Module], extras: set[str]) -> list[str]:
    """`need(module, extra)` names, in so many words, an extra that pyproject.toml has."""
    complaints = []
    for module in found:
        for node in ast.walk(module.tree):
            if isinstance(node, ast.Call) and called(node) in ("need", "extras.need"):
                given = [*node.args, *(k.value for k in node.keywords)]
                named = [a.value for a in given if isinstance(a, ast.Constant)]
                if len(named) != 2 or named[1] not in extras:
                    complaints.append(f"{module.path}:{node.lineno}: {ast.unparse(node)}; extras are {sorted(extras)}")
    return complaints


def unsafe_calls(found: list[Module]) -> list[str]:
    """`torch.load` only with a literal weights_only=True; no eval, no exec."""
    complaints = []
    for module in found:
        for node in ast.walk(module.tree):
            if not isinstance(node, ast.Call):
                continue
            name = called(node)
            safe = any(k.arg == "weights_only" and ast.unparse(k.value) == "True" for k in node.keywords)
            if name in ("eval", "exec") or (name == "torch.load" and not safe):
                how = " without weights_only=True" if name == "torch.load" else ""
                complaints.append(f"{module.path}:{node.lineno}: calls {name}{how}")
    return complaints


def family_names_in_bricks(found: list[Module], names: set[str] | None = None) -> list[str]:
    """No family's name occurs in nn/ or senses/, in code or prose; found as words and as parts of identifiers."""
    names = (families(found) if names is None else names) - {*COMMON_WORDS, *NOT_FAMILIES}
    squeezed = {re.sub(r"[^a-z0-9]", "", name.lower()): name for name in names}
    complaints = []
    for module in (m for m in found if m.room in ("nn", "senses")):
        for number, line in enumerate(module.text.splitlines(), 1):
            for word in sorted(_words(line) & set(squeezed)):
                complaints.append(f"{module.path}:{number}: says {squeezed[word]!r}")
    return complaints


def _words(line: str) -> set[str]:
    """Lower-case words of a line; an identifier counts with its parts and runs of up to three of them, joined."""
    words: set[str] = set()
    for identifier in re.findall(r"[A-Za-z0-9_-]+", line):
        snake = [part.lower() for part in re.split(r"[_-]+", identifier)]
        camel = [part.lower() for part in re.findall(r"[A-Z]+(?![a-z])[0-9]*|[A-Z]?[a-z]+[0-9]*", identifier)]
        for parts in (snake, camel):
            words.update("".join(parts[i : i + n]) for i in range(len(parts)) for n in (1, 2, 3))
    return words


def family_switches(found: list[Module]) -> list[str]:
    """Outside models/, nothing compares a family, model type or architecture with a literal name."""
    complaints = []
    for module in (m for m in found if m.room != "models"):
        for node in ast.walk(module.tree):
            if isinstance(node, ast.Compare):
                sides = [node.left, *node.comparators]
                names = [s.attr if isinstance(s, ast.Attribute) else getattr(s, "id", "") for s in sides]
                literal = any(_has_text(side) for side in sides)
                if literal and {"family", "model_type", "architecture"} & set(names):
                    complaints.append(f"{module.path}:{node.lineno}: {ast.unparse(node)}")
    return complaints


def _has_text(node: ast.expr) -> bool:
    return any(isinstance(c, ast.Constant) and isinstance(c.value, str) and c.value for c in ast.walk(node))


def too_long(found: list[Module], allowed: Mapping[str, int]) -> list[str]:
    """What is above its size; `allowed` gives a "path" or "path:function" a larger one."""
    complaints = []
    names = families(found)

    def hold(key: str, line: int, size: int, limit: int, unit: str) -> None:
        if size > allowed.get(key, limit):
            complaints.append(f"{key}: {size} {unit}, at most {allowed.get(key, limit)} (line {line})")

    for module in found:
        family = module.room == "models" and module.path.removeprefix("models/").removesuffix(".py") in names
        hold(module.path, 1, module.lines, FAMILY_LINES if family else FILE_LINES, "lines")
        for function in module.functions():
            key = f"{module.path}:{function.name}"
            hold(key, function.lineno, (function.end_lineno or 0) - function.lineno + 1, FUNCTION_LINES, "lines")
            if function.name == "__init__":
                a = function.args
                count = len([*a.posonlyargs, *a.args, *a.kwonlyargs]) - 1 + bool(a.vararg) + bool(a.kwarg)
                hold(key, function.lineno, count, CONSTRUCTOR_PARAMETERS, "parameters")
    bricks = sum(m.lines for m in found if m.room == "nn")
    hold("nn", 1, bricks, NN_LINES, "lines")
    return complaints
