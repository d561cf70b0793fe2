"""Long recordings cut where speech pauses, several windows heard together: everything once, no window knows another."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from regard.preprocess.audio import AudioProcessor
from regard.preprocess.audio_stream import Recording
from regard.tasks.transcribe import Listening, Manner, Transcriber
from regard.tasks.transcript import Segment

REST = 1.0
"""Seconds of a model's window that stay silent. One full to its end looks as if a sentence were cut there, which
models were taught to leave to the next window (2212.04356, 2.3): they write little then, or nothing."""


def longest(processor: AudioProcessor, seconds: float | None = None) -> float:
    """How many seconds a window may have: as many as the model hears, less a rest, or fewer where fewer are asked."""
    return min(float(processor.settings["chunk_length"]) - REST, seconds or float("inf"))


def transcribe(
    transcriber: Transcriber,
    recordings: Sequence[Recording],
    processor: AudioProcessor,
    manner: Manner,
    *,
    seconds: float,
    rows: int,
    progress: Callable[[float], None] | None = None,
) -> list[list[Segment]]:
    """The segments of each recording, heard in windows of at most `seconds`, `rows` at a time, in flat memory.

    Times are written even where nobody asks: without, models end windows of several sentences early.
    `progress` is called with seconds that are done.
    """
    heard = [Listening(language=manner.language) for _ in recordings]
    windows = _windows(recordings, seconds)
    while batch := list(itertools.islice(windows, rows)):
        rate, sounds = recordings[0].rate, [samples for _, _, samples in batch]
        features = processor(sounds, sampling_rate=rate, return_tensors="pt")["input_features"]
        frames = [len(samples) // int(processor.settings["hop_length"]) for samples in sounds]
        whose = [heard[i] for i, _, _ in batch]
        found = transcriber.listen(whose, list(features), frames, manner, timed=True)
        for row, (_, first, samples), written in zip(whose, batch, found, strict=True):
            if not written.silent:
                row.add(written, transcriber.marks, offset=first / rate, seconds=len(samples) / rate, last=True)
        if progress is not None:
            progress(sum(map(len, sounds)) / rate)
    return [row.said for row in heard]


def _windows(recordings: Sequence[Recording], seconds: float) -> Iterator[tuple[int, int, np.ndarray]]:
    """(recording, first sample, samples) of all windows."""
    for i, recording in enumerate(recordings):
        first = 0
        for samples in recording.cut(round(seconds * recording.rate)):
            yield i, first, samples
            first += len(samples)
