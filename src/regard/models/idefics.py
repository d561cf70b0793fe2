"""Flamingo (2204.14198), as IDEFICS rebuilt it: between a language model's layers, gated ones look at images.

Any number of images may stand among the words; a perceiver makes a few vectors of each.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from regard.config import LayerConfig, ModelConfig
from regard.models import clip, llama
from regard.models._beside import ImagesBesideConfig
from regard.models._perceiver import ScaledPatchesConfig, Stacked, resampler, resampler_rules
from regard.models.base import Architecture, Family, HeadKind, Raw, Rule, Squeeze
from regard.models.common import head_dim

TEXT = {"vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32}
TEXT |= {"num_attention_heads": 32, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
VISION: dict[str, Any] = {"embed_dim": 768, "image_size": 224, "intermediate_size": 5120, "patch_size": 14}
VISION |= {"num_hidden_layers": 32, "num_attention_heads": 16, "layer_norm_eps": 1e-5}


def parts(raw: Raw) -> tuple[Raw, Raw, Raw]:
    """The configs of the language model, with the words added, of the side that sees, and of the perceiver."""
    raw, vision = raw.over(TEXT), raw.sub("vision_config").over(VISION)
    words = raw.integer("vocab_size") + raw.integer("additional_vocab_size", 0, low=0)
    vision = Raw({**vision.data, "hidden_size": vision.integer("embed_dim")}, vision.where)
    return Raw({**raw.data, "vocab_size": words}, raw.where), vision, raw.sub("perceiver_config")


def schedule(raw: Raw) -> tuple[int, ...]:
    """The order of all layers, those that look at images counted after the others: one before every few of them."""
    count, interval = raw.layers("num_hidden_layers"), raw.layers("cross_layer_interval", 1)
    if count % interval:
        raise ValueError(f"{raw.where}: cross_layer_interval is {interval}; allowed: a divisor of {count} layers")
    return tuple(n for i in range(count) for n in ([i] if i % interval else [count + i // interval, i]))


def config(raw: Raw, kind: HeadKind) -> ModelConfig:
    text, sight, perceiver = parts(raw)
    dim, heads, drop = text.integer("hidden_size"), text.integer("num_attention_heads"), text.rate("dropout")
    head_dim(text, dim, heads)
    plain = llama.layer(text, llama.attention(text).replace(dropout=drop)).replace(dropout=drop)
    assert plain.attention is not None
    norms = plain.norm if text.flag("qk_layer_norms", False) else None
    vector = text.one_of("alpha_type", ("float", "vector"), "float") == "vector"
    open_gate = text.one_of("alpha_initializer", ("zeros", "ones", "normal", "gaussian", "random"), "zeros") == "ones"
    gated: LayerConfig = plain.replace(
        attention=None,
        cross=plain.attention.replace(rope=None, qk_norm=norms),
        scale="tanh_layer" if vector else "tanh",
        scale_init=float(open_gate),
        memory_dim=sight.integer("hidden_size"),
    )
    order = schedule(text)
    count = text.layers("num_hidden_layers")
    model = llama.decoder(text, kind, (plain,) * count + (gated,) * (len(order) - count))
    vision = clip.vision_tower(sight)
    patches = {f.name: getattr(vision.front, f.name) for f in dataclasses.fields(vision.front)}
    assert model.decoder is not None
    front = ImagesBesideConfig(
        **{f.name: getattr(model.decoder.front, f.name) for f in dataclasses.fields(model.decoder.front)},
        vision=vision.replace(front=ScaledPatchesConfig(**patches)),
        resampler=resampler(perceiver, vision.stack.dim) if text.flag("use_resampler", False) else None,
    )
    stack = model.decoder.stack.replace(schedule=order)
    return model.replace(decoder=model.decoder.replace(front=front, stack=stack))


def _words(raw: Raw, disk: tuple[str, str], ours: str) -> Rule:
    """A table of words; those added later have one of their own."""
    raw = raw.over(TEXT)
    sizes = raw.integer("vocab_size"), raw.integer("additional_vocab_size", 0, low=0)
    return Rule(disk, ours, (Stacked(sizes),)) if sizes[1] else Rule(disk[0], ours)


def backbone(raw: Raw) -> list[Rule]:
    text, _, _ = parts(raw)
    words = _words(
        raw, ("embed_tokens.weight", "embed_tokens.additional_embedding.weight"), "decoder.front.token.weight"
    )
    layer = {
        "input_layernorm": "cross.norm",
        "post_attention_layernorm": "ffn.norm",
        "cross_attn.o_proj": "cross.fn.out",
    }
    layer |= {f"cross_attn.{p}_proj": f"cross.fn.{p}" for p in "qkv"}
    layer |= {f"cross_attn.{p}_layer_norm": f"cross.fn.{p}_norm" for p in "qk"}
    layer |= {f"mlp.{p}_proj": f"ffn.fn.{p}" for p in ("gate", "up", "down")}
    rules = [words, *resampler_rules(), *clip.vision_rules("vision_model.", "decoder.front.vision.", "")]
    count = text.layers("num_hidden_layers")
    for number in schedule(text):  # before the rules of plain layers, whose numbers would fit as well
        if number >= count:
            disk, ours = f"gated_cross_attn_layers.{number - count}.", f"decoder.stack.layers.{number}."
            gates = [("alpha_cross_attn", "cross"), ("alpha_dense", "ffn")]
            ops = (Squeeze(), Squeeze()) if text.text("alpha_type", "float") == "vector" else ()
            rules += [Rule(f"{disk}{name}", f"{ours}{part}.scale.weight", ops) for name, part in gates]
            rules += [Rule(f"{disk}{name}.weight", f"{ours}{part}.weight") for name, part in layer.items()]
    rules += [Rule("gated_cross_attn_layers.*.cross_attn.rotary_emb.inv_freq")]
    rules += [rule for rule in llama.backbone(raw) if rule.disk_keys[0] != "embed_tokens.weight"]
    return rules


def heads(raw: Raw, kind: HeadKind) -> list[Rule]:
    words = _words(raw, ("lm_head.weight", "lm_head.additional_fc.weight"), "head.out.weight")
    return [words] if kind == "causal-lm" else []


SIGHT = {"embed_dim": 40, "image_size": 32, "patch_size": 8, "num_hidden_layers": 2, "num_attention_heads": 4}
SIGHT |= {"intermediate_size": 48}
FEW = {"resampler_n_latents": 3, "resampler_depth": 2, "resampler_n_heads": 3, "resampler_head_dim": 8}
TINY = {**llama.TINY, "model_type": "idefics", "num_hidden_layers": 4, "additional_vocab_size": 2}
TINY |= {"vision_config": SIGHT, "use_resampler": True, "perceiver_config": {**FEW, "qk_layer_norms_perceiver": True}}
TINY |= {"cross_layer_interval": 2, "qk_layer_norms": True, "alpha_type": "vector"}
del TINY["num_key_value_heads"]
OTHER = {**TINY, "use_resampler": False, "cross_layer_interval": 1, "qk_layer_norms": False, "alpha_type": "float"}
FAMILY = Family(
    name="idefics",
    title="Flamingo (IDEFICS)",
    model_types=("idefics",),
    architectures={
        "IdeficsForVisionText2Text": Architecture("causal-lm", "model."),
        "IdeficsModel": Architecture("features"),
    },
    reads=("image", "text"),
    config=config,
    backbone=backbone,
    heads=heads,
    tiny={
        "idefics": TINY,
        "idefics plain": {**OTHER, "additional_vocab_size": 0},
        "idefics tied": {**OTHER, "tie_word_embeddings": True, "perceiver_config": FEW, "use_resampler": True},
    },
)
