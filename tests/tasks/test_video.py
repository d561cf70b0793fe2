"""Labels for videos: real small files written here, against the reference's model on the same frames."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

av = pytest.importorskip("av")
pytest.importorskip("PIL.Image")

import regard  # noqa: E402
from regard.cli import app  # noqa: E402
from tests.tasks.conftest import same  # noqa: E402
from tests.tasks.seeing import CROPPED, SIDE, VISION, Made, oracle, photo, saved  # noqa: E402

LABELS = ["run", "jump", "swim", "sing", "eat", "sleep"]
FRAMES = 4
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "videomae": ("VideoMAEForVideoClassification", {"tubelet_size": 2}),
    "timesformer": ("TimesformerForVideoClassification", {}),
    "timesformer joint": ("TimesformerForVideoClassification", {"attention_type": "joint_space_time"}),
}


def made(folder: Path, kind: str, **more: Any) -> Made:
    architecture, config = KINDS[kind]
    config = {**VISION, **config, "num_frames": FRAMES, **more}
    return saved(folder, architecture, "VideoMAE", settings=CROPPED, labels=LABELS, **config)


@pytest.fixture(scope="module", params=KINDS)
def model(request: Any, tmp_path_factory: pytest.TempPathFactory) -> Made:
    pytest.importorskip("transformers")
    return made(tmp_path_factory.mktemp("model"), request.param)


@pytest.fixture(scope="module")
def videomae(tmp_path_factory: pytest.TempPathFactory) -> Made:
    pytest.importorskip("transformers")
    return made(tmp_path_factory.mktemp("videomae"), "videomae")


def write(path: Path, count: int = 21, seed: int = 0) -> Path:
    """A film that fades from one picture to another; a GIF or MP4 by its name."""
    codec, pixels = ("gif", "rgb8") if path.suffix == ".gif" else ("mpeg4", "yuv420p")
    first, last = (np.asarray(photo(48, 64, seed + i), dtype=np.float32) for i in range(2))
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, pixels
        for i in range(count):
            at = i / max(1, count - 1)
            frame = av.VideoFrame.from_ndarray((first * (1 - at) + last * at).astype(np.uint8), format="rgb24")
            container.mux(stream.encode(frame.reformat(format=pixels)))
        container.mux(stream.encode())
    return path


def decoded(path: Path) -> list[np.ndarray]:
    """Every frame of a file, by the decoder alone."""
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def expected(model: Made, frames: list[Any], top_k: int = 5) -> list[dict[str, Any]]:
    """What the reference's model says of these frames."""
    theirs, processor, _ = model
    with torch.no_grad():
        scores = theirs(**processor(frames, return_tensors="pt")).logits[0].softmax(-1)
    found = scores.topk(top_k)
    return [
        {"score": score, "label": LABELS[i]}
        for score, i in zip(found.values.tolist(), found.indices.tolist(), strict=True)
    ]


@pytest.mark.parametrize("name", ["clip.mp4", "clip.gif"])
def test_labels_as_the_reference_gives_them_for_the_same_frames(model: Made, name: str, tmp_path: Path) -> None:
    path = write(tmp_path / name)
    frames, pipe = decoded(path), regard.pipeline("video-classification", model[2])
    evenly = [frames[i] for i in (0, 6, 13, 20)]
    assert len(frames) == 21 and len({frame.tobytes() for frame in evenly}) == FRAMES
    same(pipe(path), expected(model, evenly))
    same(pipe(str(path), top_k=2), expected(model, evenly, 2))
    assert list(pipe(path)[0]) == ["score", "label"]
    assert len(pipe(path, top_k=None)) == len(LABELS)
    same(pipe(path, frame_sampling_rate=3), expected(model, [frames[i] for i in (0, 3, 7, 11)]))


def test_frames_apart_are_those_of_the_reference_s_pipeline(videomae: Made, tmp_path: Path) -> None:
    path = write(tmp_path / "clip.mp4")
    ours, theirs = regard.pipeline("video-classification", videomae[2]), oracle("video-classification", videomae)
    for options in ({"frame_sampling_rate": 1}, {"frame_sampling_rate": 5, "top_k": 3}):
        same(ours(path, **options), theirs(str(path), **options))
    options = {"frame_sampling_rate": 2, "function_to_apply": "sigmoid"}
    same(ours(path, **options), theirs(str(path), **options))


def test_a_video_comes_in_every_way(videomae: Made, tmp_path: Path) -> None:
    from PIL import Image

    path = write(tmp_path / "clip.mp4")
    pipe, data, frames = regard.pipeline("video-classification", videomae[2]), path.read_bytes(), decoded(path)
    wanted, whole = pipe(path), np.stack(frames)
    ways = [data, bytearray(data), io.BytesIO(data), whole, whole.transpose(0, 3, 1, 2), torch.from_numpy(whole)]
    ways += [frames, tuple(frames), [Image.fromarray(frame) for frame in frames]]
    ways.append(f"data:video/mp4;base64,{base64.b64encode(data).decode()}")
    for way in ways:
        same(pipe(way), wanted)
    with open(path, "rb") as file:
        same(pipe(file), wanted)
    same(pipe([path, whole, frames]), [wanted] * 3)
    same(pipe(np.stack([whole, whole])), [wanted] * 2)
    other = write(tmp_path / "b.gif", seed=5)
    same(list(pipe(tmp_path)), [pipe(other), wanted])
    same(list(pipe(name for name in (path, other))), [wanted, pipe(other)])


def test_other_numbers_of_frames(tmp_path: Path, videomae: Made) -> None:
    path = write(tmp_path / "clip.mp4")
    divided = regard.pipeline("video-classification", made(tmp_path / "m", "timesformer")[2])
    joint = made(tmp_path / "j", "timesformer joint")
    frames = decoded(path)
    assert divided(path, num_frames=7)[0]["score"] > 0
    found = regard.pipeline("video-classification", joint[2])(path, num_frames=2)
    same(found, expected(joint, [frames[0], frames[20]]))
    with pytest.raises(ValueError, match="pixel_values is of 2 x 32 x 32; allowed: 4 x 32 x 32"):
        regard.pipeline("video-classification", videomae[2])(path, num_frames=2)


def test_frames_that_are_looked_at_alone_count_alike(tmp_path: Path) -> None:
    path = write(tmp_path / "clip.mp4")
    theirs, processor, folder = made(tmp_path / "m", "timesformer", attention_type="space_only")
    frames = decoded(path)
    with torch.no_grad():  # a row for each frame
        logits = theirs(**processor([frames[i] for i in (0, 6, 13, 20)], return_tensors="pt")).logits
    scores = dict(zip(LABELS, logits.mean(0).softmax(-1).tolist(), strict=True))
    pipe = regard.pipeline("video-classification", folder, top_k=None)
    one, two = pipe([path, decoded(write(tmp_path / "b.mp4", seed=3))])
    assert logits.shape == (FRAMES, len(LABELS)) and one != two
    assert {entry["label"]: entry["score"] for entry in one} == pytest.approx(scores, abs=1e-6)


def test_short_and_wrong_videos_are_named(videomae: Made, tmp_path: Path) -> None:
    pipe, good = regard.pipeline("video-classification", videomae[2]), write(tmp_path / "good.mp4")
    short, cut = write(tmp_path / "short.gif", 3), tmp_path / "cut.mp4"
    cut.write_bytes(good.read_bytes()[:-2000])
    (tmp_path / "words.mp4").write_text("this is no film\n" * 50)
    (tmp_path / "empty.mp4").write_bytes(b"")
    photo().save(tmp_path / "photo.png")
    small = decoded(short)
    for wrong, said in [
        (short, r"short\.gif has 3 of the 4 frames that are looked at; repeat=True takes some twice"),
        (small, "the video has 3 of the 4 frames"),
        (cut, r"cut\.mp4 (cannot be read as video|is cut short)"),
        (tmp_path / "words.mp4", r"words\.mp4 cannot be read as video"),
        (tmp_path / "empty.mp4", "0 bytes"),
        (tmp_path / "photo.png", r"photo\.png cannot be read as video"),
        (tmp_path / "none.mp4", "there is no file .*none.mp4"),
        (str(tmp_path), "is not a regular file"),
        ("", "name of the file is empty"),
        (b"words", r"bytes \(5\) cannot be read as video"),
        ("data:video/mp4;base64,AAAA", "the data: URL cannot be read as video"),
        ("https://example.org/a.mp4", "name it in allow_hosts"),
        (5, "a int is no video; allowed"),
        (None, "a NoneType is no video"),
        (np.zeros((8, 8, 3)), r"a ndarray of shape \(8, 8, 3\) is no video"),
        (np.zeros((8, 9, 9, 7)), r"shape \(9, 9, 7\)"),
        (np.full((8, 9, 9, 3), np.nan), "NaN"),
    ]:
        with pytest.raises(ValueError, match=said) as caught:
            pipe(wrong)
        assert "\n" not in str(caught.value)
        first, bad = pipe([good, wrong], on_error="skip")
        same(first, pipe(good))
        assert bad["error"].startswith("item 1: ")
    same(pipe(short, repeat=True), expected(videomae, [small[i] for i in (0, 0, 1, 2)]))
    for options, said in [
        ({"num_frames": 0}, "num_frames is 0"),
        ({"frame_sampling_rate": 0}, "frame_sampling_rate is 0"),
        ({"top_k": 0}, "top_k is 0"),
        ({"frames": 3}, "no option 'frames'; did you mean 'num_frames'"),
    ]:
        with pytest.raises(ValueError, match=said):
            pipe(good, **options)


def test_a_model_of_images_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    config = {**SIDE, "image_size": 32, "patch_size": 8}
    folder = saved(tmp_path, "ViTForImageClassification", "ViT", settings={}, labels=LABELS, **config)[2]
    with pytest.raises(ValueError, match="reads image; video-classification needs a model that reads videos"):
        regard.pipeline("video-classification", folder)
    film = made(tmp_path / "film", "timesformer")[2]
    with pytest.raises(ValueError, match="reads video; image-classification needs a model that reads images"):
        regard.pipeline("image-classification", film)


def test_the_command(videomae: Made, tmp_path: Path) -> None:
    path = write(tmp_path / "clip.mp4")
    words = ["run", "video-classification", str(path), "--model", str(videomae[2]), "top_k=2"]
    found = CliRunner().invoke(app, words, catch_exceptions=False)
    wanted = [f"{entry['score']:.4f}  {entry['label']}" for entry in expected(videomae, evenly(path), 2)]
    assert found.exit_code == 0 and found.stdout.splitlines() == wanted


def evenly(path: Path) -> list[np.ndarray]:
    return [decoded(path)[i] for i in (0, 6, 13, 20)]
