"""wav2vec 2.0 (2006.11477), XLS-R: strided convolutions over samples, convolutional positions, an encoder.

Base models are post-norm, and norm the first convolution over time; large ones ("stable") are pre-norm, and norm every
convolution over channels. HuBERT shares the tree and the rules.
"""

from __future__ import annotations

from regard.config import (
    AttentionConfig,
    ClassifierHeadConfig,
    CTCHeadConfig,
    FeaturesHeadConfig,
    FeedForwardConfig,
    HeadConfig,
    InitConfig,
    LayerConfig,
    MixedStackConfig,
    ModelConfig,
    NormConfig,
    StackConfig,
    TokenHeadConfig,
    TowerConfig,
    TransformConfig,
    WaveformConfig,
)
from regard.models.base import Architecture, Family, HeadKind, Raw, Rule
from regard.models.common import head_dim, hidden_runs

HEADS: dict[str, HeadKind] = {"ForCTC": "ctc", "ForSequenceClassification": "classification"}
HEADS |= {"ForAudioFrameClassification": "token-classification"}


def _convs(raw: Raw) -> tuple[tuple[int, int, int], ...]:
    """(channels, kernel, stride) of each convolution."""
    usual = {"conv_dim": [512] * 7, "conv_kernel": [10, 3, 3, 3, 3, 2, 2], "conv_stride": [5, 2, 2, 2, 2, 2, 2]}
    dims, kernels, strides = (raw.items(name, default) for name, default in usual.items())
    if not len(dims) == len(kernels) == len(strides):
        raise ValueError(f"{raw.where}: conv_kernel and conv_stride must have {len(dims)} items, as many as conv_dim")
    return tuple(zip(dims, kernels, strides, strict=True))


def _masking(raw: Raw) -> bool:
    """Whether there is a vector for hidden frames (SpecAugment, 1904.08779)."""
    return raw.rate("mask_time_prob", 0.05) > 0 or raw.rate("mask_feature_prob") > 0


def waveform(raw: Raw, *, feature_norm: bool = True) -> WaveformConfig:
    """The front-end. Its last norm is the encoder's first one unless layers are pre-norm."""
    norm = NormConfig(eps=raw.number("layer_norm_eps", 1e-5))
    return WaveformConfig(
        dim=raw.integer("hidden_size", 768),
        convs=_convs(raw),
        conv_bias=raw.flag("conv_bias", False),
        conv_norm=raw.one_of("feat_extract_norm", ("group", "layer"), "group"),
        activation=raw.activation("feat_extract_activation", "gelu"),
        feature_norm=norm if feature_norm else None,
        feature_dropout=raw.rate("feat_proj_dropout"),
        position_kernel=raw.integer("num_conv_pos_embeddings", 128),
        position_groups=raw.integer("num_conv_pos_embedding_groups", 16),
        masking=_masking(raw),
        norm=None if raw.flag("do_stable_layer_norm", False) else norm,
        dropout=raw.rate("hidden_dropout", 0.1),
        hidden_moments=hidden_runs(raw, "time", 0.05, 2, applied=True),
        hidden_channels=hidden_runs(raw, "feature", 0.0, 0, applied=True),
    )


def stack(raw: Raw, dim: int, *, mixed: bool) -> StackConfig:
    """The encoder; `mixed` averages all its states, as labels may ask for."""
    norm, heads = NormConfig(eps=raw.number("layer_norm_eps", 1e-5)), raw.integer("num_attention_heads", 12)
    stable = raw.flag("do_stable_layer_norm", False)
    layer = LayerConfig(
        norm=norm,
        order="pre" if stable else "post",
        dropout=raw.rate("hidden_dropout", 0.1),
        attention=AttentionConfig(
            num_heads=heads, head_dim=head_dim(raw, dim, heads), dropout=raw.rate("attention_dropout", 0.1)
        ),
        feed_forward=FeedForwardConfig(
            hidden_dim=raw.integer("intermediate_size", 3072),
            activation=raw.activation("hidden_act", "gelu"),
            dropout=raw.rate("activation_dropout", 0.1),
        ),
    )
    kind = MixedStackConfig if mixed else StackConfig
    layers = (layer,) * raw.layers("num_hidden_layers", 12)
    return kind(dim=dim, layers=layers, final_norm=norm if stable else None, layer_drop=raw.rate("layerdrop", 0.1))


def head(raw: Raw, kind: HeadKind) -> HeadConfig:
    """Units per frame, labels of the mean of all frames or of each, or nothing."""
    if kind == "ctc":
        drop, blank = raw.rate("final_dropout", 0.1), raw.id("pad_token_id", 0)
        return CTCHeadConfig(num_labels=raw.integer("vocab_size", 32), dropout=drop, blank=blank or 0)
    if kind == "classification":  # the reference projects before it takes the mean: both are linear
        project = TransformConfig(dim=raw.integer("classifier_proj_size", 256))
        return ClassifierHeadConfig(num_labels=len(raw.labels()), pool="mean", transform=project)
    return TokenHeadConfig(num_labels=len(raw.labels())) if kind == "token-classification" else FeaturesHeadConfig()


def model(raw: Raw, kind: HeadKind, front: WaveformConfig) -> ModelConfig:
    """The whole tree around a front-end. Raises ValueError for adapters, which are not built."""
    raw.one_of("add_adapter", (False,), False)
    raw.one_of("adapter_attn_dim", ("null",), None)
    mixed = raw.flag("use_weighted_layer_sum", False) and kind in ("classification", "token-classification")
    return ModelConfig(
        encoder=TowerConfig(front=front, stack=stack(raw, front.dim, mixed=mixed)),
        head=head(raw, kind),
        tokens=raw.tokens(pad=0, bos=1, eos=2),
        init=InitConfig(std=raw.number("initializer_range", 0.02, low=0.0)),
    )


def config(raw: Raw, kind: HeadKind) -> ModelConfig:
    return model(raw, kind, waveform(raw))


def backbone(raw: Raw) -> list[Rule]:
    disk, ours, position = "encoder.layers.*.", "encoder.stack.layers.*.", "encoder.pos_conv_embed.conv."
    norm = "encoder.stack.norm.@" if raw.flag("do_stable_layer_norm", False) else "encoder.front.norm.@"
    return [
        Rule("masked_spec_embed", "encoder.front.masked" if _masking(raw) else (), optional=True),
        Rule("feature_extractor.conv_layers.*.conv.@", "encoder.front.convs.*.@"),
        Rule("feature_extractor.conv_layers.*.layer_norm.@", "encoder.front.norms.*.@"),
        Rule("feature_projection.layer_norm.@", "encoder.front.feature_norm.@"),
        Rule("feature_projection.projection.@", "encoder.front.proj.@"),
        Rule(f"{position}parametrizations.weight.original0", "encoder.front.position.scale"),
        Rule(f"{position}parametrizations.weight.original1", "encoder.front.position.weight"),
        Rule(f"{position}weight_g", "encoder.front.position.scale", read_only=True),  # before torch 2.0
        Rule(f"{position}weight_v", "encoder.front.position.weight", read_only=True),
        Rule(f"{position}bias", "encoder.front.position.bias"),
        Rule("encoder.layer_norm.@", norm),
        *(Rule(f"{disk}attention.{p}_proj.@", f"{ours}attn.fn.{p}.@") for p in ("q", "k", "v", "out")),
        Rule(f"{disk}layer_norm.@", f"{ours}attn.norm.@"),
        Rule(f"{disk}feed_forward.intermediate_dense.@", f"{ours}ffn.fn.up.@"),
        Rule(f"{disk}feed_forward.output_dense.@", f"{ours}ffn.fn.down.@"),
        Rule(f"{disk}final_layer_norm.@", f"{ours}ffn.norm.@"),
        # What only pretraining needs.
        *(Rule(f"{name}.**") for name in ("quantizer", "project_hid", "project_q")),
    ]


def heads(raw: Raw, kind: HeadKind) -> list[Rule]:
    labels = [Rule("classifier.@", "head.out.@"), Rule("projector.@", "head.transform.dense.@")]
    if raw.flag("use_weighted_layer_sum", False):
        labels.append(Rule("layer_weights", "encoder.stack.mix", optional=True))
    return [Rule("lm_head.@", "head.out.@")] if kind == "ctc" else labels if "classification" in kind else []


TINY: dict[str, object] = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "vocab_size": 31}
TINY |= {"conv_dim": [12, 16, 8], "conv_kernel": [5, 3, 2], "conv_stride": [3, 2, 2], "classifier_proj_size": 24}
TINY |= {"num_conv_pos_embeddings": 6, "num_conv_pos_embedding_groups": 4, "intermediate_size": 48}
# An average of states counts the last one after its norm, as when the checkpoints with such heads were trained; the
# reference asks for that in so many words.
LARGE = {"do_stable_layer_norm": True, "feat_extract_norm": "layer", "conv_bias": True, "mask_time_prob": 0.0}
LARGE |= {"num_conv_pos_embeddings": 5, "use_weighted_layer_sum": True, "tie_last_hidden_states": True}


def variants(name: str) -> dict[str, dict[str, object]]:
    """Tiny configs of the base kind and of the large one."""
    tiny = {**TINY, "model_type": name}
    return {name: tiny, f"{name} large": {**tiny, **LARGE}, f"{name} mixed": {**tiny, "use_weighted_layer_sum": True}}


FAMILY = Family(
    name="wav2vec2",
    title="wav2vec 2.0, XLS-R",
    model_types=("wav2vec2",),
    architectures={"Wav2Vec2Model": Architecture("features")}
    | {f"Wav2Vec2{name}": Architecture(kind, "wav2vec2.") for name, kind in HEADS.items()}
    | {"Wav2Vec2ForPreTraining": Architecture("features", "wav2vec2.")},
    reads=("sound", "text"),
    config=config,
    backbone=backbone,
    heads=heads,
    tiny=variants("wav2vec2"),
)
