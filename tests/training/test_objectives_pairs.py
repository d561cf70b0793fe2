"""Objectives of pairs and views, against the reference's own losses and formulas written out here."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import regard
from regard.models.registry import families
from regard.training.base import Batch
from regard.training.objectives import OBJECTIVES, Crops, ImageText, SelfDistillation, SentencePairs
from tests.training.lessons import collate, loss, padded, pair, words


def seen_and_said(theirs: Any, lengths: tuple[int, ...]) -> list[dict[str, Any]]:
    draw = np.random.default_rng(0)
    size, text = theirs.config.vision_config.image_size, theirs.config.text_config
    rows = words(lengths, high=text.vocab_size)
    for row in rows:
        row[-1] = text.eos_token_id
    images = [draw.standard_normal((3, size, size)).astype(np.float32) for _ in rows]
    return [{"input_ids": row, "pixel_values": image} for row, image in zip(rows, images, strict=True)]


@pytest.mark.parametrize("lengths", [(7, 7, 7, 7), (7, 11, 4, 11)], ids=["even", "ragged"])
def test_images_find_their_texts_as_the_reference_counts_it(lengths: tuple[int, ...]) -> None:
    theirs, ours = pair("clip", "clip", "CLIPModel")
    rows = seen_and_said(theirs, lengths)
    ids, mask = padded([row["input_ids"] for row in rows], 5)
    pixels = torch.tensor(np.stack([row["pixel_values"] for row in rows])).double()
    wanted = theirs(input_ids=ids, attention_mask=mask, pixel_values=pixels, return_loss=True).loss
    batch = collate(ImageText(), rows)
    assert batch.count == 4
    value = ImageText()(ours, batch)
    assert value.item() / 4 == pytest.approx(float(wanted.detach()), rel=1e-5)
    value.backward()
    assert ours.head.scale.grad.abs() > 0
    said, right = ImageText().predict(ours, batch)
    order = sorted(range(4), key=lambda i: lengths[i])
    scores = theirs(input_ids=ids, attention_mask=mask, pixel_values=pixels).logits_per_text[order][:, order]
    assert said == scores.argmax(-1).tolist() and right == [0, 1, 2, 3]


def test_sigmoid_pairs_as_the_reference_counts_them() -> None:
    theirs, ours = pair("siglip", "siglip", "SiglipModel")
    rows = seen_and_said(theirs, (7, 7, 7))
    ids = torch.tensor(np.stack([row["input_ids"] for row in rows]))
    pixels = torch.tensor(np.stack([row["pixel_values"] for row in rows])).double()
    wanted = theirs(input_ids=ids, pixel_values=pixels, return_loss=True).loss
    assert loss(ImageText(loss="sigmoid"), ours, rows).item() / 3 == pytest.approx(float(wanted.detach()), rel=1e-5)


# ------------------------------------------------------------------------------------------------ sentences


@torch.no_grad()
@pytest.mark.parametrize("negatives", [False, True])
@pytest.mark.parametrize("symmetric", [False, True])
def test_sentences_find_their_partners(negatives: bool, symmetric: bool) -> None:
    theirs, ours = pair("bert", "bert", "BertModel")
    sides = [words((7, 11, 4, 9)), words((5, 7, 11, 9), seed=1), words((6, 6, 8, 3), seed=2)]
    names = ["input_ids", "positive_ids", "negative_ids"][: 2 + negatives]
    rows = [dict(zip(names, parts, strict=False)) for parts in zip(*sides, strict=True)]

    def vector(row: np.ndarray) -> Tensor:
        found = theirs(input_ids=torch.tensor(row)[None]).last_hidden_state[0].mean(0)
        return found / found.norm()

    queries = [vector(row["input_ids"]) for row in rows]
    keys = [vector(row[name]) for name in names[1:] for row in rows]
    slow = 0.0
    for i, query in enumerate(queries):
        scores = [20 * float(query @ key) for key in keys]
        slow += math.log(sum(map(math.exp, scores))) - scores[i]
    if symmetric:
        for i, key in enumerate(keys[:4]):
            scores = [20 * float(query @ key) for query in queries]
            slow += math.log(sum(map(math.exp, scores))) - scores[i]
        slow /= 2
    objective = SentencePairs(symmetric=symmetric)
    batch = collate(objective, rows)
    assert batch.count == 4
    assert objective(ours, batch).item() == pytest.approx(slow, rel=1e-5)
    said, right = objective.predict(ours, batch)
    assert said == [max(range(len(keys)), key=lambda j: float(q @ keys[j])) for q in queries]
    assert right == [0, 1, 2, 3]


def test_sentences_of_one_length_and_padding() -> None:
    _, ours = pair("bert", "bert", "BertModel")
    rows = [{"input_ids": a, "positive_ids": b} for a, b in zip(words((6, 6)), words((6, 6), seed=1), strict=True)]
    batch = collate(SentencePairs(), rows)
    assert batch.inputs["input_ids"].shape == (4, 6)
    longer = [*rows, {"input_ids": rows[0]["input_ids"][:3], "positive_ids": rows[1]["input_ids"][:5]}]
    first = SentencePairs().vectors(ours, batch)[0]
    packed = SentencePairs().vectors(ours, collate(SentencePairs(), longer))[0]
    torch.testing.assert_close(first, packed[:2], rtol=1e-9, atol=1e-12)


# ------------------------------------------------------------------------------------------------ views


def dino(**options: Any) -> tuple[regard.Model, SelfDistillation]:
    _, ours = pair("vit", "vit", "ViTModel")
    crops = Crops(large=ours.config.encoder.front.size[0], small=ours.config.encoder.front.size[0] // 2, count=3)
    sizes = {"hidden": 24, "bottleneck": 8, "prototypes": 11}
    return ours, SelfDistillation(ours, crops=crops, **sizes, **options).double()


def pictures(count: int) -> list[dict[str, Any]]:
    draw = np.random.default_rng(0)
    return [{"pixel_values": draw.standard_normal((3, 40, 50)).astype(np.float32)} for _ in range(count)]


def test_the_student_predicts_the_teachers_other_views() -> None:
    ours, objective = dino()
    objective.centre.copy_(torch.randn(11))
    batch = collate(objective, pictures(3))
    size = ours.config.encoder.front.size[0]
    assert batch.inputs["pixel_values"].shape == (6, 3, size, size)
    assert batch.inputs["small_values"].shape == (9, 3, size // 2, size // 2)

    def scores(model: Any, projection: Any, image: Tensor) -> Tensor:
        x = model(pixel_values=image[None]).last_hidden_state[0, 0]
        x = projection.layers(x)
        x = x / x.norm()
        return torch.stack([x @ p / p.norm() for p in projection.prototypes])

    slow = 0.0
    for b in range(3):
        large = [batch.inputs["pixel_values"][v * 3 + b] for v in range(2)]
        small = [batch.inputs["small_values"][v * 3 + b] for v in range(3)]
        for i, j in [(i, j) for i in range(2) for j in range(5) if i != j]:
            t = scores(objective.teacher, objective.teacher_projection, large[i])
            p = ((t - objective.centre) / 0.04).softmax(-1)
            s = scores(ours, objective.projection, (large + small)[j])
            slow -= float((p * (s / 0.1).log_softmax(-1)).sum()) / 8
    assert objective(ours, batch).item() == pytest.approx(slow, rel=1e-5)


def test_views_of_two_batches_add_up() -> None:
    ours, objective = dino()
    rows = pictures(4)
    whole = collate(objective, rows)

    def half(some: slice) -> Batch:
        views = {"pixel_values": 2, "small_values": 3}
        cut = {name: whole.inputs[name].unflatten(0, (n, 4))[:, some].flatten(0, 1) for name, n in views.items()}
        return Batch(cut, {}, 2)

    parts = objective(ours, half(slice(0, 2))) + objective(ours, half(slice(2, 4)))
    torch.testing.assert_close(objective(ours, whole), parts, rtol=1e-9, atol=0)


def test_teacher_and_centre_follow_after_a_step() -> None:
    ours, objective = dino(momentum=0.9, centre=0.8)
    ours.train()
    before = copy.deepcopy(objective.teacher.state_dict())
    batch = collate(objective, pictures(3))
    with torch.no_grad():
        said, _ = objective.scores(objective.teacher.eval(), objective.teacher_projection, batch.inputs["pixel_values"])
        for p in [*ours.parameters(), *objective.projection.parameters()]:
            p.add_(torch.randn_like(p) * 0.1)
    start = objective.teacher_projection.prototypes.clone()
    objective(ours, batch).backward()
    objective(ours, batch)  # two batches make one step
    assert all(p.grad is None for p in objective.teacher.parameters())
    assert not objective.centre.any()
    objective.after_step(ours, 1)
    torch.testing.assert_close(objective.centre, 0.2 * said.mean(0), rtol=1e-9, atol=1e-12)
    student = ours.state_dict()
    for name, value in objective.teacher.state_dict().items():
        torch.testing.assert_close(value, 0.9 * before[name] + 0.1 * student[name], rtol=1e-9, atol=1e-12)
    moved = 0.9 * start + 0.1 * objective.projection.prototypes
    torch.testing.assert_close(objective.teacher_projection.prototypes.data, moved.data, rtol=1e-9, atol=1e-12)
    objective.after_step(ours, 2)  # nothing was said since
    torch.testing.assert_close(objective.centre, 0.2 * said.mean(0), rtol=1e-9, atol=1e-12)
    ours.eval()
    objective(ours, batch)
    assert not objective.seen  # what is only measured moves nothing


def test_the_momentum_ends_at_one() -> None:
    ours, objective = dino(momentum=0.5, steps=10)
    with torch.no_grad():
        for p in ours.parameters():
            p.add_(1.0)

    def moved(step: int) -> float:
        before = next(objective.teacher.parameters()).clone()
        gap = next(ours.parameters()) - before
        objective.after_step(ours, step)
        return float(((next(objective.teacher.parameters()) - before) / gap).mean())

    assert moved(0) == pytest.approx(0.5)
    assert moved(5) == pytest.approx(0.25)
    assert moved(10) == pytest.approx(0.0)


def test_crops_are_parts_of_the_image() -> None:
    rng = np.random.default_rng(0)
    y, x = torch.meshgrid(torch.arange(60.0), torch.arange(80.0), indexing="ij")
    image = torch.stack([y, x])
    crops = Crops(large=16, small=8, count=4, large_area=(0.4, 1.0), small_area=(0.05, 0.4))
    mirrored, areas = 0, []
    for _ in range(200):
        large, small = crops(image, rng)
        assert large.shape == (2, 2, 16, 16) and small.shape == (4, 2, 8, 8)
        for view, (low, high) in [*((v, (0.4, 1.0)) for v in large), *((v, (0.05, 0.4)) for v in small)]:
            rows, columns = view[0].mean(1), view[1].mean(0)
            assert (rows.diff() > 0).all()  # upright
            flipped = bool((columns.diff() < 0).all())
            assert flipped or bool((columns.diff() > 0).all())
            mirrored += flipped
            height = float(rows[-2] - rows[1]) * len(rows) / (len(rows) - 3)  # the outermost are bent by the edge
            width = float(abs(columns[-2] - columns[1])) * len(columns) / (len(columns) - 3)
            area = height * width / 4800
            assert low * 0.85 <= area <= high * 1.1, area
            areas.append(area)
    assert mirrored / 1200 == pytest.approx(0.5, abs=0.05)
    with pytest.raises(ValueError, match="small_area is"):
        Crops(large=8, small=4, small_area=(0.0, 0.4))


def test_a_student_learns_to_agree() -> None:
    torch.manual_seed(0)
    model = regard.from_config(dict(families()["vit"].tiny["vit"]), head="features").train()
    size = model.config.encoder.front.size[0]
    crops = Crops(large=size, small=size // 2, count=2)
    objective = SelfDistillation(model, crops=crops, hidden=32, bottleneck=16, prototypes=32, momentum=0.9)
    learnt = [p for m in (model, objective) for p in m.parameters() if p.requires_grad]
    optimiser = torch.optim.Adam(learnt, lr=3e-3)
    values = []
    rng = np.random.default_rng(0)
    for step in range(30):
        batch = objective.collate(pictures(4), rng)
        optimiser.zero_grad()
        value = objective(model, batch) / batch.count
        value.backward()
        optimiser.step()
        objective.after_step(model, step)
        values.append(float(value.detach()))
    assert sum(values[-5:]) < sum(values[:5])
    assert all(p.grad is None for p in objective.teacher.parameters())


def test_every_objective_has_a_name_and_a_head() -> None:
    heads = {kind for family in families().values() for kind in family.head_kinds}
    for name, kind in OBJECTIVES.items():
        assert kind.name == name and kind.head in heads


def test_bad_rows_and_options_are_named() -> None:
    with pytest.raises(ValueError, match="row 0 of the batch has no 'pixel_values'"):
        collate(ImageText(), [{"input_ids": [1, 2]}])
    with pytest.raises(ValueError, match="row 0 of the batch has no 'positive_ids'"):
        collate(SentencePairs(), [{"input_ids": [1, 2]}])
    with pytest.raises(ValueError, match="loss is 'cosine'"):
        ImageText(loss="cosine")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="scale is 0"):
        SentencePairs(scale=0)
    with pytest.raises(ValueError, match="momentum is 2"):
        dino(momentum=2)
    _, objective = dino()
    with pytest.raises(ValueError, match=r"pixel_values is \(4, 4\)"):
        collate(objective, [{"pixel_values": np.zeros((4, 4))}])
