"""Heads: which token speaks for a sequence, in every layout, and what is done with it."""

from __future__ import annotations

import pytest
import torch

from regard.config import (
    ClassifierHeadConfig,
    FeaturesHeadConfig,
    LanguageHeadConfig,
    NormConfig,
    SpanHeadConfig,
    TransformConfig,
)
from regard.nn import build
from regard.nn.context import packed, padded
from regard.nn.head import Ends

IDS = [torch.tensor([5, 2, 7, 2, 9]), torch.tensor([4, 6, 2])]


def laid_out(hidden, layout):
    """(hidden states, Ends) of two rows."""
    if layout == "packed":
        return torch.cat(hidden), Ends(packed((5, 3), torch.device("cpu")), torch.cat(IDS), (2,))
    ids, real, x = torch.full((2, 5), 2), torch.zeros(2, 5, dtype=torch.bool), torch.full((2, 5, 4), 99.0)
    for i, row in enumerate(IDS):
        where = slice(5 - len(row), 5) if layout == "left" else slice(0, len(row))
        ids[i, where], real[i, where], x[i, where] = row, True, hidden[i]
    ids[~real] = 1
    return x, Ends(padded((real.long().cumsum(1) - 1).clamp(min=0), real), ids, (2,))


@pytest.mark.parametrize("layout", ["right", "left", "packed"])
@pytest.mark.parametrize(
    ("how", "chosen"),
    [
        ("first", lambda x: x[0]),
        ("last", lambda x: x[-1]),
        ("mean", lambda x: x.mean(0)),
        ("eos", lambda x: x[3] if len(x) == 5 else x[2]),
    ],
)
def test_pooling(layout, how, chosen):
    hidden = [torch.randn(5, 4), torch.randn(3, 4)]
    x, ends = laid_out(hidden, layout)
    torch.testing.assert_close(ends.pool(x, how), torch.stack([chosen(h) for h in hidden]))


def test_pooling_at_the_end_token_needs_one():
    ctx = padded(torch.arange(3)[None], aligned=True)
    x = torch.randn(1, 3, 4)
    with pytest.raises(ValueError, match="pass input_ids, and set eos_token_id"):
        Ends(ctx, None, (2,)).pool(x, "eos")
    with pytest.raises(ValueError, match=r"every input needs an end-of-sequence token \(id 2\)"):
        Ends(ctx, torch.tensor([[5, 6, 7]]), (2,)).pool(x, "eos")


def test_language_head():
    x, ends = laid_out([torch.randn(5, 4), torch.randn(3, 4)], "packed")
    transform = TransformConfig(dim=6, activation="relu", norm=NormConfig())
    head = build(LanguageHeadConfig(vocab_size=9, bias=True, transform=transform, scale=0.5, softcap=2.0), 4)
    inside = head.transform.norm(head.transform.dense(x).relu())
    raw = inside * 0.5 @ head.out.weight.T + head.out.bias
    torch.testing.assert_close(head(x, ends)["logits"], 2 * torch.tanh(raw / 2))


def test_classifier_pooler_and_span():
    hidden = [torch.randn(5, 4), torch.randn(3, 4)]
    x, ends = laid_out(hidden, "right")
    head = build(ClassifierHeadConfig(num_labels=3, transform=TransformConfig(dim=6, activation="tanh")), 4)
    first = torch.stack([h[0] for h in hidden])
    torch.testing.assert_close(head(x, ends)["logits"], head.out(torch.tanh(head.transform.dense(first))))
    pooler = build(FeaturesHeadConfig(pooler=TransformConfig(dim=4, activation="tanh")), 4)
    torch.testing.assert_close(pooler(x, ends)["pooler_output"], torch.tanh(pooler.pooler.dense(first)))
    assert build(FeaturesHeadConfig(), 4)(x, ends) == {}
    span = build(SpanHeadConfig(), 4)
    out = span(x, ends)
    torch.testing.assert_close(torch.stack([out["start_logits"], out["end_logits"]], -1), span.out(x))
