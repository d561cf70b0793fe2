"""A hub cache on disk with small models of the reference library under well-known ids."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch

from tests.preprocess import folders

TRANSLATOR = "Helsinki-NLP/opus-mt-en-de"


def make(cache: Path, work: Path) -> dict[str, Path]:
    """Fill `cache` with gpt2, bert-base-uncased and a translator; gives the folder from which each was filled."""
    made = {"gpt2": _gpt2, "bert-base-uncased": _bert, TRANSLATOR: _marian}
    sources = {}
    for number, (name, build) in enumerate(made.items()):
        sources[name] = work / str(number)
        sources[name].mkdir(parents=True)
        torch.manual_seed(number)
        build(sources[name])
        publish(cache, name, sources[name])
    return sources


def publish(cache: Path, repo_id: str, source: Path) -> None:
    """Lay a folder out as the hub's client does: files by their hash, a snapshot of links, a note of the commit."""
    repo = cache / f"models--{repo_id.replace('/', '--')}"
    commit = hashlib.sha1(repo_id.encode()).hexdigest()
    snapshot = repo / "snapshots" / commit
    for folder in (snapshot, repo / "blobs", repo / "refs"):
        folder.mkdir(parents=True)
    for path in sorted(source.iterdir()):
        data = path.read_bytes()
        name = hashlib.sha256(data).hexdigest()
        (repo / "blobs" / name).write_bytes(data)
        (snapshot / path.name).symlink_to(f"../../blobs/{name}")
    (repo / "refs" / "main").write_text(commit)


def _vocab_size(folder: Path) -> int:
    return len(json.loads((folder / "vocab.json").read_text(encoding="utf-8")))


def _save(model: Any, folder: Path) -> None:
    for parameter in model.parameters():
        if parameter.ndim > 1:
            parameter.data.mul_(8)  # sharper, so that what it writes is not all the same
    model.eval().save_pretrained(folder)


def _gpt2(folder: Path) -> None:
    import transformers

    folders.FOLDERS["gpt2"](folder)
    end = json.loads((folder / "vocab.json").read_text(encoding="utf-8"))["<|endoftext|>"]
    config = transformers.GPT2Config(
        vocab_size=_vocab_size(folder),
        n_embd=32,
        n_layer=2,
        n_head=4,
        n_positions=64,
        bos_token_id=end,
        eos_token_id=end,
    )
    _save(transformers.GPT2LMHeadModel(config), folder)
    path = folder / "generation_config.json"  # a pipeline samples; from one token, so that the test knows which
    path.write_text(json.dumps({**json.loads(path.read_text()), "top_k": 1}))


def _bert(folder: Path) -> None:
    import transformers

    words = (*folders.wordpiece(True, folders.BERT), "transformers", "amazing", "hello")
    words = tuple(dict.fromkeys((*words, "are", "!")))
    (folder / "vocab.txt").write_text("\n".join(words) + "\n", encoding="utf-8")
    settings = {"tokenizer_class": "BertTokenizer", "do_lower_case": True, "model_max_length": 64}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    config = transformers.BertConfig(
        vocab_size=len(words), hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48,
        max_position_embeddings=64,
    )  # fmt: skip
    _save(transformers.BertForMaskedLM(config), folder)  # as published: with the head of pre-training


def _marian(folder: Path) -> None:
    import transformers

    folders.FOLDERS["marian"](folder)
    pad = json.loads((folder / "vocab.json").read_text(encoding="utf-8"))["<pad>"]
    config = transformers.MarianConfig(
        vocab_size=_vocab_size(folder), d_model=32, encoder_layers=2, decoder_layers=2, encoder_attention_heads=4,
        decoder_attention_heads=4, encoder_ffn_dim=48, decoder_ffn_dim=48, max_position_embeddings=64,
        activation_function="swish", scale_embedding=True, pad_token_id=pad, decoder_start_token_id=pad,
        eos_token_id=0, forced_eos_token_id=0,
    )  # fmt: skip
    model = transformers.MarianMTModel(config)
    model.generation_config.num_beams, model.generation_config.max_length = 4, 24
    model.generation_config.bad_words_ids = [[pad]]
    _save(model, folder)
