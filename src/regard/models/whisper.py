"""Whisper (2212.04356): log-mel frames -> encoder; a decoder with learned positions writes text. Keys have no bias.

Layers and their names on disk are BART's, pre-norm. Every size, with other languages or without, is the same tree.
"""

from __future__ import annotations

import dataclasses

from regard.config import (
    AttentionConfig,
    ClassifierHeadConfig,
    EmbeddingConfig,
    FeaturesHeadConfig,
    HeadConfig,
    InitConfig,
    LanguageHeadConfig,
    LearnedPositions,
    MelConfig,
    MixedStackConfig,
    ModelConfig,
    StackConfig,
    TowerConfig,
    TransformConfig,
)
from regard.models import bart
from regard.models.base import Architecture, Family, HeadKind, Raw, Rule
from regard.models.common import hidden_runs

SIDE = {"layers": 4, "attention_heads": 6, "ffn_dim": 1536}
DEFAULTS = {f"{side}_{name}": size for side in ("encoder", "decoder") for name, size in SIDE.items()} | {"dropout": 0.0}


def _keyless(attention: AttentionConfig | None) -> AttentionConfig | None:
    return None if attention is None else attention.replace(bias=(True, False, True, True))


def stack(raw: Raw, tower: TowerConfig, *, mixed: bool) -> StackConfig:
    """BART's layers without a bias on keys; `mixed` averages all states, as labels may ask for."""
    layers = tuple(
        layer.replace(attention=_keyless(layer.attention), cross=_keyless(layer.cross)) for layer in tower.stack.layers
    )
    kind = MixedStackConfig if mixed else StackConfig
    fields = {field.name: getattr(tower.stack, field.name) for field in dataclasses.fields(StackConfig)}
    return kind(**{**fields, "layers": layers})


def config(raw: Raw, kind: HeadKind) -> ModelConfig:
    raw, labels = raw.over(DEFAULTS), kind == "classification"
    raw.one_of("scale_embedding", (False,), False)
    dim, drop, length = raw.integer("d_model", 384), raw.rate("dropout"), raw.integer("max_target_positions", 448)
    size = raw.integer("vocab_size", 51865)
    text = EmbeddingConfig(vocab_size=size, dim=dim, positions=LearnedPositions(size=length), dropout=drop)
    mel = MelConfig(
        num_mels=raw.integer("num_mel_bins", 80),
        dim=dim,
        size=raw.integer("max_source_positions", 1500),
        dropout=drop,
        hidden_moments=hidden_runs(raw, "time", 0.05, 2, applied=False),
        hidden_channels=hidden_runs(raw, "feature", 0.0, 0, applied=False),
    )
    reader, writer = bart.tower(raw, "encoder", text, pre=True), bart.tower(raw, "decoder", text, pre=True)
    mixed = labels and raw.flag("use_weighted_layer_sum", False)
    head: HeadConfig = LanguageHeadConfig(vocab_size=size) if kind == "seq2seq-lm" else FeaturesHeadConfig()
    if labels:  # the reference projects before it takes the mean: both are linear
        project = TransformConfig(dim=raw.integer("classifier_proj_size", 256))
        head = ClassifierHeadConfig(num_labels=len(raw.labels()), pool="mean", transform=project)
    tied = kind == "seq2seq-lm" and raw.flag("tie_word_embeddings", True)
    return ModelConfig(
        encoder=TowerConfig(front=mel, stack=stack(raw, reader, mixed=mixed)),
        decoder=None if labels else TowerConfig(front=text, stack=stack(raw, writer, mixed=False)),
        head=head,
        tied=(("head.out.weight", "decoder.front.token.weight"),) if tied else (),
        tokens=raw.tokens(pad=50256, bos=50256, eos=50256, decoder_start=50257),
        init=InitConfig(std=raw.number("init_std", 0.02, low=0.0)),
        max_length=None if labels else length,
    )


def backbone(raw: Raw) -> list[Rule]:
    return [
        Rule("encoder.conv1.@", "encoder.front.convs.0.@"),
        Rule("encoder.conv2.@", "encoder.front.convs.1.@"),
        Rule("encoder.embed_positions.weight", "encoder.front.positions"),
        *bart.backbone(raw, shared=False),
    ]


def heads(raw: Raw, kind: HeadKind) -> list[Rule]:
    if kind != "classification":
        return [Rule("proj_out.weight", "head.out.weight")] if kind == "seq2seq-lm" else []
    rules = [Rule("projector.@", "head.transform.dense.@"), Rule("classifier.@", "head.out.@"), Rule("decoder.**")]
    if raw.flag("use_weighted_layer_sum", False):
        rules.append(Rule("layer_weights", "encoder.stack.mix", optional=True))
    return rules


TINY = {"model_type": "whisper", "d_model": 32, "encoder_layers": 2, "decoder_layers": 3, "encoder_ffn_dim": 48}
TINY |= {"decoder_ffn_dim": 40, "encoder_attention_heads": 4, "decoder_attention_heads": 2, "vocab_size": 97}
TINY |= {"num_mel_bins": 6, "max_source_positions": 11, "max_target_positions": 40, "classifier_proj_size": 24}
TINY |= {"pad_token_id": 1, "bos_token_id": 2, "eos_token_id": 1, "decoder_start_token_id": 2}
FAMILY = Family(
    name="whisper",
    title="Whisper",
    model_types=("whisper",),
    architectures={
        "WhisperForConditionalGeneration": Architecture("seq2seq-lm", "model."),
        "WhisperModel": Architecture("features"),
        "WhisperForAudioClassification": Architecture("classification"),
    },
    reads=("sound", "text"),
    config=config,
    backbone=backbone,
    heads=heads,
    tiny={"whisper": TINY, "whisper mixed": {**TINY, "use_weighted_layer_sum": True}},
)
