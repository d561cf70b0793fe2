"""ALBERT (1909.11942): BERT whose layers share their weights, and whose tables of words are narrow.

`num_hidden_groups` groups of `inner_group_num` layers each; a group runs several times before the next takes over.
"""

from __future__ import annotations

from regard.config import ModelConfig, StackConfig, TransformConfig
from regard.models import bert
from regard.models.base import Family, HeadKind, Raw, Rule
from regard.models.common import architectures, encoder, encoder_head_rules

DEFAULTS = {"hidden_act": "gelu_new", "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


def config(raw: Raw, head: HeadKind) -> ModelConfig:
    raw = raw.over(DEFAULTS)
    layer, dim, width = bert.layer(raw), raw.integer("hidden_size"), raw.integer("embedding_size", 128)
    steps, groups, inner = raw.layers("num_hidden_layers"), _groups(raw), _inner(raw)
    turns = [int(step / (steps / groups)) for step in range(steps)]
    pooler = TransformConfig(dim=dim, activation="tanh")
    return encoder(
        raw,
        head,
        bert.embedding(raw, width=width),
        StackConfig(
            dim=dim,
            layers=(layer,) * (groups * inner),
            schedule=tuple(group * inner + i for group in turns for i in range(inner)),
        ),
        words=TransformConfig(dim=width, activation=raw.activation("hidden_act", "gelu_new"), norm=layer.norm),
        labels=pooler,
        pooler=pooler,
        dropout=raw.rate("classifier_dropout_prob", 0.1),
        tokens=raw.tokens(pad=0, bos=2, eos=3),
    )


def _groups(raw: Raw) -> int:
    return raw.layers("num_hidden_groups", 1)


def _inner(raw: Raw) -> int:
    return int(raw.integer("inner_group_num", 1, high=64))


def backbone(raw: Raw) -> list[Rule]:
    rules = [*bert.embedding_rules(), Rule("encoder.embedding_hidden_mapping_in.@", "encoder.front.proj.@")]
    inner = _inner(raw)
    for index in range(_groups(raw) * inner):
        disk = f"encoder.albert_layer_groups.{index // inner}.albert_layers.{index % inner}."
        ours = f"encoder.stack.layers.{index}."
        rules += [
            Rule(f"{disk}attention.query.@", f"{ours}attn.fn.q.@"),
            Rule(f"{disk}attention.key.@", f"{ours}attn.fn.k.@"),
            Rule(f"{disk}attention.value.@", f"{ours}attn.fn.v.@"),
            Rule(f"{disk}attention.dense.@", f"{ours}attn.fn.out.@"),
            Rule(f"{disk}attention.LayerNorm.@", f"{ours}attn.norm.@"),
            Rule(f"{disk}ffn.@", f"{ours}ffn.fn.up.@"),
            Rule(f"{disk}ffn_output.@", f"{ours}ffn.fn.down.@"),
            Rule(f"{disk}full_layer_layer_norm.@", f"{ours}ffn.norm.@"),
        ]
    return rules


def heads(raw: Raw, kind: HeadKind) -> list[Rule]:
    rules = encoder_head_rules(
        raw,
        kind,
        dense="predictions.dense",
        norm="predictions.LayerNorm",
        decoder="predictions.decoder",
        bias="predictions.bias",
        labels=("albert.pooler", "classifier"),
        pooler="pooler",
    )
    return rules + [Rule("sop_classifier.classifier.@")]  # the other task of pretraining


TINY = {**bert.TINY, "model_type": "albert", "embedding_size": 16}
FAMILY = Family(
    name="albert",
    title="ALBERT",
    model_types=("albert",),
    architectures=architectures("Albert", "albert.", "Model", "ForMaskedLM", "ForPreTraining", *bert.TASKS),
    config=config,
    backbone=backbone,
    heads=heads,
    tiny={
        "albert": TINY,
        "albert in groups": {**TINY, "num_hidden_layers": 5, "num_hidden_groups": 2, "inner_group_num": 2},
        "albert as wide": {**TINY, "embedding_size": 32, "hidden_act": "gelu"},
    },
)
