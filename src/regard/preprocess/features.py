"""What processors of images and sound give: arrays under the names that models take."""

from __future__ import annotations

from typing import Any

import numpy as np

from .encoding import BatchEncoding

TENSORS = ("pt", "np")


class Features(BatchEncoding):
    """`pixel_values`, `input_features` and the rest, as keys and as attributes; `**features` passes them to a model."""

    def convert_to_tensors(self, tensor_type: str | None = None, prepend_batch_axis: bool = False) -> Features:
        """Stack lists of arrays into one tensor ("pt") or array ("np") a name, in place; None leaves the lists."""
        if tensor_type is None:
            return self
        if tensor_type not in TENSORS:
            raise ValueError(f"return_tensors is {tensor_type!r}; allowed: 'pt', 'np', None")
        for name, value in self.data.items():
            if isinstance(value, list):
                value = _stack(name, value)
            if prepend_batch_axis:
                value = value[None]
            if tensor_type == "pt" and isinstance(value, np.ndarray):
                import torch

                value = torch.from_numpy(np.ascontiguousarray(value))
            self.data[name] = value
        return self

    def to(self, device: Any = None, dtype: Any = None, *, non_blocking: bool = False) -> Features:
        """Move the tensors to a device, in place; a dtype, given second or alone, changes those of floating point."""
        import torch

        if isinstance(device, torch.dtype):
            device, dtype = None, device
        for name, value in self.data.items():
            if isinstance(value, torch.Tensor):
                change = dtype if value.is_floating_point() else None
                self.data[name] = value.to(device=device, dtype=change, non_blocking=non_blocking)
        return self


def _stack(name: str, rows: list[Any]) -> np.ndarray:
    arrays = [np.asarray(_stack(name, row) if isinstance(row, list) else row) for row in rows]
    shapes = sorted({array.shape for array in arrays})
    if len(shapes) > 1:
        raise ValueError(
            f"{name}: items of shapes {shapes[0]} and {shapes[1]} make no tensor; resize, crop or pad them"
        )
    return np.stack(arrays) if arrays else np.zeros((0,), dtype=np.float32)
