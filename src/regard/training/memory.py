"""Less memory for more work: layers that are computed again in the backward pass (1604.06174)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from torch import nn
from torch.utils.checkpoint import checkpoint

from regard.nn import Stack


@contextmanager
def checkpointed(model: nn.Module) -> Iterator[None]:
    """Within, every layer keeps only its input for the backward pass, and computes the rest again there."""
    layers = [layer for stack in model.modules() if isinstance(stack, Stack) for layer in stack.layers]
    for layer in layers:
        layer.forward = partial(checkpoint, layer.forward, use_reentrant=False)
    try:
        yield
    finally:
        for layer in layers:
            layer.__dict__.pop("forward", None)
