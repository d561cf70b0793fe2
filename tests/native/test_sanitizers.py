"""The kernel tests once more, with every read and write of memory watched."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest


def library(compiler, name):
    """Where the compiler keeps a library of its own; skips where it has none."""
    command = [compiler, f"-print-file-name={name}"]
    found = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    if not Path(found).is_absolute():
        pytest.skip(f"{compiler} has no {name}")
    return found


@pytest.mark.slow
def test_memory_and_arithmetic_are_clean(tmp_path):
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("no g++")
    runtimes = [
        library(compiler, name) for name in ("libasan.so", "libstdc++.so")
    ]  # torch's exceptions need the second
    wrapper = tmp_path / "g++"
    flags = "-fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer -g -O1"
    wrapper.write_text(f'#!/bin/sh\nexec {compiler} "$@" {flags}\n')
    wrapper.chmod(0o755)
    env = {**os.environ, "CXX": str(wrapper), "REGARD_NATIVE_CACHE": str(tmp_path / "cache")}
    env |= {"LD_PRELOAD": " ".join(runtimes), "ASAN_OPTIONS": "detect_leaks=0"}  # Python and torch keep what they keep
    here = Path(__file__)
    tests = [str(here.with_name(name)) for name in ("test_kernels.py", "test_reading.py", "test_writing.py")]
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-s", "-p", "no:cacheprovider", *tests]
    done = subprocess.run(command, env=env, capture_output=True, text=True, cwd=here.parents[2])
    assert done.returncode == 0 and " passed" in done.stdout, done.stdout[-3000:] + done.stderr[-3000:]
