"""Images that are odd, damaged or made to do harm, and the places they come from."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import struct
import threading
import time
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

Image = pytest.importorskip("PIL.Image")

from regard.preprocess import image_read, media  # noqa: E402
from regard.preprocess.image import ImageProcessor  # noqa: E402
from regard.preprocess.image_read import read  # noqa: E402


def encoded(image: Any, kind: str, **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, format=kind, **options)
    return out.getvalue()


def noise(height: int = 40, width: int = 60) -> Any:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(width: int, height: int, *chunks: bytes) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + b"".join(chunks) + chunk(b"IEND", b"")


def tiff(width: int, height: int, offset: int = 200, count: int = 10**9) -> bytes:
    tags = [(256, 4, 1, width), (257, 4, 1, height), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1)]
    tags += [(273, 4, 1, offset), (277, 3, 1, 1), (278, 4, 1, height), (279, 4, 1, count)]
    entries = b"".join(struct.pack("<HHII", *tag) for tag in tags)
    return b"II*\0" + struct.pack("<I", 8) + struct.pack("<H", len(tags)) + entries + b"\0" * 4


def gif(width: int, height: int) -> bytes:
    screen = b"GIF89a" + struct.pack("<HH", width, height) + b"\x80\0\0" + b"\0\0\0\xff\xff\xff"
    return screen + b"," + struct.pack("<HHHH", 0, 0, width, height) + b"\0\x02\x02\x4c\x01\0;"


HUGE_TEXT = chunk(b"zTXt", b"note\0\0" + zlib.compress(b"\0" * (80 * 2**20), 9))
HUGE_PROFILE = chunk(b"iCCP", b"icc\0\0" + zlib.compress(b"\0" * (80 * 2**20), 9))
PHOTO = encoded(noise(), "JPEG")
HOSTILE: dict[str, bytes] = {
    "png bomb": png(60_000, 60_000, chunk(b"IDAT", zlib.compress(b"\0" * 1000))),
    "png bomb, one pixel high": png(2**31 - 1, 1, chunk(b"IDAT", zlib.compress(b"\0" * 1000))),
    "png of no pixels": png(0, 10, chunk(b"IDAT", zlib.compress(b"\0"))),
    "png without data": png(10, 10),
    "png with too little data": png(100, 100, chunk(b"IDAT", zlib.compress(b"\0" * 10))),
    "png cut short": encoded(noise(), "PNG")[:300],
    "png text bomb": png(2, 2, HUGE_TEXT, chunk(b"IDAT", zlib.compress(b"\0" * 14))),
    "gif bomb": gif(65_535, 65_535),
    "tiff bomb": tiff(100_000, 100_000),
    "tiff lies about its data": tiff(100, 100),
    "tiff of no pixels": tiff(0, 0),
    "tiff points at itself": b"II*\0"
    + struct.pack("<I", 8)
    + struct.pack("<HHHII", 1, 256, 4, 1, 8)
    + struct.pack("<I", 8),
    "jpeg cut short": PHOTO[: len(PHOTO) // 2],
    "jpeg header only": PHOTO[:20],
    "webp cut short": encoded(noise(), "WEBP")[:100],
    "bmp bomb": b"BM" + struct.pack("<IHHIIiiHHIIiiII", 54, 0, 0, 54, 40, 50_000, 50_000, 1, 24, 0, 0, 1, 1, 0, 0),
    "ppm bomb": b"P6 99999 99999 255\n",
    "ppm with words for numbers": b"P6 many more 255\n",
    "eps starts programs": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\nshowpage\n",
    "text": b"this is not an image",
    "nothing": b"",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_get_one_clear_error_and_little_memory(name: str, tmp_path: Path) -> None:
    path = tmp_path / "some picture"
    path.write_bytes(HOSTILE[name])
    ours = ImageProcessor("CLIP")
    for source in (path, HOSTILE[name], io.BytesIO(HOSTILE[name])):
        tracemalloc.start()
        with pytest.raises(ValueError, match=r"some picture|bytes \(|BytesIO|the image") as error:
            ours(source)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert error.type is ValueError and len(str(error.value)) < 400
        assert peak < 20 * 2**20


def test_a_compressed_profile_does_not_spoil_the_image_or_memory() -> None:
    data = png(2, 2, HUGE_PROFILE, chunk(b"IDAT", zlib.compress(b"\0" * 14)))
    try:
        assert read(data).size == (2, 2)
    except ValueError as error:
        assert "bytes (" in str(error)


def test_limits_hold_before_pixels_are_decoded() -> None:
    large = encoded(Image.new("L", (3000, 2000)), "PNG")
    with pytest.raises(ValueError, match=r"3000 x 2000, 6,000,000 pixels; at most 1,000,000"):
        read(large, max_pixels=10**6)
    with pytest.raises(ValueError, match="at most"):
        read(np.broadcast_to(np.uint8(0), (20_000, 20_000)))
    assert read(large).size == (3000, 2000)


def test_thin_images_do_not_grow_without_bound() -> None:
    thin = Image.new("RGB", (1_000_000, 1))
    with pytest.raises(ValueError, match=r"1 x 1000000 would be resized to 224 x 224000000"):
        ImageProcessor("CLIP")(thin)
    with pytest.raises(ValueError, match="would be padded to 1000000 x 1000000"):
        ImageProcessor("Llava")(thin, do_pad=True)
    with pytest.raises(ValueError, match="would be padded to 200000 x 200000"):
        wide, tall = Image.new("RGB", (200_000, 1)), Image.new("RGB", (1, 200_000))
        ImageProcessor("Detr")([wide, tall], do_resize=False)
    found = ImageProcessor("Detr")(thin, return_tensors="np")  # bounded by its longest edge
    assert found.pixel_values.shape == (1, 3, 1, 1333)
    assert ImageProcessor("Yolos")(thin, return_tensors="np").pixel_values.shape == (1, 3, 16, 1328)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_photos_are_turned_upright(orientation: int) -> None:
    corner = np.full((16, 32, 3), 200, dtype=np.uint8)
    corner[:8, :16] = 0
    upright = Image.fromarray(corner)
    turns = Image.Transpose
    undo = {
        1: [],
        2: [turns.FLIP_LEFT_RIGHT],
        3: [turns.ROTATE_180],
        4: [turns.FLIP_TOP_BOTTOM],
        5: [turns.TRANSPOSE],
        6: [turns.ROTATE_90],
        7: [turns.TRANSVERSE],
        8: [turns.ROTATE_270],
    }
    stored = upright
    for turn in undo[orientation]:
        stored = stored.transpose(turn)
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(stored, "PNG", exif=exif)
    np.testing.assert_array_equal(np.asarray(read(data)), corner)
    np.testing.assert_array_equal(np.asarray(read(Image.open(io.BytesIO(data)))), corner)


def test_broken_exif_turns_nothing() -> None:
    data = encoded(noise(), "JPEG", exif=b"Exif\0\0" + b"MM\0*\xff\xff\xff\xff" + b"\xff" * 40)
    assert read(data).size == (60, 40)


def test_kinds_of_file_and_pixels_decode_as_the_reference_decodes_them() -> None:
    load_image = pytest.importorskip("transformers.image_utils").load_image
    rng = np.random.default_rng(3)
    alpha = Image.fromarray(rng.integers(0, 256, (20, 30, 4), dtype=np.uint8))
    frames = [noise(20, 30), Image.new("RGB", (30, 20))]
    files = {
        "alpha": encoded(alpha, "PNG"),
        "grey alpha": encoded(alpha.convert("LA"), "PNG"),
        "palette": encoded(noise().quantize(16), "PNG"),
        "see-through palette": encoded(noise().quantize(16), "PNG", transparency=bytes(range(0, 255, 16))),
        "one bit": encoded(noise().convert("1"), "PNG"),
        "cmyk": encoded(noise().convert("CMYK"), "JPEG"),
        "animated gif": encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]),
        "animated webp": encoded(frames[0], "WEBP", save_all=True, append_images=frames[1:]),
        "tiff of two pages": encoded(frames[0], "TIFF", save_all=True, append_images=frames[1:]),
        "one pixel": encoded(Image.new("RGB", (1, 1), (1, 2, 3)), "BMP"),
        "very wide": encoded(Image.new("RGB", (5000, 1), (1, 2, 3)), "PNG"),
    }
    for name, data in files.items():
        want = load_image(Image.open(io.BytesIO(data)))
        np.testing.assert_array_equal(np.asarray(read(data)), np.asarray(want), err_msg=name)


def test_sixteen_bits_are_scaled_not_clipped() -> None:
    deep = (np.arange(256, dtype=np.uint16) * 257).reshape(16, 16)
    data = encoded(Image.fromarray(deep), "PNG")
    np.testing.assert_array_equal(np.asarray(read(data))[..., 0], np.arange(256).reshape(16, 16))


@pytest.mark.parametrize(
    ("array", "reason"),
    [
        (np.full((4, 4, 3), np.nan, np.float32), "NaN"),
        (np.full((4, 4, 3), 300.0), "values 300 to 300"),
        (np.full((4, 4, 3), -1), "values -1 to -1"),
        (np.zeros((5, 4, 6)), r"shape \(5, 4, 6\)"),
        (np.zeros((4, 0, 3)), "at least one pixel"),
        (np.zeros(4), r"shape \(4,\)"),
        (np.zeros((4, 4, 3), bool), "bool"),
        (np.zeros((4, 4, 3), complex), "complex"),
        (np.array([["a"]]), "allowed"),
        (torch.full((3, 4, 4), float("inf")), "infinite"),
        (object(), "is no image"),
        (None, "NoneType is no image"),
    ],
)
def test_arrays_that_are_no_images(array: Any, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        ImageProcessor("CLIP")(array)


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"image_processor_type": "OurImageProcessor"}, "OurImageProcessor.*known: ViTImageProcessor"),
        ({"image_processor_type": 3}, "image_processor_type is 3"),
        ({}, "image_processor_type is missing"),
        ({"size": -1}, "size is -1"),
        ({"size": {"height": 10}}, "allowed: height[+]width"),
        ({"size": {"height": 10**9, "width": 10**9}}, "whole number 1 to"),
        ({"size": {"height": True, "width": 4}}, "size is"),
        ({"size": "large"}, "size is 'large'"),
        ({"resample": 9}, "resample is 9.*bicubic"),
        ({"resample": "sharp"}, "resample is 'sharp'"),
        ({"image_mean": [0.5, 0.5]}, "image_mean"),
        ({"image_mean": [0.5, "x", 0.5]}, "image_mean"),
        ({"image_std": [0.5, 0.0, 0.5]}, "other than zero"),
        ({"image_std": [0.5]}, "image_mean has 3 numbers and image_std 1"),
        ({"rescale_factor": "1/255"}, "rescale_factor is '1/255'"),
        ({"do_resize": "yes"}, "do_resize is 'yes'"),
        ({"do_center_crop": True}, "crop_size"),
    ],
)
def test_folders_that_make_no_processor(config: dict[str, Any], reason: str, tmp_path: Path) -> None:
    if config and "image_processor_type" not in config:
        config = {"image_processor_type": "ViTImageProcessor", **config}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=reason) as error:
        ImageProcessor.from_folder(tmp_path)
    assert "preprocessor_config.json" in str(error.value) or "known" in str(error.value)


def test_wrong_calls_are_named(tmp_path: Path) -> None:
    ours = ImageProcessor("ViT")
    with pytest.raises(ValueError, match="do_flip is no setting"):
        ours(noise(), do_flip=True)
    with pytest.raises(ValueError, match="return_tensors is 'tf'"):
        ours(noise(), return_tensors="tf")
    with pytest.raises(ValueError, match="items of shapes"):
        ours([noise(4, 5), noise(5, 4)], do_resize=False, return_tensors="pt")
    with pytest.raises(ValueError, match="segmentation_maps"):
        ours(noise(), noise())
    with pytest.raises(ValueError, match="is not a regular file"):
        ours(tmp_path)
    with pytest.raises(FileNotFoundError):
        ours(tmp_path / "absent.png")
    with pytest.raises(ValueError, match="has no processor_config"):
        ImageProcessor.from_folder(tmp_path)
    with pytest.raises(ValueError, match="size is 'x'"):
        ours.size = "x"
    assert ours.size == {"height": 224, "width": 224}


# places


def test_data_urls_and_files() -> None:
    data = encoded(noise(), "PNG")
    want = np.asarray(noise())
    url = "data:image/png;base64," + base64.b64encode(data).decode()
    percent = "data:image/png," + "".join(f"%{byte:02x}" for byte in data)
    behind = io.BytesIO(b"prefix" + data)
    behind.seek(6)
    for source in (url, percent, data, bytearray(data), memoryview(data), io.BytesIO(data), behind):
        np.testing.assert_array_equal(np.asarray(read(source)), want)
    for broken in ("data:image/png;base64,@@@", "data:image/png;base64", "data:,"):
        with pytest.raises(ValueError, match="the data: URL"):
            read(broken)
    with pytest.raises(ValueError, match="as text"):
        read(io.StringIO("x"))


def test_file_size_is_checked_before_reading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_read, "MAX_IMAGE_BYTES", 100)
    path = tmp_path / "large.png"
    path.write_bytes(encoded(noise(), "PNG"))
    url = "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()
    with open(path, "rb") as file:
        for source in (path, str(path), path.read_bytes(), io.BytesIO(path.read_bytes()), file, url):
            with pytest.raises(ValueError, match="100"):
                read(source)


Answer = Callable[[BaseHTTPRequestHandler], None]


@pytest.fixture
def server() -> Iterator[tuple[str, dict[str, Answer]]]:
    """A web server on this machine, and what it answers to each path."""
    answers: dict[str, Answer] = {}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            with contextlib.suppress(OSError):
                answers[self.path](self)

        def log_message(self, *args: object) -> None:
            pass

    running = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    running.daemon_threads = True
    threading.Thread(target=running.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{running.server_port}", answers
    running.shutdown()
    running.server_close()


def send(body: bytes, length: int | None = None, status: int = 200, **headers: str) -> Answer:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name, value)
        if length != -1:
            handler.send_header("Content-Length", str(len(body) if length is None else length))
        handler.end_headers()
        handler.wfile.write(body)

    return answer


def drip(handler: BaseHTTPRequestHandler) -> None:
    handler.send_response(200)
    handler.end_headers()
    for _ in range(200):
        handler.wfile.write(b"x")
        handler.wfile.flush()
        time.sleep(0.05)


def test_web_addresses(server: tuple[str, dict[str, Answer]], monkeypatch: pytest.MonkeyPatch) -> None:
    root, answers = server
    data = encoded(noise(), "PNG")
    port = root.rpartition(":")[2]
    answers["/a.png?x=1"] = send(data)
    answers["/short"] = send(data[:50], length=len(data))
    answers["/large"] = send(b"", length=10**12)
    answers["/endless"] = send(b"\0" * 3000, length=-1)
    answers["/none"] = send(b"", status=404)
    answers["/empty"] = send(b"")
    answers["/moved"] = send(b"", status=302, Location="/a.png?x=1")
    answers["/round"] = send(b"", status=302, Location="/round")
    answers["/inside"] = send(b"", status=302, Location=f"http://localhost:{port}/a.png?x=1")
    answers["/file"] = send(b"", status=302, Location="file:///etc/passwd")
    answers["/other"] = send(b"", status=302, Location="http://example.com/")
    answers["/drip"] = drip
    local = {"allow_hosts": ["127.0.0.1"]}
    np.testing.assert_array_equal(np.asarray(read(f"{root}/a.png?x=1", **local)), np.asarray(noise()))
    for url, reason in {
        "/short": "ends after 50 of",
        "/none": "404",
        "/empty": "is empty",
        "/inside": "inside a private network|name it in allow_hosts",
        "/moved": "inside a private network",
        "/round": "inside a private network",
        "/file": "allowed: http and https",
        "/other": "'example.com'; name it in allow_hosts",
    }.items():
        with pytest.raises(ValueError, match=reason):
            read(root + url, **local)
    with pytest.raises(ValueError, match="inside a private network"):
        read(f"{root}/inside", allow_hosts=["127.0.0.1", "localhost"])
    monkeypatch.setattr(image_read, "MAX_IMAGE_BYTES", 2000)
    for url in ("/large", "/endless"):
        with pytest.raises(ValueError, match="more than the 2,000 bytes"):
            read(root + url, **local)
    start = time.monotonic()
    with pytest.raises(ValueError, match=r"out of time|too slow"):
        read(f"{root}/drip", timeout=0.5, **local)
    assert time.monotonic() - start < 3


def test_hosts_are_allowed_by_name_only(monkeypatch: pytest.MonkeyPatch) -> None:
    for hosts in ((), ["example.com"], ["host"]):
        with pytest.raises(ValueError, match=r"name it in allow_hosts"):
            read("http://evil.example/a.png", allow_hosts=hosts)
    with pytest.raises(ValueError, match="a list of host names"):
        read("http://evil.example/a.png", allow_hosts="evil.example")
    with pytest.raises(ValueError, match="name it in allow_hosts"):
        ImageProcessor("CLIP")("https://example.com/a.png")
    for address in ("10.0.0.7", "127.0.0.1", "169.254.169.254", "::1", "::ffff:192.168.0.1"):
        found = [(0, 0, 0, "", (address, 80))]
        monkeypatch.setattr(media.socket, "getaddrinfo", lambda *args, found=found, **kw: found)
        with pytest.raises(ValueError, match="inside a private network"):
            read("http://rebound.example/a.png", allow_hosts=["rebound.example"])
