"""Positions: sinusoids, and rotary angles with their length scalings."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from regard.config import (
    DynamicScaling,
    LinearScaling,
    Llama3Scaling,
    LongScaling,
    RopeConfig,
    SinusoidalPositions,
    YarnScaling,
)


def sinusoids(positions: Tensor, dim: int, config: SinusoidalPositions) -> Tensor:
    """Angles position / 10000^(2i/dim), as sine and cosine (1706.03762, 3.5). (...) -> (..., dim) float32."""
    rate = 10000.0 ** (-torch.arange(0, dim, 2, device=positions.device, dtype=torch.float64) / dim)
    angle = positions[..., None].double() * rate
    if config.layout == "halves":
        return torch.cat([angle.sin(), angle.cos()[..., : dim // 2]], -1).float()
    return torch.stack([angle.sin(), angle.cos()], -1).flatten(-2)[..., :dim].float()


def _llama3(rate: Tensor, s: Llama3Scaling) -> Tensor:
    wavelength = 2 * math.pi / rate
    ramp = (s.original_length / wavelength - s.low_freq_factor) / (s.high_freq_factor - s.low_freq_factor)
    ramp = ramp.clamp(0, 1)
    return (1 - ramp) * rate / s.factor + ramp * rate


def _yarn(rate: Tensor, config: RopeConfig, s: YarnScaling) -> Tensor:
    def channel(turns: float) -> float:  # the channel that makes so many turns over the trained length
        return config.dim * math.log(s.original_length / (turns * 2 * math.pi)) / (2 * math.log(config.theta))

    low, high = channel(s.beta_fast), channel(s.beta_slow)
    if s.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, config.dim - 1)
    ramp = ((torch.arange(len(rate), device=rate.device) - low) / max(high - low, 0.001)).clamp(0, 1)
    return rate / s.factor * ramp + rate * (1 - ramp)


def rotary(positions: Tensor, config: RopeConfig, lengths: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Cosine and sine of each position's angles: (...) -> two of (..., 1, dim) float32, ready for (..., H, dim).

    `lengths`, broadcastable to positions, is how long each token's sequence is: asked for where `config.by_length`.
    """
    half = torch.arange(0, config.dim, 2, device=positions.device, dtype=torch.float32) / config.dim
    scaling, factor = config.scaling, 1.0
    rate = 1.0 / config.theta**half
    if isinstance(scaling, LinearScaling):
        rate = rate / scaling.factor
    elif isinstance(scaling, Llama3Scaling):
        rate = _llama3(rate, scaling)
    elif isinstance(scaling, YarnScaling):
        rate, factor = _yarn(rate, config, scaling), scaling.attention_factor
    elif isinstance(scaling, DynamicScaling):
        assert lengths is not None
        length = lengths.clamp(min=scaling.original_length)[..., None, None]
        grown = scaling.factor * length / scaling.original_length - (scaling.factor - 1)
        rate = 1.0 / (config.theta * grown ** (config.dim / (config.dim - 2))) ** half
    elif isinstance(scaling, LongScaling):
        assert lengths is not None
        beyond = (lengths > scaling.original_length)[..., None, None]
        short, long = rate.new_tensor(scaling.short), rate.new_tensor(scaling.long)
        rate, factor = rate / torch.where(beyond, long, short), scaling.attention_factor
    angle = positions[..., None, None].float() * rate
    angle = angle.repeat_interleave(2, -1) if config.interleaved else torch.cat([angle, angle], -1)
    return angle.cos() * factor, angle.sin() * factor


def rotate(x: Tensor, cos: Tensor, sin: Tensor, interleaved: bool = False) -> Tensor:
    """Turn the first channels of every head by its position's angle. (..., H, D) -> (..., H, D)."""
    dim = cos.shape[-1]
    turned, rest = x[..., :dim], x[..., dim:]
    if interleaved:
        a, b = turned[..., 0::2], turned[..., 1::2]
        quarter = torch.stack([-b, a], -1).flatten(-2)
    else:
        a, b = turned.chunk(2, -1)
        quarter = torch.cat([-b, a], -1)
    turned = turned * cos.to(x.dtype) + quarter * sin.to(x.dtype)
    return torch.cat([turned, rest], -1) if rest.shape[-1] else turned
