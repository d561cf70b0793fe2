"""Every family in int8: near its float32 self in every layout, the same packed as padded, to disk and back.

How near: rounding n numbers to 127 steps of their largest is an error of crest / (127 * sqrt(12)) of their size, where
the crest (largest over root mean square) is 2 to 4 for tens of channels, so each linear errs by about 1 % from its
inputs and as much from its weights. Errors of some ten linears in a row add up like independent ones to about 5 % of
hidden states. Scores, two of them at times, may be small differences of large numbers, and an expert may be chosen
otherwise, so they get more room; a wrong scale or layer is off by 1 and more.
"""

from __future__ import annotations

import json

import pytest
import torch

import regard
from regard import native
from regard.adapt.quantize import chosen, layers, precision

pytest.importorskip("transformers", reason="the reference library is not installed (extra: oracle)")

from tests.models import oracle, senses

HIDDEN, SCORES = 0.15, 0.3
TEXT = oracle.cases() + oracle.sound_cases()
SEEN = [case for case in oracle.sense_cases() if oracle.reads(case[2]) & {"image", "video"}]
SEEN = [case for case in SEEN if case[2] not in senses.WRITTEN]


def names(cases):
    """Names of cases for the command line."""
    return [f"{variant}-{architecture}".replace(" ", "_") for _, variant, architecture in cases]


def both(case):
    """(reference model, ours in float32, ours in int8)"""
    oracle.skip_own(case[0])
    theirs, folder = oracle.reference(*case)
    plain, small = regard.load(folder), regard.load(folder)
    regard.adapt.quantize(small, "int8", force=True)
    assert precision(small) == "int8"
    assert len(list(layers(small))) == len(chosen(plain)) > 0
    return theirs, plain, small


def off(found: torch.Tensor, wanted: torch.Tensor) -> float:
    """The error's length over that of what was wanted."""
    assert found.shape == wanted.shape
    assert found.isfinite().all()
    return float((found - wanted).norm() / wanted.norm().clamp(min=1e-3))


def near(name: str, found: torch.Tensor, wanted: torch.Tensor) -> None:
    """Assert that an output is as near as its kind allows."""
    assert off(found, wanted) <= (HIDDEN if "hidden" in name else SCORES), name


@torch.no_grad()
@pytest.mark.parametrize("case", TEXT, ids=names(TEXT))
def test_int8_is_near_float32_and_layouts_do_not_matter(case):
    theirs, plain, small = both(case)
    rows, targets = oracle.random_rows(theirs, (7, 11, 11, 4)), oracle.random_targets(theirs, (5, 3, 3, 9))
    alone = [
        oracle.our_rows(small, rows[i : i + 1], None if targets is None else targets[i : i + 1], "right")[0]
        for i in range(len(rows))
    ]
    wanted = oracle.our_rows(plain, rows, targets, "right")
    for name in alone[0]:
        near(
            name, torch.cat([row[name].flatten() for row in alone]), torch.cat([row[name].flatten() for row in wanted])
        )
    for layout in ("right", "left", "packed"):
        try:
            oracle.skip_layout(theirs, layout)
        except pytest.skip.Exception:
            continue
        for mine, other in zip(oracle.our_rows(small, rows, targets, layout), alone, strict=True):
            for name in mine:  # float noise may carry a number over to the next step, no more
                assert off(mine[name], other[name]) <= 0.02, (layout, name)


@torch.no_grad()
@pytest.mark.parametrize("case", SEEN, ids=names(SEEN))
def test_int8_of_what_sees_is_near_float32(case):
    theirs, plain, small = both(case)
    given = senses.inputs(theirs)
    found, wanted = senses.outputs(small, given), senses.outputs(plain, given)
    assert found
    for name in found:
        near(name, found[name].float(), wanted[name].float())


FEW = [case for case in TEXT if case[1].split()[0] in ("bert", "gpt2", "llama", "t5", "mixtral", "gpt_neox")][:14]


@torch.no_grad()
@pytest.mark.parametrize("case", FEW, ids=names(FEW))
def test_to_disk_and_back_is_the_same_model(case, tmp_path):
    theirs, _, small = both(case)
    regard.save(small, tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["quantization_config"]["quant_method"] == "regard"
    again = regard.load(tmp_path)
    native.apply(small, quiet=True)  # as quantized files open, where there are kernels
    rows, targets = oracle.random_rows(theirs, (7, 5)), oracle.random_targets(theirs, (5, 3))
    for mine, other in zip(
        oracle.our_rows(again, rows, targets, "right"), oracle.our_rows(small, rows, targets, "right"), strict=True
    ):
        for name in mine:
            assert torch.equal(mine[name], other[name]), name
