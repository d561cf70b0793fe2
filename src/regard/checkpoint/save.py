"""A model -> a folder that this library and the reference library both open (quantized ones: this library alone)."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from regard.checkpoint.files import atomic, write_json
from regard.checkpoint.load import table_for
from regard.checkpoint.rules import written
from regard.models.base import Raw
from regard.models.model import Model
from regard.models.registry import family_of, head_of

SHARD_BYTES = 5 * 10**9


def save(model: Model, folder: str | os.PathLike[str], *, shard_bytes: int = SHARD_BYTES) -> None:
    """Write config.json, safetensors (in shards beyond `shard_bytes`), generation_config.json and processor files.

    Every file appears whole or not at all. Raises ValueError for a model that no family describes.
    """
    if not model.raw:
        raise ValueError("this model was built from bricks and has no config.json; build it with regard.from_config")
    for part in model.modules():
        if hasattr(part, "unsaved_because"):  # what stands in a module's place says so itself
            raise ValueError(f"this model cannot be saved as a checkpoint: {part.unsaved_because}")
    family = family_of(model.raw)
    architecture = family.architectures[model.architecture]
    table = table_for(family, Raw(model.raw), head_of(family, model.raw, architecture.head))
    from regard.adapt import quantized_files  # beside this room, and not needed to import it

    quantization = quantized_files.said(model)
    if quantization is None:
        aliases = {name for name, _ in model.config.tied}
        named = model.named_parameters(remove_duplicate=False)
        state = {name: p.detach() for name, p in named if name not in aliases}
        tensors = written(table, state, architecture.prefix)
    else:
        tensors = quantized_files.kept(model)
    path = Path(folder)
    path.mkdir(parents=True, exist_ok=True)
    raw = {**model.raw, "architectures": [model.architecture], "dtype": str(model.dtype).removeprefix("torch.")}
    raw.pop("torch_dtype", None)
    if quantization is not None:
        raw["quantization_config"] = quantization
    write_json(path / "config.json", raw)
    if model.generation:
        write_json(path / "generation_config.json", model.generation)
    _write_weights(tensors, path, shard_bytes)
    if model.processor is not None:
        model.processor.save_pretrained(path)


def _write_weights(tensors: dict[str, torch.Tensor], path: Path, shard_bytes: int) -> None:
    shards: list[dict[str, torch.Tensor]] = [{}]
    size = total = 0
    for name, tensor in tensors.items():
        if size and size + tensor.nbytes > shard_bytes:
            shards.append({})
            size = 0
        shards[-1][name] = tensor
        size += tensor.nbytes
        total += tensor.nbytes
    meta = {"format": "pt"}
    if len(shards) == 1:
        with atomic(path / "model.safetensors") as temporary:
            save_file(shards[0], temporary, metadata=meta)
        return
    where: dict[str, Any] = {}
    for i, shard in enumerate(shards, 1):
        name = f"model-{i:05}-of-{len(shards):05}.safetensors"
        with atomic(path / name) as temporary:
            save_file(shard, temporary, metadata=meta)
        where.update(dict.fromkeys(shard, name))
    write_json(path / "model.safetensors.index.json", {"metadata": {"total_size": total}, "weight_map": where})


Model.save_pretrained = save
