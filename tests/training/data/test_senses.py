"""Images and sounds as rows: what the processor gives for each file, with labels and texts beside it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from regard.preprocess.audio import AudioProcessor
from regard.preprocess.ctc import CTCTokenizer
from regard.preprocess.image import ImageProcessor
from regard.preprocess.multimodal import Processor
from regard.training.data.read import read_rows
from regard.training.data.senses import images, sounds
from regard.training.data.tokenizer import train_tokenizer

pil = pytest.importorskip("PIL.Image")
soundfile = pytest.importorskip("soundfile")


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for name in ("cat", "dog"):
        for i in range(2):
            (tmp_path / name).mkdir(exist_ok=True)
            pil.fromarray(rng.integers(0, 255, (20, 30, 3), dtype=np.uint8)).save(tmp_path / name / f"{i}.png")
    return tmp_path


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for name, text in (("a", "AB BA"), ("b", "B")):
        soundfile.write(tmp_path / f"{name}.wav", rng.normal(0, 0.1, 1600 if name == "a" else 3200), 16000)
        (tmp_path / f"{name}.txt").write_text(text)
    return tmp_path


def test_images_with_classes(pictures: Path) -> None:
    eyes = ImageProcessor("ViTImageProcessor", {"size": {"height": 8, "width": 8}})
    rows = read_rows(pictures)
    made = images(rows, eyes, label="label")
    assert made.labels is not None and made.labels.names == ("cat", "dog")
    assert [made[i]["labels"] for i in range(4)] == [0, 0, 1, 1]
    assert made[2]["pixel_values"].shape == (3, 8, 8)
    assert np.array_equal(made[2]["pixel_values"], eyes(rows[2]["image"], return_tensors="np")["pixel_values"][0])
    (pictures / "dog" / "1.png").write_bytes(b"not a picture")
    with pytest.raises(ValueError, match=r"row 3: .*1\.png"):
        made[3]
    with pytest.raises(ValueError, match="row 0 has no 'photo'; it has 'image', 'label'"):
        images(rows, eyes, image="photo")
    with pytest.raises(ValueError, match="has no tokenizer"):
        images(rows, eyes, text="label")
    with pytest.raises(IndexError):
        made[4]


def test_images_with_texts(pictures: Path) -> None:
    tokenizer = train_tokenizer(["a cat", "a dog"] * 4, kind="wordpiece", vocab_size=40)
    both = Processor("CLIPProcessor", tokenizer, image_processor=ImageProcessor("CLIPImageProcessor"))
    made = images(read_rows(pictures).renamed({"label": "text"}), both, text="text", keep=True)
    assert made[0]["input_ids"].tolist() == tokenizer("cat")["input_ids"]
    assert made[0] is made[0], "kept"


def test_sounds_to_letters(clips: Path) -> None:
    letters = CTCTokenizer({"<pad>": 0, "<unk>": 1, "|": 2, "A": 3, "B": 4}, {})
    ears = AudioProcessor("Wav2Vec2FeatureExtractor")
    both = Processor("Wav2Vec2Processor", letters, feature_extractor=ears)
    rows = read_rows(clips)
    made = sounds(rows, both, text="text")
    assert [made[i]["labels"].tolist() for i in range(2)] == [[3, 4, 2, 4, 3], [4]]
    assert [made[i]["input_values"].shape for i in range(2)] == [(1600,), (3200,)]
    assert abs(float(made[0]["input_values"].std()) - 1) < 1e-2
    with pytest.raises(ValueError, match="row 1: the model has no letter '!', 'b' for 'b!'"):
        sounds(rows.with_column("text", ["A", "b!"]), both, text="text")
    held = [{"audio": {"array": np.ones(800, np.float32), "sampling_rate": 8000}}]
    assert sounds(held, ears)[0]["input_values"].shape == (1600,)
    held = [{"audio": {"bytes": Path(rows[0]["audio"]).read_bytes(), "path": None}}]
    assert np.array_equal(sounds(held, ears)[0]["input_values"], made[0]["input_values"])


def test_sounds_with_classes(clips: Path) -> None:
    rows = read_rows(clips).renamed({"text": "label"})
    made = sounds(rows, AudioProcessor("WhisperFeatureExtractor"), label="label")
    assert made.labels is not None and made.labels.names == ("AB BA", "B")
    assert made[1]["labels"] == 1 and made[1]["input_features"].shape == (80, 3000)


def test_real_speech_for_a_decoder(data: Callable[[str], Path]) -> None:
    folder = data("checkpoints/whisper-tiny.en")
    both = Processor.from_folder(folder)
    rows = read_rows(data("data/speech"))
    start = both.tokenizer.convert_tokens_to_ids("<|startoftranscript|>")
    made = sounds(rows, both, text="text", decoder_start=start)
    row: dict[str, Any] = made[0]
    assert row["input_features"].shape == (80, 3000)
    assert start not in row["labels"] and row["labels"][-1] == both.tokenizer.eos_token_id
    assert both.tokenizer.decode(row["labels"], skip_special_tokens=True) == rows[0]["text"]
