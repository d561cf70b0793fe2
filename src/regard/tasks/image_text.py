"""Conversations about images: text and images in, text out."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from regard.preprocess.image_read import load
from regard.preprocess.media import is_source
from regard.preprocess.multimodal import Processor
from regard.tasks.base import Piece
from regard.tasks.generation import goes_on, is_chat, until
from regard.tasks.images import is_image
from regard.tasks.inputs import Inputs, parts_of, text_of
from regard.tasks.media import MediaOptions, reading
from regard.tasks.options import TaskOptions
from regard.tasks.writing import WritingOptions, WritingTask

SOURCES = ("image", "url", "path", "base64")
"""The names under which a part of a message may hold its image."""


@dataclass(frozen=True, kw_only=True)
class ImageTextOptions(WritingOptions, MediaOptions):
    """`return_full_text` (unless False) includes the prompt. In a conversation `continue_final_message` writes on the
    last message; unsaid, where it is the assistant's. Options of `generate` may stand within `generate_kwargs` too."""

    return_full_text: bool | None = None
    continue_final_message: bool | None = None
    skip_special_tokens: bool = True

    def check(self) -> None:
        super().check()
        self.require(not self.cuts, "truncation", "None or False, since cutting would drop parts of images")


@dataclass(frozen=True)
class Batch:
    """Texts of one call with the images that go with each; their results come as one flat list."""

    items: list[dict[str, Any]]


class ImageTextToText(WritingTask[ImageTextOptions]):
    """[{"input_text", "generated_text"}] for a text with its images, or for a conversation in which they stand.

    `pipe(images, text)`: one image or a list, in the order of their places in the text. A conversation is a list of
    {"role", "content"} whose content has parts {"type": "text", "text"} and {"type": "image", "path" or "url" or
    "image"}; its generated text is the conversation, one message longer. Up to 256 tokens unless said.
    """

    options: ClassVar[type[TaskOptions]] = ImageTextOptions
    fallback: ClassVar[Mapping[str, Any]] = {"max_new_tokens": 256}

    def setup(self) -> None:
        super().setup()
        if not isinstance(self.parts.processor, Processor):
            raise ValueError(f"{self.info.name} needs a processor that joins images and text, such as LLaVA's")

    @property
    def processor(self) -> Processor:
        """What turns text and images into the model's input."""
        found: Processor = self.parts.processor
        return found

    def read(self, given: Mapping[str, Any]) -> ImageTextOptions:
        given = dict(given)
        nested = given.pop("generate_kwargs", None)
        if nested is not None and not isinstance(nested, Mapping):
            raise ValueError(f"generate_kwargs is {nested!r:.80}; allowed: a mapping of options")
        return super().read({**given, **(nested or {})})

    # what is asked

    def arrange(self, args: tuple[Any, ...], given: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        given = dict(given)
        if "image" in given:
            given["images"] = given.pop("image")
        if len(args) > 2 or (args and "images" in given) or (len(args) == 2 and "text" in given):
            raise ValueError(f"{self.info.name} takes images and a text, or a conversation; they are given twice")
        images = args[0] if args else given.pop("images", None)
        text = args[1] if len(args) == 2 else given.pop("text", None)
        if text is None:
            if images is None:
                raise ValueError(f"{self.info.name} takes images and a text, or a conversation; neither is given")
            if is_source(images) or is_image(images) or not _are_items(images):
                raise ValueError("text is missing; say what to write about the image, such as text='What is this?'")
            return images, given
        if images is None:
            return text, given
        if _is_conversation(text):
            raise ValueError('images and a conversation are given; put them inside: {"type": "image", "path": ...}')
        if isinstance(text, (list, tuple)):
            return Batch(self._shared(images, list(text))), given
        return {"images": images, "text": text}, given

    def _shared(self, images: Any, texts: list[Any]) -> list[dict[str, Any]]:
        """Each text of a list with its images: one list each, or one after the other as the texts have places."""
        images = list(images) if isinstance(images, (list, tuple)) else [images]
        if any(isinstance(entry, (list, tuple)) for entry in images) or not self.processor.kind.expands:
            if len(images) != len(texts):
                raise ValueError(f"images has {len(images)} entries for {len(texts)} texts; allowed: one for each")
            return [{"images": found, "text": text} for found, text in zip(images, texts, strict=True)]
        counts = [text_of(text).count(self.processor.image_token) for text in texts]
        self._check_places(sum(counts), len(images), "texts have")
        rest = iter(images)
        return [
            {"images": [next(rest) for _ in range(count)], "text": text}
            for count, text in zip(counts, texts, strict=True)
        ]

    def _check_places(self, places: int, images: int, what: str) -> None:
        if places != images:
            token = self.processor.image_token
            raise ValueError(f"the {what} {places} {token} places for {images} images; write {token} where each stands")

    def opened(self, inputs: Any) -> Inputs:
        if isinstance(inputs, Batch):
            return Inputs(inputs.items, "list", len(inputs.items))
        if isinstance(inputs, (str, dict)) or (is_chat(inputs) and "role" in inputs[0]):
            return Inputs([inputs], "one", 1)
        if isinstance(inputs, (list, tuple)):
            return Inputs(inputs, "list", len(inputs))
        if not hasattr(inputs, "__iter__"):
            return Inputs([inputs], "one", 1)
        return Inputs(inputs, "lazy", len(inputs) if hasattr(inputs, "__len__") else None)

    def from_words(self, words: Sequence[str]) -> Any:
        """Names of images, and last what is asked about them. Where the model has a template, a question that shows no
        place for an image is asked as a user would ask it."""
        *images, text = words
        if not images and os.path.isfile(text):
            raise ValueError(
                f"{text!r} is an image without a question; try: regard run {self.info.name} {text} 'What?'"
            )
        bare = self.processor.kind.expands and self.processor.image_token not in text
        if not bare or not self.processor.tokenizer.chat_template:
            return {"images": images, "text": text}
        return [user_message(text, images)]

    # what the model reads

    def pieces(self, item: Any, options: ImageTextOptions) -> list[Piece]:
        if is_chat(item):
            check_messages(item)
            asked = options.continue_final_message
            text = conversation(self.processor, item, goes_on=goes_on(item, asked))
            images = [source for message in item for source in pictures_of(message)]
        elif isinstance(item, str):
            text, images = text_of(item), []
        else:
            item = {("images" if name == "image" else name): value for name, value in item.items()}
            found = parts_of(item, ("images", "text"))
            text, images = text_of(found["text"]), _flat(found["images"])
        if self.processor.kind.expands:
            self._check_places(text.count(self.processor.image_token), len(images), "text has")
        elif is_chat(item):
            images = []
        values = read_prompt(self.processor, text, images, options.access)
        ids = values.pop("input_ids")[0].tolist()
        values.pop("attention_mask", None)
        piece = self.planned(ids, options, advice="show fewer or smaller images, or a shorter text")
        piece.values = values
        return [piece]

    def fits(self, pack: Sequence[Piece], piece: Piece, options: ImageTextOptions) -> bool:
        shapes = {p.values["pixel_values"].shape[1:] for p in (*pack, piece) if "pixel_values" in p.values}
        simple = all(set(p.values) <= {"pixel_values"} for p in (*pack, piece))
        return simple and len(shapes) < 2 and super().fits(pack, piece, options)

    def extra(self, pieces: Sequence[Piece]) -> dict[str, Any]:
        names = dict.fromkeys(name for piece in pieces for name in piece.values)
        rows = {name: [p.values[name] for p in pieces if name in p.values] for name in names}
        return {name: torch.cat(row).to(self.model.device) for name, row in rows.items()}

    # what comes of it

    def finish(self, item: Any, pieces: Sequence[Piece], outputs: Sequence[Any], options: ImageTextOptions) -> Any:
        shown = item["text"] if isinstance(item, dict) else item
        ids = pieces[0].ids
        if options.return_tensors:
            return [{"input_text": shown, "generated_token_ids": ids + new} for new in outputs[0]]
        prompt = self.text(ids, options, skip=options.skip_special_tokens)
        found = []
        for new in outputs[0]:
            whole = self.text(ids + new, options, skip=options.skip_special_tokens)
            text: Any = whole.removeprefix(prompt)
            if options.return_full_text is not False:
                text = shown + text if isinstance(shown, str) else _longer(shown, text, options.continue_final_message)
            found.append({"input_text": shown, "generated_text": text})
        return found

    def deliver(
        self, results: list[Any], inputs: Any, came: str, options: ImageTextOptions, called: Mapping[str, Any]
    ) -> Any:
        if isinstance(inputs, Batch):
            return [entry for result in results for entry in (result if isinstance(result, list) else [result])]
        return super().deliver(results, inputs, came, options, called)


def read_prompt(processor: Processor, text: str, images: Sequence[Any], access: Mapping[str, Any]) -> dict[str, Any]:
    """What a model takes for one text and its images, by name: tensors whose first axis is 1, but for the images.

    `access` is how images may be fetched (`MediaOptions.access`). Raises ValueError for an image that cannot be read.
    """
    pixels = []
    for image in images:
        with reading(image):
            pixels.append(load(image, **access))
    begins = processor.tokenizer.bos_token
    options: dict[str, Any] = {"add_special_tokens": False} if begins and text.startswith(begins) else {}
    if processor.kind.interleaves:  # images come before what is said of them, as the reference puts a single one
        return dict(processor(text=[[*pixels, text]], return_tensors="pt"))
    return dict(processor(images=[pixels] if pixels else None, text=[text], return_tensors="pt", **options))


def conversation(processor: Processor, messages: Sequence[Mapping[str, Any]], *, goes_on: bool = False) -> str:
    """Messages as the prompt that the model's template makes of them, tokens in the places of images."""
    shown = [{**message, "content": _without_pictures(message["content"])} for message in messages]
    text = processor.apply_chat_template(shown, add_generation_prompt=not goes_on)
    assert isinstance(text, str)
    return until(text, _last_text(messages)) if goes_on else text


def user_message(text: str, images: Sequence[Any] = ()) -> dict[str, Any]:
    """What a user says, below the images that it is about (names of files, or images)."""
    parts = [{"type": "image", "image": image} for image in images]
    return {"role": "user", "content": [*parts, {"type": "text", "text": text}]}


def check_messages(messages: Sequence[Mapping[str, Any]]) -> None:
    """Raise a ValueError that names the message, and what of it is wrong."""
    for i, message in enumerate(messages):
        if not isinstance(message.get("role"), str) or "content" not in message:
            raise ValueError(f'message {i} has {", ".join(map(str, message))}; allowed: {{"role", "content"}}')
        content = message["content"]
        if isinstance(content, str):
            continue
        for part in content if isinstance(content, (list, tuple)) else [content]:
            kind = part.get("type") if isinstance(part, Mapping) else None
            holds = [name for name in SOURCES if isinstance(part, Mapping) and part.get(name) is not None]
            if (kind == "image" and len(holds) == 1) or (kind == "text" and isinstance(part.get("text"), str)):
                continue
            if kind == "image":
                raise ValueError(f"message {i} has an image without a source; allowed: one of {', '.join(SOURCES)}")
            raise ValueError(
                f"message {i} has a part {part!r:.80}; allowed: "
                '{"type": "text", "text": ...} and {"type": "image", "path": ...}'
            )


def pictures_of(message: Mapping[str, Any]) -> list[Any]:
    """Where the images of a message come from."""
    content = message["content"]
    parts = [] if isinstance(content, str) else [part for part in content if part["type"] == "image"]
    found = [next((name, part[name]) for name in SOURCES if part.get(name) is not None) for part in parts]
    return [f"data:;base64,{source}" if name == "base64" else source for name, source in found]


def _without_pictures(content: Any) -> Any:
    """A message's content as templates need to see it."""
    if isinstance(content, str):
        return content
    return [{"type": "image"} if part["type"] == "image" else part for part in content]


def _last_text(messages: Sequence[Mapping[str, Any]]) -> Any:
    content = messages[-1]["content"]
    return content if isinstance(content, str) else content[-1].get("text") if content else None


def _longer(messages: Sequence[Mapping[str, Any]], text: str, asked: bool | None) -> list[Mapping[str, Any]]:
    """A conversation with what was written: a message more, or more of the last one."""
    if not goes_on(messages, asked):
        return [*messages, {"role": "assistant", "content": text}]
    last = messages[-1]
    content = last["content"]
    if isinstance(content, str):
        return [*messages[:-1], {**last, "content": content + text}]
    return [*messages[:-1], {**last, "content": [*content[:-1], {**content[-1], "text": content[-1]["text"] + text}]}]


def _is_conversation(value: Any) -> bool:
    """Whether this is a conversation, or several."""
    return is_chat(value) or (isinstance(value, (list, tuple)) and bool(value) and all(map(is_chat, value)))


def _flat(images: Any) -> list[Any]:
    """Images in a row, whether they came as one, a list, or a list of lists."""
    if images is None:
        return []
    if isinstance(images, (list, tuple)):
        return [image for entry in images for image in _flat(entry)]
    return [images]


def _are_items(value: Any) -> bool:
    """Whether this could be a conversation, items with their texts, or something lazy that gives them."""
    if isinstance(value, (list, tuple)):
        return bool(value) and all(isinstance(entry, Mapping) or is_chat(entry) for entry in value)
    return isinstance(value, Mapping) or hasattr(value, "__iter__")
