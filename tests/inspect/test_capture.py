"""What `capture` shows equals the reference's own attention weights, and showing it changes nothing."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import regard
from regard.nn import Attend

pytest.importorskip("transformers", reason="the reference library is not installed (extra: oracle)")

from tests.models import oracle


def one_of_each_variant() -> list[tuple[str, str, str]]:
    found: dict[str, tuple[str, str, str]] = {}
    for family, variant, name in sorted(oracle.cases(), key=lambda case: not case[2].endswith("Model")):
        found.setdefault(variant, (family, variant, name))
    return sorted(found.values())


CASES = one_of_each_variant()
LENGTHS, TARGETS = (7, 11, 11, 4), (5, 3, 3, 9)


@pytest.fixture(params=CASES, ids=[case[1].replace(" ", "_") for case in CASES])
def case(request):
    """(reference model, our model, rows, rows for the decoder or None)"""
    oracle.skip_own(request.param[0])
    theirs, folder = oracle.reference(*request.param)
    return theirs, regard.load(folder), oracle.random_rows(theirs, LENGTHS), oracle.random_targets(theirs, TARGETS)


@torch.no_grad()
def reference(theirs, rows, targets) -> dict[str, list[list[Tensor]]]:
    """name -> for each row its layers' (H, Tq, Tk), each row read alone."""
    found: dict[str, list[list[Tensor]]] = {"attention": [], "cross_attention": []}
    for i, row in enumerate(rows):
        extra = {} if targets is None else {"decoder_input_ids": targets[i][None]}
        out = theirs(input_ids=row[None], output_attentions=True, **extra)
        own = out.attentions if targets is None else (*out.encoder_attentions, *out.decoder_attentions)
        found["attention"].append([w[0] for w in own])
        found["cross_attention"].append([] if targets is None else [w[0] for w in out.cross_attentions])
    return found


def ours_by_row(entry, i: int, layout: str, q: tuple[int, ...], k: tuple[int, ...]) -> Tensor:
    """The weights of row i, without padding, out of one entry of what was seen."""
    if isinstance(entry, list):  # packed: one rectangle for each run of equal lengths
        rows = [row for rectangle in entry for row in rectangle]
        assert len(rows) == len(q)
        return rows[i]
    weights = entry[i]
    rows, columns = (slice(-n, None) if layout == "left" else slice(n) for n in (q[i], k[i]))
    real = weights[:, rows]
    assert torch.allclose(real[..., columns].sum(-1), torch.ones(()), atol=1e-5)  # nothing is spent on padding
    return real[..., columns]


@pytest.mark.parametrize("layout", ["right", "left", "packed"])
@pytest.mark.parametrize("kernel", ["auto", "eager"])
def test_weights_equal_the_reference(case, kernel, layout):
    theirs, ours, rows, targets = case
    oracle.skip_layout(theirs, layout)
    for module in ours.modules():
        if isinstance(module, Attend):
            module.kernel = kernel
    expected = reference(theirs, rows, targets)
    names = ["attention"] + (["cross_attention"] if targets is not None else [])
    with torch.no_grad(), regard.capture(ours, *names) as seen:
        oracle.our_rows(ours, rows, targets, layout)
    for name in names:
        layers = [row for row in expected[name] if row]
        assert len(seen[name]) == len(seen.names[name]) == len(layers[0])
        for depth, entry in enumerate(seen[name]):
            queries, keys = sides(seen.names[name][depth], name, targets is not None)
            for i in range(len(rows)):
                mine = ours_by_row(entry, i, layout, queries, keys)
                other = layers[i][depth]
                assert mine.shape == other.shape
                assert float((mine - other).abs().max()) <= 1e-5, (name, depth, i)


def sides(path: str, name: str, both: bool) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Lengths of queries and keys of an attention by where it is."""
    if name == "cross_attention":
        return TARGETS, LENGTHS
    own = TARGETS if both and path.startswith("decoder.") else LENGTHS
    return own, own


@torch.no_grad()
@pytest.mark.parametrize("layout", ["right", "packed"])
def test_nothing_changes_and_nothing_stays(case, layout):
    theirs, ours, rows, targets = case
    oracle.skip_layout(theirs, layout)
    before = oracle.our_rows(ours, rows, targets, layout)
    with regard.capture(ours, "attention", "hidden", "queries", "keys", "values"):
        during = oracle.our_rows(ours, rows, targets, layout)
    with pytest.raises(KeyError), regard.capture(ours):
        raise KeyError
    for left, right in zip(before, during, strict=True):
        assert left.keys() == right.keys()
        assert all(torch.equal(left[name], right[name]) for name in left)
    for module in ours.modules():
        assert not module._forward_hooks
        assert not module._forward_pre_hooks


@torch.no_grad()
def test_hidden_states_equal_the_reference(case):
    theirs, ours, rows, targets = case
    if targets is not None:
        pytest.skip("one stack is enough to tell")
    row = rows[0][None]
    expected = theirs(input_ids=row, output_hidden_states=True).hidden_states
    with regard.capture(ours, "hidden") as seen:
        ours(row)
    assert len(seen.hidden) == len(expected) - 1
    for mine, other in zip(seen.hidden[:-1], expected[1:-1], strict=True):  # theirs puts the last through the norm
        oracle.close(mine, other)


def a_model() -> regard.Model:
    case = next(case for case in CASES if case[0] == "gpt2")
    return regard.load(oracle.reference(*case)[1])


@torch.no_grad()
def test_queries_keys_and_values_are_those_of_the_weights():
    model, ids = a_model(), torch.tensor([[11, 12, 13, 14, 15]])
    with regard.capture(model, "attention", "queries", "keys", "values", "*.attn.fn.out") as seen:
        model(ids)
    for q, k, weights in zip(seen["queries"], seen["keys"], seen["attention"], strict=True):
        scores = q @ k.mT / q.shape[-1] ** 0.5
        hidden = torch.ones(5, 5).triu(1).bool()
        assert torch.allclose(scores.masked_fill(hidden, -torch.inf).softmax(-1), weights, atol=1e-6)
    assert len(seen["*.attn.fn.out"]) == len(seen["values"]) == len(model.decoder.stack.layers)
    assert "layers.0" in seen.names["*.attn.fn.out"][0]


@torch.no_grad()
def test_calls_add_up_until_cleared():
    model, ids = a_model(), torch.tensor([[11, 12, 13]])
    layers = len(model.decoder.stack.layers)
    with regard.capture(model) as seen:
        model(ids)
        model(ids)
        assert len(seen.attention) == 2 * layers
        assert torch.equal(seen.attention[0], seen.attention[layers])
        seen.clear()
        model(ids[:, :2])
    assert [tuple(w.shape[-2:]) for w in seen.attention] == [(2, 2)] * layers


def test_a_name_that_is_nothing_is_refused():
    with pytest.raises(ValueError, match="atention"), regard.capture(a_model(), "atention"):
        pass
    with pytest.raises(ValueError, match="cross_attention"), regard.capture(a_model(), "cross_attention"):
        pass
