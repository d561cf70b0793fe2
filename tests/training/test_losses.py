"""Losses against formulas written out here, and against torch's own."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from regard.config import LanguageHeadConfig, NormConfig, TransformConfig
from regard.nn import LanguageHead, build
from regard.training import losses

N, C, V = 23, 8, 37
HEADS: dict[str, dict[str, Any]] = {
    "plain": {},
    "bias": {"bias": True},
    "scaled": {"scale": 0.3},
    "capped": {"softcap": 2.0, "bias": True},
    "transform": {"transform": TransformConfig(dim=6, activation="gelu", norm=NormConfig()), "bias": True},
    "all": {"transform": TransformConfig(dim=6, activation="tanh"), "bias": True, "scale": 2.0, "softcap": 1.5},
}


def case(kind: str, dtype: torch.dtype = torch.float64) -> tuple[LanguageHead, Tensor, Tensor]:
    head = build(LanguageHeadConfig(vocab_size=V, **HEADS[kind]), C).to(dtype)
    hidden = torch.randn(N, C, dtype=dtype, requires_grad=True)
    targets = torch.randint(0, V, (N,))
    targets[::5] = losses.IGNORE
    return head, hidden, targets


def gradients(loss: Tensor, head: nn.Module, hidden: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(loss, [hidden, *head.parameters()]))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("chunk", [None, 1, 7, 23, 100])
@pytest.mark.parametrize("kind", HEADS)
def test_chunks_give_the_loss_and_gradients_of_all_scores(kind: str, chunk: int | None, smoothing: float) -> None:
    head, hidden, targets = case(kind)
    ours = losses.chunked_cross_entropy(hidden, head, targets, smoothing=smoothing, chunk=chunk)
    theirs = F.cross_entropy(head.logits(hidden), targets, reduction="sum", label_smoothing=smoothing)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=0)
    for a, b in zip(gradients(3 * ours, head, hidden), gradients(3 * theirs, head, hidden), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("kind", HEADS)
def test_the_z_loss_is_the_squared_normaliser(kind: str) -> None:
    head, hidden, targets = case(kind)
    ours = losses.chunked_cross_entropy(hidden, head, targets, z_loss=0.2, chunk=4)
    scores, theirs = head.logits(hidden), torch.zeros((), dtype=torch.float64)
    for row, target in zip(scores, targets.tolist(), strict=True):
        if target != losses.IGNORE:
            z = row.exp().sum().log()
            theirs = theirs + z - row[target] + 0.2 * z**2
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=0)
    for a, b in zip(gradients(ours, head, hidden), gradients(theirs, head, hidden), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


def test_a_projection_of_another_kind_gives_the_same() -> None:
    class Adapted(nn.Module):
        def __init__(self, plain: nn.Linear):
            super().__init__()
            self.plain, self.more = plain, nn.Linear(C, V, bias=False).double()

        def forward(self, x: Tensor) -> Tensor:
            return self.plain(x) + self.more(x)

    head, hidden, targets = case("capped")
    head.out = Adapted(head.out)  # type: ignore[assignment]
    ours = losses.chunked_cross_entropy(hidden, head, targets, smoothing=0.1, z_loss=0.1, chunk=5)
    theirs = losses.cross_entropy(head.logits(hidden), targets, smoothing=0.1, z_loss=0.1)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=0)
    for a, b in zip(gradients(ours, head, hidden), gradients(theirs, head, hidden), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


def test_a_tied_table_gets_both_gradients() -> None:
    head, _, targets = case("plain")
    table = nn.Embedding(V, C).double()
    head.out.weight = table.weight
    ids = torch.randint(0, V, (N,))
    ours = losses.chunked_cross_entropy(table(ids), head, targets, chunk=6)
    (mine,) = torch.autograd.grad(ours, [table.weight])
    (other,) = torch.autograd.grad(
        F.cross_entropy(F.linear(table(ids), table.weight), targets, reduction="sum"), [table.weight]
    )
    torch.testing.assert_close(mine, other, rtol=1e-10, atol=1e-12)


def test_a_frozen_table_gets_no_gradient_and_hidden_states_do() -> None:
    head, hidden, targets = case("bias")
    head.requires_grad_(False)
    (ours,) = torch.autograd.grad(losses.chunked_cross_entropy(hidden, head, targets, chunk=6), [hidden])
    (theirs,) = torch.autograd.grad(F.cross_entropy(head.logits(hidden), targets, reduction="sum"), [hidden])
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


def test_float32_is_close_and_half_precision_is_summed_in_float32() -> None:
    head, hidden, targets = case("capped", torch.float32)
    hidden = (hidden * 30).detach()  # scores far apart
    exact = F.cross_entropy(head.double().logits(hidden.double()), targets, reduction="sum")
    ours = losses.chunked_cross_entropy(hidden, head.float(), targets, chunk=4)
    torch.testing.assert_close(ours.double(), exact, rtol=1e-5, atol=0)
    half = losses.chunked_cross_entropy(hidden.bfloat16(), head.bfloat16(), targets, chunk=4)
    assert half.dtype == torch.float32
    torch.testing.assert_close(half.double(), exact, rtol=0.02, atol=0)


def test_autocast_keeps_gradients_in_the_type_of_the_weights() -> None:
    head, hidden, targets = case("bias", torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        loss = losses.chunked_cross_entropy(hidden, head, targets, chunk=4)
    found = gradients(loss, head, hidden)
    exact = gradients(F.cross_entropy(head.logits(hidden), targets, reduction="sum"), head, hidden)
    for a, b in zip(found, exact, strict=True):
        assert a.dtype == torch.float32
        torch.testing.assert_close(a, b, rtol=0.05, atol=0.05)


def test_nothing_to_predict_counts_nothing() -> None:
    head, hidden, targets = case("bias")
    loss = losses.chunked_cross_entropy(hidden, head, torch.full_like(targets, losses.IGNORE))
    assert loss.item() == 0.0
    assert not any(g.any() for g in gradients(loss, head, hidden))
    assert losses.chunked_cross_entropy(hidden[:0], head, targets[:0]).item() == 0.0


def test_a_second_gradient_is_refused_and_bad_shapes_are_named() -> None:
    head, hidden, targets = case("plain")
    loss = losses.chunked_cross_entropy(hidden, head, targets, chunk=4)
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="compute the loss again"):
        loss.backward()
    with pytest.raises(ValueError, match=r"targets \(3,\)"):
        losses.chunked_cross_entropy(hidden, head, targets[:3])
    with pytest.raises(ValueError, match="chunk is 0"):
        losses.chunked_cross_entropy(hidden, head, targets, chunk=0)


# ------------------------------------------------------------------------------------------------ pairs


def cosine(a: Tensor, b: Tensor) -> float:
    return float(a @ b / (a.norm() * b.norm()))


def test_info_nce_is_a_softmax_over_cosines() -> None:
    q, k = torch.randn(4, 6, dtype=torch.float64), torch.randn(7, 6, dtype=torch.float64)
    slow = 0.0
    for i in range(4):
        scores = [20 * cosine(q[i], k[j]) for j in range(7)]
        slow += math.log(sum(map(math.exp, scores))) - scores[i]
    assert losses.info_nce(q, k).item() == pytest.approx(slow, rel=1e-12)
    back = 0.0
    for i in range(4):
        scores = [20 * cosine(q[j], k[i]) for j in range(4)]
        back += math.log(sum(map(math.exp, scores))) - scores[i]
    assert losses.info_nce(q, k, symmetric=True).item() == pytest.approx((slow + back) / 2, rel=1e-12)
    with pytest.raises(ValueError, match="as many keys or more"):
        losses.info_nce(q, k[:3])


def test_the_sigmoid_loss_judges_every_pair() -> None:
    scores = torch.randn(3, 3, dtype=torch.float64)
    slow = sum(math.log(1 + math.exp(-scores[i, j] * (1 if i == j else -1))) for i in range(3) for j in range(3))
    assert losses.sigmoid_pair_loss(scores).item() == pytest.approx(slow, rel=1e-12)


# ------------------------------------------------------------------------------------------------ others


def test_self_distillation_compares_all_pairs_of_different_views() -> None:
    student = [torch.randn(3, 5, dtype=torch.float64) for _ in range(4)]
    teacher = [torch.randn(3, 5, dtype=torch.float64) for _ in range(2)]
    centre = torch.randn(5, dtype=torch.float64)
    slow, pairs = 0.0, 0
    for i, j in itertools.product(range(2), range(4)):
        if i == j:
            continue
        pairs += 1
        for b in range(3):
            t, s = (teacher[i][b] - centre) / 0.04, student[j][b] / 0.1
            p = t.exp() / t.exp().sum()
            slow += float(-(p * (s - s.exp().sum().log())).sum())
    found = losses.self_distillation(student, teacher, centre)
    assert found.item() == pytest.approx(slow / pairs, rel=1e-10)
    with pytest.raises(ValueError, match="2 or more"):
        losses.self_distillation(student[:1], teacher[:1], centre)


def test_ctc_sums_over_all_ways_to_spell() -> None:
    scores = torch.randn(2, 4, 3, dtype=torch.float64)
    spelt, lengths = [[1, 2], [1, 1]], [4, 3]
    slow = 0.0
    for b, (target, length) in enumerate(zip(spelt, lengths, strict=True)):
        probability = scores[b].softmax(-1)
        total = 0.0
        for path in itertools.product(range(3), repeat=length):
            if [c for c, _ in itertools.groupby(path) if c != 0] == target:
                total += math.prod(float(probability[t, c]) for t, c in enumerate(path))
        slow -= math.log(total)
    found = losses.ctc(scores, lengths, torch.tensor([1, 2, 1, 1]), [2, 2], blank=0)
    assert found.item() == pytest.approx(slow, rel=1e-10)
    assert losses.ctc(scores[:1], [1], torch.tensor([1, 2]), [2], blank=0).item() == 0.0  # no room to spell it
