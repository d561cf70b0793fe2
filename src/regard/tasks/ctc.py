"""Speech by models that give one unit each moment (connectionist temporal classification, Graves et al. 2006): windows
of long recordings, the best text by greedy or by prefix beam search, and where its units lie."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch

from regard.models.model import SingleTower
from regard.preprocess.audio import AudioProcessor
from regard.preprocess.audio_stream import Recording

MAX_UNITS = 64
"""Units that a beam may go on with at each moment: the likeliest."""


def windows(
    recording: Recording, ratio: int, seconds: float, stride: tuple[float, float]
) -> Iterator[tuple[np.ndarray, int, int]]:
    """Windows of whole moments (`ratio` samples each), with the samples that belong to neighbours; 0 seconds: all."""
    if not seconds:
        held = recording.samples if recording.samples is not None else np.concatenate(list(recording.blocks()))
        yield held, 0, 0
        return
    length, left, right = (round(s * recording.rate / ratio) * ratio for s in (seconds, *stride))
    yield from recording.windows(length, left, right)


def moments(
    model: SingleTower, processor: AudioProcessor, sounds: Sequence[np.ndarray], names: Sequence[str]
) -> list[torch.Tensor]:
    """The log-probabilities (T, V) of the units of each sound. Raises ValueError naming one that is too short."""
    rows = [processor(s, sampling_rate=processor.sampling_rate, return_tensors="pt")["input_values"][0] for s in sounds]
    front = model.encoder.front  # type: ignore[union-attr]
    counts = [int(front.frames(len(row))) for row in rows]  # type: ignore[operator]
    for name, count, row in zip(names, counts, rows, strict=True):
        if not count:
            raise ValueError(f"{name} is too short: {len(row)} samples are less than a moment of this model")
    out = model(input_values=torch.cat(rows).to(model.device), lengths=[len(row) for row in rows])
    return list(out["logits"].float().log_softmax(-1).cpu().split(counts))


def read(
    model: SingleTower,
    processor: AudioProcessor,
    recordings: Sequence[Recording],
    cut: Callable[[Recording], tuple[float, tuple[float, float]]],
    ratio: int,
    keep: Callable[[torch.Tensor], torch.Tensor],
    *,
    rows: int,
    progress: Callable[[float], None] | None = None,
) -> list[torch.Tensor]:
    """What `keep` leaves of the log-probabilities (T, V) of each recording, heard in windows, `rows` at a time."""
    found: list[list[torch.Tensor]] = [[] for _ in recordings]
    waiting: list[tuple[int, np.ndarray, int, int]] = []

    def flush() -> None:
        logs = moments(model, processor, [w[1] for w in waiting], [recordings[w[0]].name for w in waiting])
        for (i, sound, left, right), part in zip(waiting, logs, strict=True):
            count = round(len(sound) / ratio)
            first = round(left / len(sound) * count)
            last = count - round(right / len(sound) * count) if left or right else len(part)
            found[i].append(keep(part[first:last]))
            if progress is not None:
                progress((len(sound) - left - right) / recordings[i].rate)
        waiting.clear()

    for i, recording in enumerate(recordings):
        for sound, left, right in windows(recording, ratio, *cut(recording)):
            if found[i] and not model.encoder.front.frames(len(sound)):  # type: ignore[union-attr,operator]
                continue  # the rest is less than a moment
            waiting.append((i, sound, left, right))
            if len(waiting) >= rows:
                flush()
    if waiting:
        flush()
    return [torch.cat(parts) for parts in found]


def beam_search(logs: np.ndarray, width: int, blank: int) -> list[int]:
    """The likeliest sequence of units by (T, V) log-probabilities, over all ways to say it, as far as a beam of `width`
    beginnings sees (Hannun et al. 2014, 1408.2873)."""
    never = -math.inf
    beams: dict[tuple[int, ...], tuple[float, float]] = {(): (0.0, never)}  # ends in a blank, or in its last unit
    for row in logs:
        best = np.argpartition(-row, MAX_UNITS)[:MAX_UNITS] if len(row) > MAX_UNITS else np.arange(len(row))
        units = [(int(u), float(row[u])) for u in best if u != blank]
        quiet, new = float(row[blank]), dict[tuple[int, ...], tuple[float, float]]()

        def add(
            text: tuple[int, ...], silent: float, said: float, new: dict[tuple[int, ...], tuple[float, float]]
        ) -> None:
            old = new.get(text, (never, never))
            new[text] = (_plus(old[0], silent), _plus(old[1], said))

        for text, (silent, said) in beams.items():
            either = _plus(silent, said)
            add(text, either + quiet, never, new)
            for unit, p in units:
                if text and unit == text[-1]:
                    add(text, never, said + p, new)
                    add((*text, unit), never, silent + p, new)
                else:
                    add((*text, unit), never, either + p, new)
        ranked = sorted(new.items(), key=lambda item: -_plus(*item[1]))
        beams = dict(ranked[:width])
    return list(max(beams.items(), key=lambda item: _plus(*item[1]))[0])


def _plus(a: float, b: float) -> float:
    """log(exp(a) + exp(b))"""
    low, high = (a, b) if a < b else (b, a)
    return high if low == -math.inf else high + math.log1p(math.exp(low - high))


def place(logs: np.ndarray, units: Sequence[int], blank: int) -> list[int]:
    """The likeliest way to say `units` over (T, V) log-probabilities: a unit or blank for every moment (Viterbi)."""
    states = np.full(2 * len(units) + 1, blank)
    states[1::2] = units
    skips = np.zeros(len(states), dtype=bool)  # from the unit before, over the blank, where they differ
    skips[3::2] = states[3::2] != states[1:-2:2]
    score = np.full(len(states), -np.inf)
    score[:2] = logs[0, states[:2]]
    came = np.zeros((len(logs), len(states)), dtype=np.int8)
    for t in range(1, len(logs)):
        ways = np.full((3, len(states)), -np.inf)
        ways[0], ways[1, 1:] = score, score[:-1]
        ways[2, 2:] = np.where(skips[2:], score[:-2], -np.inf)
        came[t] = ways.argmax(0)
        score = ways.max(0) + logs[t, states]
    at = len(states) - 1
    if len(states) > 1 and score[-2] > score[-1]:
        at -= 1
    path = []
    for t in range(len(logs) - 1, -1, -1):
        path.append(int(states[at]))
        at -= int(came[t, at])
    return path[::-1]
