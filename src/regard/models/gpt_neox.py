"""GPT-NeoX and Pythia (2204.06745): parallel branches, rotary positions on part of each head, q/k/v fused by head."""

from __future__ import annotations

from regard.config import (
    AttentionConfig,
    Causal,
    EmbeddingConfig,
    FeedForwardConfig,
    InitConfig,
    LayerConfig,
    ModelConfig,
    NormConfig,
    StackConfig,
    TowerConfig,
)
from regard.models.base import Family, HeadKind, Raw, Rule, SplitHeads
from regard.models.common import architectures, decoder_head, decoder_head_rules, head_dim, rope

TINY = {
    "model_type": "gpt_neox",
    **{"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 48},
    **{"vocab_size": 97, "max_position_embeddings": 64, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2},
}


def config(raw: Raw, head: HeadKind) -> ModelConfig:
    dim, vocab_size, heads = raw.integer("hidden_size"), raw.integer("vocab_size"), raw.integer("num_attention_heads")
    drop, bias = raw.rate("hidden_dropout"), raw.flag("attention_bias", True)
    # Older files have names of their own for what rotary settings are called elsewhere.
    named = raw.over({"rope_theta": raw.number("rotary_emb_base", 10000.0, low=1e-3)})
    named = named.over({"partial_rotary_factor": raw.rate("rotary_pct", 0.25)})
    norm = NormConfig(eps=raw.number("layer_norm_eps", 1e-5))
    layer = LayerConfig(
        norm=norm,
        parallel=raw.flag("use_parallel_residual", True),
        dropout=drop,
        attention=AttentionConfig(
            num_heads=heads,
            head_dim=head_dim(raw, dim, heads),
            bias=(bias,) * 4,
            rope=rope(named, head_dim(raw, dim, heads)),
            dropout=raw.rate("attention_dropout"),
        ),
        feed_forward=FeedForwardConfig(
            hidden_dim=raw.integer("intermediate_size"), activation=raw.activation("hidden_act", "gelu")
        ),
    )
    front = EmbeddingConfig(vocab_size=vocab_size, dim=dim, dropout=drop)
    stack = StackConfig(dim=dim, layers=(layer,) * raw.layers("num_hidden_layers"), mask=Causal(), final_norm=norm)
    tied = head == "causal-lm" and raw.flag("tie_word_embeddings", False)
    return ModelConfig(
        decoder=TowerConfig(front=front, stack=stack),
        head=decoder_head(raw, head, vocab_size, dropout=raw.rate("classifier_dropout", 0.1)),
        tied=(("head.out.weight", "decoder.front.token.weight"),) if tied else (),
        tokens=raw.over({"bos_token_id": 0, "eos_token_id": 2}).tokens(),
        init=InitConfig(std=raw.number("initializer_range", 0.02)),
        max_length=raw.integer("max_position_embeddings", 2048),
    )


def backbone(raw: Raw) -> list[Rule]:
    disk, ours = "layers.*.", "decoder.stack.layers.*."
    qkv = tuple(f"{ours}attn.fn.{p}.@" for p in "qkv")
    return [
        Rule("embed_in.weight", "decoder.front.token.weight"),
        Rule(f"{disk}attention.query_key_value.@", qkv, (SplitHeads(raw.integer("num_attention_heads")),)),
        Rule(f"{disk}attention.dense.@", f"{ours}attn.fn.out.@"),
        Rule(f"{disk}mlp.dense_h_to_4h.@", f"{ours}ffn.fn.up.@"),
        Rule(f"{disk}mlp.dense_4h_to_h.@", f"{ours}ffn.fn.down.@"),
        Rule(f"{disk}input_layernorm.@", f"{ours}attn.norm.@"),
        Rule(f"{disk}post_attention_layernorm.@", f"{ours}ffn.norm.@"),
        Rule("final_layer_norm.@", "decoder.stack.norm.@"),
        Rule(f"{disk}attention.@"),  # the causal mask, kept as a buffer called bias by old files
        Rule(f"{disk}attention.masked_bias"),
        Rule(f"{disk}attention.rotary_emb.inv_freq"),
    ]


def heads(raw: Raw, kind: HeadKind) -> list[Rule]:
    if kind == "causal-lm":
        return [
            Rule("embed_out.weight", "head.out.weight"),
            Rule("lm_head.weight", "head.out.weight", read_only=True),
        ]
    return decoder_head_rules(kind, tokens="classifier")


FAMILY = Family(
    name="gpt_neox",
    title="GPT-NeoX, Pythia",
    model_types=("gpt_neox",),
    architectures=architectures(
        "GPTNeoX",
        "gpt_neox.",
        *("ForCausalLM", "Model", "ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering"),
    ),
    config=config,
    backbone=backbone,
    heads=heads,
    tiny={
        "gpt_neox": TINY,
        "gpt_neox serial": {
            **TINY,
            "use_parallel_residual": False,
            "attention_bias": False,
            "tie_word_embeddings": True,
            "rope_parameters": {"rope_type": "default", "rope_theta": 500.0, "partial_rotary_factor": 0.5},
        },
    },
)
