"""RoBERTa (1907.11692), XLM-R (1911.02116), CamemBERT (1911.03894): BERT trained longer, other words and other heads.

Positions start after the padding id, as in fairseq, so the first pad + 1 rows of their table are for no token.
"""

from __future__ import annotations

from regard.config import ModelConfig, StackConfig, TransformConfig
from regard.models import bert
from regard.models.base import Architecture, Family, HeadKind, Raw, Rule
from regard.models.common import architectures, encoder, encoder_head_rules


def config(raw: Raw, head: HeadKind) -> ModelConfig:
    layer, dim = bert.layer(raw), raw.integer("hidden_size")
    drop = raw.rate("classifier_dropout", layer.dropout)
    pooler = TransformConfig(dim=dim, activation="tanh")
    return encoder(
        raw,
        head,
        bert.embedding(raw, offset=raw.integer("pad_token_id", 1, low=0) + 1),
        StackConfig(dim=dim, layers=(layer,) * raw.layers("num_hidden_layers")),
        words=TransformConfig(dim=dim, activation="gelu", norm=layer.norm),
        labels=pooler.replace(dropout=drop),  # a dense of their own, that begins with dropout
        pooler=pooler,
        dropout=drop,
        tokens=raw.tokens(pad=1, bos=0, eos=2),
    )


def heads(raw: Raw, kind: HeadKind) -> list[Rule]:
    rules = encoder_head_rules(
        raw,
        kind,
        dense="lm_head.dense",
        norm="lm_head.layer_norm",
        decoder="lm_head.decoder",
        bias="lm_head.bias",
        pooler="pooler.dense",
    )
    old = [Rule("lm_head.weight", "head.out.weight", read_only=True)] if kind == "masked-lm" else []
    return rules + old


def _architectures(name: str) -> dict[str, Architecture]:
    same = {f"{name}ForCausalLM": Architecture("masked-lm", "roberta.")}  # without is_decoder
    return architectures(name, "roberta.", "Model", "ForMaskedLM", *bert.TASKS) | same


TINY = {**bert.TINY, "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2, "type_vocab_size": 1}
FAMILY = Family(
    name="roberta",
    title="RoBERTa, XLM-R, CamemBERT",
    model_types=("roberta", "xlm-roberta", "camembert"),
    architectures=_architectures("Roberta") | _architectures("XLMRoberta") | _architectures("Camembert"),
    config=config,
    backbone=bert.backbone,
    heads=heads,
    tiny={
        "roberta": {**TINY, "model_type": "roberta", "layer_norm_eps": 1e-5},
        "roberta padded by 3": {**TINY, "model_type": "roberta", "pad_token_id": 3, "hidden_act": "relu"},
        "xlm-roberta": {**TINY, "model_type": "xlm-roberta"},
        "camembert": {**TINY, "model_type": "camembert"},
    },
)
