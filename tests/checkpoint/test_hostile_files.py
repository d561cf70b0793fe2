"""Checkpoints made to do harm: each is refused with a ValueError, at once, without memory, and without a trace."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import safetensors.torch
import torch

from regard.checkpoint.find import Folder, find
from regard.checkpoint.read import open_weights
from tests.checkpoint import hostile


def read_all(folder: Folder) -> dict[str, torch.Tensor]:
    with open_weights(folder) as weights:
        return {key: weights.load(key) for key in weights.keys()}  # noqa: SIM118 - a Weights is no dict


@contextmanager
def peak_memory_below(bytes_more: int) -> Iterator[None]:
    """Fail if the process ever holds so much more memory than at the start; Linux alone tells."""
    status, reset = Path("/proc/self/status"), Path("/proc/self/clear_refs")

    def read(field: str) -> int:
        return next(int(line.split()[1]) * 1024 for line in status.read_text().splitlines() if line.startswith(field))

    try:
        reset.write_text("5")
        before = read("VmRSS:")
    except OSError:
        yield
        return
    yield
    assert read("VmHWM:") - before < bytes_more


def check_refused(name: str, tmp_path: Path, use: Callable[[Path], object], *, longest: int = 1500) -> str:
    folder = hostile.build(name, tmp_path)
    before = hostile.tree(tmp_path)
    start = time.perf_counter()
    with peak_memory_below(150 * 2**20), pytest.raises(ValueError) as caught:
        use(folder)
    assert time.perf_counter() - start < 2
    assert hostile.tree(tmp_path) == before
    assert not (tmp_path / "canary").exists()
    message = str(caught.value)
    assert len(message) < longest
    return message


def test_base_is_whole(tmp_path: Path) -> None:
    hostile.base(tmp_path)
    folder = find(tmp_path)
    assert folder.json("config.json") == hostile.CONFIG
    found, expected = read_all(folder), hostile.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], expected[key]) for key in expected)


@pytest.mark.parametrize("name", hostile.WEIGHTS)
def test_weights(name: str, tmp_path: Path) -> None:
    message = check_refused(name, tmp_path, lambda folder: read_all(find(folder)))
    assert str(tmp_path / "checkpoint") in message, "the message must say which file it is about"


@pytest.mark.parametrize("name", hostile.CONFIG_FILE)
def test_config_files(name: str, tmp_path: Path) -> None:
    message = check_refused(name, tmp_path, lambda folder: find(folder).json("config.json"))
    assert "config.json" in message


@pytest.mark.parametrize("name", [name for name in hostile.TOKENIZER if name.startswith("tokenizer_config.json")])
def test_tokenizer_config_files(name: str, tmp_path: Path) -> None:
    message = check_refused(name, tmp_path, lambda folder: find(folder).json("tokenizer_config.json"))
    assert "tokenizer_config.json" in message


def test_the_dangerous_ones_are_dangerous(tmp_path: Path) -> None:
    """The canaries do sing when a file is loaded without care; otherwise the tests above would prove nothing."""
    for name in ("pickle that calls the shell", "legacy pickle that calls the shell", "pickle that evaluates"):
        parent = tmp_path / name
        parent.mkdir()
        folder = hostile.build(name, parent)
        torch.load(folder / "pytorch_model.bin", weights_only=False)
        assert (parent / "canary").exists()


def test_the_hand_made_archive_is_right_but_for_its_numbers(tmp_path: Path) -> None:
    data = torch.arange(4.0).numpy().tobytes()
    (tmp_path / "pytorch_model.bin").write_bytes(hostile.tensor_archive(numel=4, size=4, stride=1, data=data))
    assert torch.equal(read_all(find(tmp_path))["x"], torch.arange(4.0))


def _raw(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().view(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b""


def test_flipped_bytes_load_as_the_reference_does_or_are_refused(tmp_path: Path) -> None:
    """Whatever is done to a file, we take it only if the reference reader takes it, and then read the same."""
    tensors = {
        "a": torch.arange(6, dtype=torch.float32).view(2, 3),
        "b": torch.arange(5, dtype=torch.int8),
        "c": torch.tensor([True, False]),
        "e": torch.empty(0, 3),
    }
    valid = safetensors.torch.save(tensors, metadata={"format": "pt"})
    header_end = 8 + int.from_bytes(valid[:8], "little")
    dice = random.Random(1)
    path = tmp_path / "model.safetensors"
    taken = 0
    for _ in range(3000):
        data = bytearray(valid)
        for _ in range(dice.choice((1, 1, 1, 2, 3))):
            at = dice.randrange(header_end) if dice.random() < 0.9 else dice.randrange(len(data))
            match dice.randrange(4):
                case 0:
                    data[at] ^= 1 << dice.randrange(8)
                case 1:
                    data[at] = dice.choice(b'0123456789-"[]{},:. FIU\x00\xff')
                case 2:
                    del data[at : at + dice.randrange(1, 4)]
                case _:
                    data[at:at] = bytes(dice.choice(b"0123456789 \x00") for _ in range(dice.randrange(1, 3)))
            header_end = min(header_end, len(data))
        path.write_bytes(data)
        try:
            found = read_all(Folder(path=tmp_path, name="x"))
        except ValueError:
            continue
        taken += 1
        reference = safetensors.torch.load(bytes(data))
        assert found.keys() == reference.keys()
        for key, tensor in reference.items():
            assert (found[key].dtype, found[key].shape) == (tensor.dtype, tensor.shape)
            assert _raw(found[key]) == _raw(tensor)
    assert 50 < taken < 2950  # both outcomes were really seen


@pytest.mark.parametrize("legacy", [False, True])
def test_flipped_bytes_of_bin_files_load_or_are_refused(legacy: bool, tmp_path: Path) -> None:
    path = tmp_path / "pytorch_model.bin"
    value = {"a": torch.arange(6.0).view(2, 3), "b": torch.nn.Parameter(torch.ones(2))}
    torch.save(value, path, _use_new_zipfile_serialization=not legacy)
    valid, dice, refused = path.read_bytes(), random.Random(2), 0
    for _ in range(400):
        data = bytearray(valid)
        for _ in range(dice.choice((1, 2))):
            at = dice.randrange(len(data))
            data[at] = dice.randrange(256)
        # A new file each time: torch maps it.
        path.unlink()
        path.write_bytes(data)
        try:
            found = read_all(Folder(path=tmp_path, name="x"))
        except ValueError:
            refused += 1
            continue
        assert all(tensor.numel() * tensor.element_size() <= len(data) for tensor in found.values())
        for tensor in found.values():
            tensor.clone()
    assert 0 < refused < 400
