"""Whole layers that a batch goes without while training (LayerDrop), against the reference drawing the same numbers."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import regard
from regard.models.registry import families
from regard.nn import Stack
from regard.training.devices import run_all_layers
from tests.models import oracle

transformers = pytest.importorskip("transformers", reason="the reference library is not installed (extra: oracle)")

BOTH = {"encoder_layerdrop": 0.4, "decoder_layerdrop": 0.6}
CASES: list[tuple[str, str, str, dict[str, float]]] = [
    ("bart", "bart", "BartModel", BOTH),
    ("marian", "marian", "MarianModel", BOTH),
    ("mbart", "mbart", "MBartModel", BOTH),
    ("pegasus", "pegasus", "PegasusModel", BOTH),
    ("whisper", "whisper", "WhisperModel", BOTH),
    ("opt", "opt", "OPTModel", {"layerdrop": 0.5}),
    ("opt", "opt narrow", "OPTModel", {"layerdrop": 0.5}),
    ("wav2vec2", "wav2vec2", "Wav2Vec2Model", {"layerdrop": 0.5}),
    ("wav2vec2", "wav2vec2 large", "Wav2Vec2Model", {"layerdrop": 0.5}),
    ("hubert", "hubert", "HubertModel", {"layerdrop": 0.5}),
]


def still(config: Any) -> None:
    """No randomness but that of layers."""
    for name, value in list(vars(config).items()):
        if "drop" in name and "layerdrop" not in name and isinstance(value, int | float):
            setattr(config, name, 0.0)
    config.apply_spec_augment = False


@pytest.mark.parametrize("case", CASES, ids=lambda case: case[1])
@torch.no_grad()
def test_the_same_layers_are_left_out(case: tuple[str, str, str, dict[str, float]], tmp_path: Any) -> None:
    family, variant, architecture, rates = case
    fields = {**families()[family].tiny[variant], **rates}
    config = transformers.AutoConfig.for_model(fields.pop("model_type"), **fields)
    still(config)
    theirs = getattr(transformers, architecture)._from_config(config, attn_implementation="eager").train()
    theirs.save_pretrained(tmp_path)
    ours = regard.load(tmp_path).train()
    given: dict[str, Any] = {theirs.main_input_name: torch.stack(oracle.random_rows(theirs, (11, 11)))}
    if oracle.takes_targets(theirs):
        given["decoder_input_ids"] = torch.stack(oracle.random_words(theirs, (6, 6)))
    found = set()
    for seed in range(6):
        torch.manual_seed(seed)
        wanted = theirs(**given).last_hidden_state
        torch.manual_seed(seed)
        said = ours(**given).last_hidden_state
        oracle.close(said, wanted)
        found.add(round(float(wanted.abs().sum()), 3))
    assert len(found) > 2  # not the same layers every time
    ours.eval(), theirs.eval()
    oracle.close(ours(**given).last_hidden_state, theirs(**given).last_hidden_state)


@pytest.mark.parametrize(("family", "wanted"), [("wav2vec2", 0.1), ("hubert", 0.1), ("bart", 0.0), ("opt", 0.0)])
def test_how_often_where_nothing_is_said(family: str, wanted: float) -> None:
    fields = dict(families()[family].tiny[family])
    config = transformers.AutoConfig.for_model(fields.pop("model_type"), **fields)
    assert getattr(config, "layerdrop", getattr(config, "encoder_layerdrop", None)) == wanted
    ours = regard.from_config(dict(families()[family].tiny[family]))
    assert {m.layer_drop for m in ours.modules() if isinstance(m, Stack)} == {wanted}


def test_an_average_of_states_takes_a_state_twice_where_a_layer_is_left_out() -> None:
    """The reference has fewer states then than weights for them, and stops."""
    raw = {**families()["wav2vec2"].tiny["wav2vec2 mixed"], "layerdrop": 0.999999, "apply_spec_augment": False}
    ours = regard.from_config({**raw, "hidden_dropout": 0.0, "feat_proj_dropout": 0.0}, head="classification").train()
    front, stack = ours.encoder.front, ours.encoder.stack  # type: ignore[union-attr]
    x, ctx = front(torch.randn(2, 400))
    torch.testing.assert_close(stack(x, ctx), x)


def test_all_layers_is_not_allowed() -> None:
    with pytest.raises(ValueError, match=r"layer_drop is 1\.0; allowed: 0 to below 1"):
        regard.from_config({**families()["opt"].tiny["opt"], "layerdrop": 1.0})


def test_devices_that_share_layers_out_run_them_all() -> None:
    ours = regard.from_config({**families()["opt"].tiny["opt"], "layerdrop": 0.999, "dropout": 0.0}).train()
    ran = []
    for layer in ours.decoder.stack.layers:  # type: ignore[union-attr]
        layer.register_forward_hook(lambda *_: ran.append(1))
    ours(torch.tensor([[5, 6, 7]]))
    assert len(ran) < len(ours.decoder.stack.layers)  # type: ignore[union-attr]
    ran.clear()
    run_all_layers(ours)
    ours(torch.tensor([[5, 6, 7]]))
    assert len(ran) == len(ours.decoder.stack.layers)  # type: ignore[union-attr]
