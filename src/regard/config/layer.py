"""Configs of a stack and all its parts: norms, rotary positions, attention, feed-forward, layers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from regard.config.base import MAX_LAYERS, MAX_SIZE, Config
from regard.config.mask import Mask

Activation = Literal["gelu", "gelu_tanh", "quick_gelu", "relu", "relu2", "silu", "tanh", "sigmoid", "mish", "identity"]


@dataclass(frozen=True, kw_only=True)
class NormConfig(Config):
    """LayerNorm (arXiv 1607.06450) or RMSNorm (1910.07467). `offset` is added to the weight: Gemma stores w - 1."""

    kind: Literal["layer", "rms"] = "layer"
    eps: float = 1e-5
    offset: float = 0.0

    def check(self) -> None:
        self.require(0 < self.eps < 1, "eps", "a number between 0 and 1")


@dataclass(frozen=True, kw_only=True)
class LinearScaling(Config):
    """Positions divided by `factor` (position interpolation, 2306.15595)."""

    factor: float


@dataclass(frozen=True, kw_only=True)
class DynamicScaling(Config):
    """NTK-aware: the base grows once a sequence outgrows the trained length."""

    factor: float
    original_length: int


@dataclass(frozen=True, kw_only=True)
class Llama3Scaling(Config):
    """Low frequencies interpolated, high kept, a smooth ramp between (Llama 3.1)."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_length: int


@dataclass(frozen=True, kw_only=True)
class YarnScaling(Config):
    """YaRN (2309.00071): a ramp by wavelength, and attention scaled by `attention_factor`."""

    factor: float
    original_length: int
    attention_factor: float
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    truncate: bool = True


@dataclass(frozen=True, kw_only=True)
class LongScaling(Config):
    """LongRoPE (2402.13753): one divisor per frequency, another set beyond the original length."""

    short: tuple[float, ...]
    long: tuple[float, ...]
    original_length: int
    attention_factor: float


RopeScaling = LinearScaling | DynamicScaling | Llama3Scaling | YarnScaling | LongScaling


@dataclass(frozen=True, kw_only=True)
class RopeConfig(Config):
    """Rotary positions (2104.09864) over the first `dim` channels of a head; halves rotated, or neighbours."""

    dim: int
    theta: float = 10000.0
    interleaved: bool = False
    scaling: RopeScaling | None = None

    def check(self) -> None:
        self.require(self.dim > 0 and self.dim % 2 == 0, "dim", "an even number above 0")
        self.require(self.theta > 0, "theta", "a number above 0")
        if isinstance(self.scaling, DynamicScaling):
            self.require(self.dim > 2, "dim", "at least 4 with DynamicScaling")
        if isinstance(self.scaling, LongScaling):
            ok = len(self.scaling.short) == len(self.scaling.long) == self.dim // 2
            self.require(ok, "scaling", f"short and long of {self.dim // 2} numbers each, one per pair of channels")

    @property
    def by_length(self) -> bool:
        """Whether a token's angles change as its sequence grows."""
        return isinstance(self.scaling, (DynamicScaling, LongScaling))


@dataclass(frozen=True, kw_only=True)
class AttentionConfig(Config):
    """Scaled dot-product attention (1706.03762); fewer key/value heads than heads is GQA (2305.13245).

    `bias` is for q, k, v, out. `scale` is None for head_dim ** -0.5. `mask` overrides the stack's.
    """

    num_heads: int
    head_dim: int
    num_kv_heads: int | None = None
    bias: tuple[bool, bool, bool, bool] = (True, True, True, True)
    scale: float | None = None
    softcap: float | None = None
    qk_norm: NormConfig | None = None
    qk_norm_over: Literal["head", "all"] = "head"
    rope: RopeConfig | None = None
    mask: Mask | None = None
    dropout: float = 0.0

    def check(self) -> None:
        self.require(self.num_heads > 0, "num_heads", "at least 1")
        self.require(self.head_dim > 0, "head_dim", "at least 1")
        self.require(self.num_heads * self.head_dim <= MAX_SIZE, "head_dim", f"num_heads * head_dim <= {MAX_SIZE}")
        ok = self.kv_heads > 0 and self.num_heads % self.kv_heads == 0
        self.require(ok, "num_kv_heads", f"a divisor of num_heads = {self.num_heads}")
        if self.rope is not None:
            self.require(self.rope.dim <= self.head_dim, "rope", f"rope.dim at most head_dim = {self.head_dim}")

    @property
    def kv_heads(self) -> int:
        """Number of key and value heads."""
        return self.num_heads if self.num_kv_heads is None else self.num_kv_heads


@dataclass(frozen=True, kw_only=True)
class FeedForwardConfig(Config):
    """down(act(up(x))), or with `gated` down(act(gate(x)) * up(x)) (2002.05202)."""

    hidden_dim: int
    activation: Activation = "gelu"
    gated: bool = False
    bias: bool = True
    dropout: float = 0.0

    def check(self) -> None:
        self.require(self.hidden_dim > 0, "hidden_dim", "at least 1")


@dataclass(frozen=True, kw_only=True)
class MoEConfig(Config):
    """`top_k` of `num_experts` feed-forwards per token (2101.03961); with `renormalise` their weights sum to 1.

    `balance` times the load-balance loss of all layers together is added to what is learnt.
    """

    num_experts: int
    top_k: int
    expert: FeedForwardConfig
    renormalise: bool = True
    balance: float = 0.01

    def check(self) -> None:
        self.require(0 < self.num_experts <= MAX_LAYERS, "num_experts", f"1 to {MAX_LAYERS}")
        self.require(0 < self.top_k <= self.num_experts, "top_k", f"1 to num_experts = {self.num_experts}")


@dataclass(frozen=True, kw_only=True)
class LayerConfig(Config):
    """A layer: residual branches for attention, cross-attention and feed-forward, those that are not None.

    `order` places the norm: before the branch (pre), after the sum (post), at the branch's end (branch), or both
    before it and at its end (sandwich). `scale` multiplies what a branch adds: by a learned number per channel (layer),
    by the tanh of one learned number (tanh) or of one per channel (tanh_layer). `parallel` feeds all branches from the
    same input. `memory_dim` is how wide the vectors are that cross-attention looks at, if not as wide as the layer's
    own. `drop_path` is how likely a branch is left out of a row in training (1603.09382).
    """

    norm: NormConfig
    attention: AttentionConfig | None = None
    cross: AttentionConfig | None = None
    feed_forward: FeedForwardConfig | MoEConfig | None = None
    order: Literal["pre", "post", "branch", "sandwich"] = "pre"
    scale: Literal["none", "layer", "tanh", "tanh_layer"] = "none"
    scale_init: float = 1.0
    parallel: bool = False
    memory_dim: int | None = None
    dropout: float = 0.0
    drop_path: float = 0.0

    def check(self) -> None:
        self.require(0 <= self.drop_path < 1, "drop_path", "0 to below 1")


@dataclass(frozen=True, kw_only=True)
class RelativeBiasConfig(Config):
    """A learned score per head and bucket of distance, shared by the layers of a stack (T5, 1910.10683)."""

    num_heads: int
    num_buckets: int
    max_distance: int
    bidirectional: bool

    def check(self) -> None:
        self.require(self.num_buckets >= 4, "num_buckets", "at least 4")
        self.require(self.max_distance > self.num_buckets // 2, "max_distance", f"more than {self.num_buckets // 2}")


@dataclass(frozen=True, kw_only=True)
class AlibiConfig(Config):
    """A fixed penalty per head that grows with distance (ALiBi, 2108.12409)."""

    num_heads: int


@dataclass(frozen=True, kw_only=True)
class StackConfig(Config):
    """Layers one after another. `schedule` is the order in which they run, repeats sharing weights (ALBERT).

    `layer_drop` is how likely a layer is left out of a whole batch in training (LayerDrop, 1909.11556).
    """

    dim: int
    layers: tuple[LayerConfig, ...]
    schedule: tuple[int, ...] | None = None
    mask: Mask | None = None
    bias: RelativeBiasConfig | AlibiConfig | None = None
    final_norm: NormConfig | None = None
    dropout: float = 0.0
    layer_drop: float = 0.0

    def check(self) -> None:
        self.require(self.dim > 0, "dim", "at least 1")
        self.require(0 <= self.layer_drop < 1, "layer_drop", "0 to below 1")
        if len(self.layers) > MAX_LAYERS:
            raise ValueError(f"StackConfig.layers has {len(self.layers)} layers; allowed: at most {MAX_LAYERS}")
        ok = self.schedule is None or all(0 <= i < len(self.layers) for i in self.schedule)
        self.require(ok, "schedule", f"numbers from 0 to {len(self.layers) - 1}")

    @property
    def order(self) -> tuple[int, ...]:
        """Which layer runs at each step."""
        return tuple(range(len(self.layers))) if self.schedule is None else self.schedule


@dataclass(frozen=True, kw_only=True)
class MixedStackConfig(StackConfig):
    """A stack whose result is a learned average of all its states (2105.01051)."""
