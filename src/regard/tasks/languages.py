"""How a translation model is told its languages: in words, by a token before the text, or by tokens on both sides."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from typing import Any

from regard.preprocess.text import Tokenizer

_PAIR = re.compile(r"translation_(.+?)_to_(.+)")
_CODE = re.compile(r"[a-z]{2,3}_([A-Z]{2}|[A-Z][a-z]{3})")
_MARKED = re.compile(r">>.+<<")


@dataclass(frozen=True)
class Direction:
    """Text before the input, the language that the tokenizer marks it with, the token that output must begin with."""

    prefix: str = ""
    source: str | None = None
    forced: int | None = None


def direction(tokenizer: Tokenizer, params: Any, source: str | None, target: str | None) -> Direction:
    """What a model needs in order to translate from `source` to `target`.

    `params` is `task_specific_params` of config.json. Raises ValueError for a language that the model does not know,
    and for a missing one where several are possible.
    """
    pairs = {key: value for key, value in (params.items() if isinstance(params, dict) else ()) if _PAIR.fullmatch(key)}
    if pairs:
        return _in_words(pairs, source, target)
    if tokenizer.kind.default_language is not None:
        if source is None or target is None:
            raise ValueError("this model translates between many languages; give src_lang and tgt_lang")
        codes = [token for token in tokenizer.all_special_tokens if _CODE.fullmatch(token)]
        chosen, wanted = _code(source, codes, "src_lang"), _code(target, codes, "tgt_lang")
        return Direction(source=chosen, forced=tokenizer.convert_tokens_to_ids(wanted))
    marks = [token for token in tokenizer.get_vocab() if _MARKED.fullmatch(token)]
    if marks and target is not None:
        return Direction(prefix=f">>{_code(target, [mark[2:-2] for mark in marks], 'tgt_lang')}<< ")
    return Direction()


def _in_words(pairs: dict[str, Any], source: str | None, target: str | None) -> Direction:
    if source is None and target is None:
        return Direction()  # the text says itself what is to be done
    found = pairs.get(f"translation_{source}_to_{target}")
    if not isinstance(found, dict):
        raise ValueError(
            f"src_lang and tgt_lang are {source!r} and {target!r}; this model has {', '.join(sorted(pairs))}; "
            "for others pass prefix="
        )
    return Direction(prefix=str(found.get("prefix", "")))


def _code(name: str, codes: list[str], field: str) -> str:
    """A language code as the model spells it; a short one ("en") stands for the only long one that begins so."""
    if name in codes:
        return name
    longer = [code for code in codes if code.startswith(f"{name}_")]
    if len(longer) == 1:
        return longer[0]
    near = longer or difflib.get_close_matches(name, codes, 4) or sorted(codes)[:8]
    raise ValueError(f"{field} is {name!r:.40}; allowed: one of {len(codes)} languages, such as {', '.join(near)}")
