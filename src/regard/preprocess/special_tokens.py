"""The special tokens of a tokenizer: by name, by id, and adding more."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, overload

import tokenizers
from tokenizers import AddedToken

from .tokenizer_build import attach, ends_post, template
from .tokenizer_files import native
from .tokenizer_kinds import Kind, Post
from .tokenizer_specials import SPECIAL_NAMES, Token, added_token


class _Named:
    """A special token as text; None when the tokenizer has none. Assigning an existing token is enough for
    `pad_token`."""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, owner: Any, kind: type | None = None) -> str | None:
        value = owner._named.get(self.name)
        return None if value is None else str(value)

    def __set__(self, owner: Any, value: Token | None) -> None:
        owner._set_named(self.name, value)


class _NamedId:
    """The id of a special token; None when the tokenizer has none."""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name.removesuffix("_id")

    def __get__(self, owner: Any, kind: type | None = None) -> int | None:
        value = owner._named.get(self.name)
        return None if value is None else owner.convert_tokens_to_ids(str(value))

    def __set__(self, owner: Any, value: int | None) -> None:
        owner._set_named(self.name, None if value is None else owner.convert_ids_to_tokens(value))


class SpecialTokens:
    """Special tokens and the vocabulary; the part of `Tokenizer` that does not read text."""

    backend: tokenizers.Tokenizer
    _named: dict[str, Token]
    _extra: list[Token]
    kind: Kind
    class_name: str
    settings: dict[str, Any]
    _src_lang: str | None

    bos_token = _Named()
    eos_token = _Named()
    unk_token = _Named()
    sep_token = _Named()
    pad_token = _Named()
    cls_token = _Named()
    mask_token = _Named()
    bos_token_id = _NamedId()
    eos_token_id = _NamedId()
    unk_token_id = _NamedId()
    sep_token_id = _NamedId()
    pad_token_id = _NamedId()
    cls_token_id = _NamedId()
    mask_token_id = _NamedId()
    pad_token_type_id = 0

    def __getattr__(self, name: str) -> Any:
        """Special tokens that only some checkpoints have, such as image_token and image_token_id."""
        named = self.__dict__.get("_named", {})
        if name in named:
            return str(named[name])
        if name.removesuffix("_id") in named:
            return self.convert_tokens_to_ids(str(named[name.removesuffix("_id")]))
        raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")

    def _set_named(self, name: str, value: Token | None) -> None:
        if value is not None and not isinstance(value, (str, AddedToken)):
            raise ValueError(f"{name} is {value!r}; allowed: text or None")
        if value is None:
            self._named.pop(name, None)
            return
        self._named[name] = value
        rank = {known: position for position, known in enumerate(SPECIAL_NAMES)}
        self._named = dict(sorted(self._named.items(), key=lambda item: rank.get(item[0], len(rank))))

    @property
    def special_tokens_map(self) -> dict[str, str]:
        """Named special tokens."""
        return {name: str(token) for name, token in self._named.items()}

    @property
    def additional_special_tokens(self) -> list[str]:
        """Special tokens without a name."""
        return [str(token) for token in self._extra]

    @additional_special_tokens.setter
    def additional_special_tokens(self, value: Sequence[Token]) -> None:
        self._extra = list(value)

    extra_special_tokens = additional_special_tokens

    @property
    def additional_special_tokens_ids(self) -> list[int]:
        """Ids of the special tokens without a name."""
        return self.convert_tokens_to_ids(self.additional_special_tokens)

    @property
    def all_special_tokens(self) -> list[str]:
        """All special tokens once, named ones first."""
        return list(dict.fromkeys([*map(str, self._named.values()), *map(str, self._extra)]))

    @property
    def all_special_ids(self) -> list[int]:
        """Ids of `all_special_tokens`."""
        return self.convert_tokens_to_ids(self.all_special_tokens)

    # the vocabulary

    @property
    def vocab_size(self) -> int:
        """Size of the model's vocabulary, without added tokens."""
        return self.backend.get_vocab_size(with_added_tokens=False)

    def __len__(self) -> int:
        """Size of the vocabulary with added tokens."""
        return self.backend.get_vocab_size(with_added_tokens=True)

    def __bool__(self) -> bool:
        return True

    def get_vocab(self) -> dict[str, int]:
        """{token: id} with added tokens."""
        return self.backend.get_vocab(with_added_tokens=True)

    @property
    def vocab(self) -> dict[str, int]:
        """{token: id} with added tokens."""
        return self.get_vocab()

    @property
    def added_tokens_decoder(self) -> dict[int, AddedToken]:
        """{id: token} of tokens that are matched before the model reads the text."""
        return dict(sorted(self.backend.get_added_tokens_decoder().items()))

    def get_added_vocab(self) -> dict[str, int]:
        """{token: id} of `added_tokens_decoder`."""
        return {token.content: index for index, token in self.added_tokens_decoder.items()}

    @overload
    def convert_tokens_to_ids(self, tokens: str) -> int: ...  # type: ignore[overload-overlap]

    @overload
    def convert_tokens_to_ids(self, tokens: Sequence[str]) -> list[int]: ...

    def convert_tokens_to_ids(self, tokens: str | Sequence[str]) -> int | list[int]:
        """Ids of tokens; a token outside the vocabulary gets the id of unk_token (None when there is none)."""
        if isinstance(tokens, str):
            index = self.backend.token_to_id(tokens)
            if index is None and "unk_token" in self._named:
                index = self.backend.token_to_id(str(self._named["unk_token"]))
            return index  # type: ignore[return-value]  # None without unk_token, as in the reference
        return [self.convert_tokens_to_ids(token) for token in tokens]

    @overload
    def convert_ids_to_tokens(self, ids: int, skip_special_tokens: bool = False) -> str: ...

    @overload
    def convert_ids_to_tokens(self, ids: Sequence[int], skip_special_tokens: bool = False) -> list[str]: ...

    def convert_ids_to_tokens(self, ids: int | Sequence[int], skip_special_tokens: bool = False) -> str | list[str]:
        """Tokens of ids; None for ids outside the vocabulary."""
        if isinstance(ids, int):
            return native(f"id {ids}", lambda: self.backend.id_to_token(ids))  # type: ignore[return-value]
        skipped = set(self.all_special_ids) if skip_special_tokens else set()
        return [self.convert_ids_to_tokens(int(index)) for index in ids if int(index) not in skipped]

    # special tokens around the text

    @property
    def src_lang(self) -> str | None:
        """The language code that goes with texts, where the kind of tokenizer has one."""
        return self._src_lang

    @src_lang.setter
    def src_lang(self, code: str) -> None:
        self._src_lang = code
        self._set_post_processor()

    def _set_post_processor(self, language: str | None = None) -> None:
        """Put this kind's special tokens around texts; kinds without a pattern keep theirs, or get bos/eos as
        configured."""
        post = self.kind.post
        if post is None:
            bos, eos = (bool(self.settings.get(f"add_{end}_token", False)) for end in ("bos", "eos"))
            asked = "add_bos_token" in self.settings or "add_eos_token" in self.settings
            if self.backend.post_processor is not None and self.kind.stored_post and not asked:
                return
            post = ends_post(bos and self.bos_token is not None, eos and self.eos_token is not None)
        needed = {item.partition(":")[0] for item in f"{post.single} {post.pair}".split()} - {"$A", "$B"}
        prompt = self._prompt() if "prompt" in needed else []
        tokens = {name: self._placed(name, language) for name in needed - {"prompt"}}
        tokens |= {f"prompt{i}": (text, self.convert_tokens_to_ids(text)) for i, text in enumerate(prompt)}
        words = " ".join(f"prompt{i}" for i in range(len(prompt)))
        post = Post(
            single=post.single.replace("prompt", words), pair=post.pair.replace("prompt", words), trim=post.trim
        )
        attach(self.backend, "special tokens", post_processor=template(post, tokens, self.settings))

    def _placed(self, name: str, language: str | None) -> tuple[str, int]:
        text = (language or self._src_lang) if name == "lang" else self._named.get(f"{name}_token")
        index = None if text is None else self.backend.token_to_id(str(text))
        if text is None or index is None:
            if name == "lang":
                raise ValueError(f"language {text!r} is not in the vocabulary of this tokenizer")
            raise ValueError(f"this {self.class_name} needs a {name}_token in its vocabulary; it has {text!r}")
        return str(text), index

    def _prompt(self) -> list[str]:
        """What a speech decoder starts with: transcript, language, task, whether there are times."""
        language, task = self.settings.get("language"), self.settings.get("task")
        words = ["<|startoftranscript|>", f"<|{language}|>" if language else "", f"<|{task}|>" if task else ""]
        if not self.settings.get("predict_timestamps"):
            words.append("<|notimestamps|>")
        return [word for word in words if word]

    def num_special_tokens_to_add(self, pair: bool = False) -> int:
        """How many special tokens a text (or pair) gets."""
        return self.backend.num_special_tokens_to_add(pair)

    # growing it

    def add_tokens(self, new_tokens: Token | Sequence[Token], special_tokens: bool = False) -> int:
        """Add tokens that are never split; returns how many are new. Give the model as many embeddings afterwards."""
        tokens = [new_tokens] if isinstance(new_tokens, (str, AddedToken)) else list(new_tokens)
        if not all(isinstance(token, (str, AddedToken)) for token in tokens):
            raise ValueError(f"new_tokens is {new_tokens!r}; allowed: text, AddedToken, or a list of them")
        add = self.backend.add_special_tokens if special_tokens else self.backend.add_tokens
        return native("new_tokens", lambda: add(tokens))

    def add_special_tokens(
        self, special_tokens_dict: Mapping[str, Any], replace_extra_special_tokens: bool = True
    ) -> int:
        """Name special tokens ({"pad_token": "[PAD]", "additional_special_tokens": [...]}); returns how many are
        new."""
        tokens: list[Token] = []
        for name, value in special_tokens_dict.items():
            if name in ("additional_special_tokens", "extra_special_tokens"):
                new = [added_token(item, name, special=True, normalized=False) for item in value]
                kept = [] if replace_extra_special_tokens and new else self._extra
                self._extra = [*kept, *(token for token in new if str(token) not in map(str, kept))]
                tokens += new
            elif name in SPECIAL_NAMES:
                token = added_token(value, name, special=True, normalized=False)
                self._set_named(name, token)
                tokens.append(token)
            else:
                raise ValueError(
                    f"special token {name!r} is unknown; allowed: {', '.join(SPECIAL_NAMES)}, additional_special_tokens"
                )
        return self.add_tokens(tokens, special_tokens=True) if tokens else 0
