"""The names that open any model of images, video or sound: what the reference gives, and clear refusals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("PIL.Image")
transformers = pytest.importorskip("transformers", reason="the reference library is not installed (extra: oracle)")

import regard  # noqa: E402
import regard.hf as hf  # noqa: E402
from tests.models import oracle, senses  # noqa: E402

# A name, a class that it opens, and how the reference is given its input where a row of sound is all there is.
SEEN = [
    ("AutoModelForVideoClassification", "videomae", "VideoMAEForVideoClassification"),
    ("AutoModelForVideoClassification", "timesformer", "TimesformerForVideoClassification"),
    ("AutoModelForImageTextToText", "llava", "LlavaForConditionalGeneration"),
    ("AutoModelForImageTextToText", "idefics", "IdeficsForVisionText2Text"),
    ("AutoModelForImageTextToText", "blip", "BlipForConditionalGeneration"),
]
HEARD = [
    ("AutoModelForSpeechSeq2Seq", "whisper", "WhisperForConditionalGeneration"),
    ("AutoModelForCTC", "wav2vec2", "Wav2Vec2ForCTC"),
    ("AutoModelForCTC", "hubert", "HubertForCTC"),
    ("AutoModelForAudioClassification", "ast", "ASTForAudioClassification"),
    ("AutoModelForAudioClassification", "wav2vec2", "Wav2Vec2ForSequenceClassification"),
    ("AutoModelForAudioClassification", "whisper", "WhisperForAudioClassification"),
]


def opened(name: str, family: str, architecture: str) -> tuple[Any, Any]:
    """The reference's model of a class, opened by the reference's class of this name, and ours."""
    variant = next(case[1] for case in oracle.sense_cases() if case[0] == family and case[2] == architecture)
    model, folder = oracle.reference(family, variant, architecture)
    theirs = getattr(transformers, name).from_pretrained(folder, attn_implementation="eager").eval()
    assert type(theirs).__name__ == type(model).__name__ == architecture
    ours = getattr(hf, name).from_pretrained(folder).eval()
    assert isinstance(ours, getattr(hf, name)) and isinstance(ours, getattr(hf, architecture))
    return theirs, ours


@pytest.mark.parametrize(("name", "family", "architecture"), SEEN)
def test_what_sees(name: str, family: str, architecture: str) -> None:
    theirs, ours = opened(name, family, architecture)
    given = senses.inputs(theirs)
    senses.compare(senses.outputs(ours, given), senses.outputs(theirs, given))


@pytest.mark.parametrize(("name", "family", "architecture"), HEARD)
@torch.no_grad()
def test_what_hears(name: str, family: str, architecture: str) -> None:
    theirs, ours = opened(name, family, architecture)
    given = {theirs.main_input_name: torch.stack(oracle.random_rows(theirs, (7, 7)))}
    if name == "AutoModelForSpeechSeq2Seq":
        given["decoder_input_ids"] = torch.stack(oracle.random_words(theirs, (5, 5)))
    oracle.close(ours(**given).logits, theirs(**given).logits)


def test_the_older_name_of_what_writes_about_images() -> None:
    for family, architecture in (("blip", "BlipForConditionalGeneration"), ("llava", "LlavaForConditionalGeneration")):
        _, folder = oracle.reference(family, family, architecture)
        assert type(hf.AutoModelForVision2Seq.from_pretrained(folder)) is type(regard.load(folder))
    answers = oracle.reference("blip", "blip", "BlipForQuestionAnswering")[1]
    for name in ("AutoModelForVisualQuestionAnswering", "AutoModelForVision2Seq"):
        assert getattr(hf, name).from_pretrained(answers).architecture == "BlipForQuestionAnswering"


@pytest.mark.parametrize(
    ("name", "family", "architecture", "message"),
    [
        ("AutoModelForVideoClassification", "vit", "ViTForImageClassification", "ViT.*reads image; .* reads video"),
        (
            "AutoModelForImageClassification",
            "videomae",
            "VideoMAEForVideoClassification",
            "reads video; .* reads image",
        ),
        ("AutoModelForImageTextToText", "gpt2", "GPT2LMHeadModel", "reads text; .* reads image"),
        ("AutoModelForImageTextToText", "vit", "ViTForImageClassification", "causal-lm.*ViT.* has "),
        ("AutoModelForSpeechSeq2Seq", "t5", "T5ForConditionalGeneration", "T5.*reads text; .* reads sound"),
        ("AutoModelForSpeechSeq2Seq", "wav2vec2", "Wav2Vec2ForCTC", "seq2seq-lm.*wav2vec 2.0.* has "),
        ("AutoModelForCTC", "whisper", "WhisperForConditionalGeneration", "ctc.*Whisper.* has "),
        ("AutoModelForAudioClassification", "bert", "BertForSequenceClassification", "reads text; .* reads sound"),
    ],
    ids=str,
)
def test_models_of_other_senses_are_refused(name: str, family: str, architecture: str, message: str) -> None:
    variant = next(case[1] for case in oracle._cases() if case[0] == family and case[2] == architecture)
    folder: Path = oracle.reference(family, variant, architecture)[1]
    with pytest.raises(ValueError, match=message):
        getattr(hf, name).from_pretrained(folder)
    with pytest.raises(ValueError, match=message):
        getattr(hf, name).from_config(hf.AutoConfig.from_pretrained(folder))
    assert not isinstance(regard.load(folder), getattr(hf, name))
