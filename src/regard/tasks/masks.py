"""Masked words: what the model would put in their place."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from regard.models.model import EncoderDecoder
from regard.tasks.base import EncoderTask, Piece
from regard.tasks.inputs import text_of, texts_of
from regard.tasks.options import EncoderOptions
from regard.tasks.progress import Meter

log = logging.getLogger("regard")


@dataclass(frozen=True, kw_only=True)
class FillMaskOptions(EncoderOptions):
    """The `top_k` best tokens for each mask, of all or of `targets`."""

    top_k: int = 5
    targets: str | tuple[str, ...] | None = None

    def check(self) -> None:
        super().check()
        self.require(self.top_k > 0, "top_k", "at least 1")


class FillMask(EncoderTask[FillMaskOptions]):
    """[{"score", "token", "token_str", "sequence"}], best first; one such list a mask where there are several."""

    options = FillMaskOptions

    def setup(self) -> None:
        if self.tokenizer.mask_token_id is None:
            raise ValueError(f"{self.info.name} needs a mask token; the tokenizer of this model has none")
        self._targets: dict[Any, list[int]] = {}

    def pieces(self, item: Any, options: FillMaskOptions) -> list[Piece]:
        if options.targets is not None:
            self.targets(options.targets)
        pieces = self.encode(text_of(item), None, options)
        mask = self.tokenizer.mask_token_id
        pieces[0].note = [i for i, token in enumerate(pieces[0].ids) if token == mask]
        if not pieces[0].note:
            raise ValueError(f"{item!r:.80} has no mask; put {self.tokenizer.mask_token} where a word is to be guessed")
        return pieces

    def targets(self, words: str | tuple[str, ...]) -> list[int]:
        """The ids of words to choose from; of one that the vocabulary lacks the first token stands for it."""
        if words not in self._targets:
            ids = set()
            for word in texts_of(words, "targets"):
                index = self.tokenizer.get_vocab().get(word)
                if index is None:
                    tokens = self.tokenizer(word, add_special_tokens=False)["input_ids"]
                    if not tokens:
                        raise ValueError(f"targets holds {word!r:.80}, which has no tokens")
                    index = tokens[0]
                    token = self.tokenizer.convert_ids_to_tokens(index)
                    log.warning("target %r is not in the vocabulary; its first token %r stands for it", word, token)
                ids.add(index)
            self._targets = {words: sorted(ids)}
        return self._targets[words]

    def run(self, pieces: Sequence[Piece], options: FillMaskOptions, meter: Meter) -> list[Tensor]:
        """Probabilities (masks, V); only masked positions go through the vocabulary, which is the larger half."""
        starts = torch.tensor([0, *(len(piece.ids) for piece in pieces)]).cumsum(0).tolist()
        places = [start + i for start, piece in zip(starts, pieces, strict=False) for i in piece.note]
        given = self.inputs(pieces)
        if isinstance(self.model, EncoderDecoder):  # trained to write the whole text again, masks filled
            memory = self.model.encode(**given)
            shifted = self.model.shifted(given["input_ids"], lengths=given["lengths"])
            hidden, _ = self.model.hidden(shifted, memory, lengths=given["lengths"])
        else:
            hidden, _ = self.model.hidden(**given)  # type: ignore[operator]
        logits = self.model.logits(hidden[torch.tensor(places, device=hidden.device)])
        return list(logits.float().softmax(-1).cpu().split([len(piece.note) for piece in pieces]))

    def finish(
        self, item: Any, pieces: Sequence[Piece], outputs: Sequence[Tensor], options: FillMaskOptions
    ) -> list[Any]:
        piece, probabilities = pieces[0], outputs[0]
        targets = None if options.targets is None else self.targets(options.targets)
        if targets is not None:
            probabilities = probabilities[:, targets]
        best, tokens = probabilities.topk(min(options.top_k, probabilities.shape[1]))
        rows = []
        for place, scores, indices in zip(piece.note, best.tolist(), tokens.tolist(), strict=True):
            ids = indices if targets is None else [targets[i] for i in indices]
            rows.append([self.guess(piece, place, token, score) for token, score in zip(ids, scores, strict=True)])
        return rows[0] if len(rows) == 1 else rows

    def guess(self, piece: Piece, place: int, token: int, score: float) -> dict[str, Any]:
        """One token in a mask's place; other masks stay to be seen."""
        filled = [token if i == place else old for i, old in enumerate(piece.ids)]
        filled = [i for i in filled if i != self.tokenizer.pad_token_id]
        sequence = self.tokenizer.decode(filled, skip_special_tokens=len(piece.note) == 1)
        return {"score": score, "token": token, "token_str": self.tokenizer.decode([token]), "sequence": sequence}

    def deliver(
        self, results: list[Any], inputs: Any, came: str, options: FillMaskOptions, called: Mapping[str, Any]
    ) -> Any:
        # As in the reference, a list of one text counts as one text.
        return results[0] if len(results) == 1 else results
