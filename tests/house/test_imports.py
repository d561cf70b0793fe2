"""The house stands as designed: who imports whom, what the bricks know, how long things are, what an import costs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.house import rules
from tests.house.source import SRC, Module, families, modules

# Larger sizes that were agreed on, each with its reason: "path" or "path:function" -> size.
ALLOWED: dict[str, int] = {
    "models/wav2vec2.py": 178,  # tree, rules and heads of two families, of which hubert.py needs only a few lines
}

FOUND = modules()


def report(complaints: list[str]) -> str:
    return "\n" + "\n".join(complaints)


def test_imports_run_downward() -> None:
    assert not (bad := rules.import_direction(FOUND)), report(bad)


def test_the_oracle_and_pickle_are_never_imported() -> None:
    assert not (bad := rules.banned_imports(FOUND)), report(bad)


def test_nothing_executes_what_a_file_says() -> None:
    assert not (bad := rules.unsafe_calls(FOUND)), report(bad)


def test_every_extra_that_is_named_exists() -> None:
    tomllib = pytest.importorskip("tomllib")  # Python 3.11
    extras = set(tomllib.loads((SRC.parents[1] / "pyproject.toml").read_text())["project"]["optional-dependencies"])
    assert not (bad := rules.unknown_extras(FOUND, extras)), report(bad)


def test_the_bricks_name_no_family() -> None:
    assert not (bad := rules.family_names_in_bricks(FOUND)), report(bad)


def test_nothing_switches_on_a_family() -> None:
    assert not (bad := rules.family_switches(FOUND)), report(bad)


def test_sizes() -> None:
    assert not (bad := rules.too_long(FOUND, ALLOWED)), report(bad)


def test_no_allowance_is_left_over() -> None:
    kept = [key for key in ALLOWED if not any(line.startswith(f"{key}: ") for line in rules.too_long(FOUND, {}))]
    assert not kept, f"no longer needed: {kept}"


# The rules themselves: each must find the thing it is there to find.


def lines(count: int) -> str:
    return "x = 1\n" * count


def test_an_unknown_extra_is_found() -> None:
    assert (
        len(rules.unknown_extras([Module("a.py", "need('scipy', 'sound')\nextras.need('scipy', which)")], {"audio"}))
        == 2
    )
    assert rules.unknown_extras([Module("a.py", "need('scipy', 'audio')")], {"audio"}) == []


def test_source_is_read() -> None:
    assert "extras.py" in {m.path for m in FOUND}
    assert families([Module("models/registry.py", ""), Module("models/bert.py", ""), Module("nn/norm.py", "")]) == {
        "bert"
    }


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("nn/stack.py", "from regard.models import registry"),
        ("nn/stack.py", "from ..models import registry"),
        ("nn/stack.py", "from .. import models"),
        ("nn/stack.py", "import regard.checkpoint.load"),
        ("config.py", "def f():\n    from regard.nn import norm"),
        ("config.py", "from importlib import import_module\nimport_module('regard.tasks')"),
        ("models/bert.py", "from regard.preprocess.text import Tokenizer"),
        ("models/bert.py", "import regard"),
        ("tasks/base.py", "from regard.cli import main"),
        ("serving/engine.py", "from regard.cli import main"),
        ("training/loop.py", "from regard.hf import Trainer"),
        ("extras.py", "from regard import config"),
        ("attic/old.py", ""),
    ],
)
def test_a_wrong_import_is_found(path: str, text: str) -> None:
    assert len(rules.import_direction([Module(path, text)])) == 1


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("__init__.py", "from regard.tasks import pipeline"),
        ("nn/stack.py", "from regard.config import StackConfig\nfrom .norm import RMSNorm\nimport torch.nn"),
        ("models/bert.py", "from regard import config, nn"),
        ("checkpoint/load.py", "from regard.adapt.quantize import quantize\nfrom regard.models import registry"),
        ("cli/run.py", "from regard.serving import engine\nfrom . import common"),
        ("export/onnx.py", "from regard.extras import need\nonnx = need('onnx', 'export')"),
    ],
)
def test_a_right_import_is_left_alone(path: str, text: str) -> None:
    assert rules.import_direction([Module(path, text)]) == []


@pytest.mark.parametrize(
    "text",
    [
        "import transformers",
        "def f():\n    from peft.tuners import lora",
        "need('transformers', 'oracle')",
        "import pickle",
    ],
)
def test_a_banned_import_is_found(text: str) -> None:
    assert len(rules.banned_imports([Module("hf/auto.py", text)])) == 1


@pytest.mark.parametrize(
    "text", ["torch.load(f)", "torch.load(f, weights_only=False)", "eval('1')", "def f():\n    exec(code)"]
)
def test_an_unsafe_call_is_found(text: str) -> None:
    assert len(rules.unsafe_calls([Module("checkpoint/read.py", text)])) == 1
    assert rules.unsafe_calls([Module("checkpoint/read.py", "torch.load(f, weights_only=True)\nmodel.eval()")]) == []


@pytest.mark.parametrize(
    "text",
    [
        "class BertEmbedding: ...",
        "use_gpt_neox = 1",
        "# as in BERT",
        'kind == "gpt-neox"',
        "def bert(x): ...",
        "GPTNeoX = 1",
        "T5Bias = 0",
    ],
)
def test_a_family_name_in_a_brick_is_found(text: str) -> None:
    names = {"bert", "gpt_neox", "t5"}
    assert rules.family_names_in_bricks([Module("nn/norm.py", text)], names)
    assert rules.family_names_in_bricks([Module("models/norm.py", text)], names) == []
    assert (
        rules.family_names_in_bricks([Module("nn/norm.py", "liberty = albertina = x.clip(0, 1)")], {*names, "clip"})
        == []
    )


@pytest.mark.parametrize(
    "text",
    ["if family == 'bert': ...", "if config.model_type in ('t5', 'mt5'): ...", "x = 'gpt' in model.architecture"],
)
def test_a_family_switch_is_found(text: str) -> None:
    assert len(rules.family_switches([Module("tasks/text.py", text)])) == 1
    assert rules.family_switches([Module("tasks/text.py", "if family == other.family or mode == 'greedy': ...")]) == []


@pytest.mark.parametrize(
    ("path", "text", "key"),
    [
        ("tasks/a.py", lines(401), "tasks/a.py"),
        ("models/bert.py", lines(151), "models/bert.py"),
        ("nn/a.py", "def f():\n" + "    x = 1\n" * 60, "nn/a.py:f"),
        ("nn/a.py", "class A:\n    def __init__(self, a, b, c, d, e, f, g, *, h, i, j, k): ...", "nn/a.py:__init__"),
    ],
)
def test_what_is_too_long_is_found(path: str, text: str, key: str) -> None:
    assert [c.partition(": ")[0] for c in rules.too_long([Module(path, text)], {})] == [key]
    assert rules.too_long([Module(path, text)], {key: 500}) == []


def test_what_is_just_short_enough_is_left_alone() -> None:
    fine = [
        Module("tasks/a.py", lines(400)),
        Module("models/bert.py", lines(150)),
        Module("models/registry.py", lines(400)),
        Module("nn/a.py", "def f():\n" + "    x = 1\n" * 59),
        Module("nn/b.py", "class A:\n    def __init__(self, a, b, c, d, e, f, g, *, h, i, j): ..."),
    ]
    assert rules.too_long(fine, {}) == []


def test_bricks_that_are_too_long_together_are_found() -> None:
    assert [c.partition(": ")[0] for c in rules.too_long([Module(f"nn/{i}.py", lines(400)) for i in range(6)], {})] == [
        "nn"
    ]


# What an import costs. Counted in modules, as seconds differ from machine to machine.

COUNT = """
import sys
before = set(sys.modules)
{code}
import json
print()
print(json.dumps(sorted(set(sys.modules) - before - {{"json"}})))
"""
HELP = """
sys.argv = ["regard", "--help"]
from regard.cli import main
try:
    main()
except SystemExit as stop:
    assert not stop.code, stop.code
"""


def imported_by(code: str) -> list[str]:
    """The modules that a bare interpreter has loaded after `code`, beyond those it starts with."""
    environment = {**os.environ, "PYTHONPATH": str(SRC.parent)}
    done = subprocess.run(
        [sys.executable, "-c", COUNT.format(code=code)], env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize(
    ("needs", "code", "bound"),
    [("__init__.py", "import regard", 150), ("cli/__init__.py", HELP, 350)],
    ids=["import regard", "regard --help"],
)
def test_the_front_door_is_light(needs: str, code: str, bound: int) -> None:
    if not Path(SRC, needs).exists():
        pytest.skip(f"src/regard/{needs} is not written yet")
    loaded = imported_by(code)
    heavy = {"torch", "numpy", "safetensors", "tokenizers", "huggingface_hub"} & set(loaded)
    assert not heavy
    assert len(loaded) < bound
