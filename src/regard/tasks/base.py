"""The object that `regard.pipeline` gives: reads input, cuts it into pieces, runs them in packs, joins the results.

A task says how an item becomes pieces (`pieces`), what the model makes of a pack of them (`run`) and how that becomes
the item's result (`finish`). Items are looked ahead, their pieces sorted by length, so that packs are full and even.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic

import torch
from torch import Tensor

from regard.models.model import Model, Output
from regard.tasks.inputs import Inputs, read_inputs, text_of
from regard.tasks.options import E, EncoderOptions, O, TaskOptions, read_options
from regard.tasks.parts import Parts
from regard.tasks.progress import Meter
from regard.tasks.registry import TaskInfo

if TYPE_CHECKING:
    from regard.preprocess.text import Tokenizer

log = logging.getLogger("regard")

LOOKAHEAD_PACKS = 32
"""Items are looked ahead until they fill so many packs, which bounds memory whatever their length."""
NO_LIMIT = 10**9  # tokenizers without a limit name a very large one


@dataclass
class Piece:
    """One sequence for the model: `ids` of text, or `values`, tensors (1, ...) by the names that the model takes.

    `encoding` knows the way back to characters; `note` is the task's own; `size` is how many tokens `values` make.
    """

    ids: list[int] = field(default_factory=list)
    types: list[int] | None = None
    encoding: Any = None
    note: Any = None
    values: dict[str, Tensor] = field(default_factory=dict)
    size: int | None = None

    @property
    def length(self) -> int:
        """How much room it takes in a pack, in tokens."""
        return len(self.ids) if self.size is None else self.size


@dataclass
class Job:
    """An item on its way: its pieces, their outputs, or what is wrong with it."""

    index: int
    item: Any
    pieces: list[Piece] = field(default_factory=list)
    outputs: list[Any] = field(default_factory=list)
    error: Exception | None = None
    waiting: int = 0


class Task(ABC, Generic[O]):
    """A task with its model. Call it with one item, a list or anything lazy."""

    options: ClassVar[type[TaskOptions]] = TaskOptions
    lookahead: ClassVar[int] = 512
    suffix: ClassVar[str] = ".png"  # of files that `save` writes into a folder

    def __init__(
        self,
        info: TaskInfo,
        model: Model,
        parts: Parts,
        *,
        batch_tokens: int = 1024,
        progress: bool | None = None,
        defaults: Mapping[str, Any] | None = None,
    ):
        if isinstance(batch_tokens, bool) or not isinstance(batch_tokens, int) or batch_tokens < 1:
            raise ValueError(f"batch_tokens is {batch_tokens!r}; allowed: a whole number of tokens above 0")
        self.info, self.model, self.parts = info, model.eval(), parts
        self.batch_tokens, self.progress = batch_tokens, progress
        self.defaults = dict(defaults or {})
        self.setup()
        self.read(self.defaults)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.info.name!r}, model={self.model.name or self.model.architecture!r})"

    # what a task says of itself

    def setup(self) -> None:
        """Look at the model and the parts of its processor once, and refuse those that cannot do it."""

    def arrange(self, args: tuple[Any, ...], given: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        """The input among the arguments of a call, and the options."""
        if len(args) != 1:
            raise ValueError(f"{self.info.name} takes one argument beside options, the input; got {len(args)}")
        return args[0], given

    def from_words(self, words: Sequence[str]) -> Any:
        """The one item that all words of the command make together; None where each stands for itself."""
        return None

    def read(self, given: Mapping[str, Any]) -> O:
        """The options of a call, checked."""
        options, _ = read_options(self.options, given, self.info.name)
        return options  # type: ignore[return-value]

    @abstractmethod
    def opened(self, inputs: Any) -> Inputs:
        """The items of an input."""

    @abstractmethod
    def pieces(self, item: Any, options: O) -> list[Piece]:
        """What the model must read for an item. ValueError for an item that is wrong."""

    def notice(self, item: Any, pieces: Sequence[Piece]) -> None:
        """Warn of an item that the model can read, though not well."""

    def fits(self, pack: Sequence[Piece], piece: Piece, options: O) -> bool:
        """Whether a pack has room for one piece more (not shorter than those in it)."""
        return sum(p.length for p in pack) + piece.length <= self.batch_tokens

    def most(self, options: O) -> int | None:
        """How many pieces a pack has at most, or None if there is no end."""
        return options.batch_size

    @abstractmethod
    def run(self, pieces: Sequence[Piece], options: O, meter: Meter) -> list[Any]:
        """The model's output for each piece of a pack; where that takes long, it moves the meter meanwhile."""

    @abstractmethod
    def finish(self, item: Any, pieces: Sequence[Piece], outputs: Sequence[Any], options: O) -> Any:
        """The result of an item."""

    def deliver(self, results: list[Any], inputs: Any, came: str, options: O, called: Mapping[str, Any]) -> Any:
        """Results in the shape that was asked for; `called` are the options of this very call."""
        return results[0] if came == "one" else results

    def plain(self, result: Any) -> Any:
        """A result as `--json` prints it: what is no text, number, list or dict is written as one of these."""
        return result

    def shown(self, result: Any) -> Any:
        """The same for people to read."""
        return self.plain(result)

    def to_write(self, path: Path) -> dict[str, Any]:
        """Options that writing a file of this name calls for. ValueError for a name that nothing can be written to."""
        return {}

    def save(self, item: Any, result: Any, path: Path) -> None:
        """Write a result as a file for people, such as a picture; ValueError for a task whose results are none."""
        raise ValueError(f"{self.info.name} writes no files; --json gives its results to programs")

    # the way through

    def __call__(self, *args: Any, **options: Any) -> Any:
        """Results for one item or a list; a generator of them for lazy input and files.

        Raises ValueError that names the item and what is wrong with it.
        """
        given, called = self.arrange(args, options)
        read = self.read({**self.defaults, **called})
        inputs = self.opened(given)
        results = self._results(inputs.items, read, inputs.total, numbered=inputs.came != "one")
        return results if inputs.came == "lazy" else self.deliver(list(results), given, inputs.came, read, called)

    def _results(self, items: Iterable[Any], options: O, total: int | None, *, numbered: bool) -> Iterator[Any]:
        meter = Meter(self.info.name, total, self.progress)
        try:
            for window in self._windows(items, options):
                self._run_all(window, options, meter)
                for job in window:
                    yield self._result(job, options, numbered)
        finally:
            meter.close()

    def _windows(self, items: Iterable[Any], options: O) -> Iterator[list[Job]]:
        """Items in groups that are worked on together; one that will raise ends its group, so earlier ones come out."""
        window: list[Job] = []
        tokens = 0
        for index, item in enumerate(items):
            job = Job(index, item)
            try:
                job.pieces = self.pieces(item, options)
                self.notice(item, job.pieces)
            except ValueError as error:
                job.error = error
            window.append(job)
            tokens += sum(piece.length for piece in job.pieces)
            full = len(window) >= self.lookahead or tokens >= LOOKAHEAD_PACKS * self.batch_tokens
            if full or (job.error is not None and options.on_error == "raise"):
                yield window
                window, tokens = [], 0
        if window:
            yield window

    def _run_all(self, jobs: list[Job], options: O, meter: Meter) -> None:
        work: list[tuple[Job, int]] = []
        for job in jobs:
            job.outputs, job.waiting = [None] * len(job.pieces), len(job.pieces)
            work += [(job, i) for i in range(len(job.pieces))]
            if not job.pieces:
                meter.advance()
        work.sort(key=lambda entry: entry[0].pieces[entry[1]].length)
        pack: list[tuple[Job, int]] = []
        for job, i in work:
            inside = [other.pieces[k] for other, k in pack]
            most = self.most(options)
            full = most is not None and len(pack) >= most
            if pack and (full or not self.fits(inside, job.pieces[i], options)):
                self._run(pack, options, meter)
                pack = []
            pack.append((job, i))
        if pack:
            self._run(pack, options, meter)

    def _run(self, pack: list[tuple[Job, int]], options: O, meter: Meter) -> None:
        try:
            with torch.no_grad():
                outputs = self.run([job.pieces[i] for job, i in pack], options, meter)
        except ValueError as error:
            if len(pack) > 1:  # one of them is to blame: which one shows when each goes alone
                for entry in pack:
                    self._run([entry], options, meter)
                return
            pack[0][0].error = error
            outputs = [None]
        for (job, i), output in zip(pack, outputs, strict=True):
            job.outputs[i] = output
            job.waiting -= 1
            if not job.waiting:
                meter.advance()

    def _result(self, job: Job, options: O, numbered: bool) -> Any:
        if job.error is None:
            try:
                return self.finish(job.item, job.pieces, job.outputs, options)
            except ValueError as error:
                job.error = error
        message = f"item {job.index}: {job.error}" if numbered else str(job.error)
        if options.on_error == "skip":
            return {"error": message}
        raise ValueError(message) from job.error

    def labels(self, count: int) -> list[str]:
        """The names of the model's classes."""
        return [self.model.labels.get(i, f"LABEL_{i}") for i in range(count)]


class TextTask(Task[O]):
    """A task on texts. A path, or an open file, stands for the items on its lines."""

    warned = False

    @property
    def tokenizer(self) -> Tokenizer:
        """What turns text into ids, and back."""
        return self.parts.tokenizer

    def is_one(self, inputs: Any) -> bool:
        """Whether this input is a single item."""
        return isinstance(inputs, (str, dict))

    def from_line(self, line: str) -> Any:
        """The item on a line of a file."""
        return line

    def opened(self, inputs: Any) -> Inputs:
        return read_inputs(inputs, self.is_one, self.from_line)

    def notice(self, item: Any, pieces: Sequence[Piece]) -> None:
        """Warn, once, of a text half of which or more is unknown to the tokenizer: another language, say."""
        unknown, marks = self.tokenizer.unk_token_id, set(self.tokenizer.all_special_ids)
        ids = [i for piece in pieces for i in piece.ids if i == unknown or i not in marks]
        count = ids.count(unknown) if unknown is not None else 0
        if count and 2 * count >= len(ids) and not self.warned:
            self.warned = True
            log.warning(
                "%d of %d tokens of %.60r are unknown to this model, so it can say little", count, len(ids), item
            )

    @property
    def longest(self) -> int | None:
        """Tokens to which truncation cuts: what the model takes, or less if the tokenizer says so."""
        limits = [self.tokenizer.model_max_length, self.model.max_length or NO_LIMIT]
        return min(limits) if min(limits) < NO_LIMIT else None

    def check_length(self, length: int, limit: int | None, advice: str = "pass truncation=True to cut it") -> None:
        """Raise a ValueError that names both numbers if input is longer than the limit."""
        if limit is not None and length > limit:
            raise ValueError(f"input has {length} tokens; this model takes at most {limit}; {advice}")


class EncoderTask(TextTask[E]):
    """A task that reads texts once, packed end to end, so that no work is spent on padding."""

    options: ClassVar[type[TaskOptions]] = EncoderOptions

    def limit(self, options: E) -> int | None:
        """The most tokens of one sequence, as the model or the call says."""
        asked = getattr(options, "max_length", None)
        return min(asked, self.longest or NO_LIMIT) if asked else self.longest

    def encode(self, text: str, pair: str | None, options: E, **more: Any) -> list[Piece]:
        """A text (or pair) as a piece; several where `return_overflowing_tokens` and `stride` ask for windows."""
        limit = self.limit(options)
        cut = (options.cuts or "stride" in more) and limit is not None
        how = {"truncation": "longest_first" if options.truncation in (None, True) else options.truncation, **more}
        if not cut:
            how |= {"truncation": False, "stride": 0}
        found = self.tokenizer([text], None if pair is None else [pair], max_length=limit if cut else None, **how)
        types = found.get("token_type_ids")
        rows = zip(found["input_ids"], types or [None] * len(found["input_ids"]), found.encodings or (), strict=True)
        pieces = [Piece(ids, kinds, encoding) for ids, kinds, encoding in rows]
        for piece in pieces:
            self.check_length(len(piece.ids), self.model.max_length)
            if not piece.ids:
                raise ValueError(f"{text!r:.80} has no tokens")
        return pieces

    def pieces(self, item: Any, options: E) -> list[Piece]:
        return self.encode(text_of(item), None, options)

    def inputs(self, pieces: Sequence[Piece]) -> dict[str, Any]:
        """The model's arguments for a pack."""
        device = self.model.device
        given: dict[str, Any] = {
            "input_ids": torch.tensor([i for piece in pieces for i in piece.ids], device=device),
            "lengths": [len(piece.ids) for piece in pieces],
        }
        tower = next(self.model.towers())
        if getattr(tower.front.config, "num_types", 0) > 1 and all(piece.types is not None for piece in pieces):
            kinds = [i for piece in pieces for i in piece.types or ()]
            given["token_type_ids"] = torch.tensor(kinds, device=device)
        return given

    def run(self, pieces: Sequence[Piece], options: E, meter: Meter) -> list[Any]:
        return self.split(self.model(**self.inputs(pieces)), pieces, options)

    def split(self, out: Output, pieces: Sequence[Piece], options: E) -> list[Any]:
        """What each piece keeps of a pack's output; unless a task says otherwise, the scores of its labels."""
        return list(out["logits"].float().cpu())


def split_tokens(x: Tensor, pieces: Sequence[Piece]) -> list[Tensor]:
    """Packed (N, ...) -> (T, ...) for each piece."""
    return list(x.split([len(piece.ids) for piece in pieces]))
