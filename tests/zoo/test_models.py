"""Every model of the package: what its card says, its size, what it is right about, and what it makes of nonsense."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import regard
from regard.checkpoint.find import embedded_names, find
from regard.cli import app
from regard.tasks.registry import find_task
from regard.training.judge import judge
from regard.training.recipe import read_recipe
from regard.zoo.card import Card, cards, megabytes, read_card, readme
from tests.conftest import ROOT, real

NAMES = embedded_names()
EACH, ALL = 15, 45  # MB
FEW = 60


def card_of(name: str) -> Card:
    card = read_card(find(name))
    assert card is not None, f"{name} has no card"
    return card


def default(task: str) -> Any:
    """The pipeline of a task with the package's own model, or a skip."""
    name = next((card.name for card in cards() if task in card.tasks), None)
    if name is None:
        pytest.skip(f"no model for {task} is embedded yet")
    return regard.pipeline(task)


def test_all_together_are_small() -> None:
    sizes = {name: megabytes(find(name).path) for name in NAMES}
    assert sum(sizes.values()) <= ALL, sizes


@pytest.mark.parametrize("name", NAMES)
def test_it_is_small_and_loads(name: str) -> None:
    assert megabytes(find(name).path) <= EACH
    model = regard.load(name)
    assert model.name == name and model.processor is not None
    assert sum(p.numel() for p in model.parameters()) <= card_of(name).parameters


@pytest.mark.parametrize("name", NAMES)
def test_its_card_is_whole_and_speaks_of_its_recipe(name: str) -> None:
    card, folder = card_of(name), find(name).path
    page = (folder / "README.md").read_text()
    assert page == readme(card)
    for said in (
        card.data,
        card.licence,
        card.weights_licence,
        card.held_out,
        card.limits,
        f"seed {card.made['seed']}",
    ):
        assert said and said in page.replace("\\|", "|")
    assert re.fullmatch(r"[0-9a-f]{40}\+?", card.made["commit"])  # a plus: with files changed
    assert ("with files changed" in page) == card.made["commit"].endswith("+")
    assert not re.search(r'[" `](/|~|\.\.)', page)
    recipe = ROOT / "recipes" / f"{folder.name}.toml"
    assert (folder / "recipe.toml").read_text() == recipe.read_text(), "the recipe has changed since: train it again"
    assert card.made["command"] == f"regard train recipes/{recipe.name}"
    assert card.made["seed"] == read_recipe(recipe).config.seed
    assert card.figure in card.scores and all(math.isfinite(value) for value in card.scores.values())
    for task in card.tasks:
        find_task(task)


def test_no_two_models_are_the_default_of_one_task() -> None:
    tasks = [task for card in cards() for task in card.tasks]
    assert len(tasks) == len(set(tasks))


@pytest.mark.parametrize("name", NAMES)
def test_its_figure_is_seen_again_on_a_few_rows(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A few rows say it within four standard errors, for shares of what is right or wrong; for others, roughly."""
    card, recipe = card_of(name), find(name).path / "recipe.toml"
    monkeypatch.setenv("REGARD_DATA", str(real("data")))
    sources = read_recipe(recipe).data["train"]
    for source in [sources] if isinstance(sources, str) else sources.values():
        real(f"data/{source}")
    found = judge(name, recipe, metrics=[card.figure] if card.figure not in ("loss", "perplexity") else [], limit=FEW)
    wanted, seen = card.scores[card.figure], found[card.figure]
    if 0 <= wanted <= 1 and card.figure != "loss":
        assert abs(seen - wanted) <= 4 * math.sqrt(max(wanted * (1 - wanted), 0.01) / found["rows"])
    else:
        assert seen == pytest.approx(wanted, rel=0.35)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_its_figures_are_those_of_the_card(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    card, recipe = card_of(name), find(name).path / "recipe.toml"
    monkeypatch.setenv("REGARD_DATA", str(real("data")))
    sources = read_recipe(recipe).data["train"]
    for source in [sources] if isinstance(sources, str) else sources.values():
        real(f"data/{source}")
    metrics = [name for name in card.scores if name not in ("loss", "perplexity")]
    found = judge(name, recipe, metrics=metrics)
    assert found["rows"] == card.rows
    assert {name: found[name] for name in card.scores} == pytest.approx(card.scores, rel=1e-3, abs=1e-3)


def test_reviews_are_judged_and_nonsense_less_surely(caplog: pytest.LogCaptureFixture) -> None:
    pipe = default("text-classification")
    good, bad = pipe(["A wonderful film, warm and funny.", "A dull, lifeless mess."])
    assert (good["label"], bad["label"]) == ("positive", "negative")
    sure = min(good["score"], bad["score"])
    for text in ("Съешь ещё этих мягких французских булок", "12 34 56", "\U0001f642"):
        assert 0.5 <= pipe(text)[0]["score"] < sure, text
    assert [record.getMessage() for record in caplog.records] == [
        "6 of 6 tokens of 'Съешь ещё этих мягких французских булок' are unknown to this model, so it can say little"
    ]
    with pytest.raises(ValueError, match="text is an empty string"):
        pipe("")
    with pytest.raises(ValueError, match="tokens"):
        pipe("word " * 2000)


def test_a_play_goes_on_in_its_own_letters(caplog: pytest.LogCaptureFixture) -> None:
    pipe = default("text-generation")
    text = pipe("ROMEO:", max_new_tokens=200, seed=0)[0]["generated_text"]
    assert text.startswith("ROMEO:") and len(text) > 150
    words = set(re.findall("[a-z]+", real("data/shakespeare/input.txt").read_text().lower()))
    written = re.findall("[a-z]+", text[6:].lower())
    assert sum(word in words for word in written) >= 0.8 * len(written)
    assert text == pipe("ROMEO:", max_new_tokens=200, seed=0)[0]["generated_text"]
    foreign = pipe("Съешь ещё", max_new_tokens=8)[0]["generated_text"]
    assert foreign.startswith("Съешь ещё") and "are unknown to this model" in caplog.text


TRANSLATED = {
    "translation": {"Zwei Hunde", "spielen", "Schnee"},
    "translation_en_to_fr": {"Deux chiens", "jouent", "neige"},
}


@pytest.mark.parametrize("task", TRANSLATED)
def test_a_caption_is_translated_and_what_is_none_does_no_harm(task: str, caplog: pytest.LogCaptureFixture) -> None:
    pipe = default(task)
    found = pipe("Two dogs play in the snow.")[0]["translation_text"]
    assert all(part in found for part in TRANSLATED[task]), found
    together = ["Two dogs play in the snow.", "A man is cooking.", "Two dogs play in the snow."]
    assert [row["translation_text"] for row in pipe(together)][::2] == [found, found]
    assert not caplog.records
    for text in ("quantum chromodynamics", "12 34 56", "Съешь ещё этих мягких французских булок", "日本語"):
        assert len(pipe(text)[0]["translation_text"]) < 400, text
    assert "are unknown to this model" in caplog.text
    with pytest.raises(ValueError, match="text is an empty string"):
        pipe("")
    with pytest.raises(ValueError, match=r"input has \d+ tokens; this model takes at most \d+"):
        pipe("word " * 2000)


def test_a_description_is_said_in_a_line(caplog: pytest.LogCaptureFixture) -> None:
    pipe = default("summarization")
    text = (
        "This package contains the documentation for a library that reads and writes images in the PNG format. "
        "It is useful for those who develop programs with it."
    )
    found = pipe(text)[0]["summary_text"]
    assert len(found) < len(text) and {"documentation", "PNG", "library"} & set(re.findall(r"\w+", found)), found
    assert len(pipe("いろはにほへと散りぬるを、我が世誰ぞ常ならむ。")[0]["summary_text"]) < 400
    assert "are unknown to this model" in caplog.text
    with pytest.raises(ValueError, match="text is an empty string"):
        pipe("")


def test_a_hidden_word_is_guessed() -> None:
    pipe = default("fill-mask")
    for text, meant in {
        "She opened the [MASK] and went inside.": {"door", "window", "house", "gate"},
        "A man in a red [MASK] is riding a bike.": {"shirt", "jacket", "helmet", "hat", "coat"},
        "He was born in New [MASK].": {"york", "jersey", "orleans", "england"},
    }.items():
        assert meant & {row["token_str"] for row in pipe(text, top_k=5)}, text
    with pytest.raises(ValueError, match=r"\[MASK\]"):
        pipe("Nothing is hidden here.")


def test_a_picture_of_no_digit_is_no_sure_digit() -> None:
    image = pytest.importorskip("PIL.Image")
    pipe = default("image-classification")
    found = pipe(str(ROOT / "examples" / "digit.png"))
    assert (found[0]["label"], found[0]["score"] > 0.7) == ("3", True)
    noise = np.random.default_rng(0).integers(0, 256, (20, 200, 300, 3), dtype=np.uint8)
    assert surely_digits([pipe(image.fromarray(pixels), top_k=1)[0] for pixels in noise]) == 0
    for grey in (0, 128, 255):  # nothing at all
        assert surely_digits([pipe(image.new("L", (40, 40), grey), top_k=1)[0]]) == 0


def test_real_pictures_of_other_things_are_seldom_sure_digits() -> None:
    """Animals, food, tools: drawings and photographs of a kind that it has not learnt from."""
    pytest.importorskip("PIL.Image")
    pipe = default("image-classification")
    files = [f for f in sorted(real("data/captions/images").glob("*.png")) if not f.name.startswith("symbols")]
    found = [pipe(str(file), top_k=1)[0] for file in files[::4]]
    assert len(found) > 100 and surely_digits(found) <= 0.05 * len(found)


def surely_digits(found: list[dict[str, Any]]) -> int:
    """How many are called a digit, and that with a score as of real ones."""
    return sum(row["label"] != "none" and row["score"] > 0.7 for row in found)


def test_silence_is_heard_without_harm() -> None:
    pytest.importorskip("soundfile")
    pipe = default("automatic-speech-recognition")
    assert pipe(str(ROOT / "examples" / "seven.wav"))["text"] == "7"
    rng = np.random.default_rng(0)
    for sound in (np.zeros(8000), rng.normal(0, 0.1, 16000), np.zeros(400)):
        text = pipe({"array": sound.astype(np.float32), "sampling_rate": 8000})["text"]
        assert set(text) <= set("0123456789 ")
    with pytest.raises(ValueError):
        pipe({"array": np.zeros(0, dtype=np.float32), "sampling_rate": 8000})


def test_a_sound_of_no_digit_is_no_sure_digit() -> None:
    pytest.importorskip("soundfile")
    pipe = default("audio-classification")
    found = pipe(str(ROOT / "examples" / "seven.wav"))
    assert (found[0]["label"], found[0]["score"] > 0.7) == ("7", True)
    rng = np.random.default_rng(0)
    sounds = [np.zeros(8000), np.eye(1, 8000, 4000)[0], *(rng.normal(0, 0.1, n) for n in (4000, 8000, 16000))]
    for sound in sounds:
        best = pipe({"array": sound.astype(np.float32), "sampling_rate": 8000}, top_k=1)
        assert surely_digits(best) == 0, best


def test_a_file_that_is_no_sound_or_picture_is_named(tmp_path: Path) -> None:
    for task, name in (("image-classification", "a.png"), ("automatic-speech-recognition", "a.wav")):
        (tmp_path / name).write_bytes(b"nothing of the kind")
        with pytest.raises(ValueError, match=name):
            default(task)(str(tmp_path / name))


LINES = {
    "an empty picture": ("image-classification", "empty.png", r"empty\.png is empty: 0 bytes"),
    "no picture": ("image-classification", "none.png", r"there is no file '.*none\.png'"),
    "no name": ("image-classification", "", "the name of the file is empty"),
    "no sound": ("automatic-speech-recognition", "empty.wav", r"empty\.wav is empty: 0 samples"),
    "too little sound": ("automatic-speech-recognition", "short.wav", r"short\.wav is too short: 3 samples"),
    "too little to name": ("audio-classification", "short.wav", r"short\.wav: .* 3 samples; allowed: at least"),
    "no text": ("text-classification", "", "text is an empty string"),
    "too much text": ("text-classification", "word " * 600, "input has 602 tokens; this model takes at most 512"),
}


@pytest.mark.parametrize("name", LINES)
def test_what_cannot_be_answered_is_refused_from_the_command_line(name: str, tmp_path: Path) -> None:
    soundfile = pytest.importorskip("soundfile")
    task, given, said = LINES[name]
    default(task)
    (tmp_path / "empty.png").touch()
    soundfile.write(tmp_path / "empty.wav", np.zeros(0), 8000)
    soundfile.write(tmp_path / "short.wav", np.zeros(3), 8000)
    given = str(tmp_path / given) if given.endswith(("png", "wav")) else given
    with pytest.raises(ValueError, match=said):
        CliRunner().invoke(app, ["run", task, given], catch_exceptions=False)


def test_the_other_library_opens_what_is_stored_in_its_format() -> None:
    transformers = pytest.importorskip("transformers")
    if "regard/digits" not in NAMES:
        pytest.skip("regard/digits is not embedded yet")
    pixels = torch.randn(3, 3, 8, 8)
    theirs = transformers.AutoModelForImageClassification.from_pretrained(find("regard/digits").path, dtype="float32")
    with torch.no_grad():
        wanted = theirs.eval()(pixel_values=pixels).logits
        found = regard.load("regard/digits")(pixel_values=pixels)["logits"]
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)
