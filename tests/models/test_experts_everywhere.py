"""What layers add to a loss reaches it from every tower: encoder and decoder, images and texts."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch

import regard
from regard.config import Config, FeedForwardConfig, LayerConfig, MoEConfig
from regard.models.model import Model, build_model
from regard.models.registry import families
from regard.nn import MoE
from regard.training.objectives import ImageText, Seq2Seq


def with_experts(config: Config) -> Config:
    """The same tree with three experts in place of every feed-forward, and no dropout."""
    if isinstance(config, LayerConfig):
        assert isinstance(config.feed_forward, FeedForwardConfig)
        one = config.feed_forward.replace(dropout=0.0)
        experts = MoEConfig(num_experts=3, top_k=1, expert=one, balance=2.0)
        still = {name: part.replace(dropout=0.0) for name in ("attention", "cross") if (part := getattr(config, name))}
        return config.replace(feed_forward=experts, dropout=0.0, **still)
    fields = {f.name: getattr(config, f.name) for f in dataclasses.fields(config)}
    changed = {
        name: with_experts(value) if isinstance(value, Config) else tuple(map(with_experts, value))
        for name, value in fields.items()
        if isinstance(value, Config) or name == "layers"
    }
    return config.replace(**changed, **({"dropout": 0.0} if "dropout" in fields else {}))


def watched(model: Model) -> list[tuple[MoE, list[torch.Tensor]]]:
    seen: list[tuple[MoE, list[torch.Tensor]]] = []
    for module in model.modules():
        if isinstance(module, MoE):
            kept: list[torch.Tensor] = []
            module.router.register_forward_hook(lambda m, args, out, kept=kept: kept.append(out.detach()))
            seen.append((module, kept))
    return seen


def by_hand(layers: list[list[torch.Tensor]]) -> float:
    """3 experts, each token at 1 of them: the share of tokens times the mean probability, layers together, times 2."""
    probability = torch.cat([kept[-1].softmax(-1) for kept in layers])
    share = torch.stack([(probability.argmax(-1) == i).float().mean() for i in range(3)])
    return 2.0 * 3 * float((share * probability.mean(0)).sum())


def test_an_encoder_s_experts_count_as_the_decoder_s() -> None:
    model = build_model(
        with_experts(regard.from_config(dict(families()["bart"].tiny["bart"]), head="seq2seq-lm").config), seed=0
    )
    seen, objective = watched(model), Seq2Seq()
    rows = [{"input_ids": np.arange(5, 5 + n), "labels": np.arange(9, 14)} for n in (6, 9, 4)]
    batch = objective.collate(rows, np.random.default_rng(0))
    model.eval()
    plain = objective(model, batch)
    model.train()
    added = float((objective(model, batch) - plain) / batch.count)
    encoder, decoder = len(model.encoder.stack.layers), len(model.decoder.stack.layers)  # type: ignore[union-attr]
    kept = [k for _, k in seen]
    assert len(kept) == encoder + decoder
    assert abs(added - by_hand(kept[:encoder]) - by_hand(kept[encoder:])) < 1e-4
    out = model(input_ids=torch.arange(5, 11)[None], decoder_input_ids=torch.arange(5, 9)[None])
    assert len(out.losses) == 2


def test_both_towers_of_a_pair_count() -> None:
    model = build_model(with_experts(regard.from_config(dict(families()["clip"].tiny["clip"])).config), seed=0)
    seen, objective = watched(model), ImageText()
    side = model.config.vision.front.size[0]  # type: ignore[attr-defined]
    rng = np.random.default_rng(0)
    rows = [{"input_ids": np.arange(5, 12), "pixel_values": rng.normal(size=(3, side, side))} for _ in range(3)]
    batch = objective.collate(rows, rng)
    plain = objective(model.eval(), batch)
    added = float((objective(model.train(), batch) - plain) / batch.count)
    count = len(model.vision.stack.layers)  # type: ignore[union-attr]
    kept = [k for _, k in seen]
    assert abs(added - by_hand(kept[:count]) - by_hand(kept[count:])) < 1e-4
