"""Texts that occur twice, to the letter or nearly: MinHash over word shingles, candidates by LSH, each one verified.

Broder 1997, "On the resemblance and containment of documents"; bands as in Leskovec, Rajaraman and Ullman, ch. 3.
Knows no language: words are runs of letters and digits, and scripts without spaces count letter by letter. Sequences
without spaces, such as proteins, are one word, so that only equal ones are found.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import NamedTuple

import numpy as np

# Scripts that put no spaces between words: Thai, Lao, Burmese, Khmer, kana, Chinese characters.
_DENSE = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003134f"
_WORDS = re.compile(f"[{_DENSE}]|[^\\W{_DENSE}]+")
_PRIME = np.uint64(0x9E3779B97F4A7C15)
_BLOCK = 2**20
_BUCKET = 64
_MISSES = 0.005


class Pair(NamedTuple):
    """Two rows, the earlier first, and the Jaccard similarity of their shingles, 0 to 1."""

    first: int
    second: int
    similarity: float


def words_of(text: str) -> list[str]:
    """The words of a text, in lower case and compatible form (NFKC)."""
    return _WORDS.findall((text if text.isascii() else unicodedata.normalize("NFKC", text)).lower())


def firsts(texts: Iterable[str]) -> np.ndarray:
    """For each text the number of the first one that is the same to the letter, (N,); its own where it is new."""
    seen: dict[bytes, int] = {}
    found = [seen.setdefault(blake2b(_bytes(text), digest_size=16).digest(), i) for i, text in enumerate(texts)]
    return np.array(found, dtype=np.int64)


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def near_duplicates(
    texts: Sequence[str], *, threshold: float = 0.8, shingle: int = 3, permutations: int = 128, seed: int = 0
) -> list[Pair]:
    """Pairs of texts that share at least `threshold` of their runs of `shingle` words, ordered by rows.

    Every pair is verified; one at the threshold is missed with a chance under 0.5 %, one far above it hardly ever.
    Of many texts with the same words, each is paired with the first only. Texts without words pair with nothing.
    """
    found = Shingles.of(texts, shingle)
    same = [Pair(int(first), i, 1.0) for i, first in enumerate(found.first) if first != i]
    return sorted(same + found.similar(threshold, permutations, seed))


@dataclass(frozen=True, eq=False)
class Shingles:
    """The hashed shingles of all texts, end to end: those of text i are values[offsets[i]:offsets[i + 1]], sorted.

    `first` is the number of the first text with the same shingles, its own where it is new.
    """

    values: np.ndarray
    offsets: np.ndarray
    first: np.ndarray

    @classmethod
    def of(cls, texts: Sequence[str], size: int) -> Shingles:
        """Shingles of `size` words; a shorter text is one shingle."""
        if size < 1:
            raise ValueError(f"shingle is {size}; allowed: 1 word and more")
        codes = _Codes()
        seen: dict[bytes, int] = {}
        parts: list[np.ndarray] = []
        firsts: list[int] = []
        for i, text in enumerate(texts):
            hashes = np.array([codes[word] for word in words_of(text)], dtype=np.uint64)
            part = np.unique(_joined(hashes, size)) if len(hashes) else hashes
            parts.append(part)
            firsts.append(seen.setdefault(blake2b(part.tobytes(), digest_size=16).digest(), i) if len(part) else i)
        offsets = np.concatenate([[0], np.cumsum([len(part) for part in parts])]).astype(np.int64)
        values = np.concatenate(parts) if parts else np.zeros(0, np.uint64)
        return cls(values, offsets, np.array(firsts, dtype=np.int64))

    def signatures(self, rows: np.ndarray, permutations: int, seed: int) -> np.ndarray:
        """(rows, permutations) of uint32: the least hash of each row's shingles under each of random functions."""
        rng = np.random.default_rng(seed)
        limit = np.iinfo(np.uint64).max
        factors = rng.integers(1, limit, permutations, dtype=np.uint64) | np.uint64(1)
        terms = rng.integers(0, limit, permutations, dtype=np.uint64)
        found = np.empty((len(rows), permutations), np.uint32)
        sizes = np.diff(self.offsets)[rows]
        cuts = np.searchsorted(np.cumsum(sizes), np.arange(_BLOCK, sizes.sum() + _BLOCK, _BLOCK), side="right")
        start = 0
        for stop in np.unique(np.append(cuts, len(rows))):
            if stop <= start:
                continue
            block = rows[start:stop]
            flat = np.concatenate([self.values[self.offsets[i] : self.offsets[i + 1]] for i in block])
            begins = np.concatenate([[0], np.cumsum(sizes[start : stop - 1])]).astype(np.int64)
            for k in range(permutations):
                found[start:stop, k] = np.minimum.reduceat((flat * factors[k] + terms[k]) >> np.uint64(32), begins)
            start = stop
        return found

    def similar(self, threshold: float, permutations: int, seed: int) -> list[Pair]:
        """Verified pairs of texts that are the first with their shingles."""
        if not 0 < threshold <= 1:
            raise ValueError(f"threshold is {threshold}; allowed: above 0, at most 1")
        if permutations < 1:
            raise ValueError(f"permutations is {permutations}; allowed: 1 and more")
        rows = np.flatnonzero((self.first == np.arange(len(self.first))) & (np.diff(self.offsets) > 0))
        if len(rows) < 2:
            return []
        width = band_width(threshold, permutations)
        signatures = self.signatures(rows, permutations, seed)
        candidates = [_bucketed(signatures[:, b : b + width]) for b in range(0, permutations - width + 1, width)]
        pairs = np.unique(np.concatenate(candidates)) if candidates else np.zeros(0, np.int64)
        first, second = rows[pairs // len(rows)], rows[pairs % len(rows)]
        return [pair for pair in self._verified(first, second) if pair.similarity >= threshold]

    def _verified(self, first: np.ndarray, second: np.ndarray) -> Iterable[Pair]:
        sets: dict[int, frozenset[int]] = {}

        def shingles(i: int) -> frozenset[int]:
            if i not in sets:
                if len(sets) > 100_000:
                    sets.clear()
                sets[i] = frozenset(self.values[self.offsets[i] : self.offsets[i + 1]].tolist())
            return sets[i]

        for i, j in zip(first.tolist(), second.tolist(), strict=True):
            a, b = shingles(i), shingles(j)
            common = len(a & b)
            yield Pair(i, j, common / (len(a) + len(b) - common))


class _Codes(dict[str, int]):
    """Word -> hash, the same in every run, unlike Python's own; each computed once."""

    def __missing__(self, word: str) -> int:
        self[word] = code = int.from_bytes(blake2b(_bytes(word), digest_size=8).digest(), "little")
        return code


@functools.cache
def _all_pairs(count: int) -> tuple[np.ndarray, np.ndarray]:
    return np.triu_indices(count, 1)


def _joined(hashes: np.ndarray, size: int) -> np.ndarray:
    """Hashes of words (T,) to those of each run of `size`."""
    size = min(size, len(hashes))
    found = np.zeros(len(hashes) - size + 1, np.uint64)
    for k in range(size):
        found = (found ^ hashes[k : k + len(found)]) * _PRIME
        found ^= found >> np.uint64(29)
    return found


def band_width(threshold: float, permutations: int) -> int:
    """The widest bands, hence the fewest candidates, that miss a pair at the threshold with less than 0.5 %."""
    fitting = [w for w in range(1, permutations + 1) if (1 - threshold**w) ** (permutations // w) < _MISSES]
    return max(fitting, default=1)


def _bucketed(band: np.ndarray) -> np.ndarray:
    """Pairs first * N + second of rows (N, width) that are equal; in large buckets, with the first and the next."""
    keys = np.zeros(len(band), np.uint64)
    for column in band.T.astype(np.uint64):
        keys = (keys ^ column) * _PRIME
        keys ^= keys >> np.uint64(29)
    order = np.argsort(keys, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(keys[order])) + 1, len(order))
    begins = np.append(0, ends[:-1])
    found = []
    for begin, end in zip(begins[ends - begins > 1], ends[ends - begins > 1], strict=True):
        rows = order[begin:end]  # in rising order, as the sort is stable
        if len(rows) <= _BUCKET:
            i, j = _all_pairs(len(rows))
        else:
            later = np.arange(1, len(rows))
            i, j = np.append(np.zeros_like(later), later - 1), np.append(later, later)
        found.append(rows[i] * len(band) + rows[j])
    return np.concatenate(found) if found else np.zeros(0, np.int64)
