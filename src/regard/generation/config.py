"""What `generate` may be told, checked before anything runs."""

from __future__ import annotations

import dataclasses
import difflib
import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

log = logging.getLogger("regard")

Ids = tuple[int, ...]

# Fields of a checkpoint's generation_config.json that would change what is written and that are not built here, with
# the values that mean "off".
_NOT_BUILT: dict[str, tuple[Any, ...]] = {
    "penalty_alpha": (None, 0),
    "guidance_scale": (None, 1),
    "sequence_bias": (None,),
    "exponential_decay_length_penalty": (None,),
    "encoder_repetition_penalty": (None, 1),
    "epsilon_cutoff": (None, 0),
    "eta_cutoff": (None, 0),
    "top_h": (None,),
    "force_words_ids": (None,),
    "constraints": (None,),
    "dola_layers": (None,),
    "watermarking_config": (None,),
}


@dataclass(frozen=True, kw_only=True)
class GenerationConfig:
    """Options of `generate`; names and defaults as in the reference library, every value checked.

    Lengths are in tokens; `max_length` and `min_length` count the prompt as it is laid out (the widest of a batch, or
    the decoder's first tokens), `max_new_tokens` and `min_new_tokens` do not. `temperature` 0 means greedy.
    `seed` is one number or one per input; a row's text depends on its own seed only, not on the batch.
    Of texts longer than `max_context` the oldest tokens are forgotten, as is good for positions that have no end where
    the model was trained on shorter texts.
    Rows above `batch_size` wait, and take the places of finished ones.
    `prompt_lookup_num_tokens` guesses so many tokens from where the last ones (up to `max_matching_ngram_size`)
    occurred before, `assistant_model` `num_assistant_tokens` by a smaller model of the same vocabulary; they are read
    in one pass, which changes no token. Rows are then written one by one.
    """

    max_new_tokens: int | None = None
    max_length: int | None = None
    min_new_tokens: int | None = None
    min_length: int = 0
    max_time: float | None = None
    stop_strings: tuple[str, ...] = ()
    on_long_prompt: Literal["error", "slide"] = "error"
    max_context: int | None = None

    do_sample: bool = False
    temperature: float = 1.0
    top_k: int = 50
    top_p: float = 1.0
    min_p: float | None = None
    typical_p: float = 1.0
    seed: int | tuple[int, ...] | None = None
    num_return_sequences: int = 1

    batch_size: int | None = None
    prompt_lookup_num_tokens: int | None = None
    max_matching_ngram_size: int = 2
    assistant_model: Any = None
    num_assistant_tokens: int = 5

    num_beams: int = 1
    num_beam_groups: int = 1
    diversity_penalty: float = 0.0
    length_penalty: float = 1.0
    early_stopping: bool | Literal["never"] = False

    repetition_penalty: float = 1.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    no_repeat_ngram_size: int = 0
    encoder_no_repeat_ngram_size: int = 0
    bad_words_ids: tuple[Ids, ...] = ()
    suppress_tokens: Ids = ()
    begin_suppress_tokens: Ids = ()
    forced_bos_token_id: int | None = None
    forced_eos_token_id: Ids = ()
    forced_decoder_ids: tuple[tuple[int, int | None], ...] = ()
    remove_invalid_values: bool = False
    renormalize_logits: bool = False
    prefix_allowed_tokens_fn: Callable[..., Any] | None = None
    logits_processor: tuple[Callable[..., Any], ...] = ()
    stopping_criteria: tuple[Callable[..., Any], ...] = ()

    eos_token_id: Ids = ()
    pad_token_id: int | None = None
    bos_token_id: int | None = None
    decoder_start_token_id: int | None = None

    streamer: Any = None
    tokenizer: Any = None
    use_cache: bool = True
    output_scores: bool = False
    return_dict_in_generate: bool = False

    def __post_init__(self) -> None:
        for name, (ok, allowed) in _CHECKS.items():
            value = _plain(getattr(self, name))
            if name in _ONE_OR_MORE and not isinstance(value, tuple):
                value = () if value is None else (value,)
            object.__setattr__(self, name, value)
            if not ok(value):
                raise ValueError(f"{name} is {_short(value)}; allowed: {allowed}")
        if self.temperature == 0:
            object.__setattr__(self, "do_sample", False)
        self._check_relations()

    def _check_relations(self) -> None:
        beams, groups, copies = self.num_beams, self.num_beam_groups, self.num_return_sequences
        if beams % groups:
            raise ValueError(f"num_beam_groups is {groups}; allowed: a divisor of num_beams, which is {beams}")
        if groups > 1 and self.do_sample:
            raise ValueError("do_sample is True with num_beam_groups > 1; allowed: diverse beams without sampling")
        if self.diversity_penalty and groups == 1:
            raise ValueError(f"diversity_penalty is {self.diversity_penalty} but num_beam_groups is 1; allowed: 0")
        if copies > 1 and not self.do_sample and copies > beams:
            raise ValueError(
                f"num_return_sequences is {copies}; allowed: at most num_beams ({beams}) unless do_sample=True"
            )
        if beams > 1 and copies > beams:
            raise ValueError(f"num_return_sequences is {copies}; allowed: at most num_beams, which is {beams}")
        guesses = [n for n in ("prompt_lookup_num_tokens", "assistant_model") if getattr(self, n) is not None]
        if len(guesses) > 1:
            raise ValueError(f"{' and '.join(guesses)} are set; allowed: one of them")
        alone = guesses or (["batch_size"] if self.batch_size is not None else [])
        if beams > 1 and alone:
            raise ValueError(f"{alone[0]} is set with num_beams={beams}; allowed: 1")
        if beams > 1 and self.streamer is not None:
            raise ValueError(f"streamer is set with num_beams={beams}; allowed: 1, as beams change what came before")

    def replace(self, **changes: Any) -> GenerationConfig:
        """A copy with some options changed (and checked again)."""
        return dataclasses.replace(self, **changes)


# ---------------------------------------------------------------------------------------------------- checks


def _is_int(value: Any, low: int = 0, high: int = 2**31) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def _is_number(value: Any, low: float = -math.inf, high: float = math.inf) -> bool:
    real = isinstance(value, (int, float)) and not isinstance(value, bool)
    return real and math.isfinite(value) and low <= value <= high


def _are_ids(value: Any) -> bool:
    return isinstance(value, tuple) and all(_is_int(i) for i in value)


def _are(kind: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, tuple) and all(kind(v) for v in value)


def _or_none(ok: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: value is None or ok(value)


def _is_seed(value: Any) -> bool:
    return _is_int(value, 0, 2**63 - 1)


def _is_pair(value: Any) -> bool:
    return (
        isinstance(value, tuple) and len(value) == 2 and _is_int(value[0]) and (value[1] is None or _is_int(value[1]))
    )


_FLAG = (lambda v: isinstance(v, bool), "True or False")
_IDS = (_are_ids, "token ids, 0 or more each")
_ID = (_or_none(_is_int), "a token id, or None")
_COUNT = (lambda v: _is_int(v, 1, 2**20), "an integer of 1 or more")
_SHARE = (lambda v: _is_number(v, 0, 1), "a number from 0 to 1")
_ANY = (_or_none(lambda v: _is_number(v)), "a number")
_CALLABLES = (_are(callable), "functions (ids, scores)")

_CHECKS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "max_new_tokens": (_or_none(lambda v: _is_int(v, 1)), "an integer of 1 or more"),
    "max_length": (_or_none(lambda v: _is_int(v, 1)), "an integer of 1 or more"),
    "min_new_tokens": (_or_none(_is_int), "an integer of 0 or more"),
    "min_length": (_is_int, "an integer of 0 or more"),
    "max_time": (_or_none(lambda v: _is_number(v) and v > 0), "a number of seconds above 0"),
    "stop_strings": (_are(lambda s: isinstance(s, str) and bool(s)), "strings that are not empty"),
    "on_long_prompt": (lambda v: v in ("error", "slide"), "'error' or 'slide'"),
    "max_context": (_or_none(lambda v: _is_int(v, 1)), "an integer of 1 or more, or None"),
    "do_sample": _FLAG,
    "temperature": (lambda v: _is_number(v, 0), "a number above 0, or 0 for greedy"),
    "top_k": (_is_int, "an integer of 1 or more, or 0 for no limit"),
    "top_p": _SHARE,
    "min_p": (_or_none(_SHARE[0]), "a number from 0 to 1, or None"),
    "typical_p": (lambda v: _is_number(v, 0, 1) and v > 0, "a number above 0, at most 1"),
    "seed": (lambda v: v is None or _is_seed(v) or _are(_is_seed)(v), "an integer of 0 or more, or one for each input"),
    "num_return_sequences": _COUNT,
    "batch_size": (_or_none(_COUNT[0]), "an integer of 1 or more, or None for all"),
    "prompt_lookup_num_tokens": (_or_none(lambda v: _is_int(v, 1, 31)), "an integer from 1 to 31, or None"),
    "max_matching_ngram_size": (lambda v: _is_int(v, 1, 2**20), "an integer of 1 or more"),
    "assistant_model": (_or_none(lambda v: hasattr(v, "generate")), "a loaded model, or None"),
    "num_assistant_tokens": (lambda v: _is_int(v, 1, 31), "an integer from 1 to 31"),
    "num_beams": _COUNT,
    "num_beam_groups": _COUNT,
    "diversity_penalty": (lambda v: _is_number(v, 0), "a number of 0 or more"),
    "length_penalty": (_is_number, "a number"),
    "early_stopping": (lambda v: isinstance(v, bool) or v == "never", "True, False or 'never'"),
    "repetition_penalty": (lambda v: _is_number(v) and v > 0, "a number above 0; 1 changes nothing"),
    "frequency_penalty": (_is_number, "a number"),
    "presence_penalty": (_is_number, "a number"),
    "no_repeat_ngram_size": (_is_int, "an integer of 0 or more"),
    "encoder_no_repeat_ngram_size": (_is_int, "an integer of 0 or more"),
    "bad_words_ids": (_are(lambda w: _are_ids(w) and len(w) > 0), "a list of lists of token ids, none empty"),
    "suppress_tokens": _IDS,
    "begin_suppress_tokens": _IDS,
    "forced_bos_token_id": _ID,
    "forced_eos_token_id": _IDS,
    "forced_decoder_ids": (_are(_is_pair), "a list of (position, token id)"),
    "remove_invalid_values": _FLAG,
    "renormalize_logits": _FLAG,
    "prefix_allowed_tokens_fn": (_or_none(callable), "a function (input number, ids) -> allowed ids, or None"),
    "logits_processor": _CALLABLES,
    "stopping_criteria": _CALLABLES,
    "eos_token_id": _IDS,
    "pad_token_id": _ID,
    "bos_token_id": _ID,
    "decoder_start_token_id": _ID,
    "streamer": (
        lambda v: v is None or callable(v) or (hasattr(v, "put") and hasattr(v, "end")),
        "a function, an object with put and end, or None",
    ),
    "tokenizer": (lambda v: v is None or hasattr(v, "decode"), "an object with decode, or None"),
    "use_cache": _FLAG,
    "output_scores": _FLAG,
    "return_dict_in_generate": _FLAG,
}
_CALLED = ("logits_processor", "stopping_criteria", "prefix_allowed_tokens_fn")
# What may be given alone where several are possible.
_ONE_OR_MORE = (
    *("stop_strings", "eos_token_id", "forced_eos_token_id", "logits_processor", "stopping_criteria"),
    *("suppress_tokens", "begin_suppress_tokens", "bad_words_ids", "forced_decoder_ids"),
)

_DEFAULTS: dict[str, Any] = {f.name: f.default for f in dataclasses.fields(GenerationConfig)}
assert set(_DEFAULTS) == set(_CHECKS)


def _plain(value: Any) -> Any:
    """Lists, tensors and arrays become tuples and numbers."""
    if hasattr(value, "tolist") and not callable(value):
        value = value.tolist()
    if isinstance(value, (list, tuple)):
        return tuple(_plain(v) for v in value)
    return value


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


# ---------------------------------------------------------------------------------------------------- sources


def check_names(options: Mapping[str, Any]) -> None:
    """Raise a ValueError for an unknown option that names the nearest ones."""
    for name in options:
        if name not in _DEFAULTS:
            near = difflib.get_close_matches(name, _DEFAULTS, 3)
            raise ValueError(f"generate has no option {name!r}; " + (f"near: {', '.join(near)}" if near else _listed()))


def _listed() -> str:
    return f"it has {', '.join(_DEFAULTS)}"


def from_checkpoint(generation: Mapping[str, Any], raw: Mapping[str, Any]) -> dict[str, Any]:
    """Options that a checkpoint brings: generation_config.json, or where there is none, old fields of config.json.

    Raises ValueError naming the file for a value that is not allowed; options not built here give a warning.
    """
    where = "generation_config.json" if generation else "config.json"
    found = {name: value for name, value in (generation or raw).items() if value is not None}
    if not generation:
        nested = (raw.get(name) for name in ("decoder", "generator", "text_config"))
        inner: dict[str, Any] = next((value for value in nested if isinstance(value, dict)), {})
        found = {**{name: value for name, value in inner.items() if value is not None}, **found}
    for name, off in _NOT_BUILT.items():
        if name in found and found[name] not in off:
            log.warning("%s sets %s=%s, which is not built here and has no effect", where, name, found[name])
    options = {name: value for name, value in found.items() if name in _DEFAULTS}
    for name in ("assistant_model", "streamer", "tokenizer", *_CALLED):
        options.pop(name, None)
    for name in ("pad_token_id", "bos_token_id", "decoder_start_token_id", "eos_token_id"):
        if name in options:  # some files write -1 for "none"
            many = options[name] if isinstance(options[name], list) else [options[name]]
            real = [i for i in many if not (isinstance(i, int) and i < 0)]
            options[name] = real if name == "eos_token_id" else next(iter(real), None)
    try:
        GenerationConfig(**{n: v for n, v in options.items() if not n.startswith("num_") and n != "diversity_penalty"})
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None
    return options


def resolve(
    defaults: Mapping[str, Any], base: GenerationConfig | Mapping[str, Any] | None, options: Mapping[str, Any]
) -> GenerationConfig:
    """Defaults of the checkpoint, then `base`, then the call's own options; None turns an option off.

    Raises ValueError for an unknown name, a value that is not allowed, or options that contradict each other.
    """
    check_names(options)
    if isinstance(base, GenerationConfig):
        base = {name: value for name in _DEFAULTS if (value := getattr(base, name)) != _DEFAULTS[name]}
    check_names(base or {})
    asked = {**(base or {}), **options}
    asked = {name: _off(name) if value is None else value for name, value in asked.items()}
    merged = {**defaults, **asked}
    if asked.get("max_length") is not None and asked.get("max_new_tokens") is None:
        merged["max_new_tokens"] = None  # the call's own limit counts, not the checkpoint's
    if asked.get("min_length") and asked.get("min_new_tokens") is None:
        merged["min_new_tokens"] = None
    if "num_beams" in asked and "num_beam_groups" not in asked:
        merged.pop("num_beam_groups", None)
        merged.pop("diversity_penalty", None)
    return GenerationConfig(**merged)


def _off(name: str) -> Any:
    return 0 if name == "top_k" else _DEFAULTS[name]
