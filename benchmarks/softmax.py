"""Ways to score a large vocabulary while training: time and memory of a loss with its gradients.

    python benchmarks/softmax.py

2,048 tokens, 512 channels, float32, one thread, processor time. Each way runs in a process of its own; its memory is
how far that grew beyond the weights, whose gradients are part of it.
"""

from __future__ import annotations

import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from regard.config import LanguageHeadConfig
from regard.nn import LanguageHead
from regard.training.losses import chunked_cross_entropy, cross_entropy
from regard.training.softmax import AdaptiveSoftmax, HierarchicalSoftmax, SampledSoftmax

TOKENS, DIM, ROUNDS = 2048, 512, 3
VOCABULARIES = (58_000, 250_000)
Loss = Callable[[Tensor, Tensor], Tensor]


def full(size: int) -> tuple[nn.Module, Loss]:
    head = LanguageHead(LanguageHeadConfig(vocab_size=size), DIM)
    return head, lambda x, t: cross_entropy(head.logits(x), t)


def chunked(size: int) -> tuple[nn.Module, Loss]:
    head = LanguageHead(LanguageHeadConfig(vocab_size=size), DIM)
    return head, lambda x, t: chunked_cross_entropy(x, head, t)


def adaptive(size: int) -> tuple[nn.Module, Loss]:
    module = AdaptiveSoftmax(DIM, size, cutoffs=[2_000, 10_000, 30_000])
    return module, module.loss


def sampled(size: int) -> tuple[nn.Module, Loss]:
    module = SampledSoftmax(DIM, size, samples=4096)
    return module, module.loss


def hierarchical(size: int) -> tuple[nn.Module, Loss]:
    module = HierarchicalSoftmax(DIM, size, counts=1e9 / torch.arange(1, size + 1))
    return module, module.loss


WAYS = {way.__name__: way for way in (full, chunked, adaptive, sampled, hierarchical)}


def megabytes() -> float:
    """The most memory that this process has had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(way: str, size: int) -> dict[str, float]:
    """Milliseconds of the median step, and megabytes beyond the weights."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    module, loss = WAYS[way](size)
    # Words as frequent as in a text (Zipf), numbered by frequency.
    targets = (size ** torch.rand(TOKENS, dtype=torch.float64)).long().clamp(max=size) - 1
    hidden = torch.randn(TOKENS, DIM, requires_grad=True)
    start, seconds = megabytes(), []
    for _ in range(ROUNDS):
        module.zero_grad()
        hidden.grad = None
        begin = time.process_time()
        loss(hidden, targets).backward()
        seconds.append(time.process_time() - begin)
    return {"ms": 1000 * statistics.median(seconds), "mb": megabytes() - start}


def main() -> None:
    if len(sys.argv) == 3:
        print(json.dumps(measure(sys.argv[1], int(sys.argv[2]))))
        return
    print("| vocabulary | softmax | ms a step | of full | MB beyond the weights | of full |")
    print("|---|---|---|---|---|---|")
    for size in VOCABULARIES:
        base: dict[str, float] = {}
        for way in WAYS:
            run = subprocess.run([sys.executable, __file__, way, str(size)], capture_output=True, text=True, check=True)
            found = json.loads(run.stdout)
            base = base or found
            shares = [found[key] / base[key] for key in ("ms", "mb")]
            print(f"| {size:,} | {way} | {found['ms']:,.0f} | {shares[0]:.2f} | {found['mb']:,.0f} | {shares[1]:.2f} |")


if __name__ == "__main__":
    main()
