"""BART (1910.13461): post-norm encoder and decoder, learned positions after two unused rows, a norm on embeddings.

Its tree and its rules are the ground on which mBART, Pegasus and Marian stand.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from regard.config import (
    AttentionConfig,
    Causal,
    EmbeddingConfig,
    FeedForwardConfig,
    InitConfig,
    LanguageHeadConfig,
    LayerConfig,
    LearnedPositions,
    ModelConfig,
    NormConfig,
    SinusoidalPositions,
    StackConfig,
    TokenIds,
    TowerConfig,
)
from regard.models.base import Family, HeadKind, Raw, Rule, Squeeze
from regard.models.common import architectures, head_dim, seq2seq_head, seq2seq_head_rules

TINY = {"d_model": 32, "encoder_layers": 2, "decoder_layers": 3, "encoder_ffn_dim": 48, "decoder_ffn_dim": 40}
TINY |= {"encoder_attention_heads": 4, "decoder_attention_heads": 2, "vocab_size": 97, "max_position_embeddings": 40}
SUFFIXES = ("ForConditionalGeneration", "Model", "ForSequenceClassification", "ForQuestionAnswering")


def embedding(raw: Raw, *, learned: bool = True, norm: bool = True) -> EmbeddingConfig:
    """The front-end of either side; positions are learned, or computed in halves of sines and cosines."""
    dim, length = raw.integer("d_model"), raw.integer("max_position_embeddings", 1024)
    if not learned:  # a word of the first versions; weights could not tell
        raw.one_of("static_position_embeddings", (True,), True)
    halves = SinusoidalPositions(size=length, layout="halves")
    positions = LearnedPositions(size=length, offset=2) if learned else halves
    return EmbeddingConfig(
        vocab_size=raw.integer("vocab_size"),
        dim=dim,
        positions=positions,
        scale=dim**0.5 if raw.flag("scale_embedding", False) else 1.0,
        norm=NormConfig() if norm else None,
        dropout=raw.rate("dropout", 0.1),
    )


def tower(raw: Raw, side: Literal["encoder", "decoder"], front: EmbeddingConfig, *, pre: bool) -> TowerConfig:
    """One side of the model. Pre-norm layers bring a final norm with them."""
    heads, dim = raw.integer(f"{side}_attention_heads"), front.dim
    raw.one_of("normalize_before", (pre,), pre)
    attention = AttentionConfig(
        num_heads=heads, head_dim=head_dim(raw, dim, heads), dropout=raw.rate("attention_dropout")
    )
    layer = LayerConfig(
        norm=NormConfig(),
        order="pre" if pre else "post",
        attention=attention,
        cross=attention if side == "decoder" else None,
        feed_forward=FeedForwardConfig(
            hidden_dim=raw.integer(f"{side}_ffn_dim"),
            activation=raw.activation("activation_function", "gelu"),
            dropout=raw.rate("activation_dropout"),
        ),
        dropout=raw.rate("dropout", 0.1),
    )
    layers, mask = (layer,) * raw.layers(f"{side}_layers"), Causal() if side == "decoder" else None
    stack = StackConfig(dim=dim, layers=layers, mask=mask, final_norm=layer.norm if pre else None)
    return TowerConfig(front=front, stack=stack.replace(layer_drop=raw.rate(f"{side}_layerdrop")))


def model(
    raw: Raw, head: HeadKind, front: EmbeddingConfig, tokens: TokenIds, *, pre: bool, target_size: int | None = None
) -> ModelConfig:
    """The whole tree. `target_size` is the decoder's vocabulary where it shares nothing with the encoder's."""
    written = front if target_size is None else front.replace(vocab_size=target_size)
    owner = "encoder" if target_size is None else "decoder"
    lm = LanguageHeadConfig(vocab_size=written.vocab_size, bias=True)
    ties = [("decoder.front.token.weight", "encoder.front.token.weight")] if target_size is None else []
    if head == "seq2seq-lm" and raw.flag("tie_word_embeddings", True):
        ties.append(("head.out.weight", f"{owner}.front.token.weight"))
    return ModelConfig(
        encoder=tower(raw, "encoder", front, pre=pre),
        decoder=tower(raw, "decoder", written, pre=pre),
        head=seq2seq_head(raw, head, lm, front.dim, raw.rate("classifier_dropout", raw.rate("classif_dropout"))),
        tied=tuple(ties),
        tokens=tokens,
        init=InitConfig(std=raw.number("init_std", 0.02, low=0.0)),
        max_length=raw.integer("max_position_embeddings", 1024),
    )


def config(raw: Raw, head: HeadKind) -> ModelConfig:
    return model(raw, head, embedding(raw), raw.tokens(pad=1, bos=0, eos=2, decoder_start=2), pre=False)


def backbone(raw: Raw, *, learned: bool = True, shared: bool = True) -> list[Rule]:
    """Keys on disk; those of computed positions are known and not needed."""
    rules = [Rule("shared.weight", "encoder.front.token.weight")] if shared else []
    for side in ("encoder", "decoder"):
        disk, ours = f"{side}.layers.*.", f"{side}.stack.layers.*."
        rules += [
            Rule(f"{side}.embed_tokens.weight", f"{side}.front.token.weight", read_only=shared),
            Rule(f"{side}.embed_positions.weight", f"{side}.front.position.weight" if learned else ()),
            *(Rule(f"{side}.{unused}") for unused in ("version", "embed_positions._float_tensor")),
            Rule(f"{side}.layernorm_embedding.@", f"{side}.front.norm.@"),
            Rule(f"{side}.layer_norm.@", f"{side}.stack.norm.@"),
            Rule(f"{disk}fc1.@", f"{ours}ffn.fn.up.@"),
            Rule(f"{disk}fc2.@", f"{ours}ffn.fn.down.@"),
            Rule(f"{disk}final_layer_norm.@", f"{ours}ffn.norm.@"),
        ]
        for theirs, branch in (("self_attn", "attn"), ("encoder_attn", "cross")):
            rules += [Rule(f"{disk}{theirs}.{p}_proj.@", f"{ours}{branch}.fn.{p}.@") for p in ("q", "k", "v", "out")]
            rules.append(Rule(f"{disk}{theirs}_layer_norm.@", f"{ours}{branch}.norm.@"))
    return rules


def heads(raw: Raw, kind: HeadKind) -> list[Rule]:
    bias = Rule("final_logits_bias", "head.out.bias", (Squeeze(),), optional=True)
    return seq2seq_head_rules(kind) + ([bias] if kind == "seq2seq-lm" else [])


def bart_like(
    name: str,
    title: str,
    classes: str,
    config: Callable[[Raw, HeadKind], ModelConfig],
    tiny: dict[str, dict[str, object]],
    *,
    backbone: Callable[[Raw], list[Rule]] = backbone,
    suffixes: tuple[str, ...] = SUFFIXES,
) -> Family:
    """A family that keeps BART's names on disk; `tiny` holds what differs from BART's tiny config."""
    return Family(
        name=name,
        title=title,
        model_types=(name,),
        architectures=architectures(classes, "model.", *suffixes),
        config=config,
        backbone=backbone,
        heads=heads,
        tiny={variant: {**TINY, "model_type": name, **fields} for variant, fields in tiny.items()},
    )


FAMILY = bart_like("bart", "BART", "Bart", config, {"bart": {}, "bart scaled": {"scale_embedding": True}})
