"""Text together with images or sound: `Processor.from_folder(path)` joins a tokenizer with the processor beside it."""

from __future__ import annotations

import inspect
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from regard.checkpoint.files import read_json, write_json

from .audio import AudioProcessor
from .ctc import CTCTokenizer
from .features import Features
from .image import FILES, ImageProcessor, flat
from .image_settings import SETTINGS
from .text import Tokenizer
from .tokenizer_read import read_tokenizer


@dataclass(frozen=True, kw_only=True)
class ProcessorKind:
    """How one kind of processor joins its parts."""

    hears: bool = False
    """Whether the part beside the tokenizer is for sound, not for images."""
    ctc: bool = False
    """Whether the tokenizer is one of characters for speech recognition."""
    text_options: Mapping[str, Any] = field(default_factory=dict)
    """What the tokenizer is called with unless the caller says otherwise."""
    expands: bool = False
    """Whether each image token of a text is repeated, once for each vector that its image becomes."""
    interleaves: bool = False
    """Whether prompts are lists of texts and images."""


KINDS: dict[str, ProcessorKind] = {
    "CLIPProcessor": ProcessorKind(),
    "AltCLIPProcessor": ProcessorKind(),
    "VisionTextDualEncoderProcessor": ProcessorKind(),
    "SiglipProcessor": ProcessorKind(),
    "BlipProcessor": ProcessorKind(text_options={"return_token_type_ids": False}),
    "LlavaProcessor": ProcessorKind(expands=True),
    "IdeficsProcessor": ProcessorKind(interleaves=True),
    "WhisperProcessor": ProcessorKind(hears=True),
    "Wav2Vec2Processor": ProcessorKind(hears=True, ctc=True),
}
BY_MODEL: dict[str, str] = {
    "clip": "CLIPProcessor",
    "altclip": "AltCLIPProcessor",
    "vision-text-dual-encoder": "VisionTextDualEncoderProcessor",
    "siglip": "SiglipProcessor",
    "blip": "BlipProcessor",
    "llava": "LlavaProcessor",
    "idefics": "IdeficsProcessor",
    "whisper": "WhisperProcessor",
    **dict.fromkeys(("wav2vec2", "hubert", "wavlm", "unispeech", "unispeech-sat", "sew"), "Wav2Vec2Processor"),
}
"""model_type of config.json -> kind, for folders whose files name none."""

_OWN = ("patch_size", "vision_feature_select_strategy", "num_additional_image_tokens", "image_token", "image_size")
_CONFIGS = (*FILES, "tokenizer_config.json")


def _options(call: Any) -> frozenset[str]:
    named = inspect.signature(call).parameters.values()
    return frozenset(p.name for p in named if p.kind is p.KEYWORD_ONLY)


TEXT_OPTIONS = _options(Tokenizer.__call__)
IMAGE_OPTIONS = frozenset((*SETTINGS, "return_tensors"))
AUDIO_OPTIONS = _options(AudioProcessor.__call__)


class Processor:
    """A tokenizer and an image or audio processor that belong together.

    Parts: `tokenizer`, `image_processor`, `feature_extractor`; the last two are None where the other one is there.
    """

    def __init__(
        self,
        class_name: str,
        tokenizer: Any,
        *,
        image_processor: ImageProcessor | None = None,
        feature_extractor: AudioProcessor | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        """`class_name` is one of KINDS; `settings` are those of processor_config.json, such as patch_size."""
        if class_name not in KINDS:
            raise ValueError(f"processor_class is {class_name!r}; known: {', '.join(KINDS)}")
        self.class_name, self.kind = class_name, KINDS[class_name]
        self.tokenizer = tokenizer
        self.image_processor, self.feature_extractor = image_processor, feature_extractor
        if (feature_extractor if self.kind.hears else image_processor) is None:
            raise ValueError(f"{class_name} needs {'a feature_extractor' if self.kind.hears else 'an image_processor'}")
        self.settings = {name: value for name, value in (settings or {}).items() if name in _OWN and value is not None}
        for name in ("patch_size", "num_additional_image_tokens"):
            value = self.settings.get(name, 1)
            if (
                isinstance(value, bool)
                or not isinstance(value, int)
                or not 0 <= value <= 4096
                or (not value and name[0] == "p")
            ):
                raise ValueError(f"{class_name}: {name} is {value!r}; allowed: a whole number up to 4096")
        self.image_token = str(self.settings.get("image_token", "<image>"))

    @staticmethod
    def from_folder(path: str | os.PathLike[str]) -> Processor:
        """Read the processor in a folder; ValueError names the file that is missing or wrong."""
        folder = Path(path)
        found = {name: read_json(folder / name) for name in _CONFIGS if (folder / name).is_file()}
        class_name = next((raw["processor_class"] for raw in found.values() if raw.get("processor_class")), None)
        if class_name is None and (folder / "config.json").is_file():
            class_name = BY_MODEL.get(str(read_json(folder / "config.json").get("model_type")))
        if class_name not in KINDS:
            raise ValueError(f"{folder}: processor_class is {class_name!r}; known: {', '.join(KINDS)}")
        kind = KINDS[class_name]
        tokenizer = read_tokenizer(folder, ctc=kind.ctc)
        parts: dict[str, Any] = {"settings": found.get(FILES[0], {})}
        if kind.hears:
            parts["feature_extractor"] = AudioProcessor.from_folder(folder)
        else:
            parts["image_processor"] = ImageProcessor.from_folder(folder)
        _read_template(folder, tokenizer, found.get(FILES[0], {}))
        if kind.interleaves:
            from .interleaved import InterleavedProcessor

            return InterleavedProcessor(class_name, tokenizer, **parts)
        return Processor(class_name, tokenizer, **parts)

    def save_pretrained(self, save_directory: str | os.PathLike[str]) -> tuple[str, ...]:
        """Write processor_config.json and the tokenizer's files into a folder and return their paths."""
        folder = Path(save_directory)
        written = self.tokenizer.save_pretrained(folder)
        config: dict[str, Any] = {"processor_class": self.class_name, **self.settings}
        if self.image_processor is not None:
            config["image_processor"] = self.image_processor.to_dict()
        if self.feature_extractor is not None:
            config["feature_extractor"] = self.feature_extractor.to_dict()
        write_json(folder / FILES[0], config)
        return (*written, str(folder / FILES[0]))

    def __repr__(self) -> str:
        return f"Processor({self.class_name}, {self.tokenizer}, {self.image_processor or self.feature_extractor})"

    @property
    def media(self) -> Any:
        """The part beside the tokenizer."""
        return self.feature_extractor if self.kind.hears else self.image_processor

    @property
    def model_input_names(self) -> list[str]:
        """Names of what a call gives."""
        return list(dict.fromkeys([*self.tokenizer.model_input_names, *self.media.model_input_names]))

    def __call__(
        self,
        inputs: Any = None,
        text: Any = None,
        *,
        images: Any = None,
        audio: Any = None,
        text_kwargs: Mapping[str, Any] | None = None,
        images_kwargs: Mapping[str, Any] | None = None,
        audio_kwargs: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> Features:
        """Process images (or sound) and text together; either may be left out.

        `inputs` is images or audio, as the processor is for. `options` are those of the parts, each passed to every
        part that knows it; `text_kwargs`, `images_kwargs` and `audio_kwargs` go to one. Gives the text's ids and the
        images' pixel_values, or the sound's features with the text's ids as `labels`.
        """
        media = self._media(inputs, images, audio)
        if media is None and text is None:
            raise ValueError(f"{self.class_name} needs text, {'audio' if self.kind.hears else 'images'} or both")
        more = {"text": text_kwargs, "media": audio_kwargs if self.kind.hears else images_kwargs}
        if (images_kwargs if self.kind.hears else audio_kwargs) is not None:
            raise ValueError(f"{self.class_name} takes no {'images_kwargs' if self.kind.hears else 'audio_kwargs'}")
        to_text, to_media = self._route(options, more)
        _check_text(text)
        seen = Features() if media is None else self.media(media, **to_media)
        if text is None:
            return seen
        if self.kind.expands:
            text = self._expand([text] if isinstance(text, str) else list(text), media, seen)
        encoded = self.tokenizer(text, **{**self.kind.text_options, **to_text})
        if self.kind.expands:
            self._check_kept(text, encoded)
        if not self.kind.hears:
            return Features({**encoded, **seen}, getattr(encoded, "encodings", None))
        if media is None:
            return Features(dict(encoded), getattr(encoded, "encodings", None))
        seen["labels"] = encoded["input_ids"]
        return seen

    def _media(self, inputs: Any, images: Any, audio: Any) -> Any:
        wrong = images if self.kind.hears else audio
        if wrong is not None:
            raise ValueError(f"{self.class_name} takes no {'images' if self.kind.hears else 'audio'}")
        named = audio if self.kind.hears else images
        if inputs is not None and named is not None:
            raise ValueError(f"{'audio' if self.kind.hears else 'images'} is given twice")
        return named if inputs is None else inputs

    def _route(self, options: Mapping[str, Any], more: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """Options for the tokenizer and for the other part."""
        of_text = _options(type(self.tokenizer).__call__)
        of_media = AUDIO_OPTIONS if self.kind.hears else IMAGE_OPTIONS
        unknown = sorted(set(options) - of_text - of_media)
        unknown += sorted(set(more["text"] or ()) - of_text) + sorted(set(more["media"] or ()) - of_media)
        if unknown:
            raise ValueError(f"{unknown[0]} is no option of {self.class_name} or its parts")
        to_text = {name: value for name, value in options.items() if name in of_text}
        to_media = {name: value for name, value in options.items() if name in of_media}
        return {**to_text, **(more["text"] or {})}, {**to_media, **(more["media"] or {})}

    # image tokens

    def num_image_tokens(self, height: int, width: int) -> int:
        """Vectors that pixel values of height x width become, and so image tokens in the text."""
        if "patch_size" not in self.settings:
            raise ValueError(f"{self.class_name}: patch_size is missing in {FILES[0]}, so images have no known length")
        patch = self.settings["patch_size"]
        count = (height // patch) * (width // patch) + int(self.settings.get("num_additional_image_tokens", 0))
        return count - 1 if self.settings.get("vision_feature_select_strategy") == "default" else count

    def _expand(self, texts: list[str], images: Any, seen: Features) -> list[str]:
        """Each image token of the texts, in order, as often as its image has vectors."""
        places = sum(text.count(self.image_token) for text in texts)
        count = 0 if images is None else len(flat(images))
        if places != count:
            raise ValueError(f"the texts have {places} {self.image_token} tokens for {count} images")
        lengths = iter([self.num_image_tokens(*pixels.shape[-2:]) for pixels in seen.get("pixel_values", [])])
        out = []
        for text in texts:
            first, *rest = text.split(self.image_token)
            out.append(first + "".join(self.image_token * next(lengths) + part for part in rest))
        return out

    def _check_kept(self, texts: list[str], encoded: Any) -> None:
        """No truncation may cut into an image."""
        token = self.tokenizer.convert_tokens_to_ids(self.image_token)
        for row, text in zip(encoded["input_ids"], texts, strict=False):
            kept = sum(int(index) == token for index in row)
            if kept != text.count(self.image_token):
                raise ValueError(
                    f"{text.count(self.image_token)} image tokens became {kept}: {self.image_token} is no token of "
                    f"this tokenizer, or truncation cut them; pass a larger max_length"
                )

    # text

    def decode(self, token_ids: Any, skip_special_tokens: bool = False, **options: Any) -> Any:
        """As the tokenizer's."""
        return self.tokenizer.decode(token_ids, skip_special_tokens, **options)

    def batch_decode(self, sequences: Any, skip_special_tokens: bool = False, **options: Any) -> Any:
        """As the tokenizer's."""
        return self.tokenizer.batch_decode(sequences, skip_special_tokens, **options)

    def apply_chat_template(self, conversation: Sequence[Any], **options: Any) -> Any:
        """A conversation as the model's own prompt: text, in which images are tokens, unless `tokenize=True`."""
        return self.tokenizer.apply_chat_template(conversation, **{"tokenize": False, **options})


def _check_text(text: Any) -> None:
    if text is None or isinstance(text, str):
        return
    if not isinstance(text, (list, tuple)) or not all(isinstance(item, (str, list, tuple)) for item in text):
        raise ValueError(f"text is {type(text).__name__}; allowed: a string or a list of strings; images come first")


def _read_template(folder: Path, tokenizer: Any, joined: Mapping[str, Any]) -> None:
    """Older folders keep the chat template with the processor."""
    if isinstance(tokenizer, Tokenizer) and tokenizer.chat_template is None:
        file = folder / "chat_template.json"
        found = read_json(file).get("chat_template") if file.is_file() else joined.get("chat_template")
        if isinstance(found, str):
            tokenizer.chat_template = found


def read_processor(
    path: str | os.PathLike[str],
) -> Processor | ImageProcessor | AudioProcessor | Tokenizer | CTCTokenizer:
    """Whatever processor a folder holds: a joined one, or the only part that is there.

    ValueError where there is none, or where its files cannot be read.
    """
    folder = Path(path)
    found = {name: read_json(folder / name) for name in _CONFIGS if (folder / name).is_file()}
    model = str(read_json(folder / "config.json").get("model_type")) if (folder / "config.json").is_file() else ""
    named = next((raw["processor_class"] for raw in found.values() if raw.get("processor_class")), BY_MODEL.get(model))
    media = {name: raw for name, raw in found.items() if name in FILES}
    text = any(
        (folder / name).is_file() for name in ("tokenizer.json", "tokenizer_config.json", "vocab.json", "vocab.txt")
    )
    if media and text and named in KINDS:
        return Processor.from_folder(folder)
    if not media:
        return read_tokenizer(folder)
    kinds = [
        str(raw.get(name, "")) for raw in media.values() for name in ("feature_extractor_type", "image_processor_type")
    ]
    hears = any(isinstance(raw.get("feature_extractor"), dict) for raw in media.values())
    from .audio import BY_MODEL as SOUNDS
    from .audio import KINDS as EARS

    if (
        hears
        or any(kind.removesuffix("FeatureExtractor") in EARS for kind in kinds)
        or (not any(kinds) and model in SOUNDS)
    ):
        return AudioProcessor.from_folder(folder)
    return ImageProcessor.from_folder(folder)
