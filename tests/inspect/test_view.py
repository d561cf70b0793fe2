"""Attention over a text, its picture, and the command that draws it."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

import regard
from regard.cli import app
from regard.inspect.draw import MAX_TOKENS, heads_figure
from regard.inspect.rollout import rollout
from regard.inspect.view import attention_of

TEXT = "the cat sat on a mat ."
TOKENS = ["[CLS]", "the", "cat", "sat", "on", "a", "mat", ".", "[SEP]"]


def call(*words: object, fails: bool = False):
    done = CliRunner().invoke(app, [str(word) for word in words])
    assert (done.exit_code != 0) == fails, done.output
    return done


def test_self_attention_of_an_encoder(reader: Path) -> None:
    view = attention_of(str(reader), TEXT)
    assert view.rows == view.columns == TOKENS
    model = regard.load(reader)
    with torch.no_grad(), regard.capture(model) as seen:
        model(**model.processor(TEXT, return_tensors="pt"))
    assert [w.shape for w in view.weights] == [(2, 9, 9)]
    assert torch.equal(view.weights[0], seen.attention[0][0])
    found = attention_of(model, TEXT, kind="rollout").weights
    assert torch.equal(found[0], rollout(seen.attention))


def test_attention_of_an_encoder_decoder(translator: Path) -> None:
    model = regard.load(translator)
    own = attention_of(model, "Good morning!")
    assert own.rows == own.columns
    assert [w.shape for w in own.weights] == [(4, len(own.rows), len(own.rows))] * 2
    cross = attention_of(model, "Good morning!", kind="cross", target="Guten Morgen!")
    assert cross.columns == own.columns
    assert cross.rows[0] == "<pad>"  # what the decoder starts with
    assert [w.shape for w in cross.weights] == [(4, len(cross.rows), len(cross.columns))] * 2
    torch.testing.assert_close(cross.weights[1].sum(-1), torch.ones(4, len(cross.rows)))
    written = attention_of(model, "Good morning!", kind="cross")
    ids = model.generate(**model.processor("Good morning!", return_tensors="pt"))[0].tolist()
    assert written.rows == model.processor.convert_ids_to_tokens(ids)


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        (TEXT, {"kind": "sideways"}, "kind is 'sideways'; allowed: self, cross, rollout"),
        (TEXT, {"kind": "cross"}, "BertModel has no cross-attention"),
        ("", {}, "text is empty"),
    ],
)
def test_what_cannot_be_seen_is_refused(reader: Path, text: str, options: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        attention_of(str(reader), text, **options)


def png_size(path: Path) -> tuple[int, int]:
    data = path.read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    return struct.unpack(">II", data[16:24])


def test_the_command_draws_a_picture(reader: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    done = call("attention", reader, TEXT, "-o", tmp_path / "heads.png")
    assert "1 x 2 (layers x heads), 9 x 9 tokens" in done.output
    assert min(png_size(tmp_path / "heads.png")) > 100
    assert [path.name for path in tmp_path.iterdir()] == ["heads.png"]
    call("attention", reader, TEXT, "-o", tmp_path / "one.svg", "--layer", 0, "--head", 1)
    assert (tmp_path / "one.svg").read_text().startswith("<?xml")
    call("attention", reader, TEXT, "-o", tmp_path / "all.pdf", "--kind", "rollout")
    assert (tmp_path / "all.pdf").read_bytes().startswith(b"%PDF")


def test_the_command_writes_numbers(reader: Path, tmp_path: Path) -> None:
    call("attention", reader, TEXT, "-o", tmp_path / "heads.json")
    found = json.loads((tmp_path / "heads.json").read_text())
    assert found["rows"] == found["columns"] == TOKENS
    assert torch.equal(torch.tensor(found["weights"][0]), attention_of(str(reader), TEXT).weights[0])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["-o", "heads.gif"], "allowed: a name that ends in .png, .svg, .pdf or .json"),
        (["-o", "no/such/folder/heads.png"], "there is no folder 'no/such/folder'"),
        (["-o", "heads.json", "--layer", "1"], "layer is 1; this model has layers 0 to 0"),
        (["-o", "heads.json", "--head", "-1"], "head is -1; this model has heads 0 to 1"),
    ],
)
def test_the_command_refuses(reader: Path, tmp_path: Path, monkeypatch, words: list[str], message: str) -> None:
    monkeypatch.chdir(tmp_path)
    done = call("attention", reader, TEXT, *words, fails=True)
    assert isinstance(done.exception, ValueError)
    assert message in str(done.exception)
    assert list(tmp_path.iterdir()) == []


def test_the_picture_shows_the_weights() -> None:
    pytest.importorskip("matplotlib")
    weights = [torch.rand(2, 3, 4), torch.rand(2, 3, 4)]
    figure = heads_figure(weights, ["a", "b", "$c"], ["1", "2", "3", "4"], "title")
    grid = [axis for axis in figure.axes if axis.images]
    assert len(grid) == 4
    shown = [torch.as_tensor(axis.images[0].get_array().data) for axis in grid]
    assert all(torch.allclose(s.float(), w) for s, w in zip(shown, [h for w in weights for h in w], strict=True))
    assert [label.get_text() for label in grid[0].get_yticklabels()] == ["a", "b", r"\$c"]
    with pytest.raises(ValueError, match="3 x 3 labels"):
        heads_figure(weights, ["a", "b", "c"])


def test_a_long_text_is_drawn_in_part_and_says_so() -> None:
    pytest.importorskip("matplotlib")
    many = [str(i) for i in range(MAX_TOKENS + 6)]
    figure = heads_figure([torch.rand(1, len(many), len(many))], many)
    assert figure.axes[0].images[0].get_array().shape == (MAX_TOKENS, MAX_TOKENS)
    assert f"first {MAX_TOKENS} tokens" in figure.get_suptitle()
