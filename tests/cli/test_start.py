"""What a command brings in before it answers, and that what stays is not searched for garbage."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models

import regard
from regard.cli.lasting import lasting
from tests.house.test_imports import imported_by

RUN = """
sys.argv = "regard run text-generation a max_new_tokens=1 do_sample=false -m {folder}".split()
from regard.cli import main
try:
    main()
except SystemExit as stop:
    assert not stop.code, stop.code
"""
DEAR = {"torch._dynamo", "torch._inductor", "sympy", "huggingface_hub", "rich", "jinja2", "regard.preprocess.image"}


@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8", "int4"])
def test_a_command_imports_what_it_uses(precision: str, tmp_path: Path) -> None:
    raw = {"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], "eos_token_id": None, "vocab_size": 64}
    model = regard.from_config({**raw, "n_embd": 64, "n_layer": 1, "n_head": 2, "n_positions": 32}, seed=0)
    if precision != "fp32":
        regard.adapt.quantize(model, precision, head=True, force=True)
    model.save_pretrained(tmp_path)
    Tokenizer(models.WordLevel({chr(33 + i): i for i in range(64)}, "!")).save(str(tmp_path / "tokenizer.json"))
    found = imported_by(RUN.format(folder=tmp_path))
    assert "torch" in found
    assert not DEAR & set(found)


class Ring:
    def __init__(self) -> None:
        self.itself = self


def test_what_lasts_is_not_searched_and_the_rest_is() -> None:
    with lasting():
        assert not gc.isenabled()
        before = weakref.ref(Ring())
    assert gc.isenabled()
    after = weakref.ref(Ring())
    gc.collect()
    assert before() is not None
    assert after() is None
    gc.unfreeze()
    gc.collect()
    assert before() is None


def test_an_error_inside_leaves_the_search_on() -> None:
    with pytest.raises(ValueError, match="this"), lasting():
        raise ValueError("this")
    assert gc.isenabled()
