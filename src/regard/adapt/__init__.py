"""Adapting a model with few new parameters: LoRA, DoRA, (IA)3, prefix tuning; and module surgery by pattern.

`add(model, LoraConfig(r=8))` puts an adapter on a model in place, `save_adapter` and `load_adapter` keep it in files
that other libraries read too, `merge` and `unload` put it into the weights for good.
"""

from regard.adapt.adapters import (
    add,
    combine,
    delete,
    disabled,
    merge,
    set_active,
    trainable,
    unload,
    unmerge,
)
from regard.adapt.config import AdapterConfig, IA3Config, LoraConfig, PrefixTuningConfig, TaskType
from regard.adapt.files import load_adapter, read_config, save_adapter
from regard.adapt.quantize import dequantize, quantize
from regard.adapt.shrink import shrink
from regard.adapt.surgery import Site, find, replace, restore, sites

__all__ = [
    "AdapterConfig",
    "IA3Config",
    "LoraConfig",
    "PrefixTuningConfig",
    "Site",
    "TaskType",
    "add",
    "combine",
    "delete",
    "dequantize",
    "disabled",
    "find",
    "load_adapter",
    "merge",
    "quantize",
    "read_config",
    "replace",
    "restore",
    "save_adapter",
    "set_active",
    "shrink",
    "sites",
    "trainable",
    "unload",
    "unmerge",
]
