"""Attention of a model over a text, with the tokens that rows and columns stand for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from regard.front import load
from regard.inspect.capture import capture
from regard.inspect.rollout import rollout
from regard.models.model import DualEncoder, EncoderDecoder, Model

KINDS = ("self", "cross", "rollout")


@dataclass(frozen=True)
class View:
    """Weights (H, rows, columns) of each layer, and the tokens along both sides."""

    weights: list[Tensor]
    rows: list[str]
    columns: list[str]


def attention_of(ref: str | Model, text: str, *, kind: str = "self", target: str | None = None) -> View:
    """Attention over `text`: "self" of every layer, "cross" from output to input, or "rollout" of all layers as one.

    For encoder-decoder models "self" is the encoder's; `target` is the output text, written by the model if None.
    Raises ValueError for a kind that the model does not have, or a checkpoint without a tokenizer.
    """
    if kind not in KINDS:
        raise ValueError(f"kind is {kind!r}; allowed: {', '.join(KINDS)}")
    model = load(ref) if isinstance(ref, str) else ref
    tokenizer = getattr(model.processor, "tokenizer", model.processor)
    if not hasattr(tokenizer, "convert_ids_to_tokens"):
        raise ValueError(f"{model.name or 'this model'} has no tokenizer; drawing attention over a text needs one")
    if not text:
        raise ValueError("text is empty; give some words to look at")
    inputs = tokenizer(text, return_tensors="pt")
    tokens = tokenizer.convert_ids_to_tokens(inputs["input_ids"][0].tolist())
    if kind == "cross":
        return _cross(model, inputs, tokens, target)
    with torch.inference_mode(), capture(model, "attention") as seen:
        if isinstance(model, EncoderDecoder):
            model.encode(inputs["input_ids"], inputs["attention_mask"])
        elif isinstance(model, DualEncoder):
            model.get_text_features(**_known(inputs))
        else:
            model(**_known(inputs))
    if kind == "rollout":
        return View([rollout(seen.attention)], tokens, tokens)
    return View([w[0] for w in seen.attention], tokens, tokens)


def _cross(model: Model, inputs: Any, columns: list[str], target: str | None) -> View:
    if not isinstance(model, EncoderDecoder):
        raise ValueError(f"kind is 'cross', but a {model.architecture} has no cross-attention; use 'self'")
    if target is None:
        ids = model.generate(inputs["input_ids"], inputs["attention_mask"])[:1]
    else:
        ids = model.processor(text_target=target, return_tensors="pt")["input_ids"]
        start = model.config.tokens.decoder_start
        ids = torch.cat([ids.new_tensor([[ids[0, -1] if start is None else start]]), ids], 1)
    with torch.inference_mode(), capture(model, "cross_attention") as seen:
        model(inputs["input_ids"], inputs["attention_mask"], decoder_input_ids=ids)
    return View([w[0] for w in seen.cross_attention], model.processor.convert_ids_to_tokens(ids[0].tolist()), columns)


def _known(inputs: Any) -> dict[str, Tensor]:
    return {name: inputs[name] for name in ("input_ids", "attention_mask", "token_type_ids") if name in inputs}
