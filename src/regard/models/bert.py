"""BERT (1810.04805): post-norm encoder, learned positions, segment types, GELU.

Masked words go through dense + GELU + norm and the tied token table with its own bias; labels and features read the
first token through a tanh pooler. Its tree and its rules are the ground on which the later encoders stand.
"""

from __future__ import annotations

from regard.config import (
    AttentionConfig,
    EmbeddingConfig,
    FeedForwardConfig,
    LayerConfig,
    LearnedPositions,
    ModelConfig,
    NormConfig,
    StackConfig,
    TransformConfig,
)
from regard.models.base import Architecture, Family, HeadKind, Raw, Rule
from regard.models.common import architectures, encoder, encoder_head_rules, head_dim

TINY = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "vocab_size": 97,
    "max_position_embeddings": 40,
}
TASKS = ("ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering")


def layer(raw: Raw) -> LayerConfig:
    """One layer as config.json describes it."""
    dim, heads = raw.integer("hidden_size"), raw.integer("num_attention_heads")
    raw.one_of("position_embedding_type", ("absolute",), "absolute")
    raw.one_of("is_decoder", (False,), False)
    return LayerConfig(
        norm=NormConfig(eps=raw.number("layer_norm_eps", 1e-12)),
        order="post",
        dropout=raw.rate("hidden_dropout_prob", 0.1),
        attention=AttentionConfig(
            num_heads=heads, head_dim=head_dim(raw, dim, heads), dropout=raw.rate("attention_probs_dropout_prob", 0.1)
        ),
        feed_forward=FeedForwardConfig(
            hidden_dim=raw.integer("intermediate_size"), activation=raw.activation("hidden_act", "gelu")
        ),
    )


def embedding(raw: Raw, *, width: int | None = None, offset: int = 0) -> EmbeddingConfig:
    """Words, positions and types; the first `offset` rows of the table of positions are for no token."""
    length = raw.integer("max_position_embeddings", 512, low=offset + 1)
    return EmbeddingConfig(
        vocab_size=raw.integer("vocab_size"),
        dim=raw.integer("hidden_size"),
        width=width,
        positions=LearnedPositions(size=length - offset, offset=offset),
        num_types=raw.integer("type_vocab_size", 2, low=0),
        norm=layer(raw).norm,
        dropout=raw.rate("hidden_dropout_prob", 0.1),
    )


def config(raw: Raw, head: HeadKind) -> ModelConfig:
    each, dim = layer(raw), raw.integer("hidden_size")
    pooler = TransformConfig(dim=dim, activation="tanh")
    return encoder(
        raw,
        head,
        embedding(raw),
        StackConfig(dim=dim, layers=(each,) * raw.layers("num_hidden_layers")),
        words=TransformConfig(dim=dim, activation=raw.activation("hidden_act", "gelu"), norm=each.norm),
        labels=pooler,
        pooler=pooler,
        dropout=raw.rate("classifier_dropout", each.dropout),
        tokens=raw.tokens(pad=0),
    )


def backbone(raw: Raw) -> list[Rule]:
    return embedding_rules() + layer_rules()


def embedding_rules() -> list[Rule]:
    """Keys of the front-end."""
    return [
        Rule("embeddings.word_embeddings.weight", "encoder.front.token.weight"),
        Rule("embeddings.position_embeddings.weight", "encoder.front.position.weight"),
        Rule("embeddings.token_type_embeddings.weight", "encoder.front.segment.weight"),
        Rule("embeddings.LayerNorm.@", "encoder.front.norm.@"),
        Rule("embeddings.position_ids"),
    ]


def layer_rules(
    query: str = "self.query",
    key: str = "self.key",
    value: str = "self.value",
    out: str = "output.dense",
    norm: str = "output.LayerNorm",
) -> list[Rule]:
    """Keys of the layers; the arguments are what the parts of attention are called."""
    disk, ours = "encoder.layer.*.", "encoder.stack.layers.*."
    return [
        Rule(f"{disk}attention.{query}.@", f"{ours}attn.fn.q.@"),
        Rule(f"{disk}attention.{key}.@", f"{ours}attn.fn.k.@"),
        Rule(f"{disk}attention.{value}.@", f"{ours}attn.fn.v.@"),
        Rule(f"{disk}attention.{out}.@", f"{ours}attn.fn.out.@"),
        Rule(f"{disk}attention.{norm}.@", f"{ours}attn.norm.@"),
        Rule(f"{disk}intermediate.dense.@", f"{ours}ffn.fn.up.@"),
        Rule(f"{disk}output.dense.@", f"{ours}ffn.fn.down.@"),
        Rule(f"{disk}output.LayerNorm.@", f"{ours}ffn.norm.@"),
    ]


def heads(raw: Raw, kind: HeadKind) -> list[Rule]:
    rules = encoder_head_rules(
        raw,
        kind,
        dense="cls.predictions.transform.dense",
        norm="cls.predictions.transform.LayerNorm",
        decoder="cls.predictions.decoder",
        bias="cls.predictions.bias",
        labels=("bert.pooler.dense", "classifier"),
        pooler="pooler.dense",
    )
    return rules + [Rule("cls.seq_relationship.@")]  # the other task of pretraining


FAMILY = Family(
    name="bert",
    title="BERT",
    model_types=("bert",),
    architectures=architectures("Bert", "bert.", "Model", "ForMaskedLM", "ForPreTraining", *TASKS)
    # Without is_decoder it is the same model under another name.
    | {"BertLMHeadModel": Architecture("masked-lm", "bert.")},
    config=config,
    backbone=backbone,
    heads=heads,
    tiny={
        "bert": {**TINY, "model_type": "bert"},
        "bert with relu": {**TINY, "model_type": "bert", "hidden_act": "relu", "type_vocab_size": 3},
    },
)
