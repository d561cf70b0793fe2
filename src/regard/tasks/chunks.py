"""A long recording heard in windows that overlap, several together, and what was written about them joined: faster than
to seek through it, without times, and no window knows what was said before.

The text is not that of the reference's chunked pipeline, which lets models write windows without times: they end many
of them early then, and words are lost (docs/performance.md has the numbers)."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import numpy as np

from regard.preprocess.audio import AudioProcessor
from regard.preprocess.audio_stream import Recording
from regard.tasks.transcribe import Manner, Transcriber
from regard.tasks.transcript import Segment

ALIKE = 2
"""Tokens that two windows must agree on, at least, to be joined there."""


def transcribe(
    transcriber: Transcriber,
    recording: Recording,
    processor: AudioProcessor,
    manner: Manner,
    *,
    seconds: float,
    stride: tuple[float, float],
    rows: int,
    progress: Callable[[float], None] | None = None,
) -> list[Segment]:
    """All that is said, as one segment, from windows of `seconds`, `rows` at a time, in flat memory.

    `stride` are the seconds on the left and right of a window that its neighbours hear too. `progress` is called with
    seconds that are done.
    """
    length, left, right = (round(x * recording.rate) for x in (seconds, *stride))
    windows = recording.windows(length, left, right)
    tokens: list[int] = []
    last, done, language = 0, 0, manner.language  # `last`: where in `tokens` the last window begins
    while batch := list(itertools.islice(windows, rows)):
        heard = processor([samples for samples, _, _ in batch], sampling_rate=recording.rate, return_tensors="pt")
        found, language = transcriber.heard(heard["input_features"], language, manner)
        for written in found:
            kept, new = join(tokens[last:], written)
            tokens[last:] = kept
            last = len(tokens)
            tokens += new
        new_samples = sum(len(samples) - before - after for samples, before, after in batch)
        done += new_samples
        if progress is not None:
            progress(new_samples / recording.rate)
    return [Segment(0.0, done / recording.rate, tokens, language=language)]


def join(before: Sequence[int], after: Sequence[int]) -> tuple[list[int], list[int]]:
    """What to keep of two texts, the end of one of which says the same as the beginning of the other, more or less.

    Of all ways to lay them over each other, the one with the largest share of equal tokens wins, the longer of equals;
    both are cut in its middle. Without one of `ALIKE` equal tokens nothing is cut.
    """
    first, second = np.asarray(before, dtype=np.int64), np.asarray(after, dtype=np.int64)
    best, cut = 0.0, (len(first), 0)
    if not len(first) or not len(second):
        return list(before), list(after)
    for shift in range(-len(second) + 1, len(first)):  # where in `before` the other begins
        start, end = max(0, shift), min(len(first), shift + len(second))
        equal = int((first[start:end] == second[start - shift : end - shift]).sum())
        score = equal / (end - start) + (end - start) / 10_000
        if equal >= ALIKE and score > best:
            middle = (start + end) // 2
            best, cut = score, (middle, middle - shift)
    return list(before[: cut[0]]), list(after[cut[1] :])
