"""Bricks of ResNet (1512.03385): convolutions with residual branches, and what their files call them."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from regard.config import Activation, Config
from regard.models.base import Raw, Rule
from regard.nn import ACTIVATIONS, Context, builds
from regard.senses.pyramid import BatchNorm, as_rows
from regard.senses.vision import on_grid

SIZES: dict[str, tuple[tuple[int, ...], bool]] = {
    "resnet18": ((2, 2, 2, 2), False),
    "resnet34": ((3, 4, 6, 3), False),
    "resnet50": ((3, 4, 6, 3), True),
    "resnet101": ((3, 4, 23, 3), True),
    "resnet152": ((3, 8, 36, 3), True),
}
"""The published sizes by timm's names: depths, and whether branches have bottlenecks."""


@dataclass(frozen=True, kw_only=True)
class ResidualsConfig(Config):
    """Pixels -> a convolution and a pooling -> stages of residual branches, each stage half as large as the last.

    A branch is two convolutions of 3 x 3, or with `bottleneck` 1 x 1, 3 x 3, 1 x 1 at a quarter of the width. `halved`:
    the first stage halves too; `early`: the first convolution of a bottleneck halves, not the second; `dilated`: the
    last stage reaches twice as far in place of halving. `frozen` norms keep what they were loaded with.
    """

    widths: tuple[int, ...]
    depths: tuple[int, ...]
    stem: int = 64
    channels: int = 3
    bottleneck: bool = True
    activation: Activation = "relu"
    halved: bool = False
    early: bool = False
    dilated: bool = False
    frozen: bool = False

    def check(self) -> None:
        self.require(1 <= len(self.widths) <= 16 and all(4 <= n <= 2**16 for n in self.widths), "widths", "4 to 65536")
        ok = len(self.depths) == len(self.widths) and all(1 <= n <= 1024 for n in self.depths)
        self.require(ok, "depths", f"{len(self.widths)} numbers from 1 to 1024")
        self.require(1 <= self.stem <= 2**16, "stem", "1 to 65536")
        self.require(1 <= self.channels <= 4096, "channels", "1 to 4096")


class FrozenNorm(BatchNorm):
    """A batch norm that neither learns nor records."""

    def __init__(self, dim: int):
        super().__init__(dim)
        self.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        return F.batch_norm(x, self.mean, self.variance, self.weight, self.bias, False, 0.0, self.eps)


class ConvNorm(nn.Module):
    """(B, C, height, width) -> (B, out, ...): a convolution without bias, and a norm."""

    def __init__(self, dim: int, out: int, kernel: int, frozen: bool, stride: int = 1, dilation: int = 1):
        super().__init__()
        around = kernel // 2 * dilation
        self.conv = nn.Conv2d(dim, out, kernel, stride, around, dilation, bias=False)
        self.norm: nn.Module = FrozenNorm(out) if frozen else BatchNorm(out)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x))


class Residual(nn.Module):
    """act(x + branch(x)); where the shape changes, x goes through a convolution too."""

    def __init__(self, config: ResidualsConfig, dim: int, out: int, stride: int, dilation: int):
        super().__init__()
        self.activation, frozen = ACTIVATIONS[config.activation], config.frozen
        if config.bottleneck:
            inner, first, second = out // 4, stride if config.early else 1, 1 if config.early else stride
            convs = [
                ConvNorm(dim, inner, 1, frozen, first),
                ConvNorm(inner, inner, 3, frozen, second, dilation),
                ConvNorm(inner, out, 1, frozen),
            ]
        else:
            convs = [ConvNorm(dim, out, 3, frozen, stride, dilation), ConvNorm(out, out, 3, frozen, 1, dilation)]
        self.convs = nn.ModuleList(convs)
        self.shortcut = ConvNorm(dim, out, 1, frozen, stride) if stride > 1 or dim != out else None

    def forward(self, x: Tensor) -> Tensor:
        y = x
        for i, conv in enumerate(self.convs):
            y = conv(y if i == 0 else self.activation(y))
        return self.activation(y + (x if self.shortcut is None else self.shortcut(x)))


@builds(ResidualsConfig)
class Residuals(nn.Module):
    """Pixels -> the last stage's map, row by row (B, T, C); the maps of all stages are in the context."""

    def __init__(self, config: ResidualsConfig):
        super().__init__()
        self.config = config
        self.stem = ConvNorm(config.channels, config.stem, 7, config.frozen, 2)
        self.stages = nn.ModuleList()
        dims = (config.stem, *config.widths)
        for i, (depth, out) in enumerate(zip(config.depths, config.widths, strict=True)):
            dilated = config.dilated and i == len(config.depths) - 1
            stride = 1 if dilated or (i == 0 and not config.halved) else 2
            first = Residual(config, dims[i], out, stride, 1)
            others = (Residual(config, out, out, 1, 2 if dilated else 1) for _ in range(depth - 1))
            self.stages.append(nn.ModuleList([first, *others]))

    def forward(self, pixel_values: Tensor, pixel_mask: Tensor | None = None) -> tuple[Tensor, Context]:
        """pixel_values (B, channels, height, width). Padding is seen as image, whatever `pixel_mask` says.

        Raises ValueError for other shapes and types.
        """
        maps = self.maps(pixel_values)
        rows = as_rows(maps[-1])
        ctx = on_grid(rows, tuple(maps[-1].shape[2:]))
        ctx.maps = maps
        return rows, ctx

    def maps(self, pixels: Tensor) -> list[Tensor]:
        """What each stage makes of pixels: (B, C, height, width), the finest first."""
        channels = self.config.channels
        if pixels.ndim != 4 or 0 in pixels.shape or pixels.shape[1] != channels or not pixels.is_floating_point():
            shape = f"(batch, {channels}, height, width)"
            raise ValueError(f"pixel_values is {tuple(pixels.shape)} of {pixels.dtype}; allowed: {shape} of float")
        activation = ACTIVATIONS[self.config.activation]
        x = activation(self.stem(pixels.to(self.stem.conv.weight.dtype)))
        x, maps = F.max_pool2d(x, 3, 2, 1), []
        for stage in self.stages:
            for residual in stage:  # type: ignore[attr-defined]
                x = residual(x)
            maps.append(x)
        return maps


def described(raw: Raw) -> Raw:
    """The part of config.json that says which convolutions: its own, or, from before there was one, timm's name."""
    if raw.has("backbone_config") or not raw.flag("use_timm_backbone", True):
        return raw.sub("backbone_config")
    old = {"model_type": "timm_backbone", "backbone": raw.text("backbone", "resnet50")}
    old |= {"num_channels": raw.integer("num_channels", 3), "output_stride": 16 if raw.flag("dilation", False) else 32}
    return Raw(old, raw.where)


def by_timm(raw: Raw) -> bool:
    """Whether keys are named as timm does."""
    return raw.one_of("model_type", ("resnet", "timm_backbone"), "resnet") == "timm_backbone"


def _numbers(raw: Raw, name: str, default: list[int], *, low: int) -> tuple[int, ...]:
    found = raw.items(name, default)
    if not 1 <= len(found) <= 16 or not all(type(n) is int and low <= n <= 2**16 for n in found):
        raise ValueError(f"{raw.where}: {name} is {found!r:.80}; allowed: 1 to 16 integers from {low} to {2**16}")
    return tuple(found)


def residuals(raw: Raw, *, frozen: bool) -> ResidualsConfig:
    """The convolutions that `described` found."""
    channels = raw.integer("num_channels", 3, high=4096)
    if by_timm(raw):
        depths, bottleneck = SIZES[raw.one_of("backbone", tuple(SIZES), "resnet50")]
        widths = tuple(n * (4 if bottleneck else 1) for n in (64, 128, 256, 512))
        dilated = raw.one_of("output_stride", (16, 32), 32) == 16
        if dilated and not bottleneck:
            raise ValueError(f"{raw.where}: dilation is true; allowed: false with {raw.data['backbone']}")
        return ResidualsConfig(
            widths=widths, depths=depths, channels=channels, bottleneck=bottleneck, dilated=dilated, frozen=frozen
        )
    widths = _numbers(raw, "hidden_sizes", [256, 512, 1024, 2048], low=4)
    depths = _numbers(raw, "depths", [3, 4, 6, 3], low=1)
    last = f"stage{len(depths)}"
    if last not in raw.items("out_features", [last]):
        raise ValueError(f"{raw.where}: out_features is {raw.data['out_features']!r:.80}; allowed: with {last} in it")
    return ResidualsConfig(
        widths=widths,
        depths=depths,
        stem=raw.integer("embedding_size", 64, high=2**16),
        channels=channels,
        bottleneck=raw.one_of("layer_type", ("basic", "bottleneck"), "bottleneck") == "bottleneck",
        activation=raw.activation("hidden_act", "relu"),
        halved=raw.flag("downsample_in_first_stage", False),
        early=raw.flag("downsample_in_bottleneck", False),
        frozen=frozen,
    )


def _conv_norm(conv: str, norm: str, ours: str) -> list[Rule]:
    return [
        Rule(f"{conv}.weight", f"{ours}.conv.weight"),
        Rule(f"{norm}.@", f"{ours}.norm.@"),
        Rule(f"{norm}.running_mean", f"{ours}.norm.mean"),
        Rule(f"{norm}.running_var", f"{ours}.norm.variance"),
        Rule(f"{norm}.num_batches_tracked"),
    ]


def residual_rules(raw: Raw, ours: str) -> list[Rule]:
    """Keys of the convolutions that `described` found."""
    block = f"{ours}stages.*.*."
    if not by_timm(raw):
        names = {"embedder.embedder": f"{ours}stem", "encoder.stages.*.layers.*.layer.*": f"{block}convs.*"}
        names["encoder.stages.*.layers.*.shortcut"] = f"{block}shortcut"
        pairs = ((f"{theirs}.convolution", f"{theirs}.normalization", mine) for theirs, mine in names.items())
        return [rule for pair in pairs for rule in _conv_norm(*pair)]
    rules = _conv_norm("conv1", "bn1", f"{ours}stem")
    for stage in range(4):
        theirs, mine = f"layer{stage + 1}.*.", f"{ours}stages.{stage}.*."
        rules += _conv_norm(f"{theirs}downsample.0", f"{theirs}downsample.1", f"{mine}shortcut")
        for conv in range(3):
            rules += _conv_norm(f"{theirs}conv{conv + 1}", f"{theirs}bn{conv + 1}", f"{mine}convs.{conv}")
    return rules
