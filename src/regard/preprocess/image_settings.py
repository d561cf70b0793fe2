"""The settings of an image processor: what its folder or a caller says, checked."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from .image_kinds import ImageKind
from .image_ops import Size

MAX_EDGE = 2**16
RESAMPLE = ("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming")  # by Pillow's number

_SIZES = (
    {"height", "width"},
    {"shortest_edge"},
    {"shortest_edge", "longest_edge"},
    {"max_height", "max_width"},
)
_OLD = {"pad_and_return_pixel_mask": "do_pad", "reduce_labels": "do_reduce_labels", "size_divisibility": "size_divisor"}
"""Names of settings in older files."""


@dataclass(frozen=True, kw_only=True)
class ImageSettings:
    """What is done to an image; the names are those of preprocessor_config.json."""

    do_resize: bool = False
    size: Size | None = None
    resample: int = 2
    do_center_crop: bool = False
    crop_size: Size | None = None
    do_rescale: bool = False
    rescale_factor: float = 1 / 255
    do_normalize: bool = False
    image_mean: tuple[float, ...] | float | None = None
    image_std: tuple[float, ...] | float | None = None
    do_convert_rgb: bool = False
    do_pad: bool = False
    pad_size: Size | None = None
    size_divisor: int = 0
    do_reduce_labels: bool = False
    ignore_index: int | None = None

    @property
    def channels(self) -> int | None:
        """Channels of the images that come out; None where any number does."""
        return len(self.image_mean) if isinstance(self.image_mean, tuple) else 3 if self.do_convert_rgb else None


SETTINGS = tuple(field.name for field in fields(ImageSettings))


def parse(kind: ImageKind, raw: Mapping[str, Any], where: str) -> ImageSettings:
    """Settings from a kind's defaults and a file's or caller's values; unknown names are left out.

    ValueError, naming `where`, the field and its value, for one that is not allowed.
    """
    given = {_OLD.get(name, name): value for name, value in raw.items() if value is not None}
    merged = {**kind.defaults, **given}
    if kind.size_divisor:
        merged.setdefault("size_divisor", kind.size_divisor)
    square = merged.get("default_to_square", kind.square)
    values: dict[str, Any] = {}
    for name in SETTINGS:
        if merged.get(name) is None:
            continue
        try:
            values[name] = _READERS[name](merged[name])
        except ValueError as error:
            raise ValueError(f"{where}: {name} is {_short(merged[name])}; allowed: {error}") from None
    for name, is_square in (("size", square), ("crop_size", True), ("pad_size", True)):
        if name in values:
            longest = merged.get("max_size", 1333 if "longest_edge" in kind.defaults.get("size", ()) else None)
            values[name] = _size(values[name], is_square, longest, f"{where}: {name}")
    if kind.pad == "always" and given.get("max_size") and "size" not in given:
        values["size"] = _size({**kind.defaults["size"], "longest_edge": given["max_size"]}, False, None, where)
    settings = ImageSettings(**values)
    _complete(settings, where)
    return settings


def _complete(settings: ImageSettings, where: str) -> None:
    """What a step needs has been said."""
    if settings.do_resize and settings.size is None:
        raise ValueError(f"{where}: do_resize is true but size is missing")
    if settings.do_center_crop and (settings.crop_size is None or settings.crop_size.height is None):
        raise ValueError(f"{where}: do_center_crop is true but crop_size with height and width is missing")
    if settings.pad_size is not None and settings.pad_size.height is None:
        raise ValueError(f"{where}: pad_size is {settings.pad_size.as_dict()}; allowed: height and width")
    if settings.do_normalize:
        if settings.image_mean is None or settings.image_std is None:
            raise ValueError(f"{where}: do_normalize is true but image_mean or image_std is missing")
        lengths = [len(v) for v in (settings.image_mean, settings.image_std) if isinstance(v, tuple)]
        if len(set(lengths)) > 1:
            raise ValueError(f"{where}: image_mean has {lengths[0]} numbers and image_std {lengths[1]}")
        std = settings.image_std
        if 0 in (std if isinstance(std, tuple) else (std,)):
            raise ValueError(f"{where}: image_std is {std}; allowed: numbers other than zero")


def _size(value: Any, square: bool, longest: int | None, where: str) -> Size:
    """A size from a number, a pair (height, width) or a mapping."""
    if isinstance(value, Size):
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        said = {"height": value, "width": value} if square else {"shortest_edge": value}
        if not square and longest:
            said["longest_edge"] = longest
    elif isinstance(value, (list, tuple)) and len(value) == 2:
        said = {"height": value[0], "width": value[1]}
    elif isinstance(value, Mapping):
        said = {str(name): edge for name, edge in value.items() if edge is not None}
    else:
        said = {}
    if set(said) not in _SIZES or not all(_is_edge(edge) for edge in said.values()):
        names = " or ".join("+".join(sorted(names)) for names in _SIZES)
        raise ValueError(f"{where} is {_short(value)}; allowed: {names}, each a whole number 1 to {MAX_EDGE}")
    return Size(**said)


def _is_edge(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= MAX_EDGE


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError("true, false")
    return value


def _whole(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MAX_EDGE:
        raise ValueError(f"a whole number 0 to {MAX_EDGE}")
    return value


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ValueError("a number")
    return float(value)


def _numbers(value: Any) -> tuple[float, ...] | float:
    if isinstance(value, (list, tuple)):
        if len(value) not in (1, 3, 4):
            raise ValueError("one number a channel, for 1, 3 or 4 channels")
        return tuple(_number(item) for item in value)
    return _number(value)


def _filter(value: Any) -> int:
    """A filter by Pillow's number or by name."""
    if isinstance(value, str) and value.lower() in RESAMPLE:
        return RESAMPLE.index(value.lower())
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < len(RESAMPLE):
        return int(value)
    raise ValueError(", ".join(f"{number} ({name})" for number, name in enumerate(RESAMPLE)))


def _any(value: Any) -> Any:
    return value


_READERS = {
    **{name: _flag for name in SETTINGS if name.startswith("do_")},
    **{name: _any for name in ("size", "crop_size", "pad_size")},
    **{name: _numbers for name in ("image_mean", "image_std")},
    "resample": _filter,
    "rescale_factor": _number,
    "size_divisor": _whole,
    "ignore_index": _whole,
}


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
