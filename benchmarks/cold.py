"""From nothing to the first token: a fresh process that opens GPT-2 (124 million random weights) and writes one token.

    python -m benchmarks.cold [--rounds 5] [--threads 1]

Ways take turns; the clock stops when the first letter is printed, and the processor's time when the process ends. The
files are in the page cache: only the first round, which is not counted, reads them from disk. Kernels are compiled
before.
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

THEIRS = """
import sys, transformers
transformers.logging.set_verbosity_error()
pipe = transformers.pipeline("text-generation", sys.argv[1])
print(pipe("the", max_new_tokens=1, do_sample=False)[0]["generated_text"], flush=True)
"""
OURS = "import sys; sys.argv[0] = 'regard'; from regard.cli import main; main()"
ROOT = Path(__file__).resolve().parents[1]


def checkpoints(folder: Path) -> dict[str, Path]:
    """GPT-2 with random weights and a tokenizer of its size, in float32, int8 and int4."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    import regard

    draw = random.Random(0)
    letters = "".join(draw.choice("aeiou" if i % 2 else "bcdfghklmnprstvw") for i in range(2_000_000))
    words = " ".join(letters[i : i + draw.randint(3, 9)] for i in range(0, 1_900_000, 6))
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    end = ["<|endoftext|>"]
    trainer = trainers.BpeTrainer(vocab_size=50257, initial_alphabet=alphabet, special_tokens=end, show_progress=False)
    tokenizer.train_from_iterator([words], trainer)
    raw: dict[str, Any] = {"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], "eos_token_id": None}
    raw |= {"n_embd": 768, "n_layer": 12, "n_head": 12, "vocab_size": 50257}
    found = {}
    for precision in ("fp32", "int8", "int4"):
        model = regard.from_config(raw, head="causal-lm", seed=0)
        if precision != "fp32":
            regard.adapt.quantize(model, precision, head=True, force=True)  # type: ignore[arg-type]
        found[precision] = folder / precision
        model.save_pretrained(found[precision])
        tokenizer.save(str(found[precision] / "tokenizer.json"))
        (found[precision] / "tokenizer_config.json").write_text('{"tokenizer_class": "GPT2Tokenizer"}')
    return found


def start(command: list[str], threads: int) -> tuple[float, float]:
    """Seconds until something is printed, and of processor time in all."""
    path = f"{ROOT / 'src'}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    env = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": str(threads)}
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=env) as process:
        assert process.stdout is not None
        if not process.stdout.read(1):
            raise RuntimeError(f"nothing was printed by {' '.join(command)[:200]}")
        seconds = time.perf_counter() - began
        process.stdout.read()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return seconds, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    """Read the command line and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        made = checkpoints(Path(folder))
        words = ["run", "text-generation", "the", "max_new_tokens=1", "do_sample=false", "-m"]
        python = [sys.executable, "-c"]
        ways = {"import torch alone": [*python, "import torch; print('x', flush=True)"]}
        ways |= {f"regard run, {name}": [*python, OURS, *words, str(path)] for name, path in made.items()}
        ways["transformers, fp32"] = [*python, THEIRS, str(made["fp32"])]
        times: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
        for number in range(options.rounds + 1):
            for name, command in ways.items():
                took = start(command, options.threads)
                if number:
                    times[name].append(took)
    print(f"{options.threads} thread(s), {options.rounds} rounds\n\n| way | s to the first token | s of processor |")
    print("| --- | --- | --- |")
    for name, took in times.items():
        clock, spent = (statistics.median(column) for column in zip(*took, strict=True))
        print(f"| {name} | {clock:.2f} | {spent:.2f} |")


if __name__ == "__main__":
    main()
