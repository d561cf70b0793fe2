"""Writing about an image: what is in it, and answers to questions about it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from regard.preprocess.text import Tokenizer
from regard.tasks.base import Piece
from regard.tasks.images import SUFFIXES, is_image, picture
from regard.tasks.inputs import Inputs, parts_of, text_of
from regard.tasks.media import MediaOptions, read_media
from regard.tasks.writing import Plan, WritingOptions, WritingTask


@dataclass(frozen=True, kw_only=True)
class CaptionOptions(WritingOptions, MediaOptions):
    """Options of writing and of reading images."""


class ImageToText(WritingTask[CaptionOptions]):
    """[{"generated_text"}] for an image; several with `num_return_sequences`."""

    options = CaptionOptions

    def setup(self) -> None:
        super().setup()
        if not isinstance(self.parts.tokenizer, Tokenizer) or self.model.encoder is None:
            raise ValueError(f"{self.info.name} needs a model that reads an image and writes, such as BLIP")

    def opened(self, inputs: Any) -> Inputs:
        return read_media(inputs, is_image, SUFFIXES)

    def pieces(self, item: Any, options: CaptionOptions) -> list[Piece]:
        piece = picture(item, options.access, self.parts.image_processor, self.model)
        piece.note = Plan(self.lengths(options, 1))
        return [piece]

    def fits(self, pack: Sequence[Piece], piece: Piece, options: CaptionOptions) -> bool:
        shapes = [p.values["pixel_values"].shape for p in (pack[0], piece)]
        room = sum(p.length for p in pack) + piece.length <= self.batch_tokens
        alike = shapes[0] == shapes[1] and len(pack[0].ids) == len(piece.ids)
        return room and alike and super().fits(pack, piece, options)

    def prompts(self, pieces: Sequence[Piece]) -> tuple[Any, ...]:
        return (torch.tensor([piece.ids for piece in pieces], device=self.model.device),) if pieces[0].ids else ()

    def extra(self, pieces: Sequence[Piece]) -> dict[str, Any]:
        return {"pixel_values": torch.cat([piece.values["pixel_values"] for piece in pieces]).to(self.model.device)}

    def finish(self, item: Any, pieces: Sequence[Piece], outputs: Sequence[Any], options: CaptionOptions) -> Any:
        return [{"generated_text": self.text(ids, options).strip()} for ids in outputs[0]]


class VisualQuestionAnswering(ImageToText):
    """[{"answer"}] for {"image", "question"}."""

    def arrange(self, args: tuple[Any, ...], given: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        named = {name: given.pop(name) for name in ("image", "question") if name in given}
        if len(args) == 2 and not named:
            return dict(zip(("image", "question"), args, strict=True)), given
        if len(args) == 1 and list(named) == ["question"]:
            return {"image": args[0], **named}, given
        return (named, given) if named and not args else super().arrange(args, given)

    def pieces(self, item: Any, options: CaptionOptions) -> list[Piece]:
        parts = parts_of(item, ("image", "question"))
        question = text_of(parts["question"], "question")
        (piece,) = super().pieces(parts["image"], options)
        piece.ids = self.tokenizer([question], truncation=options.cuts, max_length=self.longest)["input_ids"][0]
        self.check_length(len(piece.ids), self.longest)
        return [piece]

    def finish(self, item: Any, pieces: Sequence[Piece], outputs: Sequence[Any], options: CaptionOptions) -> Any:
        return [{"answer": self.text(ids, options).strip()} for ids in outputs[0]]
