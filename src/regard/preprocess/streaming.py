"""Text as it is generated: ids in, finished characters out."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterable
from typing import Any, Protocol

from .rows import clean_up_spaces
from .sentencepiece import SPACE
from .text import Tokenizer

_BYTE_TOKEN = re.compile(r"<0x[0-9A-Fa-f]{2}>")
_SAFE_CUT = re.compile(r"(?<=[^\W_n])(?= )")  # no clean-up rule reaches across a space after a letter (but n: "n 't")


class _Joiner(Protocol):
    def push(self, index: int, token: str) -> str: ...

    def end(self) -> str: ...


class _Bytes:
    """Byte-level tokens: an incremental UTF-8 decoder."""

    def __init__(self) -> None:
        self.decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self.table = _byte_table()

    def push(self, index: int, token: str) -> str:
        try:
            data = bytes(self.table[character] for character in token)
        except KeyError:  # an added token, stored as text
            data = token.encode()
        return self.decoder.decode(data)

    def end(self) -> str:
        return self.decoder.decode(b"", final=True)


def _byte_table() -> dict[str, int]:
    """The printable stand-in of each byte in byte-level vocabularies: itself where printable, else 256 and up in
    order."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(others)}


class _Window:
    """Any decoder whose text for a token depends on its neighbours and on being first: decode a few tokens, keep the
    new part.

    Byte tokens are held until their run ends, since the decoder shows a run that is not UTF-8 as one mark a byte.
    """

    def __init__(self, tokenizer: Tokenizer, byte_runs: bool) -> None:
        self.tokenizer = tokenizer
        self.byte_runs = byte_runs
        self.anchor = _anchor(tokenizer)
        self.before: list[int] = []  # what came just before, already written
        self.waiting: list[int] = []
        self.started = False

    def push(self, index: int, token: str) -> str:
        self.waiting.append(index)
        if self.byte_runs and _BYTE_TOKEN.fullmatch(token):
            return ""
        return self._write()

    def _write(self) -> str:
        if not self.waiting:
            return ""
        join = self.tokenizer._join
        context = self.anchor + self.before if self.started else self.before
        old = join(context, False) if context else ""
        new = join(context + self.waiting, False)
        text = new[len(old) :]
        self.before = self.waiting[-1:] if self.started or text else self.before + self.waiting
        self.started = self.started or bool(text)
        self.waiting = []
        return text

    def end(self) -> str:
        return self._write()


def _anchor(tokenizer: Tokenizer) -> list[int]:
    """A token of plain letters to stand before a window, so that its first token is not taken for the start of the
    text."""
    for text in ("a", "e", SPACE + "a", SPACE + "the", "the", "A", "0", "1"):
        index = tokenizer.backend.token_to_id(text)
        if index is not None:
            return [index]
    return []


class _Pieces:
    """Marian's pieces, with the same rules as `MarianCoder.decode`."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        assert tokenizer.coder is not None
        self.model = tokenizer.coder.source
        self.specials = set(tokenizer.all_special_tokens)
        self.first = True

    def push(self, index: int, token: str) -> str:
        if token in self.specials:
            self.first = True
            return token.replace(SPACE, " ") + " "
        # With a leading letter the model is past the start of its text, where spaces count.
        text = self.model.decode([token]) if self.first else self.model.decode(["\ufdd0", token])[1:]
        self.first = self.first and not text
        return text.replace(SPACE, " ")

    def end(self) -> str:
        return ""


class _Whole:
    """Decoders that change text across tokens: nothing can be shown before the end."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self.ids: list[int] = []

    def push(self, index: int, token: str) -> str:
        self.ids.append(index)
        return ""

    def end(self) -> str:
        return self.tokenizer._join(self.ids, False)


def _steps(decoder: Any) -> list[dict[str, Any]]:
    state = json.loads(decoder.__getstate__()) if decoder is not None else {}
    return state.get("decoders", []) if state.get("type") == "Sequence" else [state]


def _joiner(tokenizer: Tokenizer) -> _Joiner:
    if tokenizer.coder is not None:
        return _Pieces(tokenizer)
    steps = _steps(tokenizer.backend.decoder)
    names = [step.get("type") for step in steps]
    if names == ["ByteLevel"]:
        return _Bytes()
    fused = names.index("Fuse") if "Fuse" in names else len(names)
    late = [step for step in steps[fused + 1 :] if not (step.get("type") == "Strip" and not step.get("stop"))]
    known = {None, "WordPiece", "Metaspace", "BPEDecoder", "Replace", "ByteFallback", "Fuse", "Strip"}
    if late or not set(names) <= known or (len(names) > 1 and {"Metaspace", "BPEDecoder"} & set(names)):
        return _Whole(tokenizer)
    return _Window(tokenizer, "ByteFallback" in names)


class StreamDecoder:
    """Turns ids into text piece by piece: `push` gives what is certain so far, `end` the rest.

    The pieces together equal `tokenizer.decode` of all ids, no piece ends inside a character, and the work for a
    token does not grow with the length of the text.
    """

    def __init__(self, tokenizer: Tokenizer, skip_special_tokens: bool = True) -> None:
        self.tokenizer = tokenizer
        self._joiner = _joiner(tokenizer)
        # Which ids count as special is the backend's matter when it decodes, and the names' matter for Marian.
        added = tokenizer.added_tokens_decoder.items()
        special = {index for index, token in added if token.special}
        if tokenizer.coder is not None:
            special = set(tokenizer.all_special_ids)
        self._skipped = special if skip_special_tokens else set()
        kind = tokenizer.kind
        self._prompt = kind.prompt if skip_special_tokens else None
        self._in_prompt: bool | None = None if self._prompt else False
        self._trims = bool(kind.strip_suffix) or tokenizer.coder is not None
        self._leading, self._spaces = self._trims, ""
        self._dirty = ""  # text that clean-up may still change
        self._cleans = tokenizer.cleans_up()

    def push(self, ids: int | Iterable[int]) -> str:
        """Take one id or several; returns the text that is now certain, often ""."""
        listed = ids.tolist() if hasattr(ids, "tolist") else ids
        out = []
        for index in [listed] if isinstance(listed, int) else listed:
            token = self.tokenizer.convert_ids_to_tokens(int(index))
            if self._prompted(token) or index in self._skipped or token is None:
                continue
            if self.tokenizer.kind.erase and re.fullmatch(self.tokenizer.kind.erase, token):
                continue
            out.append(self._joiner.push(int(index), token))
        return self._trim(self._clean("".join(out), last=False), last=False)

    def _prompted(self, token: str | None) -> bool:
        """Whether this token belongs to the context given to a speech decoder."""
        if self._prompt is None or self._in_prompt is False:
            return False
        begin, end = self._prompt
        if self._in_prompt is None:
            self._in_prompt = token == begin
        elif token == end:
            self._in_prompt = False
        return bool(self._in_prompt)

    def end(self) -> str:
        """The rest of the text; the decoder is then used up."""
        return self._trim(self._clean(self._joiner.end(), last=True), last=True)

    def _clean(self, text: str, *, last: bool) -> str:
        suffix = self.tokenizer.kind.strip_suffix
        text = text.replace(suffix, " ") if suffix else text
        if not self._cleans:
            return text
        text = self._dirty + text
        cut = len(text) if last else max((match.start() for match in _SAFE_CUT.finditer(text)), default=0)
        self._dirty = text[cut:]
        return clean_up_spaces(text[:cut])

    def _trim(self, text: str, *, last: bool) -> str:
        """Leave out spaces at both ends, where decoding does."""
        if not self._trims:
            return text
        if self._leading:
            text = text.lstrip()
            self._leading = not text
        text = self._spaces + text
        shown = text.rstrip()
        self._spaces = "" if last else text[len(shown) :]
        return shown
