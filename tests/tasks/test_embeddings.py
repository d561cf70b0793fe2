"""Sentence vectors against formulas over the reference's hidden states, and against published numbers."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import regard

TEXTS = ["The quick brown fox.", "Hello, world!", "It jumps over the lazy dog, doesn't it? Of course it does."]


def hidden(model: Any, folder: Path, text: str) -> Tensor:
    import transformers

    row = transformers.BertTokenizer.from_pretrained(folder)(text, return_tensors="pt")
    with torch.no_grad():
        return model(**row).last_hidden_state[0]


def arranged(folder: Path, to: Path, pooling: dict[str, Any] | None, *more: str, length: int | None = None) -> Path:
    """A copy with the files that sentence-transformers writes."""
    shutil.copytree(folder, to)
    kinds = ["Transformer", *(["Pooling"] if pooling is not None else []), *more]
    paths = ["", *(f"{i}_{kind}" for i, kind in enumerate(kinds[1:], 1))]
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (kind, path) in enumerate(zip(kinds, paths, strict=True))
    ]
    (to / "modules.json").write_text(json.dumps(modules))
    if pooling is not None:
        (to / "1_Pooling").mkdir()
        (to / "1_Pooling" / "config.json").write_text(json.dumps({"word_embedding_dimension": 32, **pooling}))
    if length is not None:
        (to / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": length, "do_lower_case": False}))
    return to


FORMULAS = {
    "pooling_mode_cls_token": lambda h: h[0],
    "pooling_mode_mean_tokens": lambda h: h.mean(0),
    "pooling_mode_max_tokens": lambda h: h.amax(0),
    "pooling_mode_lasttoken": lambda h: h[-1],
    "pooling_mode_mean_sqrt_len_tokens": lambda h: h.sum(0) / len(h) ** 0.5,
    "pooling_mode_weightedmean_tokens": lambda h: (
        sum((i + 1) * row for i, row in enumerate(h)) / sum(range(len(h) + 1))
    ),
}


@pytest.mark.parametrize("mode", FORMULAS)
@pytest.mark.parametrize("unit", [False, True])
def test_pooling_as_the_checkpoint_says(make: Any, tmp_path: Path, mode: str, unit: bool) -> None:
    model, folder = make("bert", "BertModel")
    flags = {name: name == mode for name in FORMULAS}
    path = arranged(folder, tmp_path / "m", flags, *(["Normalize"] if unit else []))
    pipe = regard.pipeline("sentence-similarity", path)
    expected = torch.stack([FORMULAS[mode](hidden(model, folder, text)) for text in TEXTS])
    if unit:
        expected = expected / expected.norm(dim=1, keepdim=True)
    found = pipe.embed(TEXTS)
    assert found.shape == expected.shape and torch.allclose(found, expected, atol=1e-4)
    a = expected / expected.norm(dim=1, keepdim=True)
    scores = pipe({"source_sentence": TEXTS[0], "sentences": TEXTS[1:]})
    assert scores == pytest.approx((a[1:] @ a[0]).tolist(), abs=1e-5)
    assert all(isinstance(score, float) for score in scores)


def test_newer_files_name_the_mode(make: Any, tmp_path: Path) -> None:
    model, folder = make("bert", "BertModel")
    path = arranged(folder, tmp_path / "m", {"pooling_mode": "lasttoken"})
    found = regard.pipeline("sentence-similarity", path).embed(TEXTS[0])
    assert torch.allclose(found[0], hidden(model, folder, TEXTS[0])[-1], atol=1e-4)


def test_several_modes_are_put_end_to_end(make: Any, tmp_path: Path) -> None:
    model, folder = make("bert", "BertModel")
    flags = {"pooling_mode_cls_token": True, "pooling_mode_max_tokens": True}
    found = regard.pipeline("sentence-similarity", arranged(folder, tmp_path / "m", flags)).embed(TEXTS[0])[0]
    h = hidden(model, folder, TEXTS[0])
    assert torch.allclose(found, torch.cat([h[0], h.amax(0)]), atol=1e-4)


def test_without_files_the_mean_of_length_one(make: Any) -> None:
    model, folder = make("bert", "BertForMaskedLM")
    found = regard.pipeline("sentence-similarity", folder).embed(TEXTS)
    mean = hidden(model.bert, folder, TEXTS[2]).mean(0)
    assert torch.allclose(found[2], mean / mean.norm(), atol=1e-5)


def test_every_way_to_ask(make: Any, tmp_path: Path) -> None:
    pipe = regard.pipeline("sentence-similarity", make("bert", "BertModel")[1])
    item = {"source_sentence": TEXTS[0], "sentences": TEXTS[1:]}
    once = pipe(item)
    assert pipe(source_sentence=TEXTS[0], sentences=TEXTS[1:]) == pytest.approx(once)
    assert pipe([item, item]) == [pytest.approx(once)] * 2
    lines = tmp_path / "items.jsonl"
    lines.write_text(json.dumps(item) + "\n" + json.dumps(item))
    assert list(pipe(lines)) == [pytest.approx(once)] * 2


def test_the_longest_sentence_of_the_files_counts(make: Any, tmp_path: Path) -> None:
    folder = make("bert", "BertModel")[1]
    path = arranged(folder, tmp_path / "m", {"pooling_mode_mean_tokens": True}, length=20)
    pipe = regard.pipeline("sentence-similarity", path)
    with pytest.raises(ValueError, match=r"item 2: input has .* tokens; this model takes at most 20; pass truncation"):
        pipe.embed(TEXTS)
    assert pipe.embed(TEXTS, truncation=True).shape == (3, 32)


def test_files_that_say_something_else_are_refused(make: Any, tmp_path: Path) -> None:
    folder = make("bert", "BertModel")[1]
    with pytest.raises(ValueError, match="has a module 'Dense'; allowed: Transformer, Pooling, Normalize"):
        regard.pipeline("sentence-similarity", arranged(folder, tmp_path / "a", {}, "Dense"))
    with pytest.raises(ValueError, match="pooling_mode_strange"):
        regard.pipeline("sentence-similarity", arranged(folder, tmp_path / "b", {"pooling_mode_strange": True}))
    broken = arranged(folder, tmp_path / "c", {})
    (broken / "modules.json").write_text("[{")
    with pytest.raises(ValueError, match=r"modules.json is not valid JSON"):
        regard.pipeline("sentence-similarity", broken)
    outside = arranged(folder, tmp_path / "d", {})
    (outside / "modules.json").write_text('[{"type": "x.Pooling", "path": "../../secret"}]')
    with pytest.raises(ValueError, match="refused"):
        regard.pipeline("sentence-similarity", outside)


def test_what_is_wrong_is_said(make: Any) -> None:
    pipe = regard.pipeline("sentence-similarity", make("bert", "BertModel")[1])
    with pytest.raises(ValueError, match=r"sentences\[1\] is None"):
        pipe({"source_sentence": "a", "sentences": ["b", None]})
    with pytest.raises(ValueError, match=r'allowed: {"source_sentence"'):
        pipe("a text")
    with pytest.raises(ValueError, match="no texts to embed"):
        pipe.embed([])


def test_published_numbers_of_minilm() -> None:
    """all-MiniLM-L6-v2: the first numbers and the cosines on its page and in the sentence-transformers guide."""
    folder = os.environ.get("REGARD_TEST_MINILM")
    if not folder:
        pytest.skip("set REGARD_TEST_MINILM to a folder with all-MiniLM-L6-v2")
    pipe = regard.pipeline("sentence-similarity", folder)
    vector = pipe.embed("This is an example sentence")[0]
    assert vector[:5].tolist() == pytest.approx([0.067657, 0.063496, 0.048713, 0.079305, 0.037448], abs=1e-5)
    a, b, c = pipe.embed(["The weather is lovely today.", "It's so sunny outside!", "He drove to the stadium."])
    assert [float(a @ b), float(a @ c), float(b @ c)] == pytest.approx([0.6660, 0.1046, 0.1411], abs=1e-4)
