"""Token embeddings: what is summed, scaled, projected and normed, and in which order."""

from __future__ import annotations

import pytest
import torch

from regard.config import EmbeddingConfig, LearnedPositions, NormConfig, SinusoidalPositions
from regard.nn import build, sinusoids

IDS, POSITIONS, SEGMENTS = (
    torch.tensor([[3, 1, 4], [1, 5, 9]]),
    torch.tensor([[0, 1, 2], [2, 0, 1]]),
    torch.tensor([[0, 0, 1], [1, 1, 0]]),
)


def test_all_parts_are_summed_then_normed():
    front = build(
        EmbeddingConfig(
            vocab_size=10,
            dim=8,
            positions=LearnedPositions(size=5, offset=2),
            num_types=2,
            scale=3.0,
            norm=NormConfig(),
        )
    )
    assert front.position.weight.shape == (7, 8) and front.limit == 5
    x = 3 * front.token.weight[IDS] + front.segment.weight[SEGMENTS] + front.position.weight[POSITIONS + 2]
    torch.testing.assert_close(front.embed(IDS, POSITIONS, SEGMENTS), front.norm(x))
    x = 3 * front.token.weight[IDS] + front.segment.weight[0] + front.position.weight[POSITIONS + 2]
    torch.testing.assert_close(front.embed(IDS, POSITIONS), front.norm(x))


def test_sinusoidal_positions_need_no_table():
    positions = SinusoidalPositions(size=50, layout="halves")
    front = build(EmbeddingConfig(vocab_size=10, dim=8, positions=positions))
    expected = front.token.weight[IDS] + sinusoids(POSITIONS, 8, positions)
    torch.testing.assert_close(front.embed(IDS, POSITIONS), expected)
    assert [name for name, _ in front.named_parameters()] == ["token.weight"]


@pytest.mark.parametrize("project", ["before", "after"])
def test_a_narrow_table_is_projected_before_or_after_positions(project):
    front = build(EmbeddingConfig(vocab_size=10, dim=8, width=4, project=project, positions=LearnedPositions(size=5)))
    token, position = front.token.weight[IDS], front.position.weight[POSITIONS]
    expected = front.proj(token) + position if project == "before" else front.proj(token + position)
    torch.testing.assert_close(front.embed(IDS, POSITIONS), expected)
    assert (front.proj.bias is None) == (project == "before")


def test_vectors_stand_in_for_ids():
    front = build(EmbeddingConfig(vocab_size=10, dim=8, scale=2.0))
    vectors = torch.randn(2, 3, 8)
    assert torch.equal(front.embed(None, POSITIONS, vectors=vectors), vectors)


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        ({"input_ids": IDS, "inputs_embeds": torch.randn(2, 3, 8)}, "pass either input_ids or inputs_embeds"),
        ({"input_ids": IDS + 8}, r"input_ids holds 17; this model's vocabulary has 10 ids, 0 to 9"),
        ({"input_ids": IDS - 2}, "input_ids holds -1"),
        ({"input_ids": IDS.float()}, "input_ids has type torch.float32"),
        ({"input_ids": IDS[0]}, r"input has shape \(3,\); allowed: \(batch, tokens\)"),
        ({"input_ids": IDS, "attention_mask": torch.ones(2, 4)}, r"attention_mask has shape \(2, 4\); the input"),
        ({"input_ids": IDS[0], "lengths": [1, 1]}, r"packed input has shape \(3,\); allowed: .* = 2"),
        ({"input_ids": IDS.repeat(1, 3)}, "input has 9 tokens; this model takes at most 5"),
    ],
)
def test_wrong_input_is_refused_by_name(inputs, said):
    front = build(EmbeddingConfig(vocab_size=10, dim=8, positions=LearnedPositions(size=5)))
    with pytest.raises(ValueError, match=said):
        front(**inputs)


def test_types_beyond_the_table_are_named():
    front = build(EmbeddingConfig(vocab_size=10, dim=8, num_types=2))
    with pytest.raises(ValueError, match=r"token_type_ids holds 2; this model's table of types has 2 ids, 0 to 1"):
        front(IDS, token_type_ids=SEGMENTS + 1)
