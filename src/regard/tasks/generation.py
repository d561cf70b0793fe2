"""Texts and conversations continued."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from regard.tasks.base import Piece
from regard.tasks.inputs import text_of
from regard.tasks.options import TaskOptions
from regard.tasks.writing import MAX_ROWS, WritingOptions, WritingTask


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
    lookahead = 4 * MAX_ROWS
    refills = True
    fallback: ClassVar[Mapping[str, Any]] = {"max_new_tokens": 256, "do_sample": True, "temperature": 0.7}

    def is_one(self, inputs: Any) -> bool:
        return isinstance(inputs, str) or is_chat(inputs)

    def pieces(self, item: Any, options: TextGenerationOptions) -> list[Piece]:
        if is_chat(item):
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

    def conversation(self, messages: Sequence[Mapping[str, Any]], options: TextGenerationOptions) -> str:
        """Messages as the prompt that the model's template makes of them."""
        for i, message in enumerate(messages):
            if not isinstance(message.get("role"), str) or "content" not in message:
                raise ValueError(f'message {i} has {", ".join(map(str, message))}; allowed: {{"role", "content"}}')
        continues = goes_on(messages, options.continue_final_message)
        more = {} if options.documents is None else {"documents": options.documents}
        text = self.tokenizer.apply_chat_template(
            messages, tools=options.tools, add_generation_prompt=not continues, tokenize=False, **more
        )
        assert isinstance(text, str)
        return until(text, messages[-1]["content"]) if continues else text

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
        if goes_on(item, options.continue_final_message):
            return [*item[:-1], {**item[-1], "content": item[-1]["content"] + text}]
        return [*item, {"role": "assistant", "content": text}]


def is_chat(item: Any) -> bool:
    """Whether this is a conversation: a list of messages."""
    return isinstance(item, (list, tuple)) and len(item) > 0 and all(isinstance(m, Mapping) for m in item)


def goes_on(messages: Sequence[Mapping[str, Any]], asked: bool | None) -> bool:
    """Whether the last message is written on, rather than answered; unsaid, where it is the assistant's."""
    return messages[-1]["role"] == "assistant" if asked is None else asked


def until(text: str, content: Any) -> str:
    """A rendered conversation up to the end of its last message's content: what a template adds after it is cut."""
    if not isinstance(content, str) or not content.strip():
        raise ValueError("the last message has no text to go on from; pass continue_final_message=False")
    for last in (content, content.strip()):  # many templates strip
        place = text.rfind(last)
        if place >= 0:
            return text[: place + len(last)]
    raise ValueError("the chat template changed the last message, so there is no place to go on from")
