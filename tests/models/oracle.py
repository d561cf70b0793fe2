"""The reference library's tiny models on disk, and one way to run either library row by row or in a batch."""

from __future__ import annotations

import functools
import inspect
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import regard
from regard.checkpoint.load import table_for
from regard.models.base import Family, Raw
from regard.models.registry import families

NAMES = ("logits", "start_logits", "end_logits", "last_hidden_state", "pooler_output", "text_embeds")
NAMES += ("encoder_last_hidden_state",)


def cases() -> list[tuple[str, str, str]]:
    """(family, variant, architecture) for every tiny config and every head of every family that reads text alone.

    A family of our own, which the reference does not have, stands here with its first head, to be skipped in sight.
    """
    return [case for case in _cases() if reads(case[2]) == {"text"}]


def sense_cases() -> list[tuple[str, str, str]]:
    """The same for what reads images, video or sound, with text beside it or without."""
    return [case for case in _cases() if reads(case[2]) != {"text"}]


def sound_cases() -> list[tuple[str, str, str]]:
    """The same for what reads sound, one class for each head."""
    found: dict[Any, tuple[str, str, str]] = {}
    for family, variant, name in sense_cases():
        if "audio" in reads(name):
            found.setdefault((variant, families()[family].architectures[name].head), (family, variant, name))
    return list(found.values())


def reads(architecture: str) -> set[str]:
    """What a class reads, as the reference says: "text", "image", "video", "audio"."""
    import transformers

    if architecture.endswith("ForCausalLM"):
        return {"text"}  # some inherit the word "image" from their bigger brothers
    found = getattr(getattr(transformers, architecture, None), "input_modalities", "text")
    return {found} if isinstance(found, str) else set(found)


def _cases() -> list[tuple[str, str, str]]:
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
    """The classes that belong to a model type in the reference: one for each head, or all that read with senses."""
    import transformers

    config_class = type(transformers.AutoConfig.for_model(model_type))
    heads: dict[Any, str] = {}
    for name, architecture in family.architectures.items():
        if name.endswith("ForPreTraining"):  # opened for another head than theirs: tested by the family
            continue
        found = getattr(transformers, name, None)
        if found is not None and getattr(found, "config_class", None) is config_class:
            same = (architecture.head, architecture.prefix)
            heads.setdefault(same if reads(name) == {"text"} else name, name)
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
        elif not parameter.any():
            torch.nn.init.normal_(parameter, std=0.3)  # tokens and positions that start at 0
        elif parameter.std() < 0.1:
            parameter.data.mul_(5)  # sharper attention
    for name, buffer in model.named_buffers():
        if name == "final_logits_bias" or name.endswith(".running_mean"):
            torch.nn.init.normal_(buffer)
        elif name.endswith((".running_var", ".normalization.weight")):  # frozen norms keep weights as buffers
            torch.nn.init.uniform_(buffer, 0.5, 2.0)
        elif name.endswith(".normalization.bias"):
            torch.nn.init.normal_(buffer, std=0.3)
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


def random_words(model: Any, lengths: tuple[int, ...], seed: int = 0) -> list[Tensor]:
    """Rows of ordinary ids that end with the end-of-sequence token."""
    draw = torch.Generator().manual_seed(seed)
    text = model.config.get_text_config()
    vocab, eos = text.vocab_size, text.eos_token_id
    rows = [torch.randint(7, vocab, (n,), generator=draw) for n in lengths]
    for row in rows:
        row[-1] = eos[0] if isinstance(eos, list) else eos if eos is not None else row[-1]
    return rows


def _sound(config: Any, n: int) -> tuple[int, ...]:
    return (41 * n,) if hasattr(config, "conv_kernel") else (config.max_length, config.num_mel_bins)


# The shape of one input of a model that hears, by the reference's name for it; n is a length, where it has one.
SENSES: dict[str, Callable[[Any, int], tuple[int, ...]]] = {
    "input_features": lambda config, n: (config.num_mel_bins, 2 * config.max_source_positions),
    "input_values": _sound,
}


def random_rows(model: Any, lengths: tuple[int, ...] = (7, 11, 11, 4), seed: int = 0) -> list[Tensor]:
    """What a reference model reads, of several lengths: words, or something for its other senses."""
    if model.main_input_name == "input_ids":
        return random_words(model, lengths, seed)
    draw = torch.Generator().manual_seed(seed)
    return [torch.randn(SENSES[model.main_input_name](model.config, n), generator=draw) for n in lengths]


def random_targets(model: Any, lengths: tuple[int, ...]) -> list[Tensor] | None:
    """Words for the decoder of a reference model that is given some."""
    return random_words(model, lengths, seed=1) if takes_targets(model) else None


def skip_layout(model: Any, layout: str) -> None:
    """Skip what a front-end does not take: recordings are padded on the right, and a fixed number of frames never."""
    if model.main_input_name == "input_ids" or layout == "right":
        return
    if random_rows(model)[0].ndim == 1 and layout == "left":
        pytest.skip("sound is padded on the right")
    if random_rows(model)[0].ndim > 1 and not (layout == "left" and takes_targets(model)):
        pytest.skip("inputs of one shape need no layout")


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
        out = model(**{model.main_input_name: row[None]}, **extra)
        found.append({name: out[name][0] for name in NAMES if out.get(name) is not None})
    return found


@torch.no_grad()
def our_rows(
    model: regard.Model, rows: list[Tensor], targets: list[Tensor] | None, layout: str
) -> list[dict[str, Tensor]]:
    """Our outputs row by row, from one call in a layout: "right" or "left" padding, or "packed" end to end."""
    assert model.encoder is not None or model.decoder is not None
    front = (model.encoder or model.decoder).front
    inputs = laid_out(rows, layout, next(iter(inspect.signature(front.forward).parameters)))
    counts = [front.frames(len(row)) if hasattr(front, "frames") else len(row) for row in rows]
    if targets is not None:
        inputs |= laid_out(targets, layout, "decoder_input_ids", "decoder_")
    out = model(**inputs)
    head = families()[_family(model)].architectures[model.architecture].head
    found: list[dict[str, Tensor]] = [{} for _ in rows]
    for name in NAMES:
        if name not in out:
            continue
        per_row = name in ("pooler_output", "text_embeds") or (name == "logits" and head == "classification")
        read = targets is None or name == "encoder_last_hidden_state"
        whole = per_row or (read and rows[0].ndim > 1)
        lengths = counts if read else [len(target) for target in targets]
        parts = list(out[name]) if whole else cut(out[name], lengths, layout)
        for row, part in zip(found, parts, strict=True):
            row[name] = part
    return found


def _family(model: regard.Model) -> str:
    return next(f.name for f in families().values() if model.raw["model_type"] in f.model_types)


def laid_out(rows: list[Tensor], layout: str, name: str, prefix: str = "") -> dict[str, Any]:
    """Rows as a call takes them: padded with a mask, packed with their lengths, or just stacked."""
    if rows[0].ndim > 1:
        return {name: torch.stack(rows)}
    if layout == "packed":
        return {name: torch.cat(rows), f"{prefix}lengths": [len(row) for row in rows]}
    values, mask = pad(rows, layout)
    return {name: values, f"{prefix}attention_mask": mask}


def cut(x: Tensor, lengths: list[int], layout: str) -> list[Tensor]:
    """The inverse of `laid_out`."""
    if layout == "packed":
        return list(x.split(lengths))
    return [row[-n:] if layout == "left" else row[:n] for row, n in zip(x, lengths, strict=True)]


def pad(rows: list[Tensor], side: str) -> tuple[Tensor, Tensor]:
    """Rows -> (ids, mask), padded on a side with an id that is a real word, so that only the mask can hide it."""
    width = max(map(len, rows))
    ids, mask = rows[0].new_full((len(rows), width), 5), torch.zeros(len(rows), width, dtype=torch.long)
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
