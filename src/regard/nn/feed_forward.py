"""Feed-forward layers, dense and mixture-of-experts; both (..., C) -> (..., C)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from regard.config import FeedForwardConfig, MoEConfig
from regard.nn.attention import dropped
from regard.nn.build import builds
from regard.nn.context import Context
from regard.nn.linear import Linear
from regard.nn.norm import ACTIVATIONS


@builds(FeedForwardConfig)
class FeedForward(nn.Module):
    """down(act(up(x))), or gated down(act(gate(x)) * up(x)) (2002.05202)."""

    def __init__(self, config: FeedForwardConfig, dim: int):
        super().__init__()
        self.config = config
        self.activation = ACTIVATIONS[config.activation]
        self.up = Linear(dim, config.hidden_dim, config.bias)
        self.gate = Linear(dim, config.hidden_dim, config.bias) if config.gated else None
        self.down = Linear(config.hidden_dim, dim, config.bias)

    def forward(self, x: Tensor, ctx: Context) -> Tensor:
        y = self.activation(self.up(x)) if self.gate is None else self.activation(self.gate(x)) * self.up(x)
        return self.down(dropped(y, self.config.dropout, self.training))


@builds(MoEConfig)
class MoE(nn.Module):
    """Each token goes to its `top_k` best experts, weighted by the router's softmax (2101.03961, 2401.04088).

    While training, each expert's share of the real tokens and its mean probability go to `ctx.routes`.
    """

    def __init__(self, config: MoEConfig, dim: int):
        super().__init__()
        self.config = config
        self.router = Linear(dim, config.num_experts, bias=False)
        self.experts = nn.ModuleList(FeedForward(config.expert, dim) for _ in range(config.num_experts))

    def forward(self, x: Tensor, ctx: Context) -> Tensor:
        flat = x.reshape(-1, x.shape[-1])  # (N, C)
        probability = self.router(flat).softmax(-1, dtype=torch.float32)  # (N, E)
        weight, chosen = probability.topk(self.config.top_k, -1)  # (N, K)
        if self.config.renormalise:
            weight = weight / weight.sum(-1, keepdim=True)
        if self.training and self.config.balance:
            taken = torch.zeros_like(probability).scatter(-1, chosen, 1.0)  # (N, E)
            real = None if ctx.lengths is not None else ctx.groups[0].q_valid
            means = [(x if real is None else x[real.flatten()]).mean(0) for x in (taken, probability)]
            ctx.routes.setdefault(self.config, []).append(torch.stack(means))
        out = torch.zeros_like(flat)
        for i, expert in enumerate(self.experts):
            token, rank = (chosen == i).nonzero(as_tuple=True)
            if len(token):
                y = expert(flat[token], ctx) * weight[token, rank, None].type_as(flat)
                out.index_add_(0, token, y)
        return out.view_as(x)


def balance(routes: Mapping[MoEConfig, Sequence[Tensor]]) -> list[Tensor]:
    """The load-balance loss num_experts * sum(share of tokens * mean probability) of layers of a kind together
    (2101.03961, 2.2), times `balance`. Routes are (2, E): shares and mean probabilities."""
    means = [(config, torch.stack(list(layers)).mean(0)) for config, layers in routes.items()]
    return [config.balance * config.num_experts * (share * mean).sum() for config, (share, mean) in means]
