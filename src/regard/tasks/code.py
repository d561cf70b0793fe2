"""Code continued, or a gap in it filled."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from regard.tasks.base import Piece
from regard.tasks.generation import TextGeneration, TextGenerationOptions
from regard.tasks.inputs import json_line, parts_of, text_of
from regard.tasks.options import TaskOptions

GAPS = (
    ("<fim_prefix>", "<fim_suffix>", "<fim_middle>"),
    ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"),
    ("<fim-prefix>", "<fim-suffix>", "<fim-middle>"),
    ("<PRE>", "<SUF>", "<MID>"),
    ("▁<PRE>", "▁<SUF>", "▁<MID>"),
    ("<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"),
)
"""Tokens before the prefix, before the suffix and before the middle, as families name them (2207.14255)."""


@dataclass(frozen=True, kw_only=True)
class CodeCompletionOptions(TextGenerationOptions):
    """`suffix` is what follows the gap, for every item that has none of its own."""

    suffix: str | None = None


class CodeCompletion(TextGeneration):
    """[{"generated_text"}] for code, or for {"prefix", "suffix"} what belongs between them (in full by default)."""

    options: ClassVar[type[TaskOptions]] = CodeCompletionOptions

    def setup(self) -> None:
        super().setup()
        known = self.tokenizer.get_vocab()
        self.gap = next((tokens for tokens in GAPS if all(token in known for token in tokens)), None)

    def is_one(self, inputs: Any) -> bool:
        return isinstance(inputs, (str, dict))

    def arrange(self, args: tuple[Any, ...], given: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        if args or "prefix" not in given:
            return super().arrange(args, given)
        return {"prefix": given["prefix"]}, {name: value for name, value in given.items() if name != "prefix"}

    def from_line(self, line: str) -> Any:
        found = json_line(line)
        return found if isinstance(found, dict) else line

    def pieces(self, item: Any, options: TextGenerationOptions) -> list[Piece]:
        prefix, suffix = self.around(item, options)
        if suffix is None:
            return super().pieces(prefix, options)
        if self.gap is None:
            shown = "; ".join(" ".join(tokens) for tokens in GAPS)
            raise ValueError(f"this tokenizer has no tokens to mark a gap, so suffix must be left out; known: {shown}")
        before, after, middle = self.gap
        text = f"{before}{prefix}{after}{suffix}{middle}"
        ids = self.tokenizer(text, truncation=False, add_special_tokens=False)["input_ids"]
        if self.tokenizer.num_special_tokens_to_add() and self.tokenizer.bos_token_id is not None:
            ids = [self.tokenizer.bos_token_id, *ids]
        piece = self.planned(ids, options)
        if len(piece.ids) < len(ids):
            raise ValueError(f"prefix and suffix have {len(ids)} tokens, which leaves no room; shorten them")
        return [piece]

    def around(self, item: Any, options: TextGenerationOptions) -> tuple[str, str | None]:
        """What comes before the gap, and after it if there is one."""
        assert isinstance(options, CodeCompletionOptions)
        if not isinstance(item, dict):
            return text_of(item), options.suffix
        parts = parts_of(item, ("prefix",))
        suffix = parts.get("suffix", options.suffix)
        if suffix is None:
            return text_of(parts["prefix"], "prefix"), None
        if not isinstance(parts["prefix"], str) or not isinstance(suffix, str):
            raise ValueError(f"prefix and suffix are {parts['prefix']!r:.40} and {suffix!r:.40}; allowed: strings")
        return parts["prefix"], suffix

    def finish(
        self, item: Any, pieces: Sequence[Piece], outputs: Sequence[Any], options: TextGenerationOptions
    ) -> list[dict[str, Any]]:
        prefix, suffix = self.around(item, options)
        found = super().finish(prefix, pieces, outputs, options)
        if suffix is not None and not options.return_tensors and options.return_full_text is not False:
            found = [{"generated_text": entry["generated_text"] + suffix} for entry in found]
        return found
