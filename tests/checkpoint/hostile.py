"""Checkpoints made to do harm, each a function that writes one into an empty folder.

All start from `base`, a whole tiny BERT, and break one thing; so whoever opens one must raise ValueError because of it.
Code that must never run creates the file `canary` beside the folder.
"""

from __future__ import annotations

import collections
import io
import json
import os
import pickle
import shlex
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

Builder = Callable[[Path], None]

WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "cat", "sat", "on", "a", "mat", ".")
CONFIG: dict[str, Any] = {
    "architectures": ["BertModel"],
    "model_type": "bert",
    "vocab_size": len(WORDS),
    "hidden_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "hidden_act": "gelu",
    "max_position_embeddings": 16,
    "type_vocab_size": 2,
    "layer_norm_eps": 1e-12,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
    "pad_token_id": 0,
}


def shapes() -> dict[str, tuple[int, ...]]:
    """The tensors of the tiny BERT."""
    dim, hidden = 8, 16
    linears = {
        "encoder.layer.0.attention.self.query": (dim, dim),
        "encoder.layer.0.attention.self.key": (dim, dim),
        "encoder.layer.0.attention.self.value": (dim, dim),
        "encoder.layer.0.attention.output.dense": (dim, dim),
        "encoder.layer.0.intermediate.dense": (hidden, dim),
        "encoder.layer.0.output.dense": (dim, hidden),
        "pooler.dense": (dim, dim),
    }
    norms = (
        "embeddings.LayerNorm",
        "encoder.layer.0.attention.output.LayerNorm",
        "encoder.layer.0.output.LayerNorm",
    )
    return {
        "embeddings.word_embeddings.weight": (len(WORDS), dim),
        "embeddings.position_embeddings.weight": (16, dim),
        "embeddings.token_type_embeddings.weight": (2, dim),
        **{f"{name}.weight": shape for name, shape in linears.items()},
        **{f"{name}.bias": shape[:1] for name, shape in linears.items()},
        **{f"{name}.{part}": (dim,) for name in norms for part in ("weight", "bias")},
    }


def state_dict() -> dict[str, torch.Tensor]:
    """Small weights, the same at every call."""
    maker = torch.Generator().manual_seed(0)
    return {key: torch.randn(shape, generator=maker) * 0.1 for key, shape in shapes().items()}


def tokenizer() -> dict[str, Any]:
    """A WordPiece tokenizer.json over WORDS."""
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [],
        "normalizer": {
            "type": "BertNormalizer",
            "clean_text": True,
            "handle_chinese_chars": True,
            "strip_accents": None,
            "lowercase": True,
        },
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": {"type": "BertProcessing", "sep": ["[SEP]", 3], "cls": ["[CLS]", 2]},
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True},
        "model": {
            "type": "WordPiece",
            "unk_token": "[UNK]",
            "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100,
            "vocab": {word: number for number, word in enumerate(WORDS)},
        },
    }


def pack(header: Any, data: bytes = b"", *, length: int | None = None) -> bytes:
    """A safetensors file from a header (an object, or raw bytes) and the bytes after it."""
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(raw) if length is None else length) + raw + data


def safetensors_bytes(tensors: dict[str, torch.Tensor]) -> bytes:
    """A valid file of float32 tensors, by the format's description."""
    header, data = {}, b""
    for key, tensor in tensors.items():
        raw = tensor.numpy().tobytes()
        header[key] = {"dtype": "F32", "shape": list(tensor.shape), "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    return pack(header, data)


def base(folder: Path) -> None:
    """A whole and harmless checkpoint."""
    (folder / "config.json").write_text(json.dumps(CONFIG))
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer()))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "BertTokenizer"}))
    (folder / "model.safetensors").write_bytes(safetensors_bytes(state_dict()))


# Weights: what `open_weights` refuses at once or when the tensor is loaded.


def _weights(content: bytes, size: int | None = None, name: str = "model.safetensors") -> Builder:
    """The base with other bytes as its weights, stretched to `size` without taking room on the disk."""

    def build(folder: Path) -> None:
        base(folder)
        (folder / "model.safetensors").unlink()
        (folder / name).write_bytes(content)
        if size is not None:
            os.truncate(folder / name, size)

    return build


def _one(data: int = 16, **changes: Any) -> Builder:
    """A file of one tensor whose header entry is changed."""
    info = {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16], **changes}
    return _weights(pack({"x": info}, bytes(data)))


def _two(first: list[int], second: list[int], size: int) -> Builder:
    header = {
        "x": {"dtype": "U8", "shape": [first[1] - first[0]], "data_offsets": first},
        "y": {"dtype": "U8", "shape": [second[1] - second[0]], "data_offsets": second},
    }
    return _weights(pack(header, bytes(size)))


def _cut(folder: Path) -> None:
    base(folder)
    path = folder / "model.safetensors"
    os.truncate(path, path.stat().st_size - 100)


SAFETENSORS: dict[str, Builder] = {
    "empty file": _weights(b""),
    "seven bytes": _weights(b"\x00" * 7),
    "eight zeros": _weights(b"\x00" * 8),
    "text for weights": _weights(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"),
    "header longer than the file": _weights(pack({}, length=1000)),
    "header of 2**64-1 bytes": _weights(pack({}, length=2**64 - 1)),
    "header over the limit": _weights(pack(b"{}", length=100 * 2**20 + 1), 100 * 2**20 + 100),
    "header of zeros": _weights(struct.pack("<Q", 90 * 2**20), 90 * 2**20 + 8),
    "header not JSON": _weights(pack(b'{"x": ')),
    "header not UTF-8": _weights(pack(b'{"\xff": 1}')),
    "header is a list": _weights(pack([])),
    "header nested deep": _weights(pack(b'{"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}")),
    "header with NaN": _weights(pack(b'{"x": NaN}')),
    "header of brackets": _weights(pack(b'{"x":[' + b"[]," * 6_000_000 + b"[]]}")),
    "entry not an object": _weights(pack({"x": 7})),
    "entry without fields": _weights(pack({"x": {}})),
    "metadata not strings": _weights(pack({"__metadata__": {"a": 1}})),
    "metadata a list": _weights(pack({"__metadata__": []})),
    "dtype unknown": _one(dtype="F31"),
    "dtype a list": _one(dtype=["F32"]),
    "shape negative": _one(shape=[-2, -2]),
    "shape of booleans": _one(shape=[True, 4]),
    "shape of floats": _one(shape=[2.0, 2.0]),
    "shape a string": _one(shape="22"),
    "shape null": _one(shape=None),
    "shape that overflows 64 bits": _one(shape=[2**32, 2**32]),
    "shape that wraps round to its span": _one(shape=[2**62 + 1, 4]),
    "shape zero times huge": _weights(
        pack({"x": {"dtype": "F32", "shape": [0, 2**62, 2**62], "data_offsets": [0, 0]}})
    ),
    "shape of a thousand dimensions": _one(shape=[1] * 1000, data_offsets=[0, 4], data=4),
    "shape larger than its span": _one(shape=[2, 3]),
    "shape smaller than its span": _one(shape=[2, 1]),
    "offsets reversed": _one(data_offsets=[16, 0]),
    "offsets negative": _one(data_offsets=[-16, 0]),
    "offsets beyond the file": _one(data_offsets=[0, 16], data=8),
    "offsets beyond any file": _one(shape=[2**40], data_offsets=[0, 2**42]),
    "offsets of three": _one(data_offsets=[0, 8, 16]),
    "offsets a number of many digits": _weights(
        pack(b'{"x":{"dtype":"F32","shape":[],"data_offsets":[0,' + b"9" * 5000 + b"]}}")
    ),
    "tensors overlap": _two([0, 10], [5, 15], 15),
    "tensors with a hole between": _two([0, 5], [10, 15], 15),
    "hole before the first tensor": _two([1, 5], [5, 15], 15),
    "bytes after the last tensor": _two([0, 5], [5, 10], 15),
    "cut short": _cut,
    "booleans of 255": _weights(pack({"x": {"dtype": "BOOL", "shape": [2], "data_offsets": [0, 2]}}, b"\x01\xff")),
}


def _index(index: Any) -> Builder:
    """The base as one shard, a second shard of another tensor, and an index."""

    def build(folder: Path) -> None:
        base(folder)
        os.rename(folder / "model.safetensors", folder / "a.safetensors")
        (folder / "b.safetensors").write_bytes(safetensors_bytes({"extra": torch.ones(2)}))
        outside = folder.parent / "outside.safetensors"
        outside.write_bytes(safetensors_bytes({"secret": torch.ones(2)}))
        content = index.replace(b"OUTSIDE", str(outside).encode()) if isinstance(index, bytes) else json.dumps(index)
        path = folder / "model.safetensors.index.json"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())

    return build


def _huge_index(folder: Path) -> None:
    _index({"weight_map": {}})(folder)
    os.truncate(folder / "model.safetensors.index.json", 100 * 2**20 + 1)


INDEX: dict[str, Builder] = {
    "index without weight_map": _index({"metadata": {}}),
    "index with a list": _index({"weight_map": ["a.safetensors"]}),
    "index with nothing": _index({"weight_map": {}}),
    "index not JSON": _index(b"{"),
    "index too large": _huge_index,
    "shard outside": _index({"weight_map": {"secret": "../outside.safetensors"}}),
    "shard at an absolute path": _index(b'{"weight_map": {"secret": "OUTSIDE"}}'),
    "shard with a backslash": _index({"weight_map": {"secret": "..\\outside.safetensors"}}),
    "shard on a drive": _index({"weight_map": {"secret": "C:outside.safetensors"}}),
    "shard in a folder": _index({"weight_map": {"extra": "x/../b.safetensors"}}),
    "shard with a zero byte": _index({"weight_map": {"extra": "b.safetensors\x00"}}),
    "shard a number": _index({"weight_map": {"extra": 1}}),
    "shard a list": _index({"weight_map": {"extra": ["b.safetensors"]}}),
    "shard empty": _index({"weight_map": {"extra": ""}}),
    "shard missing": _index({"weight_map": {"extra": "c.safetensors"}}),
    "shard without the tensor": _index({"weight_map": {"extra": "b.safetensors", "other": "b.safetensors"}}),
    "shard is the index": _index({"weight_map": {"extra": "model.safetensors.index.json"}}),
}


def _special(name: str, make: Callable[[Path], None]) -> Builder:
    """The base with one file replaced by something that is no plain file."""

    def build(folder: Path) -> None:
        base(folder)
        (folder / name).rename(folder.parent / "outside")
        make(folder / name)

    return build


def _specials(name: str) -> dict[str, Builder]:
    return {
        f"{name} is a link out": _special(name, lambda path: path.symlink_to("../outside")),
        f"{name} is a link to nothing": _special(name, lambda path: path.symlink_to("nothing")),
        f"{name} is a link to itself": _special(name, lambda path: path.symlink_to(path.name)),
        f"{name} is a pipe": _special(name, lambda path: os.mkfifo(path)),
        f"{name} is a folder": _special(name, lambda path: path.mkdir()),
        f"{name} is a device": _special(name, lambda path: path.symlink_to("/dev/zero")),
    }


# Torch's .bin files.


class Calls:
    """An object whose pickle calls a function when it is loaded."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


def _bin(make: Callable[[Path], Any], *, legacy: bool = False) -> Builder:
    """The base with weights written by torch.save; `make` gets the path of the canary."""

    def build(folder: Path) -> None:
        base(folder)
        (folder / "model.safetensors").unlink()
        value = make(folder.parent / "canary")
        torch.save(value, folder / "pytorch_model.bin", _use_new_zipfile_serialization=not legacy)

    return build


def _archive(data: bytes, compression: int = zipfile.ZIP_STORED, extra: dict[str, bytes] | None = None) -> bytes:
    """An archive such as torch.save writes, around any pickle."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", compression) as archive:
        archive.writestr("archive/data.pkl", data)
        archive.writestr("archive/version", b"3\n")
        archive.writestr("archive/byteorder", b"little")
        for name, content in (extra or {}).items():
            archive.writestr(f"archive/{name}", content)
    return stream.getvalue()


def _pickled(data: bytes, **options: Any) -> Builder:
    return _weights(_archive(data, **options), name="pytorch_model.bin")


def _number(value: int) -> bytes:
    return b"\x8a\x08" + struct.pack("<q", value)


def _word(text: str) -> bytes:
    return b"X" + struct.pack("<I", len(text)) + text.encode()


def _numbers(*values: int) -> bytes:
    return b"(" + b"".join(map(_number, values)) + b"t"


def tensor_archive(*, numel: int, size: int, stride: int, data: bytes | None) -> bytes:
    """An archive of {"x": tensor} with free numbers, in the instructions that torch.save writes."""
    storage = b"(" + _word("storage") + b"ctorch\nFloatStorage\n" + _word("0") + _word("cpu") + _number(numel) + b"tQ"
    arguments = storage + _number(0) + _numbers(size) + _numbers(stride) + b"\x89ccollections\nOrderedDict\n)R"
    value = b"ctorch._utils\n_rebuild_tensor_v2\n(" + arguments + b"tR"
    return _archive(b"\x80\x02}" + _word("x") + value + b"s.", extra={} if data is None else {"data/0": data})


def _tensor(numel: int, size: int, stride: int, data: bytes | None) -> Builder:
    return _weights(tensor_archive(numel=numel, size=size, stride=stride, data=data), name="pytorch_model.bin")


def _hash_bomb() -> bytes:
    """{t: 1} with t = (u, u), u = (v, v), ...: hashing it takes 2**60 steps."""
    return b"\x80\x02})q\x00" + b"h\x00\x86q\x00" * 60 + b"K\x01s."


def _plain_pickle(folder: Path) -> None:
    base(folder)
    (folder / "model.safetensors").unlink()
    data = pickle.dumps({"x": Calls(os.system, f"touch {shlex.quote(str(folder.parent / 'canary'))}")}, protocol=2)
    (folder / "pytorch_model.bin").write_bytes(data)


def _shell(canary: Path) -> Any:
    return {**state_dict(), "x": Calls(os.system, f"touch {shlex.quote(str(canary))}")}


def _cut_archive(folder: Path) -> None:
    _bin(lambda canary: state_dict())(folder)
    path = folder / "pytorch_model.bin"
    os.truncate(path, path.stat().st_size // 2)


def _cut_legacy(folder: Path) -> None:
    _bin(lambda canary: state_dict(), legacy=True)(folder)
    path = folder / "pytorch_model.bin"
    os.truncate(path, path.stat().st_size // 2)


def _no_weights(folder: Path) -> None:
    base(folder)
    (folder / "model.safetensors").unlink()


BIN: dict[str, Builder] = {
    "no weights": _no_weights,
    "pickle that calls the shell": _bin(_shell),
    "legacy pickle that calls the shell": _bin(_shell, legacy=True),
    "bare pickle that calls the shell": _plain_pickle,
    "pickle that evaluates": _bin(lambda canary: {"x": Calls(eval, f"open({str(canary)!r}, 'w')")}),
    "pickle that opens a file": _bin(lambda canary: {"x": Calls(io.open, str(canary), "w")}),
    "pickle that allocates bytes": _bin(lambda canary: {"x": Calls(bytearray, 10**11)}),
    "pickle that allocates a tensor": _bin(lambda canary: {"x": Calls(torch.Tensor, 10**11)}),
    "pickle of a counter": _bin(lambda canary: {"x": collections.Counter("aa")}),
    "pickle of a set": _bin(lambda canary: {"x": {1, 2}}),
    "pickle of a number": _bin(lambda canary: {**state_dict(), "x": 7}),
    "pickle of a numbered tensor": _bin(lambda canary: {0: torch.ones(2)}),
    "pickle of a nested dictionary": _bin(lambda canary: {"model": state_dict()}),
    "pickle of a list": _bin(lambda canary: list(state_dict().values())),
    "pickle of one tensor": _bin(lambda canary: torch.ones(2)),
    "pickle of a module": _bin(lambda canary: torch.nn.Linear(2, 2)),
    "pickle of a sparse tensor": _bin(lambda canary: {"x": torch.eye(3).to_sparse()}),
    "pickle of a meta tensor": _bin(lambda canary: {"x": torch.empty(10**12, device="meta")}),
    "pickle of an expanded tensor": _bin(lambda canary: {"x": torch.ones(1).expand(10**12)}),
    "storage of many elements": _tensor(10**12, 4, 1, bytes(16)),
    "storage beyond the file": _tensor(60_000, 60_000, 1, bytes(16)),
    "tensor beyond its storage": _tensor(4, 8, 1, bytes(16)),
    "tensor expanded a little": _tensor(4, 40_000, 0, bytes(16)),
    "tensor of negative size": _tensor(4, -4, 1, bytes(16)),
    "tensor of negative stride": _tensor(4, 4, -1, bytes(16)),
    "storage that is missing": _tensor(4, 4, 1, None),
    "tuple bomb": _pickled(_hash_bomb()),
    "pickle of protocol 4": _pickled(pickle.dumps({"x": Calls(os.system, "true")}, protocol=4)),
    "pickle cut short": _pickled(b"\x80\x02}"),
    "pickle of noise": _pickled(bytes(range(256)) * 8),
    "pickle too large": _pickled(b"\x80\x02]" + b"K\x00a" * 2_000_000 + b"."),
    "archive that expands": _pickled(bytes(200_000_000), compression=zipfile.ZIP_DEFLATED),
    "archive without a pickle": _weights(_archive(b"").replace(b"data.pkl", b"atad.pkl"), name="pytorch_model.bin"),
    "archive cut short": _cut_archive,
    "archive of noise": _weights(b"PK\x03\x04" + bytes(range(256)) * 20, name="pytorch_model.bin"),
    "legacy file cut short": _cut_legacy,
    "noise for a .bin": _weights(bytes(range(256)) * 20, name="pytorch_model.bin"),
    "empty .bin": _weights(b"", name="pytorch_model.bin"),
}

WEIGHTS: dict[str, Builder] = {**SAFETENSORS, **INDEX, **_specials("model.safetensors"), **BIN}

# Configurations that `Folder.json` refuses, and those whose values the loader must refuse.


def _text(name: str, content: bytes | None, size: int | None = None) -> Builder:
    """The base with one file of other content, or without it."""

    def build(folder: Path) -> None:
        base(folder)
        path = folder / name
        if content is None:
            path.unlink()
            return
        path.write_bytes(content)
        if size is not None:
            os.truncate(path, size)

    return build


def _unreadable(name: str) -> dict[str, Builder]:
    known = json.dumps(CONFIG)[1:-1].encode()
    return {
        f"{name} empty": _text(name, b""),
        f"{name} not JSON": _text(name, b"{'model_type': 'bert'}"),
        f"{name} not UTF-8": _text(name, b'{"model_type": "\xff\xfe"}'),
        f"{name} a list": _text(name, b"[{}]"),
        f"{name} a string": _text(name, b'"bert"'),
        f"{name} null": _text(name, b"null"),
        f"{name} with NaN": _text(name, b"{" + known + b', "initializer_range": NaN}'),
        f"{name} with Infinity": _text(name, b"{" + known + b', "initializer_range": -Infinity}'),
        f"{name} with 1e999": _text(name, b"{" + known + b', "initializer_range": 1e999}'),
        f"{name} with a number of 5000 digits": _text(name, b"{" + known + b', "x": 1' + b"0" * 5000 + b"}"),
        f"{name} nested deep": _text(name, b"{" + known + b', "x": ' + b"[" * 99_999 + b"]" * 99_999 + b"}"),
        f"{name} nested somewhat": _text(name, b"{" + known + b', "x": ' + b"[" * 300 + b"]" * 300 + b"}"),
        f"{name} of brackets": _text(name, b'{"x": [' + b"[]," * 2_000_000 + b"[]]}"),
        f"{name} zeros": _text(name, b"{}", 100_000),
    }


CONFIG_FILE: dict[str, Builder] = {
    **_unreadable("config.json"),
    **_specials("config.json"),
    "config.json too large": _text("config.json", b"{}", 2**40),
}


def _value(**changes: Any) -> Builder:
    return _text("config.json", json.dumps({**CONFIG, **changes}).encode())


def _without(*keys: str) -> Builder:
    return _text("config.json", json.dumps({name: v for name, v in CONFIG.items() if name not in keys}).encode())


def _own_code(folder: Path) -> None:
    base(folder)
    changes = {
        "model_type": "custom",
        "architectures": ["CustomModel"],
        "auto_map": {"AutoConfig": "custom.CustomConfig", "AutoModel": "custom.CustomModel"},
    }
    (folder / "config.json").write_text(json.dumps({**CONFIG, **changes}))
    (folder / "custom.py").write_text(f"open({str(folder.parent / 'canary')!r}, 'w')\n")


CONFIG_VALUE: dict[str, Builder] = {
    "config.json missing": _text("config.json", None),
    "config.json with nothing": _text("config.json", b"{}"),
    "model of its own code": _own_code,
    "model_type and architectures missing": _without("model_type", "architectures"),
    "model_type unknown": _value(model_type="no-such-model"),
    "model_type a path": _value(model_type="../../../../etc/passwd"),
    "model_type a module": _value(model_type="os.system"),
    "model_type a list": _value(model_type=["bert"]),
    "model_type an object": _value(model_type={"a": 1}),
    "hidden_act code": _value(hidden_act="__import__('os').system('true')"),
    "hidden_act an object": _value(hidden_act={"type": "gelu"}),
    "hidden_size missing": _without("hidden_size"),
    "hidden_size 1e12": _value(hidden_size=10**12),
    "hidden_size 10**30": _value(hidden_size=10**30),
    "hidden_size negative": _value(hidden_size=-8),
    "hidden_size zero": _value(hidden_size=0),
    "hidden_size a string": _value(hidden_size="8"),
    "hidden_size a fraction": _value(hidden_size=8.5),
    "hidden_size a list": _value(hidden_size=[8]),
    "hidden_size null": _value(hidden_size=None),
    "hidden_size not that of the weights": _value(hidden_size=16),
    "num_attention_heads zero": _value(num_attention_heads=0),
    "num_attention_heads not a divisor": _value(num_attention_heads=3),
    "num_hidden_layers 10**9": _value(num_hidden_layers=10**9),
    "num_hidden_layers negative": _value(num_hidden_layers=-1),
    "vocab_size 10**12": _value(vocab_size=10**12),
    "max_position_embeddings 10**12": _value(max_position_embeddings=10**12),
    "intermediate_size 10**12": _value(intermediate_size=10**12),
    "layer_norm_eps a string": _value(layer_norm_eps="tiny"),
}

# Tokenizers; where they are read only on demand, ask for the model's processor.


def _tokenizer(**changes: Any) -> Builder:
    whole = tokenizer()
    return _text("tokenizer.json", json.dumps({**whole, "model": {**whole["model"], **changes}}).encode())


def _own_tokenizer(folder: Path) -> None:
    base(folder)
    (folder / "tokenizer.json").unlink()
    settings = {"tokenizer_class": "CustomTokenizer", "auto_map": {"AutoTokenizer": ["custom.CustomTokenizer", None]}}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    (folder / "custom.py").write_text(f"open({str(folder.parent / 'canary')!r}, 'w')\n")


TOKENIZER: dict[str, Builder] = {
    **_unreadable("tokenizer_config.json"),
    **_specials("tokenizer_config.json"),
    **_specials("tokenizer.json"),
    "tokenizer.json empty": _text("tokenizer.json", b""),
    "tokenizer.json not JSON": _text("tokenizer.json", b"{"),
    "tokenizer.json not UTF-8": _text("tokenizer.json", b'{"\xff": 1}'),
    "tokenizer.json a list": _text("tokenizer.json", b"[]"),
    "tokenizer.json with nothing": _text("tokenizer.json", b"{}"),
    "tokenizer.json nested deep": _text("tokenizer.json", b'{"x":' + b"[" * 99_999 + b"]" * 99_999 + b"}"),
    "tokenizer.json too large": _text("tokenizer.json", b"{}", 2**40),
    "tokenizer.json of an unknown model": _tokenizer(type="NoSuchModel"),
    "tokenizer.json with a negative id": _tokenizer(vocab={"[UNK]": -1}),
    "tokenizer.json with an id of 2**40": _tokenizer(vocab={"[UNK]": 2**40}),
    "tokenizer.json with a vocabulary of strings": _tokenizer(vocab={"[UNK]": "0"}),
    "tokenizer of its own code": _own_tokenizer,
}

HOSTILE: dict[str, Builder] = {**WEIGHTS, **CONFIG_FILE, **CONFIG_VALUE, **TOKENIZER}


def build(name: str, parent: Path) -> Path:
    """Write one hostile checkpoint into a new folder of `parent`, and give its path."""
    folder = parent / "checkpoint"
    folder.mkdir()
    HOSTILE[name](folder)
    return folder


def tree(folder: Path) -> dict[str, tuple[int, int, int]]:
    """Everything below a folder with kind, size and time of change, to see whether anything was written."""
    found = {}
    for path in sorted(folder.rglob("*")):
        state = path.lstat()
        found[str(path.relative_to(folder))] = (state.st_mode, state.st_size, state.st_mtime_ns)
    return found
