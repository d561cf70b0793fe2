"""Every model that writes, against the reference: the same tokens, alone and in padded batches."""

from __future__ import annotations

import pytest
import torch

import regard
from regard.models.registry import families

pytest.importorskip("transformers", reason="the reference library is not installed (extra: oracle)")

from tests.models import oracle

CASES = [
    case
    for case in oracle.cases()
    if (a := families()[case[0]].architectures[case[2]]).head in ("causal-lm", "seq2seq-lm")
]
IDS = [f"{variant}-{architecture}".replace(" ", "_") for _, variant, architecture in CASES]
PAD = 3  # the reference's beams take a pad id of 0 for none


@pytest.fixture(params=CASES, ids=IDS, scope="module")
def case(request):
    """(reference model, our model, ids and mask of a padded batch, ids that end a text early)"""
    oracle.skip_own(request.param[0])
    if request.param[1] == "llama dynamic":
        pytest.skip("its angles change with every token, so that no cache, here or there, equals reading all again")
    theirs, folder = oracle.reference(*request.param)
    # Padding on the left, but for encoders: the positions of some of the reference's ignore the mask.
    ids, mask = oracle.pad(oracle.random_rows(theirs), "right" if theirs.config.is_encoder_decoder else "left")
    if by_length(ours := regard.load(folder)):  # the reference measures the whole batch, padding included
        ids, mask = ids[1:2, mask[1].bool()], mask[1:2, mask[1].bool()]
    free = reference(theirs, ids, mask, max_new_tokens=10, eos_token_id=None)
    written = free[:, -10:]
    ends = [int(row[at]) for row, at in zip(written, (3, 7, 5), strict=False)]  # rows stop at different steps, or never
    return theirs, ours, ids, mask, sorted(set(ends) - {PAD})


def by_length(model):
    """Whether the rotary angles of a model depend on how long its input is."""
    ropes = [a.config.rope for a in model.decoder.stack.attentions()]
    return any(rope is not None and rope.by_length for rope in ropes)


def reference(model, ids, mask, **options):
    """The reference without a cache, reading everything again at each step: slow and plain."""
    options = {"pad_token_id": PAD, "do_sample": False, "use_cache": False, **options}
    if not model.config.is_encoder_decoder:
        model(ids[:1, -1:])  # its rotary angles remember the longest input until they see a short one
    return model.generate(ids, attention_mask=mask, **options)


def same(case, ids=None, mask=None, **options):
    theirs, ours, all_ids, all_mask, ends = case
    ids, mask = (all_ids, all_mask) if ids is None else (ids, mask)
    options = {"max_new_tokens": 10, "eos_token_id": ends, **options}
    expected = reference(theirs, ids, mask, **options)
    found = ours.generate(ids, attention_mask=mask, pad_token_id=PAD, **options)
    assert found.tolist() == expected.tolist()
    return found


def test_greedy(case):
    new = same(case)[:, 1 if case[1].encoder is not None else case[2].shape[1] :]
    stops = [next((i for i, t in enumerate(row) if t in case[4]), None) for row in new.tolist()]
    assert len(set(stops)) > 1 or stops[0] is not None, "no row stops early: this test would show nothing"
    same(case, eos_token_id=None)


def test_single_prompt(case):
    ids, mask = case[2], case[3]
    row = ids[:1, mask[0].bool()]
    same(case, row, torch.ones_like(row))
    same(case, row, torch.ones_like(row), num_beams=3)


@pytest.mark.parametrize("early_stopping", [False, True, "never"])
@pytest.mark.parametrize("beams, penalty", [(2, 2.0), (4, 0.5)])
def test_beams(case, beams, penalty, early_stopping):
    same(case, num_beams=beams, length_penalty=penalty, early_stopping=early_stopping)


def test_several_returned_beams_and_their_scores(case):
    theirs, ours, ids, mask, ends = case
    options = {"num_beams": 4, "num_return_sequences": 3, "max_new_tokens": 8, "eos_token_id": ends}
    options |= {"return_dict_in_generate": True, "output_scores": True}
    expected = reference(theirs, ids, mask, **options)
    found = ours.generate(ids, attention_mask=mask, pad_token_id=PAD, **options)
    assert found.sequences.tolist() == expected.sequences.tolist()
    torch.testing.assert_close(found.sequences_scores, expected.sequences_scores, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found.scores[0], expected.scores[0], rtol=1e-4, atol=1e-3)


def test_rules(case):
    same(case, repetition_penalty=1.7, eos_token_id=None)
    row = case[2][-1:, case[3][-1].bool()]  # alone, since n-grams of padding count in the reference
    same(case, row, torch.ones_like(row), no_repeat_ngram_size=2, num_beams=3, min_new_tokens=6)
    ends = case[4]
    same(case, suppress_tokens=[ends[0], 9, 11], begin_suppress_tokens=[12, 13, 14], bad_words_ids=[[20], [21, 22]])
    same(case, forced_eos_token_id=ends[0], min_length=case[2].shape[1] + 4, num_beams=2, renormalize_logits=True)
    if case[1].encoder is not None:
        same(case, forced_bos_token_id=17)
        same(case, forced_bos_token_id=17, num_beams=2, encoder_no_repeat_ngram_size=1)


def test_lengths_count_as_in_the_reference(case):
    width = 1 if case[1].encoder is not None else case[2].shape[1]
    same(case, max_new_tokens=None, max_length=width + 4, eos_token_id=None)
    assert same(case, max_new_tokens=None, eos_token_id=None).shape[1] == width + 20
