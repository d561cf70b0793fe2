"""The kinds of tokenizer that checkpoints name, as data.

A kind says which model reads the vocabulary, how text is prepared before it and joined after it (`tokenizer_parts`),
which special tokens it has and where they go. The facts are those of the published tokenizers of each family.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from . import tokenizer_parts as parts

PLAIN = ("input_ids", "attention_mask")
TYPED = ("input_ids", "token_type_ids", "attention_mask")


@dataclass(frozen=True, kw_only=True)
class Post:
    """Where special tokens go, as "cls $A sep $B:1 sep:1": token names or $A/$B, each with :type when the type is
    not 0.

    With `trim` set, offsets leave out surrounding whitespace and all types are 0 (the form that RoBERTa introduced).
    """

    single: str
    pair: str
    trim: Callable[[parts.Settings], tuple[bool, bool]] | None = None  # (trim_offsets, add_prefix_space)


@dataclass(frozen=True, kw_only=True)
class Kind:
    """One kind of tokenizer; see the module's text. `post` None: what tokenizer.json says, else bos/eos as
    configured."""

    model: Literal["WordPiece", "BPE", "Unigram"]
    tokens: Mapping[str, str] = field(default_factory=dict)
    left_tokens: tuple[str, ...] = ()  # names of tokens that swallow the space before them
    inputs: tuple[str, ...] = PLAIN
    padding_side: Literal["left", "right"] = "right"
    options: Mapping[str, Any] = field(default_factory=dict)
    unk: int | str | None = None  # Unigram: the id of the unknown token, or "token" to look it up
    normalizer: parts.Part = parts.nothing
    words: parts.Part = parts.nothing
    decoder: parts.Part = parts.nothing
    pieces: Callable[[parts.Pieces, parts.Settings], parts.Pieces] = parts.as_is
    extra: Callable[[parts.Extra | None, parts.Settings], parts.Extra] = parts.given
    post: Post | None = None
    stored_post: bool = True  # what tokenizer.json stores is used, when `post` is None
    languages: tuple[str, ...] = ()
    default_language: str | None = None
    late_languages: bool = False  # language codes are special, but only those in the vocabulary are split from text
    strip_suffix: str = ""  # replaced by a space in decoded text
    erase: str = ""  # a regular expression removed from decoded text
    prompt: tuple[str, str] | None = None  # ids from the first of these up to the second are context, not text


_BERT_POST = Post(single="cls $A sep", pair="cls $A sep $B:1 sep:1")


def _roberta_trim(settings: parts.Settings) -> tuple[bool, bool]:
    return bool(settings.get("trim_offsets", True)), parts.prefix_space(settings, False)


_ROBERTA_POST = Post(single="cls $A sep", pair="cls $A sep sep $B sep", trim=_roberta_trim)
_BOS_EOS_POST = Post(single="bos $A eos", pair="bos $A eos eos $B eos")
_BRACKETS = {
    "cls_token": "[CLS]",
    "mask_token": "[MASK]",
    "pad_token": "[PAD]",
    "sep_token": "[SEP]",
    "unk_token": "[UNK]",
}
_ENDS = {"bos_token": "[CLS]", "eos_token": "[SEP]"}
_ANGLES = {
    "bos_token": "<s>",
    "eos_token": "</s>",
    "sep_token": "</s>",
    "cls_token": "<s>",
    "unk_token": "<unk>",
    "pad_token": "<pad>",
    "mask_token": "<mask>",
}
_BYTE_BPE = {"continuing_subword_prefix": "", "end_of_word_suffix": "", "fuse_unk": False}
_SUFFIX_BPE = {"continuing_subword_prefix": "", "end_of_word_suffix": "</w>", "fuse_unk": False}
_END_OF_TEXT = {"unk_token": "<|endoftext|>", "bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>"}
_BERT: dict[str, Any] = dict(
    model="WordPiece",
    tokens=_BRACKETS,
    inputs=TYPED,
    normalizer=parts.bert_normalizer,
    words=parts.bert_words,
    decoder=parts.wordpiece_decoder,
    post=_BERT_POST,
)
_BYTES: dict[str, Any] = dict(model="BPE", options=_BYTE_BPE, words=parts.byte_level, decoder=parts.byte_decoder)
_SPACED: dict[str, Any] = dict(model="Unigram", words=parts.whitespace_metaspace, decoder=parts.optional_metaspace)
_MARKED: dict[str, Any] = dict(model="Unigram", words=parts.metaspace, decoder=parts.metaspace)

KINDS: dict[str, Kind] = {
    "BertTokenizer": Kind(**_BERT),
    "DistilBertTokenizer": Kind(**{**_BERT, "inputs": PLAIN}),
    "MPNetTokenizer": Kind(
        **{
            **_BERT,
            "tokens": {**_ANGLES, "unk_token": "[UNK]"},
            "inputs": PLAIN,
            "left_tokens": ("mask_token",),
            "post": Post(single="cls $A sep", pair="cls $A sep sep $B sep", trim=lambda settings: (True, False)),
        }
    ),
    "RobertaTokenizer": Kind(**_BYTES, tokens=_ANGLES, post=_ROBERTA_POST),
    "GPT2Tokenizer": Kind(**_BYTES, tokens=_END_OF_TEXT),
    "WhisperTokenizer": Kind(
        **_BYTES, tokens=_END_OF_TEXT, post=Post(single="prompt $A eos", pair="prompt $A $B:1 eos:1")
    ),
    "GPTNeoXTokenizer": Kind(
        **_BYTES, normalizer=parts.nfc, tokens={**_END_OF_TEXT, "pad_token": "<|padding|>"}, stored_post=False
    ),
    "Qwen2Tokenizer": Kind(
        **{**_BYTES, "words": parts.qwen_words},
        normalizer=parts.nfc,
        tokens={"unk_token": "<|endoftext|>", "eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>"},
    ),
    "DebertaTokenizer": Kind(
        **_BYTES,
        tokens={**_BRACKETS, **_ENDS},
        inputs=("input_ids", "attention_mask", "token_type_ids"),
        post=Post(single="cls $A sep", pair="cls $A sep sep $B sep"),
    ),
    "CLIPTokenizer": Kind(
        model="BPE",
        tokens={**_END_OF_TEXT, "bos_token": "<|startoftext|>", "pad_token": "<|endoftext|>"},
        options=_SUFFIX_BPE | {"unk_token": "unk_token"},
        normalizer=parts.clip_normalizer,
        words=parts.clip_words,
        decoder=parts.byte_decoder,
        post=Post(single="bos $A eos", pair="bos $A eos eos $B eos", trim=lambda settings: (False, False)),
        strip_suffix="</w>",
    ),
    "OpenAIGPTTokenizer": Kind(
        model="BPE",
        tokens={"unk_token": "<unk>"},
        options=_SUFFIX_BPE | {"unk_token": "unk_token"},
        normalizer=parts.gpt1_normalizer,
        words=parts.bert_words,
        decoder=parts.suffix_decoder,
    ),
    "LlamaTokenizer": Kind(
        model="BPE",
        tokens={"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"},
        padding_side="left",
        options={"fuse_unk": True, "byte_fallback": True},
        words=parts.llama_words,
        decoder=parts.llama_decoder,
    ),
    "GemmaTokenizer": Kind(
        model="BPE",
        tokens={
            "unk_token": "<unk>",
            "bos_token": "<bos>",
            "eos_token": "<eos>",
            "pad_token": "<pad>",
            "mask_token": "<mask>",
        },
        padding_side="left",
        options={"fuse_unk": True, "byte_fallback": True, "unk_token": "unk_token"},
        normalizer=parts.gemma_normalizer,
        words=parts.gemma_words,
        decoder=parts.fallback_decoder,
    ),
    "NllbTokenizer": Kind(
        model="BPE",
        tokens=_ANGLES,
        left_tokens=("mask_token",),
        options={"fuse_unk": True, "unk_token": "unk_token"},
        normalizer=parts.nllb_normalizer,
        words=parts.metaspace,
        decoder=parts.metaspace,
        pieces=parts.nllb_pieces,
        post=Post(single="lang $A eos", pair="lang $A $B eos"),
        default_language="eng_Latn",
    ),
    "XLMRobertaTokenizer": Kind(
        **_SPACED, tokens=_ANGLES, unk=3, normalizer=parts.precompiled, pieces=parts.fairseq(()), post=_BOS_EOS_POST
    ),
    "CamembertTokenizer": Kind(
        **_SPACED,
        tokens=_ANGLES,
        left_tokens=("mask_token",),
        unk="token",
        normalizer=parts.precompiled,
        pieces=parts.camembert_pieces,
        extra=parts.camembert_extra,
        post=_BOS_EOS_POST,
    ),
    "AlbertTokenizer": Kind(
        **_SPACED,
        tokens={**_BRACKETS, **_ENDS, "pad_token": "<pad>", "unk_token": "<unk>"},
        unk=1,
        normalizer=parts.albert_normalizer,
        post=_BERT_POST,
    ),
    "T5Tokenizer": Kind(
        model="Unigram",
        tokens={"eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"},
        unk=2,
        normalizer=parts.precompiled,
        words=parts.spaced_metaspace,
        decoder=parts.metaspace,
        pieces=parts.t5_pieces,
        extra=parts.t5_extra,
        post=Post(single="$A eos", pair="$A eos $B eos"),
    ),
    "MBartTokenizer": Kind(
        **{**_MARKED, "words": parts.spaced_metaspace},
        tokens=_ANGLES,
        left_tokens=("mask_token",),
        unk=3,
        pieces=parts.fairseq(parts.MBART_LANGUAGES),
        extra=parts.mbart_extra,
        post=Post(single="$A eos lang", pair="$A $B eos lang"),
        languages=parts.MBART_LANGUAGES,
        default_language="en_XX",
    ),
    "MBart50Tokenizer": Kind(
        **_MARKED,
        tokens={name: token for name, token in _ANGLES.items() if name != "bos_token"},
        left_tokens=("mask_token",),
        unk=3,
        normalizer=parts.one_space_normalizer,
        pieces=parts.fairseq(parts.MBART50_LANGUAGES),
        extra=parts.mbart50_extra,
        post=Post(single="lang $A eos", pair="lang $A $B eos"),
        languages=parts.MBART50_LANGUAGES,
        default_language="en_XX",
        late_languages=True,
    ),
    "PegasusTokenizer": Kind(
        **_MARKED,
        tokens={"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>", "mask_token": "<mask_2>"},
        unk="token",
        normalizer=parts.pegasus_normalizer,
        pieces=parts.pegasus_pieces,
        extra=parts.pegasus_extra,
        post=Post(single="$A eos", pair="$A $B eos"),
    ),
    "XGLMTokenizer": Kind(
        **{**_MARKED, "words": parts.optional_metaspace, "decoder": parts.optional_metaspace},
        tokens={name: token for name, token in _ANGLES.items() if name != "mask_token"},
        unk=3,
        normalizer=parts.one_space_normalizer,
        pieces=parts.xglm_pieces,
        extra=parts.xglm_extra,
        post=Post(single="eos $A", pair="eos $A eos eos $B"),
    ),
    "DebertaV2Tokenizer": Kind(
        model="Unigram",
        tokens={**_BRACKETS, **_ENDS},
        inputs=("input_ids", "attention_mask", "token_type_ids"),
        unk=1,
        normalizer=parts.deberta_normalizer,
        words=parts.deberta_words,
        decoder=parts.deberta_decoder,
        post=_BERT_POST,
    ),
}
for _name in ["Electra", "LayoutLM", "MobileBert", "SqueezeBert", "Lxmert", "ConvBert"]:
    KINDS[f"{_name}Tokenizer"] = KINDS["BertTokenizer"]
for _name in ["Bart", "Longformer", "LED", "Mvp"]:
    KINDS[f"{_name}Tokenizer"] = KINDS["RobertaTokenizer"]
KINDS["MT5Tokenizer"] = KINDS["T5Tokenizer"]

MARIAN = "MarianTokenizer"
MARIAN_KIND = Kind(model="Unigram")
GENERIC_KIND = Kind(model="BPE")
GENERIC = "PreTrainedTokenizerFast"  # tokenizer.json, or a bare SentencePiece model, exactly as it is

_MODEL_TYPES = {
    "BertTokenizer": "align bert bros chinese_clip convbert distilbert electra ernie flava git grounding-dino layoutlm "
    "megatron-bert mm-grounding-dino mobilebert nezha nomic_bert qdqbert squeezebert tvp vilt visual_bert blip lxmert",
    "RobertaTokenizer": "bart bridgetower clap data2vec-text ibert lilt longformer mega mra roberta "
    "roberta-prelayernorm led mvp",
    "GPT2Tokenizer": "blip-2 codegen dbrx gpt2 gpt_neo gptj instructblip opt phi starcoder2",
    "GPTNeoXTokenizer": "falcon_mamba gpt_neox mamba mamba2 mpt olmo olmoe rwkv xlstm",
    "CLIPTokenizer": "aimv2 clip clipseg groupvit omdet-turbo oneformer owlv2 owlvit sam3 xclip",
    "GemmaTokenizer": "gemma gemma2 gemma3 gemma3_text gemma3n gemma3n_text recurrent_gemma shieldgemma2 t5gemma",
    "Qwen2Tokenizer": "audioflamingo3 colqwen2 internvl ovis2 qwen2 qwen2_5_vl qwen2_audio qwen2_moe qwen2_vl "
    "qwen3 qwen3_moe "
    "qwen3_next qwen3_vl",
    "T5Tokenizer": "mt5 musicgen musicgen_melody switch_transformers t5",
    "XLMRobertaTokenizer": "gte metaclip_2 trocr xlm-roberta xmod",
    "AlbertTokenizer": "albert yoso",
    "MPNetTokenizer": "mpnet",
    "OpenAIGPTTokenizer": "openai-gpt",
    "LlamaTokenizer": "idefics idefics2",
    "DebertaTokenizer": "deberta",
    "DebertaV2Tokenizer": "deberta-v2",
    "MBartTokenizer": "mbart",
    "MBart50Tokenizer": "mbart50",
    "NllbTokenizer": "nllb nllb-moe",
    "CamembertTokenizer": "camembert",
    "PegasusTokenizer": "pegasus",
    "XGLMTokenizer": "xglm",
    "WhisperTokenizer": "whisper",
    MARIAN: "marian",
    GENERIC: "beam bigbird_pegasus flex_olmo glm glm4 gpt_bigcode granite granitemoe ministral mistral mixtral "
    "nystromformer "
    "olmo2 olmo3 pegasus_x persimmon pixtral stablelm umt5 voxtral xlm-roberta-xl modernbert modernbert-decoder "
    "phi3 phimoe "
    "llava llava_next nemotron siglip2 vipllava minimax_m2 molmo jamba",
}
MODEL_TYPES: dict[str, str] = {kind: name for name, kinds in _MODEL_TYPES.items() for kind in kinds.split()}
# Published folders of these model types name a class that is not the one their files need.
MISNAMED = frozenset(
    [
        "qwen2",
        "modernbert",
        "modernbert-decoder",
        "phi3",
        "phimoe",
        "llava",
        "llava_next",
        "nemotron",
        "siglip2",
        "vipllava",
        "molmo",
        "jamba",
    ]
)


def kind_of(name: str) -> Kind:
    """The kind by a name that `choose_kind` gives."""
    return MARIAN_KIND if name == MARIAN else KINDS.get(name, GENERIC_KIND)


def choose_kind(class_name: str | None, model_type: str | None, *, byte_level_json: bool) -> str:
    """The name in KINDS (or MARIAN, GENERIC) for a folder's tokenizer class and model type, either of which may be
    missing.

    `byte_level_json`: tokenizer.json is byte-level, which rules out the Llama kind even when a folder names it.
    """
    named = class_name.removesuffix("Fast") if class_name else None
    usual = MODEL_TYPES.get(model_type or "")
    if named == "LlamaTokenizer" and byte_level_json and model_type not in MISNAMED:
        return GENERIC
    if named is None or (usual is not None and named != usual and (usual == GENERIC or model_type in MISNAMED)):
        named = usual
    return named if named in KINDS or named == MARIAN else GENERIC
