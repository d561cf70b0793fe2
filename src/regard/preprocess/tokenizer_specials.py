"""The special tokens that a folder names, in the newest form it has."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from tokenizers import AddedToken

from . import tokenizer_files as files_
from .tokenizer_files import TokenizerFiles

Token = str | AddedToken

SPECIAL_NAMES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


def added_token(value: Any, where: str, **defaults: Any) -> AddedToken:
    """A token from text or from the JSON object that published files use."""
    if isinstance(value, AddedToken):
        return value
    if isinstance(value, str):
        return AddedToken(value, **defaults)
    if isinstance(value, dict) and isinstance(value.get("content"), str):
        known = ("content", "single_word", "lstrip", "rstrip", "normalized", "special")
        fields = {**defaults, **{key: value[key] for key in known if value.get(key) is not None}}
        if all(isinstance(flag, bool) for key, flag in fields.items() if key != "content"):
            return AddedToken(**fields)
    raise ValueError(f"{where}: {value!r} should be text or an object with content and true/false flags")


def _token(value: Any, where: str) -> Token:
    return value if isinstance(value, str) else added_token(value, where, special=True)


def _extra_list(value: Any, where: str) -> list[Token]:
    if not isinstance(value, (list, tuple)) or len(value) > files_.MAX_VOCAB:
        raise ValueError(f"{where} should be a list of tokens, is {type(value).__name__}")
    return [_token(item, where) for item in value]


@dataclass(kw_only=True)
class Specials:
    """Special tokens as the small files name them, before the defaults of a kind are filled in."""

    named: dict[str, Token] = field(default_factory=dict)
    extra: list[Token] | None = None  # decided by tokenizer_config.json
    additional: list[Token] | None = None  # decided by older files; a kind may change these
    added: dict[int, AddedToken] = field(default_factory=dict)


def read_specials(files: TokenizerFiles, stored: dict[str, Any] | None) -> Specials:
    """Special tokens of a folder, newest form first: added_tokens_decoder, else the separate files and
    tokenizer.json."""
    where = str(files.folder / "tokenizer_config.json")
    config, found = dict(files.config), Specials()
    extra = config.get("extra_special_tokens") or config.get("additional_special_tokens")
    if isinstance(extra, dict):
        config.update(extra)
        extra = None
    if extra is not None:
        found.extra = _extra_list(extra, f"{where}: extra_special_tokens")
    for name, value in config.items():
        if value is not None and (
            name in SPECIAL_NAMES or (name.endswith("_token") and isinstance(value, (str, dict)))
        ):
            found.named[name] = _token(value, f"{where}: {name}")
    decoder = config.get("added_tokens_decoder")
    if decoder is not None:
        if not isinstance(decoder, dict):
            raise ValueError(f"{where}: added_tokens_decoder should be an object, is {type(decoder).__name__}")
        for index, value in decoder.items():
            number = int(index) if str(index).isdecimal() and len(str(index)) < 12 else index
            found.added[files_.check_id(number, f"{where}: added_tokens_decoder")] = added_token(value, where)
    else:
        _read_older_specials(files, stored, found)
    by_text = {token.content: token for token in found.added.values()}
    for name, value in found.named.items():
        found.named[name] = by_text.get(str(value), value)
    return found


def _read_older_specials(files: TokenizerFiles, stored: dict[str, Any] | None, found: Specials) -> None:
    where = str(files.folder / "special_tokens_map.json")
    for name, value in files.special_tokens_map.items():
        if name == "additional_special_tokens":
            found.additional = _extra_list(value, f"{where}: {name}")
        elif name == "extra_special_tokens" and isinstance(value, list):
            known = found.extra or []
            found.extra = known + [token for token in _extra_list(value, f"{where}: {name}") if token not in known]
        elif value is not None and name.endswith("_token"):
            if isinstance(value, dict):
                value = {key: flag for key, flag in value.items() if key != "special"}
            found.named[name] = _token(value, f"{where}: {name}")
    special = {str(token) for token in (*found.named.values(), *(found.extra or ()))}
    for text, index in files.added_tokens.items():
        found.added[index] = AddedToken(text, normalized=text not in special, special=text in special)
    for entry in stored["added_tokens"] if stored else ():
        found.added[entry["id"]] = added_token(entry, f"{files.folder / 'tokenizer.json'}: added_tokens")
