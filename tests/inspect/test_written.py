"""Where a writer listened or looked for each word, against the reference's cross-attention."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

pytest.importorskip("PIL.Image")
pytest.importorskip("soundfile")
pytest.importorskip("soxr")

import regard
from regard.cli import app
from regard.inspect.written import Written, _named, image_written, sound_written
from regard.inspect.written_draw import sound_figure, words_figure
from tests.conftest import real
from tests.tasks.seeing import Made, photo
from tests.tasks.test_image_captions import blip

CLIP = "speech/librivox_0880.wav"


def command(*words: object) -> str:
    found = CliRunner().invoke(app, ["attention", *map(str, words)], catch_exceptions=False)
    assert found.exit_code == 0
    return found.stdout


# Sound


@pytest.fixture(scope="module")
def whisper() -> Any:
    """(our model, the reference's, the folder)"""
    folder = real("checkpoints/whisper-tiny.en")
    transformers = pytest.importorskip("transformers")
    how = {"dtype": torch.float32, "attn_implementation": "eager"}
    theirs = transformers.WhisperForConditionalGeneration.from_pretrained(folder, **how).eval()
    return regard.load(folder, dtype=torch.float32), theirs, folder


def test_a_real_voice_is_followed_with_the_references_weights(whisper: Any) -> None:
    import soundfile
    import transformers

    ours, theirs, folder = whisper
    path = real("data") / CLIP
    found = sound_written(ours, path)
    assert "".join(found.tokens) == regard.pipeline("automatic-speech-recognition", ours)(path)["text"]
    samples, rate = soundfile.read(path, dtype="float32")
    ears = transformers.WhisperFeatureExtractor.from_pretrained(folder)
    features = ears(samples, sampling_rate=rate, return_tensors="pt").input_features
    ids = ours.processor.tokenizer("".join(found.tokens), add_special_tokens=False)["input_ids"]
    history = torch.tensor([[50257, 50362, *ids]])  # start of transcript, no times
    with torch.no_grad():
        expected = theirs(features, decoder_input_ids=history, output_attentions=True).cross_attentions
    moments = found.weights[0].shape[-1]
    assert moments * found.step == pytest.approx(len(samples) / rate, abs=0.02)
    assert len(found.weights) == len(expected) == 4
    for mine, layer in zip(found.weights, expected, strict=True):  # the row before a token is where it was chosen
        torch.testing.assert_close(mine, layer[0, :, 1 : 1 + len(ids), :moments], rtol=0, atol=2e-5)


def test_words_are_heard_one_after_the_other(whisper: Any) -> None:
    path = real("data") / CLIP
    found = sound_written(whisper[0], path)
    assert [word for word, _ in found.words][:4] == ["He", "was", "not", "an"]
    peaks = (found.mean(found.aligned).argmax(1) * found.step).tolist()
    assert peaks == sorted(peaks)
    timed = regard.pipeline("automatic-speech-recognition", whisper[0])(path, return_timestamps="word")["chunks"]
    spans = {chunk["text"].strip(): chunk["timestamp"] for chunk in timed}
    common = [(peak, spans[word]) for peak, (word, _) in zip(peaks, found.words, strict=True) if word in spans]
    assert len(common) >= 6 and all(start - 0.1 < peak < end + 0.1 for peak, (start, end) in common)


def test_a_given_text_and_a_recording_beyond_the_window(whisper: Any) -> None:
    import soundfile

    path = real("data") / CLIP
    found = sound_written(whisper[0], path, target="He was not an ill disposed young man")
    assert [word for word, _ in found.words] == "He was not an ill disposed young man".split()
    samples, rate = soundfile.read(path, dtype="float32")
    long = np.tile(samples, 12)
    assert len(long) / rate > 31
    found = sound_written(whisper[0], {"array": long, "sampling_rate": rate}, target="He was")
    assert found.cut and len(found.samples) == 30 * rate and found.weights[0].shape[-1] == 1500


def test_the_picture_of_a_sound(whisper: Any, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    path = real("data") / CLIP
    found = sound_written(whisper[0], path)
    wave, axis, bar = sound_figure(found, title="He").axes
    np.testing.assert_allclose(axis.images[0].get_array(), found.mean(found.aligned))
    assert axis.images[0].get_cmap().name == "viridis" and bar.get_ylabel() == "share of attention"
    assert axis.get_xlabel() == "seconds" and axis.get_xlim() == wave.get_xlim() == (0, pytest.approx(3.0, abs=0.02))
    assert [label.get_text() for label in axis.get_yticklabels()] == [word for word, _ in found.words]
    said = command(path, "-m", whisper[2], "-o", tmp_path / "x.png")
    assert "7 words x 3.00 seconds, 8 heads: He was not an" in said
    assert (tmp_path / "x.png").read_bytes()[:4] == b"\x89PNG"
    command(whisper[2], path, "-o", tmp_path / "x.json", "--layer", 3, "--head", 1)
    data = json.loads((tmp_path / "x.json").read_text())
    assert data["heads"] == [[3, 1]] and data["seconds"] == 0.02 and "".join(data["tokens"]).startswith(" He was not")
    assert np.shape(data["weights"]) == (1, len(data["tokens"]), found.weights[0].shape[-1])
    for words, message in [
        (["none.wav"], r"there is no file .*none\.wav"),
        ([path, "--head", 6], "head is 6; this model has heads 0 to 5"),
        ([path, "--kind", "rollout"], "kind is 'rollout'; allowed over a sound: cross"),
        ([path, path], "a checkpoint and one input are needed"),
    ]:
        with pytest.raises(ValueError, match=message):
            command("-m", whisper[2], *words, "-o", tmp_path / "y.png")
    assert not (tmp_path / "y.png").exists()


# Images


@pytest.fixture(scope="module")
def captioner(tmp_path_factory: pytest.TempPathFactory) -> Made:
    model, images, folder = blip(tmp_path_factory.mktemp("blip"), "BlipForConditionalGeneration")
    for name, parameter in model.named_parameters():
        if "crossattention.self.query.weight" in name:
            parameter.data.mul_(6)  # so that it looks somewhere
    model.save_pretrained(folder)
    return model, images, folder


def test_a_caption_looks_where_the_references_does(captioner: Made) -> None:
    theirs, images, folder = captioner
    ours = regard.load(folder)
    found = image_written(ours, photo(), target="the quick brown foxes")
    ids = ours.processor.tokenizer("the quick brown foxes", add_special_tokens=False)["input_ids"]
    assert len(ids) == len(found.tokens) > len(found.words) == 4  # a word in pieces
    theirs.set_attn_implementation("eager")
    with torch.no_grad():
        seen = theirs.vision_model(images(photo(), return_tensors="pt")["pixel_values"])[0]
        history = torch.tensor([[theirs.config.text_config.bos_token_id, *ids]])
        expected = theirs.text_decoder(history, encoder_hidden_states=seen, output_attentions=True).cross_attentions
    assert float(found.weights[0].std(-1).std()) > 0.005
    for mine, layer in zip(found.weights, expected, strict=True):
        torch.testing.assert_close(mine.flatten(2), layer[0, :, : len(ids), 1:], rtol=0, atol=1e-5)
    last = torch.stack([layer[0, :, found.words[3][1], 1:].mean((0, 1)) for layer in expected]).mean(0)
    torch.testing.assert_close(found.mean(found.all_heads())[3].flatten(), last, rtol=0, atol=1e-5)


def test_the_words_are_those_of_the_task(captioner: Made) -> None:
    ours = regard.load(captioner[2])
    found = image_written(ours, photo())
    assert (
        " ".join(word for word, _ in found.words)
        == regard.pipeline("image-to-text", ours)(photo())[0]["generated_text"]
    )


def test_the_picture_of_a_caption(captioner: Made, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    folder = captioner[2]
    found = image_written(regard.load(folder), photo(), target="the quick brown fox")
    first, *panels, bar = words_figure(found, [(1, 2)]).axes
    assert first.get_title() == "image" and bar.get_ylabel() == "share of attention"
    for axis, title, map_ in zip(panels, ["the", "quick", "brown", "fox"], found.mean([(1, 2)]), strict=False):
        assert axis.get_title() == title
        np.testing.assert_allclose(axis.images[1].get_array(), map_)
    photo().save(tmp_path / "photo.png")
    said = command(folder, tmp_path / "photo.png", "-o", tmp_path / "x.png", "--target", "the quick brown fox")
    assert "4 words x 4 x 4 patches, 8 heads: the quick brown fox" in said
    assert "2 x 4 (layers x heads)" in command(
        folder, tmp_path / "photo.png", "-o", tmp_path / "x.png", "--kind", "self"
    )
    with pytest.raises(ValueError, match="layer is 2; this model has layers 0 to 1"):
        command(folder, tmp_path / "photo.png", "-o", tmp_path / "x.png", "--layer", 2)
    with pytest.raises(ValueError, match=r"there is no file .*none\.png"):
        command(folder, tmp_path / "none.png", "-o", tmp_path / "x.png")


def test_models_that_write_nothing_are_refused(reader: Path) -> None:
    with pytest.raises(ValueError, match="a BertModel writes nothing about sound"):
        sound_written(regard.load(reader), "x.wav")
    with pytest.raises(ValueError, match="a BertModel writes nothing about an image"):
        image_written(regard.load(reader), "x.png")


def test_tokens_are_joined_to_words() -> None:
    class Pieces:
        def decode(self, ids: list[int], **options: Any) -> str:
            return "".join([" old", "-s", "posed", " man", ".", " ", "\u00e9"][i] for i in ids)

    named = _named(Pieces(), range(7))
    assert named["words"] == [("old-sposed", [0, 1, 2]), ("man. \u00e9", [3, 4, 5, 6])]
    weights = [torch.rand(2, 7, 3), torch.rand(2, 7, 3)]
    found = Written(weights=weights, **named)
    expected = (weights[0][1, :3] + weights[1][0, :3]).mean(0) / 2
    torch.testing.assert_close(found.mean([(0, 1), (1, 0)])[0], expected)
