"""Speech to text, by models that write and by models that give a unit each moment; with times on request."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from regard.config import CTCHeadConfig
from regard.generation.config import GenerationConfig
from regard.models.model import EncoderDecoder, SingleTower
from regard.preprocess.audio_stream import MelFrames, Recording
from regard.preprocess.ctc import CTCTokenizer
from regard.tasks import ctc, subtitles, windows
from regard.tasks.base import Piece
from regard.tasks.marks import Marks, read_marks
from regard.tasks.media import MediaOptions
from regard.tasks.options import read_options
from regard.tasks.progress import Meter, clock
from regard.tasks.sounds import MOMENTS, ROWS, SoundTask, weight
from regard.tasks.spoken import SPOKEN, UNSPACED
from regard.tasks.transcribe import Manner, Transcriber
from regard.tasks.transcript import Segment, words
from regard.tasks.writing import GENERATE

LONG_SECONDS = 60.0
"""Recordings beyond this are heard in windows by models of moments, whose attention grows with the square of them."""


@dataclass(frozen=True, kw_only=True)
class SpeechOptions(MediaOptions):
    """`return_timestamps`: True for segments, "word", or (models of moments) "char". `return_language` adds to chunks.

    For models that write: `language`, `task` ("translate" into English), `prompt` (words that come before), and as in
    `regard.tasks.transcribe.Manner` `temperature` (one or several), the thresholds and `condition_on_prev_tokens`; all
    options of `generate` too, also within `generate_kwargs`.
    What is longer than they hear at once is cut at pauses into windows of at most `chunk_length_s` seconds, so that
    nothing overlaps, `batch_size` of them together. With 0, or with `condition_on_prev_tokens`, it is heard in order,
    each window from where the last was understood to, as in the reference.
    For models of moments: `num_beams` of prefix beam search; `chunk_length_s` seconds of a window, `stride_length_s` of
    which on both sides (or left and right) overlap; without, up to a minute at once, else windows of 30 seconds.
    """

    return_timestamps: bool | Literal["word", "char"] = False
    return_language: bool = False
    chunk_length_s: float | None = None
    stride_length_s: float | tuple[float, float] | None = None
    language: str | None = None
    task: str | None = None
    prompt: str | None = None
    prompt_ids: Any = None
    temperature: float | tuple[float, ...] = 0.0
    compression_ratio_threshold: float | None = None
    logprob_threshold: float | None = None
    no_speech_threshold: float | None = None
    condition_on_prev_tokens: bool = False
    generate: Any = None

    def check(self) -> None:
        super().check()
        self.require((self.chunk_length_s or 0) >= 0, "chunk_length_s", "seconds, 0 or more")
        left, right = self.stride
        ok = left >= 0 and right >= 0 and (not self.chunk_length_s or left + right < self.chunk_length_s)
        self.require(ok, "stride_length_s", "seconds, 0 or more, together less than chunk_length_s")

    @property
    def stride(self) -> tuple[float, float]:
        """Seconds of a window that overlap, left and right; a sixth each where nothing is said."""
        found = (self.chunk_length_s or 0) / 6 if self.stride_length_s is None else self.stride_length_s
        return found if isinstance(found, tuple) else (found, found)


class SpeechRecognition(SoundTask[SpeechOptions]):
    """{"text"} for a recording, with "chunks" [{"text", "timestamp": (start, end) in seconds}] on request.

    Recordings may be of any length; files are read in flat memory.
    """

    options = SpeechOptions
    suffix = ".srt"

    def setup(self) -> None:
        model, tokenizer = self.model, self.parts.tokenizer
        self.transcriber: Transcriber | None = None
        if isinstance(model, EncoderDecoder):
            window = self.feature_extractor.settings.get("chunk_length")
            positions = getattr(model.encoder.front.config, "size", None)
            marks = None
            if window and positions:
                marks = read_marks(model.generation or model.raw, tokenizer, precision=window / positions)
            if marks is None:
                raise ValueError(f"{model.name or 'this model'} reads no sound, or its tokenizer knows no times")
            self.transcriber = Transcriber(model, marks)
        elif not isinstance(model.config.head, CTCHeadConfig) or not isinstance(tokenizer, CTCTokenizer):
            raise ValueError(f"{model.name or 'this model'} needs a tokenizer of characters (vocab.json) to be read")
        else:
            self.ratio = 1
            for _, _, stride in model.encoder.front.config.convs:  # type: ignore[union-attr]
                self.ratio *= stride

    @property
    def marks(self) -> Marks:
        """The special tokens of a model that writes."""
        assert self.transcriber is not None
        return self.transcriber.marks

    def read(self, given: Mapping[str, Any]) -> SpeechOptions:
        given = dict(given)
        nested = given.pop("generate_kwargs", None)
        if nested is not None and not isinstance(nested, Mapping):
            raise ValueError(f"generate_kwargs is {nested!r:.80}; allowed: a mapping of options")
        options, generate = read_options(self.options, {**given, **(nested or {})}, self.info.name, GENERATE)
        GenerationConfig(**{name: value for name, value in generate.items() if value is not None})
        options = options.replace(generate=generate)
        if self.transcriber is None:
            wrong = [name for name in generate if name != "num_beams"]
            wrong += [
                name for name in ("language", "task", "prompt", "prompt_ids") if getattr(options, name) is not None
            ]
            if wrong:
                raise ValueError(f"{wrong[0]} is given; allowed for this model, which writes no tokens: num_beams")
        else:
            if options.return_timestamps == "char":
                raise ValueError("return_timestamps is 'char'; allowed for this model: True, 'word'")
            self._check_windows(options)
            self.manner(options)
        return options

    def _check_windows(self, options: SpeechOptions) -> None:
        """Refuse what a model that writes cannot do with long recordings."""
        window, asked = self.feature_extractor.settings["chunk_length"], options.chunk_length_s
        if asked and asked > window:
            raise ValueError(f"chunk_length_s is {asked:g}; allowed for this model: at most {window}, or 0 to seek")
        if asked and options.condition_on_prev_tokens:
            raise ValueError("condition_on_prev_tokens is True with chunk_length_s; leave one of them out")

    def manner(self, options: SpeechOptions) -> Manner:
        """The options as a model that writes takes them, checked."""
        temperature = options.temperature
        context: list[int] = []
        if options.prompt is not None:
            context = self.parts.tokenizer(" " + options.prompt.strip(), add_special_tokens=False)["input_ids"]
        elif options.prompt_ids is not None:
            given = options.prompt_ids.tolist() if hasattr(options.prompt_ids, "tolist") else options.prompt_ids
            context = [i for i in given if i != self.marks.previous]
        self.marks.job(options.task)
        return Manner(
            timed=bool(options.return_timestamps),
            aligned=options.return_timestamps == "word",
            language=self.marks.language(options.language),
            job=options.task,
            temperatures=temperature if isinstance(temperature, tuple) else (temperature,),
            compression_ratio_threshold=options.compression_ratio_threshold,
            logprob_threshold=options.logprob_threshold,
            no_speech_threshold=options.no_speech_threshold,
            condition_on_prev_tokens=options.condition_on_prev_tokens,
            context=tuple(context),
            generate=options.generate,
        )

    def pieces(self, item: Any, options: SpeechOptions) -> list[Piece]:
        recording = self.recording(item, options)
        note: Any = recording
        if self.transcriber is not None and not self._cuts(recording, options):
            note = MelFrames(recording, self.feature_extractor)
        return [Piece(size=weight(recording), note=note)]

    def _cuts(self, recording: Recording, options: SpeechOptions) -> bool:
        """Whether a model that writes hears this recording in windows that are cut at pauses."""
        if options.chunk_length_s == 0 or options.condition_on_prev_tokens:
            return False
        most = windows.longest(self.feature_extractor, options.chunk_length_s)
        return recording.seconds is None or recording.seconds > most

    def run(self, pieces: Sequence[Piece], options: SpeechOptions, meter: Meter) -> list[Any]:
        recordings = [getattr(piece.note, "recording", piece.note) for piece in pieces]
        total = sum(r.lasts or p.length / MOMENTS for r, p in zip(recordings, pieces, strict=True))
        done = 0.0

        def progress(seconds: float) -> None:
            nonlocal done
            done += seconds
            meter.partly(len(pieces) * min(1.0, done / total), f"{clock(min(done, total))} of {clock(total)}")

        rows = options.batch_size or ROWS
        if self.transcriber is not None:
            return self._transcribe([piece.note for piece in pieces], options, rows, progress)
        assert isinstance(self.model, SingleTower)
        beams = int((options.generate or {}).get("num_beams") or 1)
        keep = (lambda logs: logs.argmax(-1)) if beams == 1 else (lambda logs: logs)
        return ctc.read(
            self.model,
            self.feature_extractor,
            [piece.note for piece in pieces],
            lambda recording: _cut(recording, options),
            self.ratio,
            keep,
            rows=rows,
            progress=progress,
        )

    def _transcribe(
        self,
        notes: Sequence[Recording | MelFrames],
        options: SpeechOptions,
        rows: int,
        progress: Callable[[float], None],
    ) -> list[list[Segment]]:
        """The segments of each: of clips and of what is heard in order together, of what is cut together."""
        assert self.transcriber is not None
        manner, ears = self.manner(options), self.feature_extractor
        clips = [note for note in notes if isinstance(note, MelFrames)]
        found = dict(zip(map(id, clips), self.transcriber(clips, manner, progress), strict=True))
        cut = [note for note in notes if isinstance(note, Recording)]
        seconds = windows.longest(ears, options.chunk_length_s)
        parts = windows.transcribe(self.transcriber, cut, ears, manner, seconds=seconds, rows=rows, progress=progress)
        found |= zip(map(id, cut), parts, strict=True)
        return [found[id(note)] for note in notes]

    def finish(
        self, item: Any, pieces: Sequence[Piece], outputs: Sequence[Any], options: SpeechOptions
    ) -> dict[str, Any]:
        if self.transcriber is not None:
            return self._written(outputs[0], options)
        return self._spelled(outputs[0], options)

    def _written(self, said: list[Segment], options: SpeechOptions) -> dict[str, Any]:
        texts = [self._decode(part.tokens) for part in said]
        result: dict[str, Any] = {"text": "".join(texts)}
        if not options.return_timestamps and not options.return_language:
            return result
        chunks: list[dict[str, Any]] = []
        for part, text in zip(said, texts, strict=True):
            spoken = {"language": SPOKEN.get(part.language or "en", part.language)} if options.return_language else {}
            if options.return_timestamps == "word":
                for word in words(part, self.marks, self._decode, spaced=part.language not in UNSPACED):
                    chunks.append(
                        {**spoken, "text": word.text, "timestamp": (round(word.start, 2), round(word.end, 2))}
                    )
            elif text:
                when = {"timestamp": (round(part.start, 2), round(part.end, 2))} if options.return_timestamps else {}
                chunks.append({**spoken, **when, "text": text})
        return {**result, "chunks": chunks}

    def _decode(self, ids: Sequence[int]) -> str:
        words = [i for i in ids if i < self.marks.end]
        found = self.parts.tokenizer.decode(words, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        assert isinstance(found, str)
        return found

    def _spelled(self, heard: torch.Tensor, options: SpeechOptions) -> dict[str, Any]:
        """Text out of units by moments (T,), or log-probabilities (T, V) to be searched."""
        if heard.ndim == 2:
            blank, beams = self.model.config.head.blank, int(options.generate["num_beams"])  # type: ignore[attr-defined]
            logs = heard.double().numpy()
            heard = torch.tensor(ctc.place(logs, ctc.beam_search(logs, beams, blank), blank))
        tokenizer = self.parts.tokenizer
        if not options.return_timestamps:
            return {"text": tokenizer.decode(heard)}
        kind = "char" if options.return_timestamps == "char" else "word"
        found = tokenizer.decode(heard, output_char_offsets=True, output_word_offsets=True)
        moment = self.ratio / self.rate
        chunks = [
            {"text": part[kind], "timestamp": (part["start_offset"] * moment, part["end_offset"] * moment)}
            for part in found[f"{kind}_offsets"]
        ]
        return {"text": found["text"], "chunks": chunks}

    def to_write(self, path: Path) -> dict[str, Any]:
        return {"return_timestamps": True} if subtitles.kind_of(path) in (".srt", ".vtt") else {}

    def save(self, item: Any, result: Any, path: Path) -> None:
        """Write subtitles (.srt, .vtt), text (.txt) or the result itself (.json)."""
        subtitles.write(result, path)


def _cut(recording: Recording, options: SpeechOptions) -> tuple[float, tuple[float, float]]:
    """Seconds of windows and what of them overlaps."""
    if options.chunk_length_s or (recording.seconds is not None and recording.seconds <= LONG_SECONDS):
        return options.chunk_length_s or 0, options.stride
    return LONG_SECONDS / 2, (LONG_SECONDS / 12, LONG_SECONDS / 12)
