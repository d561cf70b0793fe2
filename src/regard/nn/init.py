"""New weights, as the papers draw them."""

from __future__ import annotations

import torch
from torch import nn

from regard.config import InitConfig
from regard.nn.attention import Attention
from regard.nn.bias import RelativeBias
from regard.nn.feed_forward import FeedForward
from regard.nn.layer import Sublayer


@torch.no_grad()
def initialise(module: nn.Module, init: InitConfig, generator: torch.Generator | None = None) -> None:
    """Draw all linear, embedding and convolution weights of a tree; biases become 0, norms keep their start."""
    for part in module.modules():
        if isinstance(part, (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)):
            _draw(part.weight, init, generator)
            if part.bias is not None:
                part.bias.zero_()
        elif isinstance(part, nn.Embedding):
            std = init.std if init.embedding_std is None else init.embedding_std
            part.weight.normal_(0.0, std, generator=generator)
    for part in module.modules():
        if init.scheme == "fan_in" and isinstance(part, Attention) and part.config.scale == 1.0:
            part.q.weight.mul_(part.config.head_dim**-0.5)  # the missing score scale moves into the query
        if init.scheme == "fan_in" and isinstance(part, RelativeBias):
            part.table.weight.mul_(init.std)
    branches = [part for part in module.modules() if isinstance(part, Sublayer)]
    if init.residual:
        for branch in branches:
            for part in branch.modules():
                if isinstance(part, (Attention, FeedForward)):
                    last = part.out if isinstance(part, Attention) else part.down
                    last.weight.mul_(len(branches) ** -0.5)


def _draw(weight: torch.Tensor, init: InitConfig, generator: torch.Generator | None) -> None:
    if init.scheme == "xavier":
        nn.init.xavier_uniform_(weight, generator=generator)
        return
    std = init.std if init.scheme == "normal" else weight[0].numel() ** -0.5
    weight.normal_(0.0, std, generator=generator)
