"""Tokens by which a transcribing decoder is told what to do and says when something was said (2212.04356, 2.3)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from regard.tasks.spoken import SPOKEN

JOBS = ("transcribe", "translate")


@dataclass(frozen=True, kw_only=True)
class Marks:
    """Special ids: `begin` is time 0.00, ids above it are later by `precision` seconds each; text lies below `end`."""

    start: int
    end: int
    plain: int
    previous: int | None = None
    precision: float = 0.02
    latest_first: int | None = None
    languages: Mapping[str, int] = field(default_factory=dict)
    jobs: Mapping[str, int] = field(default_factory=dict)
    usual_language: str | None = None
    usual_job: str = "transcribe"

    @property
    def begin(self) -> int:
        """The id of time 0.00."""
        return self.plain + 1

    @property
    def silence(self) -> int:
        """The id that says that nobody speaks."""
        return self.plain - 1

    def language(self, name: str | None) -> str | None:
        """The code of a language given as code or name; None where it has to be heard. ValueError for others."""
        name = name or self.usual_language
        if name is None:
            return None
        plain = name.lower().strip("<|>")
        code = plain if plain in SPOKEN else next((c for c, n in SPOKEN.items() if n == plain), plain)
        known = self.languages or {"en": 0}
        if code not in known:
            what = ", ".join(sorted(known)) if self.languages else "'en': this model knows English only"
            raise ValueError(f"language is {name!r:.40}; allowed: {what}")
        return code

    def job(self, name: str | None) -> str:
        """ "transcribe" or "translate"; ValueError for others, and for translation by a model of one language."""
        name = name or self.usual_job
        allowed = JOBS if self.jobs else JOBS[:1]
        if name not in allowed:
            raise ValueError(f"task is {name!r:.40}; allowed for this model: {', '.join(map(repr, allowed))}")
        return name

    def prefix(self, language: str | None, job: str, *, timed: bool) -> list[int]:
        """What the decoder is given first."""
        ids = [self.start]
        if self.languages and language is not None:
            ids += [self.languages[language], *([self.jobs[job]] if job in self.jobs else [])]
        return ids if timed else [*ids, self.plain]


def read_marks(generation: Mapping[str, Any], tokenizer: Any, *, precision: float) -> Marks | None:
    """The marks of a checkpoint, from its generation_config.json or its tokenizer; None for one that has no times."""
    vocab: Mapping[str, int] = tokenizer.get_vocab()

    def token(name: str, *texts: str) -> int | None:
        found = generation.get(name)
        if isinstance(found, list) and found:
            found = found[0]
        return found if isinstance(found, int) else next((vocab[text] for text in texts if text in vocab), None)

    plain = token("no_timestamps_token_id", "<|notimestamps|>")
    start, end = token("decoder_start_token_id", "<|startoftranscript|>"), token("eos_token_id", "<|endoftext|>")
    if plain is None or start is None or end is None:
        return None
    many = generation.get("is_multilingual", "<|de|>" in vocab and "<|en|>" in vocab and end != 50256)
    languages = generation.get("lang_to_id") or {f"<|{c}|>": vocab[f"<|{c}|>"] for c in SPOKEN if f"<|{c}|>" in vocab}
    jobs = generation.get("task_to_id") or {job: vocab[f"<|{job}|>"] for job in JOBS if f"<|{job}|>" in vocab}
    latest = generation.get("max_initial_timestamp_index")
    language, job = generation.get("language"), generation.get("task")
    codes = {name.strip("<|>"): index for name, index in languages.items()}
    for _, forced in generation.get("forced_decoder_ids") or ():
        language = next((c for c, index in codes.items() if index == forced), language) if many else None
        job = next((j for j, index in jobs.items() if index == forced), job)
    return Marks(
        start=start,
        end=end,
        plain=plain,
        previous=token("prev_sot_token_id", "<|startofprev|>"),
        precision=precision,
        latest_first=latest if isinstance(latest, int) else None,
        languages=codes if many else {},
        jobs=jobs if many else {},
        usual_language=language if isinstance(language, str) and many else None,
        usual_job=job if job in JOBS and many else "transcribe",
    )


class Timely:
    """A rule for `generate`: times come in pairs, never go back, and win where together they outweigh every word."""

    def __init__(self, marks: Marks, width: int):
        self.marks, self.width = marks, width

    def __call__(self, ids: Tensor, scores: Tensor) -> Tensor:
        """ids (R, T), the first `width` of them given, and scores (R, V), which are changed in place."""
        begin, never = self.marks.begin, float("-inf")
        new = ids[:, self.width :]
        scores[:, self.marks.plain] = never
        if not new.shape[1]:
            scores[:, :begin] = never
            if self.marks.latest_first is not None:
                scores[:, begin + self.marks.latest_first + 1 :] = never
            return scores
        timed = new >= begin
        last = timed[:, -1]
        before = timed[:, -2] if new.shape[1] > 1 else torch.ones_like(last)
        closed, opens = last & before, last & ~before
        scores[:, begin:].masked_fill_(closed[:, None], never)
        scores[:, : self.marks.end].masked_fill_(opens[:, None], never)
        latest = torch.where(timed, new, begin - 1).amax(1)
        lowest = torch.where(opens, latest, latest + 1)
        times = torch.arange(begin, scores.shape[1], device=scores.device)
        scores[:, begin:].masked_fill_(times < lowest[:, None], never)
        wins = scores[:, begin:].logsumexp(-1) > scores[:, :begin].amax(-1)
        scores[:, :begin].masked_fill_(wins[:, None], never)
        return scores
