"""What comes on top of a step: sampling, streams, stop strings, ragged batches; places filled again; guessed tokens.

    python -m benchmarks.writing [--threads 1] [--rounds 5] [--new 24] [--only extras,prompts,refill,...]

GPT-2 (124 million random weights) in int8, through the native kernels. Ways take turns; times are medians of rounds, by
the processor with --threads 1, else by the clock. "extras" and "guesses" time steps after a prompt of 32 tokens,
"prompts" prompts of several lengths. "refill" writes texts whose lengths are log-normal (median 24 tokens), in fixed
batches and with places filled again. "code" and "summaries" let the model write real texts (a rule dictates them), and
say how many tokens prompt look-up guesses there: the second half of long files of this package, and the summaries of
descriptions of programs.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from benchmarks import report
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

import regard
from regard import native
from regard.generation.guess import Guess, Guessing
from regard.native.run import NativeStack

ROOT = Path(__file__).resolve().parents[1]
DATA = Path(os.environ.get("REGARD_TEST_DATA", ROOT.parent / "shared"))
PROMPT, FIRST = 32, 3
Clock = Callable[[], float]
WHY = {"streamed": "the caller's function may change the model, so all of it is looked at again"}
"""What an option costs, where it costs more than it may."""


class Words:
    """A tokenizer as far as stop strings and streams need one: each id is a word."""

    def decode(self, ids: Any, **options: Any) -> str:
        return "".join(f" w{i}" for i in ids)


def gpt2(precision: str = "int8") -> regard.Model:
    """The model that is timed."""
    raw: dict[str, Any] = {"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], "eos_token_id": None}
    raw |= {"n_embd": 768, "n_layer": 12, "n_head": 12, "vocab_size": 50257}
    model = regard.from_config(raw, head="causal-lm", seed=0).eval()
    if precision != "fp32":
        regard.adapt.quantize(model, precision, head=True, force=True)  # type: ignore[arg-type]
    return native.apply(model, required=True)


def step(work: Callable[[int], object], new: int, clock: Clock) -> float:
    """Seconds of a step, where `work` writes so many tokens: a long run less a short one, after one that warms up."""
    work(FIRST + new)
    start = clock()
    work(FIRST)
    middle = clock()
    work(FIRST + new)
    return (clock() - middle - (middle - start)) / new


def turns(ways: dict[str, Callable[[], float]], rounds: int) -> dict[str, float]:
    """The median of each way."""
    found: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            found[name].append(way())
    return {name: statistics.median(times) for name, times in found.items()}


def extras(model: regard.Model, new: int, rounds: int, clock: Clock) -> list[report.Goal]:
    """Options beside plain greedy, at one row and at eight."""
    goals = []
    draw = torch.Generator().manual_seed(0)
    words: Any = Words()
    for batch in (1, 8):
        ids = torch.randint(0, 50257, (batch, PROMPT), generator=draw)
        ragged = [row[: PROMPT - 3 * i].tolist() for i, row in enumerate(ids)]
        options: dict[str, dict[str, Any]] = {
            "greedy": {},
            "sampled (top_k 50, top_p 0.9)": {"do_sample": True, "top_p": 0.9, "seed": 1},
            "streamed": {"streamer": lambda tokens: words.decode(tokens.tolist())},
            "stop strings": {"stop_strings": ["never said"], "tokenizer": words},
            "with log-probabilities": {"return_dict_in_generate": True},
        }

        def way(given: Any, more: dict[str, Any]) -> Callable[[], float]:
            return lambda: step(lambda n: model.generate(given, max_new_tokens=n, **more), new, clock)

        ways = {name: way(ids, more) for name, more in options.items()}
        if batch > 1:
            ways["ragged"] = way(ragged, {})
        found = turns(ways, rounds)
        print(f"\n| batch {batch} | ms a step | beside greedy |\n| --- | --- | --- |")
        for name, seconds in found.items():
            print(f"| {name} | {seconds * 1e3:.3f} | {100 * (seconds / found['greedy'] - 1):+.1f} % |", flush=True)
            if name != "greedy":
                title, share = f"batch {batch}: {name} / greedy", found["greedy"] / seconds
                goals.append(report.Goal(title, 0.95, share, WHY.get(name, "")))
    return goals


def prompts(model: regard.Model, rounds: int, clock: Clock) -> None:
    """Reading a prompt and writing a token: by the kernels, and by torch with their products and its own attention."""
    print("\n| tokens of a prompt | kernels, ms | torch around their products, ms | ratio |\n| --- | --- | --- | --- |")
    for length in (32, 128, 512, 1000):
        ids = torch.randint(0, 50257, (1, length), generator=torch.Generator().manual_seed(0))

        def way(begins: bool, ids: torch.Tensor = ids) -> float:
            with mock.patch.object(NativeStack, "_begins", lambda self, cache: begins and cache.begins):
                start = clock()
                model.generate(ids, max_new_tokens=1)
                return clock() - start

        ways = {"kernels": lambda: way(True), "torch": lambda: way(False)}
        turns(ways, 1)  # warms up
        found = turns(ways, 2 * rounds + 1)
        kernels, others = found["kernels"] * 1e3, found["torch"] * 1e3
        print(f"| {length} | {kernels:.1f} | {others:.1f} | {others / kernels:.2f} |", flush=True)


class Ends:
    """Ends each text at a length of its own, which its prompt's first token names."""

    def __init__(self, lengths: list[int]):
        self.lengths = torch.tensor(lengths)

    def __call__(self, ids: torch.Tensor, scores: Any) -> torch.Tensor:
        return ids.shape[1] - PROMPT >= self.lengths[ids[:, 0]]


def refill(model: regard.Model, rounds: int, clock: Clock) -> None:
    """Fixed batches beside places that are filled again."""
    draw = torch.Generator().manual_seed(0)
    for rows, count in ((8, 64),):
        lengths = (24 * (torch.randn(count, generator=draw) * 0.8).exp()).round().clamp(2, 200).int().tolist()
        prompts = torch.randint(0, 50257, (count, PROMPT), generator=draw)
        prompts[:, 0] = torch.arange(count)
        options = {"max_new_tokens": 200, "stopping_criteria": [Ends(lengths)]}

        def fixed(inputs: Iterable[torch.Tensor], options: Any = options) -> float:
            start = clock()
            for part in inputs:
                model.generate(part, **options)
            return clock() - start

        def filled(options: Any = options, prompts: Any = prompts, rows: int = rows) -> float:
            start = clock()
            model.generate(prompts, batch_size=rows, **options)
            return clock() - start

        found = turns({"fixed": lambda p=prompts, r=rows: fixed(p.split(r)), "filled again": filled}, rounds)  # type: ignore[misc]
        print(f"\n{count} texts of {min(lengths)} to {max(lengths)} tokens, {sum(lengths)} in all, {rows} at once")
        print("\n| batches | tok/s |\n| --- | --- |")
        for name, seconds in found.items():
            print(f"| {name} | {sum(lengths) / seconds:.1f} |", flush=True)


class Oracle:
    """Guesses `count` tokens, of which `right` come: what a pass costs and gains, whatever the text."""

    def __init__(self, text: list[int], count: int, right: int):
        self.text, self.count, self.right = text, count, right

    def __call__(self, ids: torch.Tensor, count: int) -> torch.Tensor:
        known = len(ids)
        found = torch.tensor(self.text[known : known + min(self.count, count)])
        found[self.right :] = (found[self.right :] + 1) % 50257
        return found


def guesses(model: regard.Model, new: int, rounds: int, clock: Clock) -> None:
    """What a pass over so many guesses costs, and what is gained if all, half, or none of them come."""
    module = sys.modules["regard.generation.generate"]
    ids = torch.randint(0, 50257, (1, PROMPT), generator=torch.Generator().manual_seed(0))
    text = model.generate(ids, max_new_tokens=new + 16)[0].tolist()
    ways: dict[str, Callable[[], float]] = {
        "plain": lambda: step(lambda n: model.generate(ids, max_new_tokens=n), new, clock)
    }
    for count in (2, 4, 7):
        for right in (0, count // 2, count):

            def guessed(count: int = count, right: int = right) -> float:
                def of(*_: Any) -> Callable[[int], Guess]:
                    return lambda i: Oracle(text, count, right)

                def work(n: int) -> object:
                    with mock.patch.object(module, "_guesses", of):
                        return model.generate(ids, max_new_tokens=n)

                assert work(new)[0].tolist() == text[: PROMPT + new]  # type: ignore[index]
                return step(work, new, clock)

            ways[f"{count} guesses, {right} of them right"] = guessed
    found = turns(ways, rounds)
    print("\n| guesses | ms a token | times as fast |\n| --- | --- | --- |")
    for name, seconds in found.items():
        print(f"| {name} | {seconds * 1e3:.2f} | {found['plain'] / seconds:.2f} |", flush=True)


class Dictated:
    """A rule that lets a model write a text that is there already: what a model of that text would write."""

    def __init__(self, rows: list[list[int]]):
        self.rows = {tuple(row[:PROMPT]): torch.tensor(row) for row in rows}

    def __call__(self, ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        following = torch.stack([self.rows[tuple(row[:PROMPT].tolist())][len(row)] for row in ids])
        return torch.full_like(scores, float("-inf")).scatter_(1, following[:, None], 0.0)


def code() -> list[str]:
    """The longest files of this package."""
    return sorted((path.read_text("utf-8") for path in (ROOT / "src/regard").rglob("*.py")), key=len)[-6:]


def summaries() -> list[str]:
    """Descriptions of programs, each followed by the line that stands above it."""
    with gzip.open(DATA / "data/summaries/test.jsonl.gz", "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    return [f"{row['text']}\n{row['summary']}" for row in rows if len(row["summary"]) > 50][:12]


def lookups(
    model: regard.Model, name: str, texts: list[str], part: float, rounds: int, clock: Clock
) -> list[report.Goal]:
    """Prompt look-up where the model writes the last `part` of real texts, in byte pairs learnt from them."""
    words = Tokenizer(models.BPE())
    words.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(vocab_size=8000, initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    words.train_from_iterator(texts, trainer)
    rows = [words.encode(text).ids[:400] for text in texts]
    starts = [max(PROMPT, round(len(row) * (1 - part))) for row in rows]
    count, passes = sum(map(len, rows)) - sum(starts), list[int]()
    real_next = Guessing.next

    def noted(self: Any, ids: torch.Tensor) -> torch.Tensor:
        passes.append(self.scores is None or not self.ahead or int(ids[0, -1]) != self.ahead[0])
        return real_next(self, ids)

    def way(options: dict[str, Any]) -> Callable[[], float]:
        def run() -> float:
            start = clock()
            for row, first in zip(rows, starts, strict=True):
                rule = {"logits_processor": [Dictated(rows)], "max_new_tokens": len(row) - first}
                found = model.generate(torch.tensor([row[:first]]), **rule, **options)
                assert found[0].tolist() == row
            return clock() - start

        return run

    ways = {"plain": way({})} | {f"look-up of {n}": way({"prompt_lookup_num_tokens": n}) for n in (3, 6, 10)}
    found = turns(ways, rounds)
    print(f"\n{len(rows)} texts of {name}, {count:,} tokens of them written")
    print("\n| way | tok/s | times as fast | tokens of a pass |\n| --- | --- | --- | --- |")
    for way_name, seconds in found.items():
        passes.clear()
        with mock.patch.object(Guessing, "next", noted):
            ways[way_name]()
        each = f"{count / sum(passes):.2f}" if passes else "1"
        print(f"| {way_name} | {count / seconds:.1f} | {found['plain'] / seconds:.2f} | {each} |", flush=True)
    best = found.pop("plain") / min(found.values())
    return [report.Goal(f"{name}, best look-up / plain", 1, best)]


def main() -> None:
    """Read the command line and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--new", type=int, default=24)
    parser.add_argument("--only", default="extras,prompts,refill,guesses,code,summaries")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    clock = time.thread_time if options.threads == 1 else time.perf_counter
    print(f"{options.threads} thread(s), {native.level()}, {clock.__name__}")
    model, chosen, goals = gpt2(), options.only.split(","), list[report.Goal]()
    if "extras" in chosen:
        goals += extras(model, options.new, options.rounds, clock)
    if "prompts" in chosen:
        prompts(model, options.rounds, clock)
    if "refill" in chosen:
        refill(model, max(1, options.rounds // 2), clock)
    if "guesses" in chosen:
        guesses(model, options.new, options.rounds, clock)
    if "code" in chosen:
        goals += lookups(model, "code", code(), 0.5, max(1, options.rounds // 2), clock)
    if "summaries" in chosen:
        goals += lookups(
            model, "descriptions and their summaries", summaries(), 0.2, max(1, options.rounds // 2), clock
        )
    if goals:
        print("\n" + report.goals(goals))


if __name__ == "__main__":
    main()
