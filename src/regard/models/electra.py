"""ELECTRA (2003.10555): BERT's tree with perhaps narrower tables of words; a generator fills gaps, a discriminator
learns which words were replaced.

The discriminator is what is used afterwards, so a checkpoint of it gives features.
"""

from __future__ import annotations

from regard.config import ModelConfig, StackConfig, TransformConfig
from regard.models import bert
from regard.models.base import Architecture, Family, HeadKind, Raw, Rule
from regard.models.common import architectures, encoder, encoder_head_rules


def config(raw: Raw, head: HeadKind) -> ModelConfig:
    layer, dim, width = bert.layer(raw), raw.integer("hidden_size"), raw.integer("embedding_size", 128)
    drop = raw.rate("classifier_dropout", layer.dropout)
    return encoder(
        raw,
        head,
        bert.embedding(raw, width=width if width != dim else None),
        StackConfig(dim=dim, layers=(layer,) * raw.layers("num_hidden_layers")),
        words=TransformConfig(dim=width, activation="gelu", norm=layer.norm),
        labels=TransformConfig(dim=dim, activation="gelu", dropout=drop),
        pooler=None,
        dropout=drop,
        tokens=raw.tokens(pad=0),
    )


def backbone(raw: Raw) -> list[Rule]:
    return [*bert.backbone(raw), Rule("embeddings_project.@", "encoder.front.proj.@")]


def heads(raw: Raw, kind: HeadKind) -> list[Rule]:
    rules = encoder_head_rules(
        raw,
        kind,
        dense="generator_predictions.dense",
        norm="generator_predictions.LayerNorm",
        decoder="generator_lm_head",
    )
    return rules + [Rule("discriminator_predictions.**")]


TINY = {**bert.TINY, "model_type": "electra"}
FAMILY = Family(
    name="electra",
    title="ELECTRA",
    model_types=("electra",),
    architectures={
        **architectures("Electra", "electra.", "Model", "ForMaskedLM", *bert.TASKS),
        "ElectraForPreTraining": Architecture("features", "electra."),
        "ElectraForCausalLM": Architecture("masked-lm", "electra."),  # without is_decoder
    },
    config=config,
    backbone=backbone,
    heads=heads,
    tiny={"electra": {**TINY, "embedding_size": 32}, "electra with narrow tables": {**TINY, "embedding_size": 16}},
)
