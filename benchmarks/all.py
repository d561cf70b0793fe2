"""Every benchmark one after another, each in a process of its own; what they print goes to docs/performance.md.

    make bench                # python -m benchmarks.all [--quick] [--only encode,decode]

The machine should have nothing else to do. Engines to compare with are installed in .venv-peers first, llama.cpp
from source. `--quick`: one thread, few rounds, and nothing is written.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks import report


@dataclass(frozen=True)
class Run:
    """A benchmark: the heading of its section, its module and arguments, and those for a quick look, if it has one."""

    heading: str
    module: str
    arguments: str = ""
    quick: str | None = None

    @property
    def command(self) -> str:
        """What to type for it alone."""
        return " ".join(filter(None, ("python -m", f"benchmarks.{self.module}", self.arguments)))


RUNS = (
    Run("Reading, 1 thread", "encode", "--threads 1 --count 64", "--threads 1 --rounds 1 --count 32"),
    Run("Reading, 2 threads", "encode", "--threads 2 --count 64 --rounds 2"),
    Run("Where the time of reading goes", "encode", "--threads 1 --profile", "--threads 1 --profile"),
    Run(
        "Writing, GPT-2 124M, 1 thread",
        "decode",
        "--threads 1 --shapes gpt2",
        "--threads 1 --shapes gpt2 --batches 1,8 --rounds 1 --new 12",
    ),
    Run("Writing, Qwen2 0.5B, 1 thread", "decode", "--threads 1 --shapes qwen2 --batches 1 --rounds 2 --new 12"),
    Run("Writing, GPT-2 124M, 2 threads", "decode", "--threads 2 --shapes gpt2"),
    Run("Writing, Qwen2 0.5B, 2 threads", "decode", "--threads 2 --shapes qwen2 --batches 1 --rounds 2 --new 12"),
    Run("Where a step of writing goes", "decode", "--threads 1 --profile", "--threads 1 --profile"),
    Run("Options, places and guesses of writing", "writing", "--threads 1 --rounds 3"),
    Run("Translation, 1 thread", "translate", "--threads 1 --rounds 2", "--threads 1 --rounds 1 --count 16"),
    Run(
        "Speech recognition, Whisper tiny.en",
        "asr",
        "--threads 1 --rounds 2",
        "--threads 1 --rounds 1 --clips 8 --minutes 0",
    ),
    Run("Speech recognition, Whisper base", "asr", "--threads 1 --base --rounds 2"),
    Run("Cold start and memory", "cold", "--threads 1 --rounds 3"),
    Run("Quality of small weights", "quality"),
    Run("Training", "training", "--quick", "--quick --only gpt"),
    Run("Softmax of large vocabularies", "softmax", "", ""),
)


def printed(run: Run, arguments: str) -> tuple[str, int]:
    """What a benchmark prints, shown as it comes, and its exit status."""
    env = {**os.environ, **({"OMP_NUM_THREADS": "1"} if "--threads 1" in arguments else {})}
    command = [sys.executable, "-m", f"benchmarks.{run.module}", *arguments.split()]
    lines = []
    with subprocess.Popen(command, env=env, cwd=report.ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end="", flush=True)
            lines.append(line)
    return "".join(lines), process.returncode


def machine() -> str:
    """The processor, as the system names it."""
    names = [line.partition(":")[2].strip() for line in _cpuinfo() if line.startswith("model name")]
    return f"{names[0] if names else 'a processor'}, {os.cpu_count()} cores"


def _cpuinfo() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text(encoding="utf-8").splitlines() if path.exists() else []


def main() -> None:
    """Run them, and write their sections."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", default="", help="modules, by name")
    given = parser.parse_args()
    only, failed, begun = [name for name in given.only.split(",") if name], [], time.perf_counter()
    for run in RUNS:
        arguments = run.quick if given.quick else run.arguments
        if arguments is None or (only and run.module not in only):
            continue
        print(f"\n## {run.heading}\n", flush=True)
        start = time.perf_counter()
        text, status = printed(run, arguments)
        print(f"\n({time.perf_counter() - start:.0f} s)", flush=True)
        if status:
            failed.append(f"{run.module} {arguments}")
        elif not given.quick:
            when = time.strftime("%Y-%m-%d")
            report.write(run.heading, f"`{run.command}`, {when}, {machine()}.\n\n{text}")
            report.summarise()
    print(f"\n{(time.perf_counter() - begun) / 60:.0f} minutes")
    if failed:
        raise SystemExit(f"these ended with an error: {'; '.join(failed)}")


if __name__ == "__main__":
    main()
