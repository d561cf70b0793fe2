"""Frames from video files."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest

av = pytest.importorskip("av")
pytest.importorskip("PIL")

from regard.preprocess import video  # noqa: E402
from regard.preprocess.image import ImageProcessor  # noqa: E402
from regard.preprocess.video import indices, read_frames  # noqa: E402


def film(frames: int = 40, size: tuple[int, int] = (64, 48), kind: str = "mp4", codec: str = "mpeg4") -> bytes:
    """Frame i is grey of brightness 5 i."""
    out = io.BytesIO()
    with av.open(out, "w", format=kind) as container:
        stream = container.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        for i in range(frames):
            grey = np.full((size[1], size[0], 3), 5 * i, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(grey, format="rgb24")))
        container.mux(stream.encode())
    return out.getvalue()


FILM = film()


def brightness(frames: list) -> list[float]:
    return [float(np.asarray(frame).mean()) for frame in frames]


@pytest.mark.parametrize(
    ("kind", "codec"), [("mp4", "mpeg4"), ("avi", "mpeg4"), ("matroska", "mpeg4"), ("mpegts", "mpeg2video")]
)
def test_frames_are_spread_evenly(kind: str, codec: str, tmp_path: Path) -> None:
    path = tmp_path / "film"
    path.write_bytes(film(kind=kind, codec=codec))
    for source in (path, path.read_bytes(), io.BytesIO(path.read_bytes())):
        frames = read_frames(source, 5)
        assert [frame.size for frame in frames] == [(64, 48)] * 5 and frames[0].mode == "RGB"
        np.testing.assert_allclose(brightness(frames), [5 * i for i in (0, 9, 19, 29, 39)], atol=4)


def test_which_frames() -> None:
    assert indices(40, 5) == [0, 9, 19, 29, 39]
    assert indices(40, 4, 2) == [0, 2, 4, 7]  # as the video classification pipeline of the reference counts
    assert indices(2, 5) == [0, 0, 0, 0, 1] and indices(1, 3) == [0, 0, 0]
    np.testing.assert_allclose(brightness(read_frames(FILM, 4, frame_sampling_rate=3)), [0, 15, 35, 55], atol=4)
    assert len(read_frames(film(2), 6)) == 6


def test_frames_go_to_a_processor() -> None:
    found = ImageProcessor("VideoMAE")(read_frames(FILM, 4), return_tensors="pt", size=32, crop_size=16)
    assert found.pixel_values.shape == (1, 4, 3, 16, 16)


PLAYLIST = b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nfile:///etc/hostname\n#EXT-X-ENDLIST\n"
HOSTILE = {
    "nothing": b"",
    "text": b"this is no film" * 100,
    "play list": PLAYLIST,
    "list of files": b"ffconcat version 1.0\nfile '/etc/hostname'\n",
    "mp4 cut short": FILM[: len(FILM) // 2],
    "mp4 header only": FILM[:40],
    "sound only": b"RIFF$\0\0\0WAVEfmt \x10\0\0\0\1\0\1\0\x80>\0\0\0}\0\0\2\0\x10\0data\0\0\0\0",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_get_one_clear_error(name: str, tmp_path: Path) -> None:
    path = tmp_path / "some film.m3u8"
    path.write_bytes(HOSTILE[name])
    for source in (path, HOSTILE[name]):
        with pytest.raises(ValueError, match=r"some film|bytes \("):
            read_frames(source, 2)


def test_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    for options in ({"num_frames": 0}, {"num_frames": 10**9}, {"frame_sampling_rate": 0}):
        with pytest.raises(ValueError, match=next(iter(options))):
            read_frames(FILM, **options)
    monkeypatch.setattr(video, "MAX_FRAMES", 10)
    with pytest.raises(ValueError, match="more than 10 frames"):
        read_frames(FILM, 2)
    monkeypatch.setattr(video, "MAX_FRAMES", 100)
    monkeypatch.setattr(video, "MAX_HELD_BYTES", 10_000)
    with pytest.raises(ValueError, match="too much memory"):
        read_frames(FILM, 2)
    monkeypatch.setattr(video, "MAX_PIXELS", 100)
    with pytest.raises(ValueError, match="64 x 48; at most 100 pixels"):
        read_frames(FILM, 2)
