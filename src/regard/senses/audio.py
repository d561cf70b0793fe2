"""Front-ends for sound: log-mel frames and waveforms -> vectors and their context."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from regard.config import MelConfig, RunsConfig, WaveformConfig
from regard.nn.attention import dropped
from regard.nn.build import build, builds
from regard.nn.context import Context, packed, padded, runs
from regard.nn.norm import ACTIVATIONS


def sound(x: Tensor, name: str, shape: Sequence[str], module: nn.Module) -> Tensor:
    """`x` in the type of the module's weights. Raises ValueError for another number of axes, or none but zeros."""
    if x.ndim != len(shape) or 0 in x.shape or not x.is_floating_point():
        raise ValueError(f"{name} is {tuple(x.shape)} of {x.dtype}; allowed: ({', '.join(shape)}) of floating point")
    return x.to(next(module.parameters()).dtype)


def every(x: Tensor) -> Context:
    """The context of vectors (B, T, C) that are all real."""
    return padded(torch.arange(x.shape[1], device=x.device).expand(x.shape[:2]), aligned=True)


def hidden_runs(config: RunsConfig, lengths: Sequence[int]) -> Tensor:
    """Which of so many neighbours to hide in each row, (B, longest), drawn from torch's generator for CPUs.

    How many runs a row has is rounded up or down by one draw for all rows; a row shorter than a run has none.
    """
    hidden, chance = torch.zeros(len(lengths), max(lengths), dtype=torch.bool), float(torch.rand(()))
    for row, length in zip(hidden, lengths, strict=True):
        starts = length - config.span + 1
        wanted = max(int(config.part * length / config.span + chance), config.least)
        for start in torch.randperm(max(starts, 0))[: min(wanted, max(lengths) // config.span)].tolist():
            row[start : start + config.span] = True
    return hidden


def together(lengths: Sequence[int]) -> list[int]:
    """How many neighbouring rows to pad and read together, again and again: as long as that adds at most an eighth."""
    sizes, real, longest = [0], 0, 0
    for length in lengths:
        real, longest = real + length, max(longest, length)
        if 8 * longest * (sizes[-1] + 1) > 9 * real:
            sizes, real, longest = [*sizes, 0], length, length
        sizes[-1] += 1
    return sizes


@builds(MelConfig)
class Mel(nn.Module):
    """Log-mel frames -> one vector for every two of them."""

    def __init__(self, config: MelConfig):
        super().__init__()
        self.config = config
        self.convs = nn.ModuleList(
            [
                nn.Conv1d(config.num_mels, config.dim, 3, padding=1),
                nn.Conv1d(config.dim, config.dim, 3, stride=2, padding=1),
            ]
        )
        half = config.dim // 2
        rate = 10000.0 ** (-torch.arange(half) / (half - 1))
        angle = torch.arange(config.size)[:, None] * rate
        self.positions = nn.Parameter(torch.cat([angle.sin(), angle.cos()], 1), requires_grad=False)

    def forward(self, input_features: Tensor, attention_mask: Tensor | None = None) -> tuple[Tensor, Context]:
        """input_features (B, num_mels, frames), as long as its processor makes them -> (B, frames / 2, C).

        Silence pads a recording and is heard like any sound, so that `attention_mask` says nothing here.
        Raises ValueError for other shapes, and for more frames than there are positions.
        """
        x = sound(input_features, "input_features", ("batch", "mels", "frames"), self)
        mels, most = self.config.num_mels, 2 * self.config.size
        if x.shape[1] != mels or x.shape[2] > most:
            raise ValueError(f"input_features is {tuple(x.shape)}; allowed: (batch, {mels}, at most {most} frames)")
        if self.training:
            x = self._silenced(x)
        for conv in self.convs:
            x = F.gelu(conv(x))
        x = x.mT + self.positions[: x.shape[2]]
        return dropped(x, self.config.dropout, self.training), every(x)

    def _silenced(self, x: Tensor) -> Tensor:
        """Frames (B, num_mels, frames) with runs of moments and of channels at 0."""
        rows, channels, moments = x.shape
        if self.config.hidden_moments is not None:
            x = x.masked_fill(hidden_runs(self.config.hidden_moments, [moments] * rows)[:, None].to(x.device), 0)
        if self.config.hidden_channels is not None:
            x = x.masked_fill(hidden_runs(self.config.hidden_channels, [channels] * rows)[..., None].to(x.device), 0)
        return x


class WeightNormConv(nn.Conv1d):
    """A convolution along time whose kernel is scale * weight / |weight|, each tap by itself (1602.07868)."""

    def __init__(self, dim: int, kernel: int, groups: int):
        super().__init__(dim, dim, kernel, padding=kernel // 2, groups=groups)
        self.scale = nn.Parameter(torch.ones(1, 1, kernel))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, T) -> (B, C, T)"""
        norm = torch.linalg.vector_norm(self.weight, dim=(0, 1), keepdim=True)
        y = self._conv_forward(x, self.weight * (self.scale / norm), self.bias)
        return y[..., : x.shape[-1]]  # an even kernel gives one too many


@builds(WaveformConfig)
class Waveform(nn.Module):
    """Samples -> one vector for every so many of them (320 at the usual strides: 20 ms)."""

    def __init__(self, config: WaveformConfig):
        super().__init__()
        c = self.config = config
        widths = [width for width, _, _ in c.convs]
        self.convs = nn.ModuleList(
            nn.Conv1d(before, width, kernel, stride, bias=c.conv_bias)
            for before, (width, kernel, stride) in zip([1, *widths], c.convs, strict=False)
        )
        group = c.conv_norm == "group"
        self.norms = nn.ModuleList([nn.GroupNorm(widths[0], widths[0])] if group else map(nn.LayerNorm, widths))
        self.feature_norm = build(c.feature_norm, widths[-1]) if c.feature_norm is not None else None
        self.proj = nn.Linear(widths[-1], c.dim)
        self.masked = nn.Parameter(torch.rand(c.dim)) if c.masking else None
        self.position = WeightNormConv(c.dim, c.position_kernel, c.position_groups)
        self.norm = build(c.norm, c.dim) if c.norm is not None else None

    def frames(self, samples: int) -> int:
        """How many vectors so many samples give; 0 if they are too few."""
        for _, kernel, stride in self.config.convs:
            samples = max(0, (samples - kernel) // stride + 1)
        return samples

    def forward(
        self,
        input_values: Tensor,
        attention_mask: Tensor | None = None,
        *,
        mask_time_indices: Tensor | None = None,
        lengths: Sequence[int] | None = None,
    ) -> tuple[Tensor, Context]:
        """input_values (B, samples), padded on the right, with attention_mask (B, samples); or end to end (N,) with
        `lengths` in samples. Returns vectors (B, T, C) or packed, and their context.

        Each row is read by itself, so padding changes no result. Without a mask it is part of the sound, and changes
        results where norms run over time (`conv_norm` "group"). Frames marked in `mask_time_indices` (B, T) are hidden,
        while training in place of those that the config's `hidden_moments` would draw.
        """
        shape = ("samples",) if lengths is not None else ("batch", "samples")
        x = sound(input_values, "input_values", shape, self)
        plain = lengths is None and attention_mask is None
        counts = [x.shape[1]] * len(x) if plain else self._samples(x, attention_mask, lengths)
        self._enough(min(counts, default=0))
        hidden = self._hidden(counts, mask_time_indices)
        if plain:
            out = self._vectors(x, [], *hidden)
            return out, every(out)
        rows = list(x.split(counts)) if lengths is not None else [row[:n] for row, n in zip(x, counts, strict=True)]
        parts: list[Tensor] = []
        for n in [n for n, _ in runs(counts)] if self.config.conv_norm == "group" else together(counts):
            here = slice(len(parts), len(parts) + n)
            frames = [self.frames(samples) for samples in counts[here]]
            group = pad_sequence(rows[here], batch_first=True)
            found = self._vectors(group, frames, *(None if h is None else h[here] for h in hidden))
            parts.extend(row[:t] for row, t in zip(found, frames, strict=True))
        if lengths is not None:
            return torch.cat(parts), packed([len(part) for part in parts], x.device)
        width = self.frames(x.shape[1])
        out = torch.stack([F.pad(part, (0, 0, 0, width - len(part))) for part in parts])
        if min(counts) == x.shape[1]:
            return out, every(out)
        real = torch.tensor([len(part) for part in parts], device=x.device)
        positions = torch.arange(width, device=x.device).expand(len(parts), width)
        return out, padded(positions, positions < real[:, None])

    def _samples(self, x: Tensor, mask: Tensor | None, lengths: Sequence[int] | None) -> list[int]:
        """Real samples of each row. Raises ValueError for a mask or lengths that do not fit, and for too few."""
        if lengths is not None:
            counts = [int(n) for n in lengths]
            if mask is not None or sum(counts) != len(x):
                raise ValueError(
                    f"input_values is packed, {len(x)} samples; lengths sum to {sum(counts)}, without a mask"
                )
        else:
            assert mask is not None
            if mask.shape != x.shape or bool((mask[:, 1:] > mask[:, :-1]).any()):
                raise ValueError(
                    f"attention_mask is {tuple(mask.shape)}; allowed: {tuple(x.shape)}, zeros on the right only"
                )
            counts = [int(n) for n in mask.sum(1)]
        return counts

    def _enough(self, samples: int) -> None:
        """Raise a ValueError that says how many samples it takes, for fewer."""
        if self.frames(samples):
            return
        least = 1
        for _, kernel, stride in reversed(self.config.convs):
            least = (least - 1) * stride + kernel
        raise ValueError(f"input_values has a row of {samples} samples; allowed: at least {least}")

    def _hidden(self, samples: list[int], moments: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
        """Moments (B, T) and channels (B, C) to hide: the moments that are given, and while training what is drawn."""
        c, channels = self.config, None
        if self.training and moments is None and c.hidden_moments is not None:
            moments = hidden_runs(c.hidden_moments, [self.frames(n) for n in samples])
        if self.training and c.hidden_channels is not None:
            channels = hidden_runs(c.hidden_channels, [c.dim] * len(samples))
        return moments, channels

    def _vectors(self, x: Tensor, frames: Sequence[int], moments: Tensor | None, channels: Tensor | None) -> Tensor:
        """(B, samples) with hidden moments (B, at least T) and channels (B, C) -> (B, T, C), of which `frames` of each
        row are real, or all where none are said."""
        c = self.config
        x = x[:, None]
        for i, conv in enumerate(self.convs):
            x = conv(x)
            if c.conv_norm == "layer":
                x = self.norms[i](x.mT).mT
            elif i == 0:
                x = self.norms[0](x)
            x = ACTIVATIONS[c.activation](x)
        x = self.proj(x.mT if self.feature_norm is None else self.feature_norm(x.mT))
        x = dropped(x, c.feature_dropout, self.training)
        if moments is not None:
            if self.masked is None:
                raise ValueError("mask_time_indices is given; allowed: None, as this model cannot hide frames")
            x = torch.where(moments[:, : x.shape[1], None].bool().to(x.device), self.masked, x)
        if channels is not None:
            x = x.masked_fill(channels[:, None].to(x.device), 0)
        if min(frames, default=x.shape[1]) < x.shape[1]:  # beyond its end, a row's positions see nothing
            beyond = torch.arange(x.shape[1]) >= torch.tensor(frames)[:, None]
            x = x.masked_fill(beyond[..., None].to(x.device), 0)
        x = x + ACTIVATIONS[c.activation](self.position(x.mT)).mT
        return dropped(x if self.norm is None else self.norm(x), c.dropout, self.training)
