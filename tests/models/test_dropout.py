"""While training, we drop what the reference drops, in every family: as many tensors of each size, each with its own
probability."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import regard
from regard.models.registry import families
from regard.nn import Layer
from regard.nn.attention import Attend
from tests.models import oracle, senses

# Variants where we drop other tensors than the reference on purpose: how many more of each probability
# (of its config's fields), and why. Where numbers are equal, sizes differ.
DIFFERENCES: dict[str, tuple[dict[str, int], str]] = {
    "albert": ({"hidden_dropout_prob": 3}, "it forgets what a feed-forward adds, which the authors' own code drops"),
    "albert as wide": ({"hidden_dropout_prob": 3}, "as albert"),
    "albert in groups": ({"hidden_dropout_prob": 10}, "as albert"),
    "deberta v3": ({}, "of the table of relative positions we read only the rows that this length needs"),
    "deberta v2 xlarge": ({}, "as deberta v3"),
    "deberta c2p": ({}, "as deberta v3"),
    "deberta p2c": ({}, "as deberta v3"),
    "idefics": ({}, "cross-attention has one more key, for words that see no image"),
    "idefics plain": ({}, "as idefics"),
    "idefics tied": ({}, "as idefics"),
    "llava": ({"vision_config.attention_dropout": -1}, "it runs a last layer of the tower whose result nobody reads"),
    "maskformer": (
        {"backbone_config.hidden_dropout_prob": 5, "backbone_config.attention_probs_dropout_prob": -5},
        "its windows take the probability of attention for what attention adds, unlike its own Swin",
    ),
    "swin of odd sizes": ({}, "it drops windows with their padding, we the patches themselves"),
}


def cases() -> list[tuple[str, str, str]]:
    """Every head of the first variant of a family, and the first head of the others."""
    found: dict[Any, tuple[str, str, str]] = {}
    for case in oracle.cases() + oracle.sense_cases():
        family, variant, architecture = case
        first = variant == next(iter(families()[family].tiny))
        found.setdefault((family, variant, architecture if first else ""), case)
    return list(found.values())


def with_drops(config: Any, taken: dict[float, str], path: str = "") -> None:
    """Give every probability of a reference config a value of its own, and note its field; layers are all there."""
    for name, value in list(vars(config).items()):
        if hasattr(value, "to_diff_dict"):
            with_drops(value, taken, f"{path}{name}.")
        elif "layerdrop" in name:
            setattr(config, name, 0.0)
        elif "drop" in name and "drop_path" not in name and (value is None or type(value) in (int, float)):
            p = round(0.11 + 0.01 * len(taken), 2)
            taken[p] = path + name
            setattr(config, name, p)


def inputs(theirs: Any) -> dict[str, Any]:
    reads = oracle.reads(type(theirs).__name__)
    if reads & {"image", "video"}:
        found = senses.inputs(theirs)
        return found | ({"decoder_input_ids": found["input_ids"]} if type(theirs).__name__ in senses.WRITTEN else {})
    found = {theirs.main_input_name: torch.stack(oracle.random_rows(theirs, (11, 11)))}
    if oracle.takes_targets(theirs):
        found["decoder_input_ids"] = torch.stack(oracle.random_words(theirs, (6, 6)))
    return found


@pytest.mark.parametrize("case", cases(), ids="-".join)
def test_the_same_is_dropped(case: tuple[str, str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    import transformers

    family, variant, architecture = case
    oracle.skip_own(family)
    fields = dict(families()[family].tiny[variant])
    config = transformers.AutoConfig.for_model(fields.pop("model_type"), **fields)
    taken: dict[float, str] = {}
    with_drops(config, taken)
    config.apply_spec_augment = False
    theirs = getattr(transformers, architecture)._from_config(config, attn_implementation="eager").train()
    raw = {**theirs.config.to_dict(), "architectures": [architecture]}
    ours = regard.from_config(raw, head=families()[family].architectures[architecture].head).train()
    for module in ours.modules():
        if isinstance(module, Attend):
            module.kernel = "eager"  # the fused kernel drops inside
    dropped: Counter[tuple[float, int]] = Counter()

    def dropout(x: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
        if training and p:
            dropped[round(p, 4), x.numel()] += 1
        return x

    monkeypatch.setattr(F, "dropout", dropout)
    monkeypatch.setattr("regard.nn.attention.dropout", dropout)
    given = inputs(theirs)
    theirs(**given)
    wanted = Counter(dropped)
    dropped.clear()
    ours(**given)
    more, _ = DIFFERENCES.get(variant, (None, ""))
    if more is None:
        assert dropped == wanted
        return
    assert dropped != wanted, f"{variant}: take it off the table"
    counts = [Counter({p: 0 for p in taken}) for _ in range(2)]
    for found, count in zip((dropped, wanted), counts, strict=True):
        for (p, _), n in found.items():
            count[p] += n
    ours_counts, theirs_counts = counts
    found = {name: ours_counts[p] - theirs_counts[p] for p, name in taken.items()}
    assert {name: n for name, n in found.items() if n} == more


def test_nothing_is_dropped_in_evaluation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(F, "dropout", None)
    monkeypatch.setattr("regard.nn.attention.dropout", None)
    model = regard.from_config(dict(families()["t5"].tiny["t5"]), head="seq2seq-lm").eval()
    model(torch.tensor([[5, 6, 1]]), decoder_input_ids=torch.tensor([[0, 5]]))


@pytest.mark.parametrize("family", ["swin", "segformer", "dinov2", "timesformer", "maskformer"])
def test_branches_are_left_out_as_often_as_in_the_reference(family: str) -> None:
    """Where the reference leaves out the branches of a layer (in Swin of attention alone), each with its own rate."""
    import transformers

    fields = dict(next(iter(families()[family].tiny.values())))
    config = transformers.AutoConfig.for_model(fields.pop("model_type"), **fields)
    vars(config.backbone_config if family == "maskformer" else config)["drop_path_rate"] = 0.3  # one says it is an int
    architecture = next(iter(families()[family].architectures))
    theirs = getattr(transformers, architecture)._from_config(config, attn_implementation="eager")
    rates = [m.drop_prob for m in theirs.modules() if type(m).__name__.endswith("DropPath")]
    ours = regard.from_config({**theirs.config.to_dict(), "architectures": [architecture]}, head="features")
    found = [layer.attn.config.drop_path for layer in ours.modules() if isinstance(layer, Layer)]
    assert sorted(set(found) - {0.0}) == pytest.approx(sorted(set(rates)))
    assert max(found) == pytest.approx(0.3) and (min(found) == 0) is (family != "dinov2")
