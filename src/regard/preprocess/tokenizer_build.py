"""Assembling a tokenizer from the files of a folder: which kind it is, its vocabulary, its parts, its special
tokens."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tokenizers
from tokenizers import AddedToken, models

from . import tokenizer_files as files_
from . import tokenizer_parts as parts
from .sentencepiece import PieceType, SentencePieceModel, merges, read_sentencepiece
from .tokenizer_files import TokenizerFiles, native
from .tokenizer_kinds import GENERIC, GENERIC_KIND, KINDS, Kind, Post, choose_kind
from .tokenizer_specials import SPECIAL_NAMES, Specials, Token, read_specials

if TYPE_CHECKING:
    from .marian import MarianCoder


@dataclass(kw_only=True)
class Assembled:
    """What `Tokenizer` is made from. `named` holds special tokens by name in canonical order, `extra` the unnamed
    ones."""

    backend: tokenizers.Tokenizer
    kind: Kind
    class_name: str
    settings: dict[str, Any]
    named: dict[str, Token]
    extra: list[Token]
    templates: dict[str, str]
    padding_side: str
    truncation_side: str
    coder: MarianCoder | None = None


@dataclass(kw_only=True)
class Source:
    """A vocabulary as read from whichever file a folder has."""

    path: Path
    vocab: Any = None  # {token: id}, or [(piece, score)] for Unigram
    merges: list[tuple[str, str]] = field(default_factory=list)
    charsmap: bytes = b""
    unk_id: int | None = None
    marked: list[AddedToken] | None = None  # control and user-defined pieces of a SentencePiece model
    stored: dict[str, Any] | None = None  # tokenizer.json, when that is the file
    spm: SentencePieceModel | None = None


def _from_sentencepiece(path: Path, model: str | None) -> Source:
    spm = read_sentencepiece(path)
    marked = [
        AddedToken(text, normalized=False, special=kind == PieceType.CONTROL)
        for text, _, kind in spm.pieces
        if kind in (PieceType.CONTROL, PieceType.USER_DEFINED)
    ]
    source = Source(path=path, charsmap=spm.charsmap, unk_id=spm.unk_id, marked=marked, spm=spm)
    if (model or ("Unigram" if spm.algorithm == "unigram" else "BPE")) == "Unigram":
        source.vocab = spm.vocabulary
    else:
        source.vocab = {text: index for index, (text, _, _) in enumerate(spm.pieces)}
        try:
            source.merges = merges(source.vocab)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None
    return source


def _stored_charsmap(stored: Mapping[str, Any], path: Path) -> bytes:
    normalizer = stored.get("normalizer")
    if not isinstance(normalizer, dict):
        return b""
    chain = normalizer.get("normalizers") if normalizer.get("type") == "Sequence" else [normalizer]
    for step in chain if isinstance(chain, list) else ():
        if isinstance(step, dict) and step.get("type") == "Precompiled":
            try:
                return base64.b64decode(step.get("precompiled_charsmap") or "")
            except (TypeError, ValueError) as error:
                raise ValueError(f"{path}: precompiled_charsmap is not base64: {error}") from None
    return b""


def _from_stored(stored: dict[str, Any], path: Path) -> Source:
    model = stored["model"]
    vocab = model["vocab"]
    pairs: list[tuple[str, str]] = []
    listed = model.get("merges") or []
    if not isinstance(listed, list):
        raise ValueError(f"{path}: model.merges should be a list, is {type(listed).__name__}")
    for pair in listed:
        cut = pair.split(" ") if isinstance(pair, str) else pair
        if not isinstance(cut, list) or len(cut) != 2 or not (isinstance(cut[0], str) and isinstance(cut[1], str)):
            raise ValueError(f"{path}: model.merges: {pair!r} should be two tokens")
        pairs.append((cut[0], cut[1]))
    if isinstance(vocab, list):
        vocab = [(text, float(score)) for text, score in vocab]
    return Source(path=path, vocab=vocab, merges=pairs, charsmap=_stored_charsmap(stored, path), stored=stored)


def _read_source(
    files: TokenizerFiles, stored: dict[str, Any] | None, kind: Kind | None, settings: dict[str, Any]
) -> Source:
    """The vocabulary of a folder, in the order of pieces that the kind uses."""
    if stored is not None:
        return _from_stored(stored, files.folder / "tokenizer.json")
    wanted = kind.model if kind is not None else None
    if wanted != "Unigram":
        if wanted == "WordPiece":
            path = files.need("vocab.txt", "vocab.json")
            read = files_.read_vocab_txt if path.suffix == ".txt" else files_.read_vocab_json
            return Source(path=path, vocab=read(path))
        vocab, pairs = files.find("vocab.json"), files.find("merges.txt")
        if vocab is not None and pairs is not None:
            return Source(path=vocab, vocab=files_.read_vocab_json(vocab), merges=files_.read_merges(pairs))
    names = files_.SENTENCEPIECE_NAMES
    source = _from_sentencepiece(
        files.need(
            *(("tokenizer.json",) if wanted == "Unigram" else ("tokenizer.json", "vocab.json", "vocab.txt")), *names
        ),
        wanted,
    )
    if kind is not None and isinstance(source.vocab, list):
        source.vocab = kind.pieces(source.vocab, settings)
    elif kind is not None:
        ordered = kind.pieces([(text, 0.0) for text in source.vocab], settings)
        source.vocab = {text: index for index, (text, _) in enumerate(ordered)}
    return source


def _make_model(kind: Kind, source: Source, named: Mapping[str, Token]) -> Any:
    """The tokenizers model of a kind over a vocabulary."""
    where, unk = source.path, str(named.get("unk_token", ""))
    if kind.model == "Unigram":
        vocab = source.vocab
        if not isinstance(vocab, list):
            raise ValueError(f"{where}: a vocabulary of scored pieces is needed, this one has none")
        unk_id = kind.unk
        if unk_id == "token" or (unk_id == 1 and (unk, 0.0) in vocab[:8]):
            unk_id = next((index for index, (text, _) in enumerate(vocab) if text == unk), None)
        if not isinstance(unk_id, int) or unk_id >= len(vocab):
            raise ValueError(f"{where}: the unknown token {unk!r} is not in the vocabulary")
        return native(where, lambda: models.Unigram(vocab, unk_id=unk_id, byte_fallback=False))
    vocab = source.vocab
    if isinstance(vocab, list):
        vocab = {text: index for index, (text, _) in enumerate(vocab)}
    if kind.model == "WordPiece":
        return native(where, lambda: models.WordPiece(vocab, unk_token=unk))
    options = dict(kind.options)
    if "unk_token" in options:
        options["unk_token"] = unk
    return native(where, lambda: models.BPE(vocab=vocab, merges=source.merges, **options))


def attach(backend: tokenizers.Tokenizer, where: object, **json_parts: Any) -> None:
    """Set the normalizer, pre_tokenizer, post_processor or decoder of a backend from its JSON form."""
    shell = {"version": "1.0", "added_tokens": [], "model": {"type": "WordLevel", "vocab": {}, "unk_token": ""}}
    text = json.dumps({**shell, **json_parts})
    made = native(where, lambda: tokenizers.Tokenizer.from_str(text))
    for name in json_parts:
        setattr(backend, name, getattr(made, name))


def template(post: Post, tokens: Mapping[str, tuple[str, int]], settings: Mapping[str, Any]) -> dict[str, Any]:
    """The JSON of a post-processor; `tokens` gives (text, id) for every name in the pattern ("prompt" may be left
    out)."""
    if post.trim is not None:
        order = [item for item in post.single.split() if item != "$A"]
        trim, prefix_space = post.trim(settings)
        first, last = tokens[order[0]], tokens[order[1]]
        return {
            "type": "RobertaProcessing",
            "sep": list(last),
            "cls": list(first),
            "trim_offsets": trim,
            "add_prefix_space": prefix_space,
        }

    def items(pattern: str) -> list[dict[str, Any]]:
        made: list[dict[str, Any]] = []
        for item in pattern.split():
            name, _, kind = item.partition(":")
            if name.startswith("$"):
                made.append({"Sequence": {"id": name[1:], "type_id": int(kind or 0)}})
            else:
                made.append({"SpecialToken": {"id": tokens[name][0], "type_id": int(kind or 0)}})
        return made

    known = {text: {"id": text, "ids": [index], "tokens": [text]} for text, index in tokens.values()}
    return {
        "type": "TemplateProcessing",
        "single": items(post.single),
        "pair": items(post.pair),
        "special_tokens": known,
    }


def ends_post(bos: bool, eos: bool) -> Post:
    """The post-processor of decoders that put a token before and/or after each text."""
    single = f"{'bos ' if bos else ''}$A{' eos' if eos else ''}"
    return Post(single=single, pair=f"{single}{' bos:1' if bos else ''} $B:1{' eos:1' if eos else ''}")


def _add_tokens(
    backend: tokenizers.Tokenizer, found: Specials, named: dict[str, Token], extra: Iterable[Token]
) -> None:
    """Make every special token one that is never split, in the order in which the ids of new ones are counted."""
    tokens = [found.added[index] for index in sorted(found.added)]
    seen = {token.content for token in backend.get_added_tokens_decoder().values()} | {str(token) for token in tokens}
    texts = {str(token) for token in named.values()}
    for token in (*named.values(), *extra):
        if str(token) not in seen:
            tokens.append(AddedToken(token, special=True) if isinstance(token, str) else token)
            seen.add(str(token))
    for token in tokens:
        if str(token) in texts and not token.special:
            token.special = True
    native("special tokens", lambda: backend.add_tokens(tokens))


def assemble(files: TokenizerFiles) -> Assembled:
    """Build the tokenizer of a folder (all kinds but Marian)."""
    path = files.find("tokenizer.json")
    stored = files_.read_tokenizer_json(path) if path is not None else None
    byte_level = stored is not None and '"ByteLevel"' in json.dumps(
        [stored.get(part) for part in ("pre_tokenizer", "decoder", "post_processor")]
    )
    class_name = files.config.get("tokenizer_class")
    if not isinstance(class_name, str):
        class_name = files.model_tokenizer_class
    name = choose_kind(class_name, files.model_type, byte_level_json=byte_level)
    kind = KINDS.get(name)
    if kind is not None and stored is not None and (stored["model"].get("type") or kind.model) != kind.model:
        name, kind = GENERIC, None  # the class named does not fit the file: the file is right
    settings = {key: value for key, value in files.config.items() if key != "tokenizer_class"}
    if stored is not None:
        settings.pop("add_bos_token", None)
        settings.pop("add_eos_token", None)
    found = read_specials(files, stored)
    settings.update({key: str(value) for key, value in found.named.items()})
    source = _read_source(files, stored, kind, settings)
    stored_padding, stored_truncation = ((stored or {}).get(f"stored_{key}") or {} for key in ("padding", "truncation"))
    if isinstance(stored_padding, dict) and isinstance(stored_padding.get("pad_token"), str):
        found.named.setdefault("pad_token", stored_padding["pad_token"])
    named = _name_tokens(kind, found, source)
    additional = list(source.marked) if source.marked is not None else found.additional
    extra = (kind or GENERIC_KIND).extra(additional, settings) if kind else list(additional or [])
    if found.extra is not None:
        extra = list(found.extra)
    backend = _make_backend(kind, source, named, settings, found)
    _add_tokens(backend, found, named, extra)
    if kind is not None and kind.late_languages:
        extra += [code for code in kind.languages if code not in map(str, extra)]
    return Assembled(
        backend=backend,
        kind=kind or GENERIC_KIND,
        class_name=name,
        settings=settings,
        named=named,
        extra=extra,
        templates=dict(files.templates),
        padding_side=_side(settings, "padding_side", stored_padding, kind.padding_side if kind else "right"),
        truncation_side=_side(settings, "truncation_side", stored_truncation, "right"),
    )


def _side(settings: Mapping[str, Any], name: str, stored: Any, default: str) -> str:
    value = settings.get(name)
    if value is None:
        value = str(stored.get("direction", default)).lower() if isinstance(stored, dict) else default
    if value not in ("left", "right"):
        raise ValueError(f"tokenizer_config.json: {name} is {value!r}; allowed: 'left', 'right'")
    return str(value)


def _name_tokens(kind: Kind | None, found: Specials, source: Source) -> dict[str, Token]:
    """Special tokens by name, canonical names first, with the kind's defaults."""
    named = dict(found.named)
    if kind is not None:
        for name, text in kind.tokens.items():
            if name not in named:
                named[name] = text
            if name in kind.left_tokens and isinstance(named[name], str):
                named[name] = AddedToken(str(named[name]), lstrip=True, special=True)
    elif source.spm is not None:
        spm = source.spm
        for name, index, piece in (
            ("bos_token", spm.bos_id, spm.bos_piece),
            ("eos_token", spm.eos_id, spm.eos_piece),
            ("unk_token", spm.unk_id, spm.unk_piece),
        ):
            if index >= 0:
                named.setdefault(name, piece)
    elif source.stored is None:
        named.setdefault("bos_token", "<s>")
        named.setdefault("eos_token", "</s>")
    order = {name: position for position, name in enumerate(SPECIAL_NAMES)}
    return dict(sorted(named.items(), key=lambda item: order.get(item[0], len(order))))


def _make_backend(
    kind: Kind | None, source: Source, named: dict[str, Token], settings: dict[str, Any], found: Specials
) -> tokenizers.Tokenizer:
    where = source.path
    if kind is None and source.stored is not None:
        keep = {key: value for key, value in source.stored.items() if not key.startswith("stored_")}
        text = json.dumps(keep)
        return native(where, lambda: tokenizers.Tokenizer.from_str(text))
    if kind is None:
        return _bare_backend(source, found)
    backend = tokenizers.Tokenizer(_make_model(kind, source, named))
    attach(
        backend,
        where,
        normalizer=kind.normalizer(settings, source.charsmap),
        pre_tokenizer=kind.words(settings, source.charsmap),
        decoder=kind.decoder(settings, source.charsmap),
    )
    if source.stored is not None and source.stored.get("post_processor") is not None:
        attach(backend, where, post_processor=source.stored["post_processor"])
    return backend


def _bare_backend(source: Source, found: Specials) -> tokenizers.Tokenizer:
    """A SentencePiece model (or vocab.json + merges.txt) of no known kind, as it is."""
    spm = source.spm
    if spm is None:
        return tokenizers.Tokenizer(native(source.path, lambda: models.BPE(source.vocab, source.merges, fuse_unk=True)))
    if isinstance(source.vocab, list):
        vocab = source.vocab
        model: Any = native(
            source.path, lambda: models.Unigram(vocab, unk_id=spm.unk_id, byte_fallback=spm.byte_fallback)
        )
    else:
        by_id = {index: text for text, index in source.vocab.items()}
        for index, token in found.added.items():
            if index in by_id and token.content not in source.vocab:
                del source.vocab[by_id[index]]
                source.vocab[token.content] = index
        kept = [pair for pair in source.merges if all(piece in source.vocab for piece in (*pair, "".join(pair)))]
        model = native(
            source.path,
            lambda: models.BPE(
                source.vocab, kept, unk_token=spm.unk_piece, fuse_unk=True, byte_fallback=spm.byte_fallback
            ),
        )
    backend = tokenizers.Tokenizer(model)
    decoder = parts.fallback_decoder({}, b"") if spm.byte_fallback else parts.replace_decoder({}, b"")
    attach(backend, source.path, normalizer=parts.bare_normalizer({}, spm.charsmap), decoder=decoder)
    return backend
