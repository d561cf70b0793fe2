"""Features of images without labels: a student learns to agree with its own average over time."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from regard.models.model import Model, SingleTower
from regard.nn.head import Ends
from regard.training import losses
from regard.training.base import Batch, Objective, Row
from regard.training.data.augment import crop, mirrored
from regard.training.objectives.rows import array, with_added


class Projection(nn.Module):
    """Three linears, length 1, and likeness to `prototypes` vectors of length 1 (2104.14294, 3.1). (B, C) -> (B, K)."""

    def __init__(self, dim: int, *, hidden: int, bottleneck: int, prototypes: int):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, hidden), nn.GELU(), nn.Linear(hidden, bottleneck)
        )
        self.prototypes = nn.Parameter(torch.empty(prototypes, bottleneck))
        for layer in self.layers:
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=0.02)
                nn.init.zeros_(layer.bias)
        nn.init.trunc_normal_(self.prototypes, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(F.normalize(self.layers(x), dim=-1), F.normalize(self.prototypes, dim=-1))


class Crops:
    """Views of an image: two large ones and some small ones (2006.09882, 3.3), each mirrored half of the time.

    A crop has a random part of the image's area (`large_area`, `small_area`) and is scaled to a square.
    """

    def __init__(
        self,
        *,
        large: int,
        small: int,
        count: int = 8,
        large_area: tuple[float, float] = (0.4, 1.0),
        small_area: tuple[float, float] = (0.05, 0.4),
    ):
        for name, area in (("large_area", large_area), ("small_area", small_area)):
            if not 0 < area[0] <= area[1] <= 1:
                raise ValueError(f"{name} is {area}; allowed: two rising numbers above 0, up to 1")
        if min(large, small) < 1 or count < 0:
            raise ValueError(f"large is {large}, small {small}, count {count}; allowed: at least 1, 1 and 0")
        self.large, self.small, self.count = large, small, count
        self.large_area, self.small_area = large_area, small_area

    def __call__(self, image: Tensor, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """(C, H, W) -> large (2, C, L, L) and small (count, C, S, S)."""
        large = [self.view(image, self.large, self.large_area, rng) for _ in range(2)]
        small = [self.view(image, self.small, self.small_area, rng) for _ in range(self.count)]
        return torch.stack(large), torch.stack(small) if small else image.new_zeros(0, len(image), 1, 1)

    def view(self, image: Tensor, size: int, area: tuple[float, float], rng: np.random.Generator) -> Tensor:
        """One view (C, size, size)."""
        return mirrored(crop(image, (size, size), area, rng), rng)


class SelfDistillation(Objective):
    """DINO (2104.14294): from any view of an image, what a teacher makes of its other large views.

    The teacher is the average over time of `model`, the student, and of its projection; it moves after every step by
    1 - `momentum`, which goes to 0 along a cosine over `steps` if they are given. A row holds `pixel_values` (C, H, W)
    of one size; `crops` makes its views. `centre` is the momentum of the centre of the teacher's scores.
    """

    name = "self-distillation"
    head = "features"

    def __init__(
        self,
        model: Model,
        *,
        crops: Crops,
        hidden: int = 2048,
        bottleneck: int = 256,
        prototypes: int = 65536,
        momentum: float = 0.996,
        steps: int | None = None,
        centre: float = 0.9,
        pool: Literal["first", "mean"] = "first",
    ):
        super().__init__()
        if not 0 <= momentum <= 1 or not 0 <= centre <= 1:
            raise ValueError(f"momentum is {momentum}, centre {centre}; allowed: 0 to 1")
        self.crops, self.momentum, self.steps, self.pool = crops, momentum, steps, pool
        self.centre_momentum = centre
        self.projection = Projection(
            model.config.widths[0], hidden=hidden, bottleneck=bottleneck, prototypes=prototypes
        ).to(model.device)
        # The processor belongs to both; all else of the teacher is its own.
        self.teacher = copy.deepcopy(model, {id(model.processor): model.processor}).requires_grad_(False)
        self.teacher_projection = copy.deepcopy(self.projection).requires_grad_(False)
        for name, start in (("centre", torch.zeros(prototypes)), ("total", torch.zeros(prototypes))):
            self.register_buffer(name, start.to(model.device))
        self.register_buffer("seen", torch.zeros((), device=model.device))
        self.centre: Tensor
        self.total: Tensor
        self.seen: Tensor

    def collate(self, rows: Sequence[Row], rng: np.random.Generator) -> Batch:
        views = []
        for i in range(len(rows)):
            image = array(rows, i, "pixel_values", axes=3).astype(np.float32)
            views.append(self.crops(torch.from_numpy(image), rng))
        if len({large.shape[1] for large, _ in views}) > 1:
            raise ValueError(f"pixel_values has {sorted({v.shape[1] for v, _ in views})} channels; allowed: one number")
        large, small = (torch.stack(view).transpose(0, 1).flatten(0, 1) for view in zip(*views, strict=True))
        return Batch({"pixel_values": large, "small_values": small}, {}, count=len(rows))

    def forward(self, model: Model, batch: Batch) -> Tensor:
        large, small = batch.inputs["pixel_values"], batch.inputs["small_values"]
        with torch.no_grad():
            self.teacher.eval()
            wanted, _ = self.scores(self.teacher, self.teacher_projection, large)
            if model.training:
                self.total += wanted.sum(0)
                self.seen += len(wanted)
        said, added = self.scores(model, self.projection, large)
        views = list(said.split(batch.count))
        if len(small):
            more, others = self.scores(model, self.projection, small)
            views, added = views + list(more.split(batch.count)), added + others
        loss = losses.self_distillation(views, wanted.split(batch.count), self.centre)
        return with_added(loss, added, batch.count)

    def scores(self, model: Model, projection: nn.Module, pixels: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Images (N, C, H, W) -> (N, prototypes), and losses that layers add."""
        assert isinstance(model, SingleTower)
        hidden, ctx = model.hidden(pixel_values=pixels)
        return projection(Ends(ctx).pool(hidden, self.pool)), ctx.losses

    @torch.no_grad()
    def after_step(self, model: Model, step: int) -> None:
        """Move the teacher towards the student, and the centre towards what the teacher said in this step."""
        keep = self.momentum
        if self.steps is not None:
            keep = 1 - (1 - keep) * (1 + math.cos(math.pi * min(step, self.steps) / self.steps)) / 2
        for old, new in ((self.teacher, model), (self.teacher_projection, self.projection)):
            for mine, other in zip(old.parameters(), new.parameters(), strict=True):
                mine.lerp_(other.detach().to(mine), 1 - keep)
            for kept, now in zip(old.buffers(), new.buffers(), strict=True):
                kept.copy_(now)
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.all_reduce(self.total)
            torch.distributed.all_reduce(self.seen)
        if self.seen > 0:
            self.centre.lerp_(self.total / self.seen, 1 - self.centre_momentum)
        self.total.zero_()
        self.seen.zero_()
