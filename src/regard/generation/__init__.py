"""Writing: greedy, sampled, with beams; all at once or as a stream. Importing this gives models their `generate`."""

from __future__ import annotations

from regard.generation.config import GenerationConfig
from regard.generation.generate import generate
from regard.generation.stream import Step, stream
from regard.models.model import Model

__all__ = ["GenerationConfig", "Step", "generate", "stream"]

Model.generate = generate
