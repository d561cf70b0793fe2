"""From nothing to the first token: a fresh process that opens GPT-2 (124 million random weights) and writes one token.

    python -m benchmarks.cold [--rounds 5] [--threads 1] [--only int8,fp32]

Ways take turns; the clock stops when the first letter is printed, and the processor's time when the process ends. The
files are in the page cache: only the first round, which is not counted, reads them from disk. Kernels are compiled
before. Memory (Linux only) is the most that is resident at once, and what of it is more than with a model of width 8
beside the size of the file.
"""

from __future__ import annotations

import argparse
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks import report

THEIRS = """
import sys, transformers
transformers.logging.set_verbosity_error()
pipe = transformers.pipeline("text-generation", sys.argv[1])
print(pipe("the", max_new_tokens=1, do_sample=False)[0]["generated_text"], flush=True)
"""
OURS = "import sys; sys.argv[0] = 'regard'; from regard.cli import main; main()"
TORCH = "import torch; print('x', flush=True)"
# Not getrusage: its peak begins with that of the process that started this one.
PEAK = """
import atexit
atexit.register(lambda: print(next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))))
"""
FILES = ("fp32", "halves", "bf16", "int8", "int4")
WAYS: dict[str, tuple[str, str, list[str]]] = {
    "import torch alone": (TORCH, "fp32", []),
    **{f"regard run, {name}": (OURS, name, []) for name in FILES},
    "regard run --precision bf16, halves": (OURS, "halves", ["--precision", "bf16"]),
    **{f"transformers, {name}": (THEIRS, name, []) for name in FILES[:2]},
}
"""What runs, the file that it opens, and options."""
ROOT = Path(__file__).resolve().parents[1]


def checkpoints(folder: Path) -> None:
    """GPT-2 with random weights and a tokenizer of its size, in folders named by FILES, and again of width 8 in "tiny".

    "halves" are what others save in bfloat16; bf16, int8 and int4 are as `regard quantize` makes them.
    """
    import regard

    tokenizer = _tokenizer()
    raw: dict[str, Any] = {"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], "eos_token_id": None}
    for size, width, layers, heads in (("", 768, 12, 12), ("tiny", 8, 1, 2)):
        for name in FILES:
            fields = {"n_embd": width, "n_layer": layers, "n_head": heads, "vocab_size": 50257}
            model = regard.from_config({**raw, **fields}, head="causal-lm", seed=0)
            if name == "halves":
                model = model.bfloat16()
            elif name != "fp32":
                regard.adapt.quantize(model, name, head=True, force=True)  # type: ignore[arg-type]
            path = folder / size / name
            model.save_pretrained(path)
            tokenizer.save(str(path / "tokenizer.json"))
            (path / "tokenizer_config.json").write_text('{"tokenizer_class": "GPT2Tokenizer"}')


def _tokenizer() -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    draw = random.Random(0)
    letters = "".join(draw.choice("aeiou" if i % 2 else "bcdfghklmnprstvw") for i in range(2_000_000))
    words = " ".join(letters[i : i + draw.randint(3, 9)] for i in range(0, 1_900_000, 6))
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    end = ["<|endoftext|>"]
    trainer = trainers.BpeTrainer(vocab_size=50257, initial_alphabet=alphabet, special_tokens=end, show_progress=False)
    tokenizer.train_from_iterator([words], trainer)
    return tokenizer


def start(way: tuple[str, str, list[str]], folder: Path, threads: int) -> tuple[float, float, float]:
    """Seconds until something is printed, of processor time in all, and the peak of memory in MB."""
    code, name, options = way
    words = ["run", "text-generation", "the", "max_new_tokens=1", "do_sample=false", "-m"] if code is OURS else []
    command = [sys.executable, "-c", PEAK + code, *words, str(folder / name), *options]
    path = f"{ROOT / 'src'}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    env = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": str(threads)}
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=env) as process:
        assert process.stdout is not None
        if not process.stdout.read(1):
            raise RuntimeError(f"nothing was printed by {' '.join(command)[:200]}")
        seconds = time.perf_counter() - began
        peak = int(process.stdout.read().split()[-2]) * 1024 / 1e6  # "VmHWM: 1234 kB"
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return seconds, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, peak


def main() -> None:
    """Read the command line and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--only", default="", help="words of names: only ways that have one of them")
    options = parser.parse_args()
    chosen = {name: way for name, way in WAYS.items() if any(word in name for word in options.only.split(","))}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        checkpoints(folder)
        sizes = {file: (folder / file / "model.safetensors").stat().st_size / 1e6 for file in FILES}
        tiny = {name: start(way, folder / "tiny", options.threads)[2] for name, way in chosen.items()}
        times: dict[str, list[tuple[float, float, float]]] = {name: [] for name in chosen}
        for number in range(options.rounds + 1):
            for name, way in chosen.items():
                took = start(way, folder, options.threads)
                if number:
                    times[name].append(took)
    print(f"{options.threads} thread(s), {options.rounds} rounds\n")
    print("| way | s to the first token | s of processor | peak, MB | more than tiny, MB | of the file |")
    print("| --- | --- | --- | --- | --- | --- |")
    clocks, parts = dict[str, float](), dict[str, float]()
    for name, rows in times.items():
        clock, spent, peak = (statistics.median(column) for column in zip(*rows, strict=True))
        more = peak - tiny[name]
        clocks[name], parts[name] = clock, more / sizes[chosen[name][1]]
        print(f"| {name} | {clock:.2f} | {spent:.2f} | {peak:.0f} | {more:.0f} | {parts[name]:.2f} |")
    full, theirs = "regard run, fp32", "transformers, fp32"
    if full in clocks and theirs in clocks:
        faster, memory = clocks[theirs] / clocks[full], 1 / parts[full]
        print()
        print(
            report.goals(
                [
                    report.Goal("float32: to the first token, transformers' time / ours", 2, faster),
                    report.Goal("float32: the file's size / peak memory beyond a tiny model's", 1 / 1.1, memory),
                ]
            )
        )


if __name__ == "__main__":
    main()
