"""Rules that change the scores of the next token, in the reference's order. Each is a plain function.

`ids` (R, T) is what each row holds so far, padded on the left with -1; `scores` (R, V) may be changed in place.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from regard.generation.config import GenerationConfig


@dataclass(frozen=True)
class Seen:
    """What a rule may look at: histories (R, T), the input that each row continues (R,), and tokens written so far."""

    ids: Tensor
    rows: Tensor
    new: int


Processor = Callable[[Seen, Tensor], Tensor]


def repetition_penalty(ids: Tensor, scores: Tensor, penalty: float) -> Tensor:
    """Scores of tokens that already occur are divided by the penalty, or multiplied where negative (1909.05858)."""
    size = scores.shape[-1]
    last = ids[:, -1:].clamp(0, size - 1)
    index = torch.where((ids >= 0) & (ids < size), ids, last)  # padding says again what the last token says
    old = scores.gather(1, index)
    return scores.scatter(1, index, torch.where(old < 0, old * penalty, old / penalty))


def count_penalties(new: Tensor, scores: Tensor, frequency: float, presence: float) -> Tensor:
    """Scores of written tokens (R, n) fall by `frequency` for each time, and by `presence` for having occurred."""
    if not new.shape[1]:
        return scores
    counts = torch.zeros_like(scores).scatter_add_(1, new, torch.ones_like(new, dtype=scores.dtype))
    return scores - frequency * counts - presence * (counts > 0)


def no_repeat_ngram(ids: Tensor, scores: Tensor, size: int, source: Tensor | None = None) -> Tensor:
    """Forbid what would complete an n-gram that `source` (R, S), or the row itself, already holds."""
    source = ids if source is None else source
    if ids.shape[1] < size - 1 or source.shape[1] < size:
        return scores
    vocab = scores.shape[-1]
    windows = source.unfold(1, size, 1)  # (R, W, n)
    suffix = ids[:, ids.shape[1] + 1 - size :]
    same = (windows[..., :-1] == suffix[:, None]).all(-1) & (windows >= 0).all(-1)
    banned = scores.new_zeros((scores.shape[0], vocab + 1), dtype=torch.bool)
    banned.scatter_(1, torch.where(same, windows[..., -1].clamp(max=vocab), vocab), True)
    return scores.masked_fill_(banned[:, :vocab], -math.inf)


def bad_words(ids: Tensor, scores: Tensor, groups: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """Forbid the last token of each word whose first tokens were just written.

    `groups`: words of equal length as (first tokens (n, k), last tokens (n,)), k perhaps 0.
    """
    for first, last in groups:
        k = first.shape[1]
        if k > ids.shape[1]:
            continue
        hit = (ids[:, None, ids.shape[1] - k :] == first).all(-1)
        scores.index_add_(1, last, torch.zeros_like(hit, dtype=scores.dtype).masked_fill_(hit, -math.inf))
    return scores


def suppress(scores: Tensor, tokens: Tensor) -> Tensor:
    """Forbid tokens (n,)."""
    return scores.index_fill_(1, tokens, -math.inf)


def force(scores: Tensor, tokens: Tensor) -> Tensor:
    """Forbid all but tokens (n,), which get 0."""
    return scores.fill_(-math.inf).index_fill_(1, tokens, 0.0)


def allowed_only(seen: Seen, scores: Tensor, allowed: Callable[[int, Tensor], Sequence[int]]) -> Tensor:
    """Forbid what `allowed(input number, ids)` does not list; it is asked for each row, with its real tokens.

    Raises ValueError where it allows nothing.
    """
    mask = torch.full_like(scores, -math.inf)
    for i, row in enumerate(seen.rows.tolist()):
        tokens = list(allowed(row, seen.ids[i][seen.ids[i] >= 0]))
        if not tokens:
            raise ValueError(f"prefix_allowed_tokens_fn allows nothing for input {row}; allowed: at least one token id")
        mask[i, tokens] = 0
    return scores + mask


def diversity(scores: Tensor, taken: Tensor, penalty: float) -> Tensor:
    """Scores (B, K, V) fall by the penalty for each earlier group's beam that took a token; counts `taken` (B, V).

    Hamming diversity (1610.02424, 4).
    """
    return scores - penalty * taken[:, None]


def own(function: Callable[[Tensor, Tensor], Tensor], seen: Seen, scores: Tensor, pad: int) -> Tensor:
    """A user's function (ids, scores) -> scores; it sees ids padded on the left with the pad id.

    Raises ValueError if what it gives is no tensor of the same shape.
    """
    out: Any = function(seen.ids.masked_fill(seen.ids < 0, pad), scores)
    if not isinstance(out, Tensor) or out.shape != scores.shape:
        shape = tuple(out.shape) if isinstance(out, Tensor) else type(out).__name__
        raise ValueError(f"a logits_processor gave {shape}; allowed: a tensor of shape {tuple(scores.shape)}")
    return out


@dataclass(frozen=True)
class Forbid:
    """A rule that forbids the same tokens (n,) to all rows, at some steps."""

    tokens: Tensor
    when: Callable[[int], bool]

    def __call__(self, seen: Seen, scores: Tensor) -> Tensor:
        return suppress(scores, self.tokens) if self.when(seen.new) else scores


@dataclass(frozen=True)
class Force:
    """A rule that forbids all but some tokens (n,), at some steps."""

    tokens: Tensor
    when: Callable[[int], bool]

    def __call__(self, seen: Seen, scores: Tensor) -> Tensor:
        return force(scores, self.tokens) if self.when(seen.new) else scores


def forbidden(rules: Sequence[Processor], new: int) -> list[Tensor] | None:
    """What the rules forbid to all rows at this step, where they do nothing else; None where they look at more."""
    found = []
    for rule in rules:
        if not isinstance(rule, Forbid | Force) or (isinstance(rule, Force) and rule.when(new)):
            return None
        if rule.when(new):
            found.append(rule.tokens)
    return found


@dataclass(frozen=True)
class Facts:
    """What the rules need to know of this call: prompt width, steps, vocabulary, what an encoder read (B, S)."""

    width: int
    max_new: int
    min_new: int
    vocab: int
    pad: int
    device: torch.device
    source: Tensor | None = None

    def tokens(self, ids: Sequence[int], name: str = "") -> Tensor:
        """Ids as a tensor. With a name, raises ValueError for ids outside the vocabulary; else leaves them out."""
        outside = [i for i in ids if i >= self.vocab]
        if outside and name:
            raise ValueError(f"{name} holds {outside[0]}; allowed: ids of the vocabulary, 0 to {self.vocab - 1}")
        return torch.tensor([i for i in ids if i < self.vocab], dtype=torch.long, device=self.device)


def build_processors(c: GenerationConfig, facts: Facts) -> list[Processor]:
    """The rules that the options ask for, in order."""
    rules: list[Processor] = []
    add, source = rules.append, facts.source
    if c.repetition_penalty != 1.0:
        add(lambda seen, s: repetition_penalty(seen.ids, s, c.repetition_penalty))
    if c.frequency_penalty or c.presence_penalty:
        fp = (c.frequency_penalty, c.presence_penalty)
        add(lambda seen, s: count_penalties(seen.ids[:, facts.width :], s, *fp))
    if c.no_repeat_ngram_size:
        add(lambda seen, s: no_repeat_ngram(seen.ids, s, c.no_repeat_ngram_size))
    if c.encoder_no_repeat_ngram_size and source is not None:
        size = c.encoder_no_repeat_ngram_size
        add(lambda seen, s: no_repeat_ngram(seen.ids, s, size, source[seen.rows]))
    if c.bad_words_ids:
        alone, groups = _words(c, facts)
        if alone:
            add(Forbid(facts.tokens(alone), lambda new: True))
        if groups:
            add(lambda seen, s: bad_words(seen.ids, s, groups))
    eos = facts.tokens(c.eos_token_id)
    if facts.min_new > 0 and len(c.eos_token_id):
        add(Forbid(eos, lambda new: new < facts.min_new))
    if c.prefix_allowed_tokens_fn is not None:
        fn = c.prefix_allowed_tokens_fn
        add(lambda seen, s: allowed_only(seen, s, fn))
    rules += _forced(c, facts)
    if c.suppress_tokens:
        add(Forbid(facts.tokens(c.suppress_tokens), lambda new: True))
    if c.begin_suppress_tokens:
        begin = _begin(c, facts)
        add(Forbid(facts.tokens(c.begin_suppress_tokens), lambda new: new == begin))
    rules += [lambda seen, s, f=f: own(f, seen, s, facts.pad) for f in c.logits_processor]  # type: ignore[misc]
    return rules


def _forced(c: GenerationConfig, facts: Facts) -> list[Processor]:
    rules: list[Processor] = []
    if c.forced_bos_token_id is not None:
        bos = facts.tokens([c.forced_bos_token_id], "forced_bos_token_id")
        rules.append(Force(bos, lambda new: facts.width + new == 1))
    if c.forced_decoder_ids:
        pairs = {at: i for at, i in c.forced_decoder_ids if i is not None}
        forced = {at: facts.tokens([i], "forced_decoder_ids") for at, i in pairs.items()}
        rules += [Force(tokens, lambda new, at=at: facts.width + new == at) for at, tokens in forced.items()]  # type: ignore[misc]
    if c.forced_eos_token_id:
        eos = facts.tokens(c.forced_eos_token_id, "forced_eos_token_id")
        rules.append(Force(eos, lambda new: new == facts.max_new - 1))
    if c.remove_invalid_values:
        rules.append(lambda seen, s: torch.nan_to_num(s, 0.0))
    return rules


def _begin(c: GenerationConfig, facts: Facts) -> int:
    """The step at which a row's first free token is chosen."""
    if c.forced_decoder_ids:
        return max(0, max(at for at, _ in c.forced_decoder_ids) + 1 - facts.width)
    return int(facts.width == 1 and c.forced_bos_token_id is not None)


def _words(c: GenerationConfig, facts: Facts) -> tuple[list[int], list[tuple[Tensor, Tensor]]]:
    """Words of one token, and longer ones of equal length as `bad_words` takes them."""
    by_length: dict[int, list[tuple[int, ...]]] = {}
    for word in c.bad_words_ids:
        facts.tokens(word, "bad_words_ids")
        if not (len(word) == 1 and word[0] in c.eos_token_id):  # the end itself is never a bad word
            by_length.setdefault(len(word), []).append(word)
    alone = [word[0] for word in by_length.pop(1, [])]
    groups = []
    for length, words in by_length.items():
        table = torch.tensor(words, device=facts.device).view(-1, length)
        groups.append((table[:, :-1], table[:, -1]))
    return alone, groups
