"""Apply a family's key rules, from disk to our parameters and back."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from torch import Tensor

from regard.models.base import Rule

_TOKENS = {"**": r"(?:.*)", "*": r"(\d+)", "@": r"(weight|bias)"}


def _pattern(template: str) -> re.Pattern[str]:
    parts = re.split(r"(\*\*|\*|@)", template)
    return re.compile("".join(_TOKENS.get(part, re.escape(part)) for part in parts))


def _expand(template: str, captures: Iterable[str]) -> str:
    words = iter(captures)
    return re.sub(r"[*@]", lambda _: next(words), template)


def _modern(key: str) -> str:
    """Norms of TensorFlow times: gamma and beta."""
    if key.endswith((".gamma", ".beta")):
        return key.removesuffix(".gamma") + ".weight" if key.endswith(".gamma") else key.removesuffix(".beta") + ".bias"
    return key


@dataclass(frozen=True)
class Match:
    """A rule that applies to a key, with what its wildcards stood for. Keys with one identity are read together."""

    rule: Rule
    captures: tuple[str, ...]
    part: int  # which of the rule's keys on disk this one is

    @property
    def targets(self) -> list[str]:
        """Our keys."""
        return [_expand(key, self.captures) for key in self.rule.our_keys]


class Table:
    """Rules in order; the first that fits a key wins. `prefixes` are what may stand before a backbone's keys."""

    def __init__(self, heads: list[Rule], backbone: list[Rule], prefixes: Iterable[str]):
        self.heads, self.backbone = heads, backbone
        self.rules = heads + backbone
        self.prefixes = sorted({p for p in prefixes if p}, key=len, reverse=True)
        self._disk = [[_pattern(key) for key in rule.disk_keys] for rule in self.rules]
        self._ours = [(rule, _pattern(rule.our_keys[0])) for rule in self.rules if rule.our_keys and not rule.read_only]

    def match(self, key: str) -> Match | None:
        """The rule for a key on disk, tried as it stands and without its prefix."""
        key = _modern(key)
        names = [key] + [key.removeprefix(p) for p in self.prefixes if key.startswith(p)]
        for name in names:
            for rule, patterns in zip(self.rules, self._disk, strict=True):
                for part, pattern in enumerate(patterns):
                    found = pattern.fullmatch(name)
                    if found:
                        return Match(rule, found.groups(), part)
        return None

    def nearest(self, key: str) -> str:
        """The pattern most like a key, for error messages."""
        patterns = [k for rule in self.rules for k in rule.disk_keys]
        spelled = re.sub(r"\d+", "*", re.sub(r"(weight|bias)$", "@", key))
        return next(iter(difflib.get_close_matches(spelled, patterns, 1, 0.0)), "none")

    def writer(self, key: str) -> tuple[Rule, tuple[str, ...], bool] | None:
        """For one of our keys: the rule that writes it, its captures, and whether the rule is the backbone's.

        For a rule with several keys of ours, only the first one finds it.
        """
        for rule, pattern in self._ours:
            found = pattern.fullmatch(key)
            if found:
                return rule, found.groups(), rule in self.backbone
        return None


def written(table: Table, state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Our parameters -> tensors under their names on disk. Raises ValueError if some parameter has no rule."""
    out: dict[str, Tensor] = {}
    used: set[str] = set()
    for key in state:
        found = table.writer(key)
        if found is None:
            continue
        rule, captures, is_backbone = found
        ours = [_expand(k, captures) for k in rule.our_keys]
        if any(k not in state for k in ours):
            continue
        parts = [state[k] for k in ours]
        for op in reversed(rule.ops):
            parts = op.write(parts)
        for name, part in zip(rule.disk_keys, parts, strict=True):
            out[(prefix if is_backbone else "") + _expand(name, captures)] = part.contiguous()
        used.update(ours)
    lost = sorted(set(state) - used)
    if lost:
        raise ValueError(f"no rule writes {', '.join(lost[:5])}{' ...' if len(lost) > 5 else ''}")
    return out


@dataclass
class Pending:
    """Tensors of a many-to-one rule, until all have come."""

    parts: dict[int, Tensor] = field(default_factory=dict)
    keys: list[str] = field(default_factory=list)
