"""The reference library's tiny models on disk, and one way to run either library row by row or in a batch."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import regard
from regard.checkpoint.load import table_for
from regard.models.base import Family, Raw
from regard.models.registry import families

NAMES = ("logits", "start_logits", "end_logits", "last_hidden_state", "pooler_output", "encoder_last_hidden_state")


def cases() -> list[tuple[str, str, str]]:
    """(family, variant, architecture) for every tiny config and every head of every family.

    A family of our own, which the reference does not have, stands here with its first head, to be skipped in sight.
    """
    found = []
    for family in families().values():
        assert family.tiny, f"{family.name} has no tiny reference config"
        for variant, fields in family.tiny.items():
            if family.own:
                found.append((family.name, variant, next(iter(family.architectures))))
                continue
            for name in architectures(family, str(fields["model_type"])):
                found.append((family.name, variant, name))
    return found


def architectures(family: Family, model_type: str) -> list[str]:
    """One class name for each head, of the classes that belong to a model type in the reference."""
    import transformers

    config_class = type(transformers.AutoConfig.for_model(model_type))
    heads: dict[str, str] = {}
    for name, architecture in family.architectures.items():
        found = getattr(transformers, name, None)
        if found is not None and getattr(found, "config_class", None) is config_class:
            heads.setdefault(architecture.head, name)
    assert heads, f"none of {list(family.architectures)} belongs to {model_type} in the reference"
    return list(heads.values())


def skip_own(family: str) -> None:
    """Skip a family that the reference does not have, after making sure that a test of its own is there."""
    if families()[family].own:
        file = Path(__file__).with_name(f"test_{family}.py")
        assert file.exists(), f"{family} has no reference and no {file.name}"
        pytest.skip(f"the reference library has no {family}: see tests/models/{file.name}")


@functools.cache
def reference(family: str, variant: str, architecture: str) -> tuple[Any, Path]:
    """A tiny random model of the reference library, and the folder to which it saved itself."""
    import transformers

    fields = dict(families()[family].tiny[variant])
    torch.manual_seed(sum(map(ord, variant + architecture)))
    config = transformers.AutoConfig.for_model(fields.pop("model_type"), **fields)
    model = getattr(transformers, architecture)._from_config(config, attn_implementation="eager").eval()
    for name, parameter in model.named_parameters():
        if parameter.ndim == 1:  # norms and biases start at 1 and 0: that would hide mistakes
            torch.nn.init.normal_(parameter, 1.0 if "norm" in name.lower() and name.endswith("weight") else 0.0, 0.3)
        elif parameter.std() < 0.1:
            parameter.data.mul_(5)  # sharper attention
    for name, buffer in model.named_buffers():
        if name == "final_logits_bias":
            torch.nn.init.normal_(buffer)
    folder = Path(tempfile.mkdtemp(prefix="regard-oracle-"))
    model.save_pretrained(folder)
    return model, folder


def computed(model: regard.Model, keys: Iterable[str]) -> set[str]:
    """Which keys on disk are known and not needed, by the family's rules."""
    family = families()[_family(model)]
    head = family.architectures[model.architecture].head
    table = table_for(family, Raw(model.raw), head)
    matches = {key: table.match(key) for key in keys}
    return {key for key, match in matches.items() if match is not None and not match.rule.our_keys}


def random_rows(model: Any, lengths: tuple[int, ...] = (7, 11, 11, 4), seed: int = 0) -> list[Tensor]:
    """Rows of ordinary ids that end with the end-of-sequence token."""
    draw = torch.Generator().manual_seed(seed)
    vocab = model.config.get_text_config().vocab_size
    rows = [torch.randint(7, vocab, (n,), generator=draw) for n in lengths]
    eos = model.config.eos_token_id
    for row in rows:
        row[-1] = eos[0] if isinstance(eos, list) else eos if eos is not None else row[-1]
    return rows


def takes_targets(model: Any) -> bool:
    """Whether a reference model is given decoder input of its own; others shift their input, or have no decoder."""
    heads = ("ForConditionalGeneration", "MTModel", "Model")
    has_decoder = bool(model.config.is_encoder_decoder) and hasattr(model, "get_decoder")
    return has_decoder and type(model).__name__.endswith(heads)


@torch.no_grad()
def reference_rows(model: Any, rows: list[Tensor], targets: list[Tensor] | None) -> list[dict[str, Tensor]]:
    """The reference's outputs for each row alone, without padding: what every batch of ours must give again."""
    found = []
    for i, row in enumerate(rows):
        extra = {} if targets is None else {"decoder_input_ids": targets[i][None]}
        out = model(input_ids=row[None], **extra)
        found.append({name: out[name][0] for name in NAMES if out.get(name) is not None})
    return found


@torch.no_grad()
def our_rows(
    model: regard.Model, rows: list[Tensor], targets: list[Tensor] | None, layout: str
) -> list[dict[str, Tensor]]:
    """Our outputs row by row, from one call in a layout: "right" or "left" padding, or "packed" end to end."""
    if layout == "packed":
        inputs: dict[str, Any] = {"input_ids": torch.cat(rows), "lengths": [len(r) for r in rows]}
        if targets is not None:
            inputs |= {"decoder_input_ids": torch.cat(targets), "decoder_lengths": [len(t) for t in targets]}
        cut = lambda x, like: list(x.split([len(r) for r in like]))  # noqa: E731
    else:
        ids, mask = pad(rows, layout)
        inputs = {"input_ids": ids, "attention_mask": mask}
        if targets is not None:
            ids, mask = pad(targets, layout)
            inputs |= {"decoder_input_ids": ids, "decoder_attention_mask": mask}
        cut = lambda x, like: [x[i, -len(r) :] if layout == "left" else x[i, : len(r)] for i, r in enumerate(like)]  # noqa: E731
    out = model(**inputs)
    head = families()[_family(model)].architectures[model.architecture].head
    found: list[dict[str, Tensor]] = [{} for _ in rows]
    for name in NAMES:
        if name not in out:
            continue
        per_row = name == "pooler_output" or (name == "logits" and head == "classification")
        like = rows if targets is None or name == "encoder_last_hidden_state" else targets
        parts = list(out[name]) if per_row else cut(out[name], like)
        for row, part in zip(found, parts, strict=True):
            row[name] = part
    return found


def _family(model: regard.Model) -> str:
    return next(f.name for f in families().values() if model.raw["model_type"] in f.model_types)


def pad(rows: list[Tensor], side: str) -> tuple[Tensor, Tensor]:
    """Rows -> (ids, mask), padded on a side with an id that is a real word, so that only the mask can hide it."""
    width = max(map(len, rows))
    ids, mask = torch.full((len(rows), width), 5), torch.zeros(len(rows), width, dtype=torch.long)
    for i, row in enumerate(rows):
        where = slice(width - len(row), width) if side == "left" else slice(0, len(row))
        ids[i, where], mask[i, where] = row, 1
    return ids, mask


def compare(ours: list[dict[str, Tensor]], theirs: list[dict[str, Tensor]]) -> float:
    """The worst difference of scale over all rows and outputs; each of the reference's must be there."""
    worst = 0.0
    for mine, other in zip(ours, theirs, strict=True):
        names = set(mine) & set(other)
        assert {"logits", "start_logits", "last_hidden_state"} & names, (list(mine), list(other))
        assert set(other) - {"encoder_last_hidden_state"} <= set(mine), (list(mine), list(other))
        worst = max([worst, *(close(mine[name], other[name]) for name in names)])
    return worst


def close(ours: Tensor, theirs: Tensor, tolerance: float = 1e-5) -> float:
    """Assert that the largest difference is within `tolerance` of the reference's scale, and return that ratio."""
    assert ours.shape == theirs.shape, (ours.shape, theirs.shape)
    scale = float(theirs.abs().max().clamp(min=1e-3))
    worst = float((ours - theirs).abs().max()) / scale
    assert worst <= tolerance, f"differs by {worst:.2e} of scale {scale:.3g}"
    return worst
