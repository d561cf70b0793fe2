"""Reading the files of a tokenizer folder, with limits, and nothing but data in them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from regard.checkpoint.find import Folder

MAX_TOKENIZER_BYTES = 256 << 20
MAX_SMALL_BYTES = 16 << 20  # tokenizer_config.json and its like
MAX_VOCAB = 4_000_000
MAX_TOKEN_ID = 2**31 - 1
MAX_TEMPLATE_BYTES = 1 << 20
MAX_GROWTH = 4096  # how many times longer a chain of replacements may make a text

SENTENCEPIECE_NAMES = ("tokenizer.model", "spm.model", "spiece.model", "sentencepiece.bpe.model", "sentencepiece.model")

T = TypeVar("T")


def native(what: object, call: Callable[[], T]) -> T:
    """Run a call into the tokenizers library, turning its errors (and panics) into a ValueError that names `what`."""
    try:
        return call()
    except Exception as error:
        raise ValueError(f"{what}: {error}") from None
    except BaseException as error:
        # A panic of the native library is no Exception, yet it is only bad input, and the library is still usable.
        if type(error).__name__ != "PanicException":
            raise
        raise ValueError(f"{what}: the tokenizers library cannot handle this ({error})") from None


def read_text(path: Path, limit: int) -> str:
    """The UTF-8 text of a file of at most `limit` bytes."""
    size = path.stat().st_size
    if size > limit:
        raise ValueError(f"{path}: {size} bytes; at most {limit} are read")
    try:
        return path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 text ({error.reason} at byte {error.start})") from None


def parse_json(text: str, path: Path) -> dict[str, Any]:
    """A JSON object; ValueError names the file for bad syntax, nesting too deep, or another type."""
    try:
        value = json.loads(text)
    except RecursionError:
        raise ValueError(f"{path}: nested too deeply") from None
    except ValueError as error:
        raise ValueError(f"{path}: not JSON: {error}") from None
    if not isinstance(value, dict):
        raise ValueError(f"{path}: should be a JSON object, is a {type(value).__name__}")
    return value


@dataclass(frozen=True, kw_only=True)
class TokenizerFiles:
    """What a folder holds for a tokenizer: parsed small files, and paths of the vocabularies.

    `config` is tokenizer_config.json ({} when absent), `templates` the chat templates by name, `present` the known
    files by name.
    """

    folder: Path
    config: Mapping[str, Any]
    model_type: str | None
    model_tokenizer_class: str | None
    special_tokens_map: Mapping[str, Any]
    added_tokens: Mapping[str, int]
    templates: Mapping[str, str]

    def find(self, *names: str) -> Path | None:
        """The first of these files that the folder has."""
        found = (Folder(path=self.folder, name=str(self.folder)).file(name) for name in names)
        return next((path for path in found if path is not None), None)

    def need(self, *names: str) -> Path:
        """Like `find`, but a ValueError lists what was looked for."""
        path = self.find(*names)
        if path is None:
            raise ValueError(f"{self.folder}: no tokenizer file found; looked for {', '.join(names)}")
        return path


def read_folder(folder: Path) -> TokenizerFiles:
    """Read the small files of a tokenizer folder."""
    if not folder.is_dir():
        raise ValueError(f"{folder}: not a folder")

    def optional(name: str) -> dict[str, Any]:
        return Folder(path=folder, name=str(folder)).json(name, limit=MAX_SMALL_BYTES) or {}

    model = optional("config.json")
    added = optional("added_tokens.json")
    for token, index in added.items():
        check_id(index, f"{folder / 'added_tokens.json'}: {token!r}")
    config = optional("tokenizer_config.json")
    return TokenizerFiles(
        folder=folder,
        config=config,
        model_type=_text_or_none(model.get("model_type")),
        model_tokenizer_class=_text_or_none(model.get("tokenizer_class")),
        special_tokens_map=optional("special_tokens_map.json"),
        added_tokens=added,
        templates=_templates(folder, config),
    )


def _text_or_none(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _templates(folder: Path, config: Mapping[str, Any]) -> dict[str, str]:
    """Chat templates by name: files win over tokenizer_config.json."""
    found: dict[str, str] = {}
    whole = Folder(path=folder, name=str(folder))
    path = whole.file("chat_template.jinja")
    if path is not None:
        found["default"] = read_text(path, MAX_TEMPLATE_BYTES)
    more = folder / "additional_chat_templates"
    if more.is_dir():
        for name in sorted(f"{more.name}/{file.name}" for file in more.glob("*.jinja"))[:64]:
            file = whole.file(name)
            if file is not None:
                found[file.stem] = read_text(file, MAX_TEMPLATE_BYTES)
    if found:
        return found
    value = config.get("chat_template")
    if isinstance(value, str):
        return {"default": value}
    if isinstance(value, list):
        value = {item.get("name"): item.get("template") for item in value if isinstance(item, dict)}
    if isinstance(value, dict):
        return {name: text for name, text in value.items() if isinstance(name, str) and isinstance(text, str)}
    if value is not None:
        raise ValueError(
            f"{folder / 'tokenizer_config.json'}: chat_template should be text, is a {type(value).__name__}"
        )
    return {}


def check_id(value: Any, where: str) -> int:
    """A token id in 0 .. 2**31-1."""
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MAX_TOKEN_ID:
        raise ValueError(f"{where}: the id {value!r} should be a whole number from 0 to {MAX_TOKEN_ID}")
    return value


def read_tokenizer_json(path: Path) -> dict[str, Any]:
    """tokenizer.json with its vocabulary and added tokens checked, padding and truncation switched off but kept aside.

    What the file says about padding and truncation comes back under "stored_padding" and "stored_truncation".
    """
    data = parse_json(read_text(path, MAX_TOKENIZER_BYTES), path)
    model = data.get("model")
    if not isinstance(model, dict):
        raise ValueError(f"{path}: model should be an object, is {type(model).__name__}")
    check_vocab(model.get("vocab"), f"{path}: model.vocab")
    added = data.get("added_tokens")
    if added is None:
        added = data["added_tokens"] = []
    if not isinstance(added, list) or len(added) > MAX_VOCAB:
        raise ValueError(f"{path}: added_tokens should be a list of at most {MAX_VOCAB}")
    for entry in added:
        if not isinstance(entry, dict) or not isinstance(entry.get("content"), str):
            raise ValueError(f"{path}: added_tokens: {entry!r} should be an object with content and id")
        check_id(entry.get("id"), f"{path}: added_tokens: {entry['content']!r}")
    for part in ("normalizer", "decoder"):
        if growth(data.get(part)) > MAX_GROWTH:
            raise ValueError(f"{path}: {part} would make a text more than {MAX_GROWTH} times longer")
    data["stored_padding"], data["stored_truncation"] = data.get("padding"), data.get("truncation")
    data["padding"] = data["truncation"] = None
    return data


def check_vocab(vocab: Any, where: str) -> None:
    """A vocabulary is {token: id} or [[token, score], ...], of at most MAX_VOCAB entries."""
    if not isinstance(vocab, (dict, list)):
        raise ValueError(f"{where} should be an object or a list, is {type(vocab).__name__}")
    if len(vocab) > MAX_VOCAB:
        raise ValueError(f"{where} has {len(vocab)} tokens; at most {MAX_VOCAB} are read")
    if isinstance(vocab, dict):
        for token, index in vocab.items():
            if type(index) is not int or not 0 <= index <= MAX_TOKEN_ID:
                check_id(index, f"{where}: {token!r}")
        return
    for entry in vocab:
        if not (
            isinstance(entry, list)
            and len(entry) == 2
            and isinstance(entry[0], str)
            and isinstance(entry[1], (int, float))
            and not isinstance(entry[1], bool)
        ):
            raise ValueError(f"{where}: {entry!r} should be [token, score]")


def growth(part: Any) -> float:
    """How many times longer at most a normaliser or decoder (as JSON) makes a text by its replacements."""
    if isinstance(part, list):
        total = 1.0
        for item in part:
            total *= growth(item)
        return total
    if not isinstance(part, dict):
        return 1.0
    total = 1.0
    content, pattern = part.get("content"), part.get("pattern")
    if part.get("type") == "Replace" and isinstance(content, str) and isinstance(pattern, dict):
        # A regular expression may match as little as one character, or none.
        shortest = len(pattern["String"]) if isinstance(pattern.get("String"), str) else 1
        total = max(1.0, len(content) / max(1, shortest))
    return total * growth(part.get("normalizers")) * growth(part.get("decoders"))


def read_vocab_txt(path: Path) -> dict[str, int]:
    """One token a line; the id is the line number from 0."""
    lines = read_text(path, MAX_TOKENIZER_BYTES).split("\n")
    if lines and not lines[-1]:
        lines.pop()
    vocab = {line.rstrip(): index for index, line in enumerate(lines)}
    check_vocab(vocab, str(path))
    return vocab


def read_vocab_json(path: Path) -> dict[str, int]:
    """{token: id}."""
    vocab = parse_json(read_text(path, MAX_TOKENIZER_BYTES), path)
    check_vocab(vocab, str(path))
    return vocab


def read_merges(path: Path) -> list[tuple[str, str]]:
    """Two tokens a line, best merge first; a first line that begins with #version is skipped."""
    pairs: list[tuple[str, str]] = []
    for number, line in enumerate(read_text(path, MAX_TOKENIZER_BYTES).split("\n"), 1):
        line = line.rstrip("\r")
        if not line or line.startswith("#version"):
            continue
        parts = line.split(" ")
        if len(parts) != 2:
            raise ValueError(f"{path}: line {number} should hold two tokens, holds {len(parts)}")
        pairs.append((parts[0], parts[1]))
    if len(pairs) > 2 * MAX_VOCAB:
        raise ValueError(f"{path}: {len(pairs)} merges; at most {2 * MAX_VOCAB} are read")
    return pairs
