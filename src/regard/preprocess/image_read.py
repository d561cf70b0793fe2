"""Images of any kind to 8-bit arrays, with limits that hold before pixels are decoded."""

from __future__ import annotations

import contextlib
import functools
import warnings
from collections.abc import Collection
from typing import TYPE_CHECKING, Any

import numpy as np

from regard.extras import need

from .media import TIMEOUT, Source, is_source, opened

if TYPE_CHECKING:
    from PIL import Image

MAX_PIXELS = 178_956_970
"""Most pixels (height x width) that an image may have before or after resizing; half a gigabyte at 8-bit RGB."""

MAX_IMAGE_BYTES = 512 * 2**20
"""Largest image file that is read."""

FORMATS = ("PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF", "PPM", "JPEG2000", "AVIF")
"""File formats that are decoded. Others, such as EPS, would start programs."""


def read(
    source: Any, *, allow_hosts: Collection[str] = (), max_pixels: int = MAX_PIXELS, timeout: float = TIMEOUT
) -> Image.Image:
    """One RGB image, upright, from a path, bytes, an open file, a URL, a PIL image, or an array or tensor.

    Of an animation the first frame is taken; transparency is dropped; 16-bit grey is scaled to 8 bits. Raises
    ValueError, naming the source, for what is no image, is cut short, or is larger than `max_pixels` (height x width).
    """
    image = load(source, allow_hosts=allow_hosts, max_pixels=max_pixels, timeout=timeout)
    if not isinstance(image, np.ndarray):
        return _opaque(image)
    pixels = _eight_bits(image)
    if pixels.shape[2] == 1:
        pixels = np.repeat(pixels, 3, axis=2)
    return need("PIL.Image", "vision").fromarray(np.ascontiguousarray(pixels[..., :3]))


def load(
    source: Any, *, allow_hosts: Collection[str] = (), max_pixels: int = MAX_PIXELS, timeout: float = TIMEOUT
) -> Image.Image | np.ndarray:
    """An upright PIL image, in RGB where it was decoded here; or an array (H, W, C), of pixels or a tensor."""
    if is_source(source) and not _is_pil(source):
        return _opaque(decode(source, allow_hosts=allow_hosts, max_pixels=max_pixels, timeout=timeout))
    if _is_pil(source):
        _check_pixels(source.size, max_pixels, "the image")
        return _upright(_loaded(source, "the image"))
    if hasattr(source, "__array__") or hasattr(source, "detach"):
        return _pixels(source, max_pixels)
    raise ValueError(
        f"a {type(source).__name__} is no image; allowed: a path, URL, bytes, open file, PIL image, array or tensor"
    )


def _is_pil(value: object) -> bool:
    return type(value).__module__.partition(".")[0] == "PIL" or hasattr(value, "getbands")


def decode(
    source: Source, *, allow_hosts: Collection[str] = (), max_pixels: int = MAX_PIXELS, timeout: float = TIMEOUT
) -> Image.Image:
    """The first image of a file, upright, with the channels that it has."""
    pil = need("PIL.Image", "vision")
    with opened(source, limit=MAX_IMAGE_BYTES, allow_hosts=allow_hosts, timeout=timeout) as (file, name):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", pil.DecompressionBombWarning)  # the limit is checked below
                image = pil.open(file, formats=_formats())
        except pil.UnidentifiedImageError:
            raise ValueError(f"{name} is no image of a known kind ({', '.join(FORMATS)}), or is damaged") from None
        except pil.DecompressionBombError:
            raise ValueError(f"{name} says it has more than {max_pixels:,} pixels, the most that are read") from None
        except Exception as error:  # decoders raise nearly anything on hostile bytes
            raise ValueError(f"{name} cannot be read as an image: {error}") from None
        with image:
            _check_pixels(image.size, max_pixels, name)
            return _upright(_loaded(image, name))


@functools.cache
def _formats() -> tuple[str, ...]:
    """Those of FORMATS that this installation of Pillow can decode."""
    pil = need("PIL.Image", "vision")
    pil.init()
    return tuple(name for name in FORMATS if name in pil.OPEN)


def _check_pixels(size: tuple[int, int], max_pixels: int, name: str) -> None:
    width, height = size
    if width < 1 or height < 1:
        raise ValueError(f"{name} is {width} x {height}; an image has at least one pixel")
    if width * height > max_pixels:
        raise ValueError(f"{name} is {width} x {height}, {width * height:,} pixels; at most {max_pixels:,} are read")


def _loaded(image: Image.Image, name: str) -> Image.Image:
    try:
        image.load()
    except Exception as error:
        raise ValueError(f"{name} is damaged or cut short: {error}") from None
    return image


def _upright(image: Image.Image) -> Image.Image:
    """Turned as its EXIF data says, and 16-bit grey brought to 8."""
    turned = image
    with contextlib.suppress(Exception):  # broken EXIF says nothing, as if there were none
        turned = need("PIL.ImageOps", "vision").exif_transpose(image)
    if turned.mode.startswith("I;16"):
        # Converting would clip, and leave nearly everything white.
        grey = np.asarray(turned).astype(np.uint32)
        return need("PIL.Image", "vision").fromarray(((grey * 255 + 32767) // 65535).astype(np.uint8))
    return turned.copy() if turned is image else turned


def has_alpha(image: Image.Image) -> bool:
    """Whether pixels may be see-through."""
    return "A" in image.getbands() or "a" in image.getbands() or image.info.get("transparency") is not None


def _opaque(image: Image.Image) -> Image.Image:
    """RGB, transparency dropped: what lies under it becomes visible."""
    if image.mode == "P" and has_alpha(image):
        image = image.convert("RGBA")
    return image if image.mode == "RGB" else image.convert("RGB")


def on_white(image: Image.Image) -> Image.Image:
    """RGB, where see-through pixels show white."""
    if not has_alpha(image):
        return _opaque(image)
    image = image.convert("RGBA")
    white = need("PIL.Image", "vision").new("RGBA", image.size, (255, 255, 255, 255))
    white.alpha_composite(image)
    return white.convert("RGB")


# arrays and tensors


def _pixels(value: Any, max_pixels: int) -> np.ndarray:
    """(H, W, C) of uint8 or float32, from (H, W), (C, H, W) or (H, W, C) of an array or tensor."""
    if hasattr(value, "detach"):
        value = value.detach().cpu()
        value = value.float().numpy() if value.is_floating_point() else value.numpy()
    array = np.asarray(value)
    if array.ndim == 2:
        array = array[:, :, None]
    elif array.ndim == 3 and array.shape[0] in (1, 3, 4):
        array = np.moveaxis(array, 0, 2)  # channels first wins where both could be meant
    elif array.ndim != 3 or array.shape[2] not in (1, 3, 4):
        raise ValueError(
            f"an image of shape {array.shape}; allowed: (H, W), (C, H, W) or (H, W, C) with 1, 3 or 4 channels"
        )
    _check_pixels((array.shape[1], array.shape[0]), max_pixels, "the image")
    if array.dtype == np.uint8:
        return array
    if array.dtype == np.bool_ or not np.issubdtype(array.dtype, np.number) or np.iscomplexobj(array):
        raise ValueError(f"an image of {array.dtype}; allowed: uint8, other whole numbers 0 to 255, or floating point")
    if np.issubdtype(array.dtype, np.integer):
        if array.min() < 0 or array.max() > 255:
            raise ValueError(f"an image of {array.dtype} with values {array.min()} to {array.max()}; allowed: 0 to 255")
        return array.astype(np.uint8)
    if not np.isfinite(array).all():
        raise ValueError("the image has NaN or infinite values")
    return array.astype(np.float32, copy=False)


def _eight_bits(pixels: np.ndarray) -> np.ndarray:
    return pixels if pixels.dtype == np.uint8 else to_bytes(pixels)[0]


def to_bytes(pixels: np.ndarray) -> tuple[np.ndarray, bool]:
    """Floating-point pixels as uint8, and whether they were fractions of one. ValueError for other ranges.

    Whole numbers 0 to 255 are kept; else everything must lie in [0, 1], and is multiplied by 255 and cut.
    """
    low, high = float(pixels.min()), float(pixels.max())
    whole = bool(np.allclose(pixels, np.trunc(pixels)))
    if whole and low >= 0 and high <= 255:
        return pixels.astype(np.uint8), False
    if low < 0 or high > 1:
        raise ValueError(
            f"an image with values {low:g} to {high:g}; allowed: whole numbers 0 to 255, or fractions 0 to 1 "
            f"(with do_rescale=False)"
        )
    return (pixels.astype(np.float64) * 255).astype(np.float32).astype(np.uint8), True


def with_channels(image: Image.Image | np.ndarray, channels: int | None) -> np.ndarray:
    """(H, W, C) with the number of channels that a model takes, transparency laid on white."""
    if not isinstance(image, np.ndarray):
        if channels == 1:
            return np.asarray(image.convert("L"))[:, :, None]
        return np.asarray(on_white(image))
    if image.shape[2] == 4:
        image = _array_on_white(image)
    if image.shape[2] == 1 and channels == 3:
        return np.repeat(image, 3, axis=2)
    if channels is not None and image.shape[2] != channels:
        raise ValueError(f"an image with {image.shape[2]} channels; this model takes {channels}")
    return image


def _array_on_white(pixels: np.ndarray) -> np.ndarray:
    white = 255 if pixels.dtype == np.uint8 else 1.0
    if white == 1.0 and (pixels.min() < 0 or pixels.max() > 1):
        raise ValueError(f"an image with transparency and values {pixels.min():g} to {pixels.max():g}; allowed: 0 to 1")
    alpha = pixels[..., 3:] / white
    mixed = alpha * pixels[..., :3] + (1 - alpha) * white
    return np.round(mixed).astype(np.uint8) if white == 255 else mixed.astype(np.float32)
