"""Tiny data files and tiny new models for each kind of training, as a recipe would name them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

SENTENCES = [f"{who} {what} {where}" for who in ("the fox", "a dog") for what in ("sees", "hears", "likes")
             for where in ("the wood", "a river", "the old house", "rain")]  # fmt: skip

GPT = {"model_type": "gpt2", "n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 32}
BERT = {
    **{"model_type": "bert", "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2},
    **{"intermediate_size": 64, "max_position_embeddings": 48},
}
T5 = {"model_type": "t5", "d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4}
BART = {
    **{"model_type": "bart", "d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "max_position_embeddings": 48},
    **{"encoder_attention_heads": 2, "decoder_attention_heads": 2, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64},
}
EYES = {"image_processor_type": "ViTImageProcessor", "size": {"height": 16, "width": 16}}
VIT = {
    **{"model_type": "vit", "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2},
    **{"intermediate_size": 64, "image_size": 16, "patch_size": 8, "processor": EYES},
}
DINO = {
    **{"model_type": "dinov2", "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2},
    **{"image_size": 16, "patch_size": 4, "processor": {**EYES, "image_processor_type": "BitImageProcessor"}},
}
EARS = {"feature_extractor_type": "Wav2Vec2FeatureExtractor", "feature_size": 1, "sampling_rate": 16000}
WAVES = {
    **{"model_type": "wav2vec2", "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2},
    **{"intermediate_size": 64, "conv_dim": [16, 16], "conv_kernel": [10, 8], "conv_stride": [20, 16]},
    **{"num_feat_extract_layers": 2, "num_conv_pos_embeddings": 4, "num_conv_pos_embedding_groups": 2},
    "processor": {**EARS, "processor_class": "Wav2Vec2Processor"},
}
WHISPER = {
    **{"model_type": "whisper", "d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "num_mel_bins": 80},
    **{"encoder_attention_heads": 2, "decoder_attention_heads": 2, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64},
    **{"max_target_positions": 40, "decoder_start_token_id": 1},
    "processor": {"feature_extractor_type": "WhisperFeatureExtractor", "processor_class": "WhisperProcessor"},
}
SIDE = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
CLIP = {
    "model_type": "clip",
    "text_config": {**SIDE, "vocab_size": 80, "max_position_embeddings": 24, "eos_token_id": 3},
    "vision_config": {**SIDE, "image_size": 16, "patch_size": 8},
    "projection_dim": 16,
    "processor": {"image_processor_type": "CLIPImageProcessor", "processor_class": "CLIPProcessor",
                  "size": {"shortest_edge": 16}, "crop_size": {"height": 16, "width": 16}},
}  # fmt: skip
BLIP = {
    "model_type": "blip",
    "text_config": {**SIDE, "vocab_size": 80, "max_position_embeddings": 24, "encoder_hidden_size": 32,
                    "bos_token_id": 2, "eos_token_id": 3, "sep_token_id": 3, "pad_token_id": 0},
    "vision_config": {**SIDE, "image_size": 16, "patch_size": 8},
    "projection_dim": 16,
    "processor": {"image_processor_type": "BlipImageProcessor", "processor_class": "BlipProcessor",
                  "size": {"height": 16, "width": 16}},
}  # fmt: skip
PIECES = {"kind": "wordpiece", "vocab_size": 80}


def table(path: Path, rows: list[dict[str, Any]]) -> str:
    """A .jsonl file, or a .csv file of plain values."""
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        lines = [",".join(rows[0]), *(",".join(str(value) for value in row.values()) for row in rows)]
        path.write_text("\n".join(lines) + "\n")
    return str(path)


def texts(folder: Path) -> str:
    path = folder / "texts.txt"
    path.write_text("\n".join(SENTENCES) + "\n")
    return str(path)


def labelled(folder: Path) -> str:
    """Foxes and dogs, twelve of each."""
    return table(folder / "animals.csv", [{"text": s, "label": "fox" if "fox" in s else "dog"} for s in SENTENCES])


def marked(folder: Path) -> str:
    rows = [{"text": s, "label": [w for w in ("fox", "rain", "sees") if w in s]} for s in SENTENCES]
    return table(folder / "several.jsonl", rows)


def rated(folder: Path) -> str:
    return table(folder / "rated.csv", [{"text": s, "label": len(s) / 10} for s in SENTENCES])


def compared(folder: Path) -> str:
    pairs = zip(SENTENCES, SENTENCES[1:] + SENTENCES[:1], strict=True)
    rows = [{"text": a, "other": b, "label": int(a[:3] == b[:3])} for a, b in pairs]
    return table(folder / "pairs.csv", rows)


def aligned(folder: Path) -> str:
    rows = [{"source": s, "target": " ".join(reversed(s.split()))} for s in SENTENCES]
    return table(folder / "aligned.csv", rows)


def tagged(folder: Path) -> str:
    rows = [{"words": s.split(), "tags": ["D" if w in ("the", "a") else "W" for w in s.split()]} for s in SENTENCES]
    return table(folder / "tagged.jsonl", rows)


def asked(folder: Path) -> str:
    rows = []
    for s in SENTENCES:
        what = s.split()[-1]
        answers = {"text": [what], "answer_start": [s.rindex(what)]}
        rows.append({"question": "where is it", "context": s, "answers": answers})
    return table(folder / "asked.jsonl", rows)


def matched(folder: Path) -> str:
    rows = [{"first": s, "second": s.replace("the", "a")} for s in SENTENCES]
    return table(folder / "matched.csv", rows)


def pictures(folder: Path, *, count: int = 12) -> str:
    """Dark and light noise, by class, in folders."""
    import PIL.Image

    rng = np.random.default_rng(0)
    for i in range(2 * count):
        place = folder / "pictures" / ("dark" if i % 2 else "light")
        place.mkdir(parents=True, exist_ok=True)
        noise = rng.integers(0, 99, (20, 24, 3)) + (0 if i % 2 else 150)
        PIL.Image.fromarray(noise.astype(np.uint8)).save(place / f"{i:02}.png")
    return str(folder / "pictures")


def captioned(folder: Path) -> str:
    pictures(folder)
    files = sorted((folder / "pictures").rglob("*.png"))
    rows = [{"image": str(f), "text": f"a {f.parent.name} picture"} for f in files]
    return table(folder / "captions.csv", rows)


def sounds(folder: Path, *, texts: bool = True) -> str:
    import soundfile

    rng = np.random.default_rng(0)
    place = folder / "sounds"
    rows = []
    place.mkdir(exist_ok=True)
    for i in range(8):
        soundfile.write(place / f"{i}.wav", rng.normal(0, 0.1, 3200 + 320 * i), 16000)
        rows.append(
            {"audio": str(place / f"{i}.wav"), **({"text": "ab" * (i % 2) + "c"} if texts else {"label": i % 2})}
        )
    return table(folder / "sounds.csv", rows)


def spoken(folder: Path) -> str:
    return sounds(folder, texts=False)


Case = tuple[Any, Any, Any, Callable[[Path], str], dict[str, Any]]
"""An objective, a new model, its tokenizer, what makes its data, and more of [data]."""

CASES: dict[str, Case] = {
    "documents": ("causal-lm", GPT, {"kind": "bpe", "vocab_size": 300}, texts, {}),
    "blocks": ("causal-lm", GPT, "characters", texts, {"by": "file", "block": 16}),
    "prompts": ("causal-lm", GPT, "characters", aligned, {"prompt": "source", "text": "target", "max_length": 32}),
    "masks": ("masked-lm", BERT, PIECES, texts, {}),
    "whole words": ({"name": "masked-lm", "whole_words": True, "part": 0.3}, BERT, PIECES, texts, {}),
    "spans": ("span-corruption", T5, {"kind": "unigram", "vocab_size": 160}, texts, {}),
    "denoising": ("denoising", BART, {"kind": "bpe", "vocab_size": 300}, texts, {}),
    "translation": ("seq2seq", T5, {"kind": "unigram", "vocab_size": 60}, aligned, {"prefix": "turn: "}),
    "captions": ("seq2seq", BLIP, PIECES, captioned, {}),
    "transcripts": ("seq2seq", WHISPER, {"kind": "bpe", "vocab_size": 270}, sounds, {}),
    "classes": ("classification", BERT, PIECES, labelled, {}),
    "balanced": ({"name": "classification", "weights": "balanced"}, BERT, PIECES, labelled, {"clean": True}),
    "several": ({"name": "classification", "kind": "multi"}, BERT, PIECES, marked, {}),
    "ratings": ({"name": "classification", "kind": "regression"}, BERT, PIECES, rated, {}),
    "pairs": ("classification", BERT, PIECES, compared, {"pair": "other"}),
    "images": ("classification", VIT, "", pictures, {"keep": True}),
    "sounds": ("classification", WAVES, "", spoken, {}),
    "tags": ("token-classification", BERT, PIECES, tagged, {}),
    "questions": ("question-answering", BERT, PIECES, asked, {}),
    "letters": ("ctc", WAVES, "characters", sounds, {}),
    "image and text": ("image-text", CLIP, PIECES, captioned, {}),
    "sentences": ("sentence-pairs", BERT, PIECES, matched, {}),
    "views": (
        {
            "name": "self-distillation",
            "large": 16,
            "small": 8,
            "count": 2,
            "prototypes": 16,
            "hidden": 16,
            "bottleneck": 8,
        },
        *(DINO, "", pictures, {}),
    ),
}
