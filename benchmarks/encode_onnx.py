"""A graph of the reference's encoder for onnxruntime, with ragged batches."""

from __future__ import annotations

import io
import warnings
from typing import Any

import onnx
import torch
from torch import Tensor, nn


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


def graph(model: Any) -> onnx.ModelProto:
    """The exported encoder of a reference model: inputs `ids` and `mask`, both (B, T) of any size."""
    made, axes = io.BytesIO(), {0: "batch", 1: "length"}
    ids = torch.ones(2, 7, dtype=torch.long)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            _Encoder(model).eval(),
            (ids, ids),
            made,
            input_names=["ids", "mask"],
            output_names=["hidden"],
            dynamic_axes={"ids": axes, "mask": axes, "hidden": axes},
            opset_version=17,
            dynamo=False,
        )
    return onnx.load_from_string(made.getvalue())
