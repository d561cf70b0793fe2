"""Texts and conversations continued."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from regard.tasks.base import Piece
from regard.tasks.inputs import text_of
from regard.tasks.options import TaskOptions
from regard.tasks.writing import Plan, WritingOptions, WritingTask, reach


@dataclass(frozen=True, kw_only=True)
class TextGenerationOptions(WritingOptions):
    """`return_full_text` includes the prompt.

    A prompt that leaves no room is an error unless `truncation` (or `handle_long_generation="hole"`) drops its
    beginning. In a conversation `continue_final_message` writes on the last message; unsaid, where it is the
    assistant's. `tools` and `documents` are seen by the chat template.
    """

    return_full_text: bool | None = None
    handle_long_generation: Literal["hole"] | None = None
    continue_final_message: bool | None = None
    skip_special_tokens: bool = True
    add_special_tokens: bool = True
    tools: Any = None
    documents: Any = None

    @property
    def cuts(self) -> bool:
        return super().cuts or self.handle_long_generation is not None


class TextGeneration(WritingTask[TextGenerationOptions]):
    """[{"generated_text"}] for a text; for a conversation the generated text is the conversation, one message longer.

    A conversation is a list of {"role", "content"}. Where neither the call nor the checkpoint says otherwise, up to
    256 tokens are drawn with temperature 0.7.
    """

    options: ClassVar[type[TaskOptions]] = TextGenerationOptions
    fallback: ClassVar[Mapping[str, Any]] = {"max_new_tokens": 256, "do_sample": True, "temperature": 0.7}

    def is_one(self, inputs: Any) -> bool:
        return isinstance(inputs, str) or _is_chat(inputs)

    def pieces(self, item: Any, options: TextGenerationOptions) -> list[Piece]:
        if _is_chat(item):
            text = self.conversation(item, options)
            ids = self.tokenizer(text, truncation=False, add_special_tokens=False)["input_ids"]
        else:
            text = item if item == "" else text_of(item)
            special = options.add_special_tokens
            ids = self.tokenizer(self.prefix(options) + text, truncation=False, add_special_tokens=special)["input_ids"]
        if not ids and self.tokenizer.bos_token_id is not None:
            ids = [self.tokenizer.bos_token_id]  # an empty prompt begins where texts begin
        if not ids:
            raise ValueError("text is an empty string, and this tokenizer has no token to begin with")
        return [self.planned(ids, options)]

    def planned(self, ids: list[int], options: TextGenerationOptions) -> Piece:
        """A prompt that leaves room to write in, cut at its beginning if that is allowed."""
        limit = reach(self.model.decoder)
        lengths = self.lengths(options, len(ids))
        if limit is None:
            return Piece(ids, note=Plan(lengths))
        new = lengths["max_new_tokens"]
        if options.cuts and len(ids) + new - 1 > limit:
            room = limit + 1 - new  # the last token is written and never read
            if room < 1:
                raise ValueError(f"max_new_tokens is {new}; this model takes at most {limit} tokens, prompt included")
            ids = ids[-room:]
        self.check_length(len(ids), limit, "pass truncation=True to drop the beginning")
        room = limit + 1 - len(ids)
        if new > room and self.asks_length(options):
            raise ValueError(
                f"input has {len(ids)} tokens and {new} new ones are asked for; this model takes at most {limit}; "
                "ask for fewer, or pass truncation=True to drop the beginning"
            )
        lengths["max_new_tokens"] = min(new, room)
        return Piece(ids, note=Plan(lengths))

    def conversation(self, messages: Sequence[Mapping[str, Any]], options: TextGenerationOptions) -> str:
        """Messages as the prompt that the model's template makes of them."""
        for i, message in enumerate(messages):
            if not isinstance(message.get("role"), str) or "content" not in message:
                raise ValueError(f'message {i} has {", ".join(map(str, message))}; allowed: {{"role", "content"}}')
        goes_on = _goes_on(messages, options)
        more = {} if options.documents is None else {"documents": options.documents}
        text = self.tokenizer.apply_chat_template(
            messages, tools=options.tools, add_generation_prompt=not goes_on, tokenize=False, **more
        )
        assert isinstance(text, str)
        return _until(text, messages[-1]["content"]) if goes_on else text

    def finish(
        self, item: Any, pieces: Sequence[Piece], outputs: Sequence[Any], options: TextGenerationOptions
    ) -> list[dict[str, Any]]:
        if options.return_tensors:
            return [{"generated_token_ids": pieces[0].ids + new} for new in outputs[0]]
        found = []
        for new in outputs[0]:
            text: Any = self.text(new, options, skip=options.skip_special_tokens)
            found.append(
                {"generated_text": text if options.return_full_text is False else self.full(item, text, options)}
            )
        return found

    def full(self, item: Any, text: str, options: TextGenerationOptions) -> Any:
        """The prompt and what was written after it."""
        if isinstance(item, str):
            return item + text
        if _goes_on(item, options):
            return [*item[:-1], {**item[-1], "content": item[-1]["content"] + text}]
        return [*item, {"role": "assistant", "content": text}]


def _is_chat(item: Any) -> bool:
    return isinstance(item, (list, tuple)) and len(item) > 0 and all(isinstance(m, Mapping) for m in item)


def _goes_on(messages: Sequence[Mapping[str, Any]], options: TextGenerationOptions) -> bool:
    asked = options.continue_final_message
    return messages[-1]["role"] == "assistant" if asked is None else asked


def _until(text: str, content: Any) -> str:
    """A rendered conversation up to the end of its last message's content: what a template adds after it is cut."""
    if not isinstance(content, str) or not content.strip():
        raise ValueError("the last message has no text to go on from; pass continue_final_message=False")
    for last in (content, content.strip()):  # many templates strip
        place = text.rfind(last)
        if place >= 0:
            return text[: place + len(last)]
    raise ValueError("the chat template changed the last message, so there is no place to go on from")
