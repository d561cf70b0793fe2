"""Decoder families beyond the parity suite: defaults, new weights, older spellings, and angles that follow length."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import regard
from regard import native
from regard.config import DynamicScaling, LinearScaling, Llama3Scaling, LongScaling, RopeConfig, Window, YarnScaling
from regard.models.base import Raw
from regard.models.registry import families
from regard.nn import KVCache
from tests.models import oracle

transformers = pytest.importorskip("transformers", reason="the reference library is not installed (extra: oracle)")

NAMES = (
    *("gpt", "gpt2", "gpt_neox", "opt", "llama", "mistral", "qwen2", "qwen3"),
    *("gemma", "gemma2", "gemma3", "olmo2", "phi3"),
)
SIZES = (
    *("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "vocab_size"),
    *("n_embd", "n_layer", "n_head", "ffn_dim", "model_type"),
)


def reference_config(name: str) -> Any:
    return transformers.AutoConfig.for_model(families()[name].model_types[0])


def ours(name: str, raw: dict[str, Any], head: str = "causal-lm") -> Any:
    return families()[name].config(Raw(raw), head)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", NAMES)
def test_a_file_that_names_only_sizes_means_what_the_reference_assumes(name: str) -> None:
    theirs = reference_config(name)
    data = {key: value for key, value in theirs.to_dict().items() if key in SIZES}
    sparse, full = ours(name, data), ours(name, theirs.to_dict())
    assert sparse == full  # every default of ours, against the same fields spelled out
    eos = theirs.eos_token_id
    assert full.tokens.eos == (() if eos is None else (eos,))
    assert (full.tokens.bos, full.tokens.pad) == (theirs.bos_token_id, theirs.pad_token_id)
    assert bool(full.tied) == theirs.tie_word_embeddings
    assert full.max_length == getattr(theirs, "max_position_embeddings", None)


@pytest.mark.parametrize("name", NAMES)
def test_new_weights_are_drawn_as_the_reference_draws_them(name: str, tmp_path: Any) -> None:
    fields = dict(next(iter(families()[name].tiny.values())))
    wide = ("hidden_size", "n_embd", "intermediate_size", "ffn_dim")
    fields |= {key: 128 for key in wide if key in fields} | {"vocab_size": 199}
    std = "init_std" if hasattr(reference_config(name), "init_std") else "initializer_range"
    config = transformers.AutoConfig.for_model(**{**fields, std: 0.05})
    architecture = next(a for a, b in families()[name].architectures.items() if b.head == "causal-lm")
    theirs = getattr(transformers, architecture)(config)
    theirs.save_pretrained(tmp_path / "theirs")
    raw = {**config.to_dict(), "architectures": [architecture]}
    regard.save(regard.from_config(raw, seed=0), tmp_path / "ours")
    mine, other = (load_file(tmp_path / who / "model.safetensors") for who in ("ours", "theirs"))
    assert set(mine) == set(other)
    for key, value in other.items():
        spread = float(value.std())
        if name == "gpt" and value.ndim == 2 and not key.endswith("embed.weight"):
            spread = 0.05  # the reference forgets initializer_range for its transposed linears
        assert abs(float(mine[key].std()) - spread) <= 0.05 * spread, key
        assert abs(float(mine[key].mean() - value.mean())) <= 0.01, key


# ------------------------------------------------------------------------------------------ rotary settings

SCALINGS = [
    ({"type": "linear", "factor": 2.0}, LinearScaling(factor=2.0)),
    ({"type": "dynamic", "factor": 2.0}, DynamicScaling(factor=2.0, original_length=64)),
    (
        {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
        | {"original_max_position_embeddings": 16},
        Llama3Scaling(factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_length=16),
    ),
    (
        {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16, "attention_factor": 1.5},
        YarnScaling(factor=4.0, original_length=16, attention_factor=1.5),
    ),
    (
        {"rope_type": "longrope", "factor": 4.0, "original_max_position_embeddings": 16, "attention_factor": 1.5}
        | {"short_factor": [1.0] * 4, "long_factor": [2.0] * 4},
        LongScaling(short=(1.0,) * 4, long=(2.0,) * 4, original_length=16, attention_factor=1.5),
    ),
]


def rope_of(config: Any, layer: int = 0) -> RopeConfig:
    found = config.decoder.stack.layers[layer].attention.rope
    assert isinstance(found, RopeConfig)
    return found


@pytest.mark.parametrize(("settings", "scaling"), SCALINGS, ids=[type(s).__name__ for _, s in SCALINGS])
def test_old_and_new_rotary_settings_mean_the_same(settings: dict[str, Any], scaling: Any) -> None:
    tiny = dict(families()["llama"].tiny["llama"])
    old = {**tiny, "rope_theta": 500.0, "rope_scaling": settings}
    kind = settings.get("type", settings.get("rope_type"))
    new = {**tiny, "rope_parameters": {**settings, "rope_type": kind, "rope_theta": 500.0}}
    assert rope_of(ours("llama", old)) == rope_of(ours("llama", new)) == RopeConfig(dim=8, theta=500.0, scaling=scaling)
    written = transformers.AutoConfig.for_model(**old).to_dict()  # the reference's own translation
    assert "rope_parameters" in written and not written.get("rope_scaling")
    assert rope_of(ours("llama", written)) == rope_of(ours("llama", old))


def test_names_of_gpt_neox_for_rotary_settings() -> None:
    tiny = dict(families()["gpt_neox"].tiny["gpt_neox"])
    old = {**tiny, "rotary_pct": 0.5, "rotary_emb_base": 300, "rope_scaling": None}
    assert rope_of(ours("gpt_neox", old)) == RopeConfig(dim=4, theta=300.0)
    written = transformers.AutoConfig.for_model(**old).to_dict()
    assert rope_of(ours("gpt_neox", written)) == RopeConfig(dim=4, theta=300.0)
    assert rope_of(ours("gpt_neox", tiny)) == RopeConfig(dim=2, theta=10000.0)


def test_gemma3_has_a_base_for_each_kind_of_layer() -> None:
    tiny = {**families()["gemma3"].tiny["gemma3"], "rope_theta": 700.0, "rope_local_base_freq": 70.0}
    old = {**tiny, "rope_scaling": {"rope_type": "linear", "factor": 8.0}}
    written = transformers.AutoConfig.for_model(**old).to_dict()
    for config in (ours("gemma3", old), ours("gemma3", written)):  # window, full, window
        assert rope_of(config, 0) == rope_of(config, 2) == RopeConfig(dim=16, theta=70.0)
        assert rope_of(config, 1) == RopeConfig(dim=16, theta=700.0, scaling=LinearScaling(factor=8.0))


@pytest.mark.parametrize("old_name", ["yarn", "su", "longrope"])
def test_phi3_calls_longrope_by_several_names(old_name: str) -> None:
    tiny = {**families()["phi3"].tiny["phi3"], "original_max_position_embeddings": 16}
    scaling = {"type": old_name, "short_factor": [1.0] * 4, "long_factor": [3.0] * 4}
    found = rope_of(ours("phi3", {**tiny, "rope_scaling": scaling})).scaling
    factor = (1 + 2 / 4) ** 0.5  # sqrt(1 + ln(64 / 16) / ln 16), LongRoPE section 3
    expected = LongScaling(short=(1.0,) * 4, long=(3.0,) * 4, original_length=16, attention_factor=factor)
    assert found == expected


def model_of(name: str, fields: dict[str, Any]) -> regard.Model:
    raw = {**next(iter(families()[name].tiny.values())), **fields}
    model = regard.from_config(raw, head="causal-lm", seed=0).eval()
    for parameter in model.parameters():
        if parameter.ndim == 2:
            parameter.data.mul_(10)  # sharper attention
    return model


LONG = {"rope_type": "longrope", "short_factor": [1.0] * 4, "long_factor": [1.0, 2.0, 4.0, 9.0]}
GROWING = {
    "longrope": ("phi3", {"original_max_position_embeddings": 6, "rope_parameters": LONG, "sliding_window": None}),
    "dynamic": (
        "llama",
        {"max_position_embeddings": 6, "rope_parameters": {"rope_type": "dynamic", "rope_theta": 100.0, "factor": 4.0}},
    ),
}


@pytest.mark.parametrize("kind", GROWING)
@torch.no_grad()
def test_cached_keys_turn_with_the_length_of_their_sequence(kind: str) -> None:
    """In one layer keys depend on nothing but their token, so a step must equal a full pass of that length, exactly."""
    name, fields = GROWING[kind]
    model = model_of(name, {**fields, "num_hidden_layers": 1})
    ids = torch.randint(7, 97, (2, 12), generator=torch.Generator().manual_seed(0))
    cache, early = KVCache(), model(ids[:, :6]).logits
    assert not torch.allclose(early, model(ids).logits[:, :6], atol=1e-3)  # the switch is there to be seen
    oracle.close(model(ids[:, :4], torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]]), cache=cache).logits[0], early[0, :4])
    for _ in range(7):  # one row crosses the original length before the other
        at = torch.tensor(cache.lengths)
        step = model(ids[torch.arange(2), at][:, None], cache=cache).logits[:, 0]
        for row in range(2):
            oracle.close(step[row], model(ids[row : row + 1, : at[row] + 1]).logits[0, -1])


@torch.no_grad()
def test_beyond_the_original_length_cached_steps_equal_one_pass() -> None:
    model = model_of("phi3", {**GROWING["longrope"][1], "original_max_position_embeddings": 3})
    ids = torch.randint(7, 97, (2, 12), generator=torch.Generator().manual_seed(0))
    cache, whole = KVCache(), model(ids).logits
    oracle.close(model(ids[:, :7], cache=cache).logits, whole[:, :7])
    for t in range(7, 12):
        oracle.close(model(ids[:, t : t + 1], cache=cache).logits[:, 0], whole[:, t])


# ------------------------------------------------------------------------------------------ other variants


@pytest.mark.parametrize("architecture", ["Gemma3TextModel", "Gemma3TextForSequenceClassification"])
@pytest.mark.parametrize("layout", ["right", "left", "packed"])
def test_gemma3_that_looks_both_ways(architecture: str, layout: str, tmp_path: Any) -> None:
    """EmbeddingGemma: windows reach half as far, to both sides."""
    fields = {**families()["gemma3"].tiny["gemma3"], "sliding_window": 6, "use_bidirectional_attention": True}
    config = transformers.AutoConfig.for_model(**fields)
    theirs = getattr(transformers, architecture)._from_config(config, attn_implementation="eager").eval()
    for parameter in theirs.parameters():
        parameter.data.mul_(5)
    theirs.save_pretrained(tmp_path)
    model, rows = regard.load(tmp_path), oracle.random_rows(theirs)
    assert model.config.decoder is not None and model.config.decoder.stack.mask is None
    first = model.config.decoder.stack.layers[0].attention
    assert first is not None and first.mask == Window(4)
    oracle.compare(oracle.our_rows(model, rows, None, layout), oracle.reference_rows(theirs, rows, None))


def renamed(folder: Any, changes: dict[str, str], extra: dict[str, torch.Tensor]) -> None:
    tensors = load_file(folder / "model.safetensors")
    for old, new in changes.items():
        tensors = {key.replace(old, new, 1) if key.startswith(old) else key: value for key, value in tensors.items()}
    save_file({**tensors, **extra}, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("name", "changes", "extra"),
    [
        ("gpt_neox", {"embed_out.": "lm_head."}, {"gpt_neox.layers.0.attention.masked_bias": torch.tensor(-1e9)}),
        ("gpt_neox", {}, {"gpt_neox.layers.0.attention.bias": torch.ones(1, 1, 64, 64)}),
        ("gpt", {"transformer.": ""}, {"h.0.attn.bias": torch.ones(1, 1, 40, 40)}),
        ("opt", {"model.decoder.": "decoder."}, {}),
        ("llama", {}, {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)}),
    ],
    ids=["neox lm_head", "neox causal buffer", "gpt without prefix", "opt without prefix", "llama inv_freq"],
)
def test_older_files_read_the_same(name: str, changes: Any, extra: Any, tmp_path: Any) -> None:
    model = regard.from_config(dict(families()[name].tiny[name]), head="causal-lm", seed=0).eval()
    regard.save(model, tmp_path)
    renamed(tmp_path, changes, extra)
    ids = torch.randint(7, 97, (1, 9))
    with torch.no_grad():
        assert torch.equal(native.remove(regard.load(tmp_path))(ids).logits, model(ids).logits)


@pytest.mark.parametrize(
    ("name", "fields", "said"),
    [
        ("qwen2", {"layer_types": ["full_attention"]}, "layer_types is .*allowed: 3 of full_attention, sliding"),
        ("gemma2", {"layer_types": ["chunked_attention"] * 3}, "chunked_attention"),
        ("gemma3", {"use_bidirectional_attention": True}, "causal-lm head allows only false"),
        ("gemma", {"use_bidirectional_attention": True}, "use_bidirectional_attention is True"),
        ("gemma2", {"query_pre_attn_scalar": 0}, "query_pre_attn_scalar is 0"),
        ("phi3", {"rope_scaling": {**LONG, "long_factor": [1.0]}}, "short and long of 4 numbers"),
        ("phi3", {"rope_scaling": {**LONG, "short_factor": ["a"] * 4}}, "short_factor is"),
        ("llama", {"rope_scaling": {"type": "spiral"}}, "type is 'spiral'"),
        ("llama", {"rope_scaling": {"type": "dynamic"}}, "lacks 'factor'"),
        ("mistral", {"sliding_window": 0}, "sliding_window is 0"),
        ("opt", {"layer_norm_elementwise_affine": False}, "layer_norm_elementwise_affine is False"),
        ("gpt", {"afn": "swiglu"}, "afn is 'swiglu'; allowed: 'gelu'"),
        ("gpt_neox", {"rotary_pct": 1.5}, "rotary_pct is 1.5"),
    ],
)
def test_what_a_file_may_not_say(name: str, fields: dict[str, Any], said: str) -> None:
    raw = {**next(iter(families()[name].tiny.values())), **fields}
    with pytest.raises(ValueError, match=said):
        ours(name, raw)
