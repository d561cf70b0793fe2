"""Vectors: one for each token, one for each sentence, and how alike sentences are."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from regard.models.model import Output
from regard.tasks.base import EncoderTask, Piece, split_tokens
from regard.tasks.inputs import json_line, parts_of, text_of, texts_of
from regard.tasks.options import EncoderOptions
from regard.tasks.pooling import read_pooling


@dataclass(frozen=True, kw_only=True)
class FeatureOptions(EncoderOptions):
    """With `return_tensors` (True or "pt") a tensor (1, T, C) instead of nested lists."""

    return_tensors: bool | str | None = None


class FeatureExtraction(EncoderTask[FeatureOptions]):
    """The last hidden state of each token: nested lists (1, T, C) for a text."""

    options = FeatureOptions

    def split(self, out: Output, pieces: Sequence[Piece], options: FeatureOptions) -> list[Tensor]:
        return split_tokens(out["last_hidden_state"].float().cpu(), pieces)

    def finish(self, item: Any, pieces: Sequence[Piece], outputs: Sequence[Tensor], options: FeatureOptions) -> Any:
        return outputs[0][None].clone() if options.return_tensors else outputs[0][None].tolist()


@dataclass(frozen=True, kw_only=True)
class SimilarityOptions(EncoderOptions):
    """With `vectors` an item is a text, and its result the text's vector (C,)."""

    vectors: bool = False


class SentenceSimilarity(EncoderTask[SimilarityOptions]):
    """Cosines between a source sentence and others: [float] for {"source_sentence", "sentences"}.

    Pooling and normalisation are what the checkpoint says as sentence-transformers writes it (1908.10084), or else
    the mean, of length 1.
    """

    options = SimilarityOptions

    def setup(self) -> None:
        self.pooling = read_pooling(self.model.folder)

    def from_line(self, line: str) -> Any:
        return json_line(line)

    def embed(self, texts: str | Iterable[str], **options: Any) -> Tensor:
        """One vector for each text, (N, C); the options are those of a call."""
        found = self([texts] if isinstance(texts, str) else list(texts), **options, vectors=True, on_error="raise")
        if not found:
            raise ValueError("there are no texts to embed; pass at least one")
        return torch.stack(found)

    def arrange(self, args: tuple[Any, ...], given: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        if args or "source_sentence" not in given:
            return super().arrange(args, given)
        parts = {name: given[name] for name in ("source_sentence", "sentences") if name in given}
        return parts, {name: value for name, value in given.items() if name not in parts}

    def limit(self, options: SimilarityOptions) -> int | None:
        limits = [n for n in (super().limit(options), self.pooling.max_length) if n]
        return min(limits, default=None)

    def pieces(self, item: Any, options: SimilarityOptions) -> list[Piece]:
        if options.vectors:
            texts = [text_of(item)]
        else:
            parts = parts_of(item, ("source_sentence", "sentences"))
            source = text_of(parts["source_sentence"], "source_sentence")
            texts = [source, *texts_of(parts["sentences"], "sentences")]
        pieces = [self.encode(text, None, options)[0] for text in texts]
        for piece in pieces:
            self.check_length(len(piece.ids), self.limit(options))
        return pieces

    def split(self, out: Output, pieces: Sequence[Piece], options: SimilarityOptions) -> list[Tensor]:
        return [self.pooling(hidden.float()).cpu() for hidden in split_tokens(out["last_hidden_state"], pieces)]

    def finish(self, item: Any, pieces: Sequence[Piece], outputs: Sequence[Tensor], options: SimilarityOptions) -> Any:
        if options.vectors:
            return outputs[0]
        return F.cosine_similarity(outputs[0][None], torch.stack(list(outputs[1:]))).tolist()
