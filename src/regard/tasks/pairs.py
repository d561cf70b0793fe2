"""Images and texts in one space: labels of one's own for an image, and finding images by words or by an image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from regard.config.vision import ContrastiveHeadConfig
from regard.models.model import DualEncoder, Model
from regard.tasks.base import Piece
from regard.tasks.classification import filled, label_names
from regard.tasks.images import ImageOptions, ImageTask
from regard.tasks.progress import Meter
from regard.tasks.writing import reach


def text_vectors(model: Model, tokenizer: Any, texts: Sequence[str]) -> Tensor:
    """One vector for each text, (N, D), not normed. Raises ValueError for a model that reads no text beside images, or
    a text that is too long for it."""
    if not isinstance(model, DualEncoder) or tokenizer is None:
        raise ValueError(f"a {model.architecture} reads images alone; words need a model of images and texts")
    head = model.config.head
    assert isinstance(head, ContrastiveHeadConfig)
    limit = reach(model.text) or tokenizer.model_max_length
    fixed = getattr(head.text, "token", None) == "last"  # trained on texts of one length, all of it seen
    how: dict[str, Any] = {"padding": "max_length", "max_length": limit, "truncation": True} if fixed else {}
    longest = max(len(ids) for ids in tokenizer(list(texts))["input_ids"])
    if longest > limit:
        raise ValueError(f"a text has {longest} tokens; this model takes at most {limit}")
    found = tokenizer(list(texts), return_tensors="pt", **{"padding": True, **how})
    names = ("input_ids",) if fixed else ("input_ids", "attention_mask")
    named = {name: found[name].to(model.device) for name in names}
    with torch.no_grad():
        return model.get_text_features(**named)


@dataclass(frozen=True, kw_only=True)
class ZeroShotImageOptions(ImageOptions):
    """`candidate_labels`: a list, or names with commas between; each is put into `hypothesis_template`."""

    candidate_labels: str | tuple[str, ...] = ()
    hypothesis_template: str = "This is a photo of {}."


class ZeroShotImageClassification(ImageTask[ZeroShotImageOptions]):
    """[{"score", "label"}] for an image, best first: how well "This is a photo of <label>." goes with it (2103.00020).

    Scores are 1 together, or each by itself where the model was trained so (2303.15343).
    """

    options = ZeroShotImageOptions

    def setup(self) -> None:
        if not isinstance(self.model, DualEncoder):
            name = self.model.name or "this model"
            raise ValueError(f"{self.info.name} needs a model of images and texts, such as CLIP; {name} is none")
        self.known: tuple[list[str], Tensor] | None = None

    def arrange(self, args: tuple[Any, ...], given: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        if len(args) == 2 and "candidate_labels" not in given:
            return args[0], {**given, "candidate_labels": args[1]}
        return super().arrange(args, given)

    def texts(self, options: ZeroShotImageOptions) -> Tensor:
        """The vectors of the labels' sentences, (N, D); the last ones asked for are kept."""
        made = filled(options.hypothesis_template, label_names(options.candidate_labels))
        if self.known is None or self.known[0] != made:
            self.known = made, text_vectors(self.model, self.parts.tokenizer, made)
        return self.known[1]

    def pieces(self, item: Any, options: ZeroShotImageOptions) -> list[Piece]:
        self.texts(options)
        return super().pieces(item, options)

    def run(self, pieces: Sequence[Piece], options: ZeroShotImageOptions, meter: Meter) -> list[Tensor]:
        assert isinstance(self.model, DualEncoder)
        images = self.model.get_image_features(**self.inputs(pieces))
        return list(self.model.head(images, self.texts(options))["logits_per_image"].float().cpu())

    def finish(
        self, item: Any, pieces: Sequence[Piece], outputs: Sequence[Tensor], options: ZeroShotImageOptions
    ) -> list[dict[str, Any]]:
        head = self.model.config.head
        alone = isinstance(head, ContrastiveHeadConfig) and head.bias
        scores = (outputs[0].sigmoid() if alone else outputs[0].softmax(0)).tolist()
        pairs = sorted(zip(scores, label_names(options.candidate_labels), strict=True), key=lambda pair: -pair[0])
        return [{"score": score, "label": label} for score, label in pairs]
