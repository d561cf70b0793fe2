"""A row's text does not depend on the others, on the side of the padding, or on how the batch is packed."""

from __future__ import annotations

import importlib

import pytest
import torch

from tests.generation.conftest import alone, cut

HOW = {
    "greedy": {},
    "sampled": {"do_sample": True, "seed": 11, "top_k": 20, "temperature": 1.3},
    "beams": {"num_beams": 3},
    "diverse": {"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 1.5},
    "sampled beams": {"num_beams": 2, "do_sample": True, "seed": 4},
}


def padded(rows, side):
    width = max(map(len, rows)) + 1
    ids, mask = torch.full((len(rows), width), 7), torch.zeros(len(rows), width, dtype=torch.long)
    for i, row in enumerate(rows):
        where = slice(width - len(row), width) if side == "left" else slice(0, len(row))
        ids[i, where], mask[i, where] = torch.tensor(row), 1
    return ids, mask


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("layout", ["ragged", "left", "right", "packed"])
def test_batch_equals_each_prompt_alone(model, rows, how, layout):
    options = {"max_new_tokens": 14, **HOW[how]}
    expected = alone(model, rows, **options)
    if layout == "ragged":
        width = max(map(len, rows))
        found = model.generate(rows, **options)
    elif layout == "packed":
        width = max(map(len, rows))
        found = model.generate(torch.cat([torch.tensor(r) for r in rows]), lengths=[len(r) for r in rows], **options)
    else:
        ids, mask = padded(rows, layout)
        width = ids.shape[1]
        found = model.generate(ids, mask, **options)
        if model.encoder is None:
            assert torch.equal(found[:, :width], ids)
    assert [cut(model, row, width) for row in found] == expected


def test_ends_at_different_steps_and_rows_that_leave(gpt2, rows):
    free = gpt2.generate(rows, max_new_tokens=20, eos_token_id=None)[:, 9:].tolist()
    ends = [free[0][2], free[1][9], free[2][15]]
    found = gpt2.generate(rows, max_new_tokens=20, eos_token_id=ends, pad_token_id=0, return_dict_in_generate=True)
    stops = [next((i + 1 for i, t in enumerate(row) if t in ends), 20) for row in free]
    assert len(set(stops)) >= 3, stops
    assert found.lengths.tolist() == stops
    for row, stop, expected in zip(found.sequences[:, 9:].tolist(), stops, free, strict=True):
        assert row[:stop] == expected[:stop]
        assert set(row[stop:]) <= {0}


@pytest.mark.parametrize("steps", [3, 50])
def test_looking_seldom_changes_nothing(gpt2, rows, monkeypatch, steps):
    """On a GPU the rows that are done are asked for every few steps only."""
    free = gpt2.generate(rows, max_new_tokens=20, eos_token_id=None)[:, 9:].tolist()
    options = {"max_new_tokens": 20, "eos_token_id": [row[4] for row in free], "pad_token_id": 0}
    options |= {"return_dict_in_generate": True}
    expected = gpt2.generate(rows, **options)
    assert int(expected.lengths.max()) < 20
    monkeypatch.setattr(importlib.import_module("regard.generation.search"), "patience", lambda job: steps)
    found = gpt2.generate(rows, **options)
    assert torch.equal(found.sequences, expected.sequences) and torch.equal(found.lengths, expected.lengths)
    torch.testing.assert_close(found.logprobs, expected.logprobs)


def test_finished_rows_cost_nothing(gpt2, rows, monkeypatch):
    free = gpt2.generate(rows, max_new_tokens=8, eos_token_id=None)[:, 9:].tolist()
    end = free[0][1]
    stops = [row.index(end) + 1 if end in row else 8 for row in free]
    seen = []
    inner = gpt2.head.logits
    monkeypatch.setattr(gpt2.head, "logits", lambda hidden: (seen.append(hidden.shape[0]), inner(hidden))[1])
    gpt2.generate(rows, max_new_tokens=8, eos_token_id=end)
    assert sum(seen) == sum(stops)


def test_logprobs_are_those_of_a_full_pass(gpt2, rows):
    for options in ({}, {"num_beams": 3}, {"do_sample": True, "seed": 1}):
        row = rows[0]
        out = gpt2.generate([row], max_new_tokens=6, eos_token_id=None, return_dict_in_generate=True, **options)
        logits = gpt2(out.sequences).logits.log_softmax(-1)[0, len(row) - 1 : -1]
        expected = logits.gather(1, out.sequences[0, len(row) :, None])[:, 0]
        torch.testing.assert_close(out.logprobs[0], expected.detach(), rtol=1e-4, atol=1e-4)
        if "num_beams" in options:
            torch.testing.assert_close(out.sequences_scores[0], expected.mean().detach(), rtol=1e-4, atol=1e-4)


def test_result_can_be_trained_on(gpt2, rows):
    ids = gpt2.generate(rows, max_new_tokens=3)
    gpt2(ids).logits.sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in gpt2.parameters())
    gpt2.zero_grad()


def test_no_prompt_starts_with_bos(gpt2):
    found = gpt2.generate(max_new_tokens=4)
    assert found[0, 0] == 1 and torch.equal(found, gpt2.generate([[1]], max_new_tokens=4))


def test_pad_ids_are_padding_without_a_mask(gpt2, rows):
    ids = torch.zeros(2, 5, dtype=torch.long)
    ids[0], ids[1, 3:] = torch.tensor(rows[0][:5]), torch.tensor(rows[1][:2])
    found = gpt2.generate(ids, max_new_tokens=6)
    assert cut(gpt2, found[1], 5) == alone(gpt2, [rows[1][:2]], max_new_tokens=6)[0]


def test_encoder_output_may_be_given(t5, rows):
    memory = t5.encode(torch.tensor([rows[0]]))
    assert torch.equal(t5.generate(encoder_outputs=memory, max_new_tokens=8), t5.generate([rows[0]], max_new_tokens=8))


def test_decoder_may_begin_with_more(t5, rows):
    starts = [[0, 9, 12], [0, 17]]
    found = t5.generate(rows[:2], decoder_input_ids=starts, max_new_tokens=6, eos_token_id=None)
    for i, start in enumerate(starts):
        single = t5.generate([rows[i]], decoder_input_ids=[start], max_new_tokens=6, eos_token_id=None)
        assert found[i, 3:].tolist() == single[0, len(start) :].tolist()
