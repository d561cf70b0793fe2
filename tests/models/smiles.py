"""Just enough of reaction SMILES to map atoms by attention: tokens -> atoms, their elements and their bonds."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from torch import Tensor


@dataclass
class Side:
    """Atoms on one side of the arrow: where they are among the tokens, which element, and who is bound to whom."""

    places: list[int] = field(default_factory=list)
    elements: list[str] = field(default_factory=list)
    bonds: list[set[int]] = field(default_factory=list)


def sides(tokens: list[str]) -> tuple[Side, Side]:
    """Both sides of a tokenised reaction; branches and ring closures are followed, kinds of bonds are not."""
    found = [Side()]
    last: int | None = None
    branches: list[int | None] = []
    rings: dict[str, int] = {}

    def bind(a: int | None, b: int) -> None:
        if a is not None:
            found[-1].bonds[a].add(b)
            found[-1].bonds[b].add(a)

    for place, token in enumerate(tokens):
        if token == ">>":
            found.append(Side())
            last, branches, rings = None, [], {}
        elif token == ".":
            last = None
        elif token == "(":
            branches.append(last)
        elif token == ")":
            last = branches.pop()
        elif re.fullmatch(r"%?\d+", token):
            assert last is not None
            if token in rings:
                bind(rings.pop(token), last)
            else:
                rings[token] = last
        elif re.match(r"[A-Za-z]|\[(?!CLS|SEP|PAD)", token):
            side = found[-1]
            element = re.search(r"[A-Z][a-z]?|[a-z]", token)
            assert element is not None
            side.places.append(place)
            side.elements.append(element.group().capitalize())
            side.bonds.append(set())
            bind(last, len(side.places) - 1)
            last = len(side.places) - 1
    reactants, products = found
    return reactants, products


def mapped(attention: Tensor, tokens: list[str]) -> tuple[list[tuple[int, int, float]], float]:
    """Atoms of the product with those of the reactants, surest first, and the confidence: the product of the weights.

    Attention (T, T) of the product to the reactants and back is summed over pairs of one element, rows are normalised,
    and the largest taken; neighbours of a mapped pair then count 90 times, and neither atom is taken again.
    """
    reactants, products = sides(tokens)
    to = attention.double()[products.places][:, reactants.places]
    back = attention.double()[reactants.places][:, products.places]
    scores, factor = to + back.T, attention.new_ones(to.shape).double()
    for i, element in enumerate(products.elements):
        for j, other in enumerate(reactants.elements):
            factor[i, j] = element == other
    order, confidence = [], 1.0
    for _ in products.places:
        rows = scores * factor
        rows = rows / rows.sum(1, keepdim=True).clamp(min=1e-30)
        i, j = divmod(int(rows.argmax()), rows.shape[1])
        order.append((i, j, float(rows[i, j])))
        confidence *= float(rows[i, j])
        for a in products.bonds[i]:
            for b in reactants.bonds[j]:
                factor[a, b] *= 90
        factor[i], factor[:, j] = 0, 0
    return order, confidence
