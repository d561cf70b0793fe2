"""What a writer looked at for each word: cross-attention to the sound or image that it wrote about."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from regard.config.vision import PatchesConfig
from regard.inspect.capture import capture
from regard.models.model import EncoderDecoder, Memory, Model
from regard.preprocess.audio_stream import MelFrames, Recording


@dataclass(frozen=True, kw_only=True)
class Written:
    """Weights of each layer, (H, tokens, ...): where the decoder looked as it was to write each of `tokens`.

    `words` says which tokens make up each word, and how it reads.
    """

    weights: list[Tensor]
    tokens: list[str]
    words: list[tuple[str, list[int]]]

    def mean(self, heads: Sequence[tuple[int, int]]) -> Tensor:
        """(words, ...), the mean over (layer, head) pairs and over the tokens of each word."""
        tokens = torch.stack([self.weights[layer][head] for layer, head in heads]).mean(0)
        return torch.stack([tokens[where].mean(0) for _, where in self.words])

    def all_heads(self) -> list[tuple[int, int]]:
        """Every (layer, head)."""
        return [(i, h) for i, layer in enumerate(self.weights) for h in range(layer.shape[0])]


@dataclass(frozen=True, kw_only=True)
class SoundWritten(Written):
    """Over sound: (H, tokens, moments), each moment `step` seconds long; `samples` at `rate` Hz is what was heard.

    `aligned` are the (layer, head) pairs that follow the sound: those that the checkpoint names, or all of the upper
    half of the layers. `cut` says that the recording goes on beyond the window.
    """

    step: float
    samples: np.ndarray
    rate: int
    aligned: list[tuple[int, int]]
    cut: bool


@dataclass(frozen=True, kw_only=True)
class ImageWritten(Written):
    """Over an image: (H, tokens, rows, columns) of patches, over an image (3, height, width) of 0 to 1 as it was seen.

    Weights that went to no patch, but to the class token, are left out.
    """

    image: Tensor


def hears(model: Model) -> bool:
    """Whether a model writes about sound."""
    part = getattr(model.processor, "feature_extractor", None)
    return part is not None and isinstance(model, EncoderDecoder)


def captions(model: Model) -> bool:
    """Whether a model writes about an image that it sees in patches."""
    return isinstance(model, EncoderDecoder) and isinstance(model.encoder.front.config, PatchesConfig)


def sound_written(model: Model, source: Any, *, target: str | None = None) -> SoundWritten:
    """Where a model that hears looked as it wrote about a recording (its first window), or about `target`, a text.

    `source` is what speech recognition takes. Raises ValueError for a model that writes nothing about sound.
    """
    if not hears(model):
        raise ValueError(f"a {model.architecture} writes nothing about sound; there is nothing to draw")
    from regard.tasks.pipeline import pipeline

    task: Any = pipeline("automatic-speech-recognition", model)
    whole = task.recording(source, task.read({}))
    samples = next(iter(whole.blocks())) if whole.samples is None else whole.samples
    ears, marks = task.feature_extractor, task.marks
    heard = Recording(whole.name, whole.rate, samples[: ears.n_samples], None, ())
    frames = MelFrames(heard, ears)
    (said,) = task.transcriber([frames], task.manner(task.read({})))
    language = said[0].language if said else marks.usual_language
    if target is None:
        ids = [token for part in said for token in part.tokens if token < marks.end]
    else:
        ids = task.parts.tokenizer(f" {target.strip()}", add_special_tokens=False)["input_ids"]
    if not ids:
        raise ValueError(f"{whole.name}: nothing was heard in it, so there are no words to look from; give target=")
    memory = _encoded(model, input_features=frames.read(0)[None])
    moments = max(1, -(-frames.total // 2))
    rows = _looks(model, memory, marks.prefix(language, marks.job(None), timed=False), ids)
    return SoundWritten(
        weights=[layer[..., :moments] for layer in rows],
        **_named(task.parts.tokenizer, ids),
        step=marks.precision,
        samples=heard.samples if heard.samples is not None else samples,
        rate=heard.rate,
        aligned=[(int(layer), int(head)) for layer, head in task.transcriber.heads],
        cut=whole.samples is None or len(samples) > ears.n_samples,
    )


def image_written(model: Model, source: Any, *, target: str | None = None) -> ImageWritten:
    """Where a model that captions looked as it wrote about an image (a path, bytes, PIL image, array), or `target`.

    Raises ValueError for a model that writes nothing about images, or does not see them in patches.
    """
    if not captions(model):
        raise ValueError(f"a {model.architecture} writes nothing about an image in patches; there is nothing to draw")
    front: Any = model.encoder.front.config  # type: ignore[union-attr]
    tokenizer, start = model.processor.tokenizer, model.config.tokens.decoder_start
    pixels = model.processor.image_processor(source, return_tensors="pt")["pixel_values"]
    memory = _encoded(model, pixel_values=pixels)
    if target is None:
        with torch.inference_mode():
            ids = model.generate(encoder_outputs=memory)[0, 1:].tolist()
        ends = [ids.index(end) for end in model.config.tokens.eos if end in ids]
        ids = ids[: min(ends, default=len(ids))]
    else:
        ids = tokenizer(target, add_special_tokens=False)["input_ids"]
    if not ids:
        raise ValueError("no word was written about the image, so there is nothing to draw; give target=")
    assert start is not None
    grid = (pixels.shape[-2] // front.patch[0], pixels.shape[-1] // front.patch[1])
    first, patches = front.before + front.registers, grid[0] * grid[1]
    rows = _looks(model, memory, [start], ids)
    if rows[0].shape[-1] != first + patches + front.after:
        raise ValueError(f"a {model.architecture} does not look at all patches at once; there is nothing to draw")
    return ImageWritten(
        weights=[layer[..., first : first + patches].unflatten(-1, grid) for layer in rows],
        **_named(tokenizer, ids),
        image=shown(pixels[0]),
    )


def shown(pixels: Tensor) -> Tensor:
    """Pixel values (channels, height, width) as a picture (3, height, width) of 0 to 1."""
    found = pixels.float()
    found = found.expand(3, -1, -1) if found.shape[0] == 1 else found[:3]
    return (found - found.min()) / (found.max() - found.min()).clamp(min=1e-6)


def _encoded(model: Model, **values: Tensor) -> Memory:
    assert isinstance(model, EncoderDecoder)
    with torch.inference_mode():
        return model.encode(**{name: value.to(model.device) for name, value in values.items()}).padded()


def _looks(model: Model, memory: Memory, prefix: Sequence[int], ids: Sequence[int]) -> list[Tensor]:
    """(H, tokens, S) of each layer: row i is where the decoder looked when `ids[i]` was to come."""
    assert isinstance(model, EncoderDecoder)
    history = torch.tensor([[*prefix, *ids[:-1]]], device=model.device)
    with torch.inference_mode(), capture(model.decoder, "cross_attention") as seen:
        model.hidden(history, memory)
    return [layer[0, :, len(prefix) - 1 :].float().cpu() for layer in seen.cross_attention]


def _named(tokenizer: Any, ids: Sequence[int]) -> dict[str, Any]:
    """Tokens as text, and how they make up words: those that do not begin with a space go with the one before."""
    tokens, words = [], list[tuple[str, list[int]]]()
    before = ""
    for i in range(len(ids)):
        whole = tokenizer.decode(ids[: i + 1], skip_special_tokens=True, clean_up_tokenization_spaces=False)
        grown = whole.startswith(before)
        text = whole[len(before) :] if grown else ""
        tokens.append(text)
        if not words or (text[:1].isspace() and text.strip()):
            words.append((text, [i]))
        else:
            words[-1] = (words[-1][0] + text, [*words[-1][1], i])
        before = whole
    return {"tokens": tokens, "words": [(text.strip(), where) for text, where in words]}


def chosen(found: Written, layer: int | None, head: int | None, usual: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """The (layer, head) pairs of a choice; `usual` where nothing is chosen. ValueError for one that there is not."""
    layers, heads = len(found.weights), found.weights[0].shape[0]
    for name, index, count in (("layer", layer, layers), ("head", head, heads)):
        if index is not None and not 0 <= index < count:
            raise ValueError(f"{name} is {index}; this model has {name}s 0 to {count - 1}")
    if layer is None and head is None:
        return usual
    return [(i, h) for i, h in found.all_heads() if layer in (None, i) and head in (None, h)]
