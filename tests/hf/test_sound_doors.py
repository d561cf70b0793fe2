"""The tutorials' code that hears, and whole numbers as files hold them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("soundfile")
pytest.importorskip("soxr")
transformers = pytest.importorskip("transformers")
wavfile = pytest.importorskip("scipy.io.wavfile")

import regard.hf as hf  # noqa: E402
from tests.conftest import real  # noqa: E402
from tests.hf import hub  # noqa: E402
from tests.hf.test_snippets import run  # noqa: E402
from tests.tasks.test_speech import letters  # noqa: E402, F401  fixture

CLIP = "speech/goforward.wav"


@pytest.mark.parametrize("quiet", [1, 300], ids=["as loud as it is", "nearly silent"])
def test_10_wav2vec2(letters: tuple[Path, Any], tmp_path: Path, quiet: int) -> None:  # noqa: F811
    folder, oracle = letters
    hub.publish(tmp_path / "cache", "facebook/wav2vec2-large-960h", folder)
    rate, samples = wavfile.read(real("data") / CLIP)
    samples = (samples // quiet).astype(np.int16)
    wavfile.write(tmp_path / "audio_file.wav", rate, samples)
    values = oracle.feature_extractor(samples, return_tensors="pt", sampling_rate=rate).input_values
    with torch.no_grad():
        ids = oracle.model(values.float()).logits.argmax(-1)[0]  # it gives float64 here, which its model does not take
    expected = oracle.tokenizer.decode(ids)
    assert len(expected) > 10
    assert run("10", tmp_path / "cache", tmp_path) == expected


@pytest.mark.parametrize("kind", [np.int16, np.int32, np.uint8, np.float32])
@pytest.mark.parametrize("options", [{}, {"padding": True}, {"padding": True, "return_attention_mask": True}], ids=str)
def test_numbers_of_any_type_give_what_the_reference_gives(
    letters: tuple[Path, Any],  # noqa: F811
    kind: Any,
    options: dict[str, Any],
) -> None:
    draw = np.random.default_rng(0)
    waves = [np.clip(draw.normal(0, 3, size), -12, 12) + (128 if kind is np.uint8 else 0) for size in (900, 1300)]
    clips = [wave.astype(kind) for wave in waves][: 2 if options else 1]
    ours = hf.Wav2Vec2FeatureExtractor.from_pretrained(letters[0])(clips, sampling_rate=16000, **options)
    theirs = letters[1].feature_extractor(clips, sampling_rate=16000, **options)
    assert set(ours) == set(theirs)
    for name in theirs:
        for mine, other in zip(ours[name], theirs[name], strict=True):
            np.testing.assert_allclose(mine, other, rtol=0, atol=2e-6)
