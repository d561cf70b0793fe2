"""Writing, token by token: the kernels beside torch, transformers, llama.cpp and CTranslate2, in one run.

    python -m benchmarks.decode [--shapes gpt2,qwen2] [--batches 1,8,32] [--new 16] [--rounds 3] [--threads 1]

Random weights of true shapes, greedy, after prompts of 32 tokens. A step's time is that of a long run less a short
one, by steps, and the median over rounds, in which all ways take turns. Beside each figure of the kernels: how long a
plain loop takes to read the same weights once, copied to huge pages. That is a yardstick and no bound: another engine
may read faster. With one thread processor time is taken, which other users of the machine disturb least; else the
clock. `--profile` says instead where the time of an int8 step of GPT-2 goes.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

import torch
import transformers
from benchmarks import decode_peers, parts, peers, report
from benchmarks.writing import gpt2, step

import regard
from regard import native
from regard.memory import Arena
from regard.native.layout import kernels
from regard.native.run import taken

PROMPT = 32
SHAPES = {
    "gpt2": transformers.GPT2Config(bos_token_id=None, eos_token_id=None),
    "qwen2": transformers.Qwen2Config(
        hidden_size=896,
        intermediate_size=4864,
        num_hidden_layers=24,
        num_attention_heads=14,
        num_key_value_heads=2,
        tie_word_embeddings=True,
        max_position_embeddings=2048,
        eos_token_id=None,
    ),
}
LABELS = {"gpt2": "GPT-2 124M", "qwen2": "Qwen2 0.5B"}
Clock = Callable[[], float]
MANY_ROWS = {8: 4, 32: 3}
"""So many times CTranslate2's speed are wanted with so many rows."""


@dataclass
class Way:
    """One engine and precision: `step(batch, new)` gives seconds; `weights` are those that a step reads."""

    step: Callable[[int, int], float]
    weights: list[torch.Tensor] = field(default_factory=list)


def reading(weights: list[torch.Tensor], clock: Clock) -> float:
    """Seconds to read all weights once."""
    count = len(weights)
    places = (ctypes.c_void_p * count)(*[part.data_ptr() for part in weights])
    sizes = (ctypes.c_int64 * count)(*[part.nbytes for part in weights])
    times = []
    for _ in range(3):
        start = clock()
        kernels().rg_read(places, sizes, count, torch.get_num_threads())
        times.append(clock() - start)
    return statistics.median(times)


def in_huge_pages(parts: list[torch.Tensor]) -> list[torch.Tensor]:
    """Copies where memory is read fastest."""
    arena = Arena()
    return [arena.take(part.nbytes).copy_(part.flatten().view(torch.uint8)) for part in parts]


def ours(model: regard.Model, precision: str | None, clock: Clock) -> Way:
    """This library: by torch, or by the kernels in a precision. Several may share a model: each puts its own in."""
    held: list[tuple[Any, str, Any]] = []
    weights: list[torch.Tensor] = []
    if precision is not None:
        native.apply(model, precision, required=True)  # type: ignore[arg-type]
        held = [(m.__dict__, name, one) for m in model.modules() for name, one in taken(m).items()]
        weights = in_huge_pages(held[0][2].store.parts)
        native.remove(model)

    def timed(batch: int, new: int) -> float:
        for owner, name, stand_in in held:
            owner[name] = stand_in
        ids = prompts(batch)
        found = step(lambda count: model.generate(ids, max_new_tokens=count), new, clock)
        native.remove(model)
        return found

    return Way(timed, weights)


def theirs(config: Any, dtype: torch.dtype, clock: Clock) -> Way:
    """transformers."""
    model = transformers.AutoModelForCausalLM.from_config(config).eval().to(dtype)

    def timed(batch: int, new: int) -> float:
        ids = prompts(batch)

        def run(count: int) -> None:
            model.generate(ids, max_new_tokens=count, min_new_tokens=count, do_sample=False, pad_token_id=0)

        return step(run, new, clock)

    return Way(timed)


def prompts(batch: int) -> torch.Tensor:
    return torch.randint(0, 50000, (batch, PROMPT), generator=torch.Generator().manual_seed(0))


def ways(name: str, folder: str, threads: int, clock: str, batches: list[int], only: list[str]) -> dict[str, Way]:
    """Everything that is to be had, by name."""
    config, counter = SHAPES[name], getattr(time, clock)
    raw = {**config.to_dict(), "eos_token_id": []}
    saved = f"{folder}/{name}"  # read from a file, as the others' weights are
    regard.save(regard.from_config(raw, head="causal-lm", seed=0), saved)
    full, half = (regard.load(saved, dtype=dtype) for dtype in ("float32", "bfloat16"))
    makers: dict[str, Callable[[], Way]] = {
        "transformers fp32": lambda: theirs(config, torch.float32, counter),
        "transformers bf16": lambda: theirs(config, torch.bfloat16, counter),
        "regard fp32, torch": lambda: ours(full, None, counter),
        "regard bf16, torch": lambda: ours(half, None, counter),
    }
    makers["regard fp32"] = lambda: ours(full, "fp32", counter)
    makers["regard bf16"] = lambda: ours(half, "bf16", counter)
    for small in ("int8", "int4"):
        makers[f"regard {small}"] = lambda small=small: ours(regard.load(saved, precision=small), "auto", counter)
    for kind in ("f32", "q8_0", "q4_0"):
        makers[f"llama.cpp {kind}"] = lambda kind=kind: other(decode_peers.llama, kind)
    for kind in ("float32", "int8"):
        makers[f"CTranslate2 {kind}"] = lambda kind=kind: other(decode_peers.ctranslate2, kind)

    def other(maker: Callable[..., peers.Peer], kind: str) -> Way:
        engine = maker(folder, config, kind, threads, clock)
        return Way(lambda batch, new: engine([batch, PROMPT, new]))

    found: dict[str, Way] = {}
    for label, make in makers.items():
        if any(word in label for word in only):
            try:
                found[label] = make()
            except peers.Missing as error:
                print(f"{LABELS[name]}: {label} is left out: {error}", flush=True)
    return found


def table(
    name: str, found: dict[str, Way], batch: int, new: int, rounds: int, clock: Clock
) -> tuple[str, dict[str, float]]:
    """A table of one shape and batch, and tokens a second by way; "regard int8 / read" is a share of a plain read."""
    seconds: dict[str, list[float]] = {label: [] for label in found if batch == 1 or "llama" not in label}
    reads: dict[str, list[float]] = {label: [] for label in seconds if found[label].weights}
    for _ in range(rounds):
        for label, times in seconds.items():
            if label in reads:
                reads[label].append(reading(found[label].weights, clock))
            times.append(found[label].step(batch, new))
    lines = [f"| {LABELS[name]}, batch {batch} | ms a step | tokens/s | reading alone, ms | of a plain read |"]
    lines.append("|---" * 5 + "|")
    speeds: dict[str, float] = {}
    for label, times in seconds.items():
        step = statistics.median(times)
        speeds[label], bound = batch / step, ""
        if label in reads:
            share = statistics.median(a / b for a, b in zip(reads[label], times, strict=True))
            speeds[f"{label} / read"] = share
            bound = f"{statistics.median(reads[label]) * 1e3:.2f} | {share:.2f}"
        lines.append(f"| {label} | {step * 1e3:.2f} | {batch / step:.4g} | {bound or '|'} |")
    return "\n".join(lines), speeds


def profile(clock: Clock, new: int = 32) -> str:
    """Where the time of an int8 step of GPT-2 goes."""
    model = gpt2()
    stack, head = model.decoder.stack.__dict__["through"], model.head.__dict__["best"]
    read = reading(in_huge_pages(stack.store.parts), clock)
    found = [f"{LABELS['gpt2']}, int8; reading its weights once takes {read * 1e3:.2f} ms."]
    for batch in (1, *MANY_ROWS):

        def run(begin: Callable[[], None], batch: int = batch) -> float:
            seen: list[float] = []

            def put(tokens: torch.Tensor) -> None:
                if not seen:
                    begin()  # the prompt was read
                seen.append(clock())

            model.generate(prompts(batch), max_new_tokens=new + 1, streamer=put)
            return seen[-1] - seen[0]

        found += [f"Batch {batch}:", parts.table(stack, batch, new, run, head, clock)]
    return "\n\n".join(found)


def goals(name: str, batch: int, speeds: dict[str, float]) -> list[report.Goal]:
    """What is wanted of this shape and batch."""

    def ratio(ours: str, *others: str) -> float | None:
        known = [speeds[other] for other in others if other in speeds]
        return speeds[ours] / max(known) if known and ours in speeds else None

    at = f"{LABELS[name]}, batch {batch}: "

    def why(precision: str) -> str:
        share = speeds.get(f"regard {precision} / read")
        return f"a step takes as long as {1 / share:.2f} plain reads of its weights" if share else ""

    if batch > 1:
        if name != "gpt2" or batch not in MANY_ROWS:
            return []
        found = ratio("regard int8", "CTranslate2 int8")
        return [report.Goal(f"{at}int8 / CTranslate2 int8", MANY_ROWS[batch], found, why("int8"))]
    return [
        report.Goal(f"{at}int8 / a plain read", 0.8, speeds.get("regard int8 / read")),
        report.Goal(f"{at}int8 / llama.cpp q8_0", 1.5, ratio("regard int8", "llama.cpp q8_0"), why("int8")),
        report.Goal(
            f"{at}int8 / transformers' best",
            7,
            ratio("regard int8", "transformers fp32", "transformers bf16"),
            why("int8"),
        ),
        report.Goal(f"{at}int4 / llama.cpp q4_0", 1.8, ratio("regard int4", "llama.cpp q4_0"), why("int4")),
        report.Goal(f"{at}bf16 / transformers bf16", 4, ratio("regard bf16", "transformers bf16"), why("bf16")),
        report.Goal(f"{at}fp32 / llama.cpp f32", 1.1, ratio("regard fp32", "llama.cpp f32"), why("fp32")),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", default="gpt2,qwen2")
    parser.add_argument("--batches", default="1,8,32")
    parser.add_argument("--new", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--only", default="regard,transformers,llama,CTranslate2")
    parser.add_argument("--profile", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    clock = "process_time" if given.threads == 1 else "perf_counter"
    versions = f"torch {torch.__version__}, transformers {transformers.__version__}"
    print(f"{versions}, kernels {native.level()}, {clock}", flush=True)
    if given.profile:
        print("\n" + profile(getattr(time, clock)), flush=True)
        return
    wanted: list[report.Goal] = []
    with tempfile.TemporaryDirectory() as folder:
        batches = [int(batch) for batch in given.batches.split(",")]
        for name in given.shapes.split(","):
            found = ways(name, folder, given.threads, clock, batches, given.only.split(","))
            for batch in batches:
                part, speeds = table(name, found, batch, given.new, given.rounds, getattr(time, clock))
                print(f"\n{part}", flush=True)
                wanted += goals(name, batch, speeds)
    print("\n" + report.goals(wanted), flush=True)


if __name__ == "__main__":
    main()
