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
from regard.models.registry import families
from regard.preprocess.audio import AudioProcessor
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
