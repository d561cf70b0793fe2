"""Inputs of other senses than text, as data: what a reference model with given sizes can read."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor

from tests.models import oracle

# Outputs that the reference calls by other names in one class than in all the others: its own to ours.
OUR_NAMES = {
    "BlipForConditionalGeneration": {"logits": "logits", "last_hidden_state": "encoder_last_hidden_state"},
    "BlipForImageTextRetrieval": {"itm_score": "logits", "question_embeds": "last_hidden_state"},
}


# The reference's class for questions has no logits to compare: test_blip.py compares what it writes.
WRITTEN = {"BlipForQuestionAnswering"}


def inputs(theirs: Any, *, other: bool = False) -> dict[str, Any]:
    """Random input by name for all that a reference model reads; `other`: images of another size than trained."""
    draw = torch.Generator().manual_seed(3)
    found: dict[str, Any] = {}
    senses = oracle.reads(type(theirs).__name__)
    if senses & {"image", "video"}:
        # The reference calls one family's videos images.
        found["pixel_values"] = pixels(theirs, draw, video=hasattr(theirs.config, "num_frames"), other=other)
        if other and "interpolate_pos_encoding" in inspect.signature(_sees(theirs).forward).parameters:
            found["interpolate_pos_encoding"] = True
    if "text" in senses:
        rows = 3 if hasattr(theirs, "logit_scale") else 2  # only pairs by pairs may differ in number
        found["input_ids"] = torch.stack(oracle.random_words(theirs, (9,) * rows))
    if hasattr(theirs.config, "image_token_id"):
        found["input_ids"] = with_images(theirs, found["input_ids"][:2])
    if hasattr(theirs.config, "cross_layer_interval"):
        found |= beside(theirs, found, draw)
    return found


def beside(theirs: Any, found: dict[str, Any], draw: torch.Generator) -> dict[str, Any]:
    """Three images for each row (2, T), and which of them each word sees: none, one or several; some words added."""
    ids, seen = found["input_ids"], torch.rand(*found["input_ids"].shape, 3, generator=draw) < 0.4
    assert {0, 1, 2} <= set(seen.sum(-1).flatten().tolist())
    ids[:, 1 : 1 + theirs.config.additional_vocab_size] = theirs.config.vocab_size
    ids[:, 3] += theirs.config.additional_vocab_size // 2
    images = torch.stack([found["pixel_values"].roll(i, -1) + i for i in range(3)], 1)
    return {"input_ids": ids, "pixel_values": images, "image_attention_mask": seen.long()}


def with_images(theirs: Any, ids: Tensor) -> Tensor:
    """Ids (B, T) with one image in each row, after two words."""
    places = (theirs.config.vision_config.image_size // theirs.config.vision_config.patch_size) ** 2
    image = ids.new_full((len(ids), places), theirs.config.image_token_id)
    ids = torch.where(ids == theirs.config.image_token_id, 7, ids)
    return torch.cat([ids[:, :2], image, ids[:, 2:]], 1)


def _sees(theirs: Any) -> Any:
    """The part that takes images: the model itself, or its innermost base."""
    base = getattr(theirs, theirs.base_model_prefix, theirs)
    return getattr(base, "vision_model", base)


def pixels(theirs: Any, draw: torch.Generator, *, video: bool, other: bool) -> Tensor:
    """(2, channels, height, width), or (2, frames, channels, height, width)."""
    config = getattr(theirs.config, "vision_config", theirs.config)
    size, patch = getattr(config, "image_size", 64), getattr(config, "patch_size", 8)  # some take any size
    height, width = (size, size) if isinstance(size, int) else size
    if other:  # wider and lower, and no whole number of patches
        height, width = height - patch, width + 2 * patch + 3
    frames = (config.num_frames,) if video else ()
    return torch.randn(2, *frames, getattr(config, "num_channels", 3), height, width, generator=draw)


@torch.no_grad()
def outputs(model: Any, given: dict[str, Any]) -> dict[str, Tensor]:
    """All tensors that a model of either library gives."""
    found = {name: value for name, value in model(**given).items() if isinstance(value, Tensor)}
    found.pop("image_hidden_states", None)  # an inner state, which the reference shows here
    names = OUR_NAMES.get(type(model).__name__)
    return found if names is None else {ours: found[name] for name, ours in names.items()}


def compare(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> float:
    """The worst difference of scale; each of the reference's outputs must be there, and be the same."""
    assert theirs and set(theirs) <= set(ours), (sorted(theirs), sorted(ours))
    return max(oracle.close(ours[name], value) for name, value in theirs.items())
