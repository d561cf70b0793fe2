"""Frames of video files, as models of video take them."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from regard.extras import need

from .image_read import MAX_PIXELS
from .media import TIMEOUT, Source, opened

if TYPE_CHECKING:
    from PIL import Image

MAX_VIDEO_BYTES = 4 * 2**30
"""Largest video file that is read."""

MAX_FRAMES = 2_000_000
"""Most frames of a file that are looked through, some eighteen hours."""

MAX_HELD_BYTES = 2 * 2**30
"""Most memory that the frames of one call may take."""

# Containers that hold their own pictures: play lists would have other files, or the web, opened.
_FORMATS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpeg,mpegts,mpegvideo,ogg,flv,gif,asf,m4v,h264,ivf"


def read_frames(
    source: Source,
    num_frames: int = 16,
    *,
    frame_sampling_rate: int | None = None,
    repeat: bool = True,
    allow_hosts: Collection[str] = (),
    timeout: float = TIMEOUT,
) -> list[Image.Image]:
    """`num_frames` RGB frames, evenly over the whole video, or, with `frame_sampling_rate`, that far apart from its
    beginning. A video with fewer frames repeats some, unless `repeat` is False. ValueError, naming the source, for what
    cannot be decoded or is too short.
    """
    check_counts(num_frames, frame_sampling_rate)
    with opened(source, limit=MAX_VIDEO_BYTES, allow_hosts=allow_hosts, timeout=timeout) as (file, name):
        total = _count(file, name)
        for _ in range(2):
            wanted = indices(total, num_frames, frame_sampling_rate)
            found, seen = _pick(file, name, set(wanted), num_frames)
            if all(index in found for index in wanted):
                check_length(total, num_frames, name, repeat=repeat)
                return [found[index] for index in wanted]
            total = seen  # packets without pictures made the count too large
    raise ValueError(f"{name} has no frames that can be decoded")


def check_counts(num_frames: int, frame_sampling_rate: int | None) -> None:
    """ValueError for numbers of frames that nobody means."""
    if isinstance(num_frames, bool) or not isinstance(num_frames, int) or not 1 <= num_frames <= 10_000:
        raise ValueError(f"num_frames is {num_frames!r}; allowed: 1 to 10,000")
    if frame_sampling_rate is not None and (not isinstance(frame_sampling_rate, int) or frame_sampling_rate < 1):
        raise ValueError(f"frame_sampling_rate is {frame_sampling_rate!r}; allowed: a whole number from 1")


def check_length(total: int, num_frames: int, name: str, *, repeat: bool) -> None:
    """ValueError for a video of too few frames, unless some may stand twice."""
    if total < num_frames and not repeat:
        raise ValueError(
            f"{name} has {total} of the {num_frames} frames that are looked at; repeat=True takes some twice"
        )


def indices(total: int, num_frames: int, frame_sampling_rate: int | None = None) -> list[int]:
    """The numbers of the frames taken from a video of `total` frames."""
    last = total - 1 if frame_sampling_rate is None else min(total, num_frames * frame_sampling_rate) - 1
    return [int(index) for index in np.linspace(0, max(last, 0), num_frames)]


@contextlib.contextmanager
def _stream(file: BinaryIO, name: str) -> Iterator[tuple[Any, Any]]:
    """The container and its first stream of pictures; errors of the decoder name the source."""
    av = need("av", "video")
    file.seek(0)
    try:
        with av.open(file, options={"format_whitelist": _FORMATS, "protocol_whitelist": "none"}) as container:
            if not container.streams.video:
                raise ValueError(f"{name} has no video in it")
            stream = container.streams.video[0]
            if stream.codec_context is None:
                raise ValueError(f"{name} is in a code that this installation cannot decode")
            width, height = stream.codec_context.width, stream.codec_context.height
            if width * height > MAX_PIXELS:
                raise ValueError(f"{name} is {width} x {height}; at most {MAX_PIXELS:,} pixels a frame are read")
            yield container, stream
    except av.FFmpegError as error:
        why = error.strerror or error
        raise ValueError(f"{name} cannot be read as video, is damaged or cut short: {why}") from None


def _count(file: BinaryIO, name: str) -> int:
    """Frames by the packets of the file, which are not decoded for it."""
    with _stream(file, name) as (container, stream):
        count = 0
        for packet in container.demux(stream):
            count += packet.size > 0
            if count > MAX_FRAMES:
                raise ValueError(f"{name} has more than {MAX_FRAMES:,} frames")
        if count < stream.frames:
            raise ValueError(f"{name} is cut short: {count:,} frames of the {stream.frames:,} that it says it has")
    if not count:
        raise ValueError(f"{name} has no frames that can be decoded")
    return count


def _pick(file: BinaryIO, name: str, wanted: set[int], num_frames: int) -> tuple[dict[int, Any], int]:
    """The wanted frames by number, and how many were decoded."""
    last, found, seen = max(wanted), {}, 0
    with _stream(file, name) as (container, stream):
        stream.thread_type = "AUTO"
        for frame in container.decode(stream):
            if frame.width * frame.height * 3 * num_frames > MAX_HELD_BYTES:
                raise ValueError(f"{num_frames} frames of {frame.width} x {frame.height} ({name}) take too much memory")
            if seen in wanted:
                found[seen] = frame.to_image()
            seen += 1
            if seen > last:
                break
    return found, seen
