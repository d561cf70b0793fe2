"""The parts that kinds of tokenizer are made of, in the words of tokenizer.json.

Each function makes one part from tokenizer_config.json (`settings`) and the compiled replacement table of a
SentencePiece model
(`charsmap`, empty when there is none). The facts are those of the published tokenizers of each family.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from .sentencepiece import SPACE

Json = dict[str, Any]
Settings = Mapping[str, Any]
Part = Callable[[Settings, bytes], Json | None]  # (tokenizer_config.json, charsmap) -> one part of tokenizer.json
Pieces = list[tuple[str, float]]

QWEN_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
CLIP_PATTERN = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
MBART_LANGUAGES = tuple(
    [
        "ar_AR",
        "cs_CZ",
        "de_DE",
        "en_XX",
        "es_XX",
        "et_EE",
        "fi_FI",
        "fr_XX",
        "gu_IN",
        "hi_IN",
        "it_IT",
        "ja_XX",
        "kk_KZ",
        "ko_KR",
        "lt_LT",
        "lv_LV",
        "my_MM",
        "ne_NP",
        "nl_XX",
        "ro_RO",
        "ru_RU",
        "si_LK",
        "tr_TR",
        "vi_VN",
        "zh_CN",
    ]
)
MBART50_LANGUAGES = MBART_LANGUAGES + tuple(
    [
        "af_ZA",
        "az_AZ",
        "bn_IN",
        "fa_IR",
        "he_IL",
        "hr_HR",
        "id_ID",
        "ka_GE",
        "km_KH",
        "mk_MK",
        "ml_IN",
        "mn_MN",
        "mr_IN",
        "pl_PL",
        "ps_AF",
        "pt_XX",
        "sv_SE",
        "sw_KE",
        "ta_IN",
        "te_IN",
        "th_TH",
        "tl_XX",
        "uk_UA",
        "ur_PK",
        "xh_ZA",
        "gl_ES",
        "sl_SI",
    ]
)


def nothing(settings: Settings, charsmap: bytes) -> Json | None:
    return None


def prefix_space(settings: Settings, default: bool) -> bool:
    value = settings.get("add_prefix_space")
    return default if value is None else bool(value)


# normalizers


def _chain(*steps: Json | None) -> Json:
    return {"type": "Sequence", "normalizers": [step for step in steps if step is not None]}


def _replace(pattern: str, content: str, *, regex: bool = False) -> Json:
    return {"type": "Replace", "pattern": {"Regex" if regex else "String": pattern}, "content": content}


def precompiled(settings: Settings, charsmap: bytes) -> Json | None:
    if not charsmap:
        return None
    return {"type": "Precompiled", "precompiled_charsmap": base64.b64encode(charsmap).decode()}


_ONE_SPACE = _replace(" {2,}", " ", regex=True)


def nfc(settings: Settings, charsmap: bytes) -> Json:
    return {"type": "NFC"}


def bert_normalizer(settings: Settings, charsmap: bytes) -> Json:
    return {
        "type": "BertNormalizer",
        "clean_text": True,
        "handle_chinese_chars": bool(settings.get("tokenize_chinese_chars", True)),
        "strip_accents": settings.get("strip_accents"),
        "lowercase": bool(settings.get("do_lower_case", True)),
    }


def gpt1_normalizer(settings: Settings, charsmap: bytes) -> Json:
    return bert_normalizer({}, charsmap)


def albert_normalizer(settings: Settings, charsmap: bytes) -> Json:
    keep = bool(settings.get("keep_accents", False))
    return _chain(
        _replace("``", '"'),
        _replace("''", '"'),
        None if keep else {"type": "NFKD"},
        None if keep else {"type": "StripAccents"},
        {"type": "Lowercase"} if settings.get("do_lower_case", True) else None,
        precompiled(settings, charsmap),
    )


def deberta_normalizer(settings: Settings, charsmap: bytes) -> Json:
    return _chain(
        {"type": "Lowercase"} if settings.get("do_lower_case", False) else None,
        _replace(r"\s{2,}|[\n\r\t]", " ", regex=True),
        {"type": "NFC"},
        {"type": "Strip", "strip_left": False, "strip_right": True},
    )


def one_space_normalizer(settings: Settings, charsmap: bytes) -> Json:
    return _chain(precompiled(settings, charsmap), _ONE_SPACE)


def pegasus_normalizer(settings: Settings, charsmap: bytes) -> Json:
    return _chain(precompiled(settings, charsmap) or _replace(r"\n", " ", regex=True), _ONE_SPACE)


def nllb_normalizer(settings: Settings, charsmap: bytes) -> Json | None:
    return one_space_normalizer(settings, charsmap) if charsmap else None


def clip_normalizer(settings: Settings, charsmap: bytes) -> Json:
    return _chain({"type": "NFC"}, _replace(r"\s+", " ", regex=True), {"type": "Lowercase"})


def gemma_normalizer(settings: Settings, charsmap: bytes) -> Json:
    return _replace(" ", SPACE)


def bare_normalizer(settings: Settings, charsmap: bytes) -> Json:
    return _chain(precompiled(settings, charsmap), _replace(" ", SPACE))


# pre-tokenizers and decoders


def _steps(*steps: Json | None) -> Json:
    return {"type": "Sequence", "pretokenizers": [step for step in steps if step is not None]}


def _metaspace_part(scheme: str, *, split: bool = True) -> Json:
    return {"type": "Metaspace", "replacement": SPACE, "prepend_scheme": scheme, "split": split}


def _bytes_part(prefix_space: bool, *, regex: bool = True) -> Json:
    return {"type": "ByteLevel", "add_prefix_space": prefix_space, "trim_offsets": True, "use_regex": regex}


def _split_part(pattern: str, behavior: str, *, invert: bool = False) -> Json:
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": behavior, "invert": invert}


def bert_words(settings: Settings, charsmap: bytes) -> Json:
    return {"type": "BertPreTokenizer"}


def byte_level(settings: Settings, charsmap: bytes) -> Json:
    return _bytes_part(prefix_space(settings, False))


def qwen_words(settings: Settings, charsmap: bytes) -> Json:
    return _steps(_split_part(QWEN_PATTERN, "Isolated"), _bytes_part(prefix_space(settings, False), regex=False))


def clip_words(settings: Settings, charsmap: bytes) -> Json:
    return _steps(_split_part(CLIP_PATTERN, "Removed", invert=True), _bytes_part(False))


def optional_metaspace(settings: Settings, charsmap: bytes) -> Json:
    return _metaspace_part("always" if prefix_space(settings, True) else "never")


def whitespace_metaspace(settings: Settings, charsmap: bytes) -> Json:
    return _steps({"type": "WhitespaceSplit"}, optional_metaspace(settings, charsmap))


def metaspace(settings: Settings, charsmap: bytes) -> Json:
    return _metaspace_part("always")


def spaced_metaspace(settings: Settings, charsmap: bytes) -> Json:
    return _steps({"type": "WhitespaceSplit"}, _metaspace_part("always"))


def _deberta_scheme(settings: Settings) -> str:
    return "always" if prefix_space(settings, True) else "first"


def deberta_words(settings: Settings, charsmap: bytes) -> Json:
    punctuation: Json | None = (
        {"type": "Punctuation", "behavior": "Isolated"} if settings.get("split_by_punct") else None
    )
    return _steps(punctuation, _metaspace_part(_deberta_scheme(settings)))


def deberta_decoder(settings: Settings, charsmap: bytes) -> Json:
    return _metaspace_part(_deberta_scheme(settings))


def llama_words(settings: Settings, charsmap: bytes) -> Json:
    scheme = "never"
    if prefix_space(settings, True):
        scheme = "always" if settings.get("legacy", False) else "first"
    return _metaspace_part(scheme, split=False)


def gemma_words(settings: Settings, charsmap: bytes) -> Json:
    return {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": False}


def byte_decoder(settings: Settings, charsmap: bytes) -> Json:
    return _bytes_part(True)


def wordpiece_decoder(settings: Settings, charsmap: bytes) -> Json:
    return {"type": "WordPiece", "prefix": "##", "cleanup": True}


def suffix_decoder(settings: Settings, charsmap: bytes) -> Json:
    return {"type": "BPEDecoder", "suffix": "</w>"}


def fallback_decoder(settings: Settings, charsmap: bytes) -> Json:
    return {"type": "Sequence", "decoders": [_replace(SPACE, " "), {"type": "ByteFallback"}, {"type": "Fuse"}]}


def replace_decoder(settings: Settings, charsmap: bytes) -> Json:
    return {"type": "Sequence", "decoders": [_replace(SPACE, " ")]}


def llama_decoder(settings: Settings, charsmap: bytes) -> Json:
    decoder = fallback_decoder(settings, charsmap)
    if prefix_space(settings, True):
        decoder["decoders"].append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
    return decoder


# how the pieces of a SentencePiece model become the vocabulary


def as_is(pieces: Pieces, settings: Settings) -> Pieces:
    return pieces


def fairseq(languages: Sequence[str]) -> Callable[[Pieces, Settings], Pieces]:
    """fairseq numbers its own four tokens first, and puts languages and the mask last."""

    def arrange(pieces: Pieces, settings: Settings) -> Pieces:
        first = [str(settings.get(key, default)) for key, default in _FAIRSEQ_FIRST]
        last = [*languages, str(settings.get("mask_token", "<mask>"))]
        return [(token, 0.0) for token in first] + pieces[3:] + [(token, 0.0) for token in last]

    return arrange


_FAIRSEQ_FIRST = (("bos_token", "<s>"), ("pad_token", "<pad>"), ("eos_token", "</s>"), ("unk_token", "<unk>"))


def nllb_pieces(pieces: Pieces, settings: Settings) -> Pieces:
    first = [str(settings.get(key, default)) for key, default in _FAIRSEQ_FIRST]
    return [(token, 0.0) for token in first] + [piece for piece in pieces if piece[0] not in first]


def xglm_pieces(pieces: Pieces, settings: Settings) -> Pieces:
    return pieces


def camembert_pieces(pieces: Pieces, settings: Settings) -> Pieces:
    pad, unk = str(settings.get("pad_token", "<pad>")), str(settings.get("unk_token", "<unk>"))
    first = [("<s>NOTUSED", 0.0), (pad, 0.0), ("</s>NOTUSED", 0.0), (unk, 0.0), ("<unk>NOTUSED", -100.0)]
    return first + pieces[1:] + [(str(settings.get("mask_token", "<mask>")), 0.0)]


def t5_pieces(pieces: Pieces, settings: Settings) -> Pieces:
    return pieces + [(f"<extra_id_{i}>", 0.0) for i in reversed(range(_extra_ids(settings)))]


def pegasus_pieces(pieces: Pieces, settings: Settings) -> Pieces:
    # <mask_1> (whole sentences) comes before <mask_2> (tokens) in the published vocabulary.
    first = [str(settings.get("pad_token", "<pad>")), str(settings.get("eos_token", "</s>"))]
    for token in (settings.get("mask_token_sent", "<mask_1>"), settings.get("mask_token", "<mask_2>")):
        if token is not None and str(token) not in first:
            first.append(str(token))
    unused = [(f"<unk_{i}>", -100.0) for i in range(2, _small(settings, "offset", 103))]
    return [(token, 0.0) for token in first] + unused + pieces[2:]


def _small(settings: Settings, name: str, default: int) -> int:
    value = settings.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= 100_000:
        raise ValueError(f"tokenizer_config.json: {name} is {value!r}; allowed: a whole number from 0 to 100000")
    return value


def _extra_ids(settings: Settings) -> int:
    return _small(settings, "extra_ids", 100)


# extra special tokens of a kind, given those that the files name

Extra = list[Any]  # of str and tokenizers.AddedToken


def given(named: Extra | None, settings: Settings) -> Extra:
    return named or []


def t5_extra(named: Extra | None, settings: Settings) -> Extra:
    sentinels = [f"<extra_id_{i}>" for i in range(_extra_ids(settings))]
    if named is None:
        return sentinels
    return named if any("<extra_id_" in str(token) for token in named) else [*named, *sentinels]


def mbart_extra(named: Extra | None, settings: Settings) -> Extra:
    return [*MBART_LANGUAGES, *(token for token in named or [] if str(token) not in MBART_LANGUAGES)]


def mbart50_extra(named: Extra | None, settings: Settings) -> Extra:
    return [*(named or []), *MBART50_LANGUAGES]


def pegasus_extra(named: Extra | None, settings: Settings) -> Extra:
    sentence = settings.get("mask_token_sent", "<mask_1>")
    first = [] if sentence is None or (named and sentence in map(str, named)) else [str(sentence)]
    return first + [f"<unk_{i}>" for i in range(2, _small(settings, "offset", 103))]


def camembert_extra(named: Extra | None, settings: Settings) -> Extra:
    return ["<s>NOTUSED", "</s>NOTUSED", "<unk>NOTUSED"] if named is None else named


def xglm_extra(named: Extra | None, settings: Settings) -> Extra:
    words = [f"<madeupword{i}>" for i in range(7)]
    return [*(named or []), *(word for word in words if word not in map(str, named or []))]
