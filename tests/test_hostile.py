"""Checkpoints made to do harm, through the front door: one clear ValueError, at once, in little memory, no trace."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
import torch

import regard
from regard.checkpoint import memory
from tests.checkpoint import hostile
from tests.checkpoint.test_hostile_files import check_refused, peak_memory_below

MODEL = {name: build for name, build in hostile.HOSTILE.items() if name not in hostile.TOKENIZER}


@pytest.fixture(scope="module", autouse=True)
def warm(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Importing every family is not what is timed."""
    folder = tmp_path_factory.mktemp("base")
    hostile.base(folder)
    regard.load(folder)


def test_the_base_of_all_is_a_good_checkpoint(tmp_path: Path) -> None:
    hostile.base(tmp_path)
    model = regard.load(tmp_path)
    inputs = model.processor("the cat sat on a mat .", return_tensors="pt")
    assert inputs["input_ids"].tolist() == [[2, 5, 6, 7, 8, 9, 10, 11, 3]]
    assert model(**inputs).last_hidden_state.isfinite().all()


@pytest.mark.parametrize("name", MODEL)
def test_models(name: str, tmp_path: Path) -> None:
    # Weights of another shape than the config's are listed one by one.
    message = check_refused(name, tmp_path, regard.load, longest=4000)
    assert "config" in message or str(tmp_path / "checkpoint") in message


@pytest.mark.parametrize("name", hostile.TOKENIZER)
def test_processors(name: str, tmp_path: Path) -> None:
    """A tokenizer that cannot be read is told at load; the model is of use without it to whoever says so."""
    message = check_refused(name, tmp_path, regard.load)
    assert "pass with_processor=False" in message
    model = regard.load(tmp_path / "checkpoint", with_processor=False)
    assert model.processor is None
    with pytest.raises(ValueError) as caught:
        regard.pipeline("feature-extraction", model)
    assert message.startswith(str(caught.value))
    assert not (tmp_path / "canary").exists()


def test_code_beside_a_known_model_is_left_alone(tmp_path: Path) -> None:
    """Real checkpoints of known types carry an auto_map; they are loaded as data."""
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    hostile._own_code(folder)
    own = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**hostile.CONFIG, "auto_map": own["auto_map"]}))
    model = regard.load(folder)
    assert model(torch.tensor([[2, 5, 3]])).last_hidden_state.shape == (1, 3, 8)
    assert not (tmp_path / "canary").exists()


def test_a_model_of_its_own_code_is_refused_by_name(tmp_path: Path) -> None:
    message = check_refused("model of its own code", tmp_path, regard.load)
    assert "auto_map" in message
    assert "'custom'" in message


def test_heads_must_divide_the_model(tmp_path: Path) -> None:
    message = check_refused("num_attention_heads not a divisor", tmp_path, regard.load)
    assert "3 attention heads" in message
    assert "8" in message


# A tokenizer with more words than the model has vectors for.


def _words(folder: Path, *more: str) -> None:
    data = hostile.tokenizer()
    for word in more:
        data["model"]["vocab"][word] = len(data["model"]["vocab"])
    (folder / "tokenizer.json").write_text(json.dumps(data))


def test_a_vocabulary_beyond_the_table_is_refused_with_both_numbers(tmp_path: Path) -> None:
    hostile.base(tmp_path)
    _words(tmp_path, "dog", "ran")
    with pytest.raises(ValueError, match=r"largest id is 13 \('ran'\).*vocab_size = 12 ids"):
        regard.load(tmp_path)


def test_a_vocabulary_with_a_hole_is_judged_by_its_largest_id(tmp_path: Path) -> None:
    hostile.base(tmp_path)
    data = hostile.tokenizer()
    data["added_tokens"] = [
        {"id": 40, "content": "<far>", "single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
         "special": True}
    ]  # fmt: skip
    del data["model"]["vocab"]["."]
    data["model"]["vocab"]["far"] = 40
    (tmp_path / "tokenizer.json").write_text(json.dumps(data))
    with pytest.raises(ValueError, match=r"largest id is 40 .*vocab_size = 12"):
        regard.load(tmp_path)


def test_a_smaller_vocabulary_is_fine(tmp_path: Path) -> None:
    hostile.base(tmp_path)
    data = hostile.tokenizer()
    del data["model"]["vocab"]["mat"]
    del data["model"]["vocab"]["."]
    (tmp_path / "tokenizer.json").write_text(json.dumps(data))
    assert regard.load(tmp_path).processor("the cat")["input_ids"] == [2, 5, 6, 3]


# New models of absurd size.


@pytest.mark.parametrize(
    "sizes",
    [
        {"hidden_size": 2**20, "num_attention_heads": 2**10, "num_hidden_layers": 200},
        {"hidden_size": 2**20, "num_attention_heads": 2**10, "intermediate_size": 2**22},
        {"vocab_size": 2**24, "hidden_size": 2**20},
    ],
    ids=lambda sizes: next(iter(sizes)),
)
def test_a_model_larger_than_memory_is_refused_before_it_is_made(sizes: dict[str, int]) -> None:
    start = time.perf_counter()
    with peak_memory_below(150 * 2**20), pytest.raises(ValueError, match=r"a model of [\d,.]+ GiB; [\d,.]+ GiB"):
        regard.from_config({**hostile.CONFIG, **sizes})
    assert time.perf_counter() - start < 2


def test_what_fits_just_is_made_and_what_does_not_just_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    needed = 4 * sum(tensor.numel() for tensor in hostile.state_dict().values())
    monkeypatch.setattr(memory, "available", lambda: needed)
    assert regard.from_config(hostile.CONFIG).device.type == "cpu"
    monkeypatch.setattr(memory, "available", lambda: needed - 1)
    with pytest.raises(ValueError, match="memory are free"):
        regard.from_config(hostile.CONFIG)


def test_free_memory_is_that_of_machine_and_group(tmp_path: Path) -> None:
    (tmp_path / "meminfo").write_text("MemTotal: 9000 kB\nMemFree: 1 kB\nMemAvailable:    2000 kB\n")
    assert memory._meminfo(str(tmp_path / "meminfo")) == 2000 * 1024
    for name, text in (
        ("memory.max", "5000\n"),
        ("memory.current", "3000\n"),
        ("memory.stat", "anon 1\ninactive_file 7\n"),
    ):
        (tmp_path / name).write_text(text)
    assert memory._group(str(tmp_path)) == 5000 - 3000 + 7
    (tmp_path / "memory.max").write_text("max\n")
    assert memory._group(str(tmp_path)) is None
    assert memory._meminfo(str(tmp_path / "absent")) is None
    assert memory.available() > 2**20
