"""The Transformer of 2017 against torch.nn.Transformer's layers on copied weights; the reference library has none."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

import regard
from regard.models.registry import families
from regard.nn import KVCache
from tests.models import oracle

TINY = families()["transformer"].tiny


def made(variant, seed=0, **changes):
    model = regard.from_config({**TINY[variant], **changes}, head="seq2seq-lm", seed=seed).eval()
    for name, parameter in model.named_parameters():
        if parameter.ndim == 1:  # norms and biases start at 1 and 0: that would hide mistakes
            nn.init.normal_(parameter, float("norm" in name and name.endswith("weight")), 0.3)
    return model


def copied(attention, ours):
    """Our four linears as torch keeps them: queries, keys and values in one matrix."""
    attention.in_proj_weight.data = torch.cat([ours.q.weight, ours.k.weight, ours.v.weight])
    attention.in_proj_bias.data = torch.cat([ours.q.bias, ours.k.bias, ours.v.bias])
    attention.out_proj.load_state_dict(ours.out.state_dict())


def torch_stack(ours, raw, *, decoder):
    """torch's stack of layers with our weights."""
    kind = nn.TransformerDecoderLayer if decoder else nn.TransformerEncoderLayer
    pre = raw.get("norm") == "pre"
    shape = {"d_model": raw["d_model"], "nhead": raw["num_heads"], "dim_feedforward": raw["d_ff"], "dropout": 0.1}
    layer = kind(**shape, activation="relu", batch_first=True, norm_first=pre)
    norm = nn.LayerNorm(raw["d_model"]) if pre else None
    whole = (nn.TransformerDecoder if decoder else nn.TransformerEncoder)(
        layer, raw["num_layers"], norm, **({} if decoder else {"enable_nested_tensor": False})
    )
    for theirs, mine in zip(whole.layers, ours.layers, strict=True):
        copied(theirs.self_attn, mine.attn.fn)
        theirs.norm1.load_state_dict(mine.attn.norm.state_dict())
        if decoder:
            copied(theirs.multihead_attn, mine.cross.fn)
            theirs.norm2.load_state_dict(mine.cross.norm.state_dict())
        last = theirs.norm3 if decoder else theirs.norm2
        last.load_state_dict(mine.ffn.norm.state_dict())
        theirs.linear1.load_state_dict(mine.ffn.fn.up.state_dict())
        theirs.linear2.load_state_dict(mine.ffn.fn.down.state_dict())
    if pre:
        norm.load_state_dict(ours.norm.state_dict())
    return whole.eval()


def embedded(ids, table):
    """sqrt(d) * table[id] + PE, PE as the paper writes it (3.4, 3.5)."""
    dim = table.shape[1]
    position = torch.tensor(
        [
            [(math.cos if i % 2 else math.sin)(t / 10000 ** ((i - i % 2) / dim)) for i in range(dim)]
            for t in range(ids.shape[1])
        ]
    )
    return table[ids] * math.sqrt(dim) + position


def truth(model, source, target):
    """Logits (T, V) of one pair, by torch's layers."""
    raw = model.raw
    memory = torch_stack(model.encoder.stack, raw, decoder=False)(
        embedded(source[None], model.encoder.front.token.weight)
    )
    causal = nn.Transformer.generate_square_subsequent_mask(len(target))
    decoder = torch_stack(model.decoder.stack, raw, decoder=True)
    hidden = decoder(embedded(target[None], model.decoder.front.token.weight), memory, tgt_mask=causal)
    return (hidden @ model.head.out.weight.T)[0]


def pairs(model):
    draw = torch.Generator().manual_seed(1)
    vocabularies = (model.encoder.front.config.vocab_size, model.decoder.front.config.vocab_size)
    lengths = ((7, 11, 11, 4), (5, 3, 3, 9))
    return [
        [torch.randint(3, v, (n,), generator=draw) for n in ns] for v, ns in zip(vocabularies, lengths, strict=True)
    ]


@torch.no_grad()
@pytest.mark.parametrize("layout", ["right", "left", "packed"])
@pytest.mark.parametrize("variant", TINY)
def test_logits_equal_torchs_own_layers_in_every_layout(variant, layout):
    model = made(variant)
    sources, targets = pairs(model)
    expected = [truth(model, s, t) for s, t in zip(sources, targets, strict=True)]
    for ours, theirs in zip(oracle.our_rows(model, sources, targets, layout), expected, strict=True):
        oracle.close(ours["logits"], theirs)


@torch.no_grad()
@pytest.mark.parametrize("variant", TINY)
def test_cached_steps_equal_one_pass(variant):
    model = made(variant)
    (source, *_), (*_, target) = pairs(model)
    memory, cache = model.encode(source[None]), KVCache()
    steps = [model.hidden(target[None, i : i + 1], memory, cache=cache)[0][0, 0] for i in range(len(target))]
    oracle.close(model.logits(torch.stack(steps)), truth(model, source, target))


@torch.no_grad()
@pytest.mark.parametrize("head", ["seq2seq-lm", "features"])
@pytest.mark.parametrize("variant", TINY)
def test_to_disk_and_back(variant, head, tmp_path):
    model = regard.from_config(dict(TINY[variant]), head=head, seed=0).eval()
    regard.save(model, tmp_path)
    again = regard.load(tmp_path)
    assert again.config == model.config and again.architecture == model.architecture
    assert again.state_dict().keys() == model.state_dict().keys()
    assert all(torch.equal(again.state_dict()[k], v) for k, v in model.state_dict().items())


def test_one_table_serves_source_target_and_output_unless_told_otherwise():
    model = made("transformer")
    assert model.head.out.weight is model.decoder.front.token.weight is model.encoder.front.token.weight
    model = made("transformer", tie_embeddings=False)
    assert model.head.out.weight is model.decoder.front.token.weight is not model.encoder.front.token.weight
    model = made("transformer", tie_projection=False)
    assert model.head.out.weight is not model.decoder.front.token.weight is model.encoder.front.token.weight


def test_new_weights_are_xavier_and_embeddings_keep_unit_scale():
    model = regard.from_config({"model_type": "transformer", "vocab_size": 500, "num_layers": 1}, seed=0)
    up = model.encoder.stack.layers[0].ffn.fn.up.weight.detach()  # (2048, 512)
    bound = math.sqrt(6 / (2048 + 512))
    assert float(up.abs().max()) == pytest.approx(bound, rel=1e-3)
    assert float(up.std()) == pytest.approx(bound / math.sqrt(3), rel=0.01)
    table = model.encoder.front.token.weight.detach() * math.sqrt(512)
    assert float(table.std()) == pytest.approx(1.0, rel=0.01)


def test_the_base_model_has_the_papers_size():
    raw = {"model_type": "transformer", "vocab_size": 37000}
    with torch.device("meta"):
        model = regard.from_config(raw)
    count = sum(p.numel() for p in model.parameters())
    assert count == pytest.approx(65e6, rel=0.04)  # table 3: 65 million


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"num_heads": 5}, "num_heads is 5; allowed: a divisor of d_model = 32"),
        ({"norm": "middle"}, "norm is 'middle'; allowed: 'post', 'pre'"),
        ({"target_vocab_size": 50, "tie_embeddings": True}, "tie_embeddings is True; allowed: False"),
        ({"vocab_size": 0}, "vocab_size is 0; allowed: an integer from 1"),
    ],
)
def test_wrong_configs_are_refused_by_name(changes, said):
    with pytest.raises(ValueError, match=said):
        made("transformer", **changes)
