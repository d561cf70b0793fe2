"""A smaller model out of a larger one."""

from __future__ import annotations

import pytest
import torch

import regard
from regard import adapt
from regard.models.model import Model
from regard.training.data.tokenizer import train_tokenizer

TEXTS = ["the cat sat on the mat", "a dog ran over the warm mat", "cats and dogs run, warm and fast"] * 3


def bert(layers: int = 4, head: str = "classification") -> Model:
    tokenizer = train_tokenizer(TEXTS, kind="wordpiece", vocab_size=90, use="masked", min_frequency=1)
    raw = {"model_type": "bert", "hidden_size": 32, "num_hidden_layers": layers, "num_attention_heads": 4}
    raw |= {"intermediate_size": 48, "vocab_size": len(tokenizer), "num_labels": 2}
    model = regard.from_config(raw, head=head, seed=0).eval()
    model.processor = tokenizer
    return model


def scores(model: Model, text: str) -> torch.Tensor:
    return model(torch.tensor(model.processor([text])["input_ids"]))["logits"]


def test_fewer_tokens_change_nothing_for_texts_of_those_that_are_left() -> None:
    model = bert()
    fewer = len(model.processor) - 8
    small = adapt.shrink(model, vocabulary=fewer, texts=TEXTS[:1])
    assert len(small.processor) == small.raw["vocab_size"] == fewer
    before, after = (m.processor([TEXTS[0]])["input_ids"][0] for m in (model, small))
    assert model.processor.convert_ids_to_tokens(before) == small.processor.convert_ids_to_tokens(after)
    torch.testing.assert_close(scores(small, TEXTS[0]), scores(model, TEXTS[0]), rtol=0, atol=0)


def test_scores_of_tokens_that_are_left_are_those_of_the_model() -> None:
    model = bert(head="masked-lm")
    with torch.no_grad():
        model.head.out.bias.copy_(torch.linspace(-1, 1, len(model.processor)))
    small = adapt.shrink(model, vocabulary=len(model.processor) - 8, texts=TEXTS[:1])
    words = small.processor.convert_ids_to_tokens(list(range(len(small.processor))))
    left = model.processor.convert_tokens_to_ids(words)
    torch.testing.assert_close(scores(small, TEXTS[0]), scores(model, TEXTS[0])[..., left])


def test_layers_that_are_kept_are_those_of_the_model(tmp_path) -> None:
    model = bert()
    small = adapt.shrink(model, layers=[0, 3])
    whole = scores(model, TEXTS[0])
    stack = model.encoder.stack
    run = stack.step
    stack.step = lambda index, x, ctx: x if index in (1, 2) else run(index, x, ctx)
    torch.testing.assert_close(scores(small, TEXTS[0]), scores(model, TEXTS[0]))
    assert not torch.allclose(scores(small, TEXTS[0]), whole)
    small.save_pretrained(tmp_path)
    torch.testing.assert_close(scores(regard.load(tmp_path), TEXTS[0]), scores(small, TEXTS[0]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layers": [0, 4]}, r"layers is \[0, 4\]; allowed: numbers from 0 to 3"),
        ({"layers": []}, "layers is"),
        ({"vocabulary": 9, "texts": TEXTS}, "vocabulary is 9; allowed: .* tokens and more"),
    ],
)
def test_what_cannot_be_kept_is_named(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        adapt.shrink(bert(), **options)


def test_only_encoders_shrink() -> None:
    raw = {"model_type": "gpt2", "n_embd": 32, "n_layer": 2, "n_head": 2, "vocab_size": 20}
    with pytest.raises(ValueError, match="not an encoder"):
        adapt.shrink(regard.from_config(raw), layers=[0])
