"""Text to token ids and back: `Tokenizer.from_folder(path)` reads what published checkpoints carry."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from . import tokenizer_save
from .encoding import BatchEncoding, as_tensors
from .marian import assemble_marian, is_marian
from .rows import after_prompt, clean_up_spaces, collect, columns_of, items_of, pad_row
from .special_tokens import SpecialTokens
from .tokenizer_build import Assembled, assemble
from .tokenizer_files import native, read_folder
from .tokenizer_kinds import kind_of

NO_LIMIT = int(1e30)  # model_max_length of a tokenizer that names none
USABLE_LIMIT = int(1e20)
TRUNCATIONS = ("longest_first", "only_first", "only_second", "do_not_truncate")
PADDINGS = ("longest", "max_length", "do_not_pad")

Text = str | Sequence[str] | Sequence[Sequence[str]]


class Tokenizer(SpecialTokens):
    """Turns texts into ids for a model, and ids into text.

    Use `Tokenizer.from_folder(folder)`; calling the object tokenizes. Settings that may be assigned: `padding_side`,
    `truncation_side` ("left", "right"), `model_max_length`, `model_input_names`, `src_lang`, `tgt_lang`,
    `chat_template` and the special tokens, such as `tokenizer.pad_token = tokenizer.eos_token`.
    """

    is_fast = True

    def __init__(self, assembled: Assembled) -> None:
        self.settings = settings = assembled.settings
        self.backend = assembled.backend
        self.kind = assembled.kind
        self.class_name = assembled.class_name
        self.coder = assembled.coder
        self._named = assembled.named
        self._extra = assembled.extra
        self._lock = threading.Lock()
        self.padding_side = assembled.padding_side
        self.truncation_side = assembled.truncation_side
        self.model_max_length = _limit(settings)
        self.model_input_names = list(settings.get("model_input_names") or self.kind.inputs)
        self.clean_up_tokenization_spaces = bool(settings.get("clean_up_tokenization_spaces", False))
        self.chat_template: str | dict[str, str] | None = _one_or_all(assembled.templates)
        self._src_lang: str | None = settings.get("src_lang") or self.kind.default_language
        self.tgt_lang: str | None = settings.get("tgt_lang")
        self._set_post_processor()

    @classmethod
    def from_folder(cls, path: str | os.PathLike[str]) -> Tokenizer:
        """Read the tokenizer in a folder; ValueError names the file that is missing or wrong."""
        files = read_folder(Path(path))
        return cls(assemble_marian(files) if is_marian(files) else assemble(files))

    def save_pretrained(self, save_directory: str | os.PathLike[str]) -> tuple[str, ...]:
        """Write the tokenizer's files into a folder and return their paths; each file appears whole or not at all."""
        return tokenizer_save.save(self, Path(save_directory))

    def __getstate__(self) -> dict[str, Any]:
        """For copies in other processes: all but the lock, and the kind by its name."""
        return {name: value for name, value in self.__dict__.items() if name not in ("_lock", "kind")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _lock=threading.Lock(), kind=kind_of(state["class_name"]))

    def __repr__(self) -> str:
        limit = "none" if self.model_max_length > USABLE_LIMIT else self.model_max_length
        return f"Tokenizer({self.class_name}, {len(self)} tokens, at most {limit}, special {self.special_tokens_map})"

    # text to ids

    def __call__(
        self,
        text: Text | None = None,
        text_pair: Text | None = None,
        *,
        padding: bool | str = False,
        truncation: bool | str | None = None,
        max_length: int | None = None,
        stride: int = 0,
        return_overflowing_tokens: bool = False,
        add_special_tokens: bool = True,
        return_tensors: str | None = None,
        return_offsets_mapping: bool = False,
        return_token_type_ids: bool | None = None,
        return_attention_mask: bool | None = None,
        return_special_tokens_mask: bool = False,
        return_length: bool = False,
        is_split_into_words: bool = False,
        text_target: Text | None = None,
        padding_side: str | None = None,
        pad_to_multiple_of: int | None = None,
    ) -> BatchEncoding:
        """Tokenize a text or a batch; lists of ids (a flat one for one text), or (B, T) tensors with `return_tensors`.

        With `max_length` and neither padding nor truncation given, texts are cut. Texts longer than the model takes
        are not an error here. `text_target` tokenizes for the decoder, under "labels" when `text` is given too.
        """
        if text is None and text_target is None:
            raise ValueError("text is missing: pass text, text_target or both")
        names = self.model_input_names
        want = {
            "token_type_ids": "token_type_ids" in names if return_token_type_ids is None else return_token_type_ids,
            "attention_mask": "attention_mask" in names if return_attention_mask is None else return_attention_mask,
            "special_tokens_mask": return_special_tokens_mask,
            "offset_mapping": return_offsets_mapping,
            "length": return_length,
        }
        if self.coder is not None and return_offsets_mapping:
            raise ValueError(f"return_offsets_mapping: {self.class_name} keeps no offsets")
        how = self._limits(padding, truncation, max_length, stride, padding_side, pad_to_multiple_of)

        def run(source: Text, pair: Text | None, *, target: bool) -> BatchEncoding:
            items, batched = items_of(source, pair, is_split_into_words)
            rows = self._rows(items, how, add_special_tokens, is_split_into_words, target=target)
            return collect(rows, want, return_overflowing_tokens, return_tensors, flat=not batched)

        if text_target is None:
            assert text is not None
            return run(text, text_pair, target=False)
        labels = run(text_target, None, target=True)
        if text is None:
            return labels
        encoding = run(text, text_pair, target=False)
        encoding["labels"] = labels["input_ids"]
        return encoding

    def _limits(
        self,
        padding: bool | str,
        truncation: bool | str | None,
        max_length: int | None,
        stride: int,
        padding_side: str | None,
        multiple: int | None,
    ) -> tuple[dict[str, Any] | None, dict[str, Any] | None]:
        """Settings for the backend: (truncation or None, padding or None)."""
        if max_length is not None and padding is False and truncation is None:
            truncation = "longest_first"
        cut = "longest_first" if truncation is True else truncation or "do_not_truncate"
        pad = "longest" if padding is True else padding or "do_not_pad"
        _allowed("truncation", cut, TRUNCATIONS)
        _allowed("padding", pad, PADDINGS)
        side = padding_side if padding_side is not None else self.padding_side
        _allowed("padding_side", side, ("left", "right"))
        _allowed("truncation_side", self.truncation_side, ("left", "right"))
        if max_length is not None and not (type(max_length) is int and 0 < max_length < 1 << 31):
            raise ValueError(f"max_length is {max_length!r}; allowed: a whole number above 0 and below 2**31, or None")
        if max_length is None and self.model_max_length <= USABLE_LIMIT:
            max_length = self.model_max_length
        truncate = None
        if cut != "do_not_truncate" and max_length is not None:
            if not isinstance(stride, int) or not 0 <= stride < max_length:
                raise ValueError(f"stride is {stride!r}; allowed: from 0 to max_length - 1 = {max_length - 1}")
            truncate = {
                "max_length": max_length,
                "stride": stride,
                "strategy": cut,
                "direction": self.truncation_side,
            }
        if pad == "do_not_pad" or (pad == "max_length" and max_length is None):
            return truncate, None
        if self.pad_token is None:
            raise ValueError(
                "padding: this tokenizer has no pad_token; set one, for example tokenizer.pad_token = "
                "tokenizer.eos_token"
            )
        return truncate, {
            "length": max_length if pad == "max_length" else None,
            "direction": side,
            "pad_id": self.pad_token_id,
            "pad_token": self.pad_token,
            "pad_type_id": self.pad_token_type_id,
            "pad_to_multiple_of": multiple,
        }

    def _rows(
        self,
        items: Sequence[Any],
        how: tuple[dict[str, Any] | None, dict[str, Any] | None],
        special: bool,
        words: bool,
        *,
        target: bool,
    ) -> list[Any]:
        """Encodings of the backend for texts or pairs."""
        truncate, pad = how
        if self.coder is not None:
            items = [self.coder.item(item, words=words, target=target) for item in items]
            words = True
        if truncate is not None and special:
            pair = any(isinstance(item, tuple) for item in items)
            room = truncate["max_length"] - self.num_special_tokens_to_add(pair)
            if room < 0 or (truncate["stride"] and truncate["stride"] >= room):
                raise ValueError(
                    f"max_length is {truncate['max_length']}, which leaves {room} tokens for text beside the "
                    f"special tokens; "
                    f"stride {truncate['stride']} needs more"
                )
        with self._lock:  # padding and truncation are state of the backend
            language = self.tgt_lang if target and self.kind.default_language else None
            if language:
                self._set_post_processor(language)
            if truncate is not None:
                native("truncation", lambda: self.backend.enable_truncation(**truncate))
            if pad is not None:
                native("padding", lambda: self.backend.enable_padding(**pad))
            try:
                return native(
                    "text",
                    lambda: self.backend.encode_batch(items, is_pretokenized=words, add_special_tokens=special),
                )
            finally:
                self.backend.no_truncation()
                self.backend.no_padding()
                if language:
                    self._set_post_processor()

    def encode(
        self,
        text: Text,
        text_pair: Text | None = None,
        *,
        add_special_tokens: bool = True,
        padding: bool | str = False,
        truncation: bool | str | None = None,
        max_length: int | None = None,
        return_tensors: str | None = None,
    ) -> Any:
        """The ids alone."""
        return self(
            text,
            text_pair,
            add_special_tokens=add_special_tokens,
            padding=padding,
            truncation=truncation,
            max_length=max_length,
            return_tensors=return_tensors,
        )["input_ids"]

    def tokenize(self, text: str, pair: str | None = None, *, add_special_tokens: bool = False) -> list[str]:
        """The tokens of a text as text."""
        items, _ = items_of(text, pair, False)
        if self.coder is not None and not add_special_tokens:
            return [piece for part in (text, pair) if part for piece in self.coder.words(part, target=False)]
        return self._rows(items, (None, None), add_special_tokens, False, target=False)[0].tokens

    def pad(
        self,
        encoded_inputs: Mapping[str, Any] | Sequence[Mapping[str, Any]],
        padding: bool | str = True,
        max_length: int | None = None,
        *,
        pad_to_multiple_of: int | None = None,
        padding_side: str | None = None,
        return_tensors: str | None = None,
    ) -> BatchEncoding:
        """Pad encodings (a list of them, or a mapping of lists) to one length; other columns are kept as they are."""
        single = isinstance(encoded_inputs, Mapping)
        columns = columns_of(encoded_inputs)
        if single and columns["input_ids"] and isinstance(columns["input_ids"][0], int):
            columns = {name: [value] for name, value in columns.items()}
        else:
            single = False
        _, pad = self._limits(padding, False, max_length, 0, padding_side, pad_to_multiple_of)
        columns.setdefault("attention_mask", [[1] * len(row) for row in columns["input_ids"]])
        if pad is not None and columns["input_ids"]:
            length = pad["length"] or max(len(row) for row in columns["input_ids"])
            if pad_to_multiple_of:
                length = -(-length // pad_to_multiple_of) * pad_to_multiple_of
            fill = {"input_ids": pad["pad_id"], "attention_mask": 0, "token_type_ids": 0, "special_tokens_mask": 1}
            for name, value in fill.items():
                if name in columns:
                    columns[name] = [pad_row(row, length, value, pad["direction"]) for row in columns[name]]
        if return_tensors is not None:
            return BatchEncoding(as_tensors(columns, return_tensors))
        return BatchEncoding({name: rows[0] for name, rows in columns.items()} if single else columns)

    # ids to text

    def decode(
        self, token_ids: Any, skip_special_tokens: bool = False, clean_up_tokenization_spaces: bool | None = None
    ) -> Any:
        """The text of ids (a list, array or tensor; one id is allowed); a list of texts for a batch of ids."""
        ids = token_ids.tolist() if hasattr(token_ids, "tolist") else token_ids
        if isinstance(ids, Mapping):
            ids = ids["input_ids"]
        if not isinstance(ids, (int, list, tuple)):
            raise ValueError(f"token_ids is {ids!r}; allowed: ids as a list, array or tensor")
        ids = [ids] if isinstance(ids, int) else [row.tolist() if hasattr(row, "tolist") else row for row in ids]
        if ids and isinstance(ids[0], (list, tuple)):
            return [self.decode(row, skip_special_tokens, clean_up_tokenization_spaces) for row in ids]
        for index in ids:
            if isinstance(index, bool) or not isinstance(index, int) or not 0 <= index < 1 << 32:
                raise ValueError(f"token_ids: {index!r} is no token id (replace -100 in labels by pad_token_id first)")
        return self._finish(self._join(ids, skip_special_tokens), clean_up_tokenization_spaces)

    def _join(self, ids: list[int], skip: bool) -> str:
        if self.coder is not None:
            return self.coder.decode(self.convert_ids_to_tokens(ids, skip), self.all_special_tokens)
        if skip and self.kind.prompt is not None:
            ids = after_prompt(ids, *(self.backend.token_to_id(token) for token in self.kind.prompt))
        return native("token_ids", lambda: self.backend.decode(ids, skip_special_tokens=skip))

    def _finish(self, text: str, clean_up: bool | None) -> str:
        if self.kind.strip_suffix:
            text = text.replace(self.kind.strip_suffix, " ").strip()
        if self.cleans_up(clean_up):
            text = clean_up_spaces(text)
        return re.sub(self.kind.erase, "", text) if self.kind.erase else text

    def cleans_up(self, asked: bool | None = None) -> bool:
        """Whether decoding removes spaces before punctuation; never for byte-pair vocabularies, whose spaces are
        meant."""
        asked = self.clean_up_tokenization_spaces if asked is None else asked
        return bool(asked) and type(self.backend.model).__name__ != "BPE"

    def batch_decode(
        self, sequences: Any, skip_special_tokens: bool = False, clean_up_tokenization_spaces: bool | None = None
    ) -> list[str]:
        """The texts of a batch of ids."""
        found = self.decode(sequences, skip_special_tokens, clean_up_tokenization_spaces)
        return [found] if isinstance(found, str) else found

    def convert_tokens_to_string(self, tokens: Sequence[str]) -> str:
        """Join tokens (not ids) into text."""
        if self.coder is not None:
            return self.coder.decode(list(tokens), self.all_special_tokens)
        decoder = self.backend.decoder
        return " ".join(tokens) if decoder is None else native("tokens", lambda: decoder.decode(list(tokens)))

    def apply_chat_template(
        self,
        conversation: Sequence[Any],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        chat_template: str | None = None,
        add_generation_prompt: bool = False,
        tokenize: bool = True,
        padding: bool | str = False,
        truncation: bool | str | None = False,
        max_length: int | None = None,
        return_tensors: str | None = None,
        return_dict: bool = False,
        **variables: Any,
    ) -> Any:
        """A conversation ([{"role": ..., "content": ...}, ...], or a list of those) as the model's own prompt.

        Gives ids, text (`tokenize=False`) or a BatchEncoding (`return_dict=True`). `variables` are seen by the
        template. ValueError carries the template's own message, or says which limit it went over.
        """
        if not conversation:
            raise ValueError("conversation is empty; pass at least one message")
        from .chat import pick_template, render_chat  # and with it jinja2

        source = pick_template(self.chat_template, chat_template, with_tools=tools is not None)
        batched = isinstance(conversation[0], (list, tuple))
        given = {**self.special_tokens_map, **variables}
        texts = [
            render_chat(source, messages, tools=tools, add_generation_prompt=add_generation_prompt, variables=given)
            for messages in (conversation if batched else [conversation])
        ]
        if not tokenize:
            return texts if batched else texts[0]
        encoding = self(
            texts if batched else texts[0],
            padding=padding,
            truncation=truncation,
            max_length=max_length,
            add_special_tokens=False,
            return_tensors=return_tensors,
        )
        return encoding if return_dict else encoding["input_ids"]


def _limit(settings: Mapping[str, Any]) -> int:
    value = settings.get("model_max_length", settings.get("max_len"))
    if value is None:
        return NO_LIMIT
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not value > 0:
        raise ValueError(f"tokenizer_config.json: model_max_length is {value!r}; allowed: a number above 0")
    return int(min(value, NO_LIMIT))


def _one_or_all(templates: dict[str, str]) -> str | dict[str, str] | None:
    return templates["default"] if list(templates) == ["default"] else (templates or None)


def _allowed(name: str, value: Any, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"{name} is {value!r}; allowed: {', '.join(map(repr, allowed))}, True, False")
