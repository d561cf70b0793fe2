"""Texts rewritten by an encoder-decoder: any, translated, or said in short."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from regard.tasks.base import NO_LIMIT, Piece
from regard.tasks.inputs import text_of
from regard.tasks.languages import Direction, direction
from regard.tasks.options import TaskOptions
from regard.tasks.writing import Plan, WritingOptions, WritingTask, reach


@dataclass
class Reading(Plan):
    """A plan, and the token that the translation must begin with."""

    forced: int | None = None


class Text2Text(WritingTask[WritingOptions]):
    """[{"generated_text"}]. Where neither call nor checkpoint says otherwise, up to 256 tokens with 4 beams."""

    options: ClassVar[type[TaskOptions]] = WritingOptions
    fallback: ClassVar[Mapping[str, Any]] = {"max_new_tokens": 256, "num_beams": 4}
    key: ClassVar[str] = "generated"

    def pieces(self, item: Any, options: WritingOptions) -> list[Piece]:
        return [self.piece(self.prefix(options) + text_of(item), options)]

    def piece(self, text: str, options: WritingOptions, forced: int | None = None) -> Piece:
        """A text for the encoder, cut if that is allowed."""
        limit = self.longest if options.cuts else None
        how = "longest_first" if options.truncation is True else options.truncation
        found = self.tokenizer([text], truncation=how if limit else False, max_length=limit)
        return self.reading(found["input_ids"][0], options, forced)

    def reading(self, ids: list[int], options: WritingOptions, forced: int | None = None) -> Piece:
        """Ids that fit the encoder, and how much may be written: the decoder begins with one token of its own."""
        self.check_length(len(ids), reach(self.model.encoder))
        lengths, limit = self.lengths(options, 1), reach(self.model.decoder)
        if limit is not None and not self.asks_length(options):
            lengths["max_new_tokens"] = min(lengths["max_new_tokens"], limit)
        return Piece(ids, note=Reading(lengths, forced))

    def fits(self, pack: Sequence[Piece], piece: Piece, options: WritingOptions) -> bool:
        return super().fits(pack, piece, options) and pack[0].note.forced == piece.note.forced

    def extra(self, pieces: Sequence[Piece]) -> dict[str, Any]:
        forced = pieces[0].note.forced
        return {} if forced is None else {"forced_bos_token_id": forced}

    def finish(
        self, item: Any, pieces: Sequence[Piece], outputs: Sequence[Any], options: WritingOptions
    ) -> list[dict[str, Any]]:
        if options.return_tensors:
            return [{f"{self.key}_token_ids": ids} for ids in outputs[0]]
        return [{f"{self.key}_text": self.text(ids, options)} for ids in outputs[0]]

    def deliver(
        self, results: list[Any], inputs: Any, came: str, options: WritingOptions, called: Mapping[str, Any]
    ) -> Any:
        # As in the reference: one text gives a list, and a list of texts one such entry each unless several were asked.
        if came == "one":
            return results[0]
        plain = all(isinstance(entry, dict) or len(entry) == 1 for entry in results)
        return [entry if isinstance(entry, dict) else entry[0] for entry in results] if plain else results


@dataclass(frozen=True, kw_only=True)
class TranslationOptions(WritingOptions):
    """Languages as the tokenizer spells them ("en_XX", "eng_Latn"), or short ("en") where that is clear."""

    src_lang: str | None = None
    tgt_lang: str | None = None


class Translation(Text2Text):
    """[{"translation_text"}]. `translation_en_to_de` names the languages; `src_lang` and `tgt_lang` do as well."""

    options: ClassVar[type[TaskOptions]] = TranslationOptions
    key = "translation"

    def setup(self) -> None:
        super().setup()
        self._directions: dict[tuple[Any, ...], Direction] = {}
        source, target = self.defaults.get("src_lang"), self.defaults.get("tgt_lang")
        if source and target:
            self.specific = self.specifics(f"translation_{source}_to_{target}") or self.specific

    def prefix(self, options: WritingOptions) -> str:
        found = super().prefix(options)
        assert isinstance(options, TranslationOptions)
        if options.prefix is not None or (found and not self.specific.get("prefix")):
            return found
        return self.direction(options).prefix

    def direction(self, options: TranslationOptions) -> Direction:
        """How this model is told the languages."""
        key = (options.src_lang, options.tgt_lang, options.prefix is None)
        if key not in self._directions:
            table = self.model.raw.get("task_specific_params") if key[2] else None
            self._directions[key] = direction(self.tokenizer, table, options.src_lang, options.tgt_lang)
        return self._directions[key]

    def pieces(self, item: Any, options: WritingOptions) -> list[Piece]:
        assert isinstance(options, TranslationOptions)
        text, how = text_of(item), self.direction(options)
        if how.source is not None and self.tokenizer.src_lang != how.source:
            self.tokenizer.src_lang = how.source
        return [self.piece(self.prefix(options) + text, options, how.forced)]


@dataclass(frozen=True, kw_only=True)
class SummarizationOptions(WritingOptions):
    """With `stride` a long text is read in windows that overlap by so many tokens, and their summaries are joined;
    `summarize_again` makes one summary of those. `window` is a window's size in tokens, the most by default.
    """

    stride: int | None = None
    window: int | None = None
    summarize_again: bool = False


class Summarization(Text2Text):
    """[{"summary_text"}], for text of any length where `stride` is given."""

    options: ClassVar[type[TaskOptions]] = SummarizationOptions
    key = "summary"

    def pieces(self, item: Any, options: WritingOptions) -> list[Piece]:
        assert isinstance(options, SummarizationOptions)
        if options.stride is None:
            return super().pieces(item, options)
        size = min(options.window or NO_LIMIT, self.longest or NO_LIMIT)
        windows = self.windows(self.prefix(options), text_of(item), size, options.stride)
        return [self.reading(ids, options) for ids in windows]

    def windows(self, prefix: str, text: str, size: int, stride: int) -> list[list[int]]:
        """Windows of at most `size` tokens; each has the prefix and special tokens of its own."""
        row = self.tokenizer([prefix + text], truncation=False, return_special_tokens_mask=True)
        ids, special = row["input_ids"][0], row["special_tokens_mask"][0]
        if len(ids) <= size:
            return [ids]
        start = next(i for i, mark in enumerate(special) if not mark)
        end = len(ids) - next(i for i, mark in enumerate(reversed(special)) if not mark)
        for token in self.tokenizer(prefix, add_special_tokens=False)["input_ids"] if prefix else []:
            if ids[start] != token:  # the tokens of prefix and text have run together
                break
            start += 1
        room = size - start - (len(ids) - end)
        if room <= stride:
            raise ValueError(f"stride is {stride}; allowed: below {room}, the text's part of a window of {size} tokens")
        found = []
        for begin in range(start, end, room - stride):
            found.append(ids[:start] + ids[begin : min(begin + room, end)] + ids[end:])
            if begin + room >= end:
                break
        return found

    def finish(
        self, item: Any, pieces: Sequence[Piece], outputs: Sequence[Any], options: WritingOptions
    ) -> list[dict[str, Any]]:
        if len(pieces) == 1:
            return super().finish(item, pieces, outputs, options)
        assert isinstance(options, SummarizationOptions)
        copies = list(zip(*outputs, strict=True))  # the first summaries of all windows, then the second ones ...
        if options.return_tensors:
            return [{f"{self.key}_token_ids": [i for ids in copy for i in ids]} for copy in copies]
        joined = [" ".join(self.text(ids, options).strip() for ids in copy) for copy in copies]
        if options.summarize_again and 0 < len(joined[0]) < len(item):
            again = next(self._results([joined[0]], options, 1, numbered=False))
            assert isinstance(again, list)
            return again
        return [{f"{self.key}_text": text} for text in joined]
