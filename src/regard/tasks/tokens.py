"""Labels for the words of a text, with their places in it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from regard.models.model import Output
from regard.tasks.base import EncoderTask, Piece, split_tokens
from regard.tasks.inputs import text_of, texts_of
from regard.tasks.options import EncoderOptions


@dataclass(frozen=True, kw_only=True)
class TokenClassificationOptions(EncoderOptions):
    """How tokens become entities.

    `aggregation_strategy`: tokens as they are (none), neighbours of one label joined (simple), with a word's label
    that of its first token, of the average, or of its surest token. `stride` reads long text in windows that overlap
    by so many tokens. With `is_split_into_words` an item is a list of words, joined by `delimiter`.
    """

    aggregation_strategy: Literal["none", "simple", "first", "average", "max"] = "none"
    ignore_labels: tuple[str, ...] = ("O",)
    stride: int | None = None
    is_split_into_words: bool = False
    delimiter: str = " "

    def check(self) -> None:
        super().check()
        ok = self.stride is None or self.aggregation_strategy != "none"
        self.require(ok, "stride", "None, or an aggregation_strategy other than 'none'")


@dataclass(kw_only=True)
class Token:
    """A token, or a word of several: its text, the probabilities of labels, its characters in the text."""

    word: str
    scores: Tensor
    start: int
    end: int
    index: int = -1
    inside: bool = False  # continues a word

    @property
    def best(self) -> tuple[int, float]:
        """The likeliest label and its probability."""
        index = int(self.scores.argmax())
        return index, float(self.scores[index])


class TokenClassification(EncoderTask[TokenClassificationOptions]):
    """[{"entity", "score", "index", "word", "start", "end"}], or with aggregation "entity_group" and no index."""

    options = TokenClassificationOptions

    def setup(self) -> None:
        if self.tokenizer.coder is not None:
            raise ValueError(f"{self.info.name} needs a tokenizer that knows where tokens lie in the text")
        # With a mark on continued words, a token that is longer than its text continues one.
        self.marked = bool(getattr(self.tokenizer.backend.model, "continuing_subword_prefix", None))

    def is_one(self, inputs: Any) -> bool:
        return isinstance(inputs, str)

    def __call__(self, *args: Any, **options: Any) -> Any:
        """As every task; with `is_split_into_words` a list of words is one item, and a list of lists are many."""
        words = {**self.defaults, **options}.get("is_split_into_words")
        single = len(args) == 1 and isinstance(args[0], (list, tuple)) and all(isinstance(w, str) for w in args[0])
        if words and single:
            return super().__call__([args[0]], **options)[0]
        return super().__call__(*args, **options)

    def pieces(self, item: Any, options: TokenClassificationOptions) -> list[Piece]:
        how: dict[str, Any] = {}
        if options.stride is not None:
            how = {"stride": options.stride, "return_overflowing_tokens": True}
        if not options.is_split_into_words:
            return self.encode(text_of(item), None, options, **how)
        words = texts_of(item, "words")
        return self.encode(words, None, options, is_split_into_words=True, **how)  # type: ignore[arg-type]

    def split(self, out: Output, pieces: Sequence[Piece], options: TokenClassificationOptions) -> list[Any]:
        return split_tokens(out["logits"].float().softmax(-1).cpu(), pieces)

    def finish(
        self, item: Any, pieces: Sequence[Piece], outputs: Sequence[Tensor], options: TokenClassificationOptions
    ) -> list[dict[str, Any]]:
        starts: list[int] | None = None
        text = item
        if options.is_split_into_words:
            text, starts = options.delimiter.join(item), [0]
            for word in item[:-1]:
                starts.append(starts[-1] + len(word) + len(options.delimiter))
        found: list[dict[str, Any]] = []
        for piece, scores in zip(pieces, outputs, strict=True):
            tokens = self.tokens(text, piece, scores, starts)
            for entity in self.entities(tokens, options.aggregation_strategy):
                label = entity.get("entity", entity.get("entity_group"))
                if label not in options.ignore_labels:
                    found.append(entity)
        return _without_overlaps(found) if len(pieces) > 1 else found

    def tokens(self, text: str, piece: Piece, scores: Tensor, starts: list[int] | None) -> list[Token]:
        """The tokens of a window that are not special."""
        encoding, found = piece.encoding, []
        rows = zip(piece.ids, encoding.offsets, encoding.special_tokens_mask, encoding.word_ids, strict=True)
        for i, (token, (start, end), special, word) in enumerate(rows):
            if special:
                continue
            if starts is not None and word is not None:
                start, end = start + starts[word], end + starts[word]
            name, here = self.tokenizer.convert_ids_to_tokens(token), text[start:end]
            # Without such marks, a token continues a word where there is no space between it and what precedes.
            inside = len(name) != len(here) if self.marked else start > 0 and " " not in text[start - 1 : start + 1]
            if token == self.tokenizer.unk_token_id:
                name, inside = here, False
            found.append(Token(word=name, scores=scores[i], start=start, end=end, index=i, inside=inside))
        return found

    def entities(self, tokens: list[Token], strategy: str) -> list[dict[str, Any]]:
        """Tokens, or entities joined from them."""
        names = self.labels(len(tokens[0].scores)) if tokens else []
        if strategy not in ("none", "simple"):
            tokens = [self.word(group, strategy) for group in _words(tokens)]
        if strategy != "none":
            return [self.group(same) for same in _groups(tokens, names)]
        found = []
        for t in tokens:
            label, score = t.best
            found.append(
                {
                    "entity": names[label],
                    "score": score,
                    "index": t.index,
                    "word": t.word,
                    "start": t.start,
                    "end": t.end,
                }
            )
        return found

    def word(self, group: list[Token], strategy: str) -> Token:
        """The tokens of a word as one, with the probabilities that the strategy chooses."""
        scores = {
            "first": lambda: group[0].scores,
            "max": lambda: max(group, key=lambda t: t.best[1]).scores,
            "average": lambda: torch.stack([t.scores for t in group]).mean(0),
        }[strategy]()
        text = self.tokenizer.convert_tokens_to_string([t.word for t in group])
        return Token(word=text, scores=scores, start=group[0].start, end=group[-1].end)

    def group(self, same: list[tuple[Token, str]]) -> dict[str, Any]:
        """Neighbours of one label as an entity."""
        tokens = [token for token, _ in same]
        return {
            "entity_group": same[0][1].split("-", 1)[-1],
            "score": sum(token.best[1] for token in tokens) / len(tokens),
            "word": self.tokenizer.convert_tokens_to_string([token.word for token in tokens]),
            "start": tokens[0].start,
            "end": tokens[-1].end,
        }


def _words(tokens: list[Token]) -> list[list[Token]]:
    """Tokens by word: one that continues goes to those before it."""
    groups: list[list[Token]] = []
    for token in tokens:
        if token.inside and groups:
            groups[-1].append(token)
        else:
            groups.append([token])
    return groups


def _groups(tokens: list[Token], names: list[str]) -> list[list[tuple[Token, str]]]:
    """Neighbours of one label; B- begins a new entity, I- or no mark goes on."""
    groups: list[list[tuple[Token, str]]] = []
    last = None
    for token in tokens:
        label = names[token.best[0]]
        begins, tag = label.startswith("B-"), label[2:] if label.startswith(("B-", "I-")) else label
        if groups and tag == last and not begins:
            groups[-1].append((token, label))
        else:
            groups.append([(token, label)])
        last = tag
    return groups


def _without_overlaps(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of entities that windows saw twice, the longer, or else the surer."""
    kept: list[dict[str, Any]] = []
    for entity in sorted(found, key=lambda e: e["start"]):
        if kept and kept[-1]["start"] <= entity["start"] < kept[-1]["end"]:
            rank = [(e["end"] - e["start"], e["score"]) for e in (kept[-1], entity)]
            if rank[1] > rank[0]:
                kept[-1] = entity
        else:
            kept.append(entity)
    return kept
