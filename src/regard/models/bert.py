"""BERT (1810.04805): post-norm encoder, learned positions, segment types, GELU.

Masked words go through dense + GELU + norm and the tied token table with its own bias; labels and features read the
first token through a tanh pooler.
"""

from __future__ import annotations

from regard.config import (
    AttentionConfig,
    EmbeddingConfig,
    FeedForwardConfig,
    LanguageHeadConfig,
    LayerConfig,
    LearnedPositions,
    ModelConfig,
    NormConfig,
    StackConfig,
    TowerConfig,
    TransformConfig,
)
from regard.models.base import Family, HeadKind, Raw, Rule
from regard.models.common import architectures, encoder_head

TINY = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "vocab_size": 97,
    "max_position_embeddings": 40,
}


def config(raw: Raw, head: HeadKind) -> ModelConfig:
    dim, vocab_size, drop = raw.integer("hidden_size"), raw.integer("vocab_size"), raw.rate("hidden_dropout_prob", 0.1)
    heads = raw.integer("num_attention_heads")
    norm = NormConfig(eps=raw.number("layer_norm_eps", 1e-12))
    activation = raw.activation("hidden_act", "gelu")
    raw.one_of("position_embedding_type", ("absolute",), "absolute")
    layer = LayerConfig(
        norm=norm,
        order="post",
        dropout=drop,
        attention=AttentionConfig(
            num_heads=heads, head_dim=dim // heads, dropout=raw.rate("attention_probs_dropout_prob", 0.1)
        ),
        feed_forward=FeedForwardConfig(hidden_dim=raw.integer("intermediate_size"), activation=activation),
    )
    length = raw.integer("max_position_embeddings", 512)
    front = EmbeddingConfig(
        vocab_size=vocab_size,
        dim=dim,
        positions=LearnedPositions(size=length),
        num_types=raw.integer("type_vocab_size", 2, low=0),
        norm=norm,
        dropout=drop,
    )
    lm = LanguageHeadConfig(
        vocab_size=vocab_size, bias=True, transform=TransformConfig(dim=dim, activation=activation, norm=norm)
    )
    pooler = TransformConfig(dim=dim, activation="tanh")
    return ModelConfig(
        encoder=TowerConfig(front=front, stack=StackConfig(dim=dim, layers=(layer,) * raw.layers("num_hidden_layers"))),
        head=encoder_head(raw, head, lm, pooler, raw.rate("classifier_dropout", drop)),
        tied=(("head.out.weight", "encoder.front.token.weight"),) if head == "masked-lm" else (),
        tokens=raw.tokens(pad=0),
        max_length=length,
    )


def backbone(raw: Raw) -> list[Rule]:
    disk, ours = "encoder.layer.*.", "encoder.stack.layers.*."
    return [
        Rule("embeddings.word_embeddings.weight", "encoder.front.token.weight"),
        Rule("embeddings.position_embeddings.weight", "encoder.front.position.weight"),
        Rule("embeddings.token_type_embeddings.weight", "encoder.front.segment.weight"),
        Rule("embeddings.LayerNorm.@", "encoder.front.norm.@"),
        Rule("embeddings.position_ids"),
        Rule(f"{disk}attention.self.query.@", f"{ours}attn.fn.q.@"),
        Rule(f"{disk}attention.self.key.@", f"{ours}attn.fn.k.@"),
        Rule(f"{disk}attention.self.value.@", f"{ours}attn.fn.v.@"),
        Rule(f"{disk}attention.output.dense.@", f"{ours}attn.fn.out.@"),
        Rule(f"{disk}attention.output.LayerNorm.@", f"{ours}attn.norm.@"),
        Rule(f"{disk}intermediate.dense.@", f"{ours}ffn.fn.up.@"),
        Rule(f"{disk}output.dense.@", f"{ours}ffn.fn.down.@"),
        Rule(f"{disk}output.LayerNorm.@", f"{ours}ffn.norm.@"),
    ]


def heads(raw: Raw, kind: HeadKind) -> list[Rule]:
    return {
        "features": [Rule("pooler.dense.@", "head.pooler.dense.@")],
        "masked-lm": [
            Rule("cls.predictions.bias", "head.out.bias"),
            Rule("cls.predictions.transform.dense.@", "head.transform.dense.@"),
            Rule("cls.predictions.transform.LayerNorm.@", "head.transform.norm.@"),
            Rule("cls.predictions.decoder.@", "head.out.@", read_only=True),
            Rule("cls.seq_relationship.@"),
        ],
        "classification": [
            Rule("bert.pooler.dense.@", "head.transform.dense.@"),
            Rule("classifier.@", "head.out.@"),
        ],
        "token-classification": [Rule("classifier.@", "head.out.@")],
        "question-answering": [Rule("qa_outputs.@", "head.out.@")],
    }.get(kind, [])


FAMILY = Family(
    name="bert",
    title="BERT",
    model_types=("bert",),
    architectures=architectures(
        "Bert",
        "bert.",
        *("Model", "ForMaskedLM", "ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering"),
    )
    | {"BertForPreTraining": architectures("Bert", "bert.", "ForMaskedLM")["BertForMaskedLM"]},
    config=config,
    backbone=backbone,
    heads=heads,
    tiny={"bert": {**TINY, "model_type": "bert"}},
)
