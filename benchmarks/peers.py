"""Other engines that the benchmarks are measured against, in an environment of their own: .venv-peers.

python -m benchmarks.peers      # make it beforehand; a benchmark makes it too, where a package index is in reach
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import venv
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
HOME = ROOT / ".venv-peers"
PACKAGES = ("ctranslate2==4.8.*", "faster-whisper==1.2.*", "onnxruntime==1.32.*")
CTRANSLATE2 = """
from ctranslate2.converters import TransformersConverter
source, place, count, more = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4:]
class Converter(TransformersConverter):
    def load_tokenizer(self, *args, **named):
        class Words:
            eos_token = unk_token = bos_token = "0"
            def get_vocab(self): return {word: i for i, word in enumerate([*map(str, range(count)), *more])}
        return Words()
Converter(source).convert(place)
"""


class Missing(RuntimeError):
    """An engine is not to be had here; the message says why."""


def python(*extra: str) -> Path:
    """The environment's interpreter; made, and filled, with `extra` packages too, if need be. Raises Missing.

    What has no wheel is compiled, which may take a quarter of an hour.
    """
    found, done = HOME / "bin/python", HOME / ".installed"
    known = done.read_text().splitlines() if done.exists() else []
    wanted = [package for package in (*PACKAGES, *extra) if package not in known]
    if not wanted:
        return found
    try:
        if not found.exists():
            venv.create(HOME, with_pip=True)
        command = [str(found), "-m", "pip", "install", "-q", "-c", str(ROOT / "constraints.txt"), *wanted]
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=2400)
    except (OSError, subprocess.SubprocessError) as error:
        said = (error.stderr if isinstance(error, subprocess.CalledProcessError) else str(error)).strip().splitlines()
        raise Missing(f"not installed: {said[-1] if said else error}") from None
    done.write_text("\n".join([*known, *wanted]))
    return found


def packages() -> Path:
    """Where the environment's packages lie, for converters, which need torch and transformers from this one."""
    python()
    return next((HOME / "lib").glob("python3*")) / "site-packages"


def convert(program: str, *arguments: str) -> None:
    """Run a converter: a program with this interpreter, which finds the peers' packages after its own. Raises Missing.

    It is a program rather than an import, as CTranslate2 brings an OpenMP of its own.
    """
    start = f"import sys; sys.path.append({str(packages())!r})\n"
    done = subprocess.run([sys.executable, "-c", start + program, *arguments], capture_output=True, text=True)
    if done.returncode:
        raise Missing(f"conversion failed: {(done.stderr.strip().splitlines() or ['?'])[-1]}")


def to_ctranslate2(source: str, place: str, count: int, *more: str) -> None:
    """A folder of transformers as one of CTranslate2, whose words are so many numbers, and `more`. Raises Missing."""
    convert(CTRANSLATE2, source, place, str(count), *more)


class Peer:
    """A program in that environment that says something (a line of JSON) once, and again for each line it is sent."""

    def __init__(self, program: str, *arguments: str, threads: int):
        env = {**os.environ, "OMP_NUM_THREADS": str(threads)}
        command = [str(python()), "-c", program, *arguments]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env)
        self.ready = self._line()

    def _line(self) -> Any:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise Missing(f"the engine ended with code {self.process.wait()}")
        return json.loads(line)

    def __call__(self, asked: Any) -> Any:
        """Its answer to one request."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(asked) + "\n")
        self.process.stdin.flush()
        return self._line()

    def close(self) -> None:
        """Let it end."""
        if self.process.stdin is not None:
            self.process.stdin.close()
        self.process.wait()


if __name__ == "__main__":
    print(python())
