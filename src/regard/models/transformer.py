"""The Transformer of "Attention Is All You Need" (1706.03762), as a family of our own.

Post-norm, interleaved sines and cosines, embeddings times sqrt(d_model), ReLU, one table for source, target and output
(3.4), Xavier weights, dropout 0.1. `norm: "pre"` is the later placement that trains without warm-up (2002.04745).
"""

from __future__ import annotations

from regard.config import (
    AttentionConfig,
    Causal,
    EmbeddingConfig,
    FeedForwardConfig,
    InitConfig,
    LanguageHeadConfig,
    LayerConfig,
    ModelConfig,
    NormConfig,
    SinusoidalPositions,
    StackConfig,
    TowerConfig,
)
from regard.models.base import Family, HeadKind, Raw, Rule
from regard.models.common import architectures, head_dim, seq2seq_head


def stack(raw: Raw, *, decoder: bool) -> StackConfig:
    dim, heads, drop = raw.integer("d_model", 512), raw.integer("num_heads", 8), raw.rate("dropout", 0.1)
    if dim % heads:
        raise ValueError(f"{raw.where}: num_heads is {heads}; allowed: a divisor of d_model = {dim}")
    pre = raw.one_of("norm", ("post", "pre"), "post") == "pre"
    attention = AttentionConfig(num_heads=heads, head_dim=head_dim(raw, dim, heads))
    layer = LayerConfig(
        norm=NormConfig(),
        order="pre" if pre else "post",
        attention=attention,
        cross=attention if decoder else None,
        feed_forward=FeedForwardConfig(hidden_dim=raw.integer("d_ff", 2048), activation="relu"),
        dropout=drop,
    )
    layers, final = (layer,) * raw.layers("num_layers", 6), layer.norm if pre else None
    return StackConfig(dim=dim, layers=layers, mask=Causal() if decoder else None, final_norm=final)


def config(raw: Raw, head: HeadKind) -> ModelConfig:
    source, dim = raw.integer("vocab_size"), raw.integer("d_model", 512)
    target, length = raw.integer("target_vocab_size", source), raw.integer("max_length", 5000)
    tied = raw.flag("tie_embeddings", target == source)
    if tied and target != source:
        raise ValueError(f"{raw.where}: tie_embeddings is True; allowed: False, as source and target vocabulary differ")
    front = EmbeddingConfig(
        vocab_size=source,
        dim=dim,
        positions=SinusoidalPositions(size=length),
        scale=dim**0.5,
        dropout=raw.rate("dropout", 0.1),
    )
    ties = [("decoder.front.token.weight", "encoder.front.token.weight")] if tied else []
    if head == "seq2seq-lm" and raw.flag("tie_projection", True):
        ties.append(("head.out.weight", f"{'encoder' if tied else 'decoder'}.front.token.weight"))
    return ModelConfig(
        encoder=TowerConfig(front=front, stack=stack(raw, decoder=False)),
        decoder=TowerConfig(front=front.replace(vocab_size=target), stack=stack(raw, decoder=True)),
        head=seq2seq_head(raw, head, LanguageHeadConfig(vocab_size=target), dim, 0.0),
        tied=tuple(ties),
        tokens=raw.tokens(pad=0, bos=1, eos=2, decoder_start=1),
        init=InitConfig(scheme="xavier", embedding_std=dim**-0.5),
        max_length=length,
    )


def backbone(raw: Raw) -> list[Rule]:
    """Names on disk are our own."""
    names = []
    for side, branches in (("encoder", ("attn",)), ("decoder", ("attn", "cross"))):
        layer = f"{side}.stack.layers.*."
        names += [f"{side}.front.token.weight", f"{side}.stack.norm.@", f"{layer}ffn.norm.@"]
        names += [f"{layer}ffn.fn.up.@", f"{layer}ffn.fn.down.@"]
        for branch in branches:
            names += [f"{layer}{branch}.norm.@", *(f"{layer}{branch}.fn.{p}.@" for p in ("q", "k", "v", "out"))]
    return [Rule(name, name) for name in names]


def heads(raw: Raw, kind: HeadKind) -> list[Rule]:
    return [Rule("head.out.weight", "head.out.weight")] if kind == "seq2seq-lm" else []


TINY = {"model_type": "transformer", "d_model": 32, "num_layers": 2, "num_heads": 4, "d_ff": 48, "vocab_size": 97}
FAMILY = Family(
    name="transformer",
    title="Transformer (2017)",
    model_types=("transformer",),
    architectures=architectures("Transformer", "", "ForConditionalGeneration", "Model"),
    config=config,
    backbone=backbone,
    heads=heads,
    tiny={
        "transformer": TINY,
        "transformer pre-norm": {**TINY, "norm": "pre"},
        "transformer with two vocabularies": {**TINY, "target_vocab_size": 83},
    },
    own=True,
)
