"""Large vocabularies without a full softmax at every step: adaptive, sampled, hierarchical.

Each is a module with its own parameters that stands in place of a model's language head while training.
"""

from __future__ import annotations

import heapq
from abc import abstractmethod
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from regard.config import LanguageHeadConfig
from regard.nn import LanguageHead
from regard.training.losses import IGNORE, chunked_cross_entropy


class Vocabulary(nn.Module):
    """Hidden states -> how likely each of `vocab_size` words is."""

    vocab_size: int

    @abstractmethod
    def loss(self, hidden: Tensor, targets: Tensor) -> Tensor:
        """-log P(target), or an estimate of it while training; hidden (N, C), targets (N,) or -100. The sum."""

    @abstractmethod
    def log_prob(self, hidden: Tensor) -> Tensor:
        """log P of every word: (N, C) -> (N, V)."""


class AdaptiveSoftmax(Vocabulary):
    """Frequent words at once, rare ones in clusters of ever narrower vectors (1609.04309).

    `counts` tells how often each word occurs; without them words must be numbered by frequency, the most frequent
    first. `cutoffs` are the ranks at which clusters begin; a cluster is `narrower` times as narrow as the last.
    Raises ValueError for cutoffs that do not rise from 1 to below the vocabulary.
    """

    def __init__(
        self,
        dim: int,
        vocab_size: int,
        *,
        cutoffs: Sequence[int],
        narrower: float = 4.0,
        counts: Sequence[int] | Tensor | None = None,
    ):
        super().__init__()
        cuts = list(cutoffs)
        if not cuts or cuts != sorted(set(cuts)) or cuts[0] < 1 or cuts[-1] >= vocab_size:
            raise ValueError(f"cutoffs is {cuts}; allowed: rising numbers from 1 to {vocab_size - 1}")
        if narrower < 1 or dim // narrower ** len(cuts) < 1:
            raise ValueError(f"narrower is {narrower}; allowed: at least 1, and dim / narrower ** {len(cuts)} >= 1")
        self.vocab_size = vocab_size
        self.inner = nn.AdaptiveLogSoftmaxWithLoss(dim, vocab_size, cuts, div_value=narrower)
        rank = torch.arange(vocab_size)
        if counts is not None:
            rank[_counts(counts, vocab_size).argsort(descending=True, stable=True)] = torch.arange(vocab_size)
        self.rank: Tensor
        self.register_buffer("rank", rank)

    def loss(self, hidden: Tensor, targets: Tensor) -> Tensor:
        real = targets != IGNORE
        total = hidden.new_zeros((), dtype=torch.promote_types(hidden.dtype, torch.float32))
        if not bool(real.any()):
            return total + 0 * hidden.sum()
        return total - self.inner(hidden[real], self.rank[targets[real]]).output.to(total.dtype).sum()

    def log_prob(self, hidden: Tensor) -> Tensor:
        return self.inner.log_prob(hidden)[:, self.rank]


class SampledSoftmax(Vocabulary):
    """While training, each target against a few words drawn for the whole batch (1412.2007); else the full softmax.

    Words are drawn `samples` times by a log-uniform law over ranks of frequency, each kept once. A word's score is
    lessened by the log of its chance to be among them, which makes the true distribution the optimum. With as many
    samples as words, all are there and this is the full softmax. `counts` as in `AdaptiveSoftmax`.
    """

    def __init__(
        self,
        dim: int,
        vocab_size: int,
        *,
        samples: int,
        bias: bool = True,
        counts: Sequence[int] | Tensor | None = None,
    ):
        super().__init__()
        if samples < 1:
            raise ValueError(f"samples is {samples}; allowed: at least 1")
        self.vocab_size, self.samples = vocab_size, samples
        self.head = LanguageHead(LanguageHeadConfig(vocab_size=vocab_size, bias=bias), dim)
        by_rank = torch.arange(vocab_size)
        if counts is not None:
            by_rank = _counts(counts, vocab_size).argsort(descending=True, stable=True)
        rank = torch.empty_like(by_rank)
        rank[by_rank] = torch.arange(vocab_size)
        once = ((rank + 2).double() / (rank + 1).double()).log() / np.log(vocab_size + 1)
        chance = -torch.expm1(samples * torch.log1p(-once)) if vocab_size > 1 else torch.ones(1)
        self.by_rank: Tensor
        self.log_chance: Tensor
        self.register_buffer("by_rank", by_rank)
        self.register_buffer("log_chance", chance.log().float())

    def drawn(self) -> Tensor:
        """Some words, each once, in no order of meaning."""
        draw = torch.rand(self.samples, dtype=torch.float64, device=self.by_rank.device)
        ranks = ((draw * np.log(self.vocab_size + 1)).exp() - 1).long().clamp(max=self.vocab_size - 1)
        return self.by_rank[ranks.unique()]

    def loss(self, hidden: Tensor, targets: Tensor) -> Tensor:
        if not self.training or self.samples >= self.vocab_size:
            return chunked_cross_entropy(hidden, self.head, targets)
        out, words, real = self.head.out, self.drawn(), targets != IGNORE
        target = targets.clamp(min=0)
        wide = torch.promote_types(hidden.dtype, torch.float32)
        bias = None if out.bias is None else out.bias[words]
        others = F.linear(hidden, out.weight[words], bias).to(wide) - self.log_chance[words]  # (N, S)
        others = others.masked_fill(words == target[:, None], -torch.inf)  # the target itself is no other
        right = (hidden * out.weight[target]).sum(-1).to(wide) - self.log_chance[target]
        right = right if out.bias is None else right + out.bias[target]
        return ((torch.logaddexp(others.logsumexp(-1), right) - right) * real).sum()

    def log_prob(self, hidden: Tensor) -> Tensor:
        return self.head.logits(hidden).log_softmax(-1)


class HierarchicalSoftmax(Vocabulary):
    """A word is a path down a binary tree, its chance the product of the turns (Morin and Bengio 2005).

    The tree is Huffman's for `counts`, so that frequent words have short paths; without counts it is balanced. Training
    looks at about log2(V) vectors for each target.
    """

    def __init__(self, dim: int, vocab_size: int, *, counts: Sequence[int] | Tensor | None = None):
        super().__init__()
        if vocab_size < 2:
            raise ValueError(f"vocab_size is {vocab_size}; allowed: at least 2")
        self.vocab_size = vocab_size
        self.nodes = nn.Linear(dim, vocab_size - 1)
        found = torch.ones(vocab_size) if counts is None else _counts(counts, vocab_size)
        parent, right = huffman(found.double().tolist())
        self.parent: Tensor
        self.sign: Tensor
        self.register_buffer("parent", torch.from_numpy(parent - vocab_size))  # of leaves and inner nodes, root last
        self.register_buffer("sign", torch.from_numpy(np.where(right, 1.0, -1.0).astype(np.float32)))
        self._levels = levels(parent)
        node, start = paths(parent, vocab_size)
        self.path: Tensor
        self.start: Tensor
        self.register_buffer("path", torch.from_numpy(node))
        self.register_buffer("start", torch.from_numpy(start))

    def loss(self, hidden: Tensor, targets: Tensor) -> Tensor:
        row = (targets != IGNORE).nonzero()[:, 0]
        target = targets[row]
        first, count = self.start[target], self.start[target + 1] - self.start[target]
        row = row.repeat_interleave(count)  # one entry for each turn of each path
        ends = count.cumsum(0)
        step = torch.arange(len(row), device=row.device) - (ends - count).repeat_interleave(count)
        steps = self.path[first.repeat_interleave(count) + step]  # nodes turned to
        above = self.parent[steps]
        assert self.nodes.bias is not None
        score = (hidden[row] * self.nodes.weight[above]).sum(-1) + self.nodes.bias[above]
        wide = torch.promote_types(score.dtype, torch.float32)
        return -F.logsigmoid(score.to(wide) * self.sign[steps]).sum()

    def log_prob(self, hidden: Tensor) -> Tensor:
        score = self.nodes(hidden)  # (N, V - 1)
        wide = score.to(torch.promote_types(score.dtype, torch.float32))
        total = wide.new_zeros(len(hidden), len(self.sign))
        for level in self._levels:  # from below the root down
            nodes = torch.from_numpy(level).to(hidden.device)
            above = self.parent[nodes]
            turn = F.logsigmoid(wide[:, above] * self.sign[nodes])
            total = total.index_copy(1, nodes, total[:, above + self.vocab_size] + turn)
        return total[:, : self.vocab_size]


def _counts(counts: Sequence[int] | Tensor, vocab_size: int) -> Tensor:
    found = torch.as_tensor(counts)
    if found.shape != (vocab_size,) or bool((found < 0).any()):
        raise ValueError(f"counts is {tuple(found.shape)}; allowed: {vocab_size} numbers, none below 0")
    return found


def huffman(counts: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """The tree of shortest mean path (Huffman 1952): parent and side (left or right) of every node but the root.

    Leaves are 0 .. V - 1, inner nodes V .. 2V - 2 as they were joined; the last one is the root, its own parent.
    """
    size = len(counts)
    parent, right = np.arange(2 * size - 1), np.zeros(2 * size - 1, dtype=bool)
    heap = [(count, i) for i, count in enumerate(counts)]
    heapq.heapify(heap)
    for new in range(size, 2 * size - 1):
        (a, left), (b, other) = heapq.heappop(heap), heapq.heappop(heap)
        parent[left] = parent[other] = new
        right[other] = True
        heapq.heappush(heap, (a + b, new))
    return parent, right


def paths(parent: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Every leaf's nodes up to below the root, end to end, and where each leaf's begin (V + 1)."""
    root = len(parent) - 1
    leaf, node = np.arange(size), np.arange(size)
    leaves, nodes = [], []
    while len(node):
        leaves.append(leaf)
        nodes.append(node)
        leaf, node = leaf[parent[node] != root], parent[node][parent[node] != root]
    all_leaves = np.concatenate(leaves)
    order = np.argsort(all_leaves, kind="stable")
    start = np.zeros(size + 1, dtype=np.int64)
    np.cumsum(np.bincount(all_leaves, minlength=size), out=start[1:])
    return np.concatenate(nodes)[order], start


def levels(parent: np.ndarray) -> list[np.ndarray]:
    """Nodes by their distance from the root: 1, 2, ..."""
    root = len(parent) - 1
    depth = np.zeros(len(parent), dtype=np.int64)
    for node in range(root - 1, -1, -1):  # parents have higher numbers
        depth[node] = depth[parent[node]] + 1
    order = np.argsort(depth, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(depth[order])) + 1)[1:]
