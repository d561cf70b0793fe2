"""The tour runs offline, and shows what is there."""

from __future__ import annotations

import os
import re
import subprocess
import sys

from regard.zoo.card import cards
from tests.conftest import ROOT

DEMO = ROOT / "examples" / "demo.py"


def run(*words: str) -> subprocess.CompletedProcess[str]:
    """The tour, where every way to another machine leads nowhere."""
    nowhere = {"HTTPS_PROXY": "http://127.0.0.1:9", "HTTP_PROXY": "http://127.0.0.1:9", "MPLBACKEND": "agg"}
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "COLUMNS": "200", **nowhere}
    command = [sys.executable, str(DEMO), *words]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)


def test_every_embedded_model_is_shown_and_no_other() -> None:
    done = run()
    assert done.returncode == 0, done.stderr
    parts = re.split(r"\n(?=[^ \n].*\n  \$ )", done.stdout)
    tasks = {task for card in cards() for task in card.tasks}
    shown = set(re.findall(r"^  \$ regard run (\S+)", done.stdout, re.M))
    assert shown and shown <= tasks and "no model for it" not in done.stdout
    assert {card.name for card in cards() if not shown & set(card.tasks)} == set(), "a model that the tour lacks"
    for part in parts[1:]:
        title, command, answer, *_ = part.split("\n")
        assert title and command.startswith("  $ regard ") and answer.strip(), part
    assert len(parts) - 1 == len(shown) + done.stdout.count("$ regard attention")


def test_one_part_may_be_asked_for() -> None:
    task = cards()[0].tasks[0]
    done = run(task)
    assert done.returncode == 0, done.stderr
    assert re.findall(r"^  \$ regard (\S+ \S+)", done.stdout, re.M) == [f"run {task}"]
    known = {name for card in cards() for name in card.tasks}
    missing = next((name for name in ("fill-mask", "summarization", "translation") if name not in known), None)
    if missing is not None:
        assert f"{missing}: no model for it comes with this package" in run(missing).stdout
    wrong = run("singing")
    assert wrong.returncode == 2 and "there is no part 'singing'" in wrong.stderr
