"""One model of the reference library and ours from the same files, for adapters of peft and of ours."""

from __future__ import annotations

import copy
import functools
import tempfile
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import regard
from regard.models.registry import families
from tests.models.oracle import random_words, reference

pytest.importorskip("peft", reason="peft is not installed (extra: oracle)")

MODELS = {
    "bert": ("bert", "bert", "BertForSequenceClassification", "SEQ_CLS"),
    "gpt2": ("gpt2", "gpt2", "GPT2LMHeadModel", "CAUSAL_LM"),
    "llama": ("llama", "llama", "LlamaForCausalLM", "CAUSAL_LM"),
    "t5": ("t5", "t5", "T5ForConditionalGeneration", "SEQ_2_SEQ_LM"),
    "bart": ("bart", "bart", "BartForSequenceClassification", "SEQ_CLS"),
    "gpt_neox": ("gpt_neox", "gpt_neox", "GPTNeoXForCausalLM", "CAUSAL_LM"),
    "deberta": ("deberta_v2", "deberta v3", "DebertaV2ForTokenClassification", "TOKEN_CLS"),
    "llama-cls": ("llama", "llama", "LlamaForSequenceClassification", "SEQ_CLS"),
}
NAMED: dict[str, dict[str, Any]] = {
    "bert": {"target_modules": ["query", "attention.output.dense", "word_embeddings"]},
    "gpt2": {"target_modules": ["c_attn", "mlp.c_proj", "wte"]},
    "llama": {"target_modules": ["q_proj", "down_proj", "embed_tokens"]},
    "t5": {"target_modules": ["q", "k", "wo"]},
    "bart": {"target_modules": ["q_proj", "fc1"]},
    "gpt_neox": {"target_modules": ["query_key_value", "dense"]},
    "deberta": {"target_modules": ["query_proj", "key_proj"]},
    "llama-cls": {"target_modules": ["q_proj", "up_proj"]},
}
"""Modules of several kinds that peft adapts, tables of words among them."""


def pair(name: str) -> tuple[Any, regard.Model, str]:
    """The reference's model (a copy that may be changed), ours, and the task."""
    family, variant, architecture, task = MODELS[name]
    model, folder = _even(architecture) if family == "t5" else reference(family, variant, architecture)
    return copy.deepcopy(model), regard.load(folder, with_processor=False), task


@functools.cache
def _even(architecture: str) -> tuple[Any, Path]:
    """A model with as many layers in its decoder as in its encoder: peft's prefix fits no other."""
    import transformers

    fields = {**families()["t5"].tiny["t5"], "num_decoder_layers": 3, "num_layers": 3}
    torch.manual_seed(3)
    config = transformers.AutoConfig.for_model(fields.pop("model_type"), **fields)
    model = getattr(transformers, architecture)(config).eval()
    folder = Path(tempfile.mkdtemp(prefix="regard-oracle-"))
    model.save_pretrained(folder)
    return model, folder


def batch(model: Any, lengths: tuple[int, ...] = (7, 5, 7), seed: int = 0) -> dict[str, Tensor]:
    """Ragged rows, padded on the right, as both libraries take them."""
    rows = random_words(model, lengths, seed)
    ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=model.config.pad_token_id or 0)
    mask = (torch.arange(ids.shape[1]) < torch.tensor(lengths)[:, None]).long()
    found = {"input_ids": ids, "attention_mask": mask}
    if type(model).__name__.endswith("ForConditionalGeneration"):
        found["decoder_input_ids"] = torch.stack(random_words(model, (6,) * len(lengths), seed + 1))
    return found


@torch.no_grad()
def logits(model: Any, inputs: dict[str, Tensor]) -> Tensor:
    """Logits of real tokens (or of rows), flat."""
    out = model(**inputs).logits
    if out.ndim == 3 and "decoder_input_ids" not in inputs:
        return out[inputs["attention_mask"].bool()]
    return out


def near(ours: Tensor, theirs: Tensor, tolerance: float = 1e-5) -> None:
    """Equal within a part of the largest number."""
    assert ours.shape == theirs.shape
    assert float((ours - theirs).abs().max()) <= tolerance * max(1.0, float(theirs.abs().max()))


def peft_config(kind: str, task: str, **fields: Any) -> Any:
    """peft's config: "lora", "rslora", "dora", "ia3", "prefix"."""
    import peft

    if kind == "ia3":
        return peft.IA3Config(task_type=task, init_ia3_weights=False, **fields)
    if kind == "prefix":
        return peft.PrefixTuningConfig(task_type=task, num_virtual_tokens=3, **fields)
    settings: dict[str, Any] = {"lora": {}, "rslora": {"use_rslora": True}, "dora": {"use_dora": True}}[kind]
    return peft.LoraConfig(task_type=task, r=4, lora_alpha=6, init_lora_weights=False, **settings, **fields)


def adapted(model: Any, config: Any) -> Any:
    """peft's model, in evaluation, with noise in everything that it trains."""
    import peft

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = peft.get_peft_model(model, config).eval()
    for parameter in made.parameters():
        if parameter.requires_grad:
            parameter.data += 0.1 * torch.randn_like(parameter)
    return made


def opened(model: Any, folder: Path) -> Any:
    """peft's model with an adapter from a folder."""
    import peft

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return peft.PeftModel.from_pretrained(model, folder).eval()
