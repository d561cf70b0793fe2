"""Ways around the full softmax, against the full one and against formulas written out here."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from regard.training.losses import IGNORE
from regard.training.softmax import AdaptiveSoftmax, HierarchicalSoftmax, SampledSoftmax, Vocabulary, huffman

V, C, N = 41, 16, 29
COUNTS = torch.randint(1, 1000, (V,), generator=torch.Generator().manual_seed(7))

MAKE: dict[str, Callable[[], Vocabulary]] = {
    "adaptive": lambda: AdaptiveSoftmax(C, V, cutoffs=[7, 20]),
    "adaptive by counts": lambda: AdaptiveSoftmax(C, V, cutoffs=[7, 20], narrower=2.0, counts=COUNTS),
    "sampled": lambda: SampledSoftmax(C, V, samples=10, counts=COUNTS),
    "hierarchical": lambda: HierarchicalSoftmax(C, V, counts=COUNTS),
    "hierarchical, balanced": lambda: HierarchicalSoftmax(C, V),
}


def batch() -> tuple[Tensor, Tensor]:
    targets = torch.randint(0, V, (N,))
    targets[::6] = IGNORE
    return torch.randn(N, C, dtype=torch.float64, requires_grad=True), targets


@pytest.mark.parametrize("kind", MAKE)
def test_probabilities_sum_to_one_and_the_loss_is_that_of_the_targets(kind: str) -> None:
    module, (hidden, targets) = MAKE[kind]().double().eval(), batch()
    log_prob = module.log_prob(hidden)
    assert log_prob.shape == (N, V)
    torch.testing.assert_close(log_prob.exp().sum(-1), torch.ones(N, dtype=torch.float64), rtol=1e-10, atol=0)
    real = targets != IGNORE
    wanted = -log_prob[real, targets[real]].sum()
    found = module.loss(hidden, targets)
    torch.testing.assert_close(found, wanted, rtol=1e-10, atol=0)
    ours = torch.autograd.grad(found, [hidden, *module.parameters()], retain_graph=True)
    theirs = torch.autograd.grad(wanted, [hidden, *module.parameters()])
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("kind", MAKE)
def test_parts_add_up_and_nothing_counts_nothing(kind: str) -> None:
    module, (hidden, targets) = MAKE[kind]().double().eval(), batch()
    parts = module.loss(hidden[:11], targets[:11]) + module.loss(hidden[11:], targets[11:])
    torch.testing.assert_close(module.loss(hidden, targets), parts, rtol=1e-10, atol=0)
    none = module.train().loss(hidden, torch.full_like(targets, IGNORE))
    assert none.item() == 0
    none.backward()


def test_adaptive_is_a_softmax_over_clusters_and_one_within() -> None:
    module = AdaptiveSoftmax(C, V, cutoffs=[7, 20], counts=COUNTS).double()
    hidden = torch.randn(3, C, dtype=torch.float64)
    by_count = sorted(range(V), key=lambda w: -int(COUNTS[w]))
    inner, found = module.inner, module.log_prob(hidden)
    head = (hidden @ inner.head.weight.mT).softmax(-1)  # 7 words and 2 clusters
    for rank, word in enumerate(by_count):
        if rank < 7:
            wanted = head[:, rank]
        else:
            cluster, first = (0, 7) if rank < 20 else (1, 20)
            down, up = (layer.weight for layer in inner.tail[cluster])  # type: ignore[union-attr]
            wanted = head[:, 7 + cluster] * (hidden @ down.mT @ up.mT).softmax(-1)[:, rank - first]
        torch.testing.assert_close(found[:, word].exp(), wanted, rtol=1e-10, atol=0)


def test_a_word_is_the_product_of_the_turns_to_it() -> None:
    counts = [5, 1, 2, 9, 1]  # by hand: 1 + 1 -> 2, with 2 -> 4, with 5 -> 9, with 9 -> the root
    module = HierarchicalSoftmax(C, 5, counts=counts).double()
    assert (module.start[1:] - module.start[:-1]).tolist() == [2, 4, 3, 1, 4]
    parent, right = huffman([float(n) for n in counts])
    hidden = torch.randn(C, dtype=torch.float64)
    found = module.log_prob(hidden[None])[0].exp()
    for word in range(5):
        wanted, node = 1.0, word
        while node != len(parent) - 1:
            score = float(hidden @ module.nodes.weight[parent[node] - 5] + module.nodes.bias[parent[node] - 5])
            wanted *= 1 / (1 + math.exp(-score if right[node] else score))
            node = parent[node]
        assert found[word].item() == pytest.approx(wanted, rel=1e-10)


def test_huffman_is_as_short_as_it_can_be() -> None:
    counts = COUNTS.double()
    parent, _ = huffman(counts.tolist())
    depth = np.zeros(len(parent))
    for node in range(len(parent) - 2, -1, -1):
        depth[node] = depth[parent[node]] + 1
    p = counts / counts.sum()
    mean, entropy = float((p * torch.from_numpy(depth[:V])).sum()), float(-(p * p.log2()).sum())
    assert entropy <= mean < entropy + 1
    assert sum(2.0**-d for d in depth[:V]) == 1.0  # Kraft
    balanced, _ = huffman([1.0] * 64)
    steps, node = 0, 0
    while balanced[node] != node:
        steps, node = steps + 1, balanced[node]
    assert steps == 6


# ------------------------------------------------------------------------------------------------ sampled


def test_with_all_words_drawn_it_is_the_full_softmax() -> None:
    module, (hidden, targets) = SampledSoftmax(C, V, samples=V).double().train(), batch()
    full = F.cross_entropy(module.head.logits(hidden), targets, reduction="sum")
    torch.testing.assert_close(module.loss(hidden, targets), full, rtol=1e-10, atol=0)


def test_words_are_drawn_as_often_as_the_correction_says() -> None:
    module = SampledSoftmax(C, V, samples=12, counts=COUNTS)
    seen = torch.zeros(V)
    rounds = 4000
    for _ in range(rounds):
        words = module.drawn()
        assert len(words) == len(words.unique())
        seen[words] += 1
    chance = module.log_chance.exp()
    deviation = (chance * (1 - chance) / rounds).sqrt()
    assert ((seen / rounds - chance).abs() < 4.5 * deviation).all()
    assert int(chance.argmax()) == int(COUNTS.argmax())
    r = torch.arange(1, V + 1).double()
    once = ((r + 1) / r).log() / math.log(V + 1)  # the log-uniform law
    torch.testing.assert_close(chance[module.by_rank].double(), 1 - (1 - once) ** 12, rtol=1e-5, atol=0)


def test_its_gradient_comes_closer_to_the_full_one_the_more_is_drawn() -> None:
    hidden, targets = batch()
    errors = []
    for samples in (4, 40, 400):
        torch.manual_seed(3)
        module = SampledSoftmax(C, 1000, samples=samples, bias=False).double().train()
        (exact,) = torch.autograd.grad(module.eval().loss(hidden, targets), [hidden])
        module.train()
        mean = torch.zeros_like(exact)
        for _ in range(300):
            mean += torch.autograd.grad(module.loss(hidden, targets), [hidden])[0] / 300
        errors.append(float((mean - exact).norm() / exact.norm()))
    assert errors[0] > errors[1] > errors[2], errors
    assert errors[2] < 0.02, errors


def test_the_true_distribution_is_its_optimum_even_with_few_samples() -> None:
    """Three samples of twelve words, and no input but the bias: what is learned are the frequencies."""
    words = 12
    truth = torch.tensor([2.0**-i for i in range(words)])
    truth = truth[torch.randperm(words)] / truth.sum()
    module = SampledSoftmax(1, words, samples=3, counts=(truth * 1e6).long()).train()
    torch.nn.init.zeros_(module.head.out.weight)
    hidden = torch.zeros(512, 1)
    optimiser = torch.optim.Adam([module.head.out.bias], lr=0.1)
    averaged = torch.zeros(words)
    for step in range(1500):
        for group in optimiser.param_groups:
            group["lr"] = 0.1 if step < 500 else 0.01
        optimiser.zero_grad()
        (module.loss(hidden, truth.multinomial(512, replacement=True)) / 512).backward()
        optimiser.step()
        if step >= 1000:
            averaged += module.head.out.bias.detach() / 500
    learned = averaged.softmax(-1)
    torch.testing.assert_close(learned[truth > 0.01], truth[truth > 0.01], rtol=0.1, atol=0)


def test_bad_sizes_are_named() -> None:
    with pytest.raises(ValueError, match=r"cutoffs is \[20, 7\]"):
        AdaptiveSoftmax(C, V, cutoffs=[20, 7])
    with pytest.raises(ValueError, match=r"cutoffs is \[41\]"):
        AdaptiveSoftmax(C, V, cutoffs=[V])
    with pytest.raises(ValueError, match="narrower is 16"):
        AdaptiveSoftmax(C, V, cutoffs=[7, 20], narrower=16)
    with pytest.raises(ValueError, match="samples is 0"):
        SampledSoftmax(C, V, samples=0)
    with pytest.raises(ValueError, match="vocab_size is 1"):
        HierarchicalSoftmax(C, 1)
    with pytest.raises(ValueError, match=r"counts is \(3,\)"):
        HierarchicalSoftmax(C, V, counts=[1, 2, 3])
