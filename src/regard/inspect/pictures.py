"""Where a model of images looks: attention weights laid over the picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from regard.config.vision import PatchesConfig
from regard.extras import need
from regard.inspect.capture import capture
from regard.inspect.rollout import rollout
from regard.inspect.written import shown
from regard.models.model import DualEncoder, EncoderDecoder, Model

KINDS = ("self", "rollout")


@dataclass(frozen=True)
class ImageView:
    """How much the class token looks at each patch, (H, rows, columns) of each layer, over an image (3, height, width)
    of 0 to 1, as the model saw it. For models without such a token: all tokens' mean."""

    weights: list[Tensor]
    image: Tensor


def image_attention_of(model: Model, source: Any, *, kind: str = "self") -> ImageView:
    """Attention over an image (a path, bytes, PIL image, array): "self" of every layer, or "rollout" of all as one.

    Raises ValueError for a kind that there is not, or a model that does not look at all patches at once.
    """
    if kind not in KINDS:
        raise ValueError(f"kind is {kind!r}; allowed over an image: {', '.join(KINDS)}")
    processor = getattr(model.processor, "image_processor", model.processor)
    front = next(model.towers()).front.config
    if not isinstance(front, PatchesConfig) or len(front.patch) != 2:
        raise ValueError(f"a {model.architecture} does not read an image in patches; there is nothing to draw")
    pixels = processor(source, return_tensors="pt")["pixel_values"]
    with torch.inference_mode(), capture(model, "attention") as seen:
        values = pixels.to(model.device)
        if isinstance(model, EncoderDecoder):
            model.encode(values)
        else:
            model.get_image_features(values) if isinstance(model, DualEncoder) else model(values)
    grid = (pixels.shape[-2] // front.patch[0], pixels.shape[-1] // front.patch[1])
    first, patches = front.before + front.registers, grid[0] * grid[1]
    weights = [w[0].float().cpu() for w in seen.attention]
    if any(tuple(w.shape[-2:]) != (first + patches + front.after,) * 2 for w in weights):
        raise ValueError(f"a {model.architecture} does not look at all patches at once; there is nothing to draw")
    if kind == "rollout":
        weights = [rollout([w[None] for w in weights])]
    looks = [w[:, 0] if front.before else w.mean(1) for w in weights]  # (H, T)
    maps = [look[:, first : first + patches].unflatten(1, grid) for look in looks]
    return ImageView(maps, shown(pixels[0]))


def image_figure(weights: Sequence[Tensor], image: Tensor, title: str = "") -> Any:
    """A matplotlib figure of maps, one (H, rows, columns) per layer, each laid over the image (3, height, width).

    Raises MissingExtra without matplotlib.
    """
    figures = need("matplotlib.figure", "plot")
    layers, heads = len(weights), weights[0].shape[0]
    side = 6.0 if layers * heads == 1 else 1.8
    figure = figures.Figure(figsize=(heads * side + 0.4, layers * side + 0.6), layout="constrained")
    grid = figure.subplots(layers, heads, squeeze=False)
    picture, (height, width) = image.permute(1, 2, 0).numpy(), image.shape[1:]
    for i, layer in enumerate(weights):
        for j in range(heads):
            axis = grid[i][j]
            axis.imshow(picture)
            axis.imshow(
                layer[j].numpy(), cmap="magma", alpha=0.6, extent=(0, width, height, 0), interpolation="bilinear"
            )
            axis.set_xticks([])
            axis.set_yticks([])
            if i == 0 and heads > 1:
                axis.set_title(f"head {j}", fontsize=7)
            if j == heads - 1 and layers > 1:
                axis.yaxis.set_label_position("right")
                axis.set_ylabel(f"layer {i}", fontsize=7)
    if title:
        figure.suptitle(title if len(title) <= 120 else f"{title[:119]}\u2026", fontsize=9)
    return figure
