"""A smaller model out of a larger one: some of its layers, and the part of its vocabulary that some texts need.

It must be trained before use: what the layers that are gone did is gone.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch

from regard import front
from regard.checkpoint.load import from_config
from regard.models.model import Model
from regard.models.registry import family_of

_LAYER = re.compile(r"(?<=\.stack\.layers\.)\d+")


def shrink(
    model: Model, *, layers: Sequence[int] | None = None, vocabulary: int | None = None, texts: Iterable[str] = ()
) -> Model:
    """A new model of these layers of an encoder, its tokens at most `vocabulary`: those of `texts`, the most frequent
    first, then the first of its own.

    Its head is new, where the checkpoint had none. Raises ValueError for layers that are not there, and a vocabulary
    that is no WordPiece.
    """
    count = len(model.encoder.stack.layers) if model.encoder is not None and model.decoder is None else 0
    chosen = list(range(count)) if layers is None else list(layers)
    if not count or "num_hidden_layers" not in model.raw:
        raise ValueError(f"{model.name or 'this model'} is not an encoder of num_hidden_layers, which shrinking needs")
    if not chosen or not all(type(i) is int and 0 <= i < count for i in chosen):
        raise ValueError(f"layers is {chosen}; allowed: numbers from 0 to {count - 1}")
    raw, kept, processor = {**model.raw, "num_hidden_layers": len(chosen)}, None, model.processor
    if vocabulary is not None:
        kept, processor = _fewer_tokens(model.processor, vocabulary, texts)
        raw["vocab_size"] = len(kept)
    small = from_config(raw, head=family_of(raw).architectures[model.architecture].head)
    weights = dict(model.named_parameters())
    with torch.no_grad():
        for name, parameter in small.named_parameters():
            source = weights[_LAYER.sub(lambda found: str(chosen[int(found[0])]), name)]
            parameter.copy_(source[kept] if source.shape != parameter.shape else source)  # a row for each token
    small.name, small.folder, small.fresh, small.processor = model.name, model.folder, model.fresh, processor
    return small.train(model.training)


def _fewer_tokens(tokenizer: Any, most: int, texts: Iterable[str]) -> tuple[list[int], Any]:
    """The numbers of the tokens that stay, rising, and the tokenizer that knows no others."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tokenizer.save_pretrained(folder)
        spec = json.loads((folder / "tokenizer.json").read_text("utf-8"))
        if spec["model"]["type"] != "WordPiece":
            raise ValueError(f"vocabulary is {most}; allowed for WordPiece only, not {spec['model']['type']}")
        kept = _chosen(tokenizer, spec, most, texts)
        new = {old: i for i, old in enumerate(kept)}
        spec["model"]["vocab"] = {token: new[i] for token, i in spec["model"]["vocab"].items() if i in new}
        for token in spec["added_tokens"]:
            token["id"] = new[token["id"]]
        for token in (spec["post_processor"] or {}).get("special_tokens", {}).values():
            token["ids"] = [new[i] for i in token["ids"]]
        (folder / "tokenizer.json").write_text(json.dumps(spec, ensure_ascii=False), "utf-8")
        (folder / "vocab.txt").unlink(missing_ok=True)
        return kept, front.processor(folder)


def _chosen(tokenizer: Any, spec: dict[str, Any], most: int, texts: Iterable[str]) -> list[int]:
    """Special tokens, letters of ASCII, then what occurs in the texts, then the first of the vocabulary."""
    vocab: dict[str, int] = spec["model"]["vocab"]
    given = list(texts)
    found = Counter(
        i for row in (tokenizer(given, add_special_tokens=False)["input_ids"] if given else []) for i in row
    )
    letters = [i for token, i in vocab.items() if token.isascii() and len(token.removeprefix("##")) == 1]
    words = [i for token, i in sorted(vocab.items(), key=lambda item: item[1]) if not token.startswith("[unused")]
    order = [token["id"] for token in spec["added_tokens"]] + letters + [i for i, _ in found.most_common()] + words
    kept = list(dict.fromkeys(order))[:most]
    if most < len(spec["added_tokens"]) + len(letters):
        least = len(spec["added_tokens"]) + len(letters)
        raise ValueError(f"vocabulary is {most}; allowed: {least} tokens and more")
    return sorted(kept)
