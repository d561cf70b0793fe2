"""Adapters against their formulas, and training against peft: the same steps give the same losses."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import regard
from regard import adapt
from tests.adapt.both import batch, logits, near, pair, peft_config

IDS = torch.arange(7, 13)[None]


def noisy(name="gpt2", **fields) -> tuple[regard.Model, torch.Tensor, torch.Tensor]:
    """A model with a LoRA adapter that does something, its logits before, and after."""
    model = pair(name)[1]
    plain = model(IDS).logits.detach()
    adapt.add(model, adapt.LoraConfig(r=4, init_lora_weights=False, **fields))
    return model, plain, model(IDS).logits.detach()


def module(model: regard.Model, part: str = "q", layer: int = 0):
    return model.decoder.stack.layers[layer].attn.fn.get_submodule(part)


# ------------------------------------------------------------------------------------------------------- the formulas


@pytest.mark.parametrize("rs", [False, True])
def test_lora_is_its_formula(rs):
    model, _, _ = noisy("llama", lora_alpha=6, use_rslora=rs)
    q, x = module(model), torch.randn(2, 3, 32)
    lora = q.adapters["default"]
    scaling = 6 / 2 if rs else 6 / 4
    expected = x @ (q.base.weight + scaling * lora.b @ lora.a).T
    torch.testing.assert_close(q(x), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_dora_is_its_formula(name):
    model, _, _ = noisy(name, lora_alpha=6, use_dora=True)
    q, x = module(model), torch.randn(2, 3, 32)
    lora = q.adapters["default"]
    lora.magnitude.data += torch.rand_like(lora.magnitude)
    direction = q.base.weight + 6 / 4 * lora.b @ lora.a
    weight = lora.magnitude[:, None] * direction / direction.square().sum(1, keepdim=True).sqrt()
    expected = nn.functional.linear(x, weight, q.base.bias)
    torch.testing.assert_close(q(x), expected, atol=1e-5, rtol=1e-5)


def test_a_table_of_words():
    model = pair("llama")[1]
    adapt.add(model, adapt.LoraConfig(r=2, lora_alpha=5, target_modules=["embed_tokens"], init_lora_weights=False))
    table = model.decoder.front.token
    lora = table.adapters["default"]
    onehot = nn.functional.one_hot(IDS, 97).float()
    expected = onehot @ (table.base.weight + 2.5 * (lora.b @ lora.a).T)
    torch.testing.assert_close(table(IDS), expected, atol=1e-5, rtol=1e-5)


def test_a_new_adapter_changes_nothing():
    for config in (
        adapt.LoraConfig(),
        adapt.LoraConfig(use_dora=True, init_lora_weights="gaussian"),
        adapt.LoraConfig(target_modules=["wte", "wpe"]),
        adapt.IA3Config(),
    ):
        model = pair("gpt2")[1]
        plain = model(IDS).logits
        adapt.add(model, config)
        near(model(IDS).logits, plain)


def test_dropout_is_of_the_adapter_alone():
    model, _, still = noisy(lora_dropout=0.5)
    assert torch.equal(model(IDS).logits, still)  # in evaluation there is none
    for part in model.modules():
        part.training = isinstance(part, nn.Module) and type(part).__name__ == "Lora"
    assert not torch.allclose(model(IDS).logits, still)


# ------------------------------------------------------------------------------------------------------------ training


def steps(model, parameters, loss_of, inputs, labels, number=20) -> list[float]:
    """Losses of plain gradient steps with momentum."""
    optimizer = torch.optim.AdamW(parameters, lr=3e-3)
    losses = []
    for step in range(number):
        rows = slice(0, 2) if step % 2 else slice(1, 4)
        out = model(**{key: value[rows] for key, value in inputs.items()})
        loss = loss_of(out.logits, labels[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss))
    return losses


@pytest.mark.parametrize("kind", ["lora", "rslora", "dora", "ia3", "prefix"])
@pytest.mark.parametrize("name", ["bert", "gpt2", "llama", "t5"])
def test_twenty_steps_give_the_losses_of_peft(name, kind, tmp_path):
    import peft

    theirs, ours, task = pair(name)
    inputs = batch(theirs, (7, 5, 7, 6))
    fields = {"modules_to_save": ["pooler"]} if name == "bert" else {}
    there = peft.get_peft_model(theirs, peft_config(kind, task, **fields)).eval()  # no dropout: steps can be compared
    there.save_pretrained(tmp_path)
    adapt.load_adapter(ours, tmp_path, trainable=True)
    assert adapt.trainable(ours) == there.get_nb_trainable_parameters()
    shape = logits(ours, inputs).shape
    if name == "bert":
        labels, loss_of = torch.tensor([0, 1, 1, 0]), nn.functional.cross_entropy
    else:
        words = inputs.get("decoder_input_ids", inputs["input_ids"])
        labels = words.masked_fill(~inputs["attention_mask"].bool(), -100) if name != "t5" else words

        def loss_of(scores, words):
            return nn.functional.cross_entropy(scores[:, :-1].flatten(0, 1), words[:, 1:].flatten())

    frozen = {key: p.detach().clone() for key, p in ours.named_parameters() if not p.requires_grad}
    expected = steps(there, [p for p in there.parameters() if p.requires_grad], loss_of, inputs, labels)
    found = steps(ours, [p for p in ours.parameters() if p.requires_grad], loss_of, inputs, labels)
    assert expected[0] != pytest.approx(expected[-2], abs=1e-3)  # something was learnt
    assert found == pytest.approx(expected, abs=1e-4)
    assert all(torch.equal(p, frozen[key]) for key, p in ours.named_parameters() if key in frozen)
    near(logits(ours, inputs), logits(there, inputs), 1e-4)
    assert logits(ours, inputs).shape == shape


@pytest.mark.parametrize("config", [adapt.LoraConfig(lora_dropout=0.1), adapt.IA3Config(task_type="SEQ_CLS")])
def test_a_step_changes_what_is_trained_and_nothing_else(config):
    model = pair("bert")[1].train()
    adapt.add(model, config.replace(task_type="SEQ_CLS"))
    before = {key: p.detach().clone() for key, p in model.named_parameters()}
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    for _ in range(2):  # b is zero at first, so that a moves only then
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(IDS).logits, torch.tensor([1])).backward()
        optimizer.step()
    changed = {key for key, p in model.named_parameters() if not torch.equal(p, before[key])}
    assert changed == {key for key, p in model.named_parameters() if p.requires_grad}
    assert all(".adapters.default." in key or "head.out.copies.default." in key for key in changed)
    assert {"head.out.copies.default.weight", "head.out.copies.default.bias"} < changed


# ------------------------------------------------------------------------------------ several, merged, mixed, taken off


@pytest.mark.parametrize(
    "config",
    [
        adapt.LoraConfig(init_lora_weights=False),
        adapt.LoraConfig(init_lora_weights=False, use_dora=True, target_modules="all-linear"),
        adapt.IA3Config(init_ia3_weights=False),
        adapt.LoraConfig(init_lora_weights=False, target_modules=["wpe"]),
    ],
)
def test_merge_and_unmerge(config):
    model = pair("gpt2")[1]
    plain = model(IDS).logits
    adapt.add(model, config)
    for part in model.modules():
        if getattr(part, "magnitude", None) is not None:
            part.magnitude.data += 0.1
    changed = model(IDS).logits
    assert not torch.allclose(plain, changed, atol=1e-3)
    adapt.merge(model)
    near(model(IDS).logits, changed)
    with pytest.raises(ValueError, match="are merged into the weights; unmerge first"):
        adapt.set_active(model, "default")
    adapt.unmerge(model)
    assert torch.equal(model(IDS).logits, changed)
    adapt.merge(model)
    adapt.unload(model)
    near(model(IDS).logits, changed)
    assert all(p.requires_grad for p in model.parameters())
    assert [n for n, _ in model.named_parameters()] == [n for n, _ in pair("gpt2")[1].named_parameters()]


def test_several_at_once_are_the_sum_of_their_changes():
    model, _, first = noisy("llama")
    adapt.add(model, adapt.LoraConfig(r=3, init_lora_weights=False, target_modules=["q_proj", "up_proj"]), "other")
    assert torch.equal(model(IDS).logits, first)  # the new one waits
    adapt.set_active(model, ["default", "other"])
    both = model(IDS).logits
    q = module(model)
    x = torch.randn(2, 32)
    deltas = sum(q.adapters[name].delta() for name in ("default", "other"))
    torch.testing.assert_close(q(x), x @ (q.base.weight + deltas).T, atol=1e-5, rtol=1e-5)
    adapt.merge(model)
    near(model(IDS).logits, both)
    adapt.unmerge(model)
    adapt.combine(model, {"default": 1.0, "other": 1.0}, "sum")
    adapt.combine(model, {"default": 1.0, "other": 1.0}, "near", how="svd", rank=7)
    for name in ("sum", "near"):
        adapt.set_active(model, name)
        near(model(IDS).logits, both)
    adapt.set_active(model, "other")
    learns = {key for key, p in model.named_parameters() if p.requires_grad}
    assert learns and all(".adapters.other." in key for key in learns)


@pytest.mark.parametrize("how", ["cat", "svd"])
def test_mixing_against_peft(how, tmp_path):
    import peft

    theirs, ours, task = pair("gpt2")
    inputs = batch(theirs)
    there = peft.get_peft_model(theirs, peft_config("lora", task)).eval()
    there.add_adapter("b", peft_config("rslora", task, target_modules=["c_attn", "mlp.c_proj"]))
    there.add_weighted_adapter(["default", "b"], [0.7, -0.4], "mix", combination_type=how)
    there.save_pretrained(tmp_path)
    adapt.load_adapter(ours, tmp_path)
    adapt.load_adapter(ours, tmp_path / "b", "b")
    adapt.combine(ours, {"default": 0.7, "b": -0.4}, "mix", how=how)
    there.set_adapter("mix")
    adapt.set_active(ours, "mix")
    near(logits(ours, inputs), logits(there, inputs))


def test_switching_is_exact_and_the_last_one_leaves_no_trace():
    model, plain, first = noisy()
    adapt.add(model, adapt.LoraConfig(r=2, init_lora_weights=False, target_modules=["c_proj"]), "other")
    adapt.set_active(model, "other")
    assert not torch.allclose(model(IDS).logits, first)
    adapt.set_active(model, "default")
    assert torch.equal(model(IDS).logits, first)
    with adapt.disabled(model):
        assert torch.equal(model(IDS).logits, plain)
    adapt.set_active(model, [])
    assert torch.equal(model(IDS).logits, plain)
    adapt.delete(model, "other")
    assert not any("other" in name for name, _ in model.named_modules())
    adapt.delete(model, "default")
    assert torch.equal(model(IDS).logits, plain)
    assert str(model) == str(pair("gpt2")[1])


def test_a_copy_is_apart():
    model, _, first = noisy()
    twin = copy.deepcopy(model)
    adapt.delete(twin, "default")
    assert torch.equal(model(IDS).logits, first) and not torch.allclose(twin(IDS).logits, first)


def test_writing_with_an_adapter():
    model, _, _ = noisy()
    written = model.generate(IDS, max_new_tokens=5, do_sample=False, eos_token_id=96, pad_token_id=0)
    ids = IDS
    for _ in range(5):
        ids = torch.cat([ids, model(ids).logits[:, -1].argmax(-1, keepdim=True)], 1)
    assert written.tolist() == ids.tolist()


# ------------------------------------------------------------------------------------------------------ other weights


class Whole(nn.Module):
    """A linear that keeps whole numbers, as a quantized one does."""

    def __init__(self, linear: nn.Linear):
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.scale = linear.weight.abs().max() / 127
        self.register_buffer("weight", (linear.weight / self.scale).round().to(torch.int8))

    def forward(self, x):
        return x @ (self.weight * self.scale).T


def test_over_quantized_weights():
    model = pair("llama")[1]
    for site in adapt.find(model, ["q_proj", "v_proj"]):
        adapt.replace(model, site.ours[0], Whole(model.get_submodule(site.ours[0])))
    plain = model(IDS).logits
    adapt.add(model, adapt.LoraConfig(init_lora_weights=False))
    assert not torch.allclose(model(IDS).logits, plain)
    model(IDS).logits.sum().backward()
    assert module(model).adapters["default"].b.grad.abs().sum() > 0
    with pytest.raises(ValueError, match=r"merging needs floating-point weights, but .*\.q is a Whole with torch.int8"):
        adapt.merge(model)
    adapt.delete(model, "default")
    assert torch.equal(model(IDS).logits, plain)
    with pytest.raises(ValueError, match="DoRA needs floating-point weights"):
        adapt.add(model, adapt.LoraConfig(use_dora=True))
    assert torch.equal(model(IDS).logits, plain)


def test_half_precision_trains_in_single():
    model = pair("llama")[1].to(torch.bfloat16)
    adapt.add(model, adapt.LoraConfig())
    assert module(model).adapters["default"].a.dtype == torch.float32
    assert model(IDS).logits.dtype == torch.bfloat16


def test_a_model_built_from_bricks(tmp_path):
    model = pair("llama")[1]
    bricks = regard.models.model.build_model(model.config, seed=1).eval()
    adapt.add(bricks, adapt.LoraConfig(init_lora_weights=False))
    adapt.save_adapter(bricks, tmp_path)
    other = regard.models.model.build_model(model.config, seed=1).eval()
    adapt.load_adapter(other, tmp_path)
    assert torch.equal(other(IDS).logits, bricks(IDS).logits)


# ------------------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"target_modules": ["q_prj"]}, r"target_modules: no module's name fits 'q_prj'; near: .*q_proj"),
        ({"target_modules": r".*\.nothing"}, "no module's name fits"),
        ({"r": 0}, "LoraConfig.r is 0; allowed: an integer from 1"),
        ({"r": 0, "bias": "some"}, r"LoraConfig.r is 0; .*LoraConfig.bias is 'some'; allowed: none, all, lora_only"),
        ({"lora_dropout": 1.0}, "lora_dropout is 1.0; allowed: a number from 0, below 1"),
        ({"layers_to_transform": [99]}, "leave no module"),
        ({"task_type": "CHAT"}, "task_type is 'CHAT'; allowed: SEQ_CLS"),
        ({"modules_to_save": ["lm_heads"]}, "modules_to_save: no module's name fits 'lm_heads'; near: .*lm_head"),
    ],
)
def test_wrong_configs(fields, said):
    model = pair("llama")[1]
    before = str(model)
    with pytest.raises(ValueError, match=said):
        adapt.add(model, adapt.LoraConfig(**fields))
    assert str(model) == before and all(p.requires_grad for p in model.parameters())


def test_wrong_uses():
    model, _, _ = noisy()
    with pytest.raises(ValueError, match="there is an adapter 'default' already"):
        adapt.add(model, adapt.LoraConfig())
    with pytest.raises(ValueError, match="no IA3 goes beside it"):
        adapt.add(model, adapt.IA3Config(), "other")
    with pytest.raises(ValueError, match=r"an adapter's name is 'a\.b'"):
        adapt.add(model, adapt.LoraConfig(), "a.b")
    with pytest.raises(ValueError, match="there is no adapter 'other'; there are default"):
        adapt.set_active(model, "other")
    adapt.add(model, adapt.LoraConfig(use_dora=True), "dora")
    with pytest.raises(ValueError, match="'dora' cannot be combined"):
        adapt.combine(model, {"default": 1.0, "dora": 1.0}, "mix")
    tables = pair("gpt2")[1]
    adapt.add(tables, adapt.LoraConfig(target_modules=["wte"]))
    with pytest.raises(ValueError, match=r"front.token.weight is also head.out.weight: merging would change both"):
        adapt.merge(tables)
    prefix = pair("gpt2")[1]
    adapt.add(prefix, adapt.PrefixTuningConfig(num_virtual_tokens=2))
    with pytest.raises(ValueError, match="a prefix is no change of weights"):
        adapt.merge(prefix)
    with pytest.raises(ValueError, match="adapters are on it"):
        regard.save(prefix, "nowhere")
