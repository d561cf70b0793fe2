"""`Trainer` and adapters: what is trained, what is kept, and that the best comes back at the end."""

from __future__ import annotations

import math

import pytest
import torch

import regard
from regard import adapt
from regard.hf import IA3Config, LoraConfig, PrefixTuningConfig, TaskType, Trainer, TrainingArguments, get_peft_model

TINY = {
    "model_type": "bert",
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "vocab_size": 50,
}
ROWS = [{"input_ids": [2, 5 + i % 2, 9 + i % 7, 3], "label": i % 2} for i in range(32)]
TASK = TaskType.SEQ_CLS
CONFIGS = [
    LoraConfig(task_type=TASK, r=4),
    LoraConfig(task_type=TASK, r=4, bias="all"),
    IA3Config(task_type=TASK),
    PrefixTuningConfig(task_type=TASK, num_virtual_tokens=3),
]


def base():
    return regard.from_config(TINY, head="classification", seed=0)


def trainer(model, folder, **options):
    """A run that learns the opposite of what it is judged by, so that its best evaluation is an early one."""
    wrong = [{**row, "label": 1 - row["label"]} for row in ROWS]
    args = TrainingArguments(
        output_dir=str(folder),
        max_steps=12,
        per_device_train_batch_size=8,
        learning_rate=2e-2,
        lr_scheduler_type="constant",
        eval_strategy="steps",
        eval_steps=3,
        save_strategy="no",
        use_cpu=True,
        **options,
    )
    return Trainer(model, args, train_dataset=wrong, eval_dataset=ROWS)


def losses(run):
    return [e["valid"]["loss"] for e in run.history.evaluations]


@pytest.mark.parametrize("config", [None, *CONFIGS], ids=["whole", "lora", "lora with biases", "ia3", "prefix"])
def test_the_best_comes_back_at_the_end(config, tmp_path):
    model = base() if config is None else get_peft_model(base(), config)
    run = trainer(model, tmp_path, load_best_model_at_end=True)
    run.train()
    found = losses(run)
    assert min(found) < found[-1] - 1e-4  # or this would show nothing
    assert math.isclose(run.evaluate()["eval_loss"], min(found), rel_tol=1e-5)
    if config is not None:
        some, all_ = adapt.trainable(model)
        assert 0 < some < all_  # it may be trained on


@pytest.mark.parametrize("name", ["default", "mine"])
def test_an_adapter_of_any_name_is_kept_and_read_again(name, tmp_path):
    base().save_pretrained(tmp_path / "base")
    model = get_peft_model(regard.load(tmp_path / "base", with_processor=False), LoraConfig(task_type=TASK, r=4), name)
    before = {key: p.clone() for key, p in model.named_parameters() if not p.requires_grad}
    run = trainer(model, tmp_path / "run", load_best_model_at_end=True)
    run.train()
    own = dict(model.named_parameters())
    assert all(torch.equal(own[key], value) for key, value in before.items())
    run.save_model(str(tmp_path / "kept"))
    ids = torch.tensor([ROWS[0]["input_ids"]])
    for folder in (tmp_path / "kept", tmp_path / "run" / "best"):
        assert not (folder / "model.safetensors").exists()
        again = regard.load(folder, with_processor=False)
        assert torch.equal(again(ids).logits, model(ids).logits)
