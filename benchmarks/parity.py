"""The README's table of families: the largest difference from the reference library, measured now.

    .venv/bin/python -m benchmarks.parity [--write]

For every family, tiny config and head: outputs for ragged rows in one right-padded, one left-padded and one packed
batch, against the reference's for each row alone, in float32, as a share of the output's largest magnitude.
`--write` puts the table between the markers in README.md.
"""

from __future__ import annotations

import argparse
import contextlib
import os
from pathlib import Path

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

import pytest
import torch

import regard
from regard.models.registry import families
from tests.models import oracle, senses

README = Path(__file__).parents[1] / "README.md"
BEGIN, END = "<!-- families: begin -->\n", "<!-- families: end -->\n"


def worst(family: str, variant: str, architecture: str) -> float:
    """The largest difference of scale over rows and layouts."""
    theirs, folder = oracle.reference(family, variant, architecture)
    ours = regard.load(folder)
    if oracle.reads(architecture) & {"image", "video"}:
        given = senses.inputs(theirs)
        return senses.compare(senses.outputs(ours, given), senses.outputs(theirs, given))
    rows, targets = oracle.random_rows(theirs), oracle.random_targets(theirs, (5, 3, 3, 9))
    truth, found = oracle.reference_rows(theirs, rows, targets), [0.0]
    for layout in ("right", "left", "packed"):
        with contextlib.suppress(pytest.skip.Exception):  # sound is padded on the right only
            oracle.skip_layout(theirs, layout)
            found.append(oracle.compare(oracle.our_rows(ours, rows, targets, layout), truth))
    return max(found)


def table() -> str:
    """The table in Markdown."""
    lines = ["| family | `model_type` | heads | largest difference of scale |", "|---|---|---|---|"]
    cases = [case for case in oracle.cases() + oracle.sense_cases() if case[2] not in senses.WRITTEN]
    for family in families().values():
        mine = [case for case in cases if case[0] == family.name]
        measured = (
            f"{max(worst(*case) for case in mine):.1e}" if not family.own else "checked against `torch.nn.Transformer`"
        )
        kinds = ", ".join(f"`{kind}`" for kind in family.model_types)
        lines.append(f"| {family.title} | {kinds} | {', '.join(family.head_kinds)} | {measured} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Print the table, or write it into the README."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="replace the table in README.md")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    found = table()
    if not arguments.write:
        print(found, end="")
        return
    text = README.read_text()
    start, end = text.index(BEGIN) + len(BEGIN), text.index(END)
    README.write_text(text[:start] + found + text[end:])
    print(f"wrote {len(found.splitlines()) - 2} families into {README.name}")


if __name__ == "__main__":
    main()
