"""Labels for whole texts: the model's own, or the user's by way of textual entailment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from regard.tasks.base import EncoderTask, Piece
from regard.tasks.inputs import parts_of, text_of, texts_of
from regard.tasks.options import EncoderOptions


@dataclass(frozen=True, kw_only=True)
class TextClassificationOptions(EncoderOptions):
    """`top_k` labels, best first (None: all); unsaid, the best one alone. `return_all_scores`: all, unsorted.

    `function_to_apply` makes scores of logits; unsaid, what the kind of problem in config.json calls for.
    """

    top_k: int | Literal["best"] | None = "best"
    function_to_apply: Literal["softmax", "sigmoid", "none", "default"] | None = None
    return_all_scores: bool = False

    def check(self) -> None:
        super().check()
        self.require(self.top_k != 0, "top_k", "at least 1, or None for all")


class TextClassification(EncoderTask[TextClassificationOptions]):
    """[{"label", "score"}] for a text; also for {"text", "text_pair"}."""

    options = TextClassificationOptions

    def pieces(self, item: Any, options: TextClassificationOptions) -> list[Piece]:
        if isinstance(item, (dict, list, tuple)):
            parts = parts_of(item, ("text",))
            pair = parts.get("text_pair")
            return self.encode(text_of(parts["text"]), None if pair is None else text_of(pair, "text_pair"), options)
        return self.encode(text_of(item), None, options)

    def finish(
        self, item: Any, pieces: Sequence[Piece], outputs: Sequence[Tensor], options: TextClassificationOptions
    ) -> Any:
        scores = label_scores(outputs[0], options.function_to_apply, self.model.raw.get("problem_type")).tolist()
        labels = self.labels(len(scores))
        found = [{"label": label, "score": score} for label, score in zip(labels, scores, strict=True)]
        if options.return_all_scores:
            return found
        found.sort(key=lambda entry: -entry["score"])
        return found[0] if options.top_k == "best" else found[: options.top_k]

    def deliver(
        self,
        results: list[Any],
        inputs: Any,
        came: str,
        options: TextClassificationOptions,
        called: Mapping[str, Any],
    ) -> Any:
        # As in the reference: a single text gives a list unless this very call names top_k.
        return results if came == "list" or (isinstance(inputs, str) and "top_k" not in called) else results[0]


def label_scores(logits: Tensor, function: str | None, problem: str | None) -> Tensor:
    """Logits (labels) -> scores: together 1, each by itself, or as they are (regression); unless `function` says which,
    the kind of problem in config.json does."""
    if function in (None, "default"):
        several = problem == "multi_label_classification" or len(logits) == 1
        function = "none" if problem == "regression" else "sigmoid" if several else "softmax"
    return {"softmax": lambda x: x.softmax(0), "sigmoid": torch.sigmoid}.get(function, lambda x: x)(logits)


@dataclass(frozen=True, kw_only=True)
class ZeroShotOptions(EncoderOptions):
    """`candidate_labels`: a list, or names with commas between. With `multi_label` each is true or false by itself."""

    candidate_labels: str | tuple[str, ...] = ()
    hypothesis_template: str = "This example is {}."
    multi_label: bool = False

    @property
    def names(self) -> list[str]:
        """The labels one by one."""
        return label_names(self.candidate_labels)

    def hypotheses(self) -> list[str]:
        """A sentence for each label; ValueError without labels, or for a template without a place for one."""
        return filled(self.hypothesis_template, self.names)


def label_names(labels: str | tuple[str, ...]) -> list[str]:
    """Labels one by one, from names with commas between or a list."""
    return [part.strip() for part in labels.split(",") if part.strip()] if isinstance(labels, str) else list(labels)


def filled(template: str, names: list[str]) -> list[str]:
    """The template with each name in its place; ValueError without names, or for a template without a place."""
    texts_of(names, "candidate_labels")
    try:
        made = [template.format(name) for name in names]
    except (IndexError, KeyError, ValueError, AttributeError):
        made = [template]
    if template in made:
        raise ValueError(f"hypothesis_template is {template!r:.80}; allowed: a text with {{}} where the label goes")
    return made


class ZeroShotClassification(EncoderTask[ZeroShotOptions]):
    """{"sequence", "labels", "scores"}, best first: how far a text entails "This example is <label>." (1909.00161)."""

    options = ZeroShotOptions

    def setup(self) -> None:
        names = {name.lower(): i for i, name in self.model.labels.items()}
        found = [i for name, i in names.items() if name.startswith("entail")]
        if not found:
            raise ValueError(
                f"{self.info.name} needs a model whose labels name entailment; {self.model.name or 'this one'} has "
                f"{', '.join(self.model.labels.values())}"
            )
        self.entailment = found[0]
        against = [i for name, i in names.items() if name.startswith("contradict")]
        self.contradiction = against[0] if against else (max(names.values()) if self.entailment == 0 else 0)

    def arrange(self, args: tuple[Any, ...], given: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        if len(args) == 2 and "candidate_labels" not in given:
            return args[0], {**given, "candidate_labels": args[1]}
        return super().arrange(args, given)

    def pieces(self, item: Any, options: ZeroShotOptions) -> list[Piece]:
        how = {"truncation": "only_first"} if options.truncation in (None, True) else {}  # the label is never cut
        text = text_of(item)
        return [self.encode(text, hypothesis, options, **how)[0] for hypothesis in options.hypotheses()]

    def finish(
        self, item: Any, pieces: Sequence[Piece], outputs: Sequence[Tensor], options: ZeroShotOptions
    ) -> dict[str, Any]:
        logits = torch.stack(list(outputs))
        if options.multi_label or len(logits) == 1:
            scores = logits[:, [self.contradiction, self.entailment]].softmax(1)[:, 1]
        else:
            scores = logits[:, self.entailment].softmax(0)
        order = scores.argsort(descending=True).tolist()
        names = options.names
        return {"sequence": item, "labels": [names[i] for i in order], "scores": [float(scores[i]) for i in order]}
