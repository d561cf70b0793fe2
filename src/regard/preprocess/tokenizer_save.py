"""Writing a tokenizer so that the reference library, and `Tokenizer.from_folder`, can open it again."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenizers import AddedToken

if TYPE_CHECKING:
    from .text import Tokenizer

_LEFT_OUT = ("added_tokens_decoder", "additional_special_tokens", "add_bos_token", "add_eos_token", "chat_template")


def _replace(path: Path, data: bytes) -> str:
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    return str(path)


def _text(value: Any) -> bytes:
    return (json.dumps(value, indent=2, ensure_ascii=False, sort_keys=True) + "\n").encode()


def _saved_token(token: Any) -> Any:
    """A token as JSON; flags are written only where they say more than the text."""
    if not isinstance(token, AddedToken) or not (token.lstrip or token.rstrip or token.single_word):
        return str(token)
    flags = ("content", "single_word", "lstrip", "rstrip", "normalized", "special")
    return {"__type": "AddedToken", **{flag: getattr(token, flag) for flag in flags}}


def save(tokenizer: Tokenizer, folder: Path) -> tuple[str, ...]:
    """Write the files of a tokenizer and return their paths."""
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"save_directory is {folder}, which is a file; allowed: a folder, or a name for a new one")
    folder.mkdir(parents=True, exist_ok=True)
    config = {name: value for name, value in tokenizer.settings.items() if name not in _LEFT_OUT}
    config.update({name: _saved_token(token) for name, token in tokenizer._named.items()})
    if tokenizer.additional_special_tokens:
        config["extra_special_tokens"] = tokenizer.additional_special_tokens
    else:
        config.pop("extra_special_tokens", None)
    config["model_max_length"] = tokenizer.model_max_length
    config["clean_up_tokenization_spaces"] = tokenizer.clean_up_tokenization_spaces
    config["padding_side"], config["truncation_side"] = tokenizer.padding_side, tokenizer.truncation_side
    config["tokenizer_class"] = tokenizer.class_name
    if tokenizer.kind.default_language:
        config["src_lang"], config["tgt_lang"] = tokenizer.src_lang, tokenizer.tgt_lang
    written = []
    if tokenizer.coder is None:
        written.append(_replace(folder / "tokenizer.json", tokenizer.backend.to_str(pretty=True).encode()))
    else:
        written.append(_replace(folder / "vocab.json", _text(tokenizer.backend.get_vocab(with_added_tokens=False))))
        written += [_replace(folder / name, data) for name, data in tokenizer.coder.files.items()]
        config["added_tokens_decoder"] = {
            str(index): {
                flag: getattr(token, flag)
                for flag in ("content", "single_word", "lstrip", "rstrip", "normalized", "special")
            }
            for index, token in tokenizer.added_tokens_decoder.items()
        }
    templates = tokenizer.chat_template
    if isinstance(templates, str):
        templates = {"default": templates}
    for name, text in (templates or {}).items():
        path = folder / "chat_template.jinja"
        if name != "default":
            path = folder / "additional_chat_templates" / f"{Path(name).name}.jinja"
            path.parent.mkdir(exist_ok=True)
        written.append(_replace(path, text.encode()))
    written.append(_replace(folder / "tokenizer_config.json", _text(config)))
    return tuple(written)
