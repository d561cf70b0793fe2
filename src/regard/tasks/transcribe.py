"""Sound through a model that hears one window and writes (2212.04356): clips, and long recordings in order (4.5), where
each window begins where the last was understood to and what was written before may be its context. What looks like a
failure is written again."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from regard.config import Config
from regard.models.model import EncoderDecoder, Memory
from regard.preprocess.audio_stream import MelFrames
from regard.tasks.alignment import token_ends
from regard.tasks.marks import Marks, Timely
from regard.tasks.transcript import Segment, segments

COLD = 0.5
"""Below this temperature a text is trusted as context for the next."""


@dataclass(frozen=True, kw_only=True)
class Manner(Config):
    """How to transcribe; thresholds that are None have no say.

    `timed` asks for times of segments, `aligned` for those of tokens too. `temperatures` are tried in turn as long as
    tokens compress better than `compression_ratio_threshold`, or their mean log-probability is under
    `logprob_threshold`. A window is silent where also silence is likelier than `no_speech_threshold`.
    `context` are ids that a text is taken to follow.
    """

    timed: bool = False
    aligned: bool = False
    language: str | None = None
    job: str | None = None
    temperatures: tuple[float, ...] = (0.0,)
    compression_ratio_threshold: float | None = None
    logprob_threshold: float | None = None
    no_speech_threshold: float | None = None
    condition_on_prev_tokens: bool = False
    context: tuple[int, ...] = ()
    generate: Any = None

    def check(self) -> None:
        self.require(bool(self.temperatures) and min(self.temperatures) >= 0, "temperatures", "0 or more each")
        share = self.no_speech_threshold
        self.require(share is None or 0 <= share <= 1, "no_speech_threshold", "0 to 1")
        self.require(
            share is None or self.logprob_threshold is not None, "no_speech_threshold", "with logprob_threshold"
        )


@dataclass(kw_only=True)
class Listening:
    """One recording on its way: what was written so far, and whether the last of it may be context for the next."""

    language: str | None = None
    said: list[Segment] = field(default_factory=list)
    trusted: bool = True

    def add(self, written: Written, marks: Marks, *, offset: float, seconds: float, last: bool = False) -> float:
        """Take what was written about a window; gives how many of its seconds were understood, as `segments` says."""
        parts, heard = segments(written.tokens, marks, offset=offset, seconds=seconds, ends=written.ends, last=last)
        for part in parts:
            part.language, part.end = self.language, min(part.end, offset + seconds)
        self.said += parts
        return heard


@dataclass(kw_only=True)
class Seeking(Listening):
    """One that is heard in order: `seek` is the next frame."""

    frames: MelFrames
    seek: int = 0

    @property
    def left(self) -> int:
        """Frames of the next window that are sound."""
        return min(self.frames.total - self.seek, self.frames.window)


@dataclass
class Written:
    """One window's tokens, without the last one that ends them, what is thought of them, and the seconds at which they
    end, where those were asked for."""

    tokens: list[int]
    logprob: float = 0.0
    temperature: float = 0.0
    silent: bool = False
    ends: list[float] = field(default_factory=list)


class Transcriber:
    """Writes what is said in recordings, several at once."""

    def __init__(self, model: EncoderDecoder, marks: Marks):
        self.model, self.marks = model, marks
        limit = model.decoder.front.limit
        self.room = int(limit) if isinstance(limit, int) else 448
        heads = model.generation.get("alignment_heads")
        self.heads = [tuple(pair) for pair in heads] if heads else self._late_heads()
        self.smooth = int(model.raw.get("median_filter_width") or 7)

    def _late_heads(self) -> list[tuple[int, int]]:
        """All heads of the upper half of the layers, where nobody has said which follow the sound."""
        layers = self.model.config.decoder.stack.layers  # type: ignore[union-attr]
        half = range(len(layers) // 2, len(layers))
        return [(i, h) for i in half for h in range(layers[i].cross.num_heads)]  # type: ignore[union-attr]

    def __call__(
        self, clips: Sequence[MelFrames], manner: Manner, progress: Callable[[float], None] | None = None
    ) -> list[list[Segment]]:
        """The segments of each recording. `progress` is called with seconds that are done. Longer recordings are timed,
        since times tell where to go on."""
        rows = [Seeking(frames=frames, language=manner.language) for frames in clips]
        while active := [row for row in rows if row.seek < row.frames.total]:
            timed = manner.timed or manner.aligned
            for part in (
                [row for row in active if timed or row.frames.whole is None],
                [row for row in active if not timed and row.frames.whole is not None],
            ):
                if part:
                    before = [row.seek for row in part]
                    self._hear(part, manner, timed=timed or part[0].frames.whole is None)
                    if progress is not None:
                        steps = sum(row.seek - seek for row, seek in zip(part, before, strict=True))
                        progress(steps * part[0].frames.hop / part[0].frames.recording.rate)
        return [row.said for row in rows]

    def _hear(self, rows: list[Seeking], manner: Manner, *, timed: bool) -> None:
        """One window of each, and where to go on."""
        windows, left = [row.frames.read(row.seek) for row in rows], [row.left for row in rows]
        found = self.listen(rows, windows, left, manner, timed=timed)
        for row, written in zip(rows, found, strict=True):
            if written.silent:
                row.seek += row.left
                continue
            frame = row.frames.hop / row.frames.recording.rate
            heard = row.add(written, self.marks, offset=row.seek * frame, seconds=row.left * frame)
            step = min(row.left, round(heard / frame))
            row.seek += step if timed and step > 0 else row.left  # nothing understood: never stand still

    def listen(
        self,
        rows: Sequence[Listening],
        windows: Sequence[Tensor],
        frames: Sequence[int],
        manner: Manner,
        *,
        timed: bool,
    ) -> list[Written]:
        """What is said in windows (mels, T), the first `frames` of which are sound; `rows` says whose each is.

        `timed` lets the model write times. The first window of a recording decides on its language.
        """
        memory = self._read(windows)
        unknown = {id(row): i for i, row in reversed(list(enumerate(rows))) if row.language is None}
        for i, code in zip(unknown.values(), self._detect(list(unknown.values()), memory), strict=True):
            rows[i].language = code
        job = self.marks.job(manner.job)
        prefixes = [[*self._context(row, manner), *self.marks.prefix(row.language, job, timed=timed)] for row in rows]
        silence = self._silence(prefixes, memory) if manner.no_speech_threshold is not None else [0.0] * len(rows)
        found = self._write(prefixes, memory, silence, manner, timed=timed)
        for i, (row, written) in enumerate(zip(rows, found, strict=True)):
            row.trusted, written.silent = written.temperature < COLD, self._silent(written, silence[i], manner)
            if manner.aligned and not written.silent:
                written.ends = token_ends(
                    self.model,
                    memory.select(torch.tensor([i])),
                    prefixes[i],
                    written.tokens,
                    heads=self.heads,  # type: ignore[arg-type]
                    moments=max(1, frames[i] // 2),
                    precision=self.marks.precision,
                    smooth=self.smooth,
                )
        return found

    def _read(self, windows: Sequence[Tensor]) -> Memory:
        """What the encoder makes of windows (mels, frames)."""
        together = len(windows) if self.model.device.type != "cpu" else 1  # alone they stay in a processor's cache
        with torch.no_grad():
            parts = [
                self.model.encode(input_features=torch.stack(list(windows[i : i + together])).to(self.model.device))
                for i in range(0, len(windows), together)
            ]
        return Memory(torch.cat([part.padded().hidden for part in parts])) if len(parts) > 1 else parts[0].padded()

    def _detect(self, rows: Sequence[int], memory: Memory) -> list[str | None]:
        """Which language is spoken in rows of memory; None where the model knows one only."""
        if not rows or not self.marks.languages:
            return [None] * len(rows)
        codes = list(self.marks.languages)
        start = torch.full((len(rows), 1), self.marks.start, device=self.model.device)
        with torch.no_grad():
            hidden, _ = self.model.hidden(start, memory.select(torch.tensor(rows)))
            scores = self.model.logits(hidden[:, -1])[:, [self.marks.languages[code] for code in codes]]
        return [codes[best] for best in scores.argmax(-1).tolist()]

    def _context(self, row: Listening, manner: Manner) -> list[int]:
        """What the decoder is told was said before: the text given, and its own as far as it is trusted."""
        ids = list(manner.context)
        if manner.condition_on_prev_tokens and row.trusted:
            ids += [token for part in row.said for token in part.tokens]
        if not ids or self.marks.previous is None:
            return []
        return [self.marks.previous, *ids[-(self.room // 2 - 1) :]]

    def _silence(self, prefixes: Sequence[list[int]], memory: Memory) -> list[float]:
        """How likely the model thinks that nobody speaks, for each row."""
        found = []
        for i, prefix in enumerate(prefixes):
            until = prefix.index(self.marks.start) + 1
            with torch.no_grad():
                ids = torch.tensor([prefix[:until]], device=self.model.device)
                hidden, _ = self.model.hidden(ids, memory.select(torch.tensor([i])))
                scores = self.model.logits(hidden[0, -1]).float().softmax(-1)
            found.append(float(scores[self.marks.silence]))
        return found

    def _write(
        self, prefixes: list[list[int]], memory: Memory, silence: list[float], manner: Manner, *, timed: bool
    ) -> list[Written]:
        """Tokens for each row, at the first temperature at which they look well, else at the last."""
        found: list[Written] = [Written([]) for _ in prefixes]
        waiting = list(range(len(prefixes)))
        for temperature in manner.temperatures:
            part = memory.select(torch.tensor(waiting))
            written = self._generate([prefixes[i] for i in waiting], part, temperature, manner, timed=timed)
            for i, one in zip(waiting, written, strict=True):
                found[i] = one
            waiting = [
                i for i in waiting if self._failed(found[i], manner) and not self._silent(found[i], silence[i], manner)
            ]
            if not waiting:
                break
        return found

    def _generate(
        self, prefixes: list[list[int]], memory: Memory, temperature: float, manner: Manner, *, timed: bool
    ) -> list[Written]:
        width, scored = max(map(len, prefixes)), manner.logprob_threshold is not None
        options: dict[str, Any] = {
            "forced_decoder_ids": None,
            "begin_suppress_tokens": self._begin(),
            **(manner.generate or {}),
        }
        if timed:
            options["logits_processor"] = [Timely(self.marks, width), *options.get("logits_processor", ())]
        if temperature:
            options |= {"do_sample": True, "temperature": temperature, "num_beams": 1, "top_k": 0}
        elif len(manner.temperatures) > 1:
            options |= {"do_sample": False}
        most = self.room - width
        if most < 1:
            raise ValueError(f"the prompt has {width} tokens; this model takes fewer than {self.room}")
        asked = options.pop("max_new_tokens", None)
        for name in ("max_length",):
            total = options.pop(name, None)
            asked = total - width if asked is None and total is not None else asked
        out = self.model.generate(
            decoder_input_ids=prefixes,
            encoder_outputs=memory,
            max_new_tokens=max(1, min(asked or most, most)),
            return_dict_in_generate=True,
            output_scores=scored,
            **options,
        )
        rows = [row[width : width + n].tolist() for row, n in zip(out.sequences, out.lengths.tolist(), strict=True)]
        found = []
        for i, tokens in enumerate(rows):
            logprob = _mean(out, i, tokens, temperature) if scored else 0.0
            found.append(Written([t for t in tokens if t != self.marks.end], logprob, temperature))
        return found

    def _begin(self) -> Any:
        return self.model.generation.get("begin_suppress_tokens")

    def _failed(self, written: Written, manner: Manner) -> bool:
        ratio = manner.compression_ratio_threshold
        if ratio is not None and compression(written.tokens, self.model.head.config.vocab_size) > ratio:  # type: ignore[union-attr]
            return True
        return manner.logprob_threshold is not None and written.logprob < manner.logprob_threshold

    def _silent(self, written: Written, silence: float, manner: Manner) -> bool:
        if manner.no_speech_threshold is None or manner.logprob_threshold is None:
            return False
        return silence > manner.no_speech_threshold and written.logprob < manner.logprob_threshold


def compression(tokens: Sequence[int], vocab: int) -> float:
    """How many times smaller tokens become by zlib, each written in as many bytes as the vocabulary needs: repetitions
    give large numbers."""
    size = int(math.log2(vocab) / 8) + 1
    data = b"".join(token.to_bytes(size, "little") for token in tokens)
    return len(data) / len(zlib.compress(data))


def _mean(out: Any, row: int, tokens: list[int], temperature: float) -> float:
    """The mean log-probability of a row's new tokens, the one that ends them included."""
    if "sequences_scores" in out:
        return float(out.sequences_scores[row])
    if not tokens:
        return 0.0
    total = 0.0
    for step, token in enumerate(tokens):
        scores: Tensor = out.scores[step][row].float() * (temperature or 1.0)
        total += float(scores.log_softmax(-1)[token])
    return total / len(tokens)
