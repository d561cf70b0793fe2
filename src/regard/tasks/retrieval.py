"""Finding images: a collection is read once, kept as vectors, and asked in words or by an image."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

from regard.checkpoint.files import atomic
from regard.preprocess.media import is_source
from regard.tasks.base import Piece
from regard.tasks.images import SUFFIXES, ImageOptions, ImageTask, image_vectors, is_image
from regard.tasks.inputs import Inputs
from regard.tasks.media import files_of
from regard.tasks.pairs import text_vectors
from regard.tasks.progress import Meter

FORMAT = "regard image index 1"


@dataclass(frozen=True)
class ImageIndex:
    """Vectors of length 1, (N, D), with the names of their images, and which model made them.

    `skipped` says what was wrong with images that were left out.
    """

    vectors: Tensor
    names: tuple[str, ...]
    model: str
    skipped: Mapping[str, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.names)

    def nearest(self, vector: Tensor, count: int | None = None) -> list[dict[str, Any]]:
        """[{"image", "score"}], best first, by the cosine with a vector (D,) of length 1."""
        scores = self.vectors @ vector.to(self.vectors)
        best = scores.topk(len(self) if count is None else min(count, len(self)))
        pairs = zip(best.values.tolist(), best.indices.tolist(), strict=True)
        return [{"image": self.names[i], "score": score} for score, i in pairs]

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a .safetensors file: tensor `vectors`, the names in its header."""
        target = Path(path)
        if not target.parent.is_dir():
            raise ValueError(f"there is no folder {str(target.parent)!r} to write {target.name!r} into")
        about = {"format": FORMAT, "model": self.model, "names": json.dumps(self.names)}
        with atomic(target) as temporary:
            save_file({"vectors": self.vectors.contiguous()}, temporary, about)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> ImageIndex:
        """Read what `save` has written; ValueError, naming the file, for anything else."""
        if not os.path.isfile(path):
            raise ValueError(f"there is no file {str(path)!r}")
        try:
            with safe_open(path, "pt") as file:
                about = file.metadata() or {}
                vectors: Any = file.get_tensor("vectors") if "vectors" in file.keys() else None  # noqa: SIM118
            names = json.loads(about.get("names", "null"))
        except (SafetensorError, ValueError, RecursionError, OSError) as error:
            raise ValueError(f"{path} is no image index: {error}") from None
        right = about.get("format") == FORMAT and isinstance(vectors, Tensor) and isinstance(names, list)
        if not right or vectors.ndim != 2 or vectors.dtype != torch.float32 or not 0 < len(names) == len(vectors):
            raise ValueError(f"{path} is no image index, or is damaged")
        if not bool(vectors.isfinite().all()):
            raise ValueError(f"{path} has vectors that are no numbers")
        return cls(vectors, tuple(map(str, names)), about.get("model", ""))


@dataclass(frozen=True, kw_only=True)
class RetrievalOptions(ImageOptions):
    """`index`: an ImageIndex, the .safetensors file of one, or a folder of images, which is then read, once for a
    pipeline. `keep` writes the index to a file. `top_k` images are found (None: all). With `vectors` the result is the
    vector (C,) of the words or the image."""

    index: Any = None
    keep: str | None = None
    top_k: int | None = 5
    vectors: bool = False

    def check(self) -> None:
        super().check()
        self.require(self.top_k != 0, "top_k", "at least 1, or None for all")


class ImageTextRetrieval(ImageTask[RetrievalOptions]):
    """[{"image", "score"}], nearest first, for words ("a dog in snow") or for an image ({"image": ...}, an image, or
    the path object of one). Words need a model of images and texts; images any model with vectors."""

    options = RetrievalOptions

    def setup(self) -> None:
        self.read_indexes: dict[str, ImageIndex] = {}

    def index(self, images: Any, *, names: Sequence[str] | None = None, on_error: str = "raise") -> ImageIndex:
        """Read a collection once: the path of a folder, or a list of images with `names` (unsaid: paths, or numbers).

        Images that cannot be read are a ValueError that names them, or with `on_error="skip"` are left out and told in
        `skipped`.
        """
        if isinstance(images, (str, os.PathLike)):
            if not os.path.isdir(images):
                raise ValueError(f"there is no folder {str(images)!r}")
            images = files_of(Path(images), SUFFIXES)
        items = list(images)
        if names is not None and len(names) != len(items):
            raise ValueError(f"names has {len(names)} entries for {len(items)} images")
        called = [str(item) if isinstance(item, (str, os.PathLike)) else str(i) for i, item in enumerate(items)]
        found = self([{"image": item} for item in items], vectors=True, on_error=on_error)
        rows = [(name, row) for name, row in zip(names or called, found, strict=True)]
        good = [(name, row) for name, row in rows if isinstance(row, Tensor)]
        if not good:
            raise ValueError("there are no images to index; pass at least one")
        skipped = {name: row["error"] for name, row in rows if not isinstance(row, Tensor)}
        vectors = torch.stack([row for _, row in good])
        return ImageIndex(vectors, tuple(name for name, _ in good), self.mark(), skipped)

    def mark(self) -> str:
        """What tells this model from another one: its class, and a few of its weights."""
        first = next(self.model.parameters()).detach().flatten()[:8].float().tolist()
        return f"{self.model.architecture} {' '.join(f'{x:.6g}' for x in first)}"

    def opened(self, inputs: Any) -> Inputs:
        if isinstance(inputs, Path) and not inputs.is_dir():
            return Inputs([inputs], "one", 1)
        return super().opened(inputs)

    def arrange(self, args: tuple[Any, ...], given: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        parts = {name: given.pop(name) for name in ("image", "text") if name in given}
        if len(parts) + len(args) != 1:
            raise ValueError(f"{self.info.name} takes words or an image, one of them")
        return (parts if parts else args[0]), given

    def query(self, item: Any) -> tuple[str, Any]:
        """("text", words) or ("image", source). A string is words; images are given as a path object or by name."""
        if isinstance(item, dict):
            if set(item) not in ({"image"}, {"text"}):
                has = ", ".join(map(str, item))
                raise ValueError(f'the item has {has}; allowed: {{"image": ...}} or {{"text": ...}}')
            return next(iter(item.items()))
        if isinstance(item, str) and item[:5].lower() != "data:":
            return "text", item
        if is_image(item) or is_source(item):
            return "image", item
        raise ValueError(f"the item is {item!r:.80} (type {type(item).__name__}); allowed: words, or an image")

    def pieces(self, item: Any, options: RetrievalOptions) -> list[Piece]:
        kind, value = self.query(item)
        if kind == "image":
            return super().pieces(value, options)
        if not isinstance(value, str) or not value.strip():
            raise ValueError(f"text is {value!r:.80} (type {type(value).__name__}); allowed: words")
        vector = text_vectors(self.model, self.parts.tokenizer, [value])
        return [Piece(values={"vector": F.normalize(vector.float(), dim=-1)}, size=1)]

    def run(self, pieces: Sequence[Piece], options: RetrievalOptions, meter: Meter) -> list[Tensor]:
        values = self.inputs(pieces)
        found = values["vector"] if "vector" in values else image_vectors(self.model, values["pixel_values"])
        return list(found.cpu())

    def finish(
        self, item: Any, pieces: Sequence[Piece], outputs: Sequence[Tensor], options: RetrievalOptions
    ) -> Tensor | list[dict[str, Any]]:
        if options.vectors:
            return outputs[0]
        return self.found(options).nearest(outputs[0], options.top_k)

    def read(self, given: Mapping[str, Any]) -> RetrievalOptions:
        options = super().read(given)
        if not options.vectors and options.index is not None:
            self.found(options)  # what is wrong with the index is no item's fault
        return options

    def found(self, options: RetrievalOptions) -> ImageIndex:
        """The index that a call names, read or made once."""
        index = options.index
        if isinstance(index, (str, os.PathLike)):
            name = os.path.abspath(index)
            if name not in self.read_indexes:
                self.read_indexes[name] = self.index(index) if os.path.isdir(index) else ImageIndex.load(index)
            index = self.read_indexes[name]
        if not isinstance(index, ImageIndex):
            raise ValueError(f"index is {index!r:.80}; allowed: a folder of images, a .safetensors file, an ImageIndex")
        if not alike(index.model, self.mark()):
            raise ValueError(
                f"the index was made with a {index.model.split()[0] or 'model without a name'} other than this "
                f"{self.model.architecture}; make it again"
            )
        if options.keep is not None:
            index.save(options.keep)
        return index


def alike(one: str, other: str) -> bool:
    """Whether two marks are of one model; its weights may have been rounded otherwise."""
    (a, *first), (b, *second) = [mark.split() or [""] for mark in (one, other)]
    try:
        pairs = [(float(x), float(y)) for x, y in zip(first, second, strict=True)]
    except ValueError:
        return False
    return a == b and all(abs(x - y) <= 0.02 * abs(y) + 1e-6 for x, y in pairs)
