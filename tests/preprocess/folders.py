"""Tokenizer folders made for the tests: small vocabularies trained on real text, in each form found on disk."""

from __future__ import annotations

import argparse
import calendar
import io
import json
import textwrap
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

LINES = [
    "The quick brown fox jumps over the lazy dog, doesn't it?",
    "Übergrößen: Füße, Straße, Mädchen und Äpfel — schön, nicht wahr?",
    "Съешь же ещё этих мягких французских булок, да выпей чаю.",
    "الطقس جميل اليوم في المدينة القديمة.",
    "היום מזג האוויר נאה מאוד בעיר.",
    "आज मौसम बहुत अच्छा है, चलो बाहर चलते हैं।",
    "วันนี้อากาศดีมากเราไปเดินเล่นกันเถอะ",
    "今天天气很好，我们去公园散步吧。北京 2024年",
    "今日は天気がいいので、公園を散歩しましょう。カタカナ",
    "오늘은 날씨가 좋으니 공원에 산책하러 갑시다.",
    "def main(argv: list[str]) -> int:\n\treturn len(argv) + 1  # count",
    "ﬁnancial ½ ① Ａｄｖａｎｃｅｄ ㍿ naïve café Ωmega",
]

CORPUS = [
    *LINES,
    "Hello, world!",
    "",
    " ",
    "   ",
    "  leading and trailing  ",
    "tabs\tand\nnew\r\nlines\n\n\nthree",
    "a\u00a0b\u2003c\u3000d\u200be",
    "control \x00 \x07 \x1b[0m \x7f end",
    "emoji 👍 👩‍👩‍👧‍👦 🇩🇪🇫🇷 ❤️ 👋🏽 end",
    "cafe\u0301 e\u0301\u0302 n\u0303 \u1e9b\u0323 a\u030a",
    "x" * 150,
    "don't can't I'm you've they're it's John's 'quoted'",
    "1234567890 3.14159 1,000,000 0xFF 10:30 2024-01-31",
    "for i in range(10):\n    if x[i] >= 3 and y != 'a':\n        print(f\"{i:>3}\")",
    "<s> in </s> the <unk> text <pad> <mask> here",
    "[CLS] in [SEP] the [UNK] text [PAD] [MASK] here",
    "<|endoftext|>between<|endoftext|> <|startoftext|>",
    "▁ already ▁marked▁",
    "<0x41> <0xE2> byte names",
    "http://example.org/a?b=c&d=%20#e, me@example.org",
    "UPPER lower MiXeD ŁÓDŹ ĐĆ ß ẞ İ ı",
    "\ufeffbom and \ufffd replacement \ufdd0",
    "𝒜𝓫𝓬 𐍈 \U0010fffd",
    "word " * 40,
    ">>fra<< Hello there",
    "en_XX de_DE Hello",
    "`` quotes '' and `more`",
    "a b  c   d    e",
]


@lru_cache
def text() -> tuple[str, ...]:
    """Training text: the standard library's own prose, and lines in a dozen languages."""
    source = "\n".join(Path(module.__file__).read_text() for module in (argparse, calendar, io, textwrap))  # type: ignore[arg-type]
    return tuple(line.strip() for line in source.splitlines() if line.strip())[:2500] + tuple(LINES) * 12


def _write(folder: Path, name: str, value: Any) -> None:
    (folder / name).write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")


def _config(folder: Path, class_name: str, **more: Any) -> None:
    _write(folder, "tokenizer_config.json", {"tokenizer_class": class_name, **more})


@lru_cache
def wordpiece(lower: bool, specials: tuple[str, ...]) -> tuple[str, ...]:
    """The vocabulary of a WordPiece model, in id order."""
    made = tokenizers.Tokenizer(models.WordPiece(unk_token="[UNK]"))
    made.normalizer = normalizers.BertNormalizer(lowercase=lower)
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(vocab_size=900, special_tokens=list(specials), show_progress=False)
    made.train_from_iterator(text(), trainer)
    vocab = made.get_vocab()
    return tuple(sorted(vocab, key=vocab.__getitem__))


@lru_cache
def bpe(specials: tuple[str, ...], suffix: str = "", lower: bool = False) -> str:
    """A byte-pair model as JSON: byte-level, or with an end-of-word suffix."""
    made = tokenizers.Tokenizer(
        models.BPE(end_of_word_suffix=suffix, unk_token=specials[0]) if suffix else models.BPE()
    )
    options: dict[str, Any] = {}
    if suffix:
        made.normalizer = normalizers.BertNormalizer(lowercase=lower)
        made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        options["end_of_word_suffix"] = suffix
    else:
        made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        options["initial_alphabet"] = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=900, special_tokens=list(specials), show_progress=False, **options)
    made.train_from_iterator(text(), trainer)
    return made.to_str()


def spm(algorithm: str, **options: Any) -> bytes:
    """A SentencePiece model; the test is skipped where the library that trains them is missing."""
    return _trained(algorithm, json.dumps(options, sort_keys=True))


@lru_cache
def _trained(algorithm: str, options: str) -> bytes:
    trainer = pytest.importorskip("sentencepiece").SentencePieceTrainer
    made = io.BytesIO()
    trainer.train(
        sentence_iterator=iter(text()),
        model_writer=made,
        model_type=algorithm,
        vocab_size=900,
        minloglevel=2,
        num_threads=1,
        character_coverage=0.98,
        hard_vocab_limit=False,
        **json.loads(options),
    )
    return made.getvalue()


def _bpe_files(folder: Path, specials: tuple[str, ...], **options: Any) -> None:
    model = json.loads(bpe(specials, **options))["model"]
    _write(folder, "vocab.json", model["vocab"])
    lines = [" ".join(pair) if isinstance(pair, list) else pair for pair in model["merges"]]
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(lines) + "\n", encoding="utf-8")


def _word_files(
    specials: tuple[str, ...], class_name: str, *, lower: bool = True, **config: Any
) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        (folder / "vocab.txt").write_text("\n".join(wordpiece(lower, specials)) + "\n", encoding="utf-8")
        _config(folder, class_name, **config)

    return make


def _byte_files(specials: tuple[str, ...], class_name: str, **config: Any) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        _bpe_files(folder, specials)
        _config(folder, class_name, **config)

    return make


def _spm_file(
    name: str, class_name: str, algorithm: str = "unigram", train: dict[str, Any] | None = None, **config: Any
) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        (folder / name).write_bytes(spm(algorithm, **(train or {})))
        _config(folder, class_name, **config)

    return make


def _minilm(folder: Path) -> None:
    """As sentence encoders are published: tokenizer.json that stores padding and truncation."""
    vocab = {token: index for index, token in enumerate(wordpiece(True, BERT))}
    made = tokenizers.Tokenizer(models.WordPiece(vocab, unk_token="[UNK]"))
    made.add_special_tokens(list(BERT))
    made.normalizer = normalizers.BertNormalizer(lowercase=True)
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.decoder = decoders.WordPiece()
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", vocab["[CLS]"]), ("[SEP]", vocab["[SEP]"])],
    )
    made.enable_padding(length=128, pad_id=vocab["[PAD]"], pad_token="[PAD]")
    made.enable_truncation(128)
    made.save(str(folder / "tokenizer.json"))
    _write(folder, "config.json", {"model_type": "bert"})
    _config(folder, "BertTokenizer", do_lower_case=True, model_max_length=128, clean_up_tokenization_spaces=True)


def _llama3(folder: Path) -> None:
    """Byte-level tokenizer.json under a class name that would not fit it, with special tokens beyond the vocabulary."""
    made = tokenizers.Tokenizer.from_str(bpe(("<unk>",)))
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens(["<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>"])
    made.add_tokens([tokenizers.AddedToken("foobar", single_word=True), tokenizers.AddedToken("Größe", lstrip=True)])
    made.post_processor = processors.TemplateProcessing(
        single="<|begin_of_text|> $A",
        pair="<|begin_of_text|> $A <|begin_of_text|>:1 $B:1",
        special_tokens=[("<|begin_of_text|>", made.token_to_id("<|begin_of_text|>"))],
    )
    made.save(str(folder / "tokenizer.json"))
    _write(folder, "config.json", {"model_type": "llama"})
    _config(
        folder,
        "LlamaTokenizerFast",
        bos_token="<|begin_of_text|>",
        eos_token="<|end_of_text|>",
        clean_up_tokenization_spaces=True,
        model_max_length=10**30,
    )


def _older_specials(folder: Path) -> None:
    """Special tokens in files of their own, as folders written before 2023 have them."""
    _bpe_files(folder, ANGLES)
    _config(folder, "RobertaTokenizer", add_prefix_space=True)
    mask = {"content": "<mask>", "lstrip": True, "rstrip": False, "normalized": False, "single_word": False}
    _write(folder, "special_tokens_map.json", {"mask_token": mask, "pad_token": "<pad>", "bos_token": "<s>"})
    size = len(json.loads((folder / "vocab.json").read_text(encoding="utf-8")))
    _write(folder, "added_tokens.json", {"newword": size, "<extra>": size + 1})


def _clip(folder: Path) -> None:
    """Byte-level pieces that also mark the end of words."""
    made = tokenizers.Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    made.normalizer = normalizers.Lowercase()
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=900,
        initial_alphabet=letters,
        end_of_word_suffix="</w>",
        show_progress=False,
        special_tokens=list(CLIP),
    )
    made.train_from_iterator(text(), trainer)
    model = json.loads(made.to_str())["model"]
    _write(folder, "vocab.json", model["vocab"])
    (folder / "merges.txt").write_text("\n".join(" ".join(pair) for pair in model["merges"]) + "\n", encoding="utf-8")
    _config(folder, "CLIPTokenizer", model_max_length=77)


def _marian(folder: Path) -> None:
    (folder / "source.spm").write_bytes(spm("unigram", normalization_rule_name="nmt_nfkc"))
    (folder / "target.spm").write_bytes(spm("unigram", normalization_rule_name="nmt_nfkc", byte_fallback=False))
    pieces = pytest.importorskip("sentencepiece").SentencePieceProcessor(model_file=str(folder / "source.spm"))
    words = [
        "</s>",
        "<unk>",
        *(pieces.id_to_piece(i) for i in range(3, pieces.get_piece_size())),
        ">>fra<<",
        "漢",
        "<pad>",
    ]
    _write(folder, "vocab.json", {word: index for index, word in enumerate(dict.fromkeys(words))})
    _write(folder, "config.json", {"model_type": "marian"})
    _config(folder, "MarianTokenizer", source_lang="en", target_lang="fr", model_max_length=512)


def _by_model_type(name: str, model_type: str) -> Callable[[Path], None]:
    """Another folder without tokenizer_config.json: only config.json tells the kind."""

    def make(folder: Path) -> None:
        FOLDERS[name](folder)
        (folder / "tokenizer_config.json").unlink()
        _write(folder, "config.json", {"model_type": model_type})

    return make


def _resaved(name: str) -> Callable[[Path], None]:
    """Another folder, opened and saved by the reference library: tokenizer.json as it writes them."""

    def make(folder: Path) -> None:
        import transformers

        source = folder.parent / f"{folder.name}-source"
        source.mkdir()
        FOLDERS[name](source)
        class_name = json.loads((source / "tokenizer_config.json").read_text(encoding="utf-8"))["tokenizer_class"]
        getattr(transformers, class_name).from_pretrained(source).save_pretrained(folder)

    return make


BERT = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
CLIP = ("<|startoftext|>", "<|endoftext|>")
ANGLES = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")
_T5: dict[str, Any] = dict(pad_id=0, eos_id=1, unk_id=2, bos_id=-1)
_BRACKETS: dict[str, Any] = dict(
    pad_id=0, unk_id=1, bos_id=2, eos_id=3, bos_piece="[CLS]", eos_piece="[SEP]", user_defined_symbols=["[MASK]"]
)
_BYTES: dict[str, Any] = dict(byte_fallback=True, normalization_rule_name="identity", remove_extra_whitespaces=False)

FOLDERS: dict[str, Callable[[Path], None]] = {
    "bert": _word_files(BERT, "BertTokenizer", model_max_length=64),
    "bert-cased": _word_files(BERT, "BertTokenizer", lower=False, do_lower_case=False, strip_accents=False),
    "bert-json": _minilm,
    "distilbert": _word_files(BERT, "DistilBertTokenizer", tokenize_chinese_chars=False),
    "electra": _word_files(BERT, "ElectraTokenizer"),
    "mpnet": _word_files((*ANGLES, "[UNK]"), "MPNetTokenizer"),
    "roberta": _byte_files(ANGLES, "RobertaTokenizer"),
    "roberta-older": _older_specials,
    "bart": _byte_files(ANGLES, "BartTokenizer", add_prefix_space=True, trim_offsets=False),
    "gpt2": _byte_files(("<|endoftext|>",), "GPT2Tokenizer"),
    "gpt2-bos": _byte_files(("<|endoftext|>",), "GPT2Tokenizer", add_bos_token=True, padding_side="left"),
    "gpt-neox": _byte_files(("<|endoftext|>", "<|padding|>"), "GPTNeoXTokenizer"),
    "qwen2": _byte_files(
        ("<|endoftext|>",), "Qwen2Tokenizer", additional_special_tokens=["<|im_start|>", "<|im_end|>"]
    ),
    "deberta": _byte_files(BERT, "DebertaTokenizer"),
    "clip": _clip,
    "whisper": _byte_files(
        ("<|endoftext|>", "<|startoftranscript|>", "<|en|>", "<|transcribe|>", "<|notimestamps|>", "<|startofprev|>"),
        "WhisperTokenizer",
        language="en",
        task="transcribe",
        additional_special_tokens=["<|startoftranscript|>", "<|en|>", "<|transcribe|>", "<|notimestamps|>", "<|0.00|>"],
    ),
    "openai-gpt": lambda folder: (
        _bpe_files(folder, ("<unk>",), suffix="</w>", lower=True),
        _config(folder, "OpenAIGPTTokenizer"),
    )[1],
    "llama3-json": _llama3,
    "xlm-roberta": _spm_file("sentencepiece.bpe.model", "XLMRobertaTokenizer"),
    "camembert": _spm_file("sentencepiece.bpe.model", "CamembertTokenizer"),
    "albert": _spm_file("spiece.model", "AlbertTokenizer", train=_BRACKETS),
    "albert-cased": _spm_file(
        "spiece.model", "AlbertTokenizer", train=_BRACKETS, do_lower_case=False, keep_accents=True
    ),
    "deberta-v2": _spm_file(
        "spm.model", "DebertaV2Tokenizer", train={**_BRACKETS, "pad_piece": "[PAD]", "unk_piece": "[UNK]"}
    ),
    "deberta-v2-punct": _spm_file(
        "spm.model",
        "DebertaV2Tokenizer",
        train={**_BRACKETS, "pad_piece": "[PAD]", "unk_piece": "[UNK]"},
        split_by_punct=True,
        do_lower_case=True,
    ),
    "t5": _spm_file("spiece.model", "T5Tokenizer", train=_T5, extra_ids=20),
    "mbart": _spm_file("sentencepiece.bpe.model", "MBartTokenizer", src_lang="de_DE", tgt_lang="ro_RO"),
    "mbart50": _spm_file("sentencepiece.bpe.model", "MBart50Tokenizer", src_lang="fr_XX", tgt_lang="af_ZA"),
    "pegasus": _spm_file("spiece.model", "PegasusTokenizer", train=_T5),
    "llama": _spm_file(
        "tokenizer.model", "LlamaTokenizer", "bpe", train=_BYTES, add_bos_token=True, add_eos_token=False
    ),
    "llama-legacy": _spm_file(
        "tokenizer.model", "LlamaTokenizer", "bpe", train=_BYTES, legacy=True, add_eos_token=True
    ),
    "gemma": _spm_file(
        "tokenizer.model",
        "GemmaTokenizer",
        "bpe",
        train={
            **_BYTES,
            "pad_id": 0,
            "eos_id": 1,
            "bos_id": 2,
            "unk_id": 3,
            "bos_piece": "<bos>",
            "eos_piece": "<eos>",
        },
        add_bos_token=True,
    ),
    "bare-bpe": _spm_file("tokenizer.model", "PreTrainedTokenizerFast", "bpe", train=_BYTES),
    "marian": _marian,
    "bert-by-type": _by_model_type("bert", "bert"),
    "bart-by-type": _by_model_type("bart", "bart"),
    "xlm-roberta-by-type": _by_model_type("xlm-roberta", "xlm-roberta"),
    "t5-by-type": _by_model_type("t5", "mt5"),
    "clip-json": _resaved("clip"),
    "t5-json": _resaved("t5"),
    "albert-json": _resaved("albert"),
    "mbart-json": _resaved("mbart"),
    "mbart50-json": _resaved("mbart50"),
    "pegasus-json": _resaved("pegasus"),
    "llama-json": _resaved("llama"),
    "gemma-json": _resaved("gemma"),
    "roberta-json": _resaved("roberta"),
    "gpt2-json": _resaved("gpt2"),
    "openai-gpt-json": _resaved("openai-gpt"),
    "qwen2-json": _resaved("qwen2"),
    "deberta-v2-json": _resaved("deberta-v2"),
    "xlm-roberta-json": _resaved("xlm-roberta"),
}


def chunks(values: list[int], sizes: tuple[int, ...] = (1, 3, 2)) -> Iterator[list[int]]:
    """Cut a list into pieces of changing size."""
    at = turn = 0
    while at < len(values):
        size = sizes[turn % len(sizes)]
        yield values[at : at + size]
        at, turn = at + size, turn + 1
