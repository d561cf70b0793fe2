"""`regard chat`: talk with a model, answers streaming as they are written."""

from __future__ import annotations

import sys
from contextlib import suppress
from typing import Any

import typer

_HELP = "/reset forgets the conversation, /exit (or end of input) ends it"


def chat(
    model: str = typer.Option(..., "--model", "-m", help="A folder, a hub id, or an embedded name."),
    system: str = typer.Option("", help="A system message to begin with."),
    max_new_tokens: int = typer.Option(512, help="The longest answer, in tokens."),
    temperature: float = typer.Option(0.7, help="0 always takes the likeliest token."),
    top_p: float = typer.Option(0.95, help="Sample from the likeliest tokens that make up this much."),
    seed: int | None = typer.Option(None, help="Makes the answers repeatable."),
    dtype: str = typer.Option("auto", help="auto, float32, bfloat16 or float16."),
) -> None:
    """Chat with a model in the terminal; its folder must have a chat template."""
    from regard.front import load

    loaded = load(model, dtype=dtype)
    if loaded.processor is None or not getattr(loaded.processor, "chat_template", None):
        raise ValueError(f"{model!r} has no chat template; use 'regard run text-generation' to continue a text")
    options: dict[str, Any] = {"max_new_tokens": max_new_tokens, "seed": seed}
    options |= {"do_sample": True, "temperature": temperature, "top_p": top_p} if temperature else {"do_sample": False}
    start = [{"role": "system", "content": system}] if system else []
    messages = list(start)
    if sys.stdin.isatty():
        typer.echo(f"{_HELP}.", err=True)
    while (said := _ask()) is not None:
        if said.strip() in ("/exit", "/quit"):
            break
        if said.strip() == "/reset":
            messages = list(start)
        elif said.strip():
            messages.append({"role": "user", "content": said})
            messages.append({"role": "assistant", "content": _answer(loaded, messages, options)})


def _ask() -> str | None:
    try:
        return input("> " if sys.stdin.isatty() else "")
    except EOFError:
        return None


def _answer(model: Any, messages: list[dict[str, str]], options: dict[str, Any]) -> str:
    from regard.generation import stream

    ids = model.processor.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt")
    said: list[str] = []
    with suppress(KeyboardInterrupt):  # stops this answer, not the conversation
        for step in stream(model, ids, **options):
            assert step.text is not None
            said.append(step.text[0])
            sys.stdout.write(step.text[0])
            sys.stdout.flush()
    sys.stdout.write("\n")
    return "".join(said).strip()


def register(app: typer.Typer) -> None:
    """Add this verb to the command."""
    app.command("chat")(chat)
