"""From a folder to a model and back: each layout of files on disk, tied weights, other heads, all errors in one."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import regard
from regard import native
from regard.models.registry import families

IDS = torch.tensor([[5, 9, 31, 7, 60, 12, 2]])
TIED = "model.embed_tokens.weight"
HEAD = "lm_head.weight"
CODES = {torch.float32: "float32", torch.bfloat16: "bfloat16", torch.float16: "float16"}


def new(name: str = "llama", head: str | None = "causal-lm", **fields: Any) -> regard.Model:
    """A tiny model with weights of its own, biases and norms as well."""
    model = regard.from_config({**families()[name].tiny[name], **fields}, head=head, seed=0).eval()
    draw = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        parameter.data.add_(torch.randn(parameter.shape, generator=draw), alpha=0.1)
    return model


def edit(folder: Path, change: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> None:
    """Change the weights of a folder."""
    file = folder / "model.safetensors"
    save_file(change(load_file(file)), file, metadata={"format": "pt"})


@torch.no_grad()
def logits(model: regard.Model) -> Tensor:
    return native.remove(model)(IDS).logits  # a loaded model may write with the kernels, which add up in another order


def parameters(model: regard.Model) -> dict[str, Tensor]:
    return {name: p.detach() for name, p in model.named_parameters(remove_duplicate=False)}


def equal(a: regard.Model, b: regard.Model) -> bool:
    mine, other = parameters(a), parameters(b)
    return set(mine) == set(other) and all(torch.equal(mine[name], other[name]) for name in mine)


# ------------------------------------------------------------------------------------------ layouts on disk


@pytest.mark.parametrize("name", ["bert", "gpt2", "gpt_neox", "llama", "phi3", "t5"])
def test_saving_and_loading_gives_the_same_model(name: str, tmp_path: Path) -> None:
    model = new(name, None)
    regard.save(model, tmp_path / "one")
    again = regard.load(tmp_path / "one")
    assert equal(again, model)
    assert again.config == model.config
    assert (again.architecture, again.labels, again.training) == (model.architecture, model.labels, False)
    regard.save(again, tmp_path / "two")
    for file in ("config.json", "model.safetensors"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


def test_shards_with_an_index(tmp_path: Path) -> None:
    model = new()
    regard.save(model, tmp_path, shard_bytes=20_000)
    files = sorted(file.name for file in tmp_path.glob("*.safetensors"))
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert len(files) > 2 and files[0] == f"model-00001-of-{len(files):05}.safetensors"
    found = {key: file for file in files for key in load_file(tmp_path / file)}
    assert index["weight_map"] == found
    assert index["metadata"]["total_size"] == sum(p.nbytes for p in model.parameters())
    assert equal(regard.load(tmp_path), model)
    (tmp_path / files[1]).unlink()
    with pytest.raises(ValueError, match=files[1]):
        regard.load(tmp_path)


def test_shards_of_the_reference(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers", reason="the reference library is not installed (extra: oracle)")
    model = new()
    regard.save(model, tmp_path / "ours")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "ours")
    theirs.save_pretrained(tmp_path / "theirs", max_shard_size="20KB")
    assert len(list((tmp_path / "theirs").glob("model-*.safetensors"))) > 2
    assert equal(regard.load(tmp_path / "theirs"), model)
    regard.save(model, tmp_path / "shards", shard_bytes=20_000)
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "shards")
    for key, value in theirs.state_dict().items():
        assert torch.equal(again.state_dict()[key], value), key


@pytest.mark.parametrize("stored", [torch.bfloat16, torch.float16, torch.float32], ids=CODES.get)
@pytest.mark.parametrize("asked", ["auto", "float32", "bfloat16", "float16", torch.bfloat16], ids=str)
def test_types_of_numbers(stored: torch.dtype, asked: Any, tmp_path: Path) -> None:
    model = new().to(stored)
    regard.save(model, tmp_path)
    assert {t.dtype for t in load_file(tmp_path / "model.safetensors").values()} == {stored}
    assert json.loads((tmp_path / "config.json").read_text())["dtype"] == CODES[stored]
    loaded = regard.load(tmp_path, dtype=asked)
    target = torch.float32 if asked == "auto" else getattr(torch, str(asked).removeprefix("torch."))
    assert {p.dtype for p in loaded.parameters()} == {target}
    before = parameters(model)
    assert all(torch.equal(value, before[name].to(target)) for name, value in parameters(loaded).items())
    assert logits(loaded).dtype == target and bool(logits(loaded).isfinite().all())


def test_one_odd_type_among_the_others_is_brought_in_line(tmp_path: Path) -> None:
    regard.save(new().to(torch.bfloat16), tmp_path)
    edit(tmp_path, lambda tensors: {**tensors, "model.norm.weight": tensors["model.norm.weight"].float()})
    assert {p.dtype for p in regard.load(tmp_path).parameters()} == {torch.float32}
    assert {p.dtype for p in regard.load(tmp_path, dtype="bfloat16").parameters()} == {torch.bfloat16}


def test_a_type_that_there_is_not(tmp_path: Path) -> None:
    regard.save(new(), tmp_path)
    with pytest.raises(ValueError, match="dtype is 'int7'; allowed: auto, float32, bfloat16, float16"):
        regard.load(tmp_path, dtype="int7")


def test_pytorch_model_bin(tmp_path: Path) -> None:
    model = new()
    regard.save(model, tmp_path)
    torch.save(load_file(tmp_path / "model.safetensors"), tmp_path / "pytorch_model.bin")
    (tmp_path / "model.safetensors").unlink()
    assert equal(regard.load(tmp_path), model)


# ------------------------------------------------------------------------------------------ tied weights


def is_tied(model: regard.Model) -> bool:
    names = parameters(model)
    return names["head.out.weight"].data_ptr() == names["decoder.front.token.weight"].data_ptr()


def test_tied_weights_are_written_once_and_absent_ones_are_tied(tmp_path: Path) -> None:
    model = new(tie_word_embeddings=True)
    assert is_tied(model)
    regard.save(model, tmp_path)
    assert HEAD not in load_file(tmp_path / "model.safetensors")
    loaded = regard.load(tmp_path)
    assert is_tied(loaded) and torch.equal(logits(loaded), logits(model))


def test_tied_weights_that_the_file_holds_twice_stay_tied(tmp_path: Path) -> None:
    model = new(tie_word_embeddings=True)
    regard.save(model, tmp_path)
    edit(tmp_path, lambda tensors: {**tensors, HEAD: tensors[TIED].clone()})
    loaded = regard.load(tmp_path)
    assert is_tied(loaded) and torch.equal(logits(loaded), logits(model))


def test_only_the_tied_copy_is_on_disk(tmp_path: Path) -> None:
    model = new(tie_word_embeddings=True)
    regard.save(model, tmp_path)
    edit(tmp_path, lambda tensors: {HEAD if key == TIED else key: value for key, value in tensors.items()})
    loaded = regard.load(tmp_path)
    assert is_tied(loaded) and torch.equal(logits(loaded), logits(model))


def test_weights_that_differ_are_not_tied_whatever_the_config_says(tmp_path: Path) -> None:
    model = new(tie_word_embeddings=False)
    regard.save(model, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": True}))
    loaded = regard.load(tmp_path)
    assert not is_tied(loaded) and loaded.config.tied == ()
    assert torch.equal(logits(loaded), logits(model))
    regard.save(loaded, tmp_path / "again")
    assert torch.equal(logits(regard.load(tmp_path / "again")), logits(model))


# ------------------------------------------------------------------------------------------ heads


def test_another_head_starts_with_new_weights_and_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = new()
    regard.save(model, tmp_path)
    with caplog.at_level(logging.WARNING, "regard"):
        loaded = regard.load(tmp_path, head="classification", num_labels=5)
    assert "new weights for head.out.weight" in caplog.text and "train before use" in caplog.text
    assert loaded.architecture == "LlamaForSequenceClassification" and len(loaded.labels) == 5
    assert logits(loaded).shape == (1, 5)
    drawn = parameters(loaded)["head.out.weight"]
    assert 0.01 < float(drawn.std()) < 0.03  # initializer_range is 0.02
    before = parameters(model)
    assert all(torch.equal(p, before[name]) for name, p in parameters(loaded).items() if name.startswith("decoder."))


def test_a_head_that_the_file_holds_is_read_without_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = new(head="classification", num_labels=3)
    regard.save(model, tmp_path)
    with caplog.at_level(logging.WARNING, "regard"):
        assert equal(regard.load(tmp_path), model)
        features = regard.load(tmp_path, head="features")
        writer = regard.load(tmp_path, head="causal-lm")
    assert "new weights for head.out.weight" in caplog.text and caplog.text.count("new weights") == 1
    with torch.no_grad():
        hidden = features(IDS).last_hidden_state
    assert torch.allclose(hidden[:, -1] @ parameters(model)["head.out.weight"].T, logits(model), atol=1e-6)
    assert logits(writer).shape == (1, 7, 97)


def test_features_of_an_encoder_saved_with_another_head(tmp_path: Path) -> None:
    model = new("bert", "masked-lm")
    regard.save(model, tmp_path)
    loaded = regard.load(tmp_path, head="features")
    with torch.no_grad():
        out = loaded(IDS)
    assert "pooler_output" not in out
    assert torch.equal(out.last_hidden_state, model(IDS).last_hidden_state)


def test_a_head_that_the_family_has_not(tmp_path: Path) -> None:
    regard.save(new(), tmp_path)
    with pytest.raises(ValueError, match="head is 'masked-lm'; Llama 2, 3 has features, causal-lm, classification"):
        regard.load(tmp_path, head="masked-lm")


def test_a_missing_head_that_nobody_asked_for_is_an_error(tmp_path: Path) -> None:
    regard.save(new(), tmp_path)
    edit(tmp_path, lambda tensors: {key: value for key, value in tensors.items() if key != HEAD})
    with pytest.raises(ValueError, match=r"nothing fills head\.out\.weight \(97, 32\)"):
        regard.load(tmp_path)


# ------------------------------------------------------------------------------------------ errors


def test_all_problems_come_in_one_error(tmp_path: Path) -> None:
    regard.save(new(), tmp_path)

    def damage(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        del tensors["model.layers.0.self_attn.q_proj.weight"]
        del tensors["model.norm.weight"]
        tensors["model.layers.1.mlp.down_proj.weight"] = torch.zeros(32, 47)
        tensors["model.layers.9.mlp.up_proj.weight"] = torch.zeros(48, 32)
        tensors["model.layers.0.self_attn.qq_proj.weight"] = torch.zeros(2, 3)
        tensors["model.layers.2.input_layernorm.weight"] = torch.full((32,), torch.nan)
        tensors["model.layers.2.mlp.gate_proj.weight"] = torch.zeros(48, 32, dtype=torch.int8)
        return tensors

    edit(tmp_path, damage)
    with pytest.raises(ValueError) as caught:
        regard.load(tmp_path)
    text, file, ours = str(caught.value), "model.safetensors: ", "decoder.stack.layers."
    down = f"{ours}1.ffn.fn.down.weight"
    for line in (
        f"nothing fills {ours}0.attn.fn.q.weight (32, 32)",
        "nothing fills decoder.stack.norm.weight (32,)",
        f"{file}model.layers.1.mlp.down_proj.weight (32x47): gives (32, 47), but {down} is (32, 48) by",
        f"{file}model.layers.9.mlp.up_proj.weight (48x32): this model has no {ours}9.ffn.fn.up.weight",
        f"{file}model.layers.0.self_attn.qq_proj.weight (2x3): no rule reads it; the nearest is 'layers.*.self_attn.q_",
        f"{file}model.layers.2.input_layernorm.weight (32): holds NaN or infinity",
        f"{file}model.layers.2.mlp.gate_proj.weight (48x32): has type torch.int8; a parameter needs floating point",
    ):
        assert line in text, text
    assert len(text.splitlines()) < 15


def test_a_fused_tensor_of_the_wrong_size(tmp_path: Path) -> None:
    regard.save(new("phi3"), tmp_path)
    edit(tmp_path, lambda tensors: {**tensors, "model.layers.0.self_attn.qkv_proj.weight": torch.zeros(63, 32)})
    with pytest.raises(ValueError, match=r"qkv_proj.weight \(63x32\): axis 0 has 63 rows; .* \[32, 16, 16\]"):
        regard.load(tmp_path)


def test_a_long_list_of_problems_is_cut(tmp_path: Path) -> None:
    regard.save(new(), tmp_path)
    edit(tmp_path, lambda tensors: {"model.norm.weight": tensors["model.norm.weight"]})
    with pytest.raises(ValueError, match=r"\.\.\. and \d+ more") as caught:
        regard.load(tmp_path)
    assert len(str(caught.value).splitlines()) == 22


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"model_type": "lama"}, "model_type is 'lama'; allowed: .*llama"),
        ({"model_type": 3}, "model_type is 3; allowed: one of"),
        ({"model_type": "mine", "auto_map": {"AutoModel": "x.Y"}}, "regard never runs it"),
        ({"architectures": ["LlamaForDancing"]}, "LlamaForDancing'; allowed: LlamaForCausalLM"),
        ({"architectures": "LlamaForCausalLM"}, "allowed: a list of class names"),
        ({"hidden_size": "32"}, "hidden_size is '32'; allowed: an integer"),
        ({"hidden_size": None}, "lacks 'hidden_size'"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers is 1000000000; allowed: an integer from 1 to 1024"),
        ({"vocab_size": 10**12}, "vocab_size is 1000000000000"),
        ({"num_key_value_heads": 3}, "num_kv_heads is 3; allowed: a divisor of num_heads = 4"),
        ({"hidden_act": "swoosh"}, "hidden_act is 'swoosh'; allowed: 'gelu'"),
        ({"rms_norm_eps": 2.0}, "eps is 2.0; allowed: a number between 0 and 1"),
        ({"rms_norm_eps": float("nan")}, "NaN is not a JSON number"),
    ],
)
def test_a_config_that_cannot_be(config: dict[str, Any], said: str, tmp_path: Path) -> None:
    regard.save(new(), tmp_path)
    raw = {**json.loads((tmp_path / "config.json").read_text()), **config}
    (tmp_path / "config.json").write_text(json.dumps(raw))
    with pytest.raises(ValueError, match=said):
        regard.load(tmp_path)


def test_folders_that_hold_no_model(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"has no config\.json"):
        regard.load(tmp_path)
    regard.save(new(), tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"config\.json"):  # it lists what is there
        regard.load(tmp_path)


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="no /proc to read what is resident from")
def test_what_was_copied_is_given_back(tmp_path: Path) -> None:
    raw = {"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], "n_embd": 512, "n_layer": 2, "n_head": 2}
    made = regard.from_config({**raw, "vocab_size": 512, "n_positions": 32}, seed=0)
    made.save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    model = regard.load(tmp_path)  # its linears are turned, so they are copies; the table of vectors lies in the file
    assert _resident(file) < 0.1 * file.stat().st_size
    for name, parameter in made.named_parameters():
        assert torch.equal(model.get_parameter(name), parameter)
    assert _resident(file) < 0.2 * file.stat().st_size  # the table was read


def _resident(file: Path) -> int:
    """Bytes of a mapped file that this process holds in memory."""
    lines = iter(Path("/proc/self/smaps").read_text().splitlines())
    found = 0
    for line in lines:
        if line.endswith(str(file)):
            found += 1024 * int(next(line for line in lines if line.startswith("Rss:")).split()[1])
    return found
