"""The bricks of every model here. No family is named in this folder.

Letters in shapes: B batch, T tokens (Tq queries, Tk keys), S memory tokens, N packed tokens, C channels (the model's
width), H heads, Hkv key/value heads, D channels of a head, V vocabulary, E experts. `...` is any layout of tokens:
(B, T) padded or (N,) packed end to end. Comments like `# (B, H, T, D)` give the shape of the line's result.
"""

from regard.config import AllOf, AnyOf, Causal, Mask, Prefix, Segments, Window
from regard.nn import bias, feed_forward, frontend, head, stack  # noqa: F401  registers the builders
from regard.nn.attention import Attend, Attention
from regard.nn.bias import Alibi, RelativeBias
from regard.nn.build import build, builds
from regard.nn.cache import KVCache
from regard.nn.context import Context, Group, Tokens
from regard.nn.feed_forward import FeedForward, MoE
from regard.nn.frontend import Embedding
from regard.nn.head import ClassifierHead, FeaturesHead, LanguageHead, SpanHead, TokenHead
from regard.nn.init import initialise
from regard.nn.kernels import KERNELS, Unsupported, attend, attention_weights, kernel
from regard.nn.layer import Layer, Sublayer
from regard.nn.linear import Linear
from regard.nn.norm import ACTIVATIONS, LayerScale, RMSNorm, TanhGate
from regard.nn.position import rotary, rotate, sinusoids
from regard.nn.stack import Stack

__all__ = [
    "ACTIVATIONS",
    "KERNELS",
    "Alibi",
    "AllOf",
    "AnyOf",
    "Attend",
    "Attention",
    "Causal",
    "ClassifierHead",
    "Context",
    "Embedding",
    "FeaturesHead",
    "FeedForward",
    "Group",
    "KVCache",
    "LanguageHead",
    "Layer",
    "LayerScale",
    "Linear",
    "Mask",
    "MoE",
    "Prefix",
    "RMSNorm",
    "RelativeBias",
    "Segments",
    "SpanHead",
    "Stack",
    "Sublayer",
    "TanhGate",
    "TokenHead",
    "Tokens",
    "Unsupported",
    "Window",
    "attend",
    "attention_weights",
    "build",
    "builds",
    "initialise",
    "kernel",
    "rotary",
    "rotate",
    "sinusoids",
]
