"""Compiles kernels.cpp and what it includes: when the package is installed (hatch_build.py), else when first wanted,
into the user's cache.

Either way one function does it, and the name of the library tells sources and flags that it was made of; instructions
are chosen when it runs. A finished library is renamed into place, so that no process loads half of one. Without a
compiler there are no kernels. This file is also run by the installer, on its own: it imports nothing of the package.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
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


def name() -> str:
    """The file name of the library that these sources make on this sort of machine."""
    parts = (SOURCE, *sorted(SOURCE.with_suffix("").glob("*.h")))
    text = "\n".join((*(part.read_text(encoding="utf-8") for part in parts), platform.machine(), *FLAGS))
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    return f"kernels.{digest}.so"  # with a dot, so that nobody takes it for a module of Python


@cache
def library() -> ctypes.CDLL:
    """The library that came with the package, or else one built here. Raises NoKernels with the reason."""
    if not sys.platform.startswith("linux"):
        raise NoKernels(f"kernels are built on Linux only, not on {sys.platform}")
    came = SOURCE.with_name(name())
    try:
        if came.exists():
            with suppress(OSError):  # made for another C library
                return ctypes.CDLL(str(came))
        return ctypes.CDLL(str(built()))
    except OSError as error:
        raise NoKernels(f"the kernels could not be built or opened: {error}") from None


def built() -> Path:
    """The library in the user's cache, compiled if need be; each compiler and C library has its own."""
    made_by = f"{compiler()} {'-'.join(platform.libc_ver())}"
    folder = cache_folder()
    target = folder / name().replace(".so", f"-{hashlib.sha256(made_by.encode()).hexdigest()[:8]}.so")
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if folder.stat().st_uid != os.getuid():
        raise NoKernels(f"{folder} belongs to another user; set REGARD_NATIVE_CACHE to a folder of yours")
    if not target.exists():
        with _locked(folder / "lock"):
            if not target.exists():
                print("regard: compiling the kernels for writing, once", file=sys.stderr)
                compile_to(target)
    return target


def compile_to(target: Path, flags: tuple[str, ...] = FLAGS) -> None:
    """Compile to a temporary name beside `target`, then rename. Raises NoKernels with the compiler's first words."""
    if (with_compiler := compiler()) is None:
        raise NoKernels("there is no C++ compiler (g++, or what CXX names)")
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
