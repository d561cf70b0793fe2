"""Configs: checked when made, equal after a walk through JSON, frozen."""

from __future__ import annotations

import dataclasses
import json

import pytest

from regard.config import (
    AllOf,
    AttentionConfig,
    Causal,
    Config,
    DynamicScaling,
    EmbeddingConfig,
    FeedForwardConfig,
    LayerConfig,
    LinearScaling,
    LongScaling,
    Mask,
    ModelConfig,
    MoEConfig,
    NormConfig,
    Prefix,
    RelativeBiasConfig,
    RopeConfig,
    Segments,
    StackConfig,
    TokenIds,
    Window,
)
from regard.models.base import Raw
from regard.models.registry import families

CAUSAL = LayerConfig(norm=NormConfig(), attention=AttentionConfig(num_heads=2, head_dim=4))

WRONG = [
    (lambda: NormConfig(eps=0.0), "NormConfig.eps is 0.0; allowed: a number between 0 and 1"),
    (lambda: NormConfig(eps=float("nan")), "NormConfig.eps is nan; allowed: float"),
    (lambda: NormConfig(kind="group"), "NormConfig.kind is 'group'; allowed: Literal['layer', 'rms']"),
    (lambda: AttentionConfig(num_heads=0, head_dim=4), "AttentionConfig.num_heads is 0; allowed: at least 1"),
    (lambda: AttentionConfig(num_heads=True, head_dim=4), "AttentionConfig.num_heads is True; allowed: int from 0"),
    (lambda: AttentionConfig(num_heads=2.0, head_dim=4), "AttentionConfig.num_heads is 2.0; allowed: int from 0"),
    (lambda: AttentionConfig(num_heads=-1, head_dim=4), "AttentionConfig.num_heads is -1; allowed: int from 0"),
    (lambda: AttentionConfig(num_heads=2**40, head_dim=4), "AttentionConfig.num_heads is 1099511627776; allowed: int"),
    (
        lambda: AttentionConfig(num_heads=2**20, head_dim=2**10),
        "AttentionConfig.head_dim is 1024; allowed: num_heads * head_dim <= 16777216",
    ),
    (
        lambda: AttentionConfig(num_heads=6, head_dim=4, num_kv_heads=4),
        "AttentionConfig.num_kv_heads is 4; allowed: a divisor of num_heads = 6",
    ),
    (lambda: AttentionConfig(num_heads=2, head_dim=4, bias=(True,) * 3), "AttentionConfig.bias is (True, True, True)"),
    (
        lambda: AttentionConfig(num_heads=2, head_dim=4, rope=RopeConfig(dim=8)),
        "; allowed: rope.dim at most head_dim = 4",
    ),
    (lambda: RopeConfig(dim=5), "RopeConfig.dim is 5; allowed: an even number above 0"),
    (lambda: RopeConfig(dim=4, theta=0.0), "RopeConfig.theta is 0.0; allowed: a number above 0"),
    (
        lambda: RopeConfig(dim=2, scaling=DynamicScaling(factor=2.0, original_length=8)),
        "RopeConfig.dim is 2; allowed: at least 4",
    ),
    (
        lambda: RopeConfig(
            dim=8, scaling=LongScaling(short=(1.0,), long=(1.0,), original_length=8, attention_factor=1.0)
        ),
        "allowed: short and long of 4 numbers each",
    ),
    (lambda: FeedForwardConfig(hidden_dim=0), "FeedForwardConfig.hidden_dim is 0; allowed: at least 1"),
    (
        lambda: MoEConfig(num_experts=2, top_k=3, expert=FeedForwardConfig(hidden_dim=4)),
        "MoEConfig.top_k is 3; allowed: 1 to num_experts = 2",
    ),
    (lambda: Window(size=0), "Window.size is 0; allowed: at least 1"),
    (
        lambda: RelativeBiasConfig(num_heads=1, num_buckets=32, max_distance=16, bidirectional=True),
        "RelativeBiasConfig.max_distance is 16; allowed: more than 16",
    ),
    (lambda: StackConfig(dim=4, layers=(CAUSAL,), schedule=(0, 1)), "StackConfig.schedule is (0, 1); allowed: numbers"),
    (lambda: StackConfig(dim=4, layers=(CAUSAL,) * 5000), "StackConfig.layers has 5000 layers; allowed: at most 4096"),
    (lambda: EmbeddingConfig(vocab_size=0, dim=4), "EmbeddingConfig.vocab_size is 0; allowed: at least 1"),
    (lambda: ModelConfig(), "ModelConfig has neither encoder nor decoder; allowed: one of them, or both"),
]


@pytest.mark.parametrize(("make", "said"), WRONG, ids=[said.split(";")[0][:50] for _, said in WRONG])
def test_errors_name_field_value_and_what_is_allowed(make, said):
    with pytest.raises(ValueError) as error:
        make()
    assert said in str(error.value)


def test_a_long_value_is_shown_in_short():
    with pytest.raises(ValueError) as error:
        NormConfig(kind="x" * 500)
    assert len(str(error.value)) < 200


MASKS = [Causal(), Window(size=3), Causal() & Window(size=4), Causal() | Prefix(size=2), Causal() & Segments()]


@pytest.mark.parametrize("mask", MASKS)
def test_masks_go_to_json_and_back(mask):
    assert Config.from_dict(json.loads(json.dumps(mask.to_dict()))) == mask
    assert hash(mask) == hash(Config.from_dict(mask.to_dict()))  # masks are keys of a memo


def test_masks_compose():
    both = Causal() & Window(size=3)
    assert isinstance(both, AllOf) and isinstance(both, Mask) and both.masks == (Causal(), Window(size=3))


@pytest.mark.parametrize("name", families())
def test_every_familys_trees_go_to_json_and_back(name):
    family = families()[name]
    for fields in family.tiny.values():
        for head in family.head_kinds:
            tree = family.config(Raw(fields), head)
            assert Config.from_dict(json.loads(json.dumps(tree.to_dict()))) == tree


def test_from_dict_refuses_what_it_does_not_know():
    with pytest.raises(ValueError, match="config node is 'Nothing'; allowed: "):
        Config.from_dict({"is": "Nothing"})
    with pytest.raises(ValueError, match="NormConfig has no field 'epsilon'; allowed: eps, kind, offset"):
        Config.from_dict({"is": "NormConfig", "epsilon": 1e-5})
    with pytest.raises(ValueError, match=r"NormConfig\.eps is 2; allowed"):
        Config.from_dict({"is": "NormConfig", "eps": 2})


def test_configs_are_frozen_and_a_changed_copy_is_checked_again():
    config = AttentionConfig(num_heads=4, head_dim=8)
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.num_heads = 5  # type: ignore[misc]
    assert config.replace(num_kv_heads=2).kv_heads == 2 and config.kv_heads == 4
    with pytest.raises(ValueError, match="num_kv_heads is 3"):
        config.replace(num_kv_heads=3)
    with pytest.raises(TypeError, match="positional"):
        NormConfig("rms")  # type: ignore[misc]


def test_schedule_defaults_to_every_layer_once():
    assert StackConfig(dim=4, layers=(CAUSAL,) * 3).order == (0, 1, 2)
    assert StackConfig(dim=4, layers=(CAUSAL,) * 2, schedule=(1, 0, 1)).order == (1, 0, 1)


def test_equal_values_are_equal_whatever_made_them():
    assert RopeConfig(dim=8, scaling=LinearScaling(factor=2)) == RopeConfig(dim=8, scaling=LinearScaling(factor=2.0))
    assert TokenIds(eos=(1, 2)) != TokenIds(eos=(2, 1))
