"""What a model is to learn: one class for each kind, by the name that recipes use."""

from regard.training.base import Objective
from regard.training.objectives.causal_lm import CausalLM
from regard.training.objectives.classification import Classification
from regard.training.objectives.contrastive import ImageText, SentencePairs
from regard.training.objectives.ctc import CTC
from regard.training.objectives.denoising import Denoising
from regard.training.objectives.distill import Crops, SelfDistillation
from regard.training.objectives.masked_lm import MaskedLM
from regard.training.objectives.question_answering import QuestionAnswering
from regard.training.objectives.seq2seq import Seq2Seq
from regard.training.objectives.span_corruption import SpanCorruption
from regard.training.objectives.token_classification import TokenClassification

OBJECTIVES: dict[str, type[Objective]] = {
    kind.name: kind
    for kind in (
        *(CausalLM, MaskedLM, SpanCorruption, Denoising, Seq2Seq),
        *(Classification, TokenClassification, QuestionAnswering, CTC),
        *(ImageText, SentencePairs, SelfDistillation),
    )
}
"""Objectives by the names that recipes use."""

__all__ = [
    "CTC",
    "OBJECTIVES",
    "CausalLM",
    "Classification",
    "Crops",
    "Denoising",
    "ImageText",
    "MaskedLM",
    "QuestionAnswering",
    "SelfDistillation",
    "SentencePairs",
    "Seq2Seq",
    "SpanCorruption",
    "TokenClassification",
]
