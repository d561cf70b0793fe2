"""Spoken digits, and sounds that are none: `python recipes/spoken-digits-class.py RECORDINGS FOLDER`.

RECORDINGS is the folder of that name of the Free Spoken Digit Dataset. FOLDER/fsdd/recordings gets copies of them, and
400 sounds of no digit to learn from: near silence, noise of any colour, tones, clicks, and words said backwards by four
of the six speakers, so that the two others stay unheard where they are held out. Needs soundfile.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import numpy as np
import soundfile

RATE = 8000
COUNT = 400
SPEAKERS = ("george", "jackson", "lucas", "yweweler")
BACKWARDS = "1234678"  # zero, five and nine sound much the same both ways


def main(recordings: Path, folder: Path) -> None:
    """Copy the recordings and write the other sounds beside them, numbered so that none is for testing."""
    place, rng = folder / "fsdd" / "recordings", np.random.default_rng(0)
    place.mkdir(parents=True, exist_ok=True)
    for path in sorted(recordings.glob("*.wav")):
        shutil.copyfile(path, place / path.name)
    for i in range(COUNT):
        sound = KINDS[i % len(KINDS)](rng, recordings)
        soundfile.write(place / f"none_nobody_{i + 100}.wav", np.clip(sound, -1, 1), RATE)


def silence(rng: np.random.Generator, recordings: Path) -> np.ndarray:
    """Nothing at all, or next to nothing."""
    return rng.choice([0.0, 1e-4, 1e-3]) * rng.standard_normal(length(rng))


def noise(rng: np.random.Generator, recordings: Path) -> np.ndarray:
    """Noise whose power falls, or rises, with frequency, and that may swell and fade."""
    spectrum = np.fft.rfft(rng.standard_normal(length(rng)))
    spectrum *= np.maximum(np.arange(len(spectrum)), 1) ** rng.uniform(-1.5, 0.5)
    return level(np.fft.irfft(spectrum), rng)


def tones(rng: np.random.Generator, recordings: Path) -> np.ndarray:
    """One to four tones together."""
    time = np.arange(length(rng)) / RATE
    return level(sum(np.sin(2 * np.pi * rate * time) for rate in rng.uniform(60, 3500, int(rng.integers(1, 5)))), rng)


def clicks(rng: np.random.Generator, recordings: Path) -> np.ndarray:
    """One to nine short bursts in near silence."""
    sound = 1e-4 * rng.standard_normal(length(rng))
    for start in rng.integers(0, len(sound) - 200, int(rng.integers(1, 10))):
        sound[start : start + 200] += rng.uniform(0.1, 0.9) * np.exp(-np.arange(200) / rng.uniform(1, 40))
    return sound


def backwards(rng: np.random.Generator, recordings: Path) -> np.ndarray:
    """A word from its end to its beginning."""
    name = f"{rng.choice(list(BACKWARDS))}_{rng.choice(SPEAKERS)}_{rng.integers(5, 50)}.wav"
    return soundfile.read(recordings / name)[0][::-1]


def length(rng: np.random.Generator) -> int:
    """Samples of a quarter of a second to a second and a half."""
    return int(rng.uniform(0.25, 1.5) * RATE)


def level(sound: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A sound at some loudness, half of the time as a swell of it."""
    swell = np.sin(np.linspace(0, np.pi, len(sound))) if rng.random() < 0.5 else 1.0
    return rng.uniform(0.02, 0.5) * sound * swell / np.abs(sound).max()


KINDS = (noise, backwards, tones, backwards, silence, noise, clicks, backwards)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
