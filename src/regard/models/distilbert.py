"""DistilBERT (1910.01108): half of BERT's layers, without types of segments and without a pooler.

Labels of a sequence come through a dense with ReLU.
"""

from __future__ import annotations

from dataclasses import dataclass

from regard.config import (
    AttentionConfig,
    EmbeddingConfig,
    FeedForwardConfig,
    LayerConfig,
    LearnedPositions,
    ModelConfig,
    NormConfig,
    SpanHeadConfig,
    StackConfig,
    TransformConfig,
)
from regard.models import bert
from regard.models.base import Family, HeadKind, Raw, Rule
from regard.models.common import architectures, encoder, encoder_head_rules, head_dim
from regard.nn import Layer, builds


@dataclass(frozen=True, kw_only=True)
class UnevenLayerConfig(LayerConfig):
    """A layer that drops nothing of what its attention adds."""


@builds(UnevenLayerConfig)
def uneven(config: UnevenLayerConfig, dim: int) -> Layer:
    layer = Layer(config, dim)
    layer.attn.config = config.replace(dropout=0.0)
    return layer


def config(raw: Raw, head: HeadKind) -> ModelConfig:
    dim, heads, drop = raw.integer("dim", 768), raw.integer("n_heads", 12), raw.rate("dropout", 0.1)
    norm, activation = NormConfig(eps=1e-12), raw.activation("activation", "gelu")
    layer = UnevenLayerConfig(
        norm=norm,
        order="post",
        dropout=drop,
        attention=AttentionConfig(
            num_heads=heads, head_dim=head_dim(raw, dim, heads), dropout=raw.rate("attention_dropout", 0.1)
        ),
        feed_forward=FeedForwardConfig(hidden_dim=raw.integer("hidden_dim", 4 * dim), activation=activation),
    )
    front = EmbeddingConfig(
        vocab_size=raw.integer("vocab_size"),
        dim=dim,
        # Also where they began as sinusoids: the file holds the table.
        positions=LearnedPositions(size=raw.integer("max_position_embeddings", 512)),
        norm=norm,
        dropout=drop,
    )
    model = encoder(
        raw,
        head,
        front,
        StackConfig(dim=dim, layers=(layer,) * raw.layers("n_layers", 6)),
        words=TransformConfig(dim=dim, activation=activation, norm=norm),
        labels=TransformConfig(dim=dim, activation="relu"),
        pooler=None,
        dropout=raw.rate("seq_classif_dropout", 0.2) if head == "classification" else drop,
        tokens=raw.tokens(pad=0),
    )
    if isinstance(model.head, SpanHeadConfig):
        return model.replace(head=model.head.replace(dropout=raw.rate("qa_dropout", 0.1)))
    return model


def backbone(raw: Raw) -> list[Rule]:
    disk, ours = "transformer.layer.*.", "encoder.stack.layers.*."
    return [
        *bert.embedding_rules(),
        *(Rule(f"{disk}attention.{p}_lin.@", f"{ours}attn.fn.{p}.@") for p in ("q", "k", "v", "out")),
        Rule(f"{disk}sa_layer_norm.@", f"{ours}attn.norm.@"),
        Rule(f"{disk}ffn.lin1.@", f"{ours}ffn.fn.up.@"),
        Rule(f"{disk}ffn.lin2.@", f"{ours}ffn.fn.down.@"),
        Rule(f"{disk}output_layer_norm.@", f"{ours}ffn.norm.@"),
    ]


def heads(raw: Raw, kind: HeadKind) -> list[Rule]:
    return encoder_head_rules(
        raw,
        kind,
        dense="vocab_transform",
        norm="vocab_layer_norm",
        decoder="vocab_projector",
        labels=("pre_classifier", "classifier"),
    )


TINY = {"model_type": "distilbert", "dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 48, "vocab_size": 97}
TINY |= {"max_position_embeddings": 40}
FAMILY = Family(
    name="distilbert",
    title="DistilBERT",
    model_types=("distilbert",),
    architectures=architectures("DistilBert", "distilbert.", "Model", "ForMaskedLM", *bert.TASKS),
    config=config,
    backbone=backbone,
    heads=heads,
    tiny={"distilbert": TINY, "distilbert of sinusoids": {**TINY, "sinusoidal_pos_embds": True, "activation": "relu"}},
)
