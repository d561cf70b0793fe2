"""Weights read lazily from valid files; the reference is the safetensors library, and torch itself for .bin files."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import safetensors.torch
import torch

from regard.checkpoint.find import Folder
from regard.checkpoint.read import DTYPES, Weights, finite, open_weights
from tests.checkpoint import hostile

DATA = Path(os.environ.get("REGARD_TEST_DATA", Path(__file__).parents[3] / "shared"))
CHECKPOINTS = sorted((DATA / "checkpoints").glob("*/model.safetensors"))


def opened(folder: Path) -> Weights:
    return open_weights(Folder(path=folder, name="x"))


def same(found: torch.Tensor, expected: torch.Tensor) -> bool:
    """Equal to the last bit, NaN included."""
    if (found.dtype, found.shape) != (expected.dtype, expected.shape):
        return False
    return found.numel() == 0 or torch.equal(
        found.reshape(-1).view(torch.uint8), expected.reshape(-1).view(torch.uint8)
    )


def check_same(weights: Weights, expected: dict[str, torch.Tensor]) -> None:
    assert sorted(weights.keys()) == sorted(expected)
    assert len(weights) == len(expected)
    for key, tensor in expected.items():
        assert key in weights
        assert weights.shape(key) == tuple(tensor.shape)
        assert weights.dtype(key) == tensor.dtype
        assert same(weights.load(key), tensor)


@pytest.mark.parametrize("name", DTYPES)
def test_every_dtype_reads_as_the_library_reads_it(name: str, tmp_path: Path) -> None:
    """Written by the library, so that its names for the dtypes are the reference; one odd byte before misaligns it."""
    dtype = DTYPES[name]
    raw = torch.arange(24 * dtype.itemsize, dtype=torch.uint8)
    values = (raw % 2).view(torch.bool) if dtype == torch.bool else raw.view(dtype)
    tensors = {"x": values.view(2, 3, 4), "none": values[:0].view(0, 5), "one": values[1].clone(), "z": raw[:3].clone()}
    safetensors.torch.save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    weights = opened(tmp_path)
    check_same(weights, tensors)
    assert weights.metadata == {"format": "pt"}
    assert weights.file("x") == "model.safetensors"


def test_misaligned_tensors_are_whole(tmp_path: Path) -> None:
    header = {
        "a": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]},
        "b": {"dtype": "F64", "shape": [2], "data_offsets": [1, 17]},
    }
    values = torch.tensor([1.5, -2.5], dtype=torch.float64)
    (tmp_path / "model.safetensors").write_bytes(hostile.pack(header, b"\x07" + values.numpy().tobytes()))
    found = opened(tmp_path).load("b")
    assert torch.equal(found, values)
    assert found.data_ptr() % 8 == 0


def maps(path: Path) -> list[tuple[int, int]]:
    """The memory ranges into which this process has mapped a file."""
    lines = Path("/proc/self/maps").read_text().splitlines()
    spans = [line.split()[0].split("-") for line in lines if line.endswith(str(path))]
    return [(int(begin, 16), int(end, 16)) for begin, end in spans]


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="only Linux tells what is mapped")
def test_nothing_is_copied(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    safetensors.torch.save_file({"x": torch.ones(16 * 2**20), "y": torch.ones(5)}, path)  # 64 MiB
    before = resident()
    weights = opened(tmp_path)
    assert not maps(path), "opening maps nothing yet"
    x = weights.load("x")
    assert resident() - before < 8 * 2**20
    assert any(begin <= x.data_ptr() and x.data_ptr() + x.nbytes <= end for begin, end in maps(path))
    assert x.untyped_storage().nbytes() == x.nbytes, "a copy of the tensor's storage must not copy the whole file"
    weights.close()
    assert len(weights) == 0
    assert float(x.sum()) == 16 * 2**20, "a loaded tensor outlives its weights"
    x[0] = 7.0
    assert same(opened(tmp_path).load("x")[:2], torch.ones(2)), "the file is never written to"
    del x
    assert not maps(path), "the map goes with its last user"


def write_shards(folder: Path, tensors: dict[str, torch.Tensor], kind: str) -> None:
    names = list(tensors)
    shards = {f"part-{n}.{kind}": {key: tensors[key] for key in names[n::3]} for n in range(3)}
    for name, part in shards.items():
        if kind == "safetensors":
            safetensors.torch.save_file(part, folder / name, metadata={"shard": name})
        else:
            torch.save(part, folder / name)
    table = {key: name for name, part in shards.items() for key in part}
    index = "model.safetensors.index.json" if kind == "safetensors" else "pytorch_model.bin.index.json"
    (folder / index).write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": table}))


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_shards(kind: str, tmp_path: Path) -> None:
    tensors = hostile.state_dict()
    write_shards(tmp_path, tensors, kind)
    weights = opened(tmp_path)
    check_same(weights, tensors)
    assert {weights.file(key) for key in weights} == {f"part-{n}.{kind}" for n in range(3)}


def test_a_tensor_that_the_index_forgets_is_shown(tmp_path: Path) -> None:
    tensors = hostile.state_dict()
    write_shards(tmp_path, tensors, "safetensors")
    path = tmp_path / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    del index["weight_map"]["pooler.dense.bias"]
    path.write_text(json.dumps(index))
    check_same(opened(tmp_path), tensors)


def test_a_copy_in_another_shard_than_the_index_says_is_passed_over(tmp_path: Path) -> None:
    safetensors.torch.save_file({"a": torch.ones(1), "b": torch.ones(1)}, tmp_path / "1.safetensors")
    safetensors.torch.save_file({"a": torch.zeros(1)}, tmp_path / "2.safetensors")
    for shard, value in (("1.safetensors", 1.0), ("2.safetensors", 0.0)):
        table = {"a": shard, "b": "1.safetensors"}
        (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": table}))
        assert float(opened(tmp_path).load("a")) == value


def test_order_of_formats(tmp_path: Path) -> None:
    torch.save({"x": torch.full((1,), 3.0)}, tmp_path / "pytorch_model.bin")
    assert float(opened(tmp_path).load("x")) == 3.0
    safetensors.torch.save_file({"x": torch.full((1,), 2.0)}, tmp_path / "1.safetensors")
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"x": "1.safetensors"}}))
    assert float(opened(tmp_path).load("x")) == 2.0
    safetensors.torch.save_file({"x": torch.full((1,), 1.0)}, tmp_path / "model.safetensors")
    assert float(opened(tmp_path).load("x")) == 1.0


class _Module(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = torch.nn.Linear(3, 4)
        self.b = torch.nn.Linear(3, 4)
        self.b.weight = self.a.weight
        self.norm = torch.nn.BatchNorm1d(3)
        self.register_buffer("table", torch.ones(3, 2).t().bfloat16())


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("wrapped", [False, True])
def test_bin_files(legacy: bool, wrapped: bool, tmp_path: Path) -> None:
    state = _Module().state_dict()
    value = {"state_dict": state, "epoch": 3, "loss": 0.5, "name": "x"} if wrapped else state
    torch.save(value, tmp_path / "pytorch_model.bin", _use_new_zipfile_serialization=not legacy)
    weights = opened(tmp_path)
    check_same(weights, {key: tensor.detach() for key, tensor in state.items()})
    assert not any(weights.load(key).requires_grad for key in weights)


@pytest.mark.parametrize("legacy", [False, True])
def test_bin_files_of_parameters(legacy: bool, tmp_path: Path) -> None:
    value = {"x": torch.nn.Parameter(torch.randn(3, 4)), "y": torch.ones(2, dtype=torch.int64)}
    torch.save(value, tmp_path / "pytorch_model.bin", _use_new_zipfile_serialization=not legacy)
    check_same(opened(tmp_path), {key: tensor.detach() for key, tensor in value.items()})


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="only Linux tells what is mapped")
def test_bin_archives_are_mapped(tmp_path: Path) -> None:
    path = tmp_path / "pytorch_model.bin"
    torch.save({"x": torch.ones(16 * 2**20)}, path)
    before = resident()
    x = opened(tmp_path).load("x")
    assert resident() - before < 16 * 2**20
    assert any(begin <= x.data_ptr() < end for begin, end in maps(path))
    x[0] = 7.0
    assert float(opened(tmp_path).load("x")[0]) == 1.0, "the file is never written to"


def test_unknown_tensors(tmp_path: Path) -> None:
    safetensors.torch.save_file({"x": torch.ones(1)}, tmp_path / "model.safetensors")
    with opened(tmp_path) as weights:
        assert "y" not in weights
        for ask in (weights.load, weights.shape, weights.dtype, weights.file):
            with pytest.raises(KeyError, match="no tensor 'y' among the 1"):
                ask("y")
    with pytest.raises(KeyError):
        weights.load("x")


def test_a_file_that_changes_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    safetensors.torch.save_file({"x": torch.ones(100)}, path)
    weights = opened(tmp_path)
    os.truncate(path, path.stat().st_size - 4)
    with pytest.raises(ValueError, match="has changed since it was opened"):
        weights.load("x")


@pytest.mark.parametrize(
    "dtype",
    [
        torch.float32,
        torch.float64,
        torch.float16,
        torch.bfloat16,
        torch.float8_e4m3fn,
        torch.float8_e5m2,
        torch.complex64,
    ],
)
def test_finite(dtype: torch.dtype) -> None:
    values = torch.linspace(-3, 3, 1000).to(dtype)
    assert finite(values)
    assert finite(values.view(10, 100).t())
    has_infinity = dtype != torch.float8_e4m3fn
    for bad in (float("nan"), float("inf"), float("-inf"))[: 3 if has_infinity else 1]:
        broken = values.to(torch.complex64 if dtype.is_complex else torch.float32)
        broken[731] = complex(0, bad) if dtype.is_complex else bad
        assert not finite(broken.to(dtype))


def test_finite_at_the_edges() -> None:
    assert finite(torch.tensor([]))
    assert finite(torch.tensor(1.0))
    assert finite(torch.tensor([2**62, -1]))
    assert finite(torch.tensor([True]))
    assert finite(torch.full((10,), torch.finfo(torch.float16).max, dtype=torch.float16)), "a sum would overflow"
    late = torch.zeros(2**22 + 5)
    late[-1] = float("nan")
    assert not finite(late), "the last, smaller piece counts too"


@pytest.mark.skipif(not CHECKPOINTS, reason=f"no checkpoints in {DATA}; set REGARD_TEST_DATA")
@pytest.mark.parametrize("path", CHECKPOINTS, ids=lambda path: path.parent.name)
def test_real_checkpoints(path: Path) -> None:
    weights = opened(path.parent)
    check_same(weights, safetensors.torch.load_file(path))
    assert all(finite(weights.load(key)) for key in weights)
