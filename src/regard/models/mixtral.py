"""Mixtral (2401.04088): Mistral with eight feed-forwards in each layer, of which every token takes the best two."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from regard.config import FeedForwardConfig, ModelConfig, MoEConfig
from regard.models.base import HeadKind, Op, Raw, Rule
from regard.models.common import architectures
from regard.models.llama import DISK, OURS, SUFFIXES, attention, decoder, layer, llama_like, trunk


@dataclass(frozen=True)
class SplitExperts(Op):
    """(experts, parts * rows, ...) -> for each expert its parts: how newer files stack what older ones keep apart."""

    experts: int
    parts: int

    def read(self, parts: list[Tensor]) -> list[Tensor]:
        (x,) = parts
        if x.ndim != 3 or x.shape[0] != self.experts or x.shape[1] % self.parts:
            raise ValueError(f"has shape {tuple(x.shape)}; allowed: ({self.experts}, a multiple of {self.parts}, ...)")
        return [part for expert in x for part in expert.chunk(self.parts)]


def config(raw: Raw, head: HeadKind) -> ModelConfig:
    raw.one_of("router_jitter_noise", (0.0,), 0.0)
    one = layer(raw, attention(raw, "sliding_attention"))
    assert isinstance(one.feed_forward, FeedForwardConfig)
    experts = MoEConfig(
        num_experts=raw.integer("num_local_experts"),
        top_k=raw.integer("num_experts_per_tok"),
        expert=one.feed_forward,
        balance=raw.number("router_aux_loss_coef", 0.001, low=0),
    )
    return decoder(raw, head, (one.replace(feed_forward=experts),) * raw.layers("num_hidden_layers"))


def backbone(raw: Raw) -> list[Rule]:
    count, ours = raw.integer("num_local_experts"), f"{OURS}ffn.fn."
    old, stacked = f"{DISK}block_sparse_moe.", f"{DISK}mlp."
    gates_ups = tuple(f"{ours}experts.{i}.{part}.weight" for i in range(count) for part in ("gate", "up"))
    downs = tuple(f"{ours}experts.{i}.down.weight" for i in range(count))
    return [
        *trunk(),
        *(Rule(f"{DISK}self_attn.{p}_proj.@", f"{OURS}attn.fn.{p}.@") for p in "qkv"),
        Rule(f"{old}gate.weight", f"{ours}router.weight"),
        Rule(f"{old}experts.*.w1.weight", f"{ours}experts.*.gate.weight"),
        Rule(f"{old}experts.*.w3.weight", f"{ours}experts.*.up.weight"),
        Rule(f"{old}experts.*.w2.weight", f"{ours}experts.*.down.weight"),
        Rule(f"{stacked}gate.weight", f"{ours}router.weight", read_only=True),
        Rule(f"{stacked}experts.gate_up_proj", gates_ups, (SplitExperts(count, 2),), read_only=True),
        Rule(f"{stacked}experts.down_proj", downs, (SplitExperts(count, 1),), read_only=True),
    ]


FAMILY = llama_like(
    "mixtral",
    "Mixtral",
    config,
    {
        "mixtral": {"num_local_experts": 4},
        "mixtral window": {"num_local_experts": 5, "num_experts_per_tok": 3, "sliding_window": 4, "head_dim": 16},
    },
    classes=architectures("Mixtral", "model.", *SUFFIXES),
    defaults={
        "num_key_value_heads": 8,
        "max_position_embeddings": 131072,
        "rope_theta": 1000000.0,
        "rms_norm_eps": 1e-5,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "num_local_experts": 8,
        "num_experts_per_tok": 2,
    },
    backbone=backbone,
)
