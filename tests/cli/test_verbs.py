"""The command as a user types it: chat, run, and what is said of mistakes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import regard
from tests.conftest import ROOT
from tests.tasks.conftest import make, oracle  # noqa: F401  fixtures
from tests.tasks.test_generation import GREEDY, TEMPLATE, chat, gpt2  # noqa: F401  fixtures


def call(*words: str, said: str = "") -> subprocess.CompletedProcess[str]:
    code = "import sys; sys.argv[0] = 'regard'; from regard.cli import main; main()"
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "COLUMNS": "200"}
    command = [sys.executable, "-c", code, *words]
    return subprocess.run(command, input=said, env=environment, capture_output=True, text=True, timeout=120)


def test_chat_answers_turn_by_turn(chat: Any) -> None:  # noqa: F811
    folder = str(chat[1])
    done = call(
        "chat", "-m", folder, "--temperature", "0", "--max-new-tokens", "8", said="The fox?\n/reset\n\nThe dog?\n"
    )
    assert done.returncode == 0, done.stderr
    pipe = regard.pipeline("text-generation", folder)
    said = [
        pipe([{"role": "user", "content": words}], **GREEDY)[0]["generated_text"] for words in ("The fox?", "The dog?")
    ]
    assert [line.strip() for line in done.stdout.rstrip("\n").split("\n")] == "\n".join(
        conversation[-1]["content"].strip() for conversation in said
    ).split("\n")


def test_chat_needs_a_template(gpt2: Any) -> None:  # noqa: F811
    done = call("chat", "-m", str(gpt2[1]), said="hello\n")
    assert done.returncode == 2
    assert "has no chat template" in done.stderr
    assert "Traceback" not in done.stderr


def test_run_on_texts_files_and_standard_input(gpt2: Any, tmp_path: Path) -> None:  # noqa: F811
    words = ["The quick brown fox", "def main(argv"]
    folder = str(gpt2[1])
    expected = regard.pipeline("text-generation", folder)(words, **GREEDY)
    options = ["do_sample=false", "max_new_tokens=8", "--model", folder, "--json"]
    (tmp_path / "words.txt").write_text("\n".join(words) + "\n")
    for inputs, said in ((words, ""), ([f"@{tmp_path / 'words.txt'}"], ""), (["-"], "\n".join(words) + "\n")):
        done = call("run", "text-generation", *inputs, *options, said=said)
        assert done.returncode == 0, done.stderr
        assert [json.loads(line) for line in done.stdout.splitlines()] == expected
    plain = call("run", "text-generation", words[0], *options[:-1])
    assert plain.stdout.strip("\n") == expected[0][0]["generated_text"].strip("\n")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["run", "text-generatoin", "x"], "did you mean 'text-generation'"),
        (["run", "fill-mask"], "needs input; try: regard run fill-mask"),
        (["run", "text-generation", "x", "-m", "{gpt2}", "--precision", "int2"], "precision is 'int2'; allowed: auto"),
        (["run", "text-generation", "x", "-m", "{gpt2}", "--draft", "/no/such"], "there is no folder '/no/such'"),
        (
            ["run", "text-generation", "x", "-m", "{gpt2}", "prompt_lookup_num_tokens=0"],
            "allowed: an integer from 1 to",
        ),
        (["run", "text-generation", "x", "-m", "/no/such/folder"], "there is no folder '/no/such/folder'"),
        (["run", "text-generation", "@/no/such/file", "-m", "{gpt2}"], "there is no file '/no/such/file'"),
        (["run", "text-generation", "x", "temprature=2", "-m", "{gpt2}"], "did you mean 'temperature'"),
        (["run", "text-generation", "x", "temperature=-1", "-m", "{gpt2}"], "temperature is -1"),
        (["run", "fill-mask", "x", "-m", "{gpt2}"], "GPT2LMHeadModel"),
        (["attention", "{gpt2}", "x", "-o", "heads.bmp"], "allowed: a name that ends in .png"),
        (["attention", "{gpt2}", "x", "-o", "/no/such/folder/heads.png"], "there is no folder"),
    ],
)
def test_mistakes_are_one_line(gpt2: Any, words: list[str], message: str) -> None:  # noqa: F811
    done = call(*(word.replace("{gpt2}", str(gpt2[1])) for word in words))
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""


def test_seeded_answers_are_repeated(chat: Any) -> None:  # noqa: F811
    torch.manual_seed(1)
    words = ("chat", "-m", str(chat[1]), "--seed", "5", "--max-new-tokens", "6")
    assert call(*words, said="The fox?\n").stdout == call(*words, said="The fox?\n").stdout
