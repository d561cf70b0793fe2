"""Prompts in which texts and images alternate, as Idefics takes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlparse

import numpy as np
import torch
from torch import Tensor

from .features import Features
from .multimodal import Processor

IMAGE, AROUND, END_OF_TURN = "<image>", "<fake_token_around_image>", "<end_of_utterance>"


class InterleavedProcessor(Processor):
    """A processor of prompts such as ["User:", image, "Describe this image."], or of one text an image."""

    def __call__(
        self,
        inputs: Any = None,
        text: Any = None,
        *,
        images: Any = None,
        audio: Any = None,
        text_kwargs: Mapping[str, Any] | None = None,
        images_kwargs: Mapping[str, Any] | None = None,
        audio_kwargs: Mapping[str, Any] | None = None,
        add_eos_token: bool = False,
        add_end_of_utterance_token: bool = False,
        **options: Any,
    ) -> Features:
        """Process prompts: `text` alone is a list of texts and images, or a list of such lists; with `images`, one
        image or a list of images goes with each text.

        `add_eos_token` ends every text; `add_end_of_utterance_token` parts texts that follow each other. Gives
        input_ids, attention_mask (B, T), pixel_values (B, N, C, H, W), zeros where a prompt has fewer images, and
        image_attention_mask (B, T, N): the image that a token may look at, the last one before it.
        """
        media = self._media(inputs, images, audio)
        if audio_kwargs is not None:
            raise ValueError(f"{self.class_name} takes no audio_kwargs")
        if options.pop("return_tensors", "pt") != "pt":
            raise ValueError(f"{self.class_name}: return_tensors must be 'pt'")
        to_text, to_media = self._route(options, {"text": text_kwargs, "media": images_kwargs})
        prompts = _prompts(text, media)
        texts, pictures = [], []
        for prompt in prompts:
            written, found = self._write(prompt, turns=add_end_of_utterance_token)
            texts.append(written + (self.tokenizer.eos_token if add_eos_token else ""))
            pictures.append(found)
        encoded = self.tokenizer(
            texts, **{"add_special_tokens": False, "padding": "longest", **to_text, "return_tensors": "pt"}
        )
        ids = encoded["input_ids"]
        token = self.tokenizer.convert_tokens_to_ids(IMAGE)
        most = max(1, *(len(found) for found in pictures))
        assert self.image_processor is not None
        pixels = self._pixels(pictures, (ids == token).sum(1).tolist(), most, to_media)
        if any(pictures):
            mask = looks_at(ids, token, self.tokenizer.eos_token_id, most)
        else:
            mask = torch.zeros(*ids.shape, 1, dtype=torch.bool)
        return Features(
            {
                "input_ids": ids,
                "attention_mask": encoded["attention_mask"],
                "pixel_values": pixels,
                "image_attention_mask": mask,
            }
        )

    def _write(self, prompt: Sequence[Any], *, turns: bool) -> tuple[str, list[Any]]:
        """A prompt as text, and its images."""
        text, images = str(self.tokenizer.bos_token), []
        last_was_image = False
        for place, item in enumerate(prompt):
            words = item.strip(" ") if isinstance(item, str) else None
            if words is None or _is_url(words):
                text += ("" if last_was_image else AROUND) + IMAGE + AROUND
                images.append(item if words is None else words)
                last_was_image = True
            else:
                if turns and place and not last_was_image:
                    text += END_OF_TURN
                text += words
                last_was_image = False
        return text, images

    def _pixels(self, pictures: list[list[Any]], kept: list[int], most: int, options: Mapping[str, Any]) -> Tensor:
        """(B, most, C, H, W)."""
        assert self.image_processor is not None
        options = {**options, "return_tensors": "pt"}
        blank = self.image_processor(np.zeros((1, 1, 3), dtype=np.uint8), **options)["pixel_values"]
        out = torch.zeros(len(pictures), most, *blank.shape[1:])
        for row, found in enumerate(pictures):
            found = found[: kept[row]]
            if found:
                out[row, : len(found)] = self.image_processor(found, **options)["pixel_values"]
        return out


def looks_at(ids: Tensor, image: int, end: int | None, images: int) -> Tensor:
    """(B, T) ids -> (B, T, images): 1 at the last image up to each token, none after the end of a text."""
    is_image = ids == image
    last = is_image.cumsum(1) - 1  # (B, T)
    if end is not None:
        place = torch.arange(ids.shape[1], device=ids.device).expand_as(ids)
        latest_image = torch.where(is_image, place, -1).cummax(1).values
        before = torch.where(ids == end, place, -1).roll(1, 1)
        before[:, 0] = -1
        latest_end = before.cummax(1).values
        last = torch.where(latest_end > latest_image, -1, last)
    mask = torch.nn.functional.one_hot(last.clamp(0, images - 1), images)
    return mask * ((last >= 0) & (last < images))[..., None]


def _prompts(text: Any, images: Any) -> list[Sequence[Any]]:
    if text is None:
        raise ValueError("text is missing: pass prompts as text, or images and text")
    if images is None:
        items = [text] if isinstance(text, str) else list(text)
        return items if any(isinstance(item, (list, tuple)) for item in items) else [items]
    images = list(images) if isinstance(images, (list, tuple)) else [images]
    texts = [text] if isinstance(text, str) else list(text)
    if len(texts) != len(images):
        raise ValueError(
            f"{len(texts)} texts for {len(images)} images; give each text its image, or its list of images"
        )
    if not all(isinstance(item, str) for item in texts):
        raise ValueError("text must be strings where images are given by themselves")
    if images and isinstance(images[0], (list, tuple)):
        return [[text, *found] for text, found in zip(texts, images, strict=True)]
    return list(zip(images, texts, strict=True))


def _is_url(text: str) -> bool:
    if " " in text:
        return False
    try:
        parts = urlparse(text)
    except ValueError:
        return False
    return bool(parts.scheme and parts.netloc)
