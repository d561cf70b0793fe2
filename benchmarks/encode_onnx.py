"""onnxruntime reading texts, in a process of its own: a graph of the reference's encoder that takes ragged batches."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch
from benchmarks import peers
from torch import Tensor, nn

PACKAGES = ("onnx==1.23.*",)
EXPORTER = """
from benchmarks.encode_onnx import export
export(*sys.argv[1:])
"""
WORKER = """
import sys, json, time, numpy as np, onnxruntime
path, threads, batch, clock = sys.argv[1], *map(int, sys.argv[2:4]), getattr(time, sys.argv[4])
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = threads
session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
print(json.dumps(onnxruntime.__version__), flush=True)
for line in sys.stdin:
    rows, start = json.loads(line), clock()
    for i in range(0, len(rows), batch):
        some = rows[i : i + batch]
        ids = np.zeros((len(some), max(map(len, some))), np.int64)
        mask = ids.copy()
        for j, row in enumerate(some):
            ids[j, : len(row)], mask[j, : len(row)] = row, 1
        session.run(None, {"ids": ids, "mask": mask})
    print(json.dumps(clock() - start), flush=True)
"""


class _Encoder(nn.Module):
    """The reference's layers with the mask as plain arithmetic, which every exporter can follow."""

    def __init__(self, model: Any):
        super().__init__()
        self.embeddings, self.layers = model.embeddings, model.encoder.layer
        self.heads = model.config.num_attention_heads

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """(B, T) and (B, T) -> (B, T, C)"""
        emb = self.embeddings
        places = torch.arange(ids.shape[1])
        x = emb.word_embeddings(ids) + emb.position_embeddings(places) + emb.token_type_embeddings.weight[0]
        x = emb.LayerNorm(x)
        hidden = (1 - mask[:, None, None, :].float()) * -1e4
        for layer in self.layers:
            own, out = layer.attention.self, layer.attention.output
            q, k, v = (self._heads(part(x)) for part in (own.query, own.key, own.value))
            scores = q @ k.transpose(2, 3) / q.shape[-1] ** 0.5 + hidden
            y = (scores.softmax(-1) @ v).transpose(1, 2).reshape(x.shape)
            x = out.LayerNorm(x + out.dense(y))
            wide = nn.functional.gelu(layer.intermediate.dense(x))
            x = layer.output.LayerNorm(x + layer.output.dense(wide))
        return x

    def _heads(self, x: Tensor) -> Tensor:
        return x.reshape(x.shape[0], x.shape[1], self.heads, -1).transpose(1, 2)


def export(folder: str) -> None:
    """Write float32.onnx and int8.onnx (rounded when they run) of the reference's model in a folder; needs onnx."""
    import transformers
    from onnxruntime.quantization import QuantType, quantize_dynamic

    model = transformers.BertModel.from_pretrained(folder, add_pooling_layer=False)
    axes, ids = {0: "batch", 1: "length"}, torch.ones(2, 7, dtype=torch.long)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            _Encoder(model).eval(),
            (ids, ids),
            f"{folder}/float32.onnx",
            input_names=["ids", "mask"],
            output_names=["hidden"],
            dynamic_axes={"ids": axes, "mask": axes, "hidden": axes},
            opset_version=17,
            dynamo=False,
        )
    quantize_dynamic(f"{folder}/float32.onnx", f"{folder}/int8.onnx", weight_type=QuantType.QInt8, per_channel=True)


def engine(folder: str, kind: str, threads: int, batch: int, clock: str) -> peers.Peer:
    """onnxruntime with the graph of this kind; it is sent rows of ids and answers with seconds. Raises Missing."""
    peers.python(*PACKAGES)
    if not Path(f"{folder}/int8.onnx").exists():
        peers.convert(f"sys.path.insert(0, {str(peers.ROOT)!r})\n{EXPORTER}", folder)
    return peers.Peer(WORKER, f"{folder}/{kind}.onnx", str(threads), str(batch), clock, threads=threads)
