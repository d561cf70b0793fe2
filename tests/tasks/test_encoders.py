"""Tasks of encoders against the reference's pipelines: the same shapes, words, places and scores."""

from __future__ import annotations

import json
import math
import warnings
from typing import Any

import pytest
import torch

import regard
from tests.tasks.conftest import same

TEXTS = [
    "The quick brown fox jumps over the lazy dog, doesn't it?",
    "Hello!",
    "Übergrößen: Füße, Straße und Äpfel.",
    "argument parser of the command line",
    "unaffordable   spaces\tand naïve cafés",
]
NER = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]
NLI = ["contradiction", "neutral", "entailment"]


# ------------------------------------------------------------------------------------------------ fill-mask


@pytest.mark.parametrize(
    ("inputs", "options"),
    [
        ("The [MASK] fox.", {}),
        ("The [MASK] fox.", {"top_k": 3}),
        (["The [MASK] fox.", "A [MASK]"], {"top_k": 2}),
        (["The [MASK] fox."], {"top_k": 2}),
        ("The [MASK] fox [MASK] over.", {"top_k": 2}),
        ("The [MASK] fox.", {"targets": ["the", "dog"]}),
        ("The [MASK] fox.", {"targets": "the"}),
        (["The [MASK] fox.", "[MASK] [MASK]"], {"targets": ["the", "dog", "over"], "top_k": 2}),
        ("The [MASK] fox " * 40 + ".", {"tokenizer_kwargs": {"truncation": True}, "top_k": 2}),
    ],
)
def test_fill_mask(make: Any, oracle: Any, inputs: Any, options: dict[str, Any]) -> None:
    made = make("bert", "BertForMaskedLM")
    same(regard.pipeline("fill-mask", made[1])(inputs, **options), oracle("fill-mask", made)(inputs, **options))


def test_fill_mask_of_byte_pairs(make: Any, oracle: Any) -> None:
    made = make("deberta", "BertForMaskedLM")  # byte-level tokens whose text begins with a space
    text = "The quick[MASK] fox."
    same(regard.pipeline("fill-mask", made[1])(text), oracle("fill-mask", made)(text))


def test_an_encoder_decoder_fills_masks_too(make: Any, oracle: Any) -> None:
    made = make("bart", "BartForConditionalGeneration")
    texts = ["The quick<mask> fox.", "A<mask> dog jumps<mask> the fox"]
    same(regard.pipeline("fill-mask", made[1])(texts), oracle("fill-mask", made)(texts))


def test_a_word_that_is_no_token_counts_by_its_first(make: Any, oracle: Any, caplog: Any) -> None:
    made = make("bert", "BertForMaskedLM")
    options = {"targets": ["unbelievableness", "the"]}
    with caplog.at_level("WARNING", "regard"):
        mine = regard.pipeline("fill-mask", made[1])("The [MASK] fox.", **options)
    assert "unbelievableness" in caplog.text
    same(mine, oracle("fill-mask", made)("The [MASK] fox.", **options))


def test_fill_mask_says_what_is_wrong(make: Any) -> None:
    fill = regard.pipeline("fill-mask", make("bert", "BertForMaskedLM")[1])
    with pytest.raises(ValueError, match=r"no mask; put \[MASK\]"):
        fill("The fox.")
    with pytest.raises(ValueError, match="top_k is 0; allowed: at least 1"):
        fill("A [MASK].", top_k=0)
    with pytest.raises(ValueError, match="targets"):
        fill("A [MASK].", targets=[""])


# ------------------------------------------------------------------------------------------------ labels


@pytest.mark.parametrize(
    ("inputs", "options"),
    [
        (TEXTS[0], {}),
        (TEXTS, {}),
        (TEXTS[:1], {}),
        (TEXTS[0], {"top_k": 1}),
        (TEXTS[0], {"top_k": None}),
        (TEXTS, {"top_k": 2}),
        (TEXTS, {"function_to_apply": "sigmoid"}),
        (TEXTS, {"function_to_apply": "none", "top_k": None}),
        ({"text": TEXTS[0], "text_pair": TEXTS[1]}, {}),
        ([{"text": TEXTS[0], "text_pair": TEXTS[1]}, {"text": TEXTS[2]}], {"top_k": 2}),
        (TEXTS[0] * 20, {"truncation": True}),
        (TEXTS[0], {"truncation": True, "max_length": 6, "padding": True}),
    ],
)
def test_text_classification(make: Any, oracle: Any, inputs: Any, options: dict[str, Any]) -> None:
    made = make("bert", "BertForSequenceClassification", labels=["bad", "so-so", "good"])
    name = "text-classification"
    same(regard.pipeline(name, made[1])(inputs, **options), oracle(name, made)(inputs, **options))


@pytest.mark.parametrize(
    ("labels", "problem"),
    [
        (["score"], "regression"),
        (["score"], None),
        (["a", "b", "c"], "multi_label_classification"),
        (["a", "b", "c"], "single_label_classification"),
        (["a", "b"], "regression"),
    ],
)
def test_the_kind_of_problem_chooses_the_function(make: Any, oracle: Any, labels: list[str], problem: Any) -> None:
    made = make("bert", "BertForSequenceClassification", labels=labels, problem_type=problem)
    for options in ({}, {"top_k": None}):
        mine = regard.pipeline("sentiment-analysis", made[1])(TEXTS, **options)
        same(mine, oracle("sentiment-analysis", made)(TEXTS, **options))


def test_options_of_the_pipeline_hold_for_each_call(make: Any, oracle: Any) -> None:
    made = make("bert", "BertForSequenceClassification", labels=["bad", "so-so", "good"])
    ours = regard.pipeline("text-classification", made[1], top_k=None)
    theirs = oracle("text-classification", made, top_k=None)
    same(ours(TEXTS[0]), theirs(TEXTS[0]))  # [[...]] in both: only top_k in the call itself takes a list away
    same(ours(TEXTS[0], top_k=1), theirs(TEXTS[0], top_k=1))


def test_all_scores_in_the_order_of_labels(make: Any) -> None:
    folder = make("bert", "BertForSequenceClassification", labels=["bad", "so-so", "good"])[1]
    found = regard.pipeline("text-classification", folder)(TEXTS[0], return_all_scores=True)
    assert [entry["label"] for entry in found[0]] == ["bad", "so-so", "good"]
    assert sum(entry["score"] for entry in found[0]) == pytest.approx(1)


@pytest.mark.parametrize(
    ("inputs", "options"),
    [
        (TEXTS[0], {"candidate_labels": ["politics", "sports", "dogs"]}),
        (TEXTS, {"candidate_labels": "politics, sports,dogs"}),
        (TEXTS[:2], {"candidate_labels": ["politics", "sports"], "multi_label": True}),
        (TEXTS[0], {"candidate_labels": "politics"}),
        (TEXTS[0], {"candidate_labels": ["a", "b"], "hypothesis_template": "It is about {}, mostly."}),
        (TEXTS[0] * 20, {"candidate_labels": ["a", "b"], "truncation": True}),
    ],
)
@pytest.mark.parametrize("labels", [NLI, ["ENTAILMENT", "NEUTRAL", "CONTRADICTION"], ["entailment", "not_entailment"]])
def test_zero_shot(make: Any, oracle: Any, inputs: Any, options: dict[str, Any], labels: list[str]) -> None:
    made = make("bert", "BertForSequenceClassification", labels=labels)
    theirs = {name: value for name, value in options.items() if name != "truncation"}  # the reference always cuts
    name = "zero-shot-classification"
    same(regard.pipeline(name, made[1])(inputs, **options), oracle(name, made)(inputs, **theirs))


def test_zero_shot_says_what_is_wrong(make: Any) -> None:
    plain = make("bert", "BertForSequenceClassification", labels=["bad", "so-so", "good"])[1]
    with pytest.raises(ValueError, match=r"labels name entailment; .* has bad, so-so, good"):
        regard.pipeline("zero-shot-classification", plain)
    zero = regard.pipeline("zero-shot-classification", make("bert", "BertForSequenceClassification", labels=NLI)[1])
    same(zero("a dog", ["x", "y"]), zero("a dog", candidate_labels=["x", "y"]))
    with pytest.raises(ValueError, match=r"hypothesis_template is 'This.'"):
        zero("a dog", ["x"], hypothesis_template="This.")
    with pytest.raises(ValueError, match="candidate_labels"):
        zero("a dog")
    with pytest.raises(ValueError, match="this model takes at most 64"):
        zero("a dog " * 100, ["x"])


# ------------------------------------------------------------------------------------------------ words


@pytest.mark.parametrize("strategy", ["none", "simple", "first", "average", "max"])
@pytest.mark.parametrize("tokenizer", ["bert", "bert-cased", "deberta", "xlm-roberta"])
def test_token_classification(make: Any, oracle: Any, tokenizer: str, strategy: str) -> None:
    made = make(tokenizer, "BertForTokenClassification", labels=NER)
    ours, theirs = regard.pipeline("ner", made[1]), oracle("ner", made)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = [theirs(text, aggregation_strategy=strategy) for text in TEXTS]
    same(ours(TEXTS, aggregation_strategy=strategy), expected)
    same(ours(TEXTS[0], aggregation_strategy=strategy), expected[0])
    assert any(expected)


@pytest.mark.parametrize("strategy", ["simple", "first", "average", "max"])
def test_long_text_in_windows(make: Any, oracle: Any, strategy: str) -> None:
    made = make("bert", "BertForTokenClassification", labels=NER)
    text = " ".join(TEXTS * 6)
    options = {"aggregation_strategy": strategy, "stride": 10}
    mine = regard.pipeline("ner", made[1])(text, **options)
    same(mine, oracle("ner", made, **options)(text))
    assert mine[-1]["end"] > len(text) // 2


@pytest.mark.parametrize("strategy", ["none", "simple", "average"])
def test_words_that_are_split_already(make: Any, oracle: Any, strategy: str) -> None:
    made = make("bert", "BertForTokenClassification", labels=NER)
    options = {"is_split_into_words": True, "aggregation_strategy": strategy}
    words = [TEXTS[0].split(), ["Hello", "unbelievable", "world"]]
    ours, theirs = regard.pipeline("ner", made[1]), oracle("ner", made)
    same(ours(words, **options), [theirs(row, **options)[0] for row in words])
    same(ours(words, delimiter=" | ", **options), [theirs(row, delimiter=" | ", **options)[0] for row in words])


def test_labels_without_marks_and_labels_to_ignore(make: Any, oracle: Any) -> None:
    made = make("bert", "BertForTokenClassification", labels=["NOUN", "VERB", "O", "DET"])
    for options in ({"aggregation_strategy": "simple"}, {"ignore_labels": ["NOUN", "O"]}, {"ignore_labels": []}):
        mine, theirs = regard.pipeline("ner", made[1]), oracle("ner", made)
        same(mine(TEXTS, **options), [theirs(text, **options) for text in TEXTS])


def test_token_classification_says_what_is_wrong(make: Any) -> None:
    ner = regard.pipeline("ner", make("bert", "BertForTokenClassification", labels=NER)[1])
    with pytest.raises(ValueError, match="stride is 5; allowed"):
        ner("a dog", stride=5)
    with pytest.raises(ValueError, match="aggregation_strategy is 'best'"):
        ner("a dog", aggregation_strategy="best")
    with pytest.raises(ValueError, match="has 302 tokens; this model takes at most 64; pass truncation=True"):
        ner("a dog " * 100)
    with pytest.raises(ValueError, match="words is 5"):
        ner([5], is_split_into_words=True)


# ------------------------------------------------------------------------------------------------ vectors


@pytest.mark.parametrize("inputs", [TEXTS[0], TEXTS, TEXTS[:1]])
def test_feature_extraction(make: Any, oracle: Any, inputs: Any) -> None:
    made = make("bert", "BertModel")
    mine = regard.pipeline("feature-extraction", made[1])(inputs)
    same(mine, oracle("feature-extraction", made)(inputs), tolerance=1e-4)


def test_features_of_checkpoints_with_other_heads(make: Any, oracle: Any) -> None:
    model, folder = make("bert", "BertForMaskedLM")
    mine = regard.pipeline("feature-extraction", folder)(TEXTS[0], return_tensors=True)
    theirs = oracle("feature-extraction", (model.bert, folder))(TEXTS[0], return_tensors=True)
    assert mine.shape == theirs.shape and torch.allclose(mine, theirs, atol=1e-4)
    model, folder = make("gpt2", "GPT2LMHeadModel")
    mine = regard.pipeline("feature-extraction", folder)(TEXTS[0], return_tensors="pt")
    theirs = oracle("feature-extraction", (model.transformer, folder))(TEXTS[0], return_tensors=True)
    assert mine.shape == theirs.shape and torch.allclose(mine, theirs, atol=1e-4)


def test_a_decoder_labels_texts_too(make: Any, oracle: Any) -> None:
    made = make("gpt2", "GPT2ForSequenceClassification", labels=["a", "b", "c"], pad_token_id=0)
    same(
        regard.pipeline("text-classification", made[1])(TEXTS),
        [oracle("text-classification", made)(t)[0] for t in TEXTS],
    )


def test_results_are_plain_data(make: Any) -> None:
    folder = make("bert", "BertForTokenClassification", labels=NER)[1]
    assert json.loads(json.dumps(regard.pipeline("ner", folder)(TEXTS[0])))


def test_a_real_checkpoint_fills_in_reactions(data: Any) -> None:
    """Every token of a reaction masked in turn: as many right as the authors' weights get, and as likely."""
    folder = data("checkpoints/rxnfp-bert-mlm")
    expected = json.loads((folder / "expected.json").read_text(encoding="utf-8"))
    known, tolerance = expected["mask_each_token"], expected["tolerance"]
    pipe = regard.pipeline("fill-mask", folder, top_k=1)
    tokens = pipe.tokenizer.tokenize(known["text"])
    masked = ["".join([*tokens[:i], "[MASK]", *tokens[i + 1 :]]) for i in range(len(tokens))]
    found = pipe(masked)
    right = [rows[0]["token_str"] == token for rows, token in zip(found, tokens, strict=True)]
    scores = [pipe(text, targets=token)[0]["score"] for text, token in zip(masked, tokens, strict=True)]
    assert (len(tokens), sum(right)) == (known["tokens"], known["right"])
    assert sum(map(math.log, scores)) == pytest.approx(known["sum_logprob_of_true"], abs=tolerance["sum_logprob"])
    assert found[0][0]["sequence"] == known["text"]
