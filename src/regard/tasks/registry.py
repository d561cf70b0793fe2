"""The tasks, as data: names, which head serves each, and where its class is. Reading this imports no torch."""

from __future__ import annotations

import difflib
import importlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from regard.tasks.base import Task

_TRANSLATION = re.compile(r"translation_(?P<src_lang>.+?)_to_(?P<tgt_lang>.+)")


@dataclass(frozen=True, kw_only=True)
class TaskInfo:
    """One task. `heads` serve it, the first being the one to ask for; "features" is had from any checkpoint.

    `home` is "module:Class" within `regard.tasks`, `example` an input as a user would type it. `modality` is what the
    words of the command line stand for: texts, or names of files to see or hear. `needs`: parts of the processor.
    """

    name: str
    home: str
    heads: tuple[str, ...]
    about: str
    example: str
    aliases: tuple[str, ...] = ()
    modality: Literal["text", "image", "video", "audio"] = "text"
    needs: tuple[str, ...] = ("tokenizer",)

    def load(self) -> type[Task[Any]]:
        """The class that does it, imported now."""
        module, _, name = self.home.partition(":")
        found: type[Task[Any]] = getattr(importlib.import_module(f"regard.tasks.{module}"), name)
        return found


TASKS: tuple[TaskInfo, ...] = (
    TaskInfo(
        name="text-generation",
        home="generation:TextGeneration",
        heads=("causal-lm",),
        about="Continue a text, or answer in a conversation",
        example='"Once upon a time,"',
    ),
    TaskInfo(
        name="code-completion",
        home="code:CodeCompletion",
        heads=("causal-lm",),
        about="Continue code, or fill the gap between a prefix and a suffix",
        example='"def add(a, b):"',
    ),
    TaskInfo(
        name="text2text-generation",
        home="seq2seq:Text2Text",
        heads=("seq2seq-lm",),
        about="Rewrite a text as an encoder-decoder was trained to",
        example='"question: Who wrote Faust? context: Goethe wrote Faust."',
    ),
    TaskInfo(
        name="translation",
        home="seq2seq:Translation",
        heads=("seq2seq-lm",),
        about="Translate; translation_en_to_de and the like name the languages",
        example='"Good morning!"',
    ),
    TaskInfo(
        name="summarization",
        home="seq2seq:Summarization",
        heads=("seq2seq-lm",),
        about="Say a long text in a few sentences",
        example='"(an article)"',
    ),
    TaskInfo(
        name="fill-mask",
        home="masks:FillMask",
        heads=("masked-lm", "seq2seq-lm"),
        about="Guess the words that are masked",
        example='"Paris is the [MASK] of France."',
    ),
    TaskInfo(
        name="text-classification",
        home="classification:TextClassification",
        heads=("classification",),
        about="Label a text, or a pair of texts",
        example='"I like this."',
        aliases=("sentiment-analysis",),
    ),
    TaskInfo(
        name="zero-shot-classification",
        home="classification:ZeroShotClassification",
        heads=("classification",),
        about="Label a text with labels of your own, by a model of textual entailment",
        example='"The match ended in a draw." candidate_labels="sports, politics"',
    ),
    TaskInfo(
        name="token-classification",
        home="tokens:TokenClassification",
        heads=("token-classification",),
        about="Label the words of a text: names of people, parts of speech",
        example='"My name is Sarah and I live in London."',
        aliases=("ner",),
    ),
    TaskInfo(
        name="question-answering",
        home="answers:QuestionAnswering",
        heads=("question-answering",),
        about="Find the words of a text that answer a question",
        example='question="Where do I live?" context="I live in London."',
    ),
    TaskInfo(
        name="feature-extraction",
        home="embeddings:FeatureExtraction",
        heads=("features",),
        about="The vector of every token",
        example='"a text"',
    ),
    TaskInfo(
        name="sentence-similarity",
        home="embeddings:SentenceSimilarity",
        heads=("features",),
        about="How alike sentences are, and one vector for each",
        example='source_sentence="A cat." sentences=["A kitten.", "A car."]',
    ),
    TaskInfo(
        name="automatic-speech-recognition",
        home="speech:SpeechRecognition",
        heads=("seq2seq-lm", "ctc"),
        about="Write down what is said in a recording; -o talk.srt writes subtitles",
        example="talk.wav",
        modality="audio",
        needs=("tokenizer", "feature_extractor"),
    ),
    TaskInfo(
        name="audio-classification",
        home="sounds:AudioClassification",
        heads=("classification",),
        about="Label a sound",
        example="sound.wav",
        modality="audio",
        needs=("feature_extractor",),
    ),
    TaskInfo(
        name="image-classification",
        home="images:ImageClassification",
        heads=("classification",),
        about="Label an image",
        example="photo.jpg",
        modality="image",
        needs=("image_processor",),
    ),
    TaskInfo(
        name="image-feature-extraction",
        home="images:ImageFeatureExtraction",
        heads=("features",),
        about="The vectors of an image",
        example="photo.jpg",
        modality="image",
        needs=("image_processor",),
    ),
    TaskInfo(
        name="zero-shot-image-classification",
        home="pairs:ZeroShotImageClassification",
        heads=("features",),
        about="Label an image with labels of your own",
        example='photo.jpg candidate_labels="a cat, a dog"',
        modality="image",
        needs=("tokenizer", "image_processor"),
    ),
    TaskInfo(
        name="image-text-retrieval",
        home="retrieval:ImageTextRetrieval",
        heads=("features",),
        about="Find images by words or by an image: image=photo.jpg",
        example='"a dog in the snow" index=PHOTOS keep=photos.safetensors',
        needs=("image_processor",),
    ),
    TaskInfo(
        name="image-to-text",
        home="captions:ImageToText",
        heads=("seq2seq-lm",),
        about="Say what is in an image",
        example="photo.jpg",
        modality="image",
        needs=("tokenizer", "image_processor"),
    ),
    TaskInfo(
        name="visual-question-answering",
        home="captions:VisualQuestionAnswering",
        heads=("seq2seq-lm",),
        about="Answer a question about an image",
        example='image=photo.jpg question="What colour is the cat?"',
        modality="image",
        needs=("tokenizer", "image_processor"),
        aliases=("vqa",),
    ),
    TaskInfo(
        name="image-text-to-text",
        home="image_text:ImageTextToText",
        heads=("causal-lm",),
        about="Answer in words about images, or talk about them: regard chat --image",
        example='photo.jpg "What is this?"',
        modality="image",
        needs=("tokenizer", "image_processor"),
    ),
    TaskInfo(
        name="object-detection",
        home="detection:ObjectDetection",
        heads=("object-detection",),
        about="Find what is where in an image; -o boxes.png draws it",
        example="photo.jpg",
        modality="image",
        needs=("image_processor",),
    ),
    TaskInfo(
        name="image-segmentation",
        home="segmentation:ImageSegmentation",
        heads=("universal-segmentation", "semantic-segmentation"),
        about="Say of every pixel what it is; -o masks.png draws it",
        example="photo.jpg",
        modality="image",
        needs=("image_processor",),
    ),
    TaskInfo(
        name="video-classification",
        home="video:VideoClassification",
        heads=("classification",),
        about="Label a video",
        example="clip.mp4",
        modality="video",
        needs=("image_processor",),
    ),
)


def find_task(name: str) -> tuple[TaskInfo, dict[str, Any]]:
    """The task of a name or alias, and the options that the name itself carries (languages of a translation).

    Raises ValueError with the near names and all that there are.
    """
    known = {alias: info for info in TASKS for alias in (info.name, *info.aliases)}
    if name in known:
        return known[name], {}
    languages = _TRANSLATION.fullmatch(name) if isinstance(name, str) else None
    if languages:
        return known["translation"], languages.groupdict()
    near = difflib.get_close_matches(str(name), [*known, "translation_xx_to_yy"], 3)
    hint = f"did you mean {' or '.join(map(repr, near))}? " if near else ""
    raise ValueError(f"task is {name!r:.80}; {hint}allowed: {', '.join([*known, 'translation_xx_to_yy'])}")


def tasks_for(heads: Iterable[str], parts: Iterable[str] = ("tokenizer",), *, video: bool = False) -> list[str]:
    """The names of the tasks that models with these heads, and these parts of a processor, can do; for those that read
    `video`, an image processor is for its frames.

    Text has its vectors from any head; text beside images or sound only what a task asks of both.
    """
    have, there = set(heads), set(parts)
    if there == {"tokenizer"}:
        have.add("features")
    elif "causal-lm" in have:
        have.discard("features")  # a decoder that also sees: its vectors are of words
    fitting = [info for info in TASKS if there.issuperset(info.needs) and have & set(info.heads)]
    fitting = [info for info in fitting if (info.modality == "video") == video]
    alone = there != {"tokenizer"}
    return [info.name for info in fitting if not (alone and info.needs == ("tokenizer",))]
