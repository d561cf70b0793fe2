"""The words of a text that answer a question."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from regard.models.model import Output
from regard.tasks.base import NO_LIMIT, EncoderTask, Piece, split_tokens
from regard.tasks.inputs import json_line, parts_of, text_of
from regard.tasks.options import EncoderOptions


@dataclass(frozen=True, kw_only=True)
class QuestionAnsweringOptions(EncoderOptions):
    """`top_k` answers of at most `max_answer_len` tokens.

    A long context is read in windows of `max_seq_len` tokens (question included) that overlap by `doc_stride`.
    `handle_impossible_answer` lets "" win. `align_to_words` widens answers to whole words.
    """

    top_k: int = 1
    max_answer_len: int = 15
    max_seq_len: int | None = None
    doc_stride: int | None = None
    handle_impossible_answer: bool = False
    align_to_words: bool = True

    def check(self) -> None:
        super().check()
        for name in ("top_k", "max_answer_len", "max_seq_len"):
            self.require(getattr(self, name) != 0, name, "at least 1")


class QuestionAnswering(EncoderTask[QuestionAnsweringOptions]):
    """{"score", "start", "end", "answer"} for {"question", "context"}; a list of them where top_k is above 1."""

    options = QuestionAnsweringOptions

    def setup(self) -> None:
        if self.tokenizer.coder is not None:
            raise ValueError(f"{self.info.name} needs a tokenizer that knows where tokens lie in the text")

    def from_line(self, line: str) -> Any:
        return json_line(line)

    def arrange(self, args: tuple[Any, ...], given: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        if args or "question" not in given or "context" not in given:
            return super().arrange(args, given)
        given = dict(given)
        questions, contexts = given.pop("question"), given.pop("context")
        if isinstance(questions, (list, tuple)) and isinstance(contexts, str):
            contexts = [contexts] * len(questions)
        if not isinstance(questions, (list, tuple)):
            return {"question": questions, "context": contexts}, given
        if not isinstance(contexts, (list, tuple)) or len(contexts) != len(questions):
            raise ValueError(f"there are {len(questions)} questions; allowed: as many contexts, or one for all")
        return [{"question": q, "context": c} for q, c in zip(questions, contexts, strict=True)], given

    def deliver(
        self, results: list[Any], inputs: Any, came: str, options: QuestionAnsweringOptions, called: Mapping[str, Any]
    ) -> Any:
        return results[0] if len(results) == 1 else results  # as in the reference, a list of one counts as one

    def limit(self, options: QuestionAnsweringOptions) -> int:
        return min(options.max_seq_len or 384, self.longest or NO_LIMIT)

    def pieces(self, item: Any, options: QuestionAnsweringOptions) -> list[Piece]:
        parts = parts_of(item, ("question", "context"))
        question, context = text_of(parts["question"], "question"), text_of(parts["context"], "context")
        limit = self.limit(options)
        stride = min(limit // 2, 128) if options.doc_stride is None else options.doc_stride
        asked = len(self.tokenizer(question, add_special_tokens=False)["input_ids"])
        room = limit - asked - self.tokenizer.num_special_tokens_to_add(pair=True)
        if room < 1:
            raise ValueError(f"the question has {asked} tokens; a window of {limit} leaves none for the context")
        if options.doc_stride is not None and stride >= room:
            raise ValueError(
                f"doc_stride is {stride}; allowed: below {room}, the context's part of a window of {limit}"
            )
        how = {"stride": min(stride, room - 1), "return_overflowing_tokens": True}
        if self.tokenizer.padding_side == "right":
            first, second, cut = question, context, "only_second"
        else:  # decoders read the context first
            first, second, cut = context, question, "only_first"
        return self.encode(first, second, options, truncation=cut, return_token_type_ids=True, **how)

    def split(self, out: Output, pieces: Sequence[Piece], options: QuestionAnsweringOptions) -> list[Any]:
        both = torch.stack([out["start_logits"], out["end_logits"]], -1).float().cpu()
        return split_tokens(both, pieces)

    def finish(
        self, item: Any, pieces: Sequence[Piece], outputs: Sequence[Tensor], options: QuestionAnsweringOptions
    ) -> Any:
        part = 1 if self.tokenizer.padding_side == "right" else 0
        answers: dict[str, dict[str, Any]] = {}
        nothing = 1.0
        count = 2 * options.top_k + 10 if options.align_to_words else options.top_k
        for piece, logits in zip(pieces, outputs, strict=True):
            inside = torch.tensor([sequence == part for sequence in piece.encoding.sequence_ids])
            first = piece.ids[0] == self.tokenizer.cls_token_id
            start, end = span_probabilities(logits, inside, first)
            nothing = min(nothing, float(start[0] * end[0]))
            for i, j, score in best_spans(start, end, inside, count, options.max_answer_len):
                begin, stop = self.characters(piece.encoding, i, j, part, options.align_to_words)
                text = item["context"][begin:stop]
                same = answers.setdefault(text.lower(), {"score": 0.0, "start": begin, "end": stop, "answer": text})
                same["score"] += score
        found = list(answers.values())
        if options.handle_impossible_answer:
            found.append({"score": nothing, "start": 0, "end": 0, "answer": ""})
        found = sorted(found, key=lambda answer: -answer["score"])[: options.top_k]
        return found[0] if len(found) == 1 else found

    def characters(self, encoding: Any, start: int, end: int, part: int, whole_words: bool) -> tuple[int, int]:
        """Characters of the context from token `start` to token `end`, inclusive."""
        if whole_words:
            words = [encoding.word_ids[start], encoding.word_ids[end]]
            spans = [None if word is None else encoding.word_to_chars(word, part) for word in words]
            if spans[0] is not None and spans[1] is not None:
                return spans[0][0], spans[1][1]
        return encoding.offsets[start][0], encoding.offsets[end][1]


def span_probabilities(logits: Tensor, inside: Tensor, keep_first: bool) -> tuple[Tensor, Tensor]:
    """Scores (T, 2) -> probabilities (T,) that an answer starts and ends at each token of the context.

    The first token stands for "no answer" and takes part where it is the tokenizer's own.
    """
    allowed = inside.clone()
    allowed[0] |= keep_first
    start, end = logits.masked_fill(~allowed[:, None], -10000.0).softmax(0).unbind(1)
    return start, end


def best_spans(start: Tensor, end: Tensor, inside: Tensor, count: int, longest: int) -> list[tuple[int, int, float]]:
    """(first token, last token, probability) of the likeliest spans within the context, best first."""
    keep = inside.clone()
    keep[0] = False
    chances = (start * keep)[:, None] * (end * keep)[None, :]
    chances = chances.triu().tril(longest - 1).flatten()
    best, places = chances.topk(min(count, len(chances)))
    spans = [(*divmod(place, len(start)), score) for score, place in zip(best.tolist(), places.tolist(), strict=True)]
    return [(i, j, score) for i, j, score in spans if keep[i] and keep[j] and 0 <= j - i < longest]
