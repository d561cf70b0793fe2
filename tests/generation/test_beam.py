"""Beam search against searches written out in plain Python: exhaustive, and diverse groups step by step."""

from __future__ import annotations

import itertools

import pytest
import torch

EOS = 2


def logprobs(model, ids):
    """log p of the next token, from a full pass."""
    return model(torch.tensor([ids])).logits[0, -1].detach().log_softmax(-1).tolist()


def test_as_many_beams_as_texts_find_the_best(gpt2, rows):
    """With a beam for every text over a few tokens, the result is the best of all of them."""
    allowed, steps = [5, 9, 14], 3
    scores = {}
    for text in itertools.product(allowed, repeat=steps):
        total, ids = 0.0, list(rows[0])
        for token in text:
            total += logprobs(gpt2, ids)[token]
            ids.append(token)
        scores[text] = total / steps
    best = sorted(scores, key=scores.__getitem__, reverse=True)
    found = gpt2.generate(
        [rows[0]], num_beams=27, num_return_sequences=4, max_new_tokens=steps, eos_token_id=None,
        prefix_allowed_tokens_fn=lambda row, ids: allowed, return_dict_in_generate=True,
    )  # fmt: skip
    assert [tuple(r) for r in found.sequences[:, 9:].tolist()] == best[:4]
    assert found.sequences_scores.tolist() == pytest.approx([scores[t] for t in best[:4]], abs=1e-4)


def diverse(model, prompt, groups, size, penalty, steps, length_penalty, ends):
    """Diverse beam search (1610.02424): groups one after another in each step, each keeps clear of the earlier ones.

    A text is (penalised sum of log p, tokens); a group ends when `size` finished texts beat its best hope.
    """
    running = [[(0.0, [])] for _ in range(groups)]
    finished = [[] for _ in range(groups)]
    shut = [False] * groups
    for step in range(1, steps + 1):
        taken = {}
        for g in range(groups):
            candidates = []
            for total, text in running[g]:
                for token, p in enumerate(logprobs(model, prompt + text)):
                    candidates.append((total + p - penalty * taken.get(token, 0), [*text, token]))
            candidates.sort(key=lambda c: -c[0])
            candidates = candidates[: max(2, 1 + len(ends)) * size]
            over = [c[1][-1] in ends or step == steps for c in candidates]
            if not shut[g]:
                new = [
                    (c[0] / step**length_penalty, c[1]) for c, end in zip(candidates[:size], over, strict=False) if end
                ]
                finished[g] = sorted(finished[g] + new, key=lambda c: -c[0])[:size]
            running[g] = [c for c, end in zip(candidates, over, strict=True) if not end][:size]
            full = len(finished[g]) == size
            if full and running[g] and running[g][0][0] / step**length_penalty <= finished[g][-1][0]:
                shut[g] = True
            if not shut[g]:
                for _, text in running[g]:
                    taken[text[-1]] = taken.get(text[-1], 0) + 1
    return sorted(sum(finished, []), key=lambda c: -c[0])  # noqa: RUF017


@pytest.mark.parametrize(
    "groups, size, penalty, length_penalty", [(2, 2, 2.5, 1.0), (3, 1, 0.7, 0.5), (2, 3, 30.0, 2.0), (1, 3, 0.0, 1.0)]
)
def test_diverse_groups_equal_the_formula(gpt2, rows, groups, size, penalty, length_penalty):
    steps = 6
    for row in rows[:3]:
        free = gpt2.generate([row], max_new_tokens=steps, eos_token_id=None)[0, len(row) :].tolist()
        ends = (free[2],)
        expected = diverse(gpt2, row, groups, size, penalty, steps, length_penalty, ends)
        found = gpt2.generate(
            [row], num_beams=groups * size, num_beam_groups=groups, diversity_penalty=penalty, max_new_tokens=steps,
            length_penalty=length_penalty, num_return_sequences=groups * size, eos_token_id=ends, pad_token_id=0,
            return_dict_in_generate=True,
        )  # fmt: skip
        texts = [r[:n] for r, n in zip(found.sequences[:, len(row) :].tolist(), found.lengths.tolist(), strict=True)]
        assert texts == [text for _, text in expected]
        assert found.sequences_scores.tolist() == pytest.approx([score for score, _ in expected], abs=1e-3)


def test_groups_differ_where_beams_do_not(gpt2, rows):
    """A penalty beyond any score makes the first tokens of all groups different."""
    found = gpt2.generate(
        [rows[0]], num_beams=4, num_beam_groups=4, diversity_penalty=1e4, num_return_sequences=4, max_new_tokens=4,
        eos_token_id=None,
    )  # fmt: skip
    assert len(set(found[:, 9].tolist())) == 4


def test_beams_read_the_prompt_once(gpt2, rows, monkeypatch):
    seen = []
    inner = gpt2.hidden
    monkeypatch.setattr(gpt2, "hidden", lambda ids, *a, **k: (seen.append(ids.numel()), inner(ids, *a, **k))[1])
    gpt2.generate(rows, num_beams=3, max_new_tokens=3, eos_token_id=None)
    assert seen == [sum(map(len, rows)), 4 * 3, 4 * 3]
