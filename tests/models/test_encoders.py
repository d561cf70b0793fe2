"""Encoders of the BERT kind beyond parity: older spellings of keys, other class names, untied words, bad configs."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

import regard
from regard.models import bert
from regard.models._disentangled import DisentangledStack
from regard.models.registry import families
from tests.models import oracle

pytest.importorskip("transformers", reason="the reference library is not installed (extra: oracle)")

IDS = torch.tensor([[7, 60, 12, 96, 33, 8, 50]])


def reference(tmp_path, family, variant, architecture, **changes):
    """A tiny reference model and its own folder, whose files may be rewritten."""
    import transformers

    if not changes:
        theirs, folder = oracle.reference(family, variant, architecture)
        shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
        return theirs, tmp_path
    fields = {**families()[family].tiny[variant], **changes}
    config = transformers.AutoConfig.for_model(fields.pop("model_type"), **fields)
    theirs = getattr(transformers, architecture)._from_config(config, attn_implementation="eager").eval()
    for parameter in theirs.parameters():
        torch.nn.init.normal_(parameter, 0.0, 0.3)
    theirs.save_pretrained(tmp_path)
    return theirs, tmp_path


def rewrite(folder, rename=lambda key: key, extra=None, config=None, drop=()):
    """The same weights under other keys, with more of them; and fields of config.json changed or removed (None)."""
    file = folder / "model.safetensors"
    state = {rename(key): value for key, value in load_file(file).items() if not key.startswith(tuple(drop) or "\0")}
    save_file({**state, **(extra or {})}, file, metadata={"format": "pt"})
    raw = json.loads((folder / "config.json").read_text()) | (config or {})
    (folder / "config.json").write_text(json.dumps({k: v for k, v in raw.items() if v is not None}))


@torch.no_grad()
def same(ours, theirs, name="logits", their_name=None):
    oracle.close(ours(IDS)[name], theirs(IDS)[their_name or name])


def tensorflow_times(key):
    return key.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")


OLD = {
    "bert": (
        "BertForMaskedLM",
        "bert.",
        "cls.predictions",
        {"cls.seq_relationship": (2, 32), "bert.pooler.dense": (32, 32)},
    ),
    "roberta": ("RobertaForMaskedLM", "roberta.", "lm_head", {"roberta.pooler.dense": (32, 32)}),
    "xlm-roberta": ("XLMRobertaForMaskedLM", "roberta.", "lm_head", {"roberta.pooler.dense": (32, 32)}),
    "mpnet": ("MPNetForMaskedLM", "mpnet.", "lm_head", {"mpnet.pooler.dense": (32, 32)}),
    "albert": (
        "AlbertForMaskedLM",
        "albert.",
        "predictions",
        {"albert.pooler": (32, 32), "sop_classifier.classifier": (2, 32)},
    ),
}


@pytest.mark.parametrize("variant", OLD)
def test_older_files_with_more_in_them_load(tmp_path, variant):
    architecture, prefix, words, others = OLD[variant]
    family = next(f.name for f in families().values() if variant in f.tiny)
    theirs, folder = reference(tmp_path, family, variant, architecture)
    state = theirs.state_dict()
    extra = {f"{prefix}embeddings.position_ids": torch.arange(40)[None]}
    extra |= {f"{words}.decoder.{p}": state[f"{words}.decoder.{p}"].clone() for p in ("weight", "bias")}
    extra |= {f"{key}.weight": torch.randn(shape) for key, shape in others.items()}
    extra |= {f"{key}.bias": torch.randn(shape[0]) for key, shape in others.items()}
    rewrite(folder, tensorflow_times, extra)
    ours = regard.load(folder)
    same(ours, theirs)
    assert ours.head.out.weight is ours.encoder.front.token.weight


def test_a_bare_encoder_without_pooler_has_no_pooled_output(tmp_path):
    theirs, folder = reference(tmp_path, "bert", "bert", "BertModel")
    rewrite(folder, lambda key: f"bert.{key}", drop=("pooler",))
    ours = regard.load(folder)
    same(ours, theirs, "last_hidden_state")
    assert "pooler_output" not in ours(IDS)


@pytest.mark.parametrize(
    ("family", "architecture", "name", "shared"),
    [
        ("bert", "BertForPreTraining", "prediction_logits", "logits"),
        ("bert", "BertLMHeadModel", "logits", "logits"),
        ("albert", "AlbertForPreTraining", "prediction_logits", "logits"),
        ("roberta", "RobertaForCausalLM", "logits", "logits"),
        ("electra", "ElectraForCausalLM", "logits", "logits"),
    ],
)
def test_other_classes_of_the_same_words(tmp_path, family, architecture, name, shared):
    theirs, folder = reference(tmp_path, family, family, architecture)
    ours = regard.load(folder)
    same(ours, theirs, shared, name)


def test_a_discriminator_gives_features(tmp_path):
    theirs, folder = reference(tmp_path, "electra", "electra with narrow tables", "ElectraForPreTraining")
    ours = regard.load(folder)
    same(ours, theirs.electra, "last_hidden_state")
    assert ours.architecture == "ElectraModel"


@pytest.mark.parametrize(("family", "architecture"), [("bert", "BertModel"), ("albert", "AlbertModel")])
@torch.no_grad()
def test_a_new_classifier_starts_from_the_pooler_there_is(tmp_path, family, architecture):
    theirs, folder = reference(tmp_path, family, family, architecture)
    ours = regard.load(folder, head="classification", num_labels=3)
    pooled = theirs(IDS).pooler_output
    oracle.close(ours.head.transform(ours(IDS).last_hidden_state[:, 0]), pooled)
    assert ours(IDS).logits.shape == (1, 3)


@pytest.mark.parametrize(
    ("family", "architecture"),
    [
        ("bert", "BertForMaskedLM"),
        ("roberta", "RobertaForMaskedLM"),
        ("distilbert", "DistilBertForMaskedLM"),
        ("albert", "AlbertForMaskedLM"),
        ("electra", "ElectraForMaskedLM"),
        ("mpnet", "MPNetForMaskedLM"),
    ],
)
@torch.no_grad()
def test_words_that_are_not_tied_stay_so(tmp_path, family, architecture):
    theirs, folder = reference(tmp_path / "theirs", family, family, architecture, tie_word_embeddings=False)
    ours = regard.load(folder)
    assert not torch.equal(ours.head.out.weight, ours.encoder.front.token.weight)
    same(ours, theirs)
    regard.save(ours, tmp_path / "ours")
    same(regard.load(tmp_path / "ours"), theirs)
    again = type(theirs).from_pretrained(tmp_path / "ours").eval()
    oracle.close(again(IDS).logits, theirs(IDS).logits)


@pytest.mark.parametrize(
    ("family", "variant", "architecture"),
    [
        ("bert", "bert with relu", "BertModel"),
        ("albert", "albert", "AlbertModel"),
        ("electra", "electra with narrow tables", "ElectraModel"),
        ("deberta_v2", "deberta unshared", "DebertaV2Model"),
    ],
)
@torch.no_grad()
def test_types_of_segments(tmp_path, family, variant, architecture):
    theirs, folder = reference(tmp_path, family, variant, architecture)
    types = (torch.arange(IDS.shape[1]) > 3).long()[None]
    ours = regard.load(folder)(IDS, token_type_ids=types).last_hidden_state
    oracle.close(ours, theirs(IDS, token_type_ids=types).last_hidden_state)
    assert (ours - theirs(IDS).last_hidden_state).abs().max() > 0.01


# ------------------------------------------------------------------------------------------------------- DeBERTa


def test_deberta_v2_words_under_either_name(tmp_path):
    """Files as they were published: no `legacy`, the newer names, and what only pretraining needed."""
    theirs, folder = reference(tmp_path, "deberta_v2", "deberta v3", "DebertaV2ForMaskedLM")
    extra = {
        "deberta.embeddings.position_embeddings.weight": torch.randn(40, 32),
        "deberta.embeddings.word_embeddings._weight": torch.randn(97, 32),
        "deberta.embeddings.position_embeddings._weight": torch.randn(40, 32),
        "mask_predictions.dense.weight": torch.randn(32, 32),
        "mask_predictions.LayerNorm.bias": torch.randn(32),
        "mask_predictions.classifier.weight": torch.randn(1, 32),
    }
    rewrite(folder, extra=extra, config={"legacy": None})
    same(regard.load(folder), theirs)
    rewrite(folder, config={"architectures": None})
    same(regard.load(folder), theirs.deberta, "last_hidden_state")


@pytest.mark.parametrize(("buckets", "reach"), [(256, 512), (64, 512), (6, 40)])
def test_deberta_v2_buckets_at_full_size(buckets, reach):
    from transformers.models.deberta_v2.modeling_deberta_v2 import make_log_bucket_position

    fields = {**bert.TINY, "relative_attention": True, "position_buckets": buckets, "max_relative_positions": reach}
    model = regard.from_config({**fields, "model_type": "deberta-v2", "pos_att_type": "c2p|p2c"})
    stack = model.encoder.stack
    assert isinstance(stack, DisentangledStack)
    distance = torch.arange(-2 * reach, 2 * reach)
    assert torch.equal(stack.bucket(distance), make_log_bucket_position(distance, buckets, reach).long())


@torch.no_grad()
def test_deberta_v2_reads_beyond_its_distances(tmp_path):
    theirs, folder = reference(tmp_path, "deberta_v2", "deberta v3", "DebertaV2Model")
    ids = torch.randint(7, 97, (2, 100))
    oracle.close(regard.load(folder)(ids).last_hidden_state, theirs(ids).last_hidden_state)


@pytest.mark.parametrize("layout", ["right", "left", "packed"])
@pytest.mark.parametrize("variant", ["deberta v2 xlarge", "deberta unshared"])
def test_deberta_v2_distances_get_the_references_gradients(tmp_path, variant, layout):
    theirs, folder = reference(tmp_path, "deberta_v2", variant, "DebertaV2Model")
    ours, rows = regard.load(folder), [IDS[0], IDS[0, :3], IDS[0, :5]]
    theirs.zero_grad()
    sum(theirs(row[None]).last_hidden_state[0, :, :7].pow(3).sum() for row in rows).backward()
    if layout == "packed":
        hidden = ours(torch.cat(rows), lengths=[7, 3, 5]).last_hidden_state
    else:
        ids, mask = oracle.pad(rows, layout)
        hidden = ours(ids, mask).last_hidden_state[mask.bool()]
    hidden[:, :7].pow(3).sum().backward()
    oracle.close(ours.encoder.stack.relative.weight.grad, theirs.encoder.rel_embeddings.weight.grad)
    attention = theirs.encoder.layer[2].attention.self
    oracle.close(ours.encoder.stack.layers[2].attn.fn.q.weight.grad, attention.query_proj.weight.grad)
    if "xlarge" in variant:
        oracle.close(ours.encoder.stack.layers[0].conv.weight.grad, theirs.encoder.conv.conv.weight.grad)


# ----------------------------------------------------------------------------------------------- new and refused


@pytest.mark.parametrize("variant", ["bert", "xlm-roberta", "distilbert", "albert", "electra", "mpnet", "deberta v3"])
def test_new_weights_are_drawn_as_the_file_says(variant):
    family = next(f for f in families().values() if variant in f.tiny)
    model = regard.from_config({**family.tiny[variant], "initializer_range": 0.05}, head="classification", seed=1)
    drawn = torch.cat([p.flatten() for name, p in model.named_parameters() if p.ndim > 1])
    assert float(drawn.std()) == pytest.approx(0.05, rel=0.03) and abs(float(drawn.mean())) < 0.002
    for name, p in model.named_parameters():
        if p.ndim == 1:
            assert torch.all(p == (1.0 if "norm" in name and name.endswith("weight") else 0.0)), name


@pytest.mark.parametrize(
    ("family", "changes", "names"),
    [
        ("bert", {"is_decoder": True}, "is_decoder is True; allowed: False"),
        ("bert", {"position_embedding_type": "relative_key"}, "position_embedding_type"),
        ("bert", {"hidden_act": "wobble"}, "hidden_act is 'wobble'"),
        ("roberta", {"max_position_embeddings": 2}, "max_position_embeddings is 2; allowed: an integer from 3"),
        ("roberta", {"pad_token_id": -1}, "pad_token_id is -1"),
        ("albert", {"inner_group_num": 0}, "inner_group_num is 0"),
        ("albert", {"num_hidden_groups": 1000, "inner_group_num": 60}, "60000 layers"),
        ("mpnet", {"relative_attention_num_buckets": 16}, "relative_attention_num_buckets is 16"),
        ("deberta_v2", {"embedding_size": 16}, "embedding_size is 16 beside hidden_size 32"),
        ("deberta_v2", {"pos_att_type": "c2p|p2p"}, "pos_att_type"),
        ("deberta_v2", {"pos_att_type": 7}, "pos_att_type"),
        ("deberta_v2", {"conv_kernel_size": 4}, "conv_kernel_size is 4"),
        ("deberta_v2", {"conv_kernel_size": 3, "conv_groups": 5}, "conv_groups is 5"),
        ("deberta_v2", {"position_buckets": 2}, "buckets is 2"),
        ("deberta_v2", {"position_buckets": 40, "max_relative_positions": 20}, "buckets is 40"),
    ],
)
def test_what_nobody_built_is_refused_by_name(family, changes, names):
    tiny = next(iter(families()[family].tiny.values()))
    start = {} if family != "deberta_v2" else {"position_biased_input": True}
    with pytest.raises(ValueError, match=names):
        regard.from_config({**tiny, **start, **changes})
