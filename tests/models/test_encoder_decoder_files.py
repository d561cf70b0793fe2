"""Encoder-decoder checkpoints as they lie on disk: older spellings, missing and needless keys, old config words."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

import regard
from regard.models.base import Raw
from regard.models.model import shift_right
from regard.models.registry import families

pytest.importorskip("transformers", reason="the reference library is not installed (extra: oracle)")

import transformers
from transformers.models.mbart.modeling_mbart import shift_tokens_right

from tests.models import oracle

BART = {"bart": "BartForConditionalGeneration", "mbart": "MBartForConditionalGeneration", "marian": "MarianMTModel"}
BART |= {"pegasus": "PegasusForConditionalGeneration"}


def write(folder, config, weights, *, pickled=False):
    """A checkpoint folder from a config and tensors."""
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    if pickled:
        torch.save(weights, folder / "pytorch_model.bin")
    else:
        save_file({k: v.clone() for k, v in weights.items()}, folder / "model.safetensors")
    return folder


def parts(folder):
    return json.loads((folder / "config.json").read_text()), load_file(folder / "model.safetensors")


@torch.no_grad()
def same(ours, theirs, *names):
    """Compare on two rows; `names` are the inputs that the reference wants."""
    rows = oracle.random_rows(theirs, (8, 5))
    for row in rows:
        inputs = {name: row[None] for name in names}
        out, expected = ours(**inputs), theirs(**inputs)
        for key in ("logits", "last_hidden_state"):
            if key in expected:
                oracle.close(out[key], expected[key])


@pytest.mark.parametrize("variant", ["t5", "t5 v1.1", "mt5"])
def test_encoder_alone(variant, tmp_path):
    fields = dict(families()["t5"].tiny[variant])
    name = "MT5EncoderModel" if variant == "mt5" else "T5EncoderModel"
    config = transformers.AutoConfig.for_model(fields.pop("model_type"), **fields)
    theirs = getattr(transformers, name)(config).eval()
    theirs.save_pretrained(tmp_path / "one")
    ours = regard.load(tmp_path / "one")
    assert ours.decoder is None and ours.architecture == name
    same(ours, theirs, "input_ids")
    regard.save(ours, tmp_path / "two")
    again, info = getattr(transformers, name).from_pretrained(tmp_path / "two", output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    same(ours, again.eval(), "input_ids")


def test_encoder_alone_leaves_the_decoder_of_its_file(tmp_path):
    theirs, folder = oracle.reference("t5", "t5", "T5ForConditionalGeneration")
    config, weights = parts(folder)
    write(tmp_path, {**config, "architectures": ["T5EncoderModel"]}, weights)
    ours = regard.load(tmp_path)
    assert ours.decoder is None
    same(ours, theirs.get_encoder(), "input_ids")


def test_a_new_head_on_a_whole_t5_leaves_what_it_does_not_need():
    _, folder = oracle.reference("t5", "t5", "T5ForConditionalGeneration")
    ours = regard.load(folder, head="token-classification", num_labels=5)
    assert ours.decoder is None and ours(input_ids=torch.tensor([[4, 9, 1]])).logits.shape == (1, 3, 5)


@pytest.mark.parametrize("variant", ["t5 v1.1", "mt5"])
def test_a_projection_of_its_own(variant, tmp_path):
    """The published v1.1 and mT5 files say tie_word_embeddings = false, and hold every table under every name."""
    name = "MT5ForConditionalGeneration" if variant == "mt5" else "T5ForConditionalGeneration"
    theirs, folder = oracle.reference("t5", variant, name)
    config, weights = parts(folder)
    shared = weights["shared.weight"]
    weights |= {"encoder.embed_tokens.weight": shared, "decoder.embed_tokens.weight": shared}
    own = torch.randn(shared.shape)
    config = {**config, "tie_word_embeddings": False}
    config.pop("scale_decoder_outputs", None)
    ours = regard.load(write(tmp_path, config, {**weights, "lm_head.weight": own}, pickled=True))
    assert ours.architecture == name
    with torch.no_grad():
        ids = torch.tensor([[5, 8, 13, 1]])
        out = ours(input_ids=ids, decoder_input_ids=ids)
        states = theirs(input_ids=ids, decoder_input_ids=ids, output_hidden_states=True).decoder_hidden_states[-1]
    oracle.close(out.last_hidden_state, states)
    oracle.close(out.logits, states @ own.T)
    again = regard.load(write_of(ours, tmp_path / "again"))
    assert torch.equal(again.head.out.weight, own) and again.architecture == name


def write_of(model, folder):
    regard.save(model, folder)
    return folder


def test_mt5_gates_by_default():
    raw = {k: v for k, v in families()["t5"].tiny["mt5"].items() if k != "feed_forward_proj"}
    ffn = regard.from_config(raw).config.encoder.stack.layers[0].feed_forward
    assert (ffn.gated, ffn.activation) == (True, "gelu_tanh")
    ffn = regard.from_config({**raw, "model_type": "t5"}).config.encoder.stack.layers[0].feed_forward
    assert (ffn.gated, ffn.activation) == (False, "relu")


def test_a_bare_bart_of_the_first_generation_writes_words(tmp_path):
    """bart-large: a pickled file without prefix, head or bias, each table under three names, and a version number."""
    theirs, folder = oracle.reference("bart", "bart", "BartModel")
    config, weights = parts(folder)
    shared = weights["shared.weight"]
    for side in ("encoder", "decoder"):
        weights |= {f"{side}.embed_tokens.weight": shared, f"{side}.version": torch.tensor([3.0])}
    config |= {"classif_dropout": 0.25, "normalize_before": False, "add_final_layer_norm": False}
    config = {k: v for k, v in config.items() if k not in ("classifier_dropout", "tie_word_embeddings")}
    write(tmp_path, config, weights, pickled=True)
    same(regard.load(tmp_path), theirs, "input_ids", "decoder_input_ids")
    ours = regard.load(tmp_path, head="seq2seq-lm")
    assert ours.head.out.weight is ours.encoder.front.token.weight
    whole = transformers.BartForConditionalGeneration.from_pretrained(folder).eval()
    same(ours, whole, "input_ids", "decoder_input_ids")
    assert regard.load(tmp_path, head="classification").config.head.dropout == 0.25


@pytest.mark.parametrize("family", BART)
def test_words_under_every_spelling(family, tmp_path):
    """Prefixed tables three times over, the projection beside its bias, computed positions present or absent."""
    theirs, folder = oracle.reference(family, family, BART[family])
    config, weights = parts(folder)
    shared = weights["model.shared.weight"]
    for side in ("encoder", "decoder"):
        weights[f"model.{side}.embed_tokens.weight"] = shared
        if family in ("marian", "pegasus"):
            weights[f"model.{side}.embed_positions.weight"] = torch.randn(40, 32)  # must not matter
        weights[f"model.{side}.version"] = torch.tensor([3.0])
    weights["lm_head.weight"] = shared
    same(regard.load(write(tmp_path / "a", config, weights)), theirs, "input_ids", "decoder_input_ids")
    if family in ("marian", "pegasus"):
        lean = {k: v for k, v in weights.items() if "embed_positions" not in k}
        same(regard.load(write(tmp_path / "b", config, lean)), theirs, "input_ids", "decoder_input_ids")


def test_the_bias_of_words_may_be_missing(tmp_path):
    theirs, folder = oracle.reference("bart", "bart", "BartForConditionalGeneration")
    config, weights = parts(folder)
    bias = weights.pop("final_logits_bias")
    ours = regard.load(write(tmp_path, config, weights))
    assert torch.equal(ours.head.out.bias, torch.zeros(97))
    ours.head.out.bias.data += bias[0]
    same(ours, theirs, "input_ids", "decoder_input_ids")


def test_a_missing_weight_is_still_an_error(tmp_path):
    _, folder = oracle.reference("bart", "bart", "BartForConditionalGeneration")
    config, weights = parts(folder)
    del weights["model.decoder.layers.1.encoder_attn.out_proj.weight"]
    with pytest.raises(ValueError, match=r"nothing fills decoder\.stack\.layers\.1\.cross\.fn\.out\.weight \(32, 32\)"):
        regard.load(write(tmp_path, config, weights))


@pytest.mark.parametrize(
    ("family", "words", "said"),
    [
        ("bart", {"normalize_before": True}, "normalize_before is True; allowed: False"),
        ("mbart", {"normalize_before": False}, "normalize_before is False; allowed: True"),
        ("marian", {"static_position_embeddings": False}, "static_position_embeddings is False; allowed: True"),
        ("bart", {"encoder_attention_heads": 0}, "encoder_attention_heads is 0; allowed: an integer from 1"),
        ("t5", {"feed_forward_proj": "gated-tanh"}, "feed_forward_proj is 'gated-tanh'; allowed: 'relu'"),
    ],
)
def test_words_that_contradict_the_family_are_refused(family, words, said):
    with pytest.raises(ValueError, match=said):
        regard.from_config({**families()[family].tiny[family], **words})


@pytest.mark.parametrize("length", [6, 3])
def test_mbart_begins_with_the_language_code_of_the_end(length):
    ours = regard.from_config({**families()["mbart"].tiny["mbart"], "decoder_start_token_id": 9})
    ids = torch.full((2, 6), 1)
    ids[0], ids[1, :length] = torch.arange(20, 26), torch.arange(30, 30 + length)
    mask = (ids != 1).long()
    expected = shift_tokens_right(ids, 1)
    assert torch.equal(ours.shifted(ids, mask) * mask, expected * mask)
    assert ours.config.tokens.decoder_start == 9  # what `generate` begins with
    rows = torch.cat([ids[0], ids[1, :length]])
    packed = ours.shifted(rows, lengths=[6, length])
    assert torch.equal(packed, torch.cat([expected[0], expected[1, :length]]))


@pytest.mark.parametrize("start", [9, None])
def test_every_sequence_moves_right_by_one(start):
    """Against a loop over rows, with padding on either side or in between, and rows that are all padding."""
    draw = torch.Generator().manual_seed(0)
    ids, mask = torch.randint(10, 99, (40, 7), generator=draw), torch.rand(40, 7, generator=draw) < 0.6
    mask[3] = False
    ours = shift_right(ids, start, mask)
    for row, real, found in zip(ids.tolist(), mask.tolist(), ours.tolist(), strict=True):
        kept = [token for token, is_real in zip(row, real, strict=True) if is_real]
        moved = iter([start or kept[-1], *kept[:-1]] if kept else [])
        assert found == [next(moved) if is_real else token for token, is_real in zip(row, real, strict=True)]
    lengths = mask.sum(1).tolist()
    assert torch.equal(shift_right(ids[mask], start, lengths=lengths), ours[mask])
    assert torch.equal(shift_right(ids, start), shift_right(ids, start, torch.ones_like(mask)))


@pytest.mark.parametrize("model_type", ["bart", "mbart", "pegasus", "marian", "t5", "mt5"])
def test_special_tokens_and_length_are_the_references(model_type):
    family = families()["t5" if model_type == "mt5" else model_type]
    sizes = {"model_type": model_type, "vocab_size": 60000, "d_model": 16, "d_kv": 4, "d_ff": 8, "num_layers": 1}
    sizes |= {"num_heads": 4}
    for side in ("encoder", "decoder"):
        sizes |= {f"{side}_layers": 1, f"{side}_ffn_dim": 8, f"{side}_attention_heads": 2}
    ours = family.config(Raw(sizes), "features")
    theirs = transformers.AutoConfig.for_model(model_type)
    pad, bos, eos, start = (getattr(theirs, f"{k}_token_id", None) for k in ("pad", "bos", "eos", "decoder_start"))
    tokens = ours.tokens
    assert (tokens.pad, tokens.bos, tokens.eos) == (pad, bos, (eos,))
    assert tokens.decoder_start == (0 if model_type == "t5" else start)  # T5 begins with padding; its files say so
    assert ours.max_length == getattr(theirs, "max_position_embeddings", None)


def test_new_weights_spread_as_init_std_says():
    model = regard.from_config({**families()["bart"].tiny["bart"], "d_model": 256, "init_std": 0.5}, seed=0)
    weights = [p for name, p in model.named_parameters() if name.endswith(("fn.q.weight", "token.weight"))]
    assert weights and all(float(w.detach().std()) == pytest.approx(0.5, rel=0.02) for w in weights)
    assert all(not p.any() for name, p in model.named_parameters() if name.endswith(".fn.q.bias"))
