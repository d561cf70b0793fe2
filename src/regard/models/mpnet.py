"""MPNet (2004.09297): RoBERTa without types of segments, with a bias by bucket of distance that all layers share."""

from __future__ import annotations

from regard.config import ModelConfig, RelativeBiasConfig, StackConfig, TransformConfig
from regard.models import bert, roberta
from regard.models.base import Family, HeadKind, Raw, Rule
from regard.models.common import architectures, encoder

OFFSET = 2  # positions start after padding, which is 1 whatever the file says


def config(raw: Raw, head: HeadKind) -> ModelConfig:
    layer, dim = bert.layer(raw), raw.integer("hidden_size")
    assert layer.attention is not None
    bias = RelativeBiasConfig(
        num_heads=layer.attention.num_heads,
        num_buckets=raw.one_of("relative_attention_num_buckets", (32,), 32),
        max_distance=128,
        bidirectional=True,
    )
    pooler = TransformConfig(dim=dim, activation="tanh")
    return encoder(
        raw,
        head,
        bert.embedding(raw, offset=OFFSET).replace(num_types=0),
        StackConfig(dim=dim, layers=(layer,) * raw.layers("num_hidden_layers"), bias=bias),
        words=TransformConfig(dim=dim, activation="gelu", norm=layer.norm),
        labels=pooler.replace(dropout=layer.dropout),
        pooler=pooler,
        dropout=layer.dropout,
        tokens=raw.tokens(pad=1, bos=0, eos=2),
    )


def backbone(raw: Raw) -> list[Rule]:
    return [
        *bert.embedding_rules(),
        *bert.layer_rules("attn.q", "attn.k", "attn.v", "attn.o", "LayerNorm"),
        Rule("encoder.relative_attention_bias.weight", "encoder.stack.bias.table.weight"),
    ]


FAMILY = Family(
    name="mpnet",
    title="MPNet",
    model_types=("mpnet",),
    architectures=architectures("MPNet", "mpnet.", "Model", "ForMaskedLM", *bert.TASKS),
    config=config,
    backbone=backbone,
    heads=roberta.heads,
    tiny={"mpnet": {**bert.TINY, "model_type": "mpnet", "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2}},
)
