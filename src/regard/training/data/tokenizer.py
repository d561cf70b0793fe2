"""Training a tokenizer on texts of one's own, as a folder that this library and the reference one open."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import tokenizers
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, processors, trainers

from regard.preprocess.text import Tokenizer

MOST_TOKENS = 2_000_000


@dataclass(frozen=True)
class Use:
    """What a tokenizer is for: its special tokens by name, and what it puts around a text and a pair."""

    tokens: Mapping[str, str]
    single: str = ""
    pair: str = ""
    inputs: Sequence[str] = ("input_ids", "attention_mask")


USES: dict[str, Use] = {
    "causal": Use({"eos_token": "<|endoftext|>", "bos_token": "<|endoftext|>", "pad_token": "<|pad|>"}),
    "masked": Use(
        {
            "pad_token": "[PAD]",
            "unk_token": "[UNK]",
            "cls_token": "[CLS]",
            "sep_token": "[SEP]",
            "mask_token": "[MASK]",
        },
        single="[CLS]:0 $A:0 [SEP]:0",
        pair="[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1",
        inputs=("input_ids", "token_type_ids", "attention_mask"),
    ),
    "seq2seq": Use(
        {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"},
        single="$A:0 </s>:0",
        pair="$A:0 </s>:0 $B:0 </s>:0",
    ),
    "denoising": Use(
        {
            "bos_token": "<s>",
            "pad_token": "<pad>",
            "eos_token": "</s>",
            "unk_token": "<unk>",
            "mask_token": "<mask>",
        },
        single="<s>:0 $A:0 </s>:0",
        pair="<s>:0 $A:0 </s>:0 $B:0 </s>:0",
    ),
}
"""What texts are for -> special tokens. Ids are in this order, from 0."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """All that a kind of tokenizer needs to be trained."""

    vocab_size: int
    min_frequency: int
    special: list[AddedToken]
    unk: str | None
    show: bool
    more: Mapping[str, Any] = field(default_factory=dict)


def _bpe(plan: Plan) -> tuple[tokenizers.Tokenizer, Any]:
    """Byte-level: every text can be written, and every byte of it comes back."""
    made = tokenizers.Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    return made, trainers.BpeTrainer(
        vocab_size=plan.vocab_size,
        min_frequency=plan.min_frequency,
        special_tokens=plan.special,
        initial_alphabet=alphabet,
        show_progress=plan.show,
    )


def _wordpiece(plan: Plan) -> tuple[tokenizers.Tokenizer, Any]:
    made = tokenizers.Tokenizer(models.WordPiece(unk_token=plan.unk))  # type: ignore[call-arg]
    made.normalizer = normalizers.BertNormalizer(lowercase=False, strip_accents=False)
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.decoder = decoders.WordPiece()
    return made, trainers.WordPieceTrainer(
        vocab_size=plan.vocab_size,
        min_frequency=plan.min_frequency,
        special_tokens=plan.special,
        show_progress=plan.show,
    )


def _unigram(plan: Plan) -> tuple[tokenizers.Tokenizer, Any]:
    made = tokenizers.Tokenizer(models.Unigram())
    # As SentencePiece does: any white space is one space.
    made.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(tokenizers.Regex(r"\s+"), " ")])
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    made.decoder = decoders.Metaspace()
    return made, trainers.UnigramTrainer(
        vocab_size=plan.vocab_size, special_tokens=plan.special, unk_token=plan.unk, show_progress=plan.show
    )


def _characters(plan: Plan) -> tuple[tokenizers.Tokenizer, Any]:
    """A token for each character that occurs."""
    made = tokenizers.Tokenizer(models.WordLevel(unk_token=plan.unk))  # type: ignore[call-arg]
    made.pre_tokenizer = pre_tokenizers.Split(tokenizers.Regex(r"[\s\S]"), "isolated")
    made.decoder = decoders.Fuse()
    return made, trainers.WordLevelTrainer(
        vocab_size=plan.vocab_size,
        min_frequency=plan.min_frequency,
        special_tokens=plan.special,
        show_progress=plan.show,
    )


KINDS: dict[str, tuple[Callable[[Plan], tuple[tokenizers.Tokenizer, Any]], str]] = {
    "bpe": (_bpe, "causal"),
    "wordpiece": (_wordpiece, "masked"),
    "unigram": (_unigram, "seq2seq"),
    "characters": (_characters, "causal"),
}
"""Kind -> (how it is made, what it is for unless that is said)."""


def train_tokenizer(
    texts: Iterable[str],
    folder: str | os.PathLike[str] | None = None,
    *,
    kind: str = "bpe",
    vocab_size: int = 8000,
    use: str | None = None,
    special_tokens: Sequence[str] = (),
    lowercase: bool = False,
    min_frequency: int | None = None,
    max_length: int | None = None,
    show: bool = False,
) -> Tokenizer:
    """Learn a tokenizer of at most `vocab_size` tokens from texts; saved in `folder`, if one is given.

    `kind`: "bpe" (byte-level, as GPT-2), "wordpiece" (BERT), "unigram" (T5), "characters". `use`: "causal", "masked",
    "seq2seq" or "denoising" (seq2seq as BART), which sets the special tokens and what goes around a text;
    `special_tokens` are added to those. What is rarer than `min_frequency` is left out (2, but 1 for characters;
    unigram has none). `max_length` is the model_max_length of the folder. The vocabulary is smaller where the texts
    give no more.

    Raises ValueError where nothing can be learnt, or the vocabulary has no room for its parts.
    """
    if kind not in KINDS:
        raise ValueError(f"kind is {kind!r}; allowed: {', '.join(map(repr, KINDS))}")
    make, usual = KINDS[kind]
    use = usual if use is None else use
    if use not in USES:
        raise ValueError(f"use is {use!r}; allowed: {', '.join(map(repr, USES))}")
    named = dict(USES[use].tokens)
    if kind != "bpe":
        named.setdefault("unk_token", "<unk>")
    special = list(dict.fromkeys([*named.values(), *special_tokens]))
    least = len(special) + (256 if kind == "bpe" else 1)
    if not least < vocab_size <= MOST_TOKENS:
        raise ValueError(f"vocab_size is {vocab_size}; allowed for {kind}: {least + 1} to {MOST_TOKENS}")
    if min_frequency is None:
        min_frequency = 1 if kind == "characters" else 2
    if min_frequency < 1:
        raise ValueError(f"min_frequency is {min_frequency}; allowed: 1 and more")
    tokens = [AddedToken(token, normalized=False, special=True) for token in special]
    plan = Plan(
        vocab_size=vocab_size, min_frequency=min_frequency, special=tokens, unk=named.get("unk_token"), show=show
    )
    made, trainer = make(plan)
    if lowercase:
        lower = [normalizers.NFC(), normalizers.Lowercase()]
        made.normalizer = normalizers.Sequence([*([made.normalizer] if made.normalizer else []), *lower])
    if kind == "wordpiece":
        texts = texts if isinstance(texts, Sequence) else list(texts)
        trainer.special_tokens = [*tokens, *_inner(made, texts)]
    _train(made, trainer, texts, kind, len(special))
    made = _settled(made, special)
    _dress(made, kind, use, named)
    config: dict[str, Any] = {**named, "model_input_names": list(USES[use].inputs)}
    if special_tokens:
        config["extra_special_tokens"] = list(special_tokens)
    if max_length is not None:
        config["model_max_length"] = max_length
    return _opened(made, config, folder)


def _dress(made: tokenizers.Tokenizer, kind: str, use: str, named: Mapping[str, str]) -> None:
    """What goes around a text."""
    if USES[use].single:
        ids = [(token, made.token_to_id(token)) for token in named.values()]
        made.post_processor = processors.TemplateProcessing(
            single=USES[use].single, pair=USES[use].pair, special_tokens=ids
        )
    elif kind == "bpe":
        made.post_processor = processors.ByteLevel(trim_offsets=True)


def _inner(made: tokenizers.Tokenizer, texts: Iterable[str]) -> list[str]:
    """The ##letters that occur, in alphabetical order. Given to the trainer first, as it numbers them in an order
    that changes from run to run, by which ties between pieces would then be broken."""
    found: set[str] = set()
    normalizer, words = made.normalizer, made.pre_tokenizer
    for text in texts:
        if isinstance(text, str):
            text = normalizer.normalize_str(_whole(text)) if normalizer else _whole(text)
            for word, _ in words.pre_tokenize_str(text):
                found.update(word[1:])
    return [f"##{letter}" for letter in sorted(found)]


def _settled(made: tokenizers.Tokenizer, special: Sequence[str]) -> tokenizers.Tokenizer:
    """The same with no added tokens but the special ones; and the pieces of a unigram model, whose scores differ in
    their last digits from run to run, and pieces of one score in their order, are rounded and put in order."""
    state = json.loads(made.to_str())
    state["added_tokens"] = [token for token in state["added_tokens"] if token["content"] in special]
    if state["model"]["type"] == "Unigram":
        first, pieces = state["model"]["vocab"][: len(special)], state["model"]["vocab"][len(special) :]
        pieces = sorted(([piece, round(score, 3)] for piece, score in pieces), key=lambda pair: (-pair[1], pair[0]))
        state["model"]["vocab"] = first + pieces
    return tokenizers.Tokenizer.from_str(json.dumps(state))


def _whole(text: str) -> str:
    """Text without lone surrogates, which cannot be passed on."""
    return text.encode("utf-8", "replace").decode()


def _train(made: tokenizers.Tokenizer, trainer: Any, texts: Iterable[str], kind: str, special: int) -> None:
    seen = 0

    def checked() -> Iterator[str]:
        nonlocal seen
        for i, text in enumerate(texts):
            if not isinstance(text, str):
                raise ValueError(f"text {i} is {str(text)[:60]!r} ({type(text).__name__}); allowed: text")
            seen += bool(text.strip())
            yield _whole(text)

    try:
        made.train_from_iterator(checked(), trainer)
    except ValueError:
        raise
    except BaseException as error:  # a panic of the backend is no Exception
        if not seen and not isinstance(error, KeyboardInterrupt):
            raise ValueError("there is nothing to learn from: no text has a word") from None
        if type(error).__name__ == "PanicException" or type(error) is Exception:
            raise ValueError(f"a {kind} vocabulary cannot be learnt from these {seen} texts: {error}") from None
        raise
    if not seen:
        raise ValueError("there is nothing to learn from: no text has a word")
    if made.get_vocab_size() <= special:
        raise ValueError(f"nothing was learnt from {seen} texts: no piece occurs min_frequency times")


def _opened(made: tokenizers.Tokenizer, config: Mapping[str, Any], folder: Any) -> Tokenizer:
    """The tokenizer as the library opens it, saved again in the way that every tokenizer is."""
    with TemporaryDirectory() as where:
        made.save(str(Path(where) / "tokenizer.json"))
        whole = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False, **config}
        Path(where, "tokenizer_config.json").write_text(json.dumps(whole), encoding="utf-8")
        tokenizer = Tokenizer.from_folder(where)
    if folder is not None:
        tokenizer.save_pretrained(folder)
    return tokenizer
