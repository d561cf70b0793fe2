"""Each door leads where its name says, and refuses what it does not open."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

import regard
import regard.hf as hf
from regard.models.registry import families
from tests.conftest import ROOT
from tests.hf.hub import TRANSLATOR

FIELDS = {"hidden_size": 8, "num_attention_heads": 2, "num_hidden_layers": 1, "intermediate_size": 16, "vocab_size": 9}


def test_importing_it_imports_no_torch():
    code = "import sys, regard.hf; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], env={"PYTHONPATH": str(ROOT / "src")}).returncode == 0


def test_every_architecture_of_every_family_has_a_door():
    for family in families().values():
        for name, architecture in family.architectures.items():
            door = getattr(hf, name)
            assert (door.name, door.head) == (name, architecture.head)
            assert name in door.family.architectures


def test_every_name_that_is_listed_is_there():
    for name in hf.__all__:
        assert getattr(hf, name) is not None


@pytest.mark.parametrize("name", ["BretModel", "BertForMaskedLn", "Bert", "NoSuchConfig", "pipelines"])
def test_an_unknown_name_is_no_attribute(name):
    with pytest.raises(AttributeError, match=name):
        getattr(hf, name)


def test_a_near_name_is_told():
    with pytest.raises(AttributeError, match="BertForMaskedLM"):
        hf.BertForMaskdLM  # noqa: B018


@pytest.mark.parametrize(
    ("name", "ref"),
    [
        ("AutoModel", "bert-base-uncased"),
        ("BertModel", "bert-base-uncased"),
        ("BertForMaskedLM", "bert-base-uncased"),
        ("AutoModelForMaskedLM", "bert-base-uncased"),
        ("AutoModelForCausalLM", "gpt2"),
        ("GPT2LMHeadModel", "gpt2"),
        ("GPT2Model", "gpt2"),
        ("AutoModelForSeq2SeqLM", TRANSLATOR),
        ("MarianMTModel", TRANSLATOR),
    ],
)
def test_models_give_what_the_reference_gives(name, ref, cache):
    import transformers

    folder = cache[1][ref]
    theirs, ours = (getattr(module, name).from_pretrained(folder).eval() for module in (transformers, hf))
    assert isinstance(ours, getattr(hf, name))
    tokenizer = hf.AutoTokenizer.from_pretrained(folder)
    inputs = dict(tokenizer("How are you today?", return_tensors="pt"))
    if theirs.config.is_encoder_decoder:
        inputs["decoder_input_ids"] = inputs["input_ids"].flip(1)
    with torch.no_grad():
        expected, found = theirs(**inputs)[0], ours(**inputs)[0]
    assert found.shape == expected.shape
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5 * float(expected.abs().max()))


def test_a_wrong_class_is_refused_by_both_names(cache):
    with pytest.raises(ValueError, match=r"GPT2LMHeadModel.*BertForMaskedLM"):
        hf.BertForMaskedLM.from_pretrained(cache[1]["gpt2"])
    with pytest.raises(ValueError, match=r"BertForMaskedLM.*GPT2Config"):
        hf.GPT2Config.from_pretrained(cache[1]["bert-base-uncased"])
    with pytest.raises(ValueError, match=r"causal-lm.*BERT has .*masked-lm"):
        hf.AutoModelForCausalLM.from_pretrained(cache[1]["bert-base-uncased"])
    assert not isinstance(hf.BertModel.from_pretrained(cache[1]["bert-base-uncased"]), hf.GPT2Model)


def test_labels_and_dtype(cache):
    labels = {0: "no", 1: "perhaps", 2: "yes"}
    model = hf.AutoModelForSequenceClassification.from_pretrained(
        cache[1]["bert-base-uncased"],
        id2label=labels,
        label2id={v: k for k, v in labels.items()},
        torch_dtype="bfloat16",
    )
    assert model.labels == labels
    assert model.dtype == torch.bfloat16
    assert model(input_ids=torch.tensor([[5, 6, 7]])).logits.shape == (1, 3)
    by_number = hf.BertForTokenClassification.from_pretrained(cache[1]["bert-base-uncased"], num_labels=5)
    assert by_number(input_ids=torch.tensor([[5, 6]])).logits.shape == (1, 2, 5)


def test_labels_survive_the_disk(cache, tmp_path):
    import transformers

    labels = {0: "no", 1: "yes", 2: "perhaps"}
    model = hf.AutoModelForSequenceClassification.from_pretrained(cache[1]["bert-base-uncased"], id2label=labels)
    model.save_pretrained(tmp_path)
    assert regard.load(tmp_path).labels == labels
    assert transformers.AutoConfig.from_pretrained(tmp_path).id2label == labels


def test_saved_models_open_in_the_reference(cache, tmp_path):
    import transformers

    model = hf.AutoModelForCausalLM.from_pretrained(cache[1]["gpt2"])
    model.save_pretrained(tmp_path)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    ids = torch.tensor([[3, 1, 4, 1, 5]])
    torch.testing.assert_close(model(ids).logits, theirs(ids).logits, rtol=0, atol=1e-4)
    assert transformers.AutoTokenizer.from_pretrained(tmp_path)("Hello").input_ids == model.processor("Hello").input_ids


def test_configs(cache):
    config = hf.AutoConfig.from_pretrained(cache[1]["gpt2"], n_layer=1)
    assert (config.n_layer, config.n_embd, config["n_head"]) == (1, 32, 4)
    config.n_layer = 3
    model = hf.AutoModelForCausalLM.from_config(config)
    assert len(model.decoder.stack.layers) == 3
    with pytest.raises(AttributeError, match="n_layres"):
        config.n_layres  # noqa: B018
    model = hf.BertModel(hf.BertConfig(**FIELDS))
    assert model(input_ids=torch.tensor([[1, 2]])).last_hidden_state.shape == (1, 2, 8)
    assert hf.AutoConfig.for_model("bert", **FIELDS) == hf.BertConfig(**FIELDS)
    with pytest.raises(ValueError, match=r"GPT2Model is of GPT-2; this config is of BERT"):
        hf.GPT2Model(hf.BertConfig(**FIELDS))
    with pytest.raises(ValueError, match="no-such-type"):
        hf.AutoConfig.for_model("no-such-type")
    with pytest.raises(ValueError, match="hidden_size"):
        hf.BertModel(hf.BertConfig())


def test_tokenizers_by_any_name_read_what_is_there(cache):
    text = "Hello, transformers are amazing!"
    expected = hf.AutoTokenizer.from_pretrained(cache[1]["bert-base-uncased"])(text)["input_ids"]
    for name in ("BertTokenizer", "BertTokenizerFast", "PreTrainedTokenizerFast"):
        tokenizer = getattr(hf, name).from_pretrained(cache[1]["bert-base-uncased"], use_fast=False)
        assert tokenizer(text)["input_ids"] == expected
        assert isinstance(tokenizer, hf.AutoTokenizer)
    left = hf.GPT2Tokenizer.from_pretrained(cache[1]["gpt2"], padding_side="left", pad_token="<|endoftext|>")
    rows = left(["a", "a b c"], padding=True)["input_ids"]
    assert rows[0][0] == left.eos_token_id != rows[1][0]


def test_generation_config(cache):
    config = hf.GenerationConfig.from_pretrained(cache[1][TRANSLATOR], max_new_tokens=3)
    assert (config.num_beams, config.max_new_tokens) == (4, 3)
    model = hf.MarianMTModel.from_pretrained(cache[1][TRANSLATOR])
    inputs = hf.MarianTokenizer.from_pretrained(cache[1][TRANSLATOR])("Good morning!", return_tensors="pt")
    written = model.generate(**inputs, generation_config=config)
    assert written.shape[1] <= 1 + 3
    assert torch.equal(written, model.generate(**inputs, max_new_tokens=3))
    with pytest.raises(ValueError, match="num_beams"):
        hf.GenerationConfig(num_beams=0)


@pytest.mark.parametrize("device_map", ["cpu", {"": "cpu"}, torch.device("cpu"), None])
def test_device_map(device_map, cache):
    assert hf.AutoModel.from_pretrained(cache[1]["gpt2"], device_map=device_map).device.type == "cpu"


def test_a_device_map_of_several_devices_is_refused(cache):
    with pytest.raises(ValueError, match="one device"):
        hf.AutoModel.from_pretrained(cache[1]["gpt2"], device_map={"layer.0": "cpu", "layer.1": "cpu"})
