"""DeiT (2012.12877): ViT with a second token that learns from a teacher, and a second classifier for it."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from regard.config import ClassifierHeadConfig, HeadConfig, ModelConfig
from regard.models import vit
from regard.models.base import Architecture, Family, HeadKind, Join, Raw, Rule, Squeeze
from regard.nn import builds
from regard.nn.head import Ends


@dataclass(frozen=True, kw_only=True)
class TeacherHeadConfig(ClassifierHeadConfig):
    """Labels from the class token and from the distillation token, averaged."""


@builds(TeacherHeadConfig)
class TeacherHead(nn.Module):
    """`logits` (B, labels), and the two that they are the mean of."""

    def __init__(self, config: TeacherHeadConfig, dim: int):
        super().__init__()
        self.label = nn.Linear(dim, config.num_labels)
        self.teacher = nn.Linear(dim, config.num_labels)

    def forward(self, hidden: Tensor, ends: Ends) -> dict[str, Tensor]:
        label, teacher = self.label(hidden[:, 0]), self.teacher(hidden[:, 1])
        return {"logits": (label + teacher) / 2, "cls_logits": label, "distillation_logits": teacher}


def _taught(raw: Raw) -> bool:
    """Whether the file's class name speaks of the teacher."""
    return any(str(name).endswith("WithTeacher") for name in raw.items("architectures", []))


def config(raw: Raw, kind: HeadKind) -> ModelConfig:
    raw = raw.over(vit.DEFAULTS)
    head: HeadConfig = vit.pooled(raw)
    if kind == "classification":
        head = (TeacherHeadConfig if _taught(raw) else ClassifierHeadConfig)(num_labels=len(raw.labels()))
    return vit.encoder(raw, vit.patches(raw, before=2), vit.layer(raw), head)


def backbone(raw: Raw) -> list[Rule]:
    tokens = ("embeddings.cls_token", "embeddings.distillation_token")
    return vit.patch_rules(Rule(tokens, "encoder.front.before.weight", (Squeeze(), Join(2)))) + vit.layer_rules()


def heads(raw: Raw, kind: HeadKind) -> list[Rule]:
    if kind == "classification" and _taught(raw):
        return [Rule("cls_classifier.@", "head.label.@"), Rule("distillation_classifier.@", "head.teacher.@")]
    return vit.heads(raw, kind)


FAMILY = Family(
    name="deit",
    title="DeiT",
    model_types=("deit",),
    architectures={
        "DeiTModel": Architecture("features"),
        "DeiTForImageClassification": Architecture("classification", "deit."),
        "DeiTForImageClassificationWithTeacher": Architecture("classification", "deit."),
    },
    reads=("image",),
    config=config,
    backbone=backbone,
    heads=heads,
    tiny={"deit": {**vit.TINY, "model_type": "deit", "num_labels": 5}},
)
