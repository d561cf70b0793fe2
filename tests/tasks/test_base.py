"""What all tasks share: names, heads, ways to give input, order, packs, errors, progress."""

from __future__ import annotations

import io
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

import regard
from regard.tasks import TASKS, find_task, tasks_for
from regard.tasks.progress import Meter, clock
from tests.tasks.conftest import same

LABELS = ["bad", "so-so", "good"]
TEXTS = [" ".join(["a dog"] * (1 + i * 7 % 11)) + f" {i}" for i in range(40)]


@pytest.fixture
def folder(make: Any) -> Path:
    return make("bert", "BertForSequenceClassification", labels=LABELS)[1]


def classify(folder: Path, **settings: Any) -> Any:
    return regard.pipeline("text-classification", folder, **settings)


# ------------------------------------------------------------------------------------------------ names


def test_every_task_can_be_imported_and_says_what_it_is() -> None:
    for info in TASKS:
        assert issubclass(info.load(), regard.tasks.base.Task) and info.about and info.example
        assert all(find_task(name)[0] is info for name in (info.name, *info.aliases))


def test_languages_in_the_name() -> None:
    info, options = find_task("translation_en_XX_to_de_DE")
    assert (info.name, options) == ("translation", {"src_lang": "en_XX", "tgt_lang": "de_DE"})


def test_a_wrong_name_lists_near_ones_and_all() -> None:
    with pytest.raises(ValueError, match=r"did you mean 'summarization'.*allowed: .*sentence-similarity"):
        find_task("sumarisation")
    with pytest.raises(ValueError, match="task is 5; allowed: text-generation"):
        find_task(5)  # type: ignore[arg-type]


def test_tasks_of_heads() -> None:
    assert tasks_for(["masked-lm"]) == ["fill-mask", "feature-extraction", "sentence-similarity"]
    assert "translation" in tasks_for(["seq2seq-lm"])


# ------------------------------------------------------------------------------------------------ models


def test_no_model_is_said(folder: Path) -> None:
    with pytest.raises(ValueError, match="give model= a folder"):
        regard.pipeline("question-answering")


@pytest.mark.parametrize("task", ["fill-mask", "text-generation", "question-answering", "ner", "translation"])
def test_a_checkpoint_with_another_head_is_refused(folder: Path, task: str) -> None:
    for model in (folder, regard.load(folder)):
        with pytest.raises(ValueError, match=r"is a BertForSequenceClassification \(head: classification\); .* needs"):
            regard.pipeline(task, model)


def test_a_bare_checkpoint_gets_no_new_weights(make: Any) -> None:
    with pytest.raises(ValueError, match=r"(?s)is a BertModel .*text-classification needs .*nothing fills head"):
        classify(make("bert", "BertModel")[1])


def test_a_bare_checkpoint_may_hold_a_tied_head(make: Any) -> None:
    folder = make("gpt2", "GPT2Model")[1]
    pipe = regard.pipeline("text-generation", folder)
    assert torch.equal(pipe.model.head.out.weight, pipe.model.decoder.front.token.weight)


def test_loaded_models_and_other_tokenizers(folder: Path, make: Any) -> None:
    expected = classify(folder)(TEXTS)
    model = regard.load(folder)
    same(classify(model)(TEXTS), expected)
    same(classify(model, tokenizer=folder)(TEXTS), expected)
    same(classify(model, tokenizer=model.processor)(TEXTS), expected)
    model.processor, model.folder = None, None
    with pytest.raises(ValueError, match="needs a tokenizer"):
        classify(model)


def test_a_model_in_training_mode_is_evaluated(folder: Path) -> None:
    model = regard.load(folder).train()
    pipe = classify(model)
    same(pipe(TEXTS[0]), pipe(TEXTS[0]))


# ------------------------------------------------------------------------------------------------ input


def test_a_batch_gives_what_each_gives_alone(folder: Path) -> None:
    pipe = classify(folder)
    alone = [pipe(text)[0] for text in TEXTS]
    assert len({entry["score"] for entry in alone}) > 20
    for settings in ({}, {"batch_tokens": 1}, {"batch_tokens": 10**6}):
        same(classify(folder, **settings)(TEXTS), alone)
    same(pipe(TEXTS, batch_size=3), alone)


def test_packs_are_full_and_bounded(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = classify(folder, batch_tokens=100)
    seen: list[list[int]] = []
    run = pipe.run
    monkeypatch.setattr(
        pipe, "run", lambda pieces, *rest: (seen.append([len(p.ids) for p in pieces]), run(pieces, *rest))[1]
    )
    pipe(TEXTS)
    assert all(sum(pack) <= 100 for pack in seen)
    assert all(sum(pack) + after[0] > 100 for pack, after in itertools.pairwise(seen))
    order = [*itertools.chain(*seen)]
    assert order == sorted(order)
    seen.clear()
    pipe(TEXTS, batch_size=4)
    assert max(map(len, seen)) == 4


def test_lazy_input_gives_lazy_output(folder: Path) -> None:
    pipe = classify(folder)
    taken: list[int] = []

    def texts() -> Iterator[str]:
        for i in range(3000):
            taken.append(i)
            yield TEXTS[i % len(TEXTS)]

    results = pipe(texts())
    assert not taken
    first = next(results)
    same(first, pipe(TEXTS[0])[0])
    assert 1 <= len(taken) <= 512
    results.close()
    same(list(pipe(iter(TEXTS))), pipe(TEXTS))


def test_files_have_an_item_on_each_line(folder: Path, tmp_path: Path) -> None:
    pipe = classify(folder)
    path = tmp_path / "texts.txt"
    path.write_text("\n".join(TEXTS) + "\n", encoding="utf-8")
    expected = pipe(TEXTS)
    same(list(pipe(path)), expected)
    with open(path, encoding="utf-8") as file:
        same(list(pipe(file)), expected)
    same(list(pipe(io.StringIO("\r\n".join(TEXTS)))), expected)
    with pytest.raises(ValueError, match="there is no file"):
        pipe(tmp_path / "none.txt")


def test_an_empty_list_is_an_empty_list(folder: Path) -> None:
    assert classify(folder)([]) == []


# ------------------------------------------------------------------------------------------------ errors


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (None, "text is None (type NoneType); allowed: a string"),
        (7, "text is 7 (type int); allowed: a string"),
        (b"bytes", "text is b'bytes' (type bytes); allowed: a string"),
        ("", "text is an empty string; allowed: at least one character"),
        ({"words": "x"}, "the item has words (type dict)"),
        ("a dog " * 100, "input has 302 tokens; this model takes at most 64; pass truncation=True to cut it"),
    ],
)
def test_a_bad_item_is_named(folder: Path, bad: Any, message: str) -> None:
    pipe = classify(folder)
    with pytest.raises(ValueError) as alone:
        pipe(bad)
    assert str(alone.value).startswith(message)
    items: list[Any] = [*TEXTS[:17], bad, *TEXTS[17:]]
    with pytest.raises(ValueError) as among:
        pipe(items)
    assert str(among.value).startswith("item 17: " + message)
    found = pipe(items, on_error="skip")
    assert list(found[17]) == ["error"] and found[17]["error"].startswith("item 17: " + message)
    same(found[:17] + found[18:], pipe(TEXTS))


def test_a_lazy_run_gives_what_came_before_the_bad_item(folder: Path) -> None:
    results = classify(folder)(iter([*TEXTS[:5], None, *TEXTS]))
    same([next(results) for _ in range(5)], classify(folder)(TEXTS[:5]))
    with pytest.raises(ValueError, match="item 5: text is None"):
        next(results)


def test_a_pack_that_fails_names_the_item_to_blame(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = classify(folder)
    run = pipe.run

    counts = [len(ids) for ids in pipe.tokenizer(TEXTS)["input_ids"]]

    def failing(pieces: Any, *rest: Any) -> Any:
        if any(len(piece.ids) == counts[5] for piece in pieces):
            raise ValueError("an unlucky number")
        return run(pieces, *rest)

    unlucky = [i for i, count in enumerate(counts) if count == counts[5]]
    expected = pipe(TEXTS)
    monkeypatch.setattr(pipe, "run", failing)
    found = pipe(TEXTS, on_error="skip")
    assert [i for i, entry in enumerate(found) if "error" in entry] == unlucky
    same([e for i, e in enumerate(found) if i not in unlucky], [e for i, e in enumerate(expected) if i not in unlucky])
    with pytest.raises(ValueError, match=f"item {unlucky[0]}: an unlucky number"):
        pipe(TEXTS)


def test_wrong_options_are_said_at_once(folder: Path) -> None:
    with pytest.raises(ValueError, match="text-classification has no option 'topk'; did you mean 'top_k'"):
        classify(folder, topk=3)
    pipe = classify(folder)
    for options, message in (
        ({"top_k": "all"}, "top_k is 'all'"),
        ({"on_error": "ignore"}, "on_error is 'ignore'"),
        ({"truncation": "middle"}, "truncation is 'middle'; allowed: .*'longest_first'"),
        ({"max_length": 0}, "max_length is 0"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"tokenizer_kwargs": 5}, "tokenizer_kwargs is 5"),
    ):
        with pytest.raises(ValueError, match=message):
            pipe(TEXTS[0], **options)
    with pytest.raises(ValueError, match="batch_tokens is 0"):
        classify(folder, batch_tokens=0)
    with pytest.raises(ValueError, match="one argument beside options, the input; got 2"):
        pipe("a", "b")


# ------------------------------------------------------------------------------------------------ progress


def test_a_bar_appears_for_long_work_only(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    for wanted, seconds, shown in ((True, 3.0, True), (True, 1.0, False), (None, 3.0, False), (False, 3.0, False)):
        now = [0.0]
        monkeypatch.setattr("regard.tasks.progress.time.monotonic", lambda now=now: now[0])
        meter = Meter("work", 10, wanted)
        now[0] = seconds
        meter.advance(5)
        assert (meter.bar is not None) is shown, (wanted, seconds)
        if shown:
            assert meter.bar.tasks[0].completed == 5
        meter.advance(5)
        meter.close()
        assert meter.done == 10 and meter.bar is None
    assert capsys.readouterr().out == ""  # results go to stdout, a bar never


def test_work_in_hand_is_shown_in_its_own_units(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("regard.tasks.progress.time.monotonic", lambda: now[0])
    meter = Meter("work", 2, True)
    for seconds, count, note in ((10.0, 0.25, "12:30 of 50:00"), (20.0, 0.5, "25:00 of 50:00")):
        now[0] = seconds
        meter.partly(count, note)
        screen = Console(width=120, file=io.StringIO())
        screen.print(meter.bar.get_renderable())
        shown = screen.file.getvalue()  # type: ignore[attr-defined]
        assert note in shown and f"0:00:{seconds:.0f}" in shown
    assert shown.rstrip().endswith("left 0:01:00")  # a quarter of one in 10 seconds: one and a half of two are to come
    meter.advance()
    assert meter.bar.tasks[0].fields["note"] == "1/2"
    meter.close()
    assert [clock(seconds) for seconds in (0, 61.9, 3725)] == ["0:00", "1:01", "1:02:05"]


def test_items_are_counted(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counted: list[int] = []
    monkeypatch.setattr(Meter, "advance", lambda self, count=1: counted.append(count))
    classify(folder)([*TEXTS, None], on_error="skip")
    assert sum(counted) == len(TEXTS) + 1
