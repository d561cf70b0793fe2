"""One call from a model and its input to a picture of attention."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from regard.checkpoint.files import atomic
from regard.inspect.capture import capture
from regard.inspect.draw import heads_figure
from regard.models.model import EncoderDecoder, Model


def plot_attention(
    model: Model,
    input_ids: Tensor,
    *,
    path: str | os.PathLike[str],
    rows: Sequence[str] | None = None,
    columns: Sequence[str] | None = None,
    kind: str | None = None,
) -> None:
    """Draw the attention of every layer and head over ids (1, T) to a .png, .svg or .pdf file.

    `kind` is "self" or "cross"; by default cross-attention of what an encoder-decoder writes, self-attention of all
    else. `rows` and `columns` name queries and keys; the model's tokenizer does where there is one. Raises ValueError
    for several sequences or a kind that the model does not have, MissingExtra without matplotlib.
    """
    if input_ids.ndim != 2 or input_ids.shape[0] != 1:
        raise ValueError(f"input_ids has shape {tuple(input_ids.shape)}; allowed: (1, T), one sequence")
    both = isinstance(model, EncoderDecoder)
    kind = ("cross" if both else "self") if kind is None else kind
    if kind not in ("self", "cross") or (kind == "cross" and not both):
        raise ValueError(f"kind is {kind!r}; allowed: {'self, cross' if both else 'self'}")
    queries, keys = input_ids, input_ids
    with torch.inference_mode():
        if kind == "cross":
            queries = model.generate(input_ids)
        with capture(model, "cross_attention" if kind == "cross" else "attention") as seen:
            if both and kind == "self":
                model.encode(input_ids)  # type: ignore[operator]
            elif both:
                model(input_ids, decoder_input_ids=queries)
            else:
                model(input_ids)
    weights = [layer[0] for layer in seen["cross_attention" if kind == "cross" else "attention"]]
    figure = heads_figure(weights, rows or _names(model, queries), columns or _names(model, keys))
    target = Path(path)
    with atomic(target) as temporary:
        figure.savefig(temporary, format=target.suffix.lstrip(".") or "png", dpi=150)


def _names(model: Model, ids: Tensor) -> list[str]:
    tokenizer = getattr(model.processor, "tokenizer", model.processor)
    numbers = ids[0].tolist()
    if hasattr(tokenizer, "convert_ids_to_tokens"):
        return list(tokenizer.convert_ids_to_tokens(numbers))
    return [str(number) for number in numbers]
