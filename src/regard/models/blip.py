"""BLIP (2201.12086): BERT's layers look at an image in between: they write captions, read questions, judge pairs.

A question is read with the image in sight, and the answer is written from that reading alone.
"""

from __future__ import annotations

import dataclasses

from regard.config import (
    Causal,
    ClassifierHeadConfig,
    EmbeddingConfig,
    InitConfig,
    LanguageHeadConfig,
    LearnedPositions,
    ModelConfig,
    StackConfig,
    TokenIds,
    TowerConfig,
    TransformConfig,
)
from regard.config.vision import LookingConfig
from regard.models import _pairs as pairs
from regard.models import bert
from regard.models.base import Architecture, Family, HeadKind, Raw, Rule, Split, Squeeze

TEXT = {"vocab_size": 30524, "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12}
TEXT |= {"num_attention_heads": 8, "max_position_embeddings": 512, "pad_token_id": 0, "bos_token_id": 30522}
TEXT |= {"hidden_dropout_prob": 0, "attention_probs_dropout_prob": 0, "sep_token_id": 102}
VISION: dict[str, float] = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
}
VISION |= {"image_size": 384, "patch_size": 16, "layer_norm_eps": 1e-5}


def stack(raw: Raw, memory_dim: int, *, writes: bool) -> StackConfig:
    """BERT's layers with cross-attention, over the past alone or over all."""
    each = bert.layer(Raw({**raw.data, "is_decoder": False}, raw.where))
    each = each.replace(cross=each.attention, memory_dim=memory_dim)
    layers = (each,) * raw.layers("num_hidden_layers")
    return StackConfig(dim=raw.integer("hidden_size"), layers=layers, mask=Causal() if writes else None)


def _asks(raw: Raw) -> bool:
    """Whether the file's class reads questions."""
    return any(str(name).endswith("ForQuestionAnswering") for name in raw.items("architectures", []))


def config(raw: Raw, kind: HeadKind) -> ModelConfig:
    text, sight = pairs.side(raw, "text", TEXT), pairs.side(raw, "vision", VISION)
    dim, length = text.integer("hidden_size"), text.integer("max_position_embeddings")
    norm = bert.layer(Raw({**text.data, "is_decoder": False}, text.where)).norm
    front = EmbeddingConfig(
        vocab_size=text.integer("vocab_size"),
        dim=dim,
        positions=LearnedPositions(size=length),
        norm=norm,
        dropout=text.rate("hidden_dropout_prob"),
    )
    vision = TowerConfig(front=pairs.patches(sight, before=1), stack=pairs.stack(sight, normed=True))
    looking = LookingConfig(**{f.name: getattr(front, f.name) for f in dataclasses.fields(front)}, vision=vision)
    reader = TowerConfig(front=looking, stack=stack(text, vision.stack.dim, writes=False))
    common = {"init": InitConfig(std=text.number("initializer_range", 0.02, low=0)), "max_length": length}
    if kind == "classification":
        return ModelConfig(encoder=reader, head=ClassifierHeadConfig(num_labels=2), tokens=text.tokens(), **common)
    words = TransformConfig(dim=dim, activation=text.activation("hidden_act", "gelu"), norm=norm)
    encoder = reader if _asks(raw) else vision
    bos = text.id("bos_token_id")
    tied = raw.flag("tie_word_embeddings", True) and text.flag("tie_word_embeddings", True)
    return ModelConfig(
        encoder=encoder,
        decoder=TowerConfig(front=front, stack=stack(text, vision.stack.dim, writes=True)),
        head=LanguageHeadConfig(vocab_size=front.vocab_size, bias=True, transform=words),
        tied=(("head.out.weight", "decoder.front.token.weight"),) if tied else (),
        tokens=TokenIds(pad=text.id("pad_token_id"), bos=bos, eos=text.ids("sep_token_id"), decoder_start=bos),
        **common,
    )


def text_rules(disk: str, ours: str) -> list[Rule]:
    """BERT's keys below `disk`, and those of cross-attention."""
    rules = bert.embedding_rules() + bert.layer_rules()
    cross, fn = "encoder.layer.*.crossattention.", "encoder.stack.layers.*.cross."
    names = [("self.query", "fn.q"), ("self.key", "fn.k"), ("self.value", "fn.v"), ("output.dense", "fn.out")]
    rules += [Rule(f"{cross}{name}.@", f"{fn}{part}.@") for name, part in [*names, ("output.LayerNorm", "norm")]]
    ends = [tuple(key.replace("encoder.", ours, 1) for key in rule.our_keys) for rule in rules]
    return [Rule(f"{disk}{rule.disk_keys[0]}", end) for rule, end in zip(rules, ends, strict=True)]


def vision_rules(ours: str) -> list[Rule]:
    """Keys of the tower that sees; queries, keys and values are one matrix there."""
    disk, layers = "vision_model.encoder.layers.*.", f"{ours}stack.layers.*."
    fused = tuple(f"{layers}attn.fn.{p}.@" for p in "qkv")
    return [
        Rule("vision_model.embeddings.class_embedding", f"{ours}front.before.weight", (Squeeze(),)),
        Rule("vision_model.embeddings.position_embedding", f"{ours}front.position.weight", (Squeeze(),)),
        Rule("vision_model.post_layernorm.@", f"{ours}stack.norm.@"),
        Rule(f"{disk}self_attn.qkv.@", fused, (Split(3),)),
        Rule(f"{disk}self_attn.projection.@", f"{layers}attn.fn.out.@"),
        *(rule for rule in pairs.vision_rules("vision_model.", ours) if ".self_attn." not in rule.disk_keys[0]),
    ]


def backbone(raw: Raw) -> list[Rule]:
    return []


def heads(raw: Raw, kind: HeadKind) -> list[Rule]:
    reading = text_rules("text_encoder.", "encoder.") + vision_rules("encoder.front.vision.")
    if kind == "classification":  # the projections are for another way of judging, by cosine
        return [Rule("itm_head.@", "head.out.@"), *reading, Rule("vision_proj.@"), Rule("text_proj.@")]
    words = "text_decoder.cls.predictions."
    return [
        *(reading if _asks(raw) else vision_rules("encoder.")),
        *text_rules("text_decoder.bert.", "decoder."),
        Rule(f"{words}transform.dense.@", "head.transform.dense.@"),
        Rule(f"{words}transform.LayerNorm.@", "head.transform.norm.@"),
        Rule(f"{words}bias", "head.out.bias"),
        Rule(f"{words}decoder.bias", "head.out.bias", read_only=True),
        Rule(f"{words}decoder.weight", "head.out.weight"),
    ]


SIDE = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
WORDS = SIDE | {"vocab_size": 97, "max_position_embeddings": 24, "bos_token_id": 3, "eos_token_id": 2}
WORDS |= {"sep_token_id": 5, "pad_token_id": 0}
LOOKS = SIDE | {"image_size": 32, "patch_size": 8}
FAMILY = Family(
    name="blip",
    title="BLIP",
    model_types=("blip",),
    architectures={
        "BlipForConditionalGeneration": Architecture("seq2seq-lm"),
        "BlipForQuestionAnswering": Architecture("seq2seq-lm"),
        "BlipForImageTextRetrieval": Architecture("classification"),
    },
    reads=("image", "text"),
    config=config,
    backbone=backbone,
    heads=heads,
    tiny={"blip": {"model_type": "blip", "text_config": WORDS, "vision_config": LOOKS}},
)
