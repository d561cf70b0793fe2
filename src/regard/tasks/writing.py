"""What tasks that write share: whose options count, how much may be written, batches of like length."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from regard.generation.config import GenerationConfig, from_checkpoint
from regard.models.model import Tower
from regard.tasks.base import Piece, TextTask
from regard.tasks.options import O, TaskOptions, TextOptions, read_options
from regard.tasks.progress import Meter

MAX_ROWS = 64
"""Rows of a batch at most: each holds a cache that grows while it writes."""
_OURS = ("tokenizer", "return_dict_in_generate", "output_scores", "batch_size")
GENERATE = frozenset(field.name for field in dataclasses.fields(GenerationConfig)) - set(_OURS)
"""The options of `generate` that a call may give."""


@dataclass(frozen=True, kw_only=True)
class WritingOptions(TextOptions):
    """Options of a task that writes; `generate` holds those of `Model.generate`, as they were given.

    `prefix` is put before each text. `return_tensors` gives token ids in place of text.
    """

    generate: Any = None
    prefix: str | None = None
    return_tensors: bool = False
    clean_up_tokenization_spaces: bool | None = None
    stop_sequence: str | tuple[str, ...] | None = None


def reach(tower: Tower | None) -> int | None:
    """How many positions a tower has, or None if there is no end."""
    limit = getattr(tower.front, "limit", None) if tower is not None else None
    return limit if isinstance(limit, int) else None


@dataclass
class Plan:
    """How one piece is to be written on: the options of `generate` that depend on its length."""

    lengths: dict[str, int]


class WritingTask(TextTask[O]):
    """A task that writes with `generate`."""

    options: ClassVar[type[TaskOptions]] = WritingOptions
    lookahead = MAX_ROWS
    refills: ClassVar[bool] = False  # whether pieces of a pack may wait for each other's places
    fallback: ClassVar[Mapping[str, Any]] = {}  # where neither the call nor the checkpoint says anything

    def setup(self) -> None:
        self.own = from_checkpoint(self.model.generation, self.model.raw)
        self.specific = self.specifics(self.info.name)

    def specifics(self, name: str) -> dict[str, Any]:
        """What config.json says of a task in `task_specific_params`."""
        table = self.model.raw.get("task_specific_params")
        found = table.get(name) if isinstance(table, dict) else None
        return dict(found) if isinstance(found, dict) else {}

    def read(self, given: Mapping[str, Any]) -> O:
        options, generate = read_options(self.options, given, self.info.name, GENERATE)
        assert isinstance(options, WritingOptions)
        if options.stop_sequence is not None:
            generate["stop_strings"] = options.stop_sequence
        GenerationConfig(**{name: value for name, value in generate.items() if value is not None})
        return options.replace(generate=generate)  # type: ignore[return-value]

    def prefix(self, options: WritingOptions) -> str:
        """What is put before each text: as the call says, or the checkpoint for this task, or for all."""
        found = [options.prefix, self.specific.get("prefix"), self.model.raw.get("prefix")]
        return str(next((text for text in found if text is not None), ""))

    def settings(self, options: WritingOptions) -> dict[str, Any]:
        """Options of `generate`: the call's, over those of the checkpoint for this task, over the task's own."""
        specific = {name: value for name, value in self.specific.items() if name in GENERATE}
        fallback = {name: value for name, value in self.fallback.items() if name not in self.own}
        return {**fallback, **specific, **options.generate}

    def lengths(self, options: WritingOptions, prompt: int) -> dict[str, int]:
        """How many tokens may and must be written after a prompt, since in a batch a total would count the padding."""
        specific = {name: value for name, value in self.specific.items() if name in GENERATE}
        layers = [options.generate, specific, self.own, self.fallback]
        found: dict[str, int] = {}
        for kind in ("max", "min"):
            for layer in layers:
                new, total = layer.get(f"{kind}_new_tokens"), layer.get(f"{kind}_length")
                if new is None and total is None:
                    continue
                found[f"{kind}_new_tokens"] = new if new is not None else max(total - prompt, 0)
                break
        if found.get("max_new_tokens") == 0:
            raise ValueError(f"max_length leaves no room after a prompt of {prompt} tokens; pass max_new_tokens")
        if "min_new_tokens" in found and "max_new_tokens" in found:
            found["min_new_tokens"] = min(found["min_new_tokens"], found["max_new_tokens"])
        return found

    def planned(
        self, ids: list[int], options: WritingOptions, *, advice: str = "pass truncation=True to drop the beginning"
    ) -> Piece:
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
        self.check_length(len(ids), limit, advice)
        room = limit + 1 - len(ids)
        if new > room and self.asks_length(options):
            raise ValueError(
                f"input has {len(ids)} tokens and {new} new ones are asked for; this model takes at most {limit}; "
                f"ask for fewer, or {advice}"
            )
        lengths["max_new_tokens"] = min(new, room)
        return Piece(ids, note=Plan(lengths))

    def asks_length(self, options: WritingOptions) -> bool:
        """Whether the call itself says how much to write."""
        return any(options.generate.get(name) is not None for name in ("max_new_tokens", "max_length"))

    def fits(self, pack: Sequence[Piece], piece: Piece, options: O) -> bool:
        assert isinstance(options, WritingOptions)
        settings = self.settings(options)
        alone = settings.get("streamer") is not None or settings.get("max_time") is not None
        if alone or piece.note.lengths != pack[0].note.lengths:
            return False
        if self.waits(settings):
            return True
        copies = max(int(settings.get(name) or 1) for name in ("num_beams", "num_return_sequences"))
        rows = (len(pack) + 1) * copies
        return rows <= MAX_ROWS and rows * len(piece.ids) <= self.batch_tokens * 4

    def waits(self, settings: Mapping[str, Any]) -> bool:
        """Whether a pack may have more rows than are written at once: the others take the places of finished ones."""
        slides = settings.get("on_long_prompt") == "slide"
        return self.refills and not slides and int(settings.get("num_beams") or 1) == 1

    def most(self, options: O) -> int | None:
        assert isinstance(options, WritingOptions)
        return None if self.waits(self.settings(options)) else super().most(options)

    def at_once(self, pieces: Sequence[Piece], options: O) -> int:
        """Rows of a pack that are written together."""
        longest = max(len(piece.ids) for piece in pieces)
        return max(1, min(options.batch_size or MAX_ROWS, MAX_ROWS, self.batch_tokens * 4 // max(longest, 1)))

    def run(self, pieces: Sequence[Piece], options: O, meter: Meter) -> list[list[list[int]]]:
        """For each piece its new tokens, once for every sequence that was asked for."""
        assert isinstance(options, WritingOptions)
        settings = {
            name: v for name, v in self.settings(options).items() if not name.endswith(("_length", "_new_tokens"))
        }
        if self.waits(settings):
            settings["batch_size"] = self.at_once(pieces, options)
        out = self.model.generate(
            *self.prompts(pieces),
            **settings,
            **pieces[0].note.lengths,
            **self.extra(pieces),
            tokenizer=self.tokenizer,
            return_dict_in_generate=True,
        )
        counts = out.lengths.tolist()
        width = out.sequences.shape[1] - max(counts)
        rows = [row[width : width + n].tolist() for row, n in zip(out.sequences, counts, strict=True)]
        copies = len(rows) // len(pieces)
        return [rows[i * copies : (i + 1) * copies] for i in range(len(pieces))]

    def prompts(self, pieces: Sequence[Piece]) -> tuple[Any, ...]:
        """What `generate` is given to write on, or for an encoder to read."""
        return ([piece.ids for piece in pieces],)

    def extra(self, pieces: Sequence[Piece]) -> dict[str, Any]:
        """More options of `generate` for a pack."""
        return {}

    def text(self, ids: list[int], options: WritingOptions, *, skip: bool = True) -> str:
        """New tokens as text."""
        found = self.tokenizer.decode(
            ids, skip_special_tokens=skip, clean_up_tokenization_spaces=options.clean_up_tokenization_spaces
        )
        assert isinstance(found, str)
        return found
