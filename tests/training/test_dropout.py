"""While training, we drop what the reference drops: as many tensors of each size, each with its own probability."""

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

CASES = [
    ("bert", "bert", "BertForMaskedLM"),
    ("bert", "bert", "BertForSequenceClassification"),
    ("bert", "bert", "BertForTokenClassification"),
    ("roberta", "roberta", "RobertaForSequenceClassification"),
    ("gpt2", "gpt2", "GPT2LMHeadModel"),
    ("llama", "llama", "LlamaForCausalLM"),
    ("t5", "t5", "T5ForConditionalGeneration"),
    ("t5", "t5 v1.1", "T5ForConditionalGeneration"),
    ("bart", "bart", "BartForConditionalGeneration"),
    ("bart", "bart", "BartForSequenceClassification"),
    ("mbart", "mbart", "MBartForConditionalGeneration"),
    ("pegasus", "pegasus", "PegasusForConditionalGeneration"),
    ("whisper", "whisper", "WhisperForConditionalGeneration"),
    ("wav2vec2", "wav2vec2", "Wav2Vec2ForCTC"),
    ("vit", "vit", "ViTForImageClassification"),
    ("clip", "clip", "CLIPModel"),
]


def with_drops(config: Any, taken: list[float]) -> None:
    """Give every probability of a reference config a value of its own; whole layers are not dropped."""
    for name, value in list(vars(config).items()):
        if hasattr(value, "to_diff_dict"):
            with_drops(value, taken)
        elif "layerdrop" in name:
            setattr(config, name, 0.0)
        elif "drop" in name and (value is None or isinstance(value, float | int)) and not isinstance(value, bool):
            taken.append(round(0.11 + 0.01 * len(taken), 2))
            setattr(config, name, taken[-1])


def inputs(theirs: Any) -> dict[str, Any]:
    reads = oracle.reads(type(theirs).__name__)
    if reads & {"image", "video"}:
        return senses.inputs(theirs)
    found = {theirs.main_input_name: torch.stack(oracle.random_rows(theirs, (11, 11)))}
    if oracle.takes_targets(theirs):
        found["decoder_input_ids"] = torch.stack(oracle.random_words(theirs, (6, 6)))
    return found


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case[1]}-{case[2]}")
def test_the_same_is_dropped(case: tuple[str, str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    import transformers

    family, variant, architecture = case
    fields = dict(families()[family].tiny[variant])
    config = transformers.AutoConfig.for_model(fields.pop("model_type"), **fields)
    taken: list[float] = []
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
    given = inputs(theirs)
    theirs(**given)
    wanted = Counter(dropped)
    dropped.clear()
    ours(**given)
    assert dropped == wanted
    assert wanted and {p for p, _ in wanted} <= set(taken)


def test_nothing_is_dropped_in_evaluation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(F, "dropout", None)
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
