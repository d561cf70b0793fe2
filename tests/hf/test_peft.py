"""Tutorial code of peft with only its import line changed."""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import sys

import pytest
import torch

import regard
from regard.hf import (
    AutoModelForSequenceClassification,
    IA3Config,
    LoraConfig,
    PeftConfig,
    PeftModel,
    PrefixTuningConfig,
    TaskType,
    get_peft_model,
)
from tests.conftest import ROOT, real

pytest.importorskip("peft", reason="peft is not installed (extra: oracle)")

FIELDS = [
    ("LoraConfig", {"r": 8, "lora_alpha": 16, "lora_dropout": 0.1}),
    ("LoraConfig", {"r": 3, "use_dora": True, "target_modules": "all-linear"}),
    ("IA3Config", {"target_modules": ["key", "output.dense"], "feedforward_modules": ["output.dense"]}),
    ("PrefixTuningConfig", {"num_virtual_tokens": 5}),
]
OURS = {"LoraConfig": LoraConfig, "IA3Config": IA3Config, "PrefixTuningConfig": PrefixTuningConfig}


def printed(model) -> str:
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        model.print_trainable_parameters()
    return out.getvalue()


def theirs(folder, name, fields, task="SEQ_CLS"):
    import peft
    import transformers

    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder)
    return peft.get_peft_model(model, getattr(peft, name)(task_type=task, **fields))


def ours(folder):
    return AutoModelForSequenceClassification.from_pretrained(folder)


def test_the_snippet_prints_what_peft_prints(cache, tmp_path):
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGINGFACE"))}
    environment |= {"HF_HUB_CACHE": str(cache[0]), "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run(
        [sys.executable, str(real("snippets/07_lora.py"))],
        env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout == printed(theirs(cache[1]["bert-base-uncased"], *FIELDS[0]))


@pytest.mark.parametrize(("name", "fields"), FIELDS)
def test_as_many_parameters_as_in_peft(cache, name, fields):
    folder = cache[1]["bert-base-uncased"]
    model = get_peft_model(ours(folder), OURS[name](task_type=TaskType.SEQ_CLS, **fields))
    assert printed(model) == printed(theirs(folder, name, fields))


def test_it_behaves_as_the_model(cache, tmp_path):
    base = ours(cache[1]["bert-base-uncased"])
    ids = torch.tensor([[5, 6, 7]])
    plain = base(ids).logits
    model = get_peft_model(base, LoraConfig(task_type=TaskType.SEQ_CLS, init_lora_weights=False))
    assert isinstance(model, PeftModel) and isinstance(model, regard.Model)
    assert model.config is base.config and model.active_adapter == "default" and model.peft_config["default"].r == 8
    assert {type(p) for p in model.get_base_model().parameters()} == {torch.nn.Parameter}
    changed = model(ids).logits
    assert not torch.allclose(changed, plain)
    with model.disable_adapter():
        assert torch.equal(model(ids).logits, plain)
    model.save_pretrained(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]
    assert PeftConfig.from_pretrained(tmp_path).base_model_name_or_path == base.name
    with pytest.raises(ValueError, match="adapters are on it"):
        regard.save(model, tmp_path / "whole")
    assert not (tmp_path / "whole").exists()

    model.load_adapter(tmp_path, "again")
    model.add_adapter("third", LoraConfig(task_type=TaskType.SEQ_CLS, r=2))
    assert model.active_adapters == ["default"]
    model.set_adapter("third")
    assert torch.allclose(model(ids).logits, plain, atol=1e-6)
    model.set_adapter("again")
    assert torch.equal(model(ids).logits, changed)
    model.delete_adapter("third")
    assert list(model.peft_config) == ["default", "again"]
    merged = model.merge_and_unload()
    assert not isinstance(merged, PeftModel)
    torch.testing.assert_close(merged(ids).logits, changed, atol=1e-5, rtol=1e-5)
    regard.save(merged, tmp_path / "whole")
    torch.testing.assert_close(
        regard.load(tmp_path / "whole", with_processor=False)(ids).logits, changed, atol=1e-5, rtol=1e-5
    )


def test_an_adapter_from_a_folder_is_frozen_unless_asked(cache, tmp_path):
    folder = cache[1]["bert-base-uncased"]
    get_peft_model(ours(folder), LoraConfig(task_type=TaskType.SEQ_CLS)).save_pretrained(tmp_path)
    model = PeftModel.from_pretrained(ours(folder), tmp_path)
    assert model.get_nb_trainable_parameters()[0] == 0 and not model.training
    model = PeftModel.from_pretrained(ours(folder), tmp_path, is_trainable=True)
    assert model.get_nb_trainable_parameters()[0] > 0
