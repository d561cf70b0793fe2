"""Trained encoders that others published give the numbers that the reference gives for them."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from torch import Tensor

import regard
from regard.inspect import capture
from tests.models.smiles import mapped

RESIDUES = "ACDEFGHIKLMNPQRSTVWY"


@pytest.fixture
def opened(data):
    """`opened(name)` is the model and its expected.json."""

    def load(name: str) -> tuple[regard.Model, dict[str, Any]]:
        folder = data(f"checkpoints/{name}")
        return regard.load(folder), json.loads((folder / "expected.json").read_text(encoding="utf-8"))

    return load


def words(data: Any, name: str) -> list[str]:
    return data(f"checkpoints/{name}/vocab.txt").read_text(encoding="utf-8").splitlines()


def near(ours: Tensor, theirs: Any, tolerance: float) -> None:
    expected = torch.tensor(theirs, dtype=ours.dtype)
    assert ours.shape == expected.shape
    assert float((ours - expected).abs().max()) <= tolerance


REACTIONS = ["rxnfp-bert-mlm", "rxnmapper-albert"]


@pytest.mark.parametrize("name", REACTIONS)
@torch.no_grad()
def test_reactions_in_a_padded_batch(opened, data, name):
    model, expected = opened(name)
    batch, tolerance = expected["batch"], expected["tolerance"]
    ids, mask = torch.tensor(batch["input_ids"]), torch.tensor(batch["attention_mask"])
    out = model(ids, mask)
    hidden, length = out.last_hidden_state, int(mask[1].sum())
    near(hidden[0, 0, :8], batch["last_hidden_text0_cls_first8"], tolerance["last_hidden"])
    near(hidden[1, 0, :8], batch["last_hidden_text1_cls_first8"], tolerance["last_hidden"])
    near(hidden[1, length - 1, :8], batch["last_hidden_text1_sep_first8"], tolerance["last_hidden"])
    near(hidden[0].abs().mean(), batch["mean_abs_last_hidden_text0"], tolerance["last_hidden"])
    near(out.logits[1, 1, :20], batch["logits_text1_pos1_first20"], tolerance["logits"])
    assert words(data, name)[out.logits[1, 1].argmax()] == batch["logits_text1_pos1_argmax"]
    packed = model(torch.cat([ids[0], ids[1, :length]]), lengths=[ids.shape[1], length])
    near(packed.logits[ids.shape[1] + 1, :20], batch["logits_text1_pos1_first20"], tolerance["logits"])


@pytest.mark.parametrize("name", REACTIONS)
@torch.no_grad()
def test_each_token_of_a_reaction_masked(opened, data, name):
    model, expected = opened(name)
    vocabulary, case, tolerance = words(data, name), expected["mask_each_token"], expected["tolerance"]
    ids = torch.tensor(expected["batch"]["input_ids"][0])
    assert case["text"] == expected["batch"]["texts"][0] and len(ids) == case["tokens"] + 2
    places = torch.arange(1, len(ids) - 1)
    rows = ids.repeat(len(places), 1)
    rows[places - 1, places] = vocabulary.index("[MASK]")
    found = model(rows).logits[places - 1, places].log_softmax(-1)
    right = found.argmax(-1) == ids[1:-1]
    assert int(right.sum()) == case["right"]
    assert places[~right].tolist() == case["wrong_positions"]
    total = float(found[places - 1, ids[1:-1]].sum())
    assert total == pytest.approx(case["sum_logprob_of_true"], abs=tolerance.get("sum_logprob", 0.001))
    for example in case["examples"]:
        assert vocabulary[ids[example["position"]]] == example["true"]
        top = found[example["position"] - 1].exp()
        first = vocabulary[top.argmax()]
        assert first == example["top3"][0][0]
        ours = torch.stack([top[vocabulary.index(word)] for word, _ in example["top3"]])
        near(ours, [p for _, p in example["top3"]], tolerance.get("probabilities", 1e-4))


@pytest.mark.parametrize("reaction", range(5))
@torch.no_grad()
def test_atoms_are_mapped_by_attention(opened, data, reaction):
    model, expected = opened("rxnmapper-albert")
    case, tolerance = expected["atom_mapping"]["reactions"][reaction], expected["tolerance"]
    with capture(model, "attention") as seen:
        model(torch.tensor([case["input_ids"]]))
    attention = seen.attention[10][0, 5]
    if "attention_layer10_head5" in case:
        given = case["attention_layer10_head5"]
        assert list(attention.shape) == given["shape"]
        near(attention.sum(1), [given["row_sum_check"]] * len(attention), tolerance["attention"])
        for row, values in given["rows"].items():
            near(attention[int(row)], values, tolerance["attention"])
        first = case["attention_layer0_head0_row1_first12"]
        near(seen.attention[0][0, 0, 1, :12], first, tolerance["attention"])
    tokens = [words(data, "rxnmapper-albert")[i] for i in case["input_ids"]]
    order, confidence = mapped(attention, tokens)
    assert confidence == pytest.approx(case["confidence_here"], abs=tolerance["confidence"])
    assert confidence == pytest.approx(case["package_confidence"], abs=tolerance["confidence"])
    assert [j for _, j, _ in sorted(order)] == case["product_atom_to_reactant_atom"]
    for (i, j, weight), (product, reactant, theirs) in zip(order, case.get("mapping_order_first5", []), strict=False):
        assert (i, j) == (product, reactant) and weight == pytest.approx(theirs, abs=tolerance["confidence"])


def residues(sequence: str) -> list[int]:
    """<s>=0, residues 4 to 23, gaps are <mask>=24, </s>=2."""
    return [0, *(RESIDUES.index(r) + 4 if r in RESIDUES else 24 for r in sequence), 2]


@pytest.mark.parametrize("name", ["sapiens-vh", "sapiens-vl"])
@torch.no_grad()
def test_antibody_chains(opened, name):
    model, expected = opened(name)
    tolerance = expected["tolerance"]
    for case in expected["sequences"]:
        assert residues(case["sequence"]) == case["input_ids"]
        with capture(model, "encoder.front", "hidden") as seen:
            logits = model(torch.tensor([case["input_ids"]])).logits[0]
        states = torch.stack([seen["encoder.front"][0][0][0, 0], *(layer[0, 0] for layer in seen.hidden)])
        near(states[:, :6], case["hidden_states_layer_cls_first6"], tolerance["hidden"])
        near(logits[1], case["logits_pos1"], tolerance["logits"])
        scores = logits[1:-1].log_softmax(-1)
        near(scores.exp()[:5, 4:8], case["probabilities_rows0to4_A_C_D_E"], tolerance["probabilities"])
        best = "".join(RESIDUES[i] for i in scores[:, 4:24].argmax(-1))
        infilled = "".join(b if s in "*X" else s for s, b in zip(case["sequence"], best, strict=True))
        assert (infilled, best) == (case["infilled"], case["argmax_residues"])
        assert sum(a != b for a, b in zip(infilled, best, strict=True)) == case["changed_if_humanised"]
        chosen = torch.tensor(residues(infilled)[1:-1])
        total = float(scores.gather(1, chosen[:, None]).sum())
        assert total == pytest.approx(case["sum_logprob_of_given_or_infilled"], abs=0.001)
    rows = expected["readme_rows0to4_A_C_D_E"]
    assert rows is None or rows == expected["sequences"][0]["probabilities_rows0to4_A_C_D_E"]


@pytest.mark.parametrize("name", ["sapiens-vh", "sapiens-vl"])
@torch.no_grad()
def test_antibody_chains_in_a_batch(opened, name):
    model, expected = opened(name)
    case, tolerance = expected["padded_batch"], expected["tolerance"]
    rows = [torch.tensor(residues(text)) for text in case["texts"]]
    ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=1)
    padded = model(ids, (ids != 1).long()).logits[1]
    packed = model(torch.cat(rows), lengths=[len(row) for row in rows]).logits[len(rows[0]) :]
    for logits in (padded, packed):
        near(logits[1], case["logits_text1_pos1"], tolerance["logits"])
        near(logits[60], case["logits_text1_pos60"], tolerance["logits"])
