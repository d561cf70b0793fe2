"""The parts of a processor that tasks use: tokenizer, image processor, feature extractor."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from regard import front
from regard.checkpoint.find import find

NAMES: Mapping[str, str] = {
    "tokenizer": "a tokenizer",
    "image_processor": "an image processor",
    "feature_extractor": "a feature extractor",
}
"""Part -> how it is called in errors."""


@dataclass(frozen=True, kw_only=True)
class Parts:
    """What turns input into tensors and tensors into results, by kind; None where a checkpoint has no such part.

    `processor` is all of them as they came, for what only the joined one knows, such as image tokens in a text.
    """

    tokenizer: Any = None
    image_processor: Any = None
    feature_extractor: Any = None
    processor: Any = None

    def check(self, needs: Iterable[str], task: str, model: str) -> None:
        """Raise a ValueError naming the parts that a task needs and that are missing."""
        missing = [name for name in needs if getattr(self, name) is None]
        if missing:
            what = " and ".join(NAMES[name] for name in missing)
            raise ValueError(f"{task} needs {what}, and {model} has none; give {missing[0]}=")


def split(processor: Any) -> dict[str, Any]:
    """The parts of a processor, which may be joined or a single one."""
    if processor is None:
        return {}
    from regard.preprocess.text import Tokenizer

    if isinstance(processor, Tokenizer):
        return {"tokenizer": processor}  # and text alone imports nothing of images and sounds
    from regard.preprocess.audio import AudioProcessor
    from regard.preprocess.image import ImageProcessor
    from regard.preprocess.multimodal import Processor

    if isinstance(processor, Processor):
        return {name: part for name in NAMES if (part := getattr(processor, name)) is not None}
    if isinstance(processor, ImageProcessor):
        return {"image_processor": processor}
    return {"feature_extractor" if isinstance(processor, AudioProcessor) else "tokenizer": processor}


def read_parts(processor: Any, given: Mapping[str, Any]) -> Parts:
    """The parts of `processor`, and over them those that were `given` by name: objects, or folders that hold them.

    Raises ValueError for a folder without that part.
    """
    found = split(processor)
    for name, part in given.items():
        if part is None:
            continue
        there = split(front.processor(find(part).path) if isinstance(part, (str, os.PathLike)) else part)
        if name not in there:
            raise ValueError(f"{name} is {part!r:.200}, which has no such part; allowed: {NAMES[name]}, or its folder")
        found[name] = there[name]
    return Parts(**found, processor=processor)
