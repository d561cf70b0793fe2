"""Each task on images, sound or video, given by the command what it cannot read: one clear line, exit status 2."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("transformers", reason="the reference library is not installed (extra: oracle)")
pytest.importorskip("PIL.Image")
pytest.importorskip("soundfile")
pytest.importorskip("soxr")
pytest.importorskip("av")
wavfile = pytest.importorskip("scipy.io.wavfile")

from regard.cli import main  # noqa: E402
from regard.tasks import TASKS  # noqa: E402
from tests.preprocess.folders import FOLDERS  # noqa: E402
from tests.tasks import test_image_captions as captions  # noqa: E402
from tests.tasks import test_image_segmentation as segmentation  # noqa: E402
from tests.tasks import test_video as video  # noqa: E402
from tests.tasks.seeing import CROPPED, SMALL, TEXT, VISION, photo, saved, words  # noqa: E402
from tests.tasks.test_image_text import llava  # noqa: E402
from tests.tasks.test_speech import TINY, letters  # noqa: E402, F401  fixture

MEDIA = {
    "image-classification": "jpg",
    "image-feature-extraction": "jpg",
    "zero-shot-image-classification": "jpg",
    "image-text-retrieval": "jpg",
    "image-to-text": "jpg",
    "visual-question-answering": "jpg",
    "image-text-to-text": "jpg",
    "object-detection": "jpg",
    "image-segmentation": "jpg",
    "video-classification": "mp4",
    "automatic-speech-recognition": "wav",
    "audio-classification": "wav",
}
"""Every task on what is seen or heard, and the kind of file that it reads."""
BESIDE = {
    "zero-shot-image-classification": ['candidate_labels="cat, dog"'],
    "visual-question-answering": ["question=What?"],
}
"""What else a task is told."""


@dataclass(frozen=True)
class Done:
    """What a call of the command came to."""

    status: Any
    out: str
    err: str


Call = Callable[..., Done]


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Call:
    """The command, in this process."""

    def run(*words: str) -> Done:
        monkeypatch.setattr(sys, "argv", ["regard", *words])
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        return Done(ended.value.code, *capfd.readouterr())

    return run


@pytest.fixture(scope="module")
def models(letters: tuple[Path, Any], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:  # noqa: F811
    """A tiny model for each task."""
    import transformers

    root = tmp_path_factory.mktemp("models")
    labels = ["cat", "dog", "owl"]
    vit = saved(root / "vit", "ViTForImageClassification", "ViT", settings=SMALL, labels=labels, **VISION)[2]
    boxes = {**VISION, "image_size": [32, 32], "num_detection_tokens": 5}
    size = {"size": {"shortest_edge": 32, "longest_edge": 48}}
    architecture, kind, tiny, settings = segmentation.KINDS["maskformer"]
    masks = {key: value for key, value in tiny.items() if key not in ("model_type", "num_labels")}
    config = transformers.HubertConfig(**TINY, vocab_size=31, id2label=dict(enumerate(labels)))
    transformers.HubertForSequenceClassification(config).save_pretrained(root / "hubert")
    transformers.Wav2Vec2FeatureExtractor().save_pretrained(root / "hubert")
    for name in ("clip", "captions", "answers"):
        (root / name).mkdir()
    FOLDERS["clip"](root / "clip")
    ends = words(root / "clip")
    text = {**TEXT, "vocab_size": len(ends), "bos_token_id": ends.bos_token_id, "eos_token_id": ends.eos_token_id}
    towers = {"text_config": {**text, "pad_token_id": ends.pad_token_id}, "vision_config": VISION}
    clip = saved(root / "clip", "CLIPModel", "CLIP", settings=CROPPED, tokenizer="clip", **towers)[2]
    found = {
        "image-classification": vit,
        "image-feature-extraction": vit,
        "zero-shot-image-classification": clip,
        "image-text-retrieval": clip,
        "image-to-text": captions.blip(root / "captions", "BlipForConditionalGeneration")[2],
        "visual-question-answering": captions.blip(root / "answers", "BlipForQuestionAnswering")[2],
        "image-text-to-text": llava(root / "llava")[2],
        "object-detection": saved(root / "yolos", "YolosForObjectDetection", "Yolos", settings=size, **boxes)[2],
        "image-segmentation": saved(root / "masks", architecture, kind, settings=settings, labels=labels, **masks)[2],
        "video-classification": video.made(root / "video", "videomae")[2],
        "automatic-speech-recognition": letters[0],
        "audio-classification": root / "hubert",
    }
    return {task: Path(folder) for task, folder in found.items()}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Good files, and what may be wrong with files of each kind."""
    folder = tmp_path_factory.mktemp("files")
    buffer = io.BytesIO()
    photo(90, 120).save(buffer, "JPEG")
    (folder / "good.jpg").write_bytes(buffer.getvalue())
    photo(1, 1).save(folder / "dot.jpg")
    wave = np.random.default_rng(0).normal(0, 3000, 16000).astype(np.int16)
    wavfile.write(folder / "good.wav", 16000, wave)
    wavfile.write(folder / "empty.wav", 16000, wave[:0])
    wavfile.write(folder / "dot.wav", 16000, wave[:1])
    video.write(folder / "good.mp4")
    for kind in ("jpg", "wav", "mp4"):
        whole = (folder / f"good.{kind}").read_bytes()
        (folder / f"cut.{kind}").write_bytes(whole[: len(whole) // 2])
        (folder / f"head.{kind}").write_bytes(whole[:20])
        (folder / f"words.{kind}").write_text("These are words.\n")
        (folder / f"nothing.{kind}").write_bytes(b"")
    return folder


def words_for(task: str, file: Path, model: Path, files: Path) -> list[str]:
    """The words of a command that gives a task a file."""
    beside = BESIDE.get(task, [])
    if task == "image-text-retrieval":
        good = files / "photos"
        good.mkdir(exist_ok=True)
        (good / "good.jpg").write_bytes((files / "good.jpg").read_bytes())
        return ["run", task, f"image={file}", f"index={good}", "-m", str(model)]
    if task == "visual-question-answering":
        return ["run", task, f"image={file}", *beside, "-m", str(model)]
    asked = ["What is this?", "max_new_tokens=3"] if task == "image-text-to-text" else []
    return ["run", task, str(file), *asked, *beside, "-m", str(model)]


def refused(done: Done, *said: str) -> None:
    """One line that says all this, and status 2."""
    assert done.status == 2, (done.out, done.err)
    assert done.err.startswith("regard: ") and done.err.count("\n") == 1 and not done.out, done.err
    assert len(done.err) < 600 and all(part in done.err for part in said), done.err


def test_every_task_on_media_is_here() -> None:
    told = {info.name for info in TASKS if info.modality != "text" or "image_processor" in info.needs}
    assert told == set(MEDIA)


@pytest.mark.parametrize("task", MEDIA)
def test_good_files_are_read(call: Call, models: dict[str, Path], files: Path, task: str) -> None:
    done = call(*words_for(task, files / f"good.{MEDIA[task]}", models[task], files))
    assert done.status in (0, None) and not done.err, done.err


@pytest.mark.parametrize("file", ["missing", "words", "nothing", "head", "cut"])
@pytest.mark.parametrize("task", MEDIA)
def test_bad_files_are_named(call: Call, models: dict[str, Path], files: Path, task: str, file: str) -> None:
    name = f"{file}.{MEDIA[task]}"
    refused(call(*words_for(task, files / name, models[task], files)), name)


@pytest.mark.parametrize("task", [task for task, kind in MEDIA.items() if kind == "wav"])
def test_sound_without_sound(call: Call, models: dict[str, Path], files: Path, task: str) -> None:
    refused(call(*words_for(task, files / "empty.wav", models[task], files)), "empty.wav", "0 samples")
    refused(call(*words_for(task, files / "dot.wav", models[task], files)), "dot.wav", "1 sample")


@pytest.mark.parametrize("task", [task for task, kind in MEDIA.items() if kind == "jpg"])
def test_an_image_of_one_pixel_is_an_image(call: Call, models: dict[str, Path], files: Path, task: str) -> None:
    done = call(*words_for(task, files / "dot.jpg", models[task], files))
    assert done.status in (0, None) and not done.err, done.err


@pytest.mark.parametrize("task", MEDIA)
def test_models_for_something_else_are_named(call: Call, models: dict[str, Path], files: Path, task: str) -> None:
    other = "automatic-speech-recognition" if MEDIA[task] != "wav" else "object-detection"
    refused(call(*words_for(task, files / f"good.{MEDIA[task]}", models[other], files)), models[other].name)
