"""Every benchmark one after another, each in a process of its own; the tables go to docs/performance.md.

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
from pathlib import Path

HERE = Path(__file__).parent
RUNS = (  # module, arguments, and those for a quick look
    ("encode", "--threads 1 --write", "--threads 1 --rounds 1 --count 32"),
    ("encode", "--threads 2 --write", ""),
    ("encode", "--threads 1 --profile --write", "--threads 1 --profile"),
    ("decode", "--threads 1 --shapes gpt2 --write", "--threads 1 --shapes gpt2 --batches 1,8 --rounds 1 --new 12"),
    ("decode", "--threads 1 --shapes qwen2 --batches 1 --write", ""),
    ("decode", "--threads 2 --shapes gpt2 --write", ""),
    ("decode", "--threads 2 --shapes qwen2 --batches 1 --write", ""),
    ("decode", "--threads 1 --profile --write", "--threads 1 --profile"),
    ("translate", "--threads 1 --write", "--threads 1 --rounds 1 --count 16"),
    ("asr", "--threads 1 --write", "--threads 1"),
    ("training", "--quick --write", "--quick --only gpt"),
    ("cold", "", ""),
    ("writing", "--threads 1", ""),
    ("softmax", "", ""),
    ("quality", "", ""),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", default="", help="modules, by name")
    given = parser.parse_args()
    only, failed, begun = [name for name in given.only.split(",") if name], [], time.perf_counter()
    for module, full, quick in RUNS:
        arguments = quick if given.quick else full
        skipped = given.quick and not quick and module != "softmax"
        if skipped or (only and module not in only) or not (HERE / f"{module}.py").exists():
            continue
        print(f"\n## {module} {arguments}\n", flush=True)
        start, env = time.perf_counter(), dict(os.environ)
        if "--threads 1" in arguments:
            env["OMP_NUM_THREADS"] = "1"
        command = [sys.executable, "-m", f"benchmarks.{module}", *arguments.split()]
        if subprocess.run(command, env=env, cwd=HERE.parent, check=False).returncode:
            failed.append(f"{module} {arguments}")
        print(f"\n({time.perf_counter() - start:.0f} s)", flush=True)
    print(f"\n{(time.perf_counter() - begun) / 60:.0f} minutes")
    if failed:
        raise SystemExit(f"these ended with an error: {'; '.join(failed)}")


if __name__ == "__main__":
    main()
