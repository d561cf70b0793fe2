"""Compiles kernels.cpp when it is first wanted, into the user's cache; without a compiler there are no kernels.

Nothing is compiled when the package is installed: one wheel serves every machine, and what is built is for the compiler
and the C library that are here. A finished library is renamed into place, so that no process loads half of one.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

SOURCE = Path(__file__).with_name("kernels.cpp")
FLAGS = ("-std=c++17", "-O3", "-fPIC", "-shared", "-fopenmp", "-fno-math-errno", "-fvisibility=hidden", "-Wno-psabi")
PATIENCE = 600  # seconds


class NoKernels(ValueError):
    """There is no library of kernels on this machine; the message says why."""


def compiler() -> str | None:
    """The C++ compiler: what CXX names, or g++."""
    return shutil.which(os.environ.get("CXX") or "g++")


def cache_folder() -> Path:
    """Where finished libraries are kept: REGARD_NATIVE_CACHE, or "regard/native" in the user's cache."""
    wanted = os.environ.get("REGARD_NATIVE_CACHE")
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(wanted) if wanted else base / "regard" / "native"


@cache
def library() -> ctypes.CDLL:
    """The library, built if need be. Raises NoKernels with the reason where it cannot be."""
    if not sys.platform.startswith("linux"):
        raise NoKernels(f"kernels are built on Linux only, not on {sys.platform}")
    with_compiler = compiler()
    if with_compiler is None:
        raise NoKernels("there is no C++ compiler (g++, or what CXX names)")
    version = _run([with_compiler, "-dumpfullversion", "-dumpmachine"])
    text = "\n".join((SOURCE.read_text(encoding="utf-8"), with_compiler, version, *FLAGS))
    name = f"kernels-{hashlib.sha256(text.encode()).hexdigest()[:16]}.so"
    try:
        folder = cache_folder()
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if folder.stat().st_uid != os.getuid():
            raise NoKernels(f"{folder} belongs to another user; set REGARD_NATIVE_CACHE to a folder of yours")
        target = folder / name
        with _locked(folder / "lock"):
            if not target.exists():
                compile_to(target, with_compiler, FLAGS)
        return ctypes.CDLL(str(target))
    except OSError as error:
        raise NoKernels(f"the kernels could not be built or opened: {error}") from None


def compile_to(target: Path, with_compiler: str, flags: tuple[str, ...]) -> None:
    """Compile to a temporary name beside `target`, then rename. Raises NoKernels with the compiler's first words."""
    handle, temporary = tempfile.mkstemp(dir=target.parent, suffix=".so")
    os.close(handle)
    try:
        _run([with_compiler, *flags, str(SOURCE), "-o", temporary])
        os.replace(temporary, target)
    finally:
        Path(temporary).unlink(missing_ok=True)


def _run(command: list[str]) -> str:
    try:
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=PATIENCE).stdout
    except subprocess.CalledProcessError as error:
        said = next((line for line in error.stderr.splitlines() if "error" in line), error.stderr[:200])
        raise NoKernels(f"{command[0]} failed: {said.strip()}") from None
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NoKernels(f"{command[0]} failed: {error}") from None


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Held by one process at a time; the others wait for its result."""
    import fcntl

    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
