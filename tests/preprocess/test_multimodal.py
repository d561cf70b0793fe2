"""Text with images or sound against the reference's processors."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

Image = pytest.importorskip("PIL.Image")
pytest.importorskip("soundfile")
transformers = pytest.importorskip("transformers")

from regard.preprocess.audio import AudioProcessor  # noqa: E402
from regard.preprocess.ctc import CTCTokenizer  # noqa: E402
from regard.preprocess.image import ImageProcessor  # noqa: E402
from regard.preprocess.interleaved import looks_at  # noqa: E402
from regard.preprocess.multimodal import Processor, read_processor  # noqa: E402
from regard.preprocess.text import Tokenizer  # noqa: E402
from tests.preprocess.folders import CORPUS  # noqa: E402
from tests.preprocess.test_audio import speech  # noqa: E402
from tests.preprocess.test_audio_ctc import VOCAB  # noqa: E402
from tests.preprocess.test_image import picture, reference  # noqa: E402

DATA = Path(os.environ.get("REGARD_TEST_DATA", Path(__file__).parents[3] / "shared"))
Folder = Callable[[str], Path]


def check_same(ours: Any, theirs: Any) -> None:
    assert set(ours) == set(theirs)
    for name in theirs:
        got, want = ours[name], theirs[name]
        if isinstance(want, torch.Tensor):
            assert got.shape == want.shape and got.dtype == want.dtype, name
            torch.testing.assert_close(got, want, rtol=0, atol=1e-4)
        else:
            assert got == want, name


def theirs_of(name: str, folder: Path, **more: Any) -> Any:
    """The reference's tokenizer of a folder, with tokens added."""
    config = json.loads((folder / "tokenizer_config.json").read_text())
    found = getattr(transformers, config["tokenizer_class"]).from_pretrained(folder)
    if more:
        found.add_special_tokens(more)
    return found


def saved(processor: Any, folder: Path) -> Processor:
    processor.save_pretrained(folder)
    return Processor.from_folder(folder)


@pytest.mark.parametrize(
    ("class_name", "tokenizer", "kind"),
    [("CLIPProcessor", "clip", "CLIP"), ("BlipProcessor", "bert", "Blip"), ("SiglipProcessor", "t5", "Siglip")],
)
def test_images_and_text_agree(class_name: str, tokenizer: str, kind: str, folder: Folder, tmp_path: Path) -> None:
    theirs = getattr(transformers, class_name)(reference(kind), theirs_of(class_name, folder(tokenizer)))
    ours = saved(theirs, tmp_path)
    assert ours.class_name == class_name and isinstance(ours.image_processor, ImageProcessor)
    assert isinstance(ours.tokenizer, Tokenizer) and ours.feature_extractor is None
    images, texts = [picture(40, 50), picture(60, 33)], ["a photo of a cat", "the quick brown fox, twice over"]
    for options in (
        {"padding": True},
        {"padding": "max_length", "max_length": 12, "truncation": True},
        {"padding": True, "size": {"height": 32, "width": 32}, "do_center_crop": False},
        {"text_kwargs": {"padding": "max_length", "max_length": 20}, "images_kwargs": {"do_normalize": False}},
    ):
        found = ours(images, texts, return_tensors="pt", **options)
        check_same(found, theirs(images, texts, return_tensors="pt", **options))
    check_same(ours(text=texts[0], return_tensors="pt"), theirs(text=texts[0], return_tensors="pt"))
    check_same(ours(images=images, return_tensors="pt"), theirs(images=images, return_tensors="pt"))
    assert ours(text=texts)["input_ids"] == theirs(text=texts)["input_ids"]
    ids = found["input_ids"]
    assert ours.batch_decode(ids, skip_special_tokens=True) == theirs.batch_decode(ids, skip_special_tokens=True)


@pytest.mark.parametrize("lower", [True, False])
def test_siglip_reads_its_sentencepiece_model(lower: bool, folder: Folder, tmp_path: Path) -> None:
    (tmp_path / "spiece.model").write_bytes((folder("t5") / "spiece.model").read_bytes())
    config = {"tokenizer_class": "SiglipTokenizer", "model_max_length": 64, "do_lower_case": lower, "pad_token": "</s>"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({**config, "eos_token": "</s>", "unk_token": "<unk>"}))
    theirs = transformers.SiglipProcessor(reference("Siglip"), transformers.SiglipTokenizer.from_pretrained(tmp_path))
    ours = saved(theirs, tmp_path)
    for text in CORPUS:
        if "<unk>" not in text:  # names of special tokens inside of a text are found before it is changed
            assert ours(text=text)["input_ids"] == theirs(text=text)["input_ids"], text
    options = {"padding": "max_length", "truncation": True, "return_tensors": "pt"}
    check_same(
        ours(picture(40, 50), ["A photo of 2 cats, isn't it?", "no"], **options),
        theirs(picture(40, 50), ["A photo of 2 cats, isn't it?", "no"], **options),
    )
    ours.save_pretrained(tmp_path / "again")
    again = Processor.from_folder(tmp_path / "again")
    assert again(text=CORPUS)["input_ids"] == ours(text=CORPUS)["input_ids"]


LLAVA = [
    {"patch_size": 14, "vision_feature_select_strategy": "default", "num_additional_image_tokens": 1},
    {"patch_size": 16, "vision_feature_select_strategy": "full"},
]


@pytest.mark.parametrize("settings", LLAVA, ids=str)
def test_llava_agrees(settings: dict[str, Any], folder: Folder, tmp_path: Path) -> None:
    tokenizer = theirs_of("Llava", folder("llama"), additional_special_tokens=["<image>"], pad_token="<pad>")
    images = reference("Llava", size={"shortest_edge": 42}, crop_size={"height": 42, "width": 42})
    theirs = transformers.LlavaProcessor(images, tokenizer, **settings)
    ours = saved(theirs, tmp_path)
    assert ours.num_image_tokens(42, 42) == (9 if settings["patch_size"] == 14 else 4)
    text = ["USER: <image>\nWhat is this? ASSISTANT:", "two <image><image> of them", "none"]
    pictures = [picture(40, 50), picture(60, 33), picture(20, 20)]
    for options in ({}, {"crop_size": {"height": 56, "width": 42}}):
        found = ours(images=pictures, text=text, return_tensors="pt", padding=True, **options)
        check_same(found, theirs(images=pictures, text=text, return_tensors="pt", padding=True, **options))
        image = ours.tokenizer.convert_tokens_to_ids("<image>")
        assert int((found.input_ids == image).sum()) == 3 * ours.num_image_tokens(*found.pixel_values.shape[-2:])
    check_same(ours(pictures[0], text[0], return_tensors="pt"), theirs(pictures[0], text[0], return_tensors="pt"))
    check_same(ours(text="no image", return_tensors="pt"), theirs(text="no image", return_tensors="pt"))
    for wrong, given in ((text[:1], pictures), (text[:1], None), (["none"], pictures[:1])):
        with pytest.raises(ValueError, match=r"<image> tokens for \d images"):
            ours(given, wrong)
    with pytest.raises(ValueError, match="truncation cut them"):
        ours(pictures[:1], text[:1], truncation=True, max_length=5)


def test_llava_needs_its_patch_size(folder: Folder, tmp_path: Path) -> None:
    tokenizer = Tokenizer.from_folder(folder("llama"))
    ours = Processor("LlavaProcessor", tokenizer, image_processor=ImageProcessor("Llava"))
    with pytest.raises(ValueError, match="patch_size is missing"):
        ours(picture(20, 20), "<image> what?")
    with pytest.raises(ValueError, match="patch_size is 0"):
        Processor("LlavaProcessor", tokenizer, image_processor=ImageProcessor("Llava"), settings={"patch_size": 0})


@pytest.fixture(scope="module")
def idefics(folder: Folder, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Processor]:
    tokens = ["<fake_token_around_image>", "<image>", "<end_of_utterance>"]
    tokenizer = theirs_of("Idefics", folder("llama"), additional_special_tokens=tokens, pad_token="<pad>")
    theirs = transformers.IdeficsProcessor(reference("Idefics", image_size=24), tokenizer)
    return theirs, saved(theirs, tmp_path_factory.mktemp("idefics"))


def test_idefics_prompts_agree(idefics: tuple[Any, Processor]) -> None:
    theirs, ours = idefics
    one, two, three = picture(40, 50), picture(60, 33), picture(24, 24)
    prompts: list[Any] = [
        ["User:", one, "Describe this image.\nAssistant: ", "A cat. ", "User:", two, three, "And these?"],
        ["User:", "No image at all."],
        [one, "text", two],
    ]
    for options in (
        {},
        {"add_end_of_utterance_token": True},
        {"padding": "max_length", "max_length": 70},
    ):
        check_same(ours(text=prompts, **options), theirs(text=prompts, **options))
        check_same(ours(text=prompts[0], **options), theirs(text=prompts[0], **options))
        check_same(ours(text=prompts[1], **options), theirs(text=prompts[1], **options))
    check_same(ours([one, two], ["first", "second one"]), theirs([one, two], ["first", "second one"]))
    check_same(ours([[one, two], [three]], ["a", "b"]), theirs([[one, two], [three]], ["a", "b"]))
    cut = {"truncation": True, "max_length": 12}
    check_same(ours(text=prompts, **cut), theirs(text=prompts, **cut))
    # The reference asks the tokenizer's own add_eos_token first, wherever it has one.
    ended = ours(text=prompts, add_eos_token=True)
    check_same(ended, theirs(text=prompts, text_kwargs={"add_eos_token": True}))
    with pytest.raises(ValueError, match="3 texts for 2 images"):
        ours([one, two], ["a", "b", "c"])
    with pytest.raises(ValueError, match="name it in allow_hosts"):
        ours(text=["User:", "http://example.com/cat.png"])


def test_tokens_look_at_the_last_image_of_their_own_text() -> None:
    i, e = 9, 2  # image, end
    ids = torch.tensor([[1, i, 3, i, 4, e, 5, i, 6], [3, 3, e, 3, i, i, i, i, 3]])
    from transformers.models.idefics.processing_idefics import (
        image_attention_mask_for_packed_input_ids_pt,
        incremental_to_binary_attention_mask,
    )

    class Names:
        eos_token_id = e

        def convert_tokens_to_ids(self, token: str) -> int:
            return i

    want, _ = image_attention_mask_for_packed_input_ids_pt(ids, Names())
    assert torch.equal(looks_at(ids, i, e, 3), incremental_to_binary_attention_mask(want, "pt", num_classes=3))
    assert looks_at(ids, i, e, 3)[0].tolist()[4:7] == [[0, 1, 0], [0, 1, 0], [0, 0, 0]]


def test_whisper_agrees(folder: Folder, tmp_path: Path) -> None:
    extractor = transformers.WhisperFeatureExtractor(chunk_length=2)
    theirs = transformers.WhisperProcessor(extractor, theirs_of("Whisper", folder("whisper")))
    ours = saved(theirs, tmp_path)
    assert isinstance(ours.feature_extractor, AudioProcessor) and ours.image_processor is None
    clip = speech(9000)
    options = {"sampling_rate": 16000, "return_tensors": "pt"}
    check_same(ours(clip, **options), theirs(clip, **options))
    check_same(ours(audio=clip, text="hello there", **options), theirs(audio=clip, text="hello there", **options))
    check_same(ours(text=["hello", "a"]), theirs(text=["hello", "a"]))
    ids = ours(text="hello there")["input_ids"]
    assert ours.decode(ids, skip_special_tokens=True) == theirs.decode(ids, skip_special_tokens=True)


def test_wav2vec2_agrees(tmp_path: Path) -> None:
    (tmp_path / "vocab.json").write_text(json.dumps(VOCAB))
    tokenizer = transformers.Wav2Vec2CTCTokenizer(str(tmp_path / "vocab.json"))
    extractor = transformers.Wav2Vec2FeatureExtractor(return_attention_mask=True)
    theirs = transformers.Wav2Vec2Processor(extractor, tokenizer)
    ours = saved(theirs, tmp_path)
    assert isinstance(ours.tokenizer, CTCTokenizer)
    clips = [speech(3000), speech(2000, 1)]
    options = {"sampling_rate": 16000, "return_tensors": "pt", "padding": True}
    check_same(ours(clips, **options), theirs(clips, **options))
    check_same(
        ours(audio=clips, text=["HELLO", "YOU"], **options), theirs(audio=clips, text=["HELLO", "YOU"], **options)
    )
    logits = torch.randn(2, 40, len(tokenizer), generator=torch.Generator().manual_seed(0))
    assert ours.batch_decode(logits.argmax(-1)) == theirs.batch_decode(logits.argmax(-1))
    assert ours.decode(logits.argmax(-1)[0]) == theirs.decode(logits.argmax(-1)[0])


def test_older_folders_of_wav2vec2(tmp_path: Path) -> None:
    """As published in 2020: no processor_class, no tokenizer_class."""
    (tmp_path / "vocab.json").write_text(json.dumps(VOCAB))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": False, "word_delimiter_token": "|"}))
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"feature_size": 1, "sampling_rate": 16000}))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "wav2vec2"}))
    ours = read_processor(tmp_path)
    assert isinstance(ours, Processor) and isinstance(ours.tokenizer, CTCTokenizer)
    found = ours(np.zeros(500, np.int16), sampling_rate=8000, return_tensors="pt")
    assert found.input_values.shape == (1, 1000)


def test_what_we_save_the_reference_reads(folder: Folder, tmp_path: Path) -> None:
    theirs = transformers.CLIPProcessor(reference("CLIP"), theirs_of("CLIP", folder("clip")))
    ours = saved(theirs, tmp_path / "a")
    ours.save_pretrained(tmp_path / "b")
    again = transformers.CLIPProcessor.from_pretrained(tmp_path / "b", backend="pil")
    image, text = picture(40, 50), "a photo of a cat"
    check_same(
        Processor.from_folder(tmp_path / "b")(image, text, return_tensors="pt"),
        theirs(image, text, return_tensors="pt"),
    )
    assert again(text=text)["input_ids"] == ours(text=text)["input_ids"]
    assert type(again.image_processor).__name__.startswith("CLIPImageProcessor")
    assert json.loads((tmp_path / "b" / "processor_config.json").read_text())["processor_class"] == "CLIPProcessor"


def test_a_folder_gives_whatever_processor_it_holds(folder: Folder, tmp_path: Path) -> None:
    assert isinstance(read_processor(folder("bert")), Tokenizer)
    for name, kind in (("ViTImageProcessor", ImageProcessor), ("ASTFeatureExtractor", AudioProcessor)):
        part = tmp_path / name
        part.mkdir()
        key = "image_processor_type" if kind is ImageProcessor else "feature_extractor_type"
        (part / "preprocessor_config.json").write_text(json.dumps({key: name}))
        assert isinstance(read_processor(part), kind)
    bare = tmp_path / "bare"
    bare.mkdir()
    (bare / "preprocessor_config.json").write_text(json.dumps({"sampling_rate": 16000}))
    (bare / "config.json").write_text(json.dumps({"model_type": "hubert"}))
    assert isinstance(read_processor(bare), AudioProcessor)
    with pytest.raises(ValueError):
        read_processor(tmp_path)


def test_wrong_calls_are_named(folder: Folder, idefics: tuple[Any, Processor]) -> None:
    ours = Processor("CLIPProcessor", Tokenizer.from_folder(folder("clip")), image_processor=ImageProcessor("CLIP"))
    image = picture(10, 10)
    for call, reason in (
        (lambda: ours(), "needs text, images or both"),
        (lambda: ours(image, image), "images come first"),
        (lambda: ours(image, images=image), "images is given twice"),
        (lambda: ours(image, audio=[0.0]), "takes no audio"),
        (lambda: ours(image, "a", do_flip=True), "do_flip is no option"),
        (lambda: ours(image, "a", text_kwargs={"size": 3}), "size is no option"),
        (lambda: ours(image, "a", audio_kwargs={}), "takes no audio_kwargs"),
        (lambda: Processor("OurProcessor", None), "processor_class is 'OurProcessor'; known: CLIPProcessor"),
        (lambda: Processor("WhisperProcessor", None), "needs a feature_extractor"),
        (lambda: Processor.from_folder(folder("bert")), "processor_class is None"),
        (lambda: idefics[1](image), "text is missing"),
        (lambda: idefics[1](text=["a"], return_tensors="np"), "must be 'pt'"),
    ):
        with pytest.raises(ValueError, match=reason):
            call()


def test_a_real_checkpoint_reads_whole() -> None:
    path = DATA / "checkpoints" / "whisper-tiny.en"
    if not path.is_dir():
        pytest.skip(f"no {path}; set REGARD_TEST_DATA")
    ours = read_processor(path)
    assert isinstance(ours, Processor) and ours.class_name == "WhisperProcessor"
    clip = json.loads((path / "expected.json").read_text())["clips"][0]
    assert ours(DATA / clip["file"], return_tensors="pt").input_features.shape == (1, 80, 3000)
    assert ours.decode(clip["token_ids"]) == clip["text"]
