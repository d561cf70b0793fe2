"""README.md and docs/ keep their word: every command and every Python block in them is run.

In a ```bash block each line is a command; in a ```console block commands follow "$ " and the lines after a command are
what it prints ("..." stands for anything, "#" starts a comment in both). Blocks of `regard` commands are run; of `make`
commands only the target is checked. Words after the language steer this: `no-run` (skipped), `slow` (run by
`make slow`), `needs-data` (skipped where the test data is absent; implied by $REGARD_TEST_DATA), `continued` (Python:
run after the file's Python blocks above it).
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from tests.conftest import DATA, ROOT

TAGS = {"no-run", "slow", "needs-data", "continued"}
SECONDS = 300
FENCE = re.compile(r"^(?P<indent> *)```(?P<info>[^\n`]*)\n(?P<body>.*?)^(?P=indent)```\s*$", re.M | re.S)
# `regard` in a block is the tree's own, installed or not.
CALL = "import sys; sys.argv[0] = 'regard'; from regard.cli import main; sys.exit(main())"
DOOR = f'regard() {{ "$REGARD_PYTHON" -c "{CALL}" "$@"; }}'


@dataclass(frozen=True)
class Block:
    """A fenced block: where it starts, its language, its tags and its text."""

    where: str
    language: str
    tags: frozenset[str]
    text: str

    @property
    def needs_data(self) -> bool:
        return "needs-data" in self.tags or "REGARD_TEST_DATA" in self.text


@dataclass(frozen=True)
class Step:
    """A command, and the lines it is said to print (none for a bash block)."""

    command: str
    prints: tuple[str, ...] = ()


def blocks(text: str, name: str) -> list[Block]:
    """The bash, console and Python blocks of a Markdown text. An unknown tag is a ValueError."""
    found: list[Block] = []
    for fence in FENCE.finditer(text):
        language, *tags = fence["info"].split() or [""]
        if language not in ("bash", "console", "python"):
            continue
        where = f"{name}:{text.count(chr(10), 0, fence.start()) + 1}"
        if unknown := set(tags) - TAGS:
            raise ValueError(f"{where}: unknown tags {sorted(unknown)}; known are {sorted(TAGS)}")
        body = re.sub(f"^{fence['indent']}", "", fence["body"], flags=re.M)
        block = Block(where, language, frozenset(tags), body)
        if "continued" in block.tags:  # the block above carries what came before it
            above = [b.text for b in found if b.language == "python"][-1:]
            block = replace(block, text="".join(above) + block.text)
        found.append(block)
    return found


def steps(block: Block) -> list[Step]:
    """The commands of a bash or console block; a backslash at the end of a line goes on with the next."""
    found: list[Step] = []
    for line in block.text.replace("\\\n", " ").splitlines():
        if block.language == "bash" or line.startswith("$ "):
            command = line.removeprefix("$ ").strip()
            if command and not command.startswith("#"):
                found.append(Step(command))
        elif found and line.strip() and not line.startswith("#"):
            found[-1] = replace(found[-1], prints=(*found[-1].prints, line.strip()))
    return found


def is_ours(command: str) -> bool:
    return bool(re.match(r"(\w+=\S+ )*regard(\s|$)", command))


def runnable(block: Block) -> bool:
    """Whether a block is run: all its commands are `regard` or `make`. A mixed block, part unrun, is a ValueError."""
    commands = [s.command for s in steps(block)]
    kinds = {is_ours(c) or c.split()[0] == "make" for c in commands}
    if len(kinds) > 1:
        raise ValueError(f"{block.where}: `regard` or `make` beside other commands; split the block or tag it no-run")
    return kinds == {True}


def missing(printed: str, promised: tuple[str, ...]) -> str:
    """The first promised line that was not printed, in order; "" where all were. Runs of blanks count as one."""
    rest = " ".join(printed.split())
    for line in promised:
        for part in filter(None, (" ".join(p.split()) for p in line.split("..."))):
            _, hit, rest = rest.partition(part)
            if not hit:
                return line
    return ""


def environment() -> dict[str, str]:
    extra = {"PYTHONPATH": str(ROOT / "src"), "REGARD_PYTHON": sys.executable, "REGARD_TEST_DATA": str(DATA)}
    return {**os.environ, **extra, "NO_COLOR": "1", "COLUMNS": "200"}


def run(command: list[str], where: str) -> str:
    done = subprocess.run(
        command, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=SECONDS, stdin=subprocess.DEVNULL
    )
    assert done.returncode == 0, f"{where} exits {done.returncode}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    return done.stdout


def pages() -> list[Path]:
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def every_block() -> list:
    found = [b for page in pages() for b in blocks(page.read_text(encoding="utf-8"), page.relative_to(ROOT).as_posix())]
    return [pytest.param(b, id=b.where, marks=[pytest.mark.slow] * ("slow" in b.tags)) for b in found]


@pytest.mark.parametrize("block", every_block())
def test_block(block: Block) -> None:
    if "no-run" in block.tags:
        pytest.skip(f"{block.where} is tagged no-run")
    if block.needs_data and not DATA.exists():
        pytest.skip(f"no test data at {DATA} (set REGARD_TEST_DATA)")
    if block.language == "python":
        run([sys.executable, "-c", block.text], block.where)
        return
    if not runnable(block):
        pytest.skip(f"{block.where} holds other commands: {'; '.join(s.command for s in steps(block))}")
    for step in steps(block):
        where = f"{block.where}: {step.command}"
        if is_ours(step.command):
            printed = run(["bash", "-euo", "pipefail", "-c", f"{DOOR}\n{step.command}"], where)
            lost = missing(printed, step.prints)
            assert not lost, f"{where}\ndoes not print {lost!r} but\n{printed}"
        else:
            run(["bash", "-c", f"{step.command} --dry-run"], where)


# The reading itself.

PAGE = """
```bash
# a comment
regard run fill-mask "a <mask>." \\
  --model x
make test
```
text
```console needs-data
$ regard models
bert   12 ... layers
t5
```
  ```python continued
  print(1)
  ```
```python continued
print(2)
```
```json
{}
```
"""


def test_blocks_are_found() -> None:
    found = blocks(PAGE, "x.md")
    assert [(b.where, b.language, b.needs_data) for b in found] == [
        ("x.md:2", "bash", False),
        ("x.md:9", "console", True),
        ("x.md:14", "python", False),
        ("x.md:17", "python", False),
    ]
    assert [s.command for s in steps(found[0])] == ['regard run fill-mask "a <mask>."    --model x', "make test"]
    assert steps(found[1]) == [Step("regard models", ("bert   12 ... layers", "t5"))]
    assert found[3].text == "print(1)\nprint(2)\n"


def test_promised_output_is_looked_for() -> None:
    promised = ("bert 12 ... layers", "t5")
    assert missing("bert  12 wide\n layers\n t5", promised) == ""
    assert missing("bert  12 layers", promised) == "t5"
    assert missing("t5 bert 12 layers", promised) == "t5"
    assert missing("", ("...",)) == ""


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("regard models\nA=1 regard chat", True),
        ("make lint", True),
        ("pip install regard", False),
        ("", False),
        ("regarding x", False),
    ],
)
def test_what_is_run(text: str, answer: bool) -> None:
    assert runnable(Block("x", "bash", frozenset(), text)) is answer


def test_a_mixed_block_or_an_unknown_tag_is_an_error() -> None:
    with pytest.raises(ValueError, match="split the block"):
        runnable(Block("x", "bash", frozenset(), "regard models\nls"))
    with pytest.raises(ValueError, match="no_run"):
        blocks("```bash no_run\nls\n```\n", "x.md")


@pytest.mark.parametrize(("target", "known"), [("test", True), ("tset", False)])
def test_a_make_target_must_exist(target: str, known: bool) -> None:
    block = Block("x", "bash", frozenset(), f"make {target}")
    if known:
        test_block(block)
    else:
        with pytest.raises(AssertionError, match="tset"):
            test_block(block)


def test_a_python_block_that_fails_is_found() -> None:
    with pytest.raises(AssertionError, match="no such number"):
        test_block(Block("x", "python", frozenset(), "raise SystemExit('no such number')"))
