"""Talk about images in the terminal: answers are those of the task, and mistakes one line."""

from __future__ import annotations

import json
from typing import Any

import pytest

pytest.importorskip("PIL.Image")

from tests.cli.test_verbs import call
from tests.tasks.conftest import make  # noqa: F401  fixture
from tests.tasks.test_generation import chat, gpt2  # noqa: F401  fixtures
from tests.tasks.test_image_text import ASKED, GREEDY, Talker, files, ours, said, talker  # noqa: F401  fixtures


def test_run_asks_about_an_image(talker: Talker, ours: Any, files: list[str]) -> None:  # noqa: F811
    options = ["do_sample=false", "max_new_tokens=7", "--model", str(talker[2])]
    expected = ours(files[0], ASKED, **GREEDY)[0]["generated_text"]
    done = call("run", "image-text-to-text", files[0], ASKED, *options)
    assert (done.returncode, done.stdout.rstrip("\n"), done.stderr) == (0, expected.rstrip("\n"), "")
    done = call("run", "image-text-to-text", *files[:2], "Which is the dog?", *options, "--json")
    asked = [said({"path": files[0]}, {"path": files[1]}, "Which is the dog?")]
    expected = ours(asked, **GREEDY)[0]["generated_text"][-1]
    assert json.loads(done.stdout)[0]["generated_text"][-1] == expected


def test_chat_about_images_streams(talker: Talker, ours: Any, files: list[str]) -> None:  # noqa: F811
    lines = ["What does the fox do?", "Why?", f"/image {files[1]}", "And here?", "/reset", "Who?"]
    options = ["-m", str(talker[2]), "--temperature", "0", "--max-new-tokens", "7", "--image", files[0]]
    done = call("chat", *options, said="\n".join(lines))
    assert done.returncode == 0, done.stderr
    talk, answers = [], []
    for line in (said({"path": files[0]}, lines[0]), said(lines[1]), said({"path": files[1]}, lines[3]), None):
        talk = [said({"path": files[0]}, lines[5])] if line is None else [*talk, line]
        answer = ours(talk, **GREEDY)[0]["generated_text"][-1]["content"].strip()
        talk, answers = [*talk, said(answer, role="assistant")], [*answers, answer]
    assert [line.strip() for line in done.stdout.split("\n")] == [
        line.strip() for line in "\n".join(answers).split("\n")
    ] + [""]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["run", "image-text-to-text", "{0}", "-m", "{llava}"], "is an image without a question; try: regard run"),
        (
            ["run", "image-text-to-text", "{0}", "a <image> <image>", "-m", "{llava}"],
            "has 2 <image> places for 1 image",
        ),
        (["run", "image-text-to-text", "none.png", "Who?", "-m", "{llava}"], "there is no file 'none.png'"),
        (["run", "image-text-to-text", "{0}", "Who?", "-m", "{gpt2}"], "a GPT2LMHeadModel reads text; image-text-to-"),
        (["chat", "--image", "none.png", "-m", "{llava}"], "there is no file 'none.png'"),
        (["chat", "--image", "{0}", "-m", "{chat}"], "is a GPT2LMHeadModel, which sees no images"),
    ],
    ids=str,
)
def test_mistakes_of_the_command_are_one_line(
    talker: Talker,  # noqa: F811
    gpt2: Any,  # noqa: F811
    chat: Any,  # noqa: F811
    files: list[str],  # noqa: F811
    words: list[str],
    message: str,
) -> None:
    places = {"{0}": files[0], "{llava}": str(talker[2]), "{gpt2}": str(gpt2[1]), "{chat}": str(chat[1])}
    done = call(*(places.get(word, word) for word in words), said="Who?\n")
    assert done.returncode == 2 and message in done.stderr
    assert done.stderr.count("\n") == 1 and done.stdout == ""
