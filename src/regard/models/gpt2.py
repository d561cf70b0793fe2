"""GPT-2: pre-norm decoder, learned positions, tanh-approximated GELU, fused q/k/v stored transposed (Conv1D)."""

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
from regard.models.base import Family, HeadKind, Raw, Rule, Split, Transpose
from regard.models.common import architectures, decoder_head, decoder_head_rules, head_dim


def config(raw: Raw, head: HeadKind) -> ModelConfig:
    dim, vocab_size, length = raw.integer("n_embd"), raw.integer("vocab_size"), raw.integer("n_positions", 1024)
    heads, drop = raw.integer("n_head"), raw.rate("resid_pdrop", 0.1)
    norm = NormConfig(eps=raw.number("layer_norm_epsilon", 1e-5))
    raw.one_of("scale_attn_by_inverse_layer_idx", (False,), False)
    layer = LayerConfig(
        norm=norm,
        dropout=drop,
        attention=AttentionConfig(
            num_heads=heads,
            head_dim=head_dim(raw, dim, heads),
            scale=None if raw.flag("scale_attn_weights", True) else 1.0,
            dropout=raw.rate("attn_pdrop", 0.1),
        ),
        feed_forward=FeedForwardConfig(
            hidden_dim=raw.integer("n_inner", 4 * dim), activation=raw.activation("activation_function", "gelu_new")
        ),
    )
    front = EmbeddingConfig(
        vocab_size=vocab_size, dim=dim, positions=LearnedPositions(size=length), dropout=raw.rate("embd_pdrop", 0.1)
    )
    stack = StackConfig(dim=dim, layers=(layer,) * raw.layers("n_layer"), mask=Causal(), final_norm=norm)
    labels = raw.rate("classifier_dropout", raw.rate("hidden_dropout", 0.1))
    tied = head == "causal-lm" and raw.flag("tie_word_embeddings", True)
    return ModelConfig(
        decoder=TowerConfig(front=front, stack=stack),
        head=decoder_head(raw, head, vocab_size, dropout=labels),
        tied=(("head.out.weight", "decoder.front.token.weight"),) if tied else (),
        tokens=raw.tokens(bos=50256, eos=50256),
        init=InitConfig(std=raw.number("initializer_range", 0.02), residual=True),
        max_length=length,
    )


def backbone(raw: Raw) -> list[Rule]:
    disk, ours = "h.*.", "decoder.stack.layers.*."
    return [
        Rule("wte.weight", "decoder.front.token.weight"),
        Rule("wpe.weight", "decoder.front.position.weight"),
        Rule(
            f"{disk}attn.c_attn.@",
            (f"{ours}attn.fn.q.@", f"{ours}attn.fn.k.@", f"{ours}attn.fn.v.@"),
            (Transpose(), Split(3)),
        ),
        Rule(f"{disk}attn.c_proj.@", f"{ours}attn.fn.out.@", (Transpose(),)),
        Rule(f"{disk}mlp.c_fc.@", f"{ours}ffn.fn.up.@", (Transpose(),)),
        Rule(f"{disk}mlp.c_proj.@", f"{ours}ffn.fn.down.@", (Transpose(),)),
        Rule(f"{disk}ln_1.@", f"{ours}attn.norm.@"),
        Rule(f"{disk}ln_2.@", f"{ours}ffn.norm.@"),
        Rule("ln_f.@", "decoder.stack.norm.@"),
        Rule(f"{disk}attn.@"),  # the causal mask, kept as a buffer called bias by old files
        Rule(f"{disk}attn.masked_bias"),
    ]


def heads(raw: Raw, kind: HeadKind) -> list[Rule]:
    return decoder_head_rules(kind, tokens="classifier")


FAMILY = Family(
    name="gpt2",
    title="GPT-2",
    model_types=("gpt2",),
    architectures=architectures(
        "GPT2",
        "transformer.",
        *("LMHeadModel", "Model", "ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering"),
    ),
    config=config,
    backbone=backbone,
    heads=heads,
    tiny={
        "gpt2": {
            "model_type": "gpt2",
            "n_embd": 32,
            "n_layer": 3,
            "n_head": 4,
            "vocab_size": 97,
            "n_positions": 40,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "pad_token_id": 0,
        }
    },
)
