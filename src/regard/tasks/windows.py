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


Window = tuple[int, int, np.ndarray]
"""Which recording, the first sample, and the samples."""


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

    Times are written even where nobody asks: without, models end windows of several sentences early. What follows the
    last of them is heard again, on its own, if it lasts more than a second and is at least half as loud as the whole.
    `progress` is called with seconds that are done.
    """
    heard = [Listening(language=manner.language) for _ in recordings]
    windows, again = _windows(recordings, seconds), list[Window]()
    while batch := [*again[:rows], *itertools.islice(windows, max(0, rows - len(again)))]:
        again = again[rows:]
        rate, sounds = recordings[0].rate, [samples for _, _, samples in batch]
        features = processor(sounds, sampling_rate=rate, return_tensors="pt")["input_features"]
        frames = [len(samples) // int(processor.settings["hop_length"]) for samples in sounds]
        whose = [heard[i] for i, _, _ in batch]
        found = transcriber.listen(whose, list(features), frames, manner, timed=True)
        done = sum(map(len, sounds))
        for row, (i, first, samples), written in zip(whose, batch, found, strict=True):
            if written.silent or not written.tokens:
                continue
            row.add(written, transcriber.marks, offset=first / rate, seconds=len(samples) / rate, last=True)
            end = round(row.said[-1].end * rate) - first
            rest = samples[end:]
            if min(end, len(rest)) > rate and np.abs(rest).mean() > np.abs(samples).mean() / 2:
                again.append((i, first + end, rest))
                done -= len(rest)
        if progress is not None:
            progress(done / rate)
    return [sorted(row.said, key=lambda part: part.start) for row in heard]


def _windows(recordings: Sequence[Recording], seconds: float) -> Iterator[Window]:
    for i, recording in enumerate(recordings):
        first = 0
        for samples in recording.cut(round(seconds * recording.rate)):
            yield i, first, samples
            first += len(samples)
