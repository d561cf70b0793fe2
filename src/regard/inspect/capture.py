"""Attention weights and hidden states of any model, under any kernel, without changing it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from fnmatch import fnmatch
from typing import Any

from torch import Tensor, nn

from regard.nn import Attend, Attention, Layer, attention_weights

WHAT = ("attention", "cross_attention", "hidden", "queries", "keys", "values")


class Seen(dict[str, list[Any]]):
    """What was captured, by name, in the order in which it was computed; `names` has the module of each entry.

    `seen["attention"]` is one (B, H, Tq, Tk) tensor per layer and forward pass; for packed input each entry is a list
    with one such tensor for every run of equal lengths. Attribute access works too: `seen.attention`
    (but for keys and values, which are methods of any dict).
    """

    def __init__(self, what: tuple[str, ...]):
        super().__init__({name: [] for name in what})
        self.names: dict[str, list[str]] = {name: [] for name in what}

    def __getattr__(self, name: str) -> list[Any]:
        if name in self:
            return self[name]
        raise AttributeError(f"nothing was captured as {name!r}; there is {', '.join(self)}")

    def clear(self) -> None:
        """Forget what was seen so far, and go on capturing."""
        for name in self:
            self[name].clear()
            self.names[name].clear()


@contextmanager
def capture(model: nn.Module, *what: str) -> Iterator[Seen]:
    """Record while the block runs: `with capture(model, "attention") as seen: model(**x)`.

    `what` are names out of "attention" (the default), "cross_attention", "hidden" (each layer's output), "queries",
    "keys", "values" (as the kernel gets them, (B, H, T, D)), or patterns of module paths such as "*.ffn", whose
    outputs are kept. Weights are computed from the kernel's own inputs beside the kernel, which goes on as before.
    Raises ValueError for a name that is none of these and matches no module.
    """
    what = what or ("attention",)
    seen = Seen(what)
    modules = dict(model.named_modules())
    with ExitStack() as hooks:
        for name in what:
            watched = list(_watched(name, modules))
            if not watched:
                raise ValueError(
                    f"nothing to capture as {name!r}; allowed: {', '.join(WHAT)}, or a module path pattern"
                )
            for path, module, hook in watched:
                hooks.callback(module.register_forward_hook(hook(seen, name, path)).remove)
                if isinstance(module, Attend):  # a new entry for each call of the attention around it
                    around = modules[path.rpartition(".")[0]]
                    hooks.callback(around.register_forward_pre_hook(_opened(seen, name, path)).remove)
                    hooks.callback(around.register_forward_hook(_closed(seen, name)).remove)
        yield seen


Hook = Callable[[Seen, str, str], Callable[..., None]]


def _watched(name: str, modules: dict[str, nn.Module]) -> Iterator[tuple[str, nn.Module, Hook]]:
    for path, module in modules.items():
        if name in _AT_ATTENTION:
            if isinstance(module, Attention) and module.is_cross == (name == "cross_attention"):
                yield f"{path}.attend", module.attend, _AT_ATTENTION[name]
        elif isinstance(module, Layer) if name == "hidden" else path and fnmatch(path, name):
            yield path, module, _output


def _weights(seen: Seen, name: str, path: str) -> Callable[..., None]:
    def hook(module: Attend, inputs: tuple[Any, ...], output: Tensor) -> None:
        q, k, _, mask, bias = inputs
        seen[name][-1].append(attention_weights(q, k, mask=mask, bias=bias, scale=module.scale, softcap=module.softcap))

    return hook


def _input(index: int) -> Hook:
    def make(seen: Seen, name: str, path: str) -> Callable[..., None]:
        def hook(module: Attend, inputs: tuple[Any, ...], output: Tensor) -> None:
            seen[name][-1].append(inputs[index])

        return hook

    return make


def _output(seen: Seen, name: str, path: str) -> Callable[..., None]:
    def hook(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        seen[name].append(output)
        seen.names[name].append(path)

    return hook


_AT_ATTENTION: dict[str, Hook] = {
    "attention": _weights,
    "cross_attention": _weights,
    "queries": _input(0),
    "keys": _input(1),
    "values": _input(2),
}


def _opened(seen: Seen, name: str, path: str) -> Callable[..., None]:
    def hook(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        seen[name].append([])
        seen.names[name].append(path.removesuffix(".attend"))

    return hook


def _closed(seen: Seen, name: str) -> Callable[..., None]:
    def hook(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        if len(seen[name][-1]) == 1:  # one rectangle: a padded batch
            seen[name][-1] = seen[name][-1][0]

    return hook
