"""Characters for speech recognition: text to ids, and a model's ids, one a moment, to text (connectionist temporal
classification, Graves et al. 2006)."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from regard.checkpoint.files import read_json, write_json

from .encoding import BatchEncoding
from .rows import clean_up_spaces

CLASS_NAME = "Wav2Vec2CTCTokenizer"
_SPECIALS = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
_DELIMITERS = {"word_delimiter_token": "|", "replace_word_delimiter_char": " "}
_MAX_ID = 2**31 - 1


@dataclass(frozen=True, kw_only=True)
class CTCOutput:
    """A text, and where its characters and words lie: offsets count the model's moments, the end exclusive."""

    text: Any
    char_offsets: Any = None
    word_offsets: Any = None

    def __getitem__(self, name: str) -> Any:
        return getattr(self, name)


class CTCTokenizer:
    """Turns text into character ids, and a speech model's ids into text.

    Use `CTCTokenizer.from_folder(folder)`, which reads vocab.json and tokenizer_config.json.
    """

    is_fast = False
    model_input_names = ("input_ids", "attention_mask")

    def __init__(self, vocab: Mapping[str, Any], settings: Mapping[str, Any] | None = None) -> None:
        """`vocab` is {token: id}, or {language: {token: id}}; `settings` are those of tokenizer_config.json."""
        self.settings = dict(settings or {})
        self.languages = {name: part for name, part in vocab.items() if isinstance(part, dict)}
        self.target_lang: str | None = self.settings.get("target_lang")
        self.added: dict[str, int] = {}
        self._read_vocab(vocab if not self.languages else self._language(self.target_lang))
        for name, usual in {**_SPECIALS, **_DELIMITERS}.items():
            setattr(self, name, _token(self.settings.get(name, usual), name))
        self.do_lower_case = bool(self.settings.get("do_lower_case", False))
        self.clean_up_tokenization_spaces = bool(self.settings.get("clean_up_tokenization_spaces", False))
        for name in _SPECIALS:  # named tokens that the vocabulary lacks come behind it
            token = getattr(self, name)
            if token is not None and token not in self.vocab:
                self.added.setdefault(token, max([*self.decoder, *self.added.values()], default=-1) + 1)

    pad_token: str
    unk_token: str
    word_delimiter_token: str
    replace_word_delimiter_char: str

    @classmethod
    def from_folder(cls, path: str | os.PathLike[str]) -> CTCTokenizer:
        """Read the tokenizer in a folder; ValueError names the file that is missing or wrong."""
        folder = Path(path)
        if not (folder / "vocab.json").is_file():
            raise ValueError(f"{folder} has no vocab.json")
        settings: dict[str, Any] = {}
        for name in ("special_tokens_map.json", "tokenizer_config.json"):
            if (folder / name).is_file():
                settings.update(read_json(folder / name))
        try:
            found = cls(read_json(folder / "vocab.json"), settings)
        except ValueError as error:
            raise ValueError(f"{folder}: {error}") from None
        if (folder / "added_tokens.json").is_file():
            for token, index in read_json(folder / "added_tokens.json").items():
                if token not in found.vocab and isinstance(index, int):
                    found.added[token] = index
        return found

    def save_pretrained(self, save_directory: str | os.PathLike[str]) -> tuple[str, ...]:
        """Write vocab.json and tokenizer_config.json into a folder and return their paths."""
        folder = Path(save_directory)
        folder.mkdir(parents=True, exist_ok=True)
        config = {name: value for name, value in self.settings.items() if name != "auto_map"}
        for name in (*_SPECIALS, *_DELIMITERS, "target_lang", "do_lower_case"):
            config[name] = getattr(self, name)
        config["tokenizer_class"] = CLASS_NAME
        write_json(folder / "vocab.json", self.languages or self.vocab)
        write_json(folder / "tokenizer_config.json", config)
        return (str(folder / "vocab.json"), str(folder / "tokenizer_config.json"))

    def _language(self, name: str | None) -> Mapping[str, Any]:
        if name not in self.languages:
            raise ValueError(f"target_lang is {name!r}; allowed: {', '.join(sorted(self.languages))}")
        return self.languages[name]

    def set_target_lang(self, target_lang: str) -> None:
        """Use another of the languages that a nested vocabulary has."""
        self._read_vocab(self._language(target_lang))
        self.target_lang = target_lang

    def _read_vocab(self, vocab: Mapping[str, Any]) -> None:
        for token, index in vocab.items():
            if isinstance(index, bool) or not isinstance(index, int) or not 0 <= index <= _MAX_ID:
                raise ValueError(f"the id of {token!r} is {index!r}; allowed: a whole number from 0")
        self.vocab: dict[str, int] = dict(vocab)
        self.decoder = {index: token for token, index in self.vocab.items()}

    # names and numbers

    def __len__(self) -> int:
        return len(self.get_vocab())

    @property
    def vocab_size(self) -> int:
        """Tokens of the vocabulary, without added ones."""
        return len(self.decoder)

    def get_vocab(self) -> dict[str, int]:
        """Token -> id, added ones too."""
        return {**self.vocab, **self.added}

    @property
    def all_special_tokens(self) -> list[str]:
        """The tokens that are no characters of the text."""
        found = [getattr(self, name) for name in _SPECIALS]
        return list(dict.fromkeys(token for token in found if token is not None))

    @property
    def all_special_ids(self) -> list[int]:
        """Their ids."""
        return [self.convert_tokens_to_ids(token) for token in self.all_special_tokens]

    def __getattr__(self, name: str) -> Any:
        if name.endswith("_token_id") and name.removesuffix("_id") in (*_SPECIALS, "word_delimiter_token"):
            token = getattr(self, name.removesuffix("_id"))
            return None if token is None else self.convert_tokens_to_ids(token)
        raise AttributeError(f"{type(self).__name__} has no {name!r}")

    def convert_tokens_to_ids(self, tokens: Any) -> Any:
        """The id of a token or a list of them, the unknown token's for others."""
        if isinstance(tokens, str):
            table = self.get_vocab()
            return table.get(tokens, table.get(self.unk_token))
        return [self.convert_tokens_to_ids(token) for token in tokens]

    def convert_ids_to_tokens(self, ids: Any) -> Any:
        """The token of an id or a list of them, the unknown token for others."""
        if isinstance(ids, int):
            names = {index: token for token, index in self.added.items()}
            return self.decoder.get(ids, names.get(ids, self.unk_token))
        return [self.convert_ids_to_tokens(int(index)) for index in ids]

    # text to ids

    def tokenize(self, text: str) -> list[str]:
        """Characters, the delimiter for spaces; tokens of several characters stay whole and take spaces around them."""
        tokens: list[str] = []
        at = 0
        for found in self._whole.finditer(text) if self._whole else ():
            tokens += self._split(text[at : found.start()])
            tokens.append(found["own"] or found["added"])
            at = found.end()
        return tokens + self._split(text[at:])

    @property
    def _whole(self) -> re.Pattern[str] | None:
        """Tokens of several characters; those that the vocabulary lacks leave the spaces around them."""
        own, added = [
            sorted((t for t in table if len(t) > 1), key=len, reverse=True) for table in (self.vocab, self.added)
        ]
        ways = [rf"\s*(?P<own>{'|'.join(map(re.escape, own))})\s*" if own else "(?P<own>(?!))"]
        ways += [rf"(?P<added>{'|'.join(map(re.escape, added))})" if added else "(?P<added>(?!))"]
        return re.compile("|".join(ways)) if own or added else None

    def _split(self, text: str) -> list[str]:
        text = text.upper() if self.do_lower_case else text
        return list(text.replace(" ", self.word_delimiter_token))

    def __call__(
        self,
        text: str | Sequence[str],
        *,
        padding: bool | str = False,
        truncation: bool | str | None = None,
        max_length: int | None = None,
        return_tensors: str | None = None,
        return_attention_mask: bool | None = None,
    ) -> BatchEncoding:
        """Ids of a text or a batch; `input_ids` and `attention_mask`, as lists or (B, T) tensors."""
        one = isinstance(text, str)
        texts = [text] if isinstance(text, str) else list(text)
        if not all(isinstance(item, str) for item in texts):
            raise ValueError("text must be a string or a list of strings")
        rows = [self.convert_tokens_to_ids(self.tokenize(item)) for item in texts]
        if max_length is not None and truncation not in (False, "do_not_truncate"):
            rows = [row[:max_length] for row in rows]
        width = {True: None, "longest": None, "max_length": max_length, False: 0, "do_not_pad": 0}.get(padding, -1)
        if width == -1 or (padding == "max_length" and max_length is None):
            raise ValueError(f"padding is {padding!r} with max_length {max_length}; allowed: True, False, 'max_length'")
        width = max(map(len, rows), default=0) if width is None else width
        pad = self.convert_tokens_to_ids(self.pad_token)
        out = {
            "input_ids": [row + [pad] * (width - len(row)) for row in rows],
            "attention_mask": [[1] * len(row) + [0] * (width - len(row)) for row in rows],
        }
        if return_attention_mask is False:
            del out["attention_mask"]
        found = BatchEncoding({name: value[0] for name, value in out.items()} if one else out)
        return found.convert_to_tensors(return_tensors, prepend_batch_axis=one)

    def encode(self, text: str) -> list[int]:
        """Ids of one text."""
        return self(text)["input_ids"]

    # ids to text

    def decode(
        self,
        token_ids: Any,
        skip_special_tokens: bool = False,
        clean_up_tokenization_spaces: bool | None = None,
        *,
        group_tokens: bool = True,
        spaces_between_special_tokens: bool = False,
        output_char_offsets: bool = False,
        output_word_offsets: bool = False,
    ) -> Any:
        """The text of one id a moment (T,): repeated ids count once, the padding token is silence.

        With `output_char_offsets` or `output_word_offsets`, a CTCOutput with where each lies. `group_tokens=False`
        keeps repetitions, as in labels.
        """
        ids = token_ids.tolist() if hasattr(token_ids, "tolist") else token_ids
        ids = [ids] if isinstance(ids, int) else list(ids)
        if ids and not isinstance(ids[0], int):
            raise ValueError("token_ids has several rows; use batch_decode")
        tokens: Iterable[str] = self.convert_ids_to_tokens(ids)
        if skip_special_tokens:
            hidden = set(self.all_special_tokens) - {self.word_delimiter_token}
            tokens = [token for token in tokens if token not in hidden]
        chars = self._characters(tokens, group=group_tokens)
        text = (" " if spaces_between_special_tokens else "").join(char["char"] for char in chars).strip()
        text = text.lower() if self.do_lower_case else text
        clean = (
            self.clean_up_tokenization_spaces if clean_up_tokenization_spaces is None else clean_up_tokenization_spaces
        )
        text = clean_up_spaces(text) if clean else text
        if not (output_char_offsets or output_word_offsets):
            return text
        return CTCOutput(
            text=text,
            char_offsets=chars if output_char_offsets else None,
            word_offsets=self._words(chars) if output_word_offsets else None,
        )

    def batch_decode(self, sequences: Iterable[Any], skip_special_tokens: bool = False, **options: Any) -> Any:
        """The texts of several rows; with offsets asked for, one CTCOutput whose fields are lists."""
        found = [self.decode(row, skip_special_tokens, **options) for row in sequences]
        if found and isinstance(found[0], CTCOutput):
            return CTCOutput(**{name: [item[name] for item in found] for name in CTCOutput.__dataclass_fields__})
        return found

    def _characters(self, tokens: Iterable[str], *, group: bool) -> list[dict[str, Any]]:
        runs = [(token, len(list(same))) for token, same in itertools.groupby(tokens)] if group else None
        at, found = 0, []
        for token, length in runs if runs is not None else [(token, 1) for token in tokens]:
            if token != self.pad_token:
                char = self.replace_word_delimiter_char if token == self.word_delimiter_token else token
                found.append({"char": char, "start_offset": at, "end_offset": at + length})
            at += length
        return found

    def _words(self, chars: list[dict[str, Any]]) -> list[dict[str, Any]]:
        words = []
        for space, run in itertools.groupby(chars, lambda char: char["char"] == self.replace_word_delimiter_char):
            if not space:
                part = list(run)
                span = {"start_offset": part[0]["start_offset"], "end_offset": part[-1]["end_offset"]}
                words.append({"word": "".join(char["char"] for char in part), **span})
        return words


def _token(value: Any, name: str) -> str | None:
    """A token from a configuration file, where it is a string, or an object with its content."""
    if isinstance(value, dict):
        value = value.get("content")
    if value is not None and not isinstance(value, str):
        raise ValueError(f"{name} is {value!r}; allowed: a string")
    return value
