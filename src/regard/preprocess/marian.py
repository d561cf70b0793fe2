"""Marian tokenizers: two SentencePiece models that cut text, and one vocabulary that numbers the pieces of both."""

from __future__ import annotations

import re
import struct
from collections.abc import Sequence
from typing import Any

import tokenizers
from tokenizers import AddedToken, models

from . import tokenizer_files as files_
from .sentencepiece import SPACE, PieceType, SentencePieceModel, merges, read_sentencepiece
from .tokenizer_build import Assembled, attach, template
from .tokenizer_files import TokenizerFiles, native
from .tokenizer_kinds import MARIAN, MARIAN_KIND, Post, choose_kind
from .tokenizer_specials import read_specials

_POST = Post(single="$A eos", pair="$A $B eos")
_LANGUAGE = re.compile(r">>.*?<<", re.DOTALL)


class Charsmap:
    """SentencePiece's table of replacements: a double-array trie over UTF-8, longest match first.

    Layout: the trie's size in bytes, its 32-bit units (label, offset, leaf flag), then the replacements, each ended
    by a zero byte.
    """

    def __init__(self, blob: bytes) -> None:
        self.units: tuple[int, ...] = ()
        self.texts = b""
        self._single: dict[str, tuple[str, int] | None] = {}
        if not blob:
            return
        size = struct.unpack_from("<I", blob)[0] if len(blob) >= 4 else -1
        if size % 4 or not 4 <= size <= len(blob) - 4:
            raise ValueError("the table of replacements (precompiled_charsmap) is broken")
        self.units = struct.unpack_from(f"<{size // 4}I", blob, 4)
        self.texts = blob[4 + size :]

    def longest(self, text: bytes, start: int) -> tuple[str, int] | None:
        """(replacement, bytes replaced) of the longest entry that `text` has at `start`."""
        units, found = self.units, None
        if not units:
            return None
        try:
            unit = units[0]
            at = (unit >> 10) << ((unit & 0x200) >> 6)
            for position in range(start, len(text)):
                byte = text[position]
                at ^= byte
                unit = units[at]
                if unit & 0x800000FF != byte:
                    break
                at ^= (unit >> 10) << ((unit & 0x200) >> 6)
                if unit >> 8 & 1:
                    found = (units[at] & 0x7FFFFFFF, position + 1 - start)
        except IndexError:
            raise ValueError("the table of replacements (precompiled_charsmap) is broken") from None
        if found is None:
            return None
        end = self.texts.find(b"\0", found[0])
        return self.texts[found[0] : end if end >= 0 else None].decode(errors="replace"), found[1]


class PieceModel:
    """One SentencePiece model: text to pieces and pieces to text, as the reference library does it."""

    def __init__(self, spm: SentencePieceModel) -> None:
        self.spm = spm
        self.charsmap = Charsmap(spm.charsmap)
        self.types = {text: kind for text, _, kind in spm.pieces}
        own = sorted(
            (text for text, kind in self.types.items() if kind == PieceType.USER_DEFINED), key=len, reverse=True
        )
        self.own = re.compile("|".join(map(re.escape, own))) if own else None
        # Control pieces must not be found in text, so they get a name that no normalised text has.
        shown = [
            (text if kind in (PieceType.NORMAL, PieceType.USER_DEFINED) else f"\ufdd0{text}\ufdd1", score)
            for text, score, kind in spm.pieces
        ]
        if spm.algorithm == "unigram":
            self.model: Any = native("pieces", lambda: models.Unigram(shown, unk_id=spm.unk_id, byte_fallback=False))
        elif spm.algorithm == "bpe":
            ids = {text: index for index, (text, _) in enumerate(shown)}
            unk = shown[spm.unk_id][0]
            self.model = native("pieces", lambda: models.BPE(ids, merges(ids), unk_token=unk, fuse_unk=True))
        else:
            raise ValueError(f"a SentencePiece model of type {spm.algorithm!r}; allowed: unigram, bpe")

    def normalize(self, text: str) -> str:
        """Text as the model sees it: characters replaced, spaces marked, squeezed and trimmed as the model says."""
        spm, data = self.spm, text.encode()
        out: list[str] = []
        at, squeeze = 0, spm.remove_extra_whitespaces
        after_space = squeeze
        while at < len(data):
            found = self.charsmap.longest(data, at)
            own = self.own.match(data[at : at + 512].decode(errors="ignore")) if self.own else None
            if own is not None:
                piece, used = own.group(), len(own.group().encode())
            elif found is not None:
                piece, used = found
            else:
                used = _character_bytes(data[at])
                piece = data[at : at + used].decode()
            at += used
            if after_space:
                piece = piece.lstrip(" ")
            if piece:
                out.append(piece)
                after_space = squeeze and piece.endswith(" ")
        result = "".join(out)
        if squeeze:
            result = result.rstrip(" ")
        if not result:
            return ""
        if spm.add_dummy_prefix:
            result = result + " " if spm.whitespace_as_suffix else " " + result
        return result.replace(" ", SPACE) if spm.escape_whitespaces else result

    def encode(self, text: str) -> list[str]:
        """The pieces of a text; parts that no piece covers stand as they are."""
        normal = self.normalize(text)
        if not normal:
            return []
        return [token.value for token in native("text", lambda: self.model.tokenize(normal))]

    def decode(self, pieces: Sequence[str]) -> str:
        """The text of pieces, without the space that a text begins with."""
        spm, out, first = self.spm, "", True
        trims = spm.add_dummy_prefix or spm.remove_extra_whitespaces
        for piece in pieces:
            kind = self.types.get(piece)
            if kind == PieceType.CONTROL:
                continue
            if kind == PieceType.UNKNOWN:
                out += spm.unk_surface
                first = False
            elif kind is None:
                out += piece
                first = False
            else:
                text = piece
                if first and trims and text.startswith(SPACE):
                    text = text[1:]
                    first = spm.remove_extra_whitespaces
                out += text.replace(SPACE, " ")
                first = first and not out
        return out


def _character_bytes(byte: int) -> int:
    return 1 if byte < 0x80 else 2 if byte < 0xE0 else 3 if byte < 0xF0 else 4


class MarianCoder:
    """Cuts text into the words that the vocabulary numbers, and joins them again."""

    def __init__(
        self, source: PieceModel, target: PieceModel, specials: Sequence[str], files: dict[str, bytes]
    ) -> None:
        self.source = source
        self.target = target
        self.files = files  # what `save_pretrained` writes again
        longest_first = sorted(specials, key=len, reverse=True)
        self.split = re.compile("(" + "|".join(map(re.escape, longest_first)) + ")")
        self.specials = set(specials)

    def words(self, text: str, *, target: bool) -> list[str]:
        """Special tokens stand alone; a leading >>code<< of each part is one word."""
        model, out = self.target if target else self.source, []
        for part in self.split.split(text):
            if part in self.specials:
                out.append(part)
            elif part:
                code = _LANGUAGE.match(part)
                if code is not None:
                    out.append(code.group())
                    part = part[code.end() :]
                out += model.encode(part)
        return out

    def item(self, item: Any, *, words: bool, target: bool) -> Any:
        """A text (or pair, or words) as the list of pieces that the backend numbers."""
        if isinstance(item, tuple) and not (words and all(isinstance(part, str) for part in item)):
            return tuple(self.item(part, words=words, target=target) for part in item)
        parts = item if words else [item]
        return [piece for part in parts for piece in self.words(part, target=target)]

    def decode(self, pieces: Sequence[str], specials: Sequence[str]) -> str:
        """The text of pieces; special tokens are followed by a space."""
        known, out = set(specials), ""
        run: list[str] = []
        for piece in pieces:
            if piece in known:
                out += self.source.decode(run) + piece + " "
                run = []
            elif piece is not None:
                run.append(piece)
        return (out + self.source.decode(run)).replace(SPACE, " ").strip()


def is_marian(files: TokenizerFiles) -> bool:
    """Whether a folder holds a Marian tokenizer."""
    name = files.config.get("tokenizer_class") or files.model_tokenizer_class
    if choose_kind(name if isinstance(name, str) else None, files.model_type, byte_level_json=False) == MARIAN:
        return True
    return files.find("tokenizer.json") is None and files.find("source.spm") is not None


def assemble_marian(files: TokenizerFiles) -> Assembled:
    """Build the tokenizer of a Marian folder: source.spm, target.spm and vocab.json."""
    if files.config.get("separate_vocabs"):
        raise ValueError(f"{files.folder}: separate_vocabs is true; allowed: one vocabulary for both languages")
    paths = {name: files.need(name) for name in ("source.spm", "target.spm", "vocab.json")}
    vocab = files_.read_vocab_json(paths["vocab.json"])
    found = read_specials(files, None)
    named = {"eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>", **found.named}
    if str(named["unk_token"]) not in vocab:
        raise ValueError(f"{paths['vocab.json']}: the unknown token {str(named['unk_token'])!r} is missing")
    unk = str(named["unk_token"])
    backend = tokenizers.Tokenizer(native(paths["vocab.json"], lambda: models.WordLevel(vocab, unk_token=unk)))
    added = [*found.added.values(), *named.values(), *(found.extra or found.additional or [])]
    tokens = [AddedToken(str(token), special=True, normalized=False) for token in added]
    native(paths["vocab.json"], lambda: backend.add_tokens(tokens))
    eos_id = backend.token_to_id(str(named["eos_token"]))
    assert eos_id is not None  # it was added just now
    eos = (str(named["eos_token"]), eos_id)
    attach(backend, files.folder, post_processor=template(_POST, {"eos": eos}, {}))
    coder = MarianCoder(
        PieceModel(read_sentencepiece(paths["source.spm"])),
        PieceModel(read_sentencepiece(paths["target.spm"])),
        [str(token) for token in added],
        {name: path.read_bytes() for name, path in paths.items() if name.endswith(".spm")},
    )
    settings = {"model_max_length": 512, **{k: v for k, v in files.config.items() if k != "tokenizer_class"}}
    return Assembled(
        backend=backend,
        kind=MARIAN_KIND,
        class_name=MARIAN,
        settings=settings,
        named=named,
        extra=list(found.extra or found.additional or []),
        templates=dict(files.templates),
        padding_side=str(settings.get("padding_side", "right")),
        truncation_side=str(settings.get("truncation_side", "right")),
        coder=coder,
    )
