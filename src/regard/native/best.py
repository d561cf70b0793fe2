"""The likeliest tokens of a step, found while the products of the language head are still in the processor's cache."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from regard.native import layout
from regard.native.run import MANY, ROWS, OfLinear, few
from regard.native.threads import threads
from regard.native.weights import Store
from regard.nn import LanguageHead

COUNT = 256  # so many that the kernel finds


class NativeBest(OfLinear):
    """Stands in for `LanguageHead.best`: nothing of the size of the vocabulary is written."""

    def __init__(self, head: LanguageHead, store: Store):
        super().__init__(head.out, store)
        self.head, self.find = head, layout.kernels().rg_best
        self.by_torch: Callable[..., tuple[Tensor, Tensor]] = type(head).best.__get__(head)

    def __call__(
        self, hidden: Tensor, count: int, rule: Tensor | None = None, *, weighed: bool = True
    ) -> tuple[Tensor, Tensor]:
        """As there."""
        c, rows = self.head.config, hidden.shape[0]
        most = MANY if self.structure.kind == layout.KINDS["int8"] else ROWS
        fits = hidden.ndim == 2 and few(hidden, most) and count <= COUNT and c.softcap is None
        if not fits or not self.watch.alone() or not self.watch.unchanged():
            return self.by_torch(hidden, count, rule, weighed=weighed)
        x = hidden if self.head.transform is None else self.head.transform(hidden)
        x = (x * c.scale if c.scale != 1.0 else x).float().contiguous()
        values, ids = x.new_empty(rows, count), x.new_empty(rows, count, dtype=torch.long)
        peak, mass = x.new_empty(2, rows, 1)
        best = layout.Best(count, values.data_ptr(), ids.data_ptr())
        if weighed:
            best.peak, best.mass = peak.data_ptr(), mass.data_ptr()
        rule = None if rule is None else rule.float().contiguous()
        place = None if rule is None else rule.data_ptr()
        self.find(self.address, rows, threads(rows), x.data_ptr(), place, layout.address(best))
        return (values - peak).sub_(mass.log_()) if weighed else values, ids

    def __reduce__(self) -> Any:
        """A copy of the model is torch's, here or in another process."""
        return getattr, (self.head, "best")
