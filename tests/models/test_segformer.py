"""SegFormer beyond the parity suite: small images, states as rows, batch norm in training, wrong numbers of stages."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import regard
from regard.models.segformer import TINY
from regard.senses.pyramid import BatchNorm
from tests.models import oracle

SEMANTIC = {**TINY, "architectures": ["SegformerForSemanticSegmentation"]}


@torch.no_grad()
def test_the_smallest_image_is_the_reference_s() -> None:
    pytest.importorskip("transformers")
    theirs, folder = oracle.reference("segformer", "segformer", "SegformerForSemanticSegmentation")
    ours = regard.load(folder)
    for height, width in ((29, 29), (29, 61), (97, 30)):
        pixels = torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(height))
        oracle.close(ours(pixels).logits, theirs(pixels).logits)
    pixels = torch.randn(1, 3, 40, 28)
    with pytest.raises(RuntimeError):
        theirs(pixels)
    with pytest.raises(ValueError, match="of 40 x 28; allowed: 3 channels of at least 29 x 29"):
        ours(pixels)


@torch.no_grad()
def test_states_as_rows(tmp_path: Any) -> None:
    transformers = pytest.importorskip("transformers")
    fields = {key: value for key, value in TINY.items() if key != "model_type"}
    theirs = transformers.SegformerModel(transformers.SegformerConfig(**fields, reshape_last_stage=False)).eval()
    theirs.save_pretrained(tmp_path)
    ours, pixels = regard.load(tmp_path), torch.randn(2, 3, 70, 64)
    found = ours(pixels)
    oracle.close(found.last_hidden_state, theirs(pixels).last_hidden_state)
    oracle.close(found.pooler_output, found.last_hidden_state.mean(1))


def test_attention_is_seen_stage_by_stage() -> None:
    model = regard.from_config(TINY, seed=0).eval()
    with torch.no_grad(), regard.capture(model, "attention") as seen:
        model(torch.randn(1, 3, 64, 64))
    shapes = [tuple(weights.shape) for weights in seen["attention"]]
    keys = [4, 4, 4, 4, 4, 4, 4, 4]  # a grid of 16, 8, 4 and 2, by ratios of 8, 4, 2 and 1
    queries, heads = [256, 256, 64, 64, 16, 16, 4, 4], [1, 1, 2, 2, 3, 3, 4, 4]
    assert shapes == [(1, h, q, k) for h, q, k in zip(heads, queries, keys, strict=True)]


def test_batch_norm_learns_and_records_as_torch_does() -> None:
    ours, theirs = BatchNorm(6), nn.BatchNorm2d(6)
    for step in range(3):
        x = 2 * torch.randn(4, 6, 5, 3) + step
        torch.testing.assert_close(ours(x), theirs(x))
    torch.testing.assert_close(ours.mean.data, theirs.running_mean)
    torch.testing.assert_close(ours.variance.data, theirs.running_var)
    x = torch.randn(1, 6, 2, 2)
    torch.testing.assert_close(ours.eval()(x), theirs.eval()(x))
    assert not ours.mean.requires_grad and not ours.variance.requires_grad


def test_a_step_of_training_reaches_every_weight() -> None:
    model = regard.from_config(SEMANTIC, seed=0).train()
    before = model.head.norm.mean.clone()
    logits = model(torch.randn(2, 3, 64, 64)).logits
    assert logits.shape == (2, 5, 16, 16)
    nn.functional.cross_entropy(logits, torch.randint(0, 5, (2, 16, 16))).backward()
    silent = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert not silent and not torch.equal(model.head.norm.mean, before)


def test_a_new_head_keeps_what_takes_no_gradient(tmp_path: Any) -> None:
    regard.save(regard.from_config({**TINY, "architectures": ["SegformerModel"]}, seed=0), tmp_path)
    model = regard.load(tmp_path, head="semantic-segmentation", num_labels=3)
    assert model(torch.randn(1, 3, 64, 64)).logits.shape == (1, 3, 16, 16)
    fixed = {name for name, p in model.named_parameters() if not p.requires_grad}
    assert fixed == {"head.norm.mean", "head.norm.variance"}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"depths": [2, 2, 2]}, r"depths is \[2, 2, 2\]; allowed: 4 numbers, one a stage"),
        ({"strides": [4, 0, 2, 2]}, r"stage 1: strides is 0; allowed: an integer from 1 to"),
        ({"num_attention_heads": [3, 2, 3, 4]}, "3 attention heads; allowed: a divisor"),
        ({"sr_ratios": [8, 4, 2, "1"]}, "stage 3: sr_ratios is '1'; allowed: an integer"),
        ({"sr_ratios": [5000, 4, 2, 1]}, "ratio is 5000; allowed: 2 to 1024"),
        ({"mlp_ratios": [4, 4, 0, 4]}, "stage 2: mlp_ratios is 0; allowed: a number from 0.01"),
    ],
)
def test_wrong_numbers_of_stages_are_named(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        regard.from_config({**SEMANTIC, **fields})
