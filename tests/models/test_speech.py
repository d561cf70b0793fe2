"""Speech beyond parity: real transcripts, older files, masks as the reference takes them, and other heads."""

from __future__ import annotations

import json
import wave

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import regard
from regard.checkpoint.load import from_config
from regard.config import RunsConfig
from regard.models.registry import families
from regard.preprocess.audio import AudioProcessor
from regard.senses.audio import hidden_runs
from tests.models import oracle

pytest.importorskip("transformers", reason="the reference library is not installed (extra: oracle)")

TEXT_ENDS = 50256  # what is above are special tokens


@pytest.fixture(scope="module")
def whisper():
    """(model, expected numbers, log-mel features of all clips)"""
    from tests.conftest import real

    folder = real("checkpoints/whisper-tiny.en")
    expected = json.loads((folder / "expected.json").read_text())
    clips = [samples(real(clip["file"])) for clip in expected["clips"]]
    features = AudioProcessor.from_folder(folder)(clips, sampling_rate=16000, return_tensors="pt")
    return regard.load(folder), expected, features.input_features


def samples(path):
    with wave.open(str(path)) as file:
        assert file.getframerate() == 16000
        return np.frombuffer(file.readframes(file.getnframes()), np.int16).astype(np.float32) / 32768


@torch.no_grad()
def test_real_states_and_scores(whisper):
    model, expected, features = whisper
    tolerance = expected["tolerance"]
    checked = [(i, c) for i, c in enumerate(expected["clips"]) if "decoder_input_ids" in c]
    assert len(checked) >= 2
    for i, clip in checked[:3]:
        memory, known = model.encode(features[i : i + 1]), clip["encoder_last_hidden_state"]
        assert list(memory.hidden.shape) == known["shape"]
        rows = torch.tensor(known["rows_0_100_1499_first6"])
        error = (memory.hidden[0, [0, 100, 1499], :6] - rows).abs().max()
        assert error <= tolerance["encoder_last_hidden_state"]
        ids = torch.tensor([clip["decoder_input_ids"]])
        logits = model(decoder_input_ids=ids, encoder_outputs=memory).logits[0]
        assert (logits[1, :8] - torch.tensor(clip["logits_pos1_first8"])).abs().max() <= tolerance["logits"]
        top = logits[1].topk(5).indices.tolist()
        assert top == [number for number, _ in clip["logits_pos1_top5"]]
        written = torch.tensor([*clip["token_ids"], TEXT_ENDS])
        scores = logits[1:].log_softmax(-1)[torch.arange(len(written)), written].sum()
        assert abs(scores - clip["sum_logprob_text_and_eot"]) <= tolerance["sum_logprob"]


def texts(rows):
    return [[i for i in row if i < TEXT_ENDS] for row in rows.tolist()]


def test_real_speech_is_written_down_word_for_word(whisper):
    model, expected, features = whisper
    found = texts(model.generate(input_features=features[:3]))
    assert found == [clip["token_ids"] for clip in expected["clips"][:3]]
    assert texts(model.generate(features[:1])) == found[:1]


@pytest.mark.slow
def test_all_real_speech_is_written_down_word_for_word(whisper):
    model, expected, features = whisper
    for i in range(0, len(features), 5):
        found = texts(model.generate(input_features=features[i : i + 5]))
        assert found == [clip["token_ids"] for clip in expected["clips"][i : i + 5]]


def test_new_mel_positions_are_the_reference_s():
    theirs, folder = oracle.reference("whisper", "whisper", "WhisperModel")
    ours = from_config(json.loads((folder / "config.json").read_text()))
    fresh = type(theirs)(theirs.config).encoder.embed_positions.weight
    torch.testing.assert_close(ours.encoder.front.positions.data, fresh.data)


def waveform(family, name, variant=""):
    theirs, folder = oracle.reference(family, f"{family}{variant}", name)
    return theirs, folder, regard.load(folder)


LARGE = [("wav2vec2", f"Wav2Vec2{h}") for h in ("Model", "ForCTC", "ForSequenceClassification")]
LARGE += [("hubert", f"Hubert{h}") for h in ("Model", "ForCTC", "ForSequenceClassification")]


@torch.no_grad()
@pytest.mark.parametrize(("family", "name"), LARGE)
def test_masked_batches_equal_the_reference_s(family, name):
    theirs, _, ours = waveform(family, name, " large")
    rows = oracle.random_rows(theirs)
    x, mask = oracle.pad(rows, "right")
    found, expected = ours(x, mask)[0], theirs(x, attention_mask=mask)[0]
    if found.ndim == 2:
        oracle.close(found, expected)
        return
    for i, row in enumerate(rows):  # what stands at padding means nothing
        real = ours.encoder.front.frames(len(row))
        oracle.close(found[i, :real], expected[i, :real])


@torch.no_grad()
@pytest.mark.parametrize(("family", "name"), LARGE)
def test_unmasked_batches_equal_the_reference_s_where_norms_run_over_time(family, name):
    theirs, _, ours = waveform(family, name)
    x, _ = oracle.pad(oracle.random_rows(theirs), "right")
    oracle.close(ours(x)[0], theirs(x)[0])


@torch.no_grad()
@pytest.mark.parametrize("family", ["wav2vec2", "hubert"])
def test_hidden_frames_equal_the_reference_s(family):
    theirs, _, ours = waveform(family, {"wav2vec2": "Wav2Vec2Model", "hubert": "HubertModel"}[family])
    x = torch.stack(oracle.random_rows(theirs, (11, 11)))
    hidden = torch.rand(2, ours.encoder.front.frames(x.shape[1])) < 0.3
    oracle.close(ours(x, mask_time_indices=hidden)[0], theirs(x, mask_time_indices=hidden)[0])


SPEC = {"apply_spec_augment": True, "mask_time_prob": 0.3, "mask_time_length": 3, "mask_feature_prob": 0.2}
SPEC |= {"mask_feature_length": 2, "layerdrop": 0.0, "encoder_layerdrop": 0.0, "decoder_layerdrop": 0.0}


@torch.no_grad()
@pytest.mark.parametrize(("family", "name"), [("wav2vec2", "Wav2Vec2"), ("hubert", "Hubert"), ("whisper", "Whisper")])
def test_what_training_hides_is_what_the_reference_hides(family, name, tmp_path, monkeypatch):
    """The reference draws from numpy; with our draws in its place, both learn from the same."""
    import sys

    import transformers

    fields = {**families()[family].tiny[family], **SPEC}
    config = transformers.AutoConfig.for_model(fields.pop("model_type"), **fields)
    for field in [f for f in vars(config) if "dropout" in f]:
        setattr(config, field, 0.0)
    theirs = getattr(transformers, f"{name}Model")._from_config(config, attn_implementation="eager").train()
    theirs.save_pretrained(tmp_path)
    ours, asked = regard.load(tmp_path).train(), []

    def draw(shape, mask_prob, mask_length, attention_mask=None, min_masks=0):
        asked.append((mask_prob, mask_length, min_masks))
        return hidden_runs(RunsConfig(part=mask_prob, span=mask_length, least=min_masks), [shape[1]] * shape[0]).numpy()

    drawn = sys.modules[type(theirs).__module__]._compute_mask_indices
    monkeypatch.setattr(sys.modules[type(theirs).__module__], "_compute_mask_indices", draw)
    x = torch.stack(oracle.random_rows(theirs, (11, 11)))
    words = {"decoder_input_ids": torch.tensor([[2, 7, 9], [2, 8, 8]])} if family == "whisper" else {}
    for seed in range(4):
        torch.manual_seed(seed)
        wanted = theirs(x.clone(), **words).last_hidden_state
        torch.manual_seed(seed)
        found = ours(x, **words).last_hidden_state
        oracle.close(found, wanted)
        assert not torch.allclose(found, ours.eval()(x, **words).last_hidden_state)
        ours.train()
    assert asked[:2] == [(0.3, 3, 2), (0.2, 2, 0)]
    for part, span, least in [(0.3, 3, 2), (0.065, 10, 2), (0.5, 7, 0)]:  # and ours hide as much as its own do
        runs = RunsConfig(part=part, span=span, least=least)
        both = np.zeros((2, 400))
        np.random.seed(0)
        for i in range(400):
            mask = torch.arange(60) < torch.tensor([[60], [41], [5]])
            kept = drawn((3, 60), part, span, mask, min_masks=least)[:2]  # of a row shorter than a run it hides padding
            both[:, i] = kept.mean(), hidden_runs(runs, [60, 41, 5])[:2].float().mean()
        spread = both.std(1) / 20
        assert abs(both[0].mean() - both[1].mean()) < 4 * np.hypot(*spread)


@pytest.mark.parametrize(("family", "default"), [("wav2vec2", True), ("hubert", True), ("whisper", False)])
def test_whether_training_hides_where_nothing_is_said(family, default):
    import transformers

    tiny = dict(families()[family].tiny[family])
    assert transformers.AutoConfig.for_model(family).apply_spec_augment is default
    front = regard.from_config(tiny).config.encoder.front
    assert front.hidden_channels is None
    assert front.hidden_moments == (RunsConfig(part=0.05, span=10, least=2) if default else None)
    assert regard.from_config({**tiny, "apply_spec_augment": False}).config.encoder.front.hidden_moments is None
    with pytest.raises(ValueError, match="mask_time_length is 0"):
        regard.from_config({**tiny, "apply_spec_augment": True, "mask_time_length": 0})


def rewritten(folder, tmp_path, change):
    """A copy of a checkpoint, its tensors changed."""
    state = change(load_file(folder / "model.safetensors"))
    save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    return regard.load(tmp_path)


@torch.no_grad()
def test_older_names_of_normed_weights_open(tmp_path):
    theirs, folder, _ = waveform("wav2vec2", "Wav2Vec2ForCTC")

    def older(state):
        names = {"parametrizations.weight.original0": "weight_g", "parametrizations.weight.original1": "weight_v"}
        return {key.replace(*pair) if (pair := _found(key, names)) else key: value for key, value in state.items()}

    ours = rewritten(folder, tmp_path, older)
    x = oracle.random_rows(theirs, (9,))[0][None]
    oracle.close(ours(x).logits, theirs(x).logits)


def _found(key, names):
    return next(((old, new) for old, new in names.items() if old in key), None)


def test_a_file_without_the_vector_for_hidden_frames_opens(tmp_path):
    _, folder, whole = waveform("hubert", "HubertModel")
    ours = rewritten(folder, tmp_path, lambda state: {k: v for k, v in state.items() if k != "masked_spec_embed"})
    assert whole.encoder.front.masked.any() and not ours.encoder.front.masked.any()


@torch.no_grad()
def test_pretrained_files_give_features_and_drop_what_only_pretraining_needs():
    theirs, folder = oracle.reference("wav2vec2", "wav2vec2", "Wav2Vec2ForPreTraining")
    ours, x = regard.load(folder), oracle.random_rows(theirs, (9,))[0][None]
    oracle.close(ours(x).last_hidden_state, theirs.wav2vec2(x).last_hidden_state)


@torch.no_grad()
@pytest.mark.parametrize(
    ("family", "variant", "name", "inner"),
    [
        ("wav2vec2", "wav2vec2 mixed", "Wav2Vec2ForSequenceClassification", "wav2vec2"),
        ("hubert", "hubert mixed", "HubertForCTC", "hubert"),
        ("ast", "ast", "ASTForAudioClassification", "audio_spectrogram_transformer"),
    ],
)
def test_features_of_a_file_with_another_head(family, variant, name, inner):
    theirs, folder = oracle.reference(family, variant, name)
    ours, x = regard.load(folder, head="features"), oracle.random_rows(theirs, (9,))[0][None]
    oracle.close(ours(x).last_hidden_state, getattr(theirs, inner)(x).last_hidden_state)


def test_new_labels_on_a_model_that_writes():
    theirs, folder = oracle.reference("whisper", "whisper mixed", "WhisperForConditionalGeneration")
    ours = regard.load(folder, head="classification", num_labels=7)
    assert ours.decoder is None and ours(torch.stack(oracle.random_rows(theirs, (1, 1)))).logits.shape == (2, 7)
    torch.testing.assert_close(ours.encoder.stack.mix.softmax(0), torch.full((3,), 1 / 3))  # even, until trained


@pytest.mark.parametrize(
    ("family", "fields", "named"),
    [
        ("wav2vec2", {"add_adapter": True}, "add_adapter is True"),
        ("wav2vec2", {"adapter_attn_dim": 16}, "adapter_attn_dim is 16"),
        ("wav2vec2", {"conv_stride": [5, 2]}, "conv_kernel and conv_stride must have 3 items"),
        ("wav2vec2", {"conv_dim": [8, "x", 8]}, "convs is"),
        ("wav2vec2", {"feat_extract_norm": "batch"}, "feat_extract_norm is 'batch'"),
        ("wav2vec2", {"num_conv_pos_embedding_groups": 5}, "position_groups is 5"),
        ("hubert", {"conv_pos_batch_norm": True}, "conv_pos_batch_norm is True"),
        ("whisper", {"scale_embedding": True}, "scale_embedding is True"),
        ("whisper", {"d_model": 30}, "attention heads"),
        ("ast", {"time_stride": 0}, "time_stride is 0"),
        ("ast", {"max_length": 3}, "size is"),
    ],
)
def test_wrong_configs_are_named(family, fields, named):
    raw = next(iter(families()[family].tiny.values()))
    with pytest.raises(ValueError, match=named):
        from_config({**raw, **fields})


def test_a_spectrogram_of_another_size_is_named():
    _, folder = oracle.reference("ast", "ast", "ASTModel")
    ours = regard.load(folder)
    for shape in ((1, 27, 11), (1, 26, 12), (26, 11)):
        with pytest.raises(ValueError, match="input_values is"):
            ours(torch.randn(shape))
