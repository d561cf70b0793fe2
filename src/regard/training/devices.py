"""Where a run takes place: one device, copies on several (ddp), or a model shared out over them (fsdp, deepspeed)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from regard.checkpoint.load import twin
from regard.extras import need
from regard.models.model import Model
from regard.nn import Stack
from regard.training.config import OptimizerConfig, TrainConfig
from regard.training.optimizers import build_optimizer

SHARED_OUT = ("fsdp", "deepspeed_stage_3")
"""Strategies under which no device has the whole model."""
STRATEGIES = ("auto", "ddp", *SHARED_OUT, "deepspeed_stage_1", "deepspeed_stage_2")


def start(config: TrainConfig) -> Any:
    """A launched Fabric. Raises ValueError for a strategy that there is not, or that this machine cannot run."""
    fabrics = need("lightning_fabric", "train")
    many = config.devices * config.nodes > 1
    if config.strategy not in STRATEGIES:
        raise ValueError(f"strategy is {config.strategy!r}; allowed: {', '.join(STRATEGIES)}")
    if config.optimizer.name == "muon" and config.strategy in SHARED_OUT:
        raise ValueError(
            f"optimizer is 'muon', which needs whole matrices, and strategy is {config.strategy!r}, where no device "
            "has any; allowed: another optimizer, or the strategies auto and ddp"
        )
    strategy: Any = config.strategy
    if strategy == "fsdp":
        strategy = fabrics.strategies.ModelParallelStrategy(
            parallelize_fn=_shard, data_parallel_size=config.devices * config.nodes, tensor_parallel_size=1
        )
    elif strategy == "ddp" or (strategy == "auto" and many):
        strategy = fabrics.strategies.DDPStrategy(find_unused_parameters=True)  # a pooler that no loss reads is common
    elif strategy.startswith("deepspeed"):
        if config.device not in ("auto", "cuda") or not torch.cuda.is_available():
            here = "there is none here" if config.device in ("auto", "cuda") else f"device is {config.device!r}"
            raise ValueError(f"strategy is {strategy!r}, which needs NVIDIA GPUs, and {here}; allowed: auto, ddp, fsdp")
        need("deepspeed", "deepspeed")
    fabric = fabrics.Fabric(
        accelerator=config.device,
        devices=config.devices,
        num_nodes=config.nodes,
        strategy=strategy,
        precision={"32": "32-true", "bf16": "bf16-mixed"}[config.precision],
    )
    fabric.launch()
    return fabric


def _shard(learner: nn.Module, mesh: Any) -> Any:
    """Every layer by itself, and all else together, shared out over the devices (2304.11277)."""
    from torch.distributed.fsdp import fully_shard

    for stack in (part for part in learner.modules() if isinstance(part, Stack)):
        for layer in stack.layers:
            fully_shard(layer, mesh=mesh["data_parallel"])
    return fully_shard(learner, mesh=mesh["data_parallel"])


def run_all_layers(learner: nn.Module) -> None:
    """Let no batch go without a layer (LayerDrop): devices that share layers out must all run them, as each has a part
    of every one."""
    for part in learner.modules():
        if isinstance(part, Stack):
            part.layer_drop = 0.0


def set_up(fabric: Any, learner: nn.Module, config: OptimizerConfig) -> tuple[Any, Any]:
    """The learner and its optimiser, placed on the devices."""
    if type(fabric.strategy).__name__.startswith("DeepSpeed"):
        return fabric.setup(learner, build_optimizer(learner, config))
    wrapped = fabric.setup_module(learner)
    return wrapped, fabric.setup_optimizers(build_optimizer(wrapped.module, config))


def settle(learner: nn.Module) -> None:
    """Share out again what a forward pass without a backward pass has left gathered."""
    from torch.distributed.fsdp import FSDPModule

    for part in learner.modules():
        if isinstance(part, FSDPModule):
            part.reshard()


def whole(tensor: Tensor) -> Tensor:
    """A tensor that may be shared out, as one on this device; all devices must ask for it."""
    if not hasattr(tensor, "full_tensor"):
        return tensor
    full = tensor.full_tensor()
    return torch.empty(full.shape, dtype=full.dtype, device=full.device).copy_(full)  # no view of what was gathered


@torch.no_grad()
def fill(tensor: Tensor, values: Tensor) -> None:
    """Put whole values into a tensor that may be shared out."""
    tensor.copy_(shared_like(values, tensor))


def shared_like(values: Tensor, tensor: Tensor) -> Tensor:
    """Whole values, shared out as a tensor is, if it is and has the same shape."""
    from torch.distributed.tensor import DTensor, distribute_tensor

    if not isinstance(tensor, DTensor) or values.shape != tensor.shape:
        return values
    return distribute_tensor(values.to(tensor.device), tensor.device_mesh, tensor.placements)


def whole_model(model: Model) -> Model:
    """The model itself, or a copy with all its weights if they are shared out; all devices must ask for it."""
    named = dict(model.named_parameters())
    if not any(hasattr(p, "full_tensor") for p in named.values()):
        return model
    return twin(model, {name: whole(p.detach()).cpu() for name, p in named.items()})
