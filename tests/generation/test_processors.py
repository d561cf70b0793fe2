"""Rules and cuts on random scores: equal to the reference's classes, or to a formula written out."""

from __future__ import annotations

import math

import pytest
import torch

import regard.generation.processors as ours
import regard.generation.sampling as cuts
from regard.generation.config import GenerationConfig
from regard.generation.processors import Facts, Seen, build_processors

theirs = pytest.importorskip("transformers", reason="the reference library is not installed (extra: oracle)")

V = 37


@pytest.fixture
def scores():
    return torch.randn(5, V, generator=torch.Generator().manual_seed(1)) * 3


@pytest.fixture
def ids():
    return torch.randint(0, 4, (5, 14), generator=torch.Generator().manual_seed(2))


def same(found, expected):
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


def applied(ids, scores, new, width=6, max_new=20, min_new=0, **options):
    """Scores after the rules that options ask for, at a step; ids (R, width + new)."""
    config = GenerationConfig(**options)
    facts = Facts(width, max_new, min_new, V, 0, scores.device, None)
    out = scores.clone()
    for rule in build_processors(config, facts):
        out = rule(Seen(ids, torch.arange(len(ids)), new), out)
    return out


@pytest.mark.parametrize("penalty", [0.7, 1.0001, 1.9])
def test_repetition_penalty(ids, scores, penalty):
    same(ours.repetition_penalty(ids, scores, penalty), theirs.RepetitionPenaltyLogitsProcessor(penalty)(ids, scores))


def test_repetition_penalty_does_not_see_padding(ids, scores):
    left = torch.cat([torch.full((5, 3), -1), ids], 1)
    same(ours.repetition_penalty(left, scores, 1.5), ours.repetition_penalty(ids, scores, 1.5))


@pytest.mark.parametrize("size", [1, 2, 3, 15])
def test_no_repeat_ngram(ids, scores, size):
    expected = theirs.NoRepeatNGramLogitsProcessor(size)(ids, scores)
    assert size == 15 or bool(expected.isneginf().any())
    same(ours.no_repeat_ngram(ids, scores.clone(), size), expected)
    left = torch.cat([torch.full((5, 3), -1), ids], 1)
    same(ours.no_repeat_ngram(left, scores.clone(), size), expected)


@pytest.mark.parametrize("size", [1, 2, 3])
def test_no_repeat_ngram_of_the_encoder(ids, scores, size):
    source = torch.randint(0, 4, (5, 30), generator=torch.Generator().manual_seed(8))
    source[0, :20] = -1
    real = [row[row >= 0][None] for row in source]
    parts = [
        theirs.EncoderNoRepeatNGramLogitsProcessor(size, r)(i[None], s[None])
        for r, i, s in zip(real, ids, scores, strict=True)
    ]
    assert bool(torch.cat(parts).isneginf().any())
    same(ours.no_repeat_ngram(ids, scores.clone(), size, source), torch.cat(parts))


def test_bad_words(ids, scores):
    words = [[4], [36], [int(ids[0, -1]), 7], [int(ids[1, -2]), int(ids[1, -1]), 7], [2], [5] * 20, [3, 11]]
    expected = theirs.NoBadWordsLogitsProcessor(words, eos_token_id=[2])(ids, scores)
    found = applied(ids, scores, 8, bad_words_ids=words, eos_token_id=2)
    same(found, expected)
    assert found[0, 7] == -math.inf and found[0, 2] > -math.inf


def test_bad_words_outside_the_vocabulary_are_refused(ids, scores):
    with pytest.raises(ValueError, match=r"bad_words_ids holds 99; .* 0 to 36"):
        applied(ids, scores, 8, bad_words_ids=[[99]])


@pytest.mark.parametrize("new", [3, 4])
def test_minimum_length(ids, scores, new):
    reference = theirs.MinNewTokensLengthLogitsProcessor(6, 4, [2, 5])
    same(applied(ids[:, : 6 + new], scores, new, min_new=4, eos_token_id=[2, 5]), reference(ids[:, : 6 + new], scores))


def test_suppression(ids, scores):
    never = theirs.SuppressTokensLogitsProcessor([1, 9, 30])
    same(applied(ids, scores, 8, suppress_tokens=[1, 9, 30]), never(ids, scores))
    for new in (0, 1):
        first = theirs.SuppressTokensAtBeginLogitsProcessor([1, 9], begin_index=6)
        same(applied(ids[:, : 6 + new], scores, new, begin_suppress_tokens=[1, 9]), first(ids[:, : 6 + new], scores))


def test_suppression_at_the_begin_waits_for_a_forced_token(ids, scores):
    options = {"begin_suppress_tokens": [9], "forced_bos_token_id": 4}
    assert applied(ids[:, :2], scores, 1, width=1, **options)[0, 9] == -math.inf
    forced = {"begin_suppress_tokens": [9], "forced_decoder_ids": [[1, 4], [2, 5]]}
    for new, token in ((0, 4), (1, 5)):
        found = applied(ids[:, : new + 1], scores, new, width=1, **forced)
        assert found[0, token] == 0 and bool(found.isneginf().sum(1).eq(V - 1).all())
    after = applied(ids[:, :3], scores, 2, width=1, **forced)
    assert after[0, 9] == -math.inf and after[0, 4] == scores[0, 4]


@pytest.mark.parametrize("length", [1, 2])
def test_forced_tokens(ids, scores, length):
    found = applied(ids[:, :length], scores, length - 1, width=1, max_new=3, forced_bos_token_id=4)
    same(found, theirs.ForcedBOSTokenLogitsProcessor(4)(ids[:, :length], scores))
    found = applied(ids[:, : length + 1], scores, length, width=1, max_new=3, forced_eos_token_id=[5, 6])
    same(found, theirs.ForcedEOSTokenLogitsProcessor(4, [5, 6])(ids[:, : length + 1], scores))


def test_count_penalties(ids, scores):
    found = applied(ids, scores, 8, frequency_penalty=0.5, presence_penalty=0.3)
    for r in range(5):
        for v in range(V):
            times = ids[r, 6:].tolist().count(v)
            assert found[r, v] == pytest.approx(float(scores[r, v]) - 0.5 * times - 0.3 * (times > 0), abs=1e-5)


def test_allowed_only(ids, scores):
    def allow(row, text):
        assert text.tolist() == ids[row].tolist()
        return [row, row + 10]

    expected = theirs.PrefixConstrainedLogitsProcessor(allow, 1)(ids, scores)
    same(applied(ids, scores, 8, prefix_allowed_tokens_fn=allow), expected)
    with pytest.raises(ValueError, match="allows nothing for input 0"):
        applied(ids, scores, 8, prefix_allowed_tokens_fn=lambda row, text: [])


def test_functions_of_the_user_come_last(ids, scores):
    def half(text, s):
        assert s[0, 4] == -math.inf
        return s / 2

    same(
        applied(ids, scores, 8, suppress_tokens=[4], logits_processor=[half]),
        applied(ids, scores / 2, 8, suppress_tokens=[4]),
    )
    with pytest.raises(ValueError, match="a logits_processor gave NoneType"):
        applied(ids, scores, 8, logits_processor=lambda text, s: None)


@pytest.mark.parametrize("keep", [1, 4])
def test_cuts(scores, keep):
    for k in (1, 5, V, 100):
        same(cuts.top_k(scores, k), theirs.TopKLogitsWarper(k)(None, scores))
    for p in (0.0, 0.1, 0.5, 0.9, 0.999, 1.0):
        same(cuts.top_p(scores, p, keep), theirs.TopPLogitsWarper(p, min_tokens_to_keep=keep)(None, scores))
    for p in (0.0, 0.05, 0.5, 1.0):
        same(cuts.min_p(scores, p, keep), theirs.MinPLogitsWarper(p, min_tokens_to_keep=keep)(None, scores))
    for mass in (0.1, 0.5, 0.95):
        same(cuts.typical(scores, mass, keep), theirs.TypicalLogitsWarper(mass, min_tokens_to_keep=keep)(None, scores))


@pytest.mark.parametrize("k", [0, 6, 50])
def test_cuts_together_in_the_order_of_the_reference(scores, k):
    config = GenerationConfig(temperature=0.8, top_k=k, top_p=0.8, min_p=0.02, typical_p=0.9)
    steps = [theirs.TemperatureLogitsWarper(0.8)] + ([theirs.TopKLogitsWarper(k)] if k else [])
    steps += [theirs.TopPLogitsWarper(0.8), theirs.MinPLogitsWarper(0.02), theirs.TypicalLogitsWarper(0.9)]
    expected = scores
    for step in steps:
        expected = step(None, expected)
    same(cuts.spread(*cuts.warp(scores, config), V), expected)
