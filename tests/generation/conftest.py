"""Small models that write, made here, and a tokenizer of single characters."""

from __future__ import annotations

import pytest
import torch

import regard

GPT2 = {"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], "n_embd": 32, "n_layer": 2, "n_head": 4}
GPT2 |= {"n_positions": 64, "vocab_size": 61, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
T5 = {"model_type": "t5", "architectures": ["T5ForConditionalGeneration"], "d_model": 32, "d_kv": 8, "d_ff": 48}
T5 |= {"num_layers": 2, "num_heads": 4, "vocab_size": 61, "pad_token_id": 0, "eos_token_id": 1}
T5 |= {"decoder_start_token_id": 0}


def sharpened(raw):
    """A new model whose scores are far apart, so that no rounding decides."""
    model = regard.from_config(raw, seed=3).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(8 if raw["model_type"] == "gpt2" else 1.5)
    return model


@pytest.fixture(scope="session")
def gpt2():
    return sharpened(GPT2)


@pytest.fixture(scope="session")
def t5():
    return sharpened(T5)


@pytest.fixture(scope="session", params=["gpt2", "t5"])
def model(request):
    """A decoder, and an encoder with a decoder."""
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="session")
def rows():
    """Prompts of four lengths."""
    draw = torch.Generator().manual_seed(5)
    return [torch.randint(3, 61, (n,), generator=draw).tolist() for n in (9, 3, 6, 1)]


class Letters:
    """Ids as text: two letters to a token from 10 up, so that stop strings can lie across borders."""

    def decode(self, ids, skip_special_tokens=False):
        return "".join(chr(97 + i % 26) + chr(97 + i % 7) for i in ids)


@pytest.fixture(scope="session")
def letters():
    return Letters()


def alone(model, rows, **options):
    """What each row gives by itself: the new tokens up to and with the end."""
    return [cut(model, model.generate([row], **options)[0], len(row)) for row in rows]


def cut(model, sequence, prompt):
    """New tokens of one row of a result, without what stands after the end."""
    new = sequence.tolist()[1 if model.encoder is not None else prompt :]
    eos = model.config.tokens.eos[0]
    return new[: new.index(eos) + 1] if eos in new else new
