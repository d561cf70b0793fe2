"""AST, the audio spectrogram transformer (2104.01778): ViT on overlapping patches of mels x frames, with two tokens
in front, for class and distillation, whose mean is what labels are read from."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from regard.config import ClassifierHeadConfig, Config, HeadConfig, ModelConfig, NormConfig
from regard.config.vision import PatchesConfig, PooledHeadConfig
from regard.models import vit
from regard.models.base import Architecture, Family, HeadKind, Join, Raw, Rule, Squeeze
from regard.nn import Context, build, builds
from regard.nn.head import Ends
from regard.senses.audio import sound
from regard.senses.vision import Patches

DEFAULTS = {**vit.DEFAULTS, "num_mel_bins": 128, "max_length": 1024, "frequency_stride": 10, "time_stride": 10}


@dataclass(frozen=True, kw_only=True)
class SpectrogramConfig(PatchesConfig):
    """Patches of a `size` (mels, frames) that begin every `stride` of them."""

    stride: tuple[int, int]

    def check(self) -> None:
        self.require(all(n > 0 for n in self.stride), "stride", "two numbers above 0")
        super().check()

    @property
    def grid(self) -> tuple[int, ...]:
        """How many patches there are each way."""
        return tuple((n - p) // s + 1 for n, p, s in zip(self.size, self.patch, self.stride, strict=True))


@builds(SpectrogramConfig)
class Spectrogram(Patches):
    """A spectrogram as an image of one channel, low mels first."""

    def __init__(self, config: SpectrogramConfig):
        super().__init__(config)
        self.proj = nn.Conv2d(1, config.dim, config.patch, config.stride)  # type: ignore[arg-type]

    def forward(self, input_values: Tensor, attention_mask: Tensor | None = None) -> tuple[Tensor, Context]:  # type: ignore[override]
        """input_values (B, frames, mels), as long as its processor makes them -> (B, T, C).

        Silence is heard like any sound, so that `attention_mask` says nothing. Raises ValueError for another size.
        """
        x = sound(input_values, "input_values", ("batch", "frames", "mels"), self).mT
        if x.shape[1:] != self.config.size:
            mels, frames = self.config.size
            raise ValueError(f"input_values is {tuple(input_values.shape)}; allowed: (batch, {frames}, {mels})")
        return super().forward(x[:, None])


@dataclass(frozen=True, kw_only=True)
class PairConfig(Config):
    """The mean of the first two tokens, normed where labels follow."""

    norm: NormConfig | None = None


@builds(PairConfig)
class Pair(nn.Module):
    """(B, T, C) -> (B, C)"""

    def __init__(self, config: PairConfig, dim: int):
        super().__init__()
        self.norm = build(config.norm, dim) if config.norm is not None else None

    def forward(self, hidden: Tensor, ends: Ends) -> Tensor:
        x = hidden[:, :2].mean(1)
        return x if self.norm is None else self.norm(x)


@dataclass(frozen=True, kw_only=True)
class PairClassifierConfig(ClassifierHeadConfig):
    """Labels of a pair of tokens."""

    pair: PairConfig


@builds(PairClassifierConfig)
class PairClassifier(nn.Module):
    """`logits` (B, labels)."""

    def __init__(self, config: PairClassifierConfig, dim: int):
        super().__init__()
        self.pair = build(config.pair, dim)
        self.out = nn.Linear(dim, config.num_labels)

    def forward(self, hidden: Tensor, ends: Ends) -> dict[str, Tensor]:
        return {"logits": self.out(self.pair(hidden, ends))}


def config(raw: Raw, kind: HeadKind) -> ModelConfig:
    raw = raw.over(DEFAULTS)
    each = vit.layer(raw)
    front = SpectrogramConfig(
        dim=raw.integer("hidden_size"),
        size=(raw.integer("num_mel_bins", high=2**14), raw.integer("max_length", high=2**20)),
        patch=raw.size("patch_size"),
        stride=(raw.integer("frequency_stride"), raw.integer("time_stride")),
        channels=1,
        before=2,
        dropout=raw.rate("hidden_dropout_prob"),
    )
    head: HeadConfig = PooledHeadConfig(pool=PairConfig())
    if kind == "classification":
        head = PairClassifierConfig(num_labels=len(raw.labels()), pair=PairConfig(norm=each.norm))
    return vit.encoder(raw, front, each, head)


def backbone(raw: Raw) -> list[Rule]:
    tokens = ("embeddings.cls_token", "embeddings.distillation_token")
    return vit.patch_rules(Rule(tokens, "encoder.front.before.weight", (Squeeze(), Join(2)))) + vit.layer_rules()


def heads(raw: Raw, kind: HeadKind) -> list[Rule]:
    if kind != "classification":
        return []
    return [Rule("classifier.layernorm.@", "head.pair.norm.@"), Rule("classifier.dense.@", "head.out.@")]


TINY = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 48}
TINY |= {"num_mel_bins": 11, "max_length": 26, "patch_size": 6, "frequency_stride": 4, "time_stride": 5}
FAMILY = Family(
    name="ast",
    title="AST",
    model_types=("audio-spectrogram-transformer",),
    architectures={
        "ASTModel": Architecture("features"),
        "ASTForAudioClassification": Architecture("classification", "audio_spectrogram_transformer."),
    },
    reads=("sound",),
    config=config,
    backbone=backbone,
    heads=heads,
    tiny={"ast": {**TINY, "model_type": "audio-spectrogram-transformer", "num_labels": 5}},
)
