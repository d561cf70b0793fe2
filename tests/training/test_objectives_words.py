"""Objectives that predict words, against the reference's own losses and against what their papers say."""

from __future__ import annotations

import itertools
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import regard
from regard.models.registry import families
from regard.training.losses import IGNORE
from regard.training.objectives import CausalLM, Denoising, MaskedLM, Seq2Seq, SpanCorruption
from regard.training.softmax import AdaptiveSoftmax, HierarchicalSoftmax, SampledSoftmax
from tests.models import senses
from tests.training.lessons import collate, loss, padded, pair, parts_add_up, words

RAGGED = (7, 11, 3, 11, 2)
CAUSAL = [("gpt2", "gpt2", "GPT2LMHeadModel"), ("llama", "llama", "LlamaForCausalLM")]
CAUSAL += [("gemma2", "gemma2", "Gemma2ForCausalLM")]  # caps its scores
SEQ2SEQ = [("t5", "t5", "T5ForConditionalGeneration"), ("bart", "bart", "BartForConditionalGeneration")]
SEQ2SEQ += [("mbart", "mbart", "MBartForConditionalGeneration")]  # its last token starts the target


# ------------------------------------------------------------------------------------------------ next word


@pytest.mark.parametrize("case", CAUSAL, ids=lambda case: case[0])
@pytest.mark.parametrize("lengths", [RAGGED, (9, 9, 9)], ids=["ragged", "blocks"])
def test_next_words_as_the_reference_counts_them(case: tuple[str, str, str], lengths: tuple[int, ...]) -> None:
    theirs, ours = pair(*case)
    rows = words(lengths)
    each = [torch.tensor(row)[None] for row in rows]
    wanted = sum(theirs(input_ids=ids, labels=ids).loss * (ids.shape[1] - 1) for ids in each)
    wanted = wanted / (sum(lengths) - len(lengths))
    if case[0] != "gemma2":  # there padding gives the reference nan in float64
        ids, mask = padded(rows, 5)
        together = theirs(input_ids=ids, attention_mask=mask, labels=ids.masked_fill(mask == 0, IGNORE)).loss
        torch.testing.assert_close(together, wanted, rtol=1e-5, atol=0)
    objective = CausalLM()
    batch = collate(objective, [{"input_ids": row} for row in rows])
    assert batch.count == sum(lengths) - len(lengths)
    assert ("lengths" in batch.inputs) == (len(set(lengths)) > 1)
    torch.testing.assert_close((objective(ours, batch) / batch.count).float(), wanted.float(), rtol=1e-5, atol=0)


def test_prompts_are_read_and_not_learnt() -> None:
    theirs, ours = pair(*CAUSAL[0])
    rows = words(RAGGED)
    labels = [np.where(np.arange(len(row)) < len(row) // 2, IGNORE, row) for row in rows]
    ids, mask = padded(rows, 5)
    goals, _ = padded(labels, IGNORE)
    wanted = theirs(input_ids=ids, attention_mask=mask, labels=goals).loss
    objective = CausalLM()
    batch = collate(objective, [{"input_ids": row, "labels": goal} for row, goal in zip(rows, labels, strict=True)])
    assert batch.count == sum(int((goal[1:] != IGNORE).sum()) for goal in labels)
    torch.testing.assert_close((objective(ours, batch) / batch.count).float(), wanted.float(), rtol=1e-5, atol=0)


def test_documents_do_not_see_each_other_and_add_up() -> None:
    _, ours = pair(*CAUSAL[1])
    rows = [{"input_ids": row} for row in words((*RAGGED, 1))]  # one token has no next one
    parts_add_up(CausalLM(), ours, rows, 2)
    alone = sum(loss(CausalLM(), ours, [row]) for row in rows)
    torch.testing.assert_close(loss(CausalLM(), ours, rows), alone, rtol=1e-9, atol=0)


def test_a_row_may_be_one_longer_than_the_model_takes_and_no_more() -> None:
    _, ours = pair(*CAUSAL[0])  # 40 positions
    assert loss(CausalLM(), ours, [{"input_ids": words((41,))[0]}]).isfinite()
    with pytest.raises(ValueError, match="takes at most 40"):
        loss(CausalLM(), ours, [{"input_ids": words((42,))[0]}])


def test_words_beside_images_as_the_reference_counts_them() -> None:
    theirs, ours = pair("llava", "llava", "LlavaForConditionalGeneration")
    draw = np.random.default_rng(0)
    rows, total = [], 0.0
    for length in (9, 12, 9):
        ids = senses.with_images(theirs, torch.tensor(words((length,), seed=length)[0])[None])
        image = draw.standard_normal((3, 32, 32)).astype(np.float32)
        labels = ids.masked_fill(ids == theirs.config.image_token_id, IGNORE)
        out = theirs(input_ids=ids, pixel_values=torch.tensor(image)[None].double(), labels=labels)
        total += float(out.loss.detach()) * int((labels[:, 1:] != IGNORE).sum())
        rows.append({"input_ids": ids[0].numpy(), "labels": labels[0].numpy(), "pixel_values": image})
    assert loss(CausalLM(), ours, rows).item() == pytest.approx(total, rel=1e-5)
    parts_add_up(CausalLM(), ours, rows, 1)


def test_what_is_said_are_the_likeliest_words() -> None:
    theirs, ours = pair(*CAUSAL[0])
    row = words((12,))[0]
    said, right = CausalLM().predict(ours, collate(CausalLM(), [{"input_ids": row}]))
    best = theirs(input_ids=torch.tensor(row)[None]).logits[0, :-1].argmax(-1)
    assert said == best.tolist() and right == row[1:].tolist()


def test_balance_of_experts_is_added_to_the_mean() -> None:
    _, ours = pair("mixtral", "mixtral", "MixtralForCausalLM")
    rows = [{"input_ids": row} for row in words(RAGGED)]
    objective, batch = CausalLM(), collate(CausalLM(), rows)
    plain = objective(ours, batch)
    ours.train()
    _, ctx = ours.hidden(**batch.inputs)
    assert len(ctx.losses) == 1  # of all layers together
    added = objective(ours, batch) / batch.count - plain / batch.count
    torch.testing.assert_close(added, sum(ctx.losses).double(), rtol=1e-4, atol=0)
    assert added > 0


@pytest.mark.parametrize("kind", ["adaptive", "sampled", "hierarchical"])
def test_another_softmax_takes_the_place_of_the_head(kind: str) -> None:
    _, ours = pair(*CAUSAL[0])
    other: Any = {
        "adaptive": lambda: AdaptiveSoftmax(32, 97, cutoffs=[20]),
        "sampled": lambda: SampledSoftmax(32, 97, samples=9),
        "hierarchical": lambda: HierarchicalSoftmax(32, 97),
    }[kind]()
    objective = CausalLM(vocabulary=other.double())
    rows = [{"input_ids": row} for row in words(RAGGED)]
    batch = collate(objective, rows)
    if kind == "sampled":
        objective(ours, batch).backward()  # its draw differs from call to call
        assert any(p.grad.any() for p in other.parameters())
    objective.eval()
    parts_add_up(objective, ours, rows, 2)
    hidden, _ = ours.hidden(**batch.inputs)
    log_prob = other.log_prob(hidden[batch.targets["places"]])
    slow = -log_prob[torch.arange(batch.count), batch.targets["labels"]].sum()
    torch.testing.assert_close(objective(ours, batch), slow, rtol=1e-9, atol=0)
    assert objective.predict(ours, batch)[0] == log_prob.argmax(-1).tolist()


def test_smoothing_is_for_training_alone() -> None:
    _, ours = pair(*CAUSAL[0])
    rows = [{"input_ids": row} for row in words(RAGGED)]
    smooth = CausalLM(smoothing=0.1)
    batch = collate(smooth, rows)
    hidden, _ = ours.hidden(**batch.inputs)
    scores = ours.logits(hidden[batch.targets["places"]])
    slow = F.cross_entropy(scores, batch.targets["labels"], reduction="sum", label_smoothing=0.1)
    torch.testing.assert_close(smooth(ours, batch), slow, rtol=1e-9, atol=0)
    torch.testing.assert_close(smooth.eval()(ours, batch), CausalLM()(ours, batch), rtol=1e-12, atol=0)


# ------------------------------------------------------------------------------------------------ hidden words


@pytest.mark.parametrize(
    "case",
    [("bert", "bert", "BertForMaskedLM"), ("albert", "albert", "AlbertForMaskedLM")],
    ids=lambda case: case[0],
)
def test_hidden_words_as_the_reference_counts_them(case: tuple[str, str, str]) -> None:
    theirs, ours = pair(*case)
    rows = words(RAGGED)
    labels = [np.where(np.arange(len(row)) % 3 == 1, row + 1 - (row == 96), IGNORE) for row in rows]
    ids, mask = padded(rows, 0)
    types = [np.arange(len(row)) // 3 % 2 for row in rows]
    wanted = theirs(
        input_ids=ids,
        attention_mask=mask,
        token_type_ids=padded(types, 0)[0],
        labels=padded(labels, IGNORE)[0],
    ).loss
    objective = MaskedLM(mask=3, vocab_size=97)
    keys = ("input_ids", "token_type_ids", "labels")
    examples = [dict(zip(keys, row, strict=True)) for row in zip(rows, types, labels, strict=True)]
    batch = collate(objective, examples)
    torch.testing.assert_close((objective(ours, batch) / batch.count).float(), wanted.float(), rtol=1e-5, atol=0)
    parts_add_up(objective, ours, examples, 3)


def test_15_percent_are_hidden_80_10_10() -> None:
    objective = MaskedLM(mask=3, vocab_size=97, special=(0, 1, 2))
    rng = np.random.default_rng(0)
    total, chosen, masked, same, where = 0, 0, 0, 0, np.zeros(40)
    others: Counter[int] = Counter()
    for row in words((40,) * 2000):
        row = np.concatenate([[1], row, [2]])
        spoilt, labels = objective.hidden([], 0, row, rng)
        here = labels != IGNORE
        assert (
            not here[0] and not here[-1] and (spoilt[~here] == row[~here]).all() and (labels[here] == row[here]).all()
        )
        total, chosen = total + 40, chosen + int(here.sum())
        masked += int((spoilt[here] == 3).sum())
        same += int((spoilt[here] == row[here]).sum())
        others.update(spoilt[here & (spoilt != 3) & (spoilt != row)].tolist())
        where += here[1:-1]
    assert chosen == total * 0.15  # 6 of 40, in every row
    assert masked / chosen == pytest.approx(0.8, abs=0.015)
    assert same / chosen == pytest.approx(0.1 + 0.1 / 93, abs=0.012)
    assert set(others) == set(range(4, 97))  # any word, and no special one
    assert where / 2000 == pytest.approx(np.full(40, 0.15), abs=0.04)


def test_short_rows_give_their_share_and_at_least_one() -> None:
    objective = MaskedLM(mask=3, vocab_size=97)
    rng = np.random.default_rng(0)
    counts = [int((objective.hidden([], 0, row, rng)[1] != IGNORE).sum()) for row in words((10,) * 3000)]
    assert set(counts) == {1, 2} and np.mean(counts) == pytest.approx(1.5, abs=0.04)
    assert (objective.hidden([], 0, words((2,))[0], rng)[1] != IGNORE).sum() == 1
    assert (objective.hidden([], 0, np.array([3, 3]), rng)[1] == IGNORE).all()  # nothing to hide


def test_masks_are_drawn_anew_from_the_generator_alone() -> None:
    objective, rows = MaskedLM(mask=3, vocab_size=97), [{"input_ids": row} for row in words(RAGGED)]
    first, again, other = (collate(objective, rows, seed).inputs["input_ids"] for seed in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_whole_words_are_hidden_whole() -> None:
    objective = MaskedLM(mask=3, vocab_size=97, whole_words=True)
    rng = np.random.default_rng(0)
    numbers = np.array([-1, 0, 0, 1, 2, 2, 2, 3, 4, 5, 5, 6, 7, 8, 8, 8, 9, 9, -1])
    count = 0
    for _ in range(500):
        row = rng.integers(7, 97, len(numbers))
        labels = objective.hidden([{"word_ids": numbers}], 0, row, rng)[1]
        for word in range(10):
            hidden = labels[numbers == word] != IGNORE
            assert hidden.all() or not hidden.any()
        assert (labels[numbers == -1] == IGNORE).all()
        count += int((labels != IGNORE).sum())
    assert count / 500 == pytest.approx(17 * 0.15, rel=0.1)
    with pytest.raises(ValueError, match="row 0 of the batch has no 'word_ids'"):
        collate(objective, [{"input_ids": row}])


# ------------------------------------------------------------------------------------------------ texts from texts


def pairs(case: tuple[str, str, str], shape: str) -> tuple[list[np.ndarray], list[np.ndarray]]:
    sources, goals = {
        "ragged": ((7, 11, 4, 9, 9), (5, 8, 3, 8, 6)),  # targets of one length with sources of two: padded
        "packed": ((7, 9, 4, 9, 9), (5, 8, 3, 8, 6)),
        "even": ((8, 8, 8), (5, 5, 5)),
        "even sources": ((8, 8, 8), (5, 3, 5)),
    }[shape]
    return words(sources), words(goals, seed=1)


@pytest.mark.parametrize("shape", ["ragged", "packed", "even", "even sources"])
@pytest.mark.parametrize("case", SEQ2SEQ, ids=lambda case: case[0])
def test_targets_as_the_reference_counts_them(case: tuple[str, str, str], shape: str) -> None:
    theirs, ours = pair(*case)
    sources, goals = pairs(case, shape)
    total = 0.0
    for source, goal in zip(sources, goals, strict=True):  # the reference alone, without padding
        out = theirs(input_ids=torch.tensor(source)[None], labels=torch.tensor(goal)[None])
        total += float(out.loss.detach()) * len(goal)
    objective = Seq2Seq()
    rows = [{"input_ids": s, "labels": g} for s, g in zip(sources, goals, strict=True)]
    batch = collate(objective, rows)
    assert ("goal_lengths" in batch.targets) == (shape in ("packed", "even sources"))
    assert batch.count == sum(map(len, goals))
    assert objective(ours, batch).item() == pytest.approx(total, rel=1e-5)
    parts_add_up(objective, ours, rows, 2)


@pytest.mark.parametrize("case", SEQ2SEQ[:2], ids=lambda case: case[0])
def test_smoothed_targets_as_the_reference_counts_them(case: tuple[str, str, str]) -> None:
    from transformers.trainer_pt_utils import LabelSmoother

    theirs, ours = pair(*case)
    sources, goals = pairs(case, "ragged")
    ids, mask = padded(sources, 5)
    labels, _ = padded(goals, IGNORE)
    out = theirs(input_ids=ids, attention_mask=mask, labels=labels)
    wanted = LabelSmoother(epsilon=0.1)(out, labels)
    objective = Seq2Seq(smoothing=0.1)
    batch = collate(objective, [{"input_ids": s, "labels": g} for s, g in zip(sources, goals, strict=True)])
    torch.testing.assert_close((objective(ours, batch) / batch.count), wanted.double(), rtol=1e-5, atol=0)


def test_transcripts_of_sound_as_the_reference_counts_them() -> None:
    theirs, ours = pair("whisper", "whisper", "WhisperForConditionalGeneration")
    config = theirs.config
    draw = np.random.default_rng(0)
    shape = (config.num_mel_bins, 2 * config.max_source_positions)
    sounds = [draw.standard_normal(shape).astype(np.float32) for _ in range(3)]
    goals = words((6, 4, 6), high=config.vocab_size)
    labels, _ = padded(goals, IGNORE)
    wanted = theirs(input_features=torch.tensor(np.stack(sounds)).double(), labels=labels).loss
    objective = Seq2Seq()
    rows = [{"input_features": s, "labels": g} for s, g in zip(sounds, goals, strict=True)]
    batch = collate(objective, rows)
    torch.testing.assert_close((objective(ours, batch) / batch.count).float(), wanted.float(), rtol=1e-5, atol=0)
    parts_add_up(objective, ours, rows, 1)


def test_captions_of_images_as_the_reference_counts_them() -> None:
    theirs, ours = pair("blip", "blip", "BlipForConditionalGeneration")
    rows = words((7, 7, 5))
    draw = np.random.default_rng(0)
    images = [draw.standard_normal((3, 32, 32)).astype(np.float32) for _ in rows]
    for row in rows:
        row[0] = theirs.config.text_config.bos_token_id
    total = 0.0
    for row, image in zip(rows, images, strict=True):
        ids = torch.tensor(row)[None]
        out = theirs(pixel_values=torch.tensor(image)[None].double(), input_ids=ids, labels=ids)
        total += float(out.loss.detach()) * (len(row) - 1)
    # Its targets are the words after the first one, smoothed by 0.1; ours begin without the start token.
    objective = Seq2Seq(smoothing=theirs.text_decoder.label_smoothing)
    batch = collate(objective, [{"pixel_values": i, "labels": r[1:]} for i, r in zip(images, rows, strict=True)])
    assert objective(ours, batch).item() == pytest.approx(total, rel=1e-5)


def test_what_is_written_is_what_the_model_generates() -> None:
    _, ours = pair(*SEQ2SEQ[1])
    sources, goals = pairs(SEQ2SEQ[1], "packed")
    objective = Seq2Seq(max_new_tokens=6)
    batch = collate(objective, [{"input_ids": s, "labels": g} for s, g in zip(sources, goals, strict=True)])
    said, right = objective.predict(ours, batch)
    order = sorted(range(5), key=lambda i: (len(goals[i]), len(sources[i])))
    ends = set(ours.config.tokens.eos)
    for i, text, goal in zip(order, said, right, strict=True):
        assert goal == tuple(goals[i].tolist())
        alone = ours.generate(torch.tensor(sources[i])[None], max_new_tokens=6)[0, 1:].tolist()
        assert text == tuple(t for t in alone if t not in ends)


# ------------------------------------------------------------------------------------------------ spoilt texts


def test_runs_of_words_become_sentinels_and_can_be_put_back() -> None:
    objective = SpanCorruption(sentinel=199, last_sentinel=150, eos=1)
    rng = np.random.default_rng(0)
    hidden = runs = total = 0
    for row in words([*range(2, 60)] * 8, high=140):
        source, goal = objective.corrupted(row, rng)
        assert source[-1] == goal[-1] == 1
        source, goal = source[:-1], goal[:-1]
        marks = source[source >= 150]
        assert marks.tolist() == list(range(199, 199 - len(marks), -1))
        assert goal[goal >= 150].tolist() == [*marks, 199 - len(marks)] and goal[-1] == 199 - len(marks)
        pieces = {int(m): p for m, p in zip(marks, np.split(goal, np.flatnonzero(goal >= 150))[1:], strict=False)}
        restored = np.concatenate([pieces[int(w)][1:] if w >= 150 else [w] for w in source])
        assert restored.tolist() == row.tolist()
        assert all(len(piece) > 1 for piece in pieces.values())
        assert not any(a >= 150 and b >= 150 for a, b in itertools.pairwise(source))
        hidden, runs, total = hidden + len(goal) - 1 - len(marks), runs + len(marks), total + len(row)
    assert hidden / total == pytest.approx(0.15, abs=0.01)
    assert hidden / runs == pytest.approx(3.0, abs=0.35)


def test_hidden_runs_lie_anywhere_and_bad_rows_are_named() -> None:
    objective = SpanCorruption(sentinel=199, last_sentinel=198, eos=1)
    rng = np.random.default_rng(0)
    row = np.arange(20) + 10
    seen = Counter(i for _ in range(4000) for i in objective.corrupted(row, rng)[1][1:-2].tolist())
    # One run of 3 of 20 tokens stands at 18 places: its middle at each equally often.
    assert sum(seen.values()) == 12000
    assert [seen[10 + i] / 4000 for i in range(20)] == pytest.approx(
        [min(i + 1, 3, 20 - i) / 18 for i in range(20)], abs=0.03
    )
    with pytest.raises(ValueError, match="row 1 of the batch: input_ids has 1 token"):
        collate(objective, [{"input_ids": row}, {"input_ids": row[:1]}])
    with pytest.raises(ValueError, match="allowed: 1, one fewer than sentinels"):
        collate(objective, [{"input_ids": np.arange(100) + 10}])


def test_infilling_hides_30_percent_in_poisson_runs() -> None:
    objective = Denoising(mask=3, special=(0, 2))
    rng = np.random.default_rng(0)
    gone = masks = total = 0
    for row in words((50,) * 1500, low=10):
        spoilt = objective.spoilt(np.concatenate([[0], row, [2]]), rng)
        assert spoilt[0] == 0 and spoilt[-1] == 2
        body = spoilt[1:-1]
        kept = body[body != 3]
        assert _is_part(kept, row)  # in order
        assert not any(a == b == 3 for a, b in itertools.pairwise(body))
        gone, masks, total = gone + len(row) - len(kept), masks + int((body == 3).sum()), total + len(row)
    assert gone == total * 0.3
    # The last run is cut to fit. By Wald, E[runs] * 3 = 15 + E[what goes too far]: 12 / 6 - 1 / 2 for Poisson(3).
    assert masks / 1500 == pytest.approx(16.5 / 3, rel=0.02)
    empty = [objective.spans(50, rng).count(0) for _ in range(3000)]
    assert np.mean(empty) == pytest.approx(np.exp(-3) * masks / 1500, abs=0.05)  # P(0) of Poisson(3)


def _is_part(short: np.ndarray, long: np.ndarray) -> bool:
    rest = iter(long.tolist())
    return all(word in rest for word in short.tolist())


def test_sentences_change_places_whole() -> None:
    objective = Denoising(mask=3, special=(0, 2), sentence_ends=(9,), part=0.0)
    rng = np.random.default_rng(0)
    row = np.array([0, 11, 12, 9, 13, 9, 14, 15, 16, 2])
    orders = Counter(tuple(objective.spoilt(row, rng).tolist()) for _ in range(600))
    sentences = [(11, 12, 9), (13, 9), (14, 15, 16)]
    wanted = {(0, *itertools.chain(*order), 2) for order in itertools.permutations(sentences)}
    assert set(orders) == wanted
    assert min(orders.values()) > 60


def test_spoilt_texts_are_learnt_as_pairs() -> None:
    _, ours = pair(*SEQ2SEQ[0])
    rows = [{"input_ids": row} for row in words((9, 12, 20), high=80)]
    for objective in (SpanCorruption(sentinel=96, last_sentinel=80, eos=1), Denoising(mask=5)):
        batch = collate(objective, rows)
        assert objective(ours, batch).isfinite() and batch.count == len(batch.targets["labels"])
    denoised = collate(Denoising(mask=5), rows)
    assert sorted(denoised.targets["labels"].tolist()) == sorted(int(i) for row in rows for i in row["input_ids"])


# ------------------------------------------------------------------------------------------------ learning, errors


def test_one_batch_can_be_learnt_by_heart() -> None:
    config = dict(families()["t5"].tiny["t5"])
    model = regard.from_config(config, head="seq2seq-lm").train()
    objective = Seq2Seq(smoothing=0.0)
    rows = [{"input_ids": s, "labels": np.append(s[::-1], 1)} for s in words((5, 6, 7))]
    batch = objective.collate(rows, np.random.default_rng(0))
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(80):
        optimiser.zero_grad()
        value = objective(model, batch) / batch.count
        value.backward()
        optimiser.step()
        if value < 0.05:
            break
    said, right = objective.predict(model.eval(), batch)
    assert said == right, value


def test_bad_rows_and_options_are_named() -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="row 1 of the batch has no 'input_ids'; it has text"):
        CausalLM().collate([{"input_ids": [1, 2]}, {"text": "a"}], rng)
    with pytest.raises(ValueError, match="row 0 of the batch: input_ids is of float64; allowed: whole numbers"):
        CausalLM().collate([{"input_ids": [1.5, 2.0]}], rng)
    with pytest.raises(ValueError, match="row 0 of the batch: labels has 3 items; allowed: 2"):
        CausalLM().collate([{"input_ids": [1, 2], "labels": [1, 2, 3]}], rng)
    with pytest.raises(ValueError, match="row 0 of the batch: input_ids"):
        CausalLM().collate([{"input_ids": []}], rng)
    with pytest.raises(ValueError, match="no 'labels'"):
        Seq2Seq().collate([{"input_ids": [1, 2]}], rng)
    with pytest.raises(ValueError, match="0 rows"):
        CausalLM().collate([], rng)
    with pytest.raises(ValueError, match="smoothing is 1"):
        CausalLM(smoothing=1.0)
    with pytest.raises(ValueError, match="mask is 97"):
        MaskedLM(mask=97, vocab_size=97)
    with pytest.raises(ValueError, match="allowed with vocabulary: 0"):
        CausalLM(smoothing=0.1, vocabulary=HierarchicalSoftmax(4, 4))
