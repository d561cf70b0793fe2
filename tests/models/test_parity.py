"""Every family, every head, against the reference: forward in every layout, cached steps, to disk and back."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file

import regard
from regard.nn import KVCache

pytest.importorskip("transformers", reason="the reference library is not installed (extra: oracle)")

from tests.models import oracle

CASES = oracle.cases() + oracle.sound_cases()
IDS = [f"{variant}-{architecture}".replace(" ", "_") for _, variant, architecture in CASES]


@pytest.fixture(params=CASES, ids=IDS)
def case(request):
    """(reference model, its folder, our model loaded from that folder)"""
    oracle.skip_own(request.param[0])
    theirs, folder = oracle.reference(*request.param)
    return theirs, folder, regard.load(folder)


@pytest.mark.parametrize("layout", ["right", "left", "packed"])
def test_batch_equals_reference_row_by_row(case, layout):
    theirs, _, ours = case
    oracle.skip_layout(theirs, layout)
    # Packed, a run of equal lengths must be one for both sides.
    rows, targets = oracle.random_rows(theirs, (7, 11, 11, 4)), oracle.random_targets(theirs, (5, 3, 3, 9))
    oracle.compare(oracle.our_rows(ours, rows, targets, layout), oracle.reference_rows(theirs, rows, targets))


def test_single_row_equals_reference(case):
    theirs, _, ours = case
    rows, targets = oracle.random_rows(theirs, (12,)), oracle.random_targets(theirs, (6,))
    oracle.compare(oracle.our_rows(ours, rows, targets, "right"), oracle.reference_rows(theirs, rows, targets))


@torch.no_grad()
def test_cached_steps_equal_one_pass(case):
    theirs, _, ours = case
    if not ours.architecture.endswith(("ForCausalLM", "LMHeadModel", "ForConditionalGeneration", "MTModel")):
        pytest.skip("no language model that writes")
    rows = oracle.random_words(theirs, (9, 5, 7))
    cache = KVCache()
    steps: list[list[torch.Tensor]] = [[] for _ in rows]
    memory = None
    if ours.encoder is not None:
        read = oracle.laid_out(oracle.random_rows(theirs, (6, 3, 8), seed=3), "right", theirs.main_input_name)
        memory = ours.encode(**read)
    whole = [_logits(ours, row[None], memory and memory.select([i]))[0] for i, row in enumerate(rows)]
    prompt, mask = oracle.pad([row[:-3] for row in rows], "right")  # a ragged prompt, then one token at a time
    first = _logits(ours, prompt, memory, mask=mask, cache=cache)
    for i, row in enumerate(rows):
        steps[i].extend(first[i, : len(row) - 3])
    for k in (-3, -2, -1):
        out = _logits(ours, torch.stack([row[k] for row in rows])[:, None], memory, cache=cache)
        for i in range(len(rows)):
            steps[i].append(out[i, 0])
    for i in range(len(rows)):
        oracle.close(torch.stack(steps[i]), whole[i])


def _logits(model, ids, memory, mask=None, cache=None):
    if memory is None:
        return model(ids, mask, cache=cache).logits
    return model.logits(model.hidden(ids, memory, mask, cache=cache)[0])


def test_save_gives_the_same_file_and_the_reference_opens_it(case, tmp_path):
    theirs, folder, ours = case
    regard.save(ours, tmp_path)
    before, after = load_file(folder / "model.safetensors"), load_file(tmp_path / "model.safetensors")
    computed = oracle.computed(ours, before)  # such as sinusoids: the reference draws them up again
    assert set(after) == set(before) - computed
    for key, value in after.items():
        assert torch.equal(value, before[key]), key
    again, info = type(theirs).from_pretrained(tmp_path, output_loading_info=True)
    assert set(info["missing_keys"]) <= computed and not info["unexpected_keys"]
    rows, targets = oracle.random_rows(theirs, (8,)), oracle.random_targets(theirs, (6,))
    oracle.compare(oracle.reference_rows(again.eval(), rows, targets), oracle.reference_rows(theirs, rows, targets))
