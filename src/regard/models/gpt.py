"""GPT (Radford et al. 2018): post-norm decoder, learned positions, fused q/k/v stored transposed, no final norm."""

from __future__ import annotations

from regard.config import (
    AttentionConfig,
    Causal,
    EmbeddingConfig,
    FeedForwardConfig,
    InitConfig,
    LayerConfig,
    LearnedPositions,
    ModelConfig,
    NormConfig,
    StackConfig,
    TowerConfig,
)
from regard.models.base import Architecture, Family, HeadKind, Raw, Rule, Split, Transpose
from regard.models.common import architectures, decoder_head, decoder_head_rules, head_dim

# What files call "gelu" has always been computed by the tanh approximation.
ACTIVATIONS = {"gelu": "gelu_new", "relu": "relu", "silu": "silu", "swish": "silu"}


def config(raw: Raw, head: HeadKind) -> ModelConfig:
    dim, vocab_size, length = raw.integer("n_embd"), raw.integer("vocab_size"), raw.integer("n_positions", 512)
    heads, drop = raw.integer("n_head"), raw.rate("resid_pdrop", 0.1)
    activation = ACTIVATIONS[raw.one_of("afn", tuple(ACTIVATIONS), "gelu")]
    layer = LayerConfig(
        norm=NormConfig(eps=raw.number("layer_norm_epsilon", 1e-5)),
        order="post",
        dropout=drop,
        attention=AttentionConfig(
            num_heads=heads, head_dim=head_dim(raw, dim, heads), dropout=raw.rate("attn_pdrop", 0.1)
        ),
        feed_forward=FeedForwardConfig(
            hidden_dim=4 * dim, activation=Raw({"afn": activation}, raw.where).activation("afn", "gelu_new")
        ),
    )
    front = EmbeddingConfig(
        vocab_size=vocab_size, dim=dim, positions=LearnedPositions(size=length), dropout=raw.rate("embd_pdrop", 0.1)
    )
    stack = StackConfig(dim=dim, layers=(layer,) * raw.layers("n_layer"), mask=Causal())
    tied = head == "causal-lm" and raw.flag("tie_word_embeddings", True)
    return ModelConfig(
        decoder=TowerConfig(front=front, stack=stack),
        head=decoder_head(raw, head, vocab_size),
        tied=(("head.out.weight", "decoder.front.token.weight"),) if tied else (),
        tokens=raw.tokens(),
        init=InitConfig(std=raw.number("initializer_range", 0.02)),
        max_length=length,
    )


def backbone(raw: Raw) -> list[Rule]:
    disk, ours = "h.*.", "decoder.stack.layers.*."
    qkv = tuple(f"{ours}attn.fn.{p}.@" for p in "qkv")
    return [
        Rule("tokens_embed.weight", "decoder.front.token.weight"),
        Rule("positions_embed.weight", "decoder.front.position.weight"),
        Rule(f"{disk}attn.c_attn.@", qkv, (Transpose(), Split(3))),
        Rule(f"{disk}attn.c_proj.@", f"{ours}attn.fn.out.@", (Transpose(),)),
        Rule(f"{disk}mlp.c_fc.@", f"{ours}ffn.fn.up.@", (Transpose(),)),
        Rule(f"{disk}mlp.c_proj.@", f"{ours}ffn.fn.down.@", (Transpose(),)),
        Rule(f"{disk}ln_1.@", f"{ours}attn.norm.@"),
        Rule(f"{disk}ln_2.@", f"{ours}ffn.norm.@"),
        Rule(f"{disk}attn.@"),  # the causal mask, kept as a buffer called bias by old files
        Rule("position_ids"),
    ]


def heads(raw: Raw, kind: HeadKind) -> list[Rule]:
    return [*decoder_head_rules(kind), Rule("multiple_choice_head.**")]


FAMILY = Family(
    name="gpt",
    title="GPT",
    model_types=("openai-gpt",),
    architectures={
        **architectures("OpenAIGPT", "transformer.", "LMHeadModel", "Model", "ForSequenceClassification"),
        "OpenAIGPTDoubleHeadsModel": Architecture("causal-lm", "transformer."),
    },
    config=config,
    backbone=backbone,
    heads=heads,
    tiny={
        variant: {
            "model_type": "openai-gpt",
            **{"n_embd": 32, "n_layer": 3, "n_head": 4, "vocab_size": 97, "n_positions": 40},
            **{"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2},
            **fields,
        }
        for variant, fields in {"gpt": {}, "gpt relu": {"afn": "relu", "tie_word_embeddings": False}}.items()
    },
)
