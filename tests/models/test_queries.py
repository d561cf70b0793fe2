"""Queries about images beyond the parity suite: padding, older names of files, norms that stay, what a file may say."""

from __future__ import annotations

import copy
import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional as F

import regard
from regard.checkpoint.load import table_for
from regard.checkpoint.rules import written
from regard.models._queries import places_of
from regard.models._residual import FrozenNorm, ResidualsConfig
from regard.models.base import Raw
from regard.models.model import build_model
from regard.models.registry import families
from regard.nn import build
from regard.nn.head import Ends

pytest.importorskip("transformers", reason="the reference library is not installed (extra: oracle)")

from tests.models import oracle, senses

DETR = ("DetrModel", "DetrForObjectDetection", "DetrForSegmentation")
MASKFORMER = "MaskFormerForInstanceSegmentation"
Given = dict[str, Any]


def padded(*sizes: tuple[int, int]) -> Given:
    """Images of several sizes at the top left of one batch, zeros around them, and the mask of what is real."""
    draw = torch.Generator().manual_seed(0)
    height, width = (max(size[i] for size in sizes) for i in range(2))
    pixels, mask = torch.zeros(len(sizes), 3, height, width), torch.zeros(len(sizes), height, width, dtype=torch.long)
    for i, (h, w) in enumerate(sizes):
        pixels[i, :, :h, :w], mask[i, :h, :w] = torch.randn(3, h, w, generator=draw), 1
    return {"pixel_values": pixels, "pixel_mask": mask}


@pytest.mark.parametrize("architecture", DETR)
def test_padding_is_hidden_as_in_the_reference(architecture: str) -> None:
    theirs, folder = oracle.reference("detr", "detr", architecture)
    ours, given = regard.load(folder), padded((64, 160), (130, 96), (33, 70))
    found, expected = senses.outputs(ours, given), senses.outputs(theirs, given)
    for name in expected.keys() - {"encoder_last_hidden_state"}:
        oracle.close(found[name], expected[name])
    # Some of its vectors are nearly constant, and their norm makes rounding large: 3e-5 in the reference itself.
    exact = given | {"pixel_values": given["pixel_values"].double()}
    theirs = copy.deepcopy(theirs).double()
    senses.compare(senses.outputs(copy.deepcopy(ours).double(), exact), senses.outputs(theirs, exact))
    seen = senses.outputs(ours, {"pixel_values": given["pixel_values"]})["last_hidden_state"]
    assert (seen - found["last_hidden_state"]).abs().max() > 1e-3
    one = given["pixel_values"][:1]
    masked = senses.outputs(ours, {"pixel_values": one, "pixel_mask": torch.ones_like(one[:, 0])})
    for name, value in senses.outputs(ours, {"pixel_values": one}).items():
        assert torch.equal(value, masked[name]), name  # a mask that hides nothing changes nothing


@torch.no_grad()
def test_behind_the_convolutions_padding_changes_nothing() -> None:
    _, folder = oracle.reference("detr", "detr", "DetrForSegmentation")
    model, given = regard.load(folder), padded((64, 160), (160, 64))
    rows, ctx = model.encoder.front(**given)
    valid = ctx.groups[0].k_valid
    assert valid is not None and not valid.all()
    found = []
    for x in (rows, torch.where(valid[..., None], rows, 100.0)):
        hidden, asked = model.decoder(model.encoder.stack(x, ctx), ctx)
        found.append(model.head(hidden, Ends(asked)))
    assert set(found[0]) == {"logits", "pred_boxes", "pred_masks"}
    for name, value in found[0].items():
        oracle.close(found[1][name], value)


def test_masks_that_do_not_fit_are_named() -> None:
    model = regard.load(oracle.reference("detr", "detr", "DetrModel")[1])
    given = padded((64, 96), (64, 96))
    for bad in (
        given["pixel_mask"][:1],
        given["pixel_mask"][:, :32],
        given["pixel_mask"] * torch.tensor([0, 1])[:, None, None],
    ):
        with pytest.raises(ValueError, match="pixel_mask"):
            model(given["pixel_values"], bad)


def test_the_reference_looks_at_padding_in_the_other_family_and_so_do_we() -> None:
    theirs, folder = oracle.reference("maskformer", "maskformer", MASKFORMER)
    given = padded((64, 50), (40, 64))
    senses.compare(senses.outputs(regard.load(folder), given), senses.outputs(theirs, given))


def test_what_was_trained_with_losses_for_every_layer(tmp_path: Path) -> None:
    import transformers

    detr, other = (dict(families()[name].tiny[name]) for name in ("detr", "maskformer"))
    detr["auxiliary_loss"] = True
    other["decoder_config"] = dict(detr)
    for name, fields in (("DetrForObjectDetection", detr), (MASKFORMER, other)):
        torch.manual_seed(0)
        config = transformers.AutoConfig.for_model(fields.pop("model_type"), **fields)
        theirs = getattr(transformers, name)(config).eval()
        for parameter in theirs.model.parameters():
            if parameter.ndim == 1:
                torch.nn.init.normal_(parameter, 1.0, 0.3)  # norms that do something when they come twice
        theirs.save_pretrained(tmp_path / name)
        given = padded((64, 96))
        senses.compare(senses.outputs(regard.load(tmp_path / name), given), senses.outputs(theirs, given))


def test_places_are_fractions_of_the_real_part() -> None:
    valid, dim = torch.zeros(1, 4, 5, dtype=torch.bool), 8
    valid[0, :3, :4] = True
    found = places_of(valid, dim)[0].view(4, 5, dim)
    for row in range(3):
        for column in range(4):
            angles = [2 * math.pi * (row + 1) / 3, 2 * math.pi * (column + 1) / 4]
            expected = [
                f(angle / 10000 ** (2 * i / 4)) for angle in angles for i in range(2) for f in (math.sin, math.cos)
            ]
            assert torch.allclose(found[row, column], torch.tensor(expected), atol=1e-5)


# ------------------------------------------------------------------------------------------------- files


def timm_name(key: str) -> str:
    """A key of the reference's own convolutions as timm calls it, which older files do."""
    disk, ours = "backbone.conv_encoder.model.", key.partition("backbone.conv_encoder.model.")
    if not ours[1]:
        return key
    parts = ours[2].split(".")
    last = parts[-1]
    if parts[0] == "embedder":
        name = "conv1" if parts[2] == "convolution" else "bn1"
    else:
        _, _, stage, _, block, kind, *rest = parts[:-1]
        name = f"layer{int(stage) + 1}.{block}."
        conv = rest[-1] == "convolution"
        if kind == "shortcut":
            name += "downsample.0" if conv else "downsample.1"
        else:
            name += f"{'conv' if conv else 'bn'}{int(rest[0]) + 1}"
    return f"{ours[0]}{disk}{name}.{last}"


OLD = {"use_timm_backbone": True, "backbone": "resnet18", "backbone_config": None}
NEW = {"backbone_config": {"model_type": "timm_backbone", "backbone": "resnet18", "out_indices": [1, 2, 3, 4]}}


def test_files_that_name_convolutions_as_timm_does(tmp_path: Path) -> None:
    import transformers

    sizes = {"layer_type": "basic", "hidden_sizes": [64, 128, 256, 512], "depths": [2, 2, 2, 2], "embedding_size": 64}
    fields: Given = {**families()["detr"].tiny["detr"], "backbone_config": {"model_type": "resnet", **sizes}}
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(fields.pop("model_type"), **fields)
    theirs = transformers.DetrForObjectDetection(config).eval()
    theirs.save_pretrained(tmp_path)
    state = {timm_name(key): value for key, value in load_file(tmp_path / "model.safetensors").items()}
    assert "model.backbone.conv_encoder.model.layer2.0.downsample.1.running_mean" in state
    save_file(state, tmp_path / "model.safetensors")
    raw = json.loads((tmp_path / "config.json").read_text())
    given = padded((64, 70), (50, 90))
    expected = senses.outputs(theirs, given)
    for form in (OLD, NEW):
        (tmp_path / "config.json").write_text(json.dumps({**raw, **form}))
        ours = regard.load(tmp_path)
        senses.compare(senses.outputs(ours, given), expected)
        regard.save(ours, tmp_path / "again")
        again = load_file(tmp_path / "again" / "model.safetensors")
        assert set(again) == set(state) and all(torch.equal(value, state[key]) for key, value in again.items())


def published() -> set[str]:
    """The keys of the detector with 50 layers, as its authors' file has them."""
    norm = ("weight", "bias", "running_mean", "running_var")
    pairs, root = [("conv1", "bn1")], "model.backbone.conv_encoder.model."
    for stage, depth in enumerate((3, 4, 6, 3), 1):
        pairs.append((f"layer{stage}.0.downsample.0", f"layer{stage}.0.downsample.1"))
        pairs += [(f"layer{stage}.{i}.conv{j}", f"layer{stage}.{i}.bn{j}") for i in range(depth) for j in (1, 2, 3)]
    keys = {f"{root}{conv}.weight" for conv, _ in pairs} | {f"{root}{bn}.{part}" for _, bn in pairs for part in norm}
    linears = ["model.input_projection", "model.decoder.layernorm", "class_labels_classifier"]
    linears += [f"bbox_predictor.layers.{i}" for i in range(3)]
    names = [f"self_attn.{p}_proj" for p in ("k", "v", "q", "out")]
    names += ["self_attn_layer_norm", "fc1", "fc2", "final_layer_norm"]
    more = [name.replace("self", "encoder") for name in names if name.startswith("self")]
    linears += [f"model.encoder.layers.{i}.{name}" for i in range(6) for name in names]
    linears += [f"model.decoder.layers.{i}.{name}" for i in range(6) for name in [*names, *more]]
    keys |= {f"{name}.{part}" for name in linears for part in ("weight", "bias")}
    return keys | {"model.query_position_embeddings.weight"}


def test_the_published_file_has_a_place_for_every_key() -> None:
    family, raw = families()["detr"], Raw({"model_type": "detr", "num_labels": 91, "use_timm_backbone": True})
    with torch.device("meta"):
        model = build_model(family.config(raw, "object-detection"))
    state = {name: p.detach() for name, p in model.named_parameters()}
    found = written(table_for(family, raw, "object-detection"), state, "model.")
    assert set(found) == published()
    assert found["class_labels_classifier.weight"].shape == (92, 256)
    assert found["model.backbone.conv_encoder.model.layer4.2.conv2.weight"].shape == (512, 512, 3, 3)
    maps = model.encoder.front.maps
    kept = [m for m in model.modules() if isinstance(m, FrozenNorm)] + [maps.stem.conv]
    kept += [conv.conv for residual in maps.stages[0] for conv in (*residual.convs, residual.shortcut) if conv]
    count = sum(p.numel() for p in model.parameters()) - sum(p.numel() for m in kept for p in m.parameters())
    assert count == 41_302_368  # which its authors' logs of training print, with stem, first stage and norms as loaded


def test_a_detector_opens_what_was_trained_for_masks(caplog: pytest.LogCaptureFixture) -> None:
    theirs, folder = oracle.reference("detr", "detr", "DetrForSegmentation")
    given = padded((64, 96))
    found = senses.outputs(regard.load(folder, head="object-detection"), given)
    assert "new weights" not in caplog.text and "pred_masks" not in found
    expected = senses.outputs(theirs, given)
    for name in ("logits", "pred_boxes", "last_hidden_state"):
        oracle.close(found[name], expected[name])


def test_a_tower_under_its_first_name(tmp_path: Path) -> None:
    theirs, folder = oracle.reference("maskformer", "maskformer", MASKFORMER)
    raw = json.loads((folder / "config.json").read_text())
    raw["backbone_config"] |= {"model_type": "swin", "out_features": ["stage3"]}  # the reference reads all stages then
    (tmp_path / "config.json").write_text(json.dumps(raw))
    shutil.copy(folder / "model.safetensors", tmp_path)
    given = senses.inputs(theirs)
    senses.compare(senses.outputs(regard.load(tmp_path), given), senses.outputs(theirs, given))


def stages(**changes: Any) -> Given:
    return {"backbone_config": {**families()["detr"].tiny["detr"]["backbone_config"], **changes}}


BAD = [
    (
        {"d_model": 30, "encoder_attention_heads": 5, "decoder_attention_heads": 5},
        "d_model is 30; allowed: a multiple of 4",
    ),
    ({"encoder_attention_heads": 7}, "7 attention heads; allowed: a divisor"),
    ({"num_queries": 0}, "num_queries is 0"),
    ({"position_embedding_type": "learned"}, "position_embedding_type is 'learned'; allowed: 'sine'"),
    ({"dropout": 2}, "dropout is 2"),
    ({"backbone_config": None, "backbone": "resnet9"}, "backbone is 'resnet9'; allowed: 'resnet18'"),
    ({"backbone_config": None, "backbone": "resnet18", "dilation": True}, "dilation is true; allowed: false"),
    (stages(model_type="convnext"), "model_type is 'convnext'; allowed: 'resnet'"),
    (stages(depths=[1, 0]), r"depths is \[1, 0\]"),
    (stages(depths=[1, 1]), r"out_features is .*|depths is \(1, 1\)"),
    (stages(hidden_sizes=[2.5]), r"hidden_sizes is \[2.5\]"),
    (stages(out_features=["stage1"]), r"out_features is \['stage1'\]; allowed: with stage4"),
    (stages(layer_type="wide"), "layer_type is 'wide'"),
]


@pytest.mark.parametrize(("fields", "message"), BAD, ids=[str(i) for i in range(len(BAD))])
def test_what_a_detector_cannot_be_is_named(fields: Given, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        regard.from_config({**families()["detr"].tiny["detr"], **fields}, head="object-detection")


def test_what_a_mask_head_cannot_be_is_named() -> None:
    tiny = families()["detr"].tiny["detr"]
    with pytest.raises(ValueError, match="d_model is 32, with 4 encoder_attention_heads"):
        regard.from_config({**tiny, "encoder_attention_heads": 4}, head="universal-segmentation")
    tiny = families()["maskformer"].tiny["maskformer"]
    for fields, message in (
        ({"fpn_feature_size": 40}, "fpn_feature_size is 40; allowed: a multiple of 32"),
        ({"mask_feature_size": 0}, "mask_feature_size is 0"),
        ({"decoder_config": {"model_type": "bert"}}, "decoder_config: model_type is 'bert'; allowed: 'detr'"),
        ({"backbone_config": {"model_type": "vit"}}, "backbone_config: model_type is 'vit'"),
        ({"backbone_config": {**tiny["backbone_config"], "out_features": ["stage3"]}}, "out_features is"),
    ):
        with pytest.raises(ValueError, match=message):
            regard.from_config({**tiny, **fields})


# ------------------------------------------------------------------------------------------------- convolutions


@torch.no_grad()
def test_frozen_norms_keep_what_was_loaded() -> None:
    theirs, folder = oracle.reference("detr", "detr", "DetrModel")
    model, given = regard.load(folder), padded((64, 64), (64, 64))
    norms = [m for m in model.modules() if isinstance(m, FrozenNorm)]
    assert norms and not any(p.requires_grad for norm in norms for p in norm.parameters())
    before = model.encoder.front.maps.maps(given["pixel_values"])[-1]
    after = model.train().encoder.front.maps.maps(given["pixel_values"])[-1]
    assert torch.equal(before, after)
    oracle.close(before, theirs.backbone(**given)[-1][0])


@torch.no_grad()
def test_other_norms_learn_and_record() -> None:
    theirs, folder = oracle.reference("maskformer", "maskformer of convolutions", MASKFORMER)
    model, pixels = regard.load(folder), senses.inputs(theirs)["pixel_values"]
    maps, other = model.train().encoder.front, theirs.model.pixel_level_module.encoder
    other.train()
    try:
        oracle.close(maps.maps(pixels)[-1], other(pixels).feature_maps[-1])
        oracle.close(maps.stem.norm.mean, other.embedder.embedder.normalization.running_mean)
        oracle.close(maps.stem.norm.variance, other.embedder.embedder.normalization.running_var)
    finally:
        oracle.reference.cache_clear()  # it has recorded: others get a new one
    assert maps.stem.norm.weight.requires_grad


@torch.no_grad()
def test_a_dilated_stage_reaches_further_and_keeps_the_size() -> None:
    """Every second convolution of it, written as one of 5 x 5 whose odd rows and columns are zero."""
    torch.manual_seed(0)
    model = build(ResidualsConfig(widths=(8, 16), depths=(1, 3), stem=4, dilated=True, frozen=True)).eval()
    first, last = model.maps(torch.randn(2, 3, 37, 50))
    assert first.shape[2:] == last.shape[2:] == (10, 13)
    x = first
    for i, residual in enumerate(model.stages[1]):
        a, b, c = residual.convs
        y, kernel = a(x).relu(), b.conv.weight
        if i:
            kernel = torch.zeros(4, 4, 5, 5)
            kernel[:, :, ::2, ::2] = b.conv.weight
        y = c(b.norm(F.conv2d(y, kernel, padding=kernel.shape[-1] // 2)).relu())
        x = (y + (residual.shortcut(x) if i == 0 else x)).relu()
    oracle.close(last, x)
