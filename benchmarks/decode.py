"""Writing, token by token: the kernels beside torch, the reference library and other engines, in one run.

    python benchmarks/decode.py [--shapes gpt2,qwen2] [--batches 1,8,32] [--new 16] [--rounds 3] [--threads 1] [--peers]

Random weights of true shapes. Greedy after prompts of 32 tokens; the time of a step is the median over steps, then over
rounds, in which the ways take turns. Beside each native figure: how long it takes only to read the same weights once,
the bound for one row. With --threads 1 processor time is taken, which other users of the machine disturb least;
else the clock. --peers makes `.venv-peers` and times CTranslate2 there; what cannot be installed is named.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import statistics
import subprocess
import tempfile
import time
import venv
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

import torch
import transformers

import regard
from regard import native
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
Generate = Callable[..., object]


class Steps:
    """A streamer that notes how long each step took; `put` is called once a step, and once with the prompt."""

    def __init__(self, clock: Callable[[], float]):
        self.clock, self.seconds = clock, [clock()]

    def put(self, tokens: Any) -> None:
        self.seconds.append(self.clock())

    def end(self) -> None:
        pass

    def median(self) -> float:
        steps = [b - a for a, b in zip(self.seconds, self.seconds[1:], strict=False)]
        return statistics.median(steps[3:])  # the prompt, and the first steps, which find cold caches


def reading(parts: list[torch.Tensor], clock: Callable[[], float]) -> float:
    """Seconds to read all weights once."""
    count = len(parts)
    places = (ctypes.c_void_p * count)(*[part.data_ptr() for part in parts])
    sizes = (ctypes.c_int64 * count)(*[part.nbytes for part in parts])
    times = []
    for _ in range(3):
        start = clock()
        kernels().rg_read(places, sizes, count, torch.get_num_threads())
        times.append(clock() - start)
    return statistics.median(times)


def ways(name: str, batch: int, new: int) -> dict[str, tuple[Generate, list[torch.Tensor]]]:
    """What takes turns: label -> (generate with a streamer, weights that a step reads)."""
    config = SHAPES[name]
    raw = {**config.to_dict(), "eos_token_id": []}
    ids = torch.randint(0, config.vocab_size, (batch, PROMPT))
    found: dict[str, tuple[Generate, list[torch.Tensor]]] = {}

    def ours(label: str, model: regard.Model, precision: str | None = None) -> None:
        parts: list[torch.Tensor] = []
        held: list[tuple[Any, str, Any]] = []
        if precision is not None:
            native.apply(model, precision, required=True)  # type: ignore[arg-type]
            held = [(m.__dict__, name, one) for m in model.modules() for name, one in taken(m).items()]
            parts = held[0][2].store.parts
            native.remove(model)

        def generate(streamer: Any) -> None:
            for owner, name, stand_in in held:
                owner[name] = stand_in
            model.generate(ids, max_new_tokens=new, streamer=streamer)
            native.remove(model)

        found[label] = (generate, parts)

    full, half = (regard.from_config(raw, head="causal-lm", seed=0).eval() for _ in range(2))
    half.bfloat16()
    ours("ours, torch fp32", full)
    ours("ours, torch bf16", half)
    ours("native bf16", half, "bf16")
    for precision in ("fp32", "int8", "int4"):
        ours(f"native {precision}", full, precision)
    for dtype in (torch.float32, torch.bfloat16):
        theirs = transformers.AutoModelForCausalLM.from_config(config).eval().to(dtype)
        label = f"transformers {'fp32' if dtype == torch.float32 else 'bf16'}"

        def generate(streamer: Any, new: int = new, theirs: Any = theirs) -> None:
            options = {"max_new_tokens": new, "min_new_tokens": new, "do_sample": False, "pad_token_id": 0}
            theirs.generate(ids, streamer=streamer, **options)

        if batch > 1:
            generate.watched = False  # type: ignore[attr-defined]  # their streamers take one row only
        found[label] = (generate, [])
    return found


def step_of(generate: Generate, new: int, clock: Callable[[], float]) -> float:
    """Seconds of a step."""
    if getattr(generate, "watched", True):
        steps = Steps(clock)
        generate(steps)
        return steps.median()
    start = clock()
    generate(None, 1)
    middle = clock()
    generate(None, new)
    return (clock() - middle - (middle - start)) / (new - 1)


def compare(name: str, batch: int, new: int, rounds: int, clock: Callable[[], float]) -> None:
    """A table of one shape and batch."""
    found = ways(name, batch, new)
    seconds: dict[str, list[float]] = {label: [] for label in found}
    reads: dict[str, list[float]] = {label: [] for label, (_, parts) in found.items() if parts}
    for _ in range(rounds):
        for label, (generate, parts) in found.items():
            if parts:
                reads[label].append(reading(parts, clock))
            seconds[label].append(step_of(generate, new, clock))
    print(f"\n{LABELS[name]}, batch {batch}\n\n| way | ms a step | tok/s | reading alone, ms |")
    print("| --- | --- | --- | --- |")
    for label, times in seconds.items():
        step = statistics.median(times)
        read = f"{statistics.median(reads[label]) * 1e3:.2f}" if label in reads else ""
        print(f"| {label} | {step * 1e3:.2f} | {batch / step:.4g} | {read} |", flush=True)


# ---------------------------------------------------------------------------------------------------- other engines

PEERS = {
    "ctranslate2": """
import sys, time, statistics, ctranslate2
folder, batch, new, threads = sys.argv[1], *map(int, sys.argv[2:5])
for kind in ("float32", "int8"):
    g = ctranslate2.Generator(folder, compute_type=kind, intra_threads=threads, inter_threads=1)
    def run(n):
        start = time.perf_counter()
        g.generate_batch([[str(i) for i in range(32)]] * batch, max_length=n, min_length=n, sampling_topk=1,
                         include_prompt_in_result=False)
        return time.perf_counter() - start
    run(2)
    step = statistics.median((run(new + 2) - run(2)) / new for _ in range(3))
    print(f"| CTranslate2 {kind} | {step * 1e3:.2f} | {batch / step:.4g} | |", flush=True)
"""
}


def peers(batches: list[int], new: int, threads: int) -> None:
    """CTranslate2 on GPT-2's shape, in an environment of its own; by the clock."""
    home = Path(__file__).resolve().parents[1] / ".venv-peers"
    python = home / "bin" / "python"
    if not python.exists():
        venv.create(home, with_pip=True, system_site_packages=True)
    for package in ("ctranslate2", "llama-cpp-python"):
        command = [str(python), "-m", "pip", "install", "--quiet", package]
        try:
            subprocess.run(command, check=True, capture_output=True, text=True, timeout=900)
        except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
            said = (getattr(error, "stderr", "") or str(error)).strip().splitlines()
            print(f"{package} is left out: {said[-1] if said else error}", flush=True)
            continue
        if package not in PEERS:
            print(f"{package} is left out: random weights have no GGUF file here", flush=True)
            continue
        with tempfile.TemporaryDirectory() as folder:
            converted = convert(python, folder)
            if converted is None:
                continue
            for batch in batches:
                print(f"\n{LABELS['gpt2']}, batch {batch}, {package}, by the clock")
                arguments = [converted, str(batch), str(new), str(threads)]
                subprocess.run([str(python), "-c", PEERS[package], *arguments], check=False)


def convert(python: Path, folder: str) -> str | None:
    """Random GPT-2 weights as CTranslate2 keeps them."""
    model = transformers.AutoModelForCausalLM.from_config(SHAPES["gpt2"])
    model.save_pretrained(f"{folder}/hf")
    program = f"""
import ctranslate2, json
from ctranslate2.converters import TransformersConverter as T
class C(T):
    def load_tokenizer(self, *a, **k):
        class Words:
            unk_token = bos_token = eos_token = "0"
            def get_vocab(self): return {{str(i): i for i in range(50257)}}
        return Words()
C({folder + "/hf"!r}).convert({folder + "/ct2"!r})
"""
    done = subprocess.run([str(python), "-c", program], capture_output=True, text=True)
    if done.returncode:
        print(f"ctranslate2 is left out: {done.stderr.strip().splitlines()[-1]}", flush=True)
        return None
    return f"{folder}/ct2"


def main() -> None:
    """Read the command line and print a table for each shape and batch."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", default="gpt2,qwen2")
    parser.add_argument("--batches", default="1,8,32")
    parser.add_argument("--new", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--peers", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    clock = time.thread_time if options.threads == 1 else time.perf_counter
    batches = [int(batch) for batch in options.batches.split(",")]
    print(f"{options.threads} thread(s), {native.level()}, torch {torch.__version__}; {clock.__name__}")
    for name in options.shapes.split(","):
        for batch in batches:
            compare(name, batch, options.new, options.rounds, clock)
    if options.peers:
        peers(batches, options.new, options.threads)


if __name__ == "__main__":
    main()
