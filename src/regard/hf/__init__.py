"""The names that tutorials type, as thin doors to the same things: `from regard.hf import AutoModel, BertTokenizer`.

Any class name of any family is here: `XxxModel`, `XxxForMaskedLM`, ... open a checkpoint with that head, `XxxTokenizer`
its tokenizer, `XxxProcessor` and `XxxImageProcessor` what reads its images and sound, `XxxConfig` its config.json.
Nothing is imported before it is named.
"""

from __future__ import annotations

import importlib
from typing import Any

AUTO_MODELS = {
    "AutoModel": "features",
    "AutoModelForCausalLM": "causal-lm",
    "AutoModelForMaskedLM": "masked-lm",
    "AutoModelForSeq2SeqLM": "seq2seq-lm",
    "AutoModelForSequenceClassification": "classification",
    "AutoModelForTokenClassification": "token-classification",
    "AutoModelForQuestionAnswering": "question-answering",
    "AutoModelForImageClassification": "classification",
    "AutoModelForZeroShotImageClassification": "features",
    "AutoModelForObjectDetection": "object-detection",
    "AutoModelForSemanticSegmentation": "semantic-segmentation",
    "AutoModelForUniversalSegmentation": "universal-segmentation",
    "AutoModelForVideoClassification": "classification",
    "AutoModelForImageTextToText": "causal-lm, seq2seq-lm",
    "AutoModelForVision2Seq": "causal-lm, seq2seq-lm",
    "AutoModelForVisualQuestionAnswering": "seq2seq-lm",
    "AutoModelForSpeechSeq2Seq": "seq2seq-lm",
    "AutoModelForCTC": "ctc",
    "AutoModelForAudioClassification": "classification",
}
"""Names that open any family, and the head that they mean; of several, the first that the family has."""

_SENSES = {
    "Image": "image",
    "Vision": "image",
    "Visual": "image",
    "Video": "video",
    "Speech": "sound",
    "Audio": "sound",
}
"""What a model must read to be opened by an `AutoModelFor...` with this word in its name."""

_HOMES = {
    "pipeline": "regard",
    "GenerationConfig": "regard.hf.doors",
    "Trainer": "regard.hf.trainer",
    "TrainingArguments": "regard.hf.trainer",
    **dict.fromkeys(("LoraConfig", "IA3Config", "PrefixTuningConfig", "TaskType"), "regard.adapt"),
    **dict.fromkeys(("get_peft_model", "PeftModel", "PeftConfig"), "regard.hf.peft"),
}
_SUFFIXES = ("Tokenizer", "TokenizerFast", "Config")
_PROCESSORS = {
    "ImageProcessor": "image_processor",
    "ImageProcessorFast": "image_processor",
    "FeatureExtractor": "feature_extractor",
    "Processor": None,
}
"""Endings of the names of processors, and the part that each means (None: all there is)."""

__all__ = [*_HOMES, *AUTO_MODELS, "AutoConfig", "AutoTokenizer", *(f"Auto{kind}" for kind in _PROCESSORS)]


def __getattr__(name: str) -> Any:
    if name.startswith("_"):
        raise AttributeError(f"module 'regard.hf' has no attribute {name!r}")
    found = getattr(importlib.import_module(_HOMES[name]), name) if name in _HOMES else _door(name)
    globals()[name] = found
    return found


def _door(name: str) -> Any:
    doors = importlib.import_module("regard.hf.doors")  # `from regard.hf import doors` would ask __getattr__ first
    if name in AUTO_MODELS:
        sense = next((s for word, s in _SENSES.items() if word in name), None)
        return doors.ModelDoor(name=name, head=AUTO_MODELS[name], sense=sense)
    if name.endswith(_SUFFIXES[:2]):
        return doors.TokenizerDoor(name=name)
    ending = next((ending for ending in _PROCESSORS if name.endswith(ending)), None)
    if ending is not None:
        return doors.ProcessorDoor(name=name, part=_PROCESSORS[ending])
    return doors.config_door(name) if name.endswith(_SUFFIXES[2]) else doors.model_door(name)


def __dir__() -> list[str]:
    return __all__
