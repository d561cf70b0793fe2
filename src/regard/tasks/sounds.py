"""What tasks on sound share, and labels for a sound."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from regard.preprocess.audio import AudioProcessor
from regard.preprocess.audio_stream import BLOCK_SECONDS, HELD_SECONDS, Recording
from regard.tasks.base import Piece, Task
from regard.tasks.classification import label_scores
from regard.tasks.inputs import Inputs
from regard.tasks.media import LabelOptions, M, MediaOptions, read_media, reading
from regard.tasks.options import TaskOptions
from regard.tasks.progress import Meter, clock

SUFFIXES = (".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".aifc", ".au", ".caf", ".w64")
ROWS = 8
"""Sounds that run together at most."""
LEAST_SECONDS = 1.0
"""What is left over of a long sound counts for its labels if it lasts as long."""
MOMENTS = 50
"""Vectors that models make of a second, as they usually do: what sounds are weighed by."""


class SoundTask(Task[M]):
    """A task on sounds: each is a path, bytes, an open file, samples at the model's rate (an array or a list of
    numbers), or {"array" or "raw", "sampling_rate"}. Whole numbers of any type are scaled to -1..1, as files are.

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


def _window(processor: AudioProcessor) -> float:
    """Seconds that a processor cuts sounds to, or 30."""
    if processor.kind.features == "filter_bank":
        return float(processor.settings["max_length"]) / 100  # frames of 10 ms
    return processor.n_samples / float(processor.settings["sampling_rate"]) or BLOCK_SECONDS


def weight(recording: Recording) -> int:
    """About how many vectors a model makes of a recording; of a long one, of what is held of it."""
    return max(1, round((recording.seconds or HELD_SECONDS) * MOMENTS))


class AudioClassification(SoundTask[LabelOptions]):
    """[{"score", "label"}] for a sound, best first.

    Those that last more than a minute are heard in flat memory, window after window (as long as the processor cuts
    sounds to, else 30 seconds), and their labels are by the mean of the windows' logits, each counting by its length;
    a rest of less than a second does not count. Shorter ones are given to the processor whole, as in the reference,
    where some kinds hear the beginning only.
    """

    options = LabelOptions

    def pieces(self, item: Any, options: LabelOptions) -> list[Piece]:
        recording = self.recording(item, options)
        short = recording.seconds is not None and recording.seconds <= HELD_SECONDS
        values = self._heard(recording.samples, recording.name) if short else {}
        return [Piece(values=values, size=weight(recording), note=recording)]

    def _heard(self, sound: Any, name: str) -> dict[str, Tensor]:
        """The model's arguments for samples; ValueError with the recording's name."""
        try:
            found = self.feature_extractor(sound, sampling_rate=self.rate, return_tensors="pt")
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
        return {name: value for name, value in found.items() if name in self.feature_extractor.model_input_names}

    def fits(self, pack: Sequence[Piece], piece: Piece, options: LabelOptions) -> bool:
        same = pack[0].values.keys() == piece.values.keys() and len(piece.values) > 0
        same = same and all(pack[0].values[name].shape == value.shape for name, value in piece.values.items())
        return same and super().fits(pack, piece, options)

    def run(self, pieces: Sequence[Piece], options: LabelOptions, meter: Meter) -> list[Tensor]:
        if pieces[0].values:
            return list(self._logits([p.values for p in pieces], pieces[0].note.name))
        return [self._long(pieces[0].note, meter)]

    def _logits(self, values: Sequence[dict[str, Tensor]], name: str) -> Tensor:
        """(sounds, labels); ValueError with the first one's name."""
        inputs = {key: torch.cat([one[key] for one in values]).to(self.model.device) for key in values[0]}
        try:
            return self.model(**inputs)["logits"].float().cpu()
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None

    def _long(self, recording: Recording, meter: Meter) -> Tensor:
        """The mean logits (labels,) of a recording's windows."""
        total, samples, least = torch.zeros(()), 0, round(LEAST_SECONDS * self.rate)
        for window, _, _ in recording.windows(round(_window(self.feature_extractor) * self.rate), 0, 0):
            if len(window) >= least:
                logits = self._logits([self._heard(window, recording.name)], recording.name)[0]
                total, samples = total + len(window) * logits, samples + len(window)
            if recording.lasts:
                done = samples / self.rate
                meter.partly(min(1.0, done / recording.lasts), f"{clock(done)} of {clock(recording.lasts)}")
        return total / samples

    def finish(
        self, item: Any, pieces: Sequence[Piece], outputs: Sequence[Tensor], options: LabelOptions
    ) -> list[dict[str, Any]]:
        scores = label_scores(outputs[0], options.function_to_apply, self.model.raw.get("problem_type")).tolist()
        labels = self.labels(len(scores))
        found = [{"score": score, "label": label} for label, score in zip(labels, scores, strict=True)]
        found.sort(key=lambda entry: -float(entry["score"]))
        return found[: options.top_k]
