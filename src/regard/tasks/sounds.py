"""What tasks on sound share, and labels for a sound."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from regard.preprocess.audio import AudioProcessor
from regard.preprocess.audio_stream import HELD_SECONDS, Recording
from regard.tasks.base import Piece, Task
from regard.tasks.classification import label_scores
from regard.tasks.inputs import Inputs
from regard.tasks.media import LabelOptions, M, MediaOptions, read_media, reading
from regard.tasks.options import TaskOptions

SUFFIXES = (".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".aifc", ".au", ".caf", ".w64")
ROWS = 8
"""Sounds that run together at most."""
MOMENTS = 50
"""Vectors that models make of a second, as they usually do: what sounds are weighed by."""


class SoundTask(Task[M]):
    """A task on sounds: each is a path, bytes, an open file, samples at the model's rate (an array or a list of
    numbers), or {"array" or "raw", "sampling_rate"}.

    The path object of a folder stands for the sounds in it.
    """

    options: ClassVar[type[TaskOptions]] = MediaOptions
    lookahead = 64

    @property
    def feature_extractor(self) -> AudioProcessor:
        """What turns sound into the model's input."""
        found: AudioProcessor = self.parts.feature_extractor
        return found

    @property
    def rate(self) -> int:
        """Samples of a second, as the model hears them."""
        return int(self.feature_extractor.settings["sampling_rate"])

    def opened(self, inputs: Any) -> Inputs:
        if isinstance(inputs, (list, tuple)) and inputs and isinstance(inputs[0], (int, float)):
            return Inputs([inputs], "one", 1)
        return read_media(inputs, lambda value: hasattr(value, "ndim"), SUFFIXES)

    def recording(self, item: Any, options: M) -> Recording:
        """An item's sound. ValueError names the file and says what is wrong with it."""
        with reading(item):
            return Recording.of(item, self.rate, options.allow_hosts)

    def fits(self, pack: Sequence[Piece], piece: Piece, options: M) -> bool:
        return len(pack) < (options.batch_size or ROWS)


def weight(recording: Recording) -> int:
    """About how many vectors a model makes of a recording; of a long one, of what is held of it."""
    return max(1, round((recording.seconds or HELD_SECONDS) * MOMENTS))


class AudioClassification(SoundTask[LabelOptions]):
    """[{"score", "label"}] for a sound, best first."""

    options = LabelOptions

    def pieces(self, item: Any, options: LabelOptions) -> list[Piece]:
        recording = self.recording(item, options)
        if recording.samples is None:
            raise ValueError(
                f"{recording.name} lasts more than {HELD_SECONDS:g} seconds, the most that is labelled; cut it"
            )
        try:
            found = self.feature_extractor(recording.samples, sampling_rate=self.rate, return_tensors="pt")
        except ValueError as error:
            raise ValueError(f"{recording.name}: {error}") from None
        values = {name: value for name, value in found.items() if name in self.feature_extractor.model_input_names}
        return [Piece(values=values, size=weight(recording), note=recording.name)]

    def fits(self, pack: Sequence[Piece], piece: Piece, options: LabelOptions) -> bool:
        same = all(pack[0].values[name].shape == value.shape for name, value in piece.values.items())
        return same and super().fits(pack, piece, options)

    def run(self, pieces: Sequence[Piece], options: LabelOptions) -> list[Tensor]:
        names = pieces[0].values
        inputs = {name: torch.cat([p.values[name] for p in pieces]).to(self.model.device) for name in names}
        try:
            return list(self.model(**inputs)["logits"].float().cpu())
        except ValueError as error:
            raise ValueError(f"{pieces[0].note}: {error}") from None

    def finish(
        self, item: Any, pieces: Sequence[Piece], outputs: Sequence[Tensor], options: LabelOptions
    ) -> list[dict[str, Any]]:
        scores = label_scores(outputs[0], options.function_to_apply, self.model.raw.get("problem_type")).tolist()
        labels = self.labels(len(scores))
        found = [{"score": score, "label": label} for label, score in zip(labels, scores, strict=True)]
        found.sort(key=lambda entry: -float(entry["score"]))
        return found[: options.top_k]
