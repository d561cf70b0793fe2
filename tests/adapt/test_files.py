"""Adapters of peft's give the same logits here, and ours there."""

from __future__ import annotations

import json
import warnings

import pytest
import torch
from safetensors.torch import load_file, save_file

from regard import adapt
from tests.adapt.both import MODELS, NAMED, adapted, batch, logits, near, opened, pair, peft_config

KINDS = ("lora", "rslora", "dora", "ia3", "prefix")
NO_PREFIX = ("bart", "deberta")  # peft cannot run these with one


def saved(model, folder) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.save_pretrained(folder)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", MODELS)
def test_peft_to_ours_and_back(name, kind, tmp_path):
    if kind == "prefix" and name in NO_PREFIX:
        pytest.skip(f"peft has no prefix for {name}")
    theirs, ours, task = pair(name)
    fresh = pair(name)[0]
    inputs = batch(theirs)
    plain = logits(ours, inputs)
    there = adapted(theirs, peft_config(kind, task))
    expected = logits(there, inputs)
    assert float((expected - plain).abs().max()) > 1e-3  # the adapter does something
    saved(there, tmp_path / "theirs")
    adapt.load_adapter(ours, tmp_path / "theirs")
    near(logits(ours, inputs), expected)
    adapt.save_adapter(ours, tmp_path / "ours")
    assert _same_tensors(tmp_path / "theirs", tmp_path / "ours")
    near(logits(opened(fresh, tmp_path / "ours"), inputs), expected)
    adapt.unload(ours)
    assert torch.equal(logits(ours, inputs), plain)


def _same_tensors(a, b) -> bool:
    first, second = (load_file(folder / "adapter_model.safetensors") for folder in (a, b))
    along = ("base_layer.weight", "modules_to_save.bias", "original_module.bias")  # what peft writes twice
    extra = {key for key in first if key.endswith(along)}
    return set(first) - extra == set(second) and all(torch.equal(first[key], second[key]) for key in second)


@pytest.mark.parametrize("kind", ["lora", "dora", "ia3"])
@pytest.mark.parametrize("name", MODELS)
def test_other_modules_tables_and_fused_ones(name, kind, tmp_path):
    theirs, ours, task = pair(name)
    inputs = batch(theirs)
    targets = dict(NAMED[name])
    if kind == "ia3":
        linear = [t for t in targets["target_modules"] if t not in ("wte", "embed_tokens", "word_embeddings")]
        targets = {"target_modules": linear, "feedforward_modules": linear[-1:]}
    there = adapted(theirs, peft_config(kind, task, **targets))
    saved(there, tmp_path / "theirs")
    adapt.load_adapter(ours, tmp_path / "theirs")
    expected = logits(there, inputs)
    near(logits(ours, inputs), expected)
    adapt.save_adapter(ours, tmp_path / "ours")
    near(logits(opened(pair(name)[0], tmp_path / "ours"), inputs), expected)


OPTIONS = {
    "ranks": {"rank_pattern": {"query": 2, "encoder.layer.1.attention.self.value": 3}, "alpha_pattern": {"query": 9}},
    "layers": {"layers_to_transform": [1]},
    "regex": {"target_modules": r".*layer\.[12]\..*\.(key|value)"},
    "all-linear": {"target_modules": "all-linear"},
    "excluded": {"target_modules": ["query", "key"], "exclude_modules": ["layer.0.attention.self.key"]},
    "bias of lora": {"bias": "lora_only"},
    "all biases": {"bias": "all"},
    "more modules": {"modules_to_save": ["pooler"]},
}


@pytest.mark.parametrize("option", OPTIONS)
def test_options(option, tmp_path):
    theirs, ours, task = pair("bert")
    inputs = batch(theirs)
    plain = logits(ours, inputs)
    there = adapted(theirs, peft_config("lora", task, **OPTIONS[option]))
    saved(there, tmp_path / "theirs")
    adapt.load_adapter(ours, tmp_path / "theirs")
    near(logits(ours, inputs), logits(there, inputs))
    adapt.save_adapter(ours, tmp_path / "ours")
    assert _same_tensors(tmp_path / "theirs", tmp_path / "ours")
    near(logits(opened(pair("bert")[0], tmp_path / "ours"), inputs), logits(there, inputs))
    with adapt.disabled(ours):
        assert torch.equal(logits(ours, inputs), plain)
    near(logits(ours, inputs), logits(there, inputs))


def test_a_projected_prefix(tmp_path):
    theirs, ours, task = pair("gpt2")
    inputs = batch(theirs)
    there = adapted(theirs, peft_config("prefix", task, prefix_projection=True, encoder_hidden_size=16))
    saved(there, tmp_path)
    adapt.load_adapter(ours, tmp_path)
    near(logits(ours, inputs), logits(there, inputs))
    adapt.delete(ours, "default")
    mine = {"num_virtual_tokens": 3, "prefix_projection": True, "encoder_hidden_size": 16}
    adapt.add(ours, adapt.PrefixTuningConfig(task_type=task, **mine))
    adapt.save_adapter(ours, tmp_path / "ours")
    near(logits(opened(pair("gpt2")[0], tmp_path / "ours"), inputs), logits(ours, inputs))


@pytest.mark.parametrize("layout", ["packed", "rows"])
@pytest.mark.parametrize("name", ["gpt2", "llama", "llama-cls", "bert"])
def test_a_prefix_under_every_layout(name, layout):
    theirs, ours, task = pair(name)
    inputs = batch(theirs)
    adapt.add(ours, adapt.PrefixTuningConfig(num_virtual_tokens=4))
    expected = logits(ours, inputs)
    lengths = inputs["attention_mask"].sum(1).tolist()
    rows = [row[:n] for row, n in zip(inputs["input_ids"], lengths, strict=True)]
    with torch.no_grad():
        if layout == "packed":
            near(ours(torch.cat(rows), lengths=lengths).logits, expected)
        else:
            near(
                torch.cat([ours(row[None]).logits[0 if task == "CAUSAL_LM" else slice(None)] for row in rows]), expected
            )


@pytest.mark.parametrize("name", ["gpt2", "llama", "t5"])
def test_writing_after_a_prefix(name, tmp_path):
    theirs, ours, task = pair(name)
    there = adapted(theirs, peft_config("prefix", task))
    saved(there, tmp_path)
    adapt.load_adapter(ours, tmp_path)
    words = batch(theirs, (7, 5, 7))
    words.pop("decoder_input_ids", None)
    options = {"max_new_tokens": 6, "do_sample": False, "num_beams": 1, "eos_token_id": 96, "pad_token_id": 0}
    together = ours.generate(**words, **options)
    for i, (row, n) in enumerate(zip(words["input_ids"], words["attention_mask"].sum(1), strict=True)):
        expected = there.generate(input_ids=row[None, :n], attention_mask=torch.ones(1, n), **options)[0]
        alone = ours.generate(row[None, :n], **options)[0]
        assert alone.tolist() == expected.tolist()
        start = 7 if name != "t5" else 0
        written = expected[n if name != "t5" else 0 :].tolist()
        assert together[i, start : start + len(written)].tolist() == written


# ------------------------------------------------------------------------------------------------- files that are bad


@pytest.fixture
def folder(tmp_path):
    _, ours, task = pair("gpt2")
    adapt.add(ours, adapt.LoraConfig(r=2, task_type=task, init_lora_weights=False))
    adapt.save_adapter(ours, tmp_path)
    return tmp_path


def change(folder, **fields) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def tensors(folder, change) -> None:
    path = folder / "adapter_model.safetensors"
    found = load_file(path)
    change(found)
    save_file(found, path)


def refused(folder) -> str:
    """What is said; the model must be as before."""
    ours = pair("gpt2")[1]
    before = [name for name, _ in ours.named_modules()]
    with pytest.raises(ValueError) as error:
        adapt.load_adapter(ours, folder)
    assert [name for name, _ in ours.named_modules()] == before
    assert all(p.requires_grad for p in ours.parameters())
    return str(error.value)


A, B = ("base_model.model.transformer.h.0.attn.c_attn.lora_" + x for x in ("A.weight", "B.weight"))


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"peft_type": "ADALORA"}, "peft_type is 'ADALORA'; allowed: LORA, IA3, PREFIX_TUNING"),
        ({"peft_type": {"a": 1}}, "allowed: LORA, IA3, PREFIX_TUNING"),
        ({"r": -1, "lora_alpha": "big", "use_qalora": True}, "use_qalora is True"),
        ({"r": -1, "lora_alpha": "big"}, "r is -1; allowed: an integer from 1 to 65536\n  .lora_alpha is 'big'"),
        ({"target_modules": "(("}, "target_modules is '(('"),
        ({"target_modules": ["c_atn"]}, "no module's name fits 'c_atn'; near: c_attn"),
        ({"target_modules": 7}, "target_modules is 7"),
        ({"target_modules": "(.*a)+q"}, "allowed: a regular expression of few repeats"),
        ({"layers_pattern": ["(a+)+"]}, "layers_pattern is ('(a+)+',)"),
        ({"r": 60000}, "make it (60000, 32)"),
        ({"layer_replication": [[0, 1]]}, "layer_replication is [[0, 1]], which this library does not do"),
        ({"modules_to_save": ["nothing"]}, "modules_to_save: no module's name fits 'nothing'"),
    ],
)
def test_bad_configs(folder, fields, said):
    change(folder, **fields)
    assert said in refused(folder)


def test_every_problem_of_the_tensors_in_one_error(folder):
    def spoil(found):
        found[A] = torch.zeros(3, 32)
        del found[B]
        found["base_model.model.transformer.h.1.attn.c_attn.lora_A.weight"][0, 0] = float("nan")
        found["base_model.model.transformer.h.9.attn.c_attn.lora_A.weight"] = torch.zeros(2, 32)

    tensors(folder, spoil)
    said = refused(folder)
    assert f"{A} has shape (3, 32), but the model and adapter_config.json make it (2, 32)" in said
    assert f"{B} (96, 2) is missing" in said
    assert "h.1.attn.c_attn.lora_A.weight is no tensor of finite floating-point numbers" in said
    assert "h.9.attn.c_attn.lora_A.weight (2, 32): nothing reads it" in said


def test_files_that_are_not_there_or_cut(folder):
    weights = folder / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    assert "cut short" in refused(folder)
    weights.unlink()
    assert "has neither adapter_model.safetensors nor adapter_model.bin" in refused(folder)
    (folder / "adapter_config.json").write_text("[]")
    assert "must hold a JSON object" in refused(folder)
    (folder / "adapter_config.json").unlink()
    assert "has no adapter_config.json" in refused(folder)


def test_an_adapter_of_another_model_is_refused(folder):
    ours = pair("llama")[1]
    with pytest.raises(ValueError, match="no module's name fits 'c_attn'"):
        adapt.load_adapter(ours, folder)


def test_a_prefix_of_other_sizes_is_refused(tmp_path):
    ours = pair("llama")[1]
    adapt.add(ours, adapt.PrefixTuningConfig(num_virtual_tokens=2))
    adapt.save_adapter(ours, tmp_path)
    with pytest.raises(ValueError, match="num_attention_heads is 2, this model's is 4"):
        adapt.load_adapter(pair("gpt2")[1], tmp_path)
