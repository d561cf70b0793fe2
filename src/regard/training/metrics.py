"""How good predictions are, beside what is right. Each metric takes two equally long sequences and gives a number."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import numpy as np

from regard.extras import need

Metric = Callable[[Sequence[Any], Sequence[Any]], float]


def accuracy(predictions: Sequence[Hashable], references: Sequence[Hashable]) -> float:
    """The part that is right, 0 to 1."""
    _same_length(predictions, references)
    return sum(p == r for p, r in zip(predictions, references, strict=True)) / len(references)


def f1(predictions: Sequence[Hashable], references: Sequence[Hashable]) -> float:
    """Macro F1: the mean over classes of 2 TP / (2 TP + FP + FN); classes that occur in neither do not count."""
    _same_length(predictions, references)
    right = Counter(p for p, r in zip(predictions, references, strict=True) if p == r)
    said, true = Counter(predictions), Counter(references)
    return float(np.mean([2 * right[c] / (said[c] + true[c]) for c in said.keys() | true.keys()]))


def micro_f1(predictions: Sequence[Any], references: Sequence[Any]) -> float:
    """Micro F1 of sets, as of the labels of a text that may have several; 1 where nothing is said and nothing true."""
    _same_length(predictions, references)
    pairs = [(set(p), set(r)) for p, r in zip(predictions, references, strict=True)]
    right = sum(len(p & r) for p, r in pairs)
    total = sum(len(p) + len(r) for p, r in pairs)
    return 2 * right / total if total else 1.0


def mean_squared_error(predictions: Sequence[float], references: Sequence[float]) -> float:
    """The mean of squared differences."""
    _same_length(predictions, references)
    return float(np.mean((np.asarray(predictions, dtype=float) - np.asarray(references, dtype=float)) ** 2))


def pearson(predictions: Sequence[float], references: Sequence[float]) -> float:
    """The correlation coefficient, -1 to 1; 0 where one side is constant."""
    _same_length(predictions, references)
    x, y = np.asarray(predictions, dtype=float).ravel(), np.asarray(references, dtype=float).ravel()
    x, y = x - x.mean(), y - y.mean()
    size = float(np.sqrt((x @ x) * (y @ y)))
    return float(x @ y) / size if size else 0.0


def exact_match(predictions: Sequence[Any], references: Sequence[Any]) -> float:
    """The part that is wholly right. Texts are compared without case, punctuation and articles (1606.05250).

    A reference may be a list of texts, of which one is enough.
    """
    return _best(predictions, references, lambda p, r: float(_plain(p) == _plain(r)))


def token_f1(predictions: Sequence[str], references: Sequence[Any]) -> float:
    """The mean F1 of words between answers, as of SQuAD (1606.05250)."""
    return _best(predictions, references, _word_f1)


def bleu(predictions: Sequence[str], references: Sequence[str]) -> float:
    """Corpus BLEU, 0 to 100, by sacrebleu (1804.08771), tokenizer 13a."""
    _same_length(predictions, references)
    return float(need("sacrebleu", "train").corpus_bleu(list(predictions), [list(references)]).score)


def chrf(predictions: Sequence[str], references: Sequence[str]) -> float:
    """Corpus chrF2, 0 to 100, by sacrebleu (W15-3049)."""
    _same_length(predictions, references)
    return float(need("sacrebleu", "train").corpus_chrf(list(predictions), [list(references)]).score)


def rouge1(predictions: Sequence[str], references: Sequence[str]) -> float:
    """ROUGE-1: the mean F1 of words, stemmed, 0 to 1."""
    return _rouge("rouge1", predictions, references)


def rouge2(predictions: Sequence[str], references: Sequence[str]) -> float:
    """ROUGE-2: the mean F1 of pairs of words."""
    return _rouge("rouge2", predictions, references)


def rouge_l(predictions: Sequence[str], references: Sequence[str]) -> float:
    """ROUGE-L: the mean F1 of the longest common subsequence."""
    return _rouge("rougeL", predictions, references)


def wer(predictions: Sequence[str], references: Sequence[str]) -> float:
    """Word error rate by jiwer, over lower-case words without punctuation; 0 is best."""
    _same_length(predictions, references)
    return float(need("jiwer", "train").wer([spoken(r) for r in references], [spoken(p) for p in predictions]))


def cer(predictions: Sequence[str], references: Sequence[str]) -> float:
    """Character error rate by jiwer, of the same texts as `wer`."""
    _same_length(predictions, references)
    return float(need("jiwer", "train").cer([spoken(r) for r in references], [spoken(p) for p in predictions]))


METRICS: dict[str, Metric] = {
    **{"accuracy": accuracy, "f1": f1, "micro_f1": micro_f1, "mse": mean_squared_error, "pearson": pearson},
    **{"exact": exact_match, "token_f1": token_f1, "bleu": bleu, "chrf": chrf},
    **{"rouge1": rouge1, "rouge2": rouge2, "rougeL": rouge_l, "wer": wer, "cer": cer},
}
"""Metrics by the names that recipes use."""

LESS = frozenset({"loss", "perplexity", "mse", "wer", "cer"})
"""Scores of which less is better; of all others, those of one's own too, more is."""


def find_metrics(names: Sequence[str]) -> dict[str, Metric]:
    """Metrics by name. Raises ValueError for one that there is not."""
    for name in names:
        if name not in METRICS:
            raise ValueError(f"there is no metric {name!r}; allowed: {', '.join(METRICS)}")
    return {name: METRICS[name] for name in names}


def spoken(text: str) -> str:
    """A text as it is spoken: lower case, apostrophes kept, other punctuation turned to spaces."""
    return " ".join(re.sub(r"[^\w\s']", " ", text.lower()).split())


def _rouge(kind: str, predictions: Sequence[str], references: Sequence[str]) -> float:
    _same_length(predictions, references)
    scorer = need("rouge_score.rouge_scorer", "train").RougeScorer([kind], use_stemmer=True)
    pairs = zip(predictions, references, strict=True)
    return float(np.mean([scorer.score(target=r, prediction=p)[kind].fmeasure for p, r in pairs]))


def _best(predictions: Sequence[Any], references: Sequence[Any], score: Callable[[Any, Any], float]) -> float:
    _same_length(predictions, references)
    total = 0.0
    for said, right in zip(predictions, references, strict=True):
        several = isinstance(right, (list, tuple)) and isinstance(said, str)
        total += max((score(said, r) for r in right), default=0.0) if several else score(said, right)
    return total / len(references)


def _plain(value: Any) -> Any:
    if not isinstance(value, str):
        return value.tolist() if hasattr(value, "tolist") else value
    text = "".join(c for c in value.lower() if c not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


def _word_f1(said: str, right: str) -> float:
    a, b = _plain(said).split(), _plain(right).split()
    common = sum((Counter(a) & Counter(b)).values())
    if not common:
        return float(a == b)
    return 2 * common / (len(a) + len(b))


def _same_length(predictions: Sequence[Any], references: Sequence[Any]) -> None:
    if len(predictions) != len(references):
        raise ValueError(f"there are {len(predictions)} predictions for {len(references)} references")
    if not len(references):
        raise ValueError("there is nothing to measure: no references")
