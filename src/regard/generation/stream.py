"""Text as it is written."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from regard.generation.generate import Inputs, configure, steps
from regard.models.model import Model


@dataclass(frozen=True)
class Step:
    """New tokens (B,), the pad id where a row had finished, and the text of each row that is now certain.

    `text` is None where there is no tokenizer. The last step has no tokens, only what text was held back.
    """

    tokens: Tensor | None
    text: tuple[str, ...] | None


def stream(
    model: Model,
    input_ids: Tensor | Sequence[Any] | None = None,
    attention_mask: Tensor | None = None,
    *,
    lengths: Sequence[int] | None = None,
    **options: Any,
) -> Iterator[Step]:
    """Like `generate`, step by step: the pieces of a row together are the text of what `generate` returns.

    Raises ValueError as `generate` does, and for beams, whose past may still change.
    """
    inputs = Inputs(input_ids, attention_mask, lengths)
    inputs.take(model, options)
    config = configure(model, None, options)
    ends = set(config.eos_token_id)
    decoders: list[Any] | None = None
    done: list[bool] = []
    for tokens in steps(model, config, inputs, options):
        row = tokens.tolist()
        if decoders is None:
            decoders, done = [_decoder(config.tokenizer) for _ in row], [False] * len(row)
        text = []
        for i, token in enumerate(row):
            text.append("" if done[i] or decoders[i] is None else decoders[i].push([token]))
            done[i] = done[i] or token in ends
        yield Step(tokens, None if config.tokenizer is None else tuple(text))
    if decoders and config.tokenizer is not None:
        yield Step(None, tuple("" if d is None else d.end() for d in decoders))


def _decoder(tokenizer: Any) -> Any:
    if tokenizer is None:
        return None
    from regard.preprocess.streaming import StreamDecoder

    return StreamDecoder(tokenizer)
