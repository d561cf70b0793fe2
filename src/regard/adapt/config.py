"""What an adapter is, in the words of adapter_config.json: LoRA, (IA)3 and prefix tuning, checked field by field."""

from __future__ import annotations

import dataclasses
import enum
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

MAX_RANK = 2**16
MAX_TOKENS = 2**16
_BIASES = ("none", "all", "lora_only")


class TaskType(str, enum.Enum):  # noqa: UP042  StrEnum came with Python 3.11
    """What an adapted model is for; it says which head is trained along."""

    SEQ_CLS = "SEQ_CLS"
    SEQ_2_SEQ_LM = "SEQ_2_SEQ_LM"
    CAUSAL_LM = "CAUSAL_LM"
    TOKEN_CLS = "TOKEN_CLS"
    QUESTION_ANS = "QUESTION_ANS"
    FEATURE_EXTRACTION = "FEATURE_EXTRACTION"


Patterns = str | Sequence[str] | set[str] | frozenset[str]
"""One regular expression for whole names, or several names, endings of names, or globs with `*`."""


@dataclass(frozen=True, kw_only=True)
class AdapterConfig:
    """What all adapters have. `modules_to_save` are trained whole and kept beside the adapter, such as a new head.

    Every field has the name that it has in adapter_config.json. Raises ValueError naming all fields that are wrong.
    """

    peft_type: ClassVar[str] = ""

    task_type: TaskType | str | None = None
    modules_to_save: Sequence[str] | None = None
    base_model_name_or_path: str | None = None
    revision: str | None = None
    inference_mode: bool = False

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, (set, frozenset)) and all(isinstance(item, str) for item in value):
                object.__setattr__(self, field.name, tuple(sorted(value)))
            elif isinstance(value, list):
                object.__setattr__(self, field.name, tuple(value))
        if isinstance(self.task_type, str) and self.task_type in TaskType.__members__:
            object.__setattr__(self, "task_type", TaskType(self.task_type))
        problems = [f"{type(self).__name__}.{problem}" for problem in self.problems()]
        if problems:
            raise ValueError("; ".join(problems))

    def problems(self) -> list[str]:
        """Each field that is wrong: its name, its value, and what is allowed. A subclass adds its own."""
        task = self.task_type is None or isinstance(self.task_type, TaskType)
        return [
            *self.unless(task, "task_type", ", ".join(TaskType.__members__)),
            *self.unless(_names(self.modules_to_save), "modules_to_save", "a list of names of modules"),
            *self.unless(_text(self.base_model_name_or_path), "base_model_name_or_path", "text"),
            *self.unless(_text(self.revision), "revision", "text"),
            *self.unless(isinstance(self.inference_mode, bool), "inference_mode", "true or false"),
        ]

    def unless(self, ok: bool, field: str, allowed: str) -> list[str]:
        """Nothing if all is well, or what to say about a field."""
        return [] if ok else [f"{field} is {getattr(self, field)!r:.80}; allowed: {allowed}"]

    def replace(self, **changes: Any) -> Any:
        """A copy with some fields changed, and checked again."""
        return dataclasses.replace(self, **changes)

    def to_dict(self) -> dict[str, Any]:
        """The content of adapter_config.json."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        plain = {name: list(value) if isinstance(value, tuple) else value for name, value in fields.items()}
        if self.task_type is not None:
            plain["task_type"] = TaskType(self.task_type).value
        return {"peft_type": self.peft_type, **plain}


@dataclass(frozen=True, kw_only=True)
class TargetConfig(AdapterConfig):
    """What adapters have that are put around modules.

    `target_modules` names them as the checkpoint does ("query", "q_proj") or as this library does ("attn.fn.q");
    "all-linear" means every linear module but the head, None the usual ones. `exclude_modules` takes some out again.
    """

    target_modules: Patterns | None = None
    exclude_modules: Patterns | None = None
    fan_in_fan_out: bool = False

    def problems(self) -> list[str]:
        allowed = "a regular expression of few repeats, or a list of names"
        return [
            *super().problems(),
            *self.unless(_patterns(self.target_modules), "target_modules", allowed + ', or "all-linear"'),
            *self.unless(_patterns(self.exclude_modules), "exclude_modules", allowed),
            *self.unless(isinstance(self.fan_in_fan_out, bool), "fan_in_fan_out", "true or false"),
        ]


@dataclass(frozen=True, kw_only=True)
class LoraConfig(TargetConfig):
    """A change of rank `r` to each weight (LoRA, 2106.09685), times lora_alpha / r, or / sqrt(r) with `use_rslora`
    (2312.03732); `use_dora` learns the length of each row apart from its direction (2402.09353).

    `init_lora_weights`: True begins with no change, "gaussian" likewise with other noise in A, False with noise in
    both. `rank_pattern` and `alpha_pattern` give other numbers to modules whose name ends with a key (a regular
    expression). `bias` trains no biases, all, or those of adapted modules. `fan_in_fan_out` changes nothing here.
    """

    peft_type: ClassVar[str] = "LORA"

    r: int = 8
    lora_alpha: int | float = 8
    lora_dropout: float = 0.0
    bias: str = "none"
    use_rslora: bool = False
    use_dora: bool = False
    init_lora_weights: bool | str = True
    layers_to_transform: int | Sequence[int] | None = None
    layers_pattern: str | Sequence[str] | None = None
    rank_pattern: Mapping[str, int] = dataclasses.field(default_factory=dict)
    alpha_pattern: Mapping[str, int | float] = dataclasses.field(default_factory=dict)

    def problems(self) -> list[str]:
        layers = (self.layers_to_transform,) if _whole(self.layers_to_transform) else self.layers_to_transform
        some = layers is None or (isinstance(layers, tuple) and all(_whole(layer) for layer in layers))
        ranks = _table(self.rank_pattern) and all(_whole(r, 1, MAX_RANK) for r in self.rank_pattern.values())
        alphas = _table(self.alpha_pattern) and all(_number(a) for a in self.alpha_pattern.values())
        init = isinstance(self.init_lora_weights, bool) or self.init_lora_weights == "gaussian"
        names = _patterns(self.layers_pattern)
        held = ([self.layers_pattern] if isinstance(self.layers_pattern, str) else self.layers_pattern) if names else ()
        rate = _number(self.lora_dropout) and 0 <= self.lora_dropout < 1
        return [
            *super().problems(),
            *self.unless(_whole(self.r, 1, MAX_RANK), "r", f"an integer from 1 to {MAX_RANK}"),
            *self.unless(_number(self.lora_alpha), "lora_alpha", "a number"),
            *self.unless(rate, "lora_dropout", "a number from 0, below 1"),
            *self.unless(self.bias in _BIASES, "bias", ", ".join(_BIASES)),
            *self.unless(isinstance(self.use_rslora, bool), "use_rslora", "true or false"),
            *self.unless(isinstance(self.use_dora, bool), "use_dora", "true or false"),
            *self.unless(init, "init_lora_weights", 'true, false or "gaussian"'),
            *self.unless(some, "layers_to_transform", "numbers of layers, from 0"),
            *self.unless(names and all(regular(p) for p in held or ()), "layers_pattern", "a name, or a list of names"),
            *self.unless(ranks, "rank_pattern", f"names and integers from 1 to {MAX_RANK}"),
            *self.unless(alphas, "alpha_pattern", "names and numbers"),
        ]

    def rank(self, name: str) -> int:
        """The rank for a module."""
        return int(_pick(self.rank_pattern, name, self.r))

    def scaling(self, name: str, rank: int | None = None) -> float:
        """What the change of a module is multiplied with."""
        r = self.rank(name) if rank is None else rank
        return float(_pick(self.alpha_pattern, name, self.lora_alpha)) / (math.sqrt(r) if self.use_rslora else r)

    def to_dict(self) -> dict[str, Any]:
        plain = super().to_dict()
        return {**plain, "rank_pattern": dict(self.rank_pattern), "alpha_pattern": dict(self.alpha_pattern)}


@dataclass(frozen=True, kw_only=True)
class IA3Config(TargetConfig):
    """A learned factor for each channel (2205.05638): of what a module gives, or of what goes into it for those among
    `feedforward_modules`. By default keys and values, and what goes into the last linear of the feed-forward.
    """

    peft_type: ClassVar[str] = "IA3"

    feedforward_modules: Patterns | None = None
    init_ia3_weights: bool = True

    def problems(self) -> list[str]:
        return [
            *super().problems(),
            *self.unless(_patterns(self.feedforward_modules), "feedforward_modules", "names, as in target_modules"),
            *self.unless(isinstance(self.init_ia3_weights, bool), "init_ia3_weights", "true or false"),
        ]


@dataclass(frozen=True, kw_only=True)
class PrefixTuningConfig(AdapterConfig):
    """Learned keys and values of `num_virtual_tokens` in front of every text, in every layer (2101.00190).

    With `prefix_projection` they are made by a small network of `encoder_hidden_size` while training. The other sizes
    are the model's own, and filled in when left out: `token_dim` counts the channels of all key heads together.
    """

    peft_type: ClassVar[str] = "PREFIX_TUNING"

    num_virtual_tokens: int
    token_dim: int | None = None
    num_transformer_submodules: int | None = None
    num_attention_heads: int | None = None
    num_layers: int | None = None
    init_weights: str | None = None
    encoder_hidden_size: int | None = None
    prefix_projection: bool = False

    def problems(self) -> list[str]:
        sizes = ("token_dim", "num_attention_heads", "num_layers", "encoder_hidden_size")
        count = f"an integer from 1 to {MAX_TOKENS}"
        found = [
            *super().problems(),
            *self.unless(_whole(self.num_virtual_tokens, 1, MAX_TOKENS), "num_virtual_tokens", count),
            *self.unless(
                self.num_transformer_submodules in (None, 1, 2), "num_transformer_submodules", "1, or 2 with an encoder"
            ),
            *self.unless(self.init_weights in (None, "zero"), "init_weights", 'null or "zero"'),
            *self.unless(isinstance(self.prefix_projection, bool), "prefix_projection", "true or false"),
        ]
        for name in sizes:
            value = getattr(self, name)
            found += self.unless(value is None or _whole(value, 1, 2**24), name, "an integer from 1 to 16777216")
        return found


KINDS: dict[str, type[AdapterConfig]] = {kind.peft_type: kind for kind in (LoraConfig, IA3Config, PrefixTuningConfig)}


def config_from(raw: Mapping[str, Any], where: str = "adapter_config.json") -> AdapterConfig:
    """adapter_config.json -> a config.

    Fields that this library does not know pass only where they say "nothing" (null, false, empty). Raises ValueError
    with all problems in one.
    """
    kind = KINDS.get(raw["peft_type"]) if isinstance(raw.get("peft_type"), str) else None
    if kind is None:
        raise ValueError(f"{where}: peft_type is {raw.get('peft_type')!r:.80}; allowed: {', '.join(KINDS)}")
    known = {field.name for field in dataclasses.fields(kind)}
    told = {name: value for name, value in raw.items() if name in known and value is not None}
    problems = [
        f"{name} is {value!r:.80}, which this library does not do; allowed: leave it out"
        for name, value in raw.items()
        if name not in known and name not in _ASIDE and value not in (None, False, "") and value != {} and value != []
    ]
    try:
        config = kind(**told)
    except ValueError as error:
        problems += str(error).split("; " + kind.__name__)
    except TypeError:  # a field without a default is missing
        problems.append("num_virtual_tokens is missing; allowed: " + f"an integer from 1 to {MAX_TOKENS}")
    if problems:
        raise ValueError(f"{where} cannot be used:\n  " + "\n  ".join(problems))
    return config


_ASIDE = ("peft_type", "peft_version", "auto_mapping", "megatron_core", "qalora_group_size", "runtime_config")
"""Fields that say nothing about the adapter, or only how to do what another field asks for."""


def _whole(value: Any, low: int = 0, high: int = 2**24) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _text(value: Any) -> bool:
    return value is None or isinstance(value, str)


def _names(value: Any) -> bool:
    return value is None or (isinstance(value, tuple) and all(isinstance(name, str) and name for name in value))


def _patterns(value: Any) -> bool:
    return regular(value) if isinstance(value, str) else _names(value)


def regular(pattern: str) -> bool:
    """Whether a text is a regular expression, and one that no name keeps busy for long.

    A repeat of what repeats itself, and many repeats in a row, would let a file hold the machine up.
    """
    try:
        re.compile(pattern)
    except (re.error, RecursionError, OverflowError):
        return False
    return len(pattern) <= 4096 and _quick(pattern)


def _quick(pattern: str) -> bool:
    """Whether an expression has at most 5 repeats, and no group that holds a choice or a repeat is repeated itself."""
    bare = re.sub(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]", "x", pattern)  # no escapes, no classes of characters
    bare = re.sub(r"\(\?[^:)]*[:=!>]|\(\?P<\w+>", "(", bare)
    depth: list[bool] = [False]
    repeats = 0
    for i, sign in enumerate(bare):
        if sign == "(":
            depth.append(False)
        elif sign == ")" and len(depth) > 1:
            loose = depth.pop()
            if loose and bare[i + 1 : i + 2] in ("*", "+", "{"):
                return False
            depth[-1] |= loose
        elif sign == "|":
            depth[-1] = True
        elif sign in "*+?{" and bare[i - 1 : i] not in ("*", "+", "?", "}"):
            depth[-1], repeats = True, repeats + 1
    return repeats <= 5


def _table(value: Any) -> bool:
    return isinstance(value, Mapping) and all(isinstance(key, str) and regular(key) for key in value)


def _pick(table: Mapping[str, Any], name: str, default: Any) -> Any:
    for key, value in table.items():
        if re.match(rf"(.*\.)?({key})$", name):
            return value
    return default
