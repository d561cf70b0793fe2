"""Every model that writes: the same tokens with the kernels as with torch, in every way of writing."""

from __future__ import annotations

import pytest
import torch

import regard
from regard import native
from regard.models.registry import families
from regard.native.writing import Step
from regard.nn import Embedding, Stack

pytest.importorskip("transformers", reason="the reference library is not installed (extra: oracle)")

from tests.models import oracle

CASES = [
    case
    for case in oracle.cases()
    if (a := families()[case[0]].architectures[case[2]]).head in ("causal-lm", "seq2seq-lm")
]
IDS = [f"{variant}-{architecture}".replace(" ", "_") for _, variant, architecture in CASES]
WAYS = {
    "greedy": {},
    "sampled": {"do_sample": True, "seed": 7, "top_k": 9, "num_return_sequences": 2},
    "beams": {"num_beams": 3},
}


@pytest.fixture(params=CASES, ids=IDS, scope="module")
def case(request):
    """(our model, ids and mask of a ragged batch)"""
    oracle.skip_own(request.param[0])
    theirs, folder = oracle.reference(*request.param)
    ours = regard.load(folder)
    ids, mask = oracle.pad(oracle.random_rows(theirs), "right" if theirs.config.is_encoder_decoder else "left")
    return ours, ids, mask


def write(model, ids, mask, **options):
    options = {"max_new_tokens": 12, "eos_token_id": None, "return_dict_in_generate": True, **options}
    return model.generate(ids, attention_mask=mask, pad_token_id=3, output_scores=True, **options)


@pytest.mark.parametrize("way", WAYS)
def test_tokens_are_those_of_torch(case, way):
    model, ids, mask = case
    native.remove(model)
    expected = write(model, ids, mask, **WAYS[way])
    native.apply(model, "fp32", required=True)
    stack = model.decoder.stack.__dict__["through"]
    stack.torch, reading = counted(stack.torch)
    found = write(model, ids, mask, **WAYS[way])
    assert found.sequences.tolist() == expected.sequences.tolist()
    if way == "beams":  # those that were not taken may differ: nearly equal ones change places
        torch.testing.assert_close(found.sequences_scores, expected.sequences_scores, rtol=1e-4, atol=1e-4)
    else:
        torch.testing.assert_close(torch.stack(found.scores), torch.stack(expected.scores), rtol=1e-4, atol=1e-4)
    late = any(a.config.rope is not None and a.config.rope.by_length for a in model.decoder.stack.attentions())
    assert len(reading) == 1, "only the prompt is read by torch"
    kinds = {name.partition("(")[2].rstrip(")") for name in native.unknown(model)}
    assert kinds <= ({"MoE"} | ({"Attention"} if late else set())), native.unknown(model)


@pytest.mark.parametrize("way", ["greedy", "sampled"])
def test_a_step_is_one_call(case, way, monkeypatch):
    """For all but those that have layers of torch, or logits that are changed."""
    model, ids, mask = case
    options = {"max_new_tokens": 12, "eos_token_id": None, "pad_token_id": 3, "attention_mask": mask, **WAYS[way]}
    native.remove(model)
    expected = model.generate(ids, **options)
    native.apply(model, "fp32", required=True)
    stack, head = model.decoder.stack, model.head
    known = not native.unknown(model) and head.transform is None and head.config.softcap is None
    front = type(model.decoder.front) is Embedding and model.decoder.front.proj is None and type(stack) is Stack
    assert ("write" in model.__dict__) == (known and front)
    if known and front:
        called, steps = counted(Step.__call__)
        monkeypatch.setattr(Step, "__call__", called)
        assert model.generate(ids, **options).tolist() == expected.tolist()
        assert len(steps) >= 10, "all but the prompt, and an end that is forced"


def counted(function):
    """The function, and a list that grows with each call."""
    calls = []

    def called(*args, **named):
        calls.append(None)
        return function(*args, **named)

    return called, calls
