"""Objectives of labels, spans and letters, against the reference's own losses."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import regard
from regard.config import RunsConfig
from regard.models.registry import families
from regard.senses.audio import hidden_runs
from regard.training.losses import IGNORE
from regard.training.objectives import CTC, Classification, QuestionAnswering, TokenClassification
from regard.training.objectives.classification import Kind
from regard.training.objectives.token_classification import first_tokens
from tests.models import oracle
from tests.training.lessons import collate, loss, padded, pair, parts_add_up, words

RAGGED = (7, 11, 3, 11, 5)
TEXT = [("bert", "bert", "BertForSequenceClassification"), ("gpt2", "gpt2", "GPT2ForSequenceClassification")]
TEXT += [("bart", "bart", "BartForSequenceClassification"), ("t5", "t5", "T5ForSequenceClassification")]
SENSES = [("vit", "vit", "ViTForImageClassification"), ("wav2vec2", "wav2vec2", "Wav2Vec2ForSequenceClassification")]
SENSES += [("ast", "ast", "ASTForAudioClassification"), ("swin", "swin", "SwinForImageClassification")]
PROBLEMS: dict[Kind, str] = {
    "single": "single_label_classification",
    "multi": "multi_label_classification",
    "regression": "regression",
}


def examples(theirs: Any, name: str, kind: Kind) -> tuple[list[dict[str, Any]], list[Tensor]]:
    """Rows with labels for a reference model, and its own inputs row by row."""
    parts = oracle.random_rows(theirs, RAGGED) if not _sees(theirs) else list(torch.randn(5, *_pixels(theirs)))
    draw = np.random.default_rng(1)
    classes = theirs.config.num_labels
    labels: list[Any] = {
        "single": lambda: draw.integers(0, classes, 5).tolist(),
        "multi": lambda: list(draw.integers(0, 2, (5, classes))),
        "regression": lambda: list(draw.standard_normal((5, classes))),
    }[kind]()
    return [{name: part.numpy(), "labels": label} for part, label in zip(parts, labels, strict=True)], parts


def _sees(theirs: Any) -> bool:
    return theirs.main_input_name == "pixel_values"


def _pixels(theirs: Any) -> tuple[int, ...]:
    size = theirs.config.image_size
    return (theirs.config.num_channels, size, size)


@pytest.mark.parametrize("kind", PROBLEMS)
@pytest.mark.parametrize("case", TEXT + SENSES, ids=lambda case: case[0])
def test_labels_as_the_reference_counts_them(case: tuple[str, str, str], kind: Kind) -> None:
    theirs, ours = pair(*case)
    name = theirs.main_input_name
    rows, parts = examples(theirs, name, kind)
    theirs.config.problem_type = PROBLEMS[kind]
    total = 0.0
    for row, part in zip(rows, parts, strict=True):
        part = part[None] if part.dtype == torch.long else part[None].double()
        label = torch.tensor(np.asarray(row["labels"]))[None]
        label = label if kind == "single" else label.double()
        if case[0] in ("wav2vec2",) and kind != "single":  # knows no other kind
            scores = theirs(**{name: part}).logits
            binary = F.binary_cross_entropy_with_logits
            total += float((binary if kind == "multi" else F.mse_loss)(scores, label))
        else:
            total += float(theirs(**{name: part}, labels=label).loss.detach())
    objective = Classification(kind=kind)
    batch = collate(objective, rows)
    assert batch.count == 5
    assert objective(ours, batch).item() == pytest.approx(total, rel=1e-5)
    parts_add_up(objective, ours, rows, 2)


@pytest.mark.parametrize("kind", PROBLEMS)
def test_padded_texts_give_the_same(kind: Kind) -> None:
    theirs, ours = pair(*TEXT[0])
    rows, parts = examples(theirs, "input_ids", kind)
    theirs.config.problem_type = PROBLEMS[kind]
    ids, mask = padded([part.numpy() for part in parts], 0)
    labels = torch.tensor(np.stack([row["labels"] for row in rows]))
    wanted = theirs(input_ids=ids, attention_mask=mask, labels=labels if kind == "single" else labels.double()).loss
    assert float(loss(Classification(kind=kind), ours, rows)) / 5 == pytest.approx(float(wanted), rel=1e-5)


def test_one_number_is_the_regression_of_one_class() -> None:
    fields = {**families()["bert"].tiny["bert"], "num_labels": 1}
    model = regard.from_config(fields, head="classification").double().eval()
    rows = [{"input_ids": row, "labels": 0.5 * i} for i, row in enumerate(words(RAGGED))]
    scores = torch.cat([model(torch.tensor(row["input_ids"])[None]).logits[0] for row in rows])
    slow = sum((float(s) - 0.5 * i) ** 2 for i, s in enumerate(scores))
    assert loss(Classification(kind="regression"), model, rows).item() == pytest.approx(slow, rel=1e-9)
    said, right = Classification(kind="regression").predict(model, collate(Classification(kind="regression"), rows))
    assert sorted(said) == pytest.approx(sorted(scores.tolist()))
    assert dict(zip(right, said, strict=True)) == pytest.approx({0.5 * i: float(s) for i, s in enumerate(scores)})


def test_classes_may_weigh_and_targets_be_smoothed() -> None:
    _, ours = pair(*TEXT[0])
    rows = [{"input_ids": row, "labels": i % 2} for i, row in enumerate(words(RAGGED))]
    scores = torch.cat([ours(torch.tensor(row["input_ids"])[None]).logits for row in rows])
    labels = torch.tensor([0, 1, 0, 1, 0])
    log_p = scores.log_softmax(-1)
    weighed = -sum([0.2, 3.0][c] * log_p[i, c] for i, c in enumerate(labels))
    torch.testing.assert_close(loss(Classification(weights=[0.2, 3.0]), ours, rows), weighed, rtol=1e-6, atol=0)
    smooth = -sum(0.9 * log_p[i, c] + 0.05 * log_p[i].sum() for i, c in enumerate(labels))
    torch.testing.assert_close(loss(Classification(smoothing=0.1), ours, rows), smooth, rtol=1e-6, atol=0)
    several = [{**row, "labels": [1, i % 2]} for i, row in enumerate(rows)]
    sigma = scores.sigmoid()
    slow = torch.zeros((), dtype=torch.float64)
    for i in range(5):
        slow -= (2.0 * sigma[i, 0].log() + (5.0 * sigma[i, 1].log() if i % 2 else (1 - sigma[i, 1]).log())) / 2
    found = loss(Classification(kind="multi", weights=[2.0, 5.0]), ours, several)
    torch.testing.assert_close(found, slow, rtol=1e-6, atol=0)


def test_what_is_said_of_whole_rows() -> None:
    theirs, ours = pair(*TEXT[0])
    rows, parts = examples(theirs, "input_ids", "single")
    scores = torch.cat([theirs(input_ids=part[None]).logits for part in parts])
    order = sorted(range(5), key=lambda i: len(parts[i]))
    said, right = Classification().predict(ours, collate(Classification(), rows))
    assert said == [int(scores[i].argmax()) for i in order] and right == [rows[i]["labels"] for i in order]
    several = [{**row, "labels": [i % 2, 1]} for i, row in enumerate(rows)]
    multi = Classification(kind="multi")
    said, right = multi.predict(ours, collate(multi, several))
    assert said == [tuple(j for j in range(2) if scores[i, j] > 0) for i in order]
    assert right == [(0, 1) if i % 2 else (1,) for i in order]


# ------------------------------------------------------------------------------------------------ tokens


@pytest.mark.parametrize(
    "case",
    [("bert", "bert", "BertForTokenClassification"), ("gpt2", "gpt2", "GPT2ForTokenClassification")],
    ids=lambda case: case[0],
)
def test_labels_of_tokens_as_the_reference_counts_them(case: tuple[str, str, str]) -> None:
    theirs, ours = pair(*case)
    rows = words(RAGGED)
    labels = [np.where(np.arange(len(row)) % 3 == 1, IGNORE, row % 2) for row in rows]
    ids, mask = padded(rows, 5)
    wanted = theirs(input_ids=ids, attention_mask=mask, labels=padded(labels, IGNORE)[0]).loss
    objective = TokenClassification()
    given = [{"input_ids": row, "labels": label} for row, label in zip(rows, labels, strict=True)]
    batch = collate(objective, given)
    assert batch.count == sum(int((label != IGNORE).sum()) for label in labels)
    assert objective(ours, batch).item() / batch.count == pytest.approx(float(wanted), rel=1e-5)
    parts_add_up(objective, ours, given, 2)
    said, right = objective.predict(ours, batch)
    order = sorted(range(5), key=lambda i: len(rows[i]))
    assert right == [tuple(labels[i][labels[i] != IGNORE].tolist()) for i in order]
    for i, row in zip(order, said, strict=True):
        best = theirs(input_ids=torch.tensor(rows[i])[None]).logits[0].argmax(-1).numpy()
        assert row == tuple(best[labels[i] != IGNORE].tolist())


def test_words_are_labelled_at_their_first_token() -> None:
    #                    [CLS]  a   b1  b2  c1  c2  c3  [SEP]
    numbers = np.array([-1, 0, 1, 1, 2, 2, 2, -1])
    assert first_tokens(np.array([4, 5, 6]), numbers).tolist() == [-100, 4, 5, -100, 6, -100, -100, -100]
    _, ours = pair("bert", "bert", "BertForTokenClassification")
    ids = words((8,))[0]
    by_word = {"input_ids": ids, "labels": [0, 1, 1], "word_ids": numbers}
    by_token = {"input_ids": ids, "labels": [-100, 0, 1, -100, 1, -100, -100, -100]}
    assert torch.equal(loss(TokenClassification(), ours, [by_word]), loss(TokenClassification(), ours, [by_token]))
    with pytest.raises(ValueError, match="row 0 of the batch: labels has 2 items; allowed: 3 words"):
        collate(TokenClassification(), [{**by_word, "labels": [0, 1]}])
    with pytest.raises(ValueError, match="labels has 3 items; allowed: 8"):
        collate(TokenClassification(), [{"input_ids": ids, "labels": [0, 1, 1]}])


# ------------------------------------------------------------------------------------------------ answers


@pytest.mark.parametrize(
    "case",
    [("bert", "bert", "BertForQuestionAnswering"), ("bart", "bart", "BartForQuestionAnswering")],
    ids=lambda case: case[0],
)
@pytest.mark.parametrize("lengths", [RAGGED, (6, 6, 6, 6, 6)], ids=["ragged", "even"])
def test_answers_as_the_reference_counts_them(case: tuple[str, str, str], lengths: tuple[int, ...]) -> None:
    theirs, ours = pair(*case)
    rows = [
        {"input_ids": row, "start_positions": len(row) // 3, "end_positions": len(row) // 2} for row in words(lengths)
    ]
    total = 0.0
    for row in rows:
        given = {"start_positions": torch.tensor([row["start_positions"]])}
        given["end_positions"] = torch.tensor([row["end_positions"]])
        total += float(theirs(input_ids=torch.tensor(row["input_ids"])[None], **given).loss)
    objective = QuestionAnswering()
    assert loss(objective, ours, rows).item() == pytest.approx(total, rel=1e-5)
    parts_add_up(objective, ours, rows, 2)


def test_the_likeliest_answer_ends_after_it_starts_and_soon() -> None:
    theirs, ours = pair("bert", "bert", "BertForQuestionAnswering")
    rows = [{"input_ids": row, "start_positions": 1, "end_positions": 2} for row in words(RAGGED)]
    for longest in (1, 2, 30):
        objective = QuestionAnswering(longest=longest)
        said, right = objective.predict(ours, collate(objective, rows))
        for text, goal, row in zip(said, right, sorted(rows, key=lambda row: len(row["input_ids"])), strict=True):
            ids = row["input_ids"]
            out = theirs(input_ids=torch.tensor(ids)[None])
            start, end = out.start_logits[0], out.end_logits[0]
            spans = [(a, b) for a in range(len(ids)) for b in range(a, min(len(ids), a + longest))]
            a, b = max(spans, key=lambda ab: float(start[ab[0]] + end[ab[1]]))
            assert text == tuple(ids[a : b + 1].tolist()) and goal == tuple(ids[1:3].tolist())
    with pytest.raises(ValueError, match="row 0 of the batch has an answer from 2 to 1; allowed: within 0 to 6"):
        collate(objective, [{**rows[0], "start_positions": 2, "end_positions": 1}])


# ------------------------------------------------------------------------------------------------ letters


def recordings(lengths: tuple[int, ...]) -> list[dict[str, Any]]:
    draw = np.random.default_rng(0)
    sounds = [draw.standard_normal(n).astype(np.float32) for n in lengths]
    letters = [draw.integers(1, 31, 2 + i % 3) for i in range(len(lengths))]
    letters[0][1] = letters[0][0]  # needs a blank between
    return [{"input_values": s, "labels": t} for s, t in zip(sounds, letters, strict=True)]


@pytest.mark.parametrize("variant", ["wav2vec2", "wav2vec2 large"])
def test_letters_as_the_reference_counts_them(variant: str) -> None:
    theirs, ours = pair("wav2vec2", variant, "Wav2Vec2ForCTC")
    theirs.config.ctc_loss_reduction = "sum"
    rows = recordings((300, 460, 380, 460))
    total = 0.0
    for row in rows:
        sound, letters = torch.tensor(row["input_values"])[None].double(), torch.tensor(row["labels"])[None]
        total += float(theirs(input_values=sound, labels=letters).loss)
    objective = CTC()
    assert loss(objective, ours, rows).item() == pytest.approx(total, rel=1e-5)
    parts_add_up(objective, ours, rows, 2)
    even = [rows[1], rows[3]]
    batch = collate(objective, even)
    assert "lengths" not in batch.inputs and batch.count == 2
    sounds = torch.tensor(np.stack([row["input_values"] for row in even])).double()
    letters, _ = padded([row["labels"] for row in even], IGNORE)
    wanted = theirs(input_values=sounds, labels=letters).loss
    assert objective(ours, batch).item() == pytest.approx(float(wanted), rel=1e-5)


def test_padded_recordings_give_the_same_where_the_model_was_trained_with_masks() -> None:
    theirs, ours = pair("wav2vec2", "wav2vec2 large", "Wav2Vec2ForCTC")
    theirs.config.ctc_loss_reduction = "sum"
    rows = recordings((300, 460, 380, 460))
    width = 460
    sounds = np.stack([np.pad(row["input_values"], (0, width - len(row["input_values"]))) for row in rows])
    mask = torch.tensor([[1] * len(r["input_values"]) + [0] * (width - len(r["input_values"])) for r in rows])
    letters, _ = padded([row["labels"] for row in rows], IGNORE)
    wanted = theirs(input_values=torch.tensor(sounds).double(), attention_mask=mask, labels=letters).loss
    assert loss(CTC(), ours, rows).item() == pytest.approx(float(wanted), rel=1e-5)


def test_what_is_heard_are_the_best_letters_without_repetitions() -> None:
    theirs, ours = pair("wav2vec2", "wav2vec2", "Wav2Vec2ForCTC")
    rows = recordings((300, 460, 380, 460))
    said, right = CTC().predict(ours, collate(CTC(), rows))
    for text, goal, row in zip(said, right, sorted(rows, key=lambda row: len(row["input_values"])), strict=True):
        best = theirs(input_values=torch.tensor(row["input_values"])[None].double()).logits[0].argmax(-1).tolist()
        slow = [b for a, b in zip([None, *best[:-1]], best, strict=True) if b != a and b != 0]
        assert text == tuple(slow) and goal == tuple(row["labels"].tolist())


def test_moments_are_hidden_while_training_as_the_checkpoint_says() -> None:
    """Packed rows, against one row at a time with the same moments hidden."""
    _, ours = pair("wav2vec2", "wav2vec2", "Wav2Vec2ForCTC")
    front = ours.encoder.front
    runs = RunsConfig(part=0.2, span=5, least=1)
    front.config = front.config.replace(hidden_moments=runs, dropout=0.0, feature_dropout=0.0)
    objective = CTC()
    batch = collate(objective, recordings((1000, 3000, 2000, 2000)))
    moments = [front.frames(n) for n in batch.inputs["lengths"]]
    torch.manual_seed(1)
    hidden = hidden_runs(runs, moments)
    total = 0.0
    for i, (sound, n) in enumerate(
        zip(batch.inputs["input_values"].split(batch.inputs["lengths"]), moments, strict=True)
    ):
        features = ours(sound[None], mask_time_indices=hidden[i : i + 1, :n]).logits
        target = batch.targets["labels"].split(batch.targets["counts"])[i][None]
        log_p = features.log_softmax(-1).transpose(0, 1)
        total += float(F.ctc_loss(log_p, target, (n,), (target.shape[1],), reduction="sum").detach())
    assert objective(ours, batch).item() != pytest.approx(total, rel=1e-3)
    front.train()  # and nothing else, which would drop this and that
    torch.manual_seed(1)
    assert objective(ours, batch).item() == pytest.approx(total, rel=1e-6)


# ------------------------------------------------------------------------------------------------ errors


def test_bad_rows_and_options_are_named() -> None:
    row = {"input_ids": [8, 9]}
    with pytest.raises(ValueError, match="row 1 of the batch has no 'labels'"):
        collate(Classification(), [{**row, "labels": 1}, row])
    with pytest.raises(ValueError, match="labels is of float64; allowed: whole numbers"):
        collate(Classification(), [{**row, "labels": 1.5}])
    with pytest.raises(ValueError, match="row 0 of the batch: labels"):
        collate(Classification(), [{**row, "labels": "good"}])
    with pytest.raises(ValueError, match="allowed: one shape"):
        collate(Classification(kind="multi"), [{**row, "labels": [1, 0]}, {**row, "labels": [1]}])
    with pytest.raises(ValueError, match=r"pixel_values has rows of shape \(3, 4, 4\) and \(3, 5, 4\)"):
        collate(Classification(), [{"pixel_values": np.zeros((3, n, 4)), "labels": 0} for n in (5, 4)])
    with pytest.raises(ValueError, match="allowed: input_ids, input_values"):
        collate(Classification(), [{"text": "x", "labels": 0}])
    with pytest.raises(ValueError, match="kind is 'double'; allowed: single, multi, regression"):
        Classification(kind="double")  # type: ignore[arg-type]
    _, ours = pair(*TEXT[0])
    with pytest.raises(ValueError, match="the model's head has classes 0 to 1"):
        loss(Classification(), ours, [{**row, "labels": 2}])
    with pytest.raises(ValueError, match="weights has 3 numbers; allowed: 2"):
        loss(Classification(weights=[1, 2, 3]), ours, [{**row, "labels": 1}])
    with pytest.raises(ValueError, match="labels has 1 numbers a row; the model's head has 2"):
        loss(Classification(kind="regression"), ours, [{**row, "labels": 1.0}])
