"""`regard chat`: talk with a model, also about images, answers streaming as they are written."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import typer

from regard.cli.lasting import lasting

_HELP = "/reset forgets the conversation, /exit (or end of input) ends it"
_SEES = "/image FILE shows an image, "


def chat(
    model: str = typer.Option(..., "--model", "-m", help="A folder, a hub id, or an embedded name."),
    system: str = typer.Option("", help="A system message to begin with."),
    image: list[str] = typer.Option([], "--image", "-i", help="An image to talk about; may be given several times."),
    max_new_tokens: int = typer.Option(512, help="The longest answer, in tokens."),
    temperature: float = typer.Option(0.7, help="0 always takes the likeliest token."),
    top_p: float = typer.Option(0.95, help="Sample from the likeliest tokens that make up this much."),
    seed: int | None = typer.Option(None, help="Makes the answers repeatable."),
    dtype: str = typer.Option("auto", help="auto, float32, bfloat16 or float16."),
    precision: str = typer.Option("auto", help="Of linears: auto (as the file has them), fp32, bf16, int8 or int4."),
    draft: str = typer.Option(None, help="A smaller checkpoint that guesses what the model will write."),
    lookup: int = typer.Option(None, help="Guess so many tokens from where the last words occurred before."),
) -> None:
    """Chat with a model in the terminal; its folder must have a chat template."""
    with lasting():
        from regard.front import load

        loaded = load(model, dtype=dtype, precision=precision)  # type: ignore[arg-type]
    tokenizer = getattr(loaded.processor, "tokenizer", loaded.processor)
    if not getattr(tokenizer, "chat_template", None):
        raise ValueError(f"{model!r} has no chat template; use 'regard run text-generation' to continue a text")
    options: dict[str, Any] = {"max_new_tokens": max_new_tokens, "seed": seed}
    options |= {"do_sample": True, "temperature": temperature, "top_p": top_p} if temperature else {"do_sample": False}
    options |= {"prompt_lookup_num_tokens": lookup, "assistant_model": load(draft) if draft else None}
    talk = Talk(loaded, system, image)
    if sys.stdin.isatty():
        typer.echo(f"{_SEES if talk.sees else ''}{_HELP}.", err=True)
    while (said := _ask()) is not None:
        word, _, rest = said.strip().partition(" ")
        if word in ("/exit", "/quit"):
            break
        if word == "/reset":
            talk.reset()
        elif word == "/image":
            talk.show(rest.strip())
        elif word:
            talk.answer(said, options)


class Talk:
    """A conversation as it grows; the images that were shown since the last question go with the next one."""

    def __init__(self, model: Any, system: str, images: Sequence[str]):
        self.model, self.system, self.first = model, system, images
        self.sees = getattr(model.processor, "image_processor", None) is not None
        self.reset()

    def reset(self) -> None:
        """Begin anew, with the images that the command named."""
        self.waiting: list[Any] = []
        self.messages: list[dict[str, Any]] = [self._message("system", self.system)] if self.system else []
        for name in self.first:
            self.show(name)

    def show(self, name: str) -> None:
        """Have an image looked at; ValueError where there is none, or the model sees nothing."""
        if not self.sees:
            raise ValueError(f"{self.model.name} is a {self.model.architecture}, which sees no images; leave them out")
        from regard.preprocess.image_read import load
        from regard.tasks.media import reading

        with reading(name):
            self.waiting.append(load(name))

    def _message(self, role: str, text: str) -> dict[str, Any]:
        """Templates of models that see go through the parts of each message, those of others take text."""
        return {"role": role, "content": [{"type": "text", "text": text}] if self.sees else text}

    def answer(self, said: str, options: dict[str, Any]) -> None:
        """Write the model's answer as it comes. An interrupt stops it, not the conversation."""
        from regard.generation import stream

        message = self._message("user", said)
        if self.waiting:
            message["content"] = [*({"type": "image", "image": image} for image in self.waiting), *message["content"]]
        self.messages.append(message)
        self.waiting = []
        written: list[str] = []
        with suppress(KeyboardInterrupt):
            for step in stream(self.model, **self._prompt(), **options):
                assert step.text is not None
                written.append(step.text[0])
                sys.stdout.write(step.text[0])
                sys.stdout.flush()
        sys.stdout.write("\n")
        self.messages.append(self._message("assistant", "".join(written).strip()))

    def _prompt(self) -> dict[str, Any]:
        if not self.sees:
            ids = self.model.processor.apply_chat_template(
                self.messages, add_generation_prompt=True, return_tensors="pt"
            )
            return {"input_ids": ids}
        from regard.tasks.image_text import conversation, pictures_of, read_prompt

        images = [image for message in self.messages for image in pictures_of(message)]
        return read_prompt(self.model.processor, conversation(self.model.processor, self.messages), images, {})


def _ask() -> str | None:
    try:
        return input("> " if sys.stdin.isatty() else "")
    except EOFError:
        return None


def register(app: typer.Typer) -> None:
    """Add this verb to the command."""
    app.command("chat")(chat)
