"""Speech: tiny random models against the reference's pipelines, rules against the reference's and slow formulas."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

soundfile = pytest.importorskip("soundfile")
pytest.importorskip("soxr")
transformers = pytest.importorskip("transformers")

import regard  # noqa: E402
from regard.preprocess.audio import AudioProcessor  # noqa: E402
from regard.preprocess.audio_stream import BLOCK_SECONDS, MelFrames, Recording  # noqa: E402
from regard.tasks import ctc, subtitles  # noqa: E402
from regard.tasks.alignment import warp  # noqa: E402
from regard.tasks.marks import Marks, Timely  # noqa: E402
from regard.tasks.transcript import segments  # noqa: E402
from tests.tasks.conftest import same, sharpen  # noqa: E402

RATE = 16000
LETTERS = ["<pad>", "<s>", "</s>", "<unk>", "|", *"ABCDEFGHIJKLMNOPQRSTUVWXYZ'"]
TINY: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "conv_dim": [12, 16, 8],
    "conv_kernel": [10, 8, 4],
    "conv_stride": [5, 8, 8],
    "num_conv_pos_embeddings": 6,
    "num_conv_pos_embedding_groups": 4,
    "classifier_proj_size": 24,
}


def sound(seconds: float, seed: int = 0) -> np.ndarray:
    t = np.arange(round(seconds * RATE)) / RATE
    noise = np.random.default_rng(seed).standard_normal(len(t))
    return (0.2 * np.sin(2 * np.pi * (200 + 90 * t) * t) + 0.1 * noise * (np.sin(3 * t) > 0)).astype(np.float32)


@pytest.fixture(scope="module")
def letters(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """A tiny model of letters in a folder, and the reference's pipeline of it."""
    folder = tmp_path_factory.mktemp("ctc")
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(LETTERS)}), encoding="utf-8")
    words = transformers.Wav2Vec2CTCTokenizer(str(folder / "vocab.json"))
    words.save_pretrained(folder)
    ears = transformers.Wav2Vec2FeatureExtractor()
    ears.save_pretrained(folder)
    torch.manual_seed(3)
    config = transformers.Wav2Vec2Config(
        **TINY, vocab_size=len(LETTERS), pad_token_id=0, bos_token_id=1, eos_token_id=2
    )
    model = transformers.Wav2Vec2ForCTC(config).eval()
    sharpen(model)
    model.lm_head.weight.data.mul_(3)
    model.save_pretrained(folder)
    oracle = transformers.pipeline(
        "automatic-speech-recognition", model=model, tokenizer=words, feature_extractor=ears, decoder=None
    )
    return folder, oracle


@pytest.fixture(scope="module")
def pipe(letters: tuple[Path, Any]) -> Any:
    return regard.pipeline("automatic-speech-recognition", letters[0])


# ------------------------------------------------------------------------------------------------ models of moments


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"return_timestamps": "char"},
        {"return_timestamps": "word"},
        {"chunk_length_s": 1.0},
        {"chunk_length_s": 1.5, "stride_length_s": (0.3, 0.1), "return_timestamps": "char"},
    ],
    ids=str,
)
def test_letters_agree(letters: tuple[Path, Any], pipe: Any, options: dict[str, Any]) -> None:
    clips = [sound(2.3), sound(0.7, 1), sound(5.01, 2)]
    for clip in clips:
        theirs = letters[1](clip.copy(), **options)
        assert len(theirs["text"]) > 3
        theirs["chunks"] = [{**chunk} for chunk in theirs.get("chunks", [])]
        ours = pipe(clip, **options)
        assert ours["text"] == theirs["text"]
        same([list(c["timestamp"]) for c in ours.get("chunks", [])], [list(c["timestamp"]) for c in theirs["chunks"]])
        assert [c["text"] for c in ours.get("chunks", [])] == [c["text"] for c in theirs["chunks"]]
    assert pipe(clips, **options) == [pipe(clip, **options) for clip in clips]


def test_ways_to_give_sound(pipe: Any, tmp_path: Path) -> None:
    clip = sound(1.5)
    file = tmp_path / "a.wav"
    soundfile.write(file, clip, RATE, subtype="FLOAT")
    want = pipe(clip)
    assert pipe(str(file)) == pipe(file) == pipe(file.read_bytes()) == pipe(clip.tolist()) == want
    assert (
        pipe({"array": clip, "sampling_rate": RATE}) == pipe({"raw": torch.tensor(clip), "sampling_rate": RATE}) == want
    )
    with open(file, "rb") as opened:
        assert pipe(opened) == want
    assert list(pipe(clip for _ in range(2))) == [want, want]
    assert list(pipe(tmp_path)) == [want]


def test_long_sound_is_heard_in_windows_alike_from_file_and_memory(pipe: Any, tmp_path: Path) -> None:
    clip = sound(2.2 * BLOCK_SECONDS)
    file = tmp_path / "long.wav"
    soundfile.write(file, clip, RATE, subtype="FLOAT")
    found = pipe(file)
    assert found == pipe(clip) == pipe(clip, chunk_length_s=30, stride_length_s=5)
    assert pipe(file, chunk_length_s=7) == pipe(clip, chunk_length_s=7)


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ("nowhere/a.wav", "there is no file 'nowhere/a.wav'"),
        ("", "empty"),
        (b"", "empty"),
        (b"this is no sound at all", "bytes .23. cannot be read as sound"),
        (np.zeros(0, np.float32), "is empty: 0 samples"),
        (np.array([0.1, np.nan] * 900, np.float32), "NaN"),
        (np.zeros(5, np.float32), "too short"),
        ({"array": np.zeros(900, np.float32)}, "sampling_rate"),
        ({"text": "a"}, "a clip has text; allowed: array"),
        (5, "a int is no sound"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_bad_sound(pipe: Any, item: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pipe(item)
    good = sound(0.5)
    with pytest.raises(ValueError, match=f"item 1: .*{message}"):
        pipe([good, item])
    found = pipe([good, item, good], on_error="skip")
    assert found[0] == found[2] == pipe(good) and list(found[1]) == ["error"]


def test_a_damaged_file_is_named(pipe: Any, tmp_path: Path) -> None:
    file = tmp_path / "cut.wav"
    soundfile.write(file, sound(1.0), RATE)
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"cut\.wav is cut short"):
        pipe(file)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"chunk_length_s": 1, "stride_length_s": 0.6}, "stride_length_s is 0.6"),
        ({"language": "en"}, "language is given"),
        ({"generate_kwargs": {"do_sample": True}}, "do_sample is given"),
        ({"generate_kwargs": 3}, "generate_kwargs is 3"),
        ({"chunk_lenght_s": 3}, "did you mean 'chunk_length_s'"),
    ],
    ids=str,
)
def test_wrong_options(pipe: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pipe(sound(0.5), **options)


def spelled(path: tuple[int, ...], blank: int) -> tuple[int, ...]:
    return tuple(unit for unit, _ in itertools.groupby(path) if unit != blank)


def test_beam_search_and_placing_against_all_paths() -> None:
    rng = np.random.default_rng(1)
    for _ in range(6):
        logs = np.log(rng.dirichlet([0.7] * 3, size=5))
        total: dict[tuple[int, ...], float] = {}
        best: dict[tuple[int, ...], tuple[float, tuple[int, ...]]] = {}
        for path in itertools.product(range(3), repeat=5):
            p, text = sum(logs[t, u] for t, u in enumerate(path)), spelled(path, 0)
            total[text] = np.logaddexp(total.get(text, -math.inf), p)
            best[text] = max(best.get(text, (-math.inf, path)), (p, path))
        assert tuple(ctc.beam_search(logs, 200, 0)) == max(total, key=lambda text: total[text])
        for text, (_, path) in best.items():
            assert tuple(ctc.place(logs, text, 0)) == path


def test_a_beam_gives_text_with_times(pipe: Any) -> None:
    found = pipe(sound(1.0), num_beams=4, return_timestamps="char")
    assert "".join(chunk["text"] for chunk in found["chunks"]).strip() == found["text"]
    assert pipe(sound(1.0), num_beams=4) == {"text": found["text"]}


# ------------------------------------------------------------------------------------------------ times in tokens

MARKS = Marks(start=11, end=10, plain=14, precision=0.5, latest_first=3)


def test_times_follow_the_references_rule() -> None:
    config = SimpleNamespace(no_timestamps_token_id=14, eos_token_id=10, bos_token_id=10, max_initial_timestamp_index=3)
    theirs = transformers.generation.logits_process.WhisperTimeStampLogitsProcessor(config, begin_index=2)
    ours = Timely(MARKS, 2)
    for history in (
        [],
        [15],
        [16, 3],
        [16, 3, 4],
        [16, 3, 18],
        [16, 3, 18, 18],
        [16, 3, 18, 18, 5],
        [16, 3, 18, 18, 5, 19],
    ):
        for spread in (1.0, 8.0):
            scores = torch.randn(4, 24) * spread
            scores[2:, 15:] += 4
            ids = torch.tensor([[12, 11, *history]]).expand(4, -1)
            torch.testing.assert_close(ours(ids, scores.clone()), theirs(ids, scores.clone()))


def test_windows_are_cut_at_pairs_of_times() -> None:
    cut = lambda tokens: segments(tokens, MARKS, offset=100.0, seconds=8.0)  # noqa: E731
    parts, heard = cut([15, 1, 2, 17, 17, 3, 19])  # ends with one time: all was understood
    assert [(s.start, s.end, s.tokens) for s in parts] == [(100, 101, [15, 1, 2, 17]), (101, 102, [17, 3, 19])]
    assert heard == 8
    parts, heard = cut([15, 1, 17, 17, 3, 19, 19])
    assert [(s.start, s.end) for s in parts] == [(100, 101), (101, 102)] and heard == 2
    parts, heard = cut([15, 1, 17, 18, 3])  # what follows the last pair is heard again
    assert [(s.start, s.end) for s in parts] == [(100, 101)] and heard == 1
    parts, _ = segments([15, 1, 17, 18, 3], MARKS, offset=100.0, seconds=8.0, last=True)  # or not
    assert [(s.start, s.end, s.tokens) for s in parts] == [(100, 101, [15, 1, 17]), (101.5, 108, [18, 3])]
    assert [(s.start, s.end) for s in cut([15, 1, 2])[0]] == [(100, 108)]
    assert [(s.start, s.end) for s in cut([15, 1, 18])[0]] == [(100, 101.5)]


def test_warping_finds_the_cheapest_path() -> None:
    rng = np.random.default_rng(0)
    for shape in ((1, 4), (4, 1), (3, 5), (5, 4)):
        cost = rng.standard_normal(shape)

        def cheapest(i: int, j: int, cost: np.ndarray = cost) -> float:
            if i == j == 0:
                return float(cost[0, 0])
            ways = [(i - 1, j - 1), (i - 1, j), (i, j - 1)]
            return float(cost[i, j]) + min(cheapest(*w) for w in ways if min(w) >= 0)

        rows, columns = warp(cost)
        assert (rows[0], columns[0], rows[-1], columns[-1]) == (0, 0, shape[0] - 1, shape[1] - 1)
        assert cost[rows, columns].sum() == pytest.approx(cheapest(shape[0] - 1, shape[1] - 1))


def test_languages_and_jobs() -> None:
    many = Marks(start=1, end=0, plain=9, languages={"en": 2, "de": 3}, jobs={"transcribe": 7, "translate": 8})
    assert many.language("German") == many.language("<|de|>") == many.language("de") == "de"
    assert many.prefix("de", "translate", timed=False) == [1, 3, 8, 9]
    with pytest.raises(ValueError, match="language is 'klingon'; allowed: de, en"):
        many.language("klingon")
    with pytest.raises(ValueError, match="task is 'sing'"):
        many.job("sing")
    with pytest.raises(ValueError, match=r"'de'.*English only"):
        MARKS.language("de")


def test_frames_of_a_long_recording_equal_those_of_the_whole(tmp_path: Path) -> None:
    ears = AudioProcessor("WhisperFeatureExtractor", {"chunk_length": 2})
    clip = sound(2.1 * BLOCK_SECONDS)
    file = tmp_path / "long.wav"
    soundfile.write(file, clip, RATE, subtype="FLOAT")
    whole = ears(clip, sampling_rate=RATE, truncation=False, padding="longest", return_tensors="pt")["input_features"][
        0
    ]
    for item in (clip, file):
        frames = MelFrames(Recording.of(item, RATE), ears)
        assert frames.total == whole.shape[1]
        for first in (0, 150, 151, 2950, 3100, frames.total - 40):
            want = whole[:, first : first + 200]
            torch.testing.assert_close(frames.read(first)[:, : want.shape[1]], want, rtol=0, atol=1e-6)
    assert not frames.read(frames.total - 40)[:, 40:].any()


# ------------------------------------------------------------------------------------------------ labels and files


def test_audio_classification_agrees(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = transformers.HubertConfig(**TINY, vocab_size=31, id2label={i: f"kind {i}" for i in range(7)})
    model = transformers.HubertForSequenceClassification(config).eval()
    sharpen(model)
    model.save_pretrained(tmp_path)
    ears = transformers.Wav2Vec2FeatureExtractor()
    ears.save_pretrained(tmp_path)
    theirs = transformers.pipeline("audio-classification", model=model, feature_extractor=ears)
    ours = regard.pipeline("audio-classification", tmp_path)
    clips = [sound(1.0), sound(1.0, 1), sound(0.4, 2)]
    for options in ({}, {"top_k": 2}, {"function_to_apply": "sigmoid"}):
        same(ours(clips, **options), [theirs(clip.copy(), **options) for clip in clips])
    with pytest.raises(ValueError, match=r"item 0: .*no file 'x\.wav'"):
        ours(["x.wav"])
    with pytest.raises(ValueError, match="head: classification"):
        regard.pipeline("automatic-speech-recognition", tmp_path)


@pytest.mark.parametrize("kind", ["waves", "frames"])
def test_labels_of_long_sound_are_by_the_mean_of_its_windows(kind: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    if kind == "waves":
        config = transformers.HubertConfig(**TINY, vocab_size=31, num_labels=5)
        model, ears, window = transformers.HubertForSequenceClassification, transformers.Wav2Vec2FeatureExtractor(), 30
    else:
        size = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24}
        config = transformers.ASTConfig(**size, max_length=400, num_mel_bins=32, num_labels=5)
        model, window = transformers.ASTForAudioClassification, 4
        ears = transformers.ASTFeatureExtractor(max_length=400, num_mel_bins=32)
    theirs = model(config).eval()
    sharpen(theirs)
    theirs.save_pretrained(tmp_path)
    ears.save_pretrained(tmp_path)
    clip = np.concatenate([sound(40.0), 0.1 * sound(31.2, 1)])
    soundfile.write(tmp_path / "long.wav", clip, RATE, subtype="FLOAT")
    pipe = regard.pipeline("audio-classification", tmp_path)
    found = {entry["label"]: entry["score"] for entry in pipe(str(tmp_path / "long.wav"), function_to_apply="none")}
    total, samples = torch.zeros(5), 0
    for start in range(0, len(clip), window * RATE):
        part = clip[start : start + window * RATE]
        with torch.no_grad():
            logits = theirs(**ears(part, sampling_rate=RATE, return_tensors="pt")).logits[0]
        total, samples = total + len(part) * logits, samples + len(part)
    assert found == pytest.approx({f"LABEL_{i}": float(x) for i, x in enumerate(total / samples)}, abs=1e-4)
    held = pipe(clip, function_to_apply="none")
    assert {entry["label"]: entry["score"] for entry in held} == pytest.approx(found, abs=1e-5)
    soundfile.write(tmp_path / "rest.wav", clip[: 2 * 30 * RATE + 9000 + 2 * RATE * (kind == "frames")], RATE)
    assert len(pipe([tmp_path / "rest.wav", clip[:RATE], clip[:RATE]])) == 3


def test_subtitles(tmp_path: Path) -> None:
    chunks = [
        {"text": " One <two>.", "timestamp": (0.0, 1.5)},
        {"text": " ", "timestamp": (1.5, 2.0)},
        {"text": " Last", "timestamp": (3661.0005, None)},
    ]
    subtitles.write({"text": "x", "chunks": chunks}, tmp_path / "a.srt")
    assert (tmp_path / "a.srt").read_text() == (
        "1\n00:00:00,000 --> 00:00:01,500\nOne <two>.\n\n2\n01:01:01,000 --> 01:01:01,000\nLast\n"
    )
    assert subtitles.subtitles(chunks, vtt=True).startswith(
        "WEBVTT\n\n00:00:00.000 --> 00:00:01.500\nOne &lt;two&gt;.\n"
    )
    words = [{"text": f" w{i}", "timestamp": (float(i), i + 0.9)} for i in range(9)]
    assert [text for text, _, _ in subtitles.lines(words)] == ["w0 w1 w2 w3 w4 w5", "w6 w7 w8"]
    subtitles.write({"text": " x "}, tmp_path / "a.txt")
    subtitles.write({"text": "ä"}, tmp_path / "a.json")
    assert (tmp_path / "a.txt").read_text() == "x\n" and json.loads((tmp_path / "a.json").read_bytes()) == {"text": "ä"}
    for path, message in (("a.doc", "names that end in"), ("no/a.txt", "no folder"), ("b.srt", "needs times")):
        with pytest.raises(ValueError, match=message):
            subtitles.write({"text": "x"}, tmp_path / path)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.json", "a.srt", "a.txt"]
