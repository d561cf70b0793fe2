"""What huge pages are worth: the linears of GPT-2's layers, for one row, their weights on ordinary and on huge pages.

    python -m benchmarks.pages [--rounds 12]

One thread's processor time, the two sorts of memory in turns; medians. Where the system gives huge pages unasked
(/sys/kernel/mm/transparent_hugepage/enabled says "always"), both are the same.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch
from benchmarks.decode import reading

from regard.memory import Arena
from regard.native import layout
from regard.native.weights import Store
from regard.nn import Linear

SHAPES = [(768, 768)] * 4 + [(768, 3072), (3072, 768)]  # in, out


class Ordinary(Arena):
    """Memory as torch gives it."""

    def take(self, size: int) -> torch.Tensor:
        return torch.empty(size, dtype=torch.uint8)


def placed(kind: str, arena: Arena) -> Store:
    """All linears of 12 layers in a precision, their weights in this memory."""
    store = Store(kind)  # type: ignore[arg-type]
    store._arena = arena
    for _ in range(12):
        for shape in SHAPES:
            module = Linear(*shape, bias=False).requires_grad_(False)
            if kind == "fp32":  # read in place
                place = arena.take(module.weight.nbytes).view(torch.float32).view(module.weight.shape)
                module.weight = torch.nn.Parameter(place.copy_(module.weight), requires_grad=False)
            store.linear(module)
            store.kept.append(module)  # type: ignore[arg-type]  # its address must stay its own
    return store


def step(store: Store) -> float:
    """Seconds of all products with one row."""
    x, y, run = torch.randn(3072), torch.empty(3072), layout.kernels().rg_linear
    start = time.process_time()
    for linear in store._linears.values():
        run(layout.address(linear), 1, 1, x.data_ptr(), y.data_ptr())
    return time.process_time() - start


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=12)
    given = parser.parse_args()
    torch.set_num_threads(1)
    print("| GB/s | a plain read, ordinary | huge | products, ordinary | huge |\n" + "|---" * 5 + "|")
    for kind in ("fp32", "bf16", "int8", "int4"):
        stores = [placed(kind, arena) for arena in (Ordinary(), Arena())]
        size = sum(part.nbytes for part in stores[0].parts) / 1e9
        times: list[list[float]] = [[], [], [], []]
        for _ in range(given.rounds):
            for i, store in enumerate(stores):
                times[i].append(reading(store.parts, time.process_time))
                times[2 + i].append(step(store))
        print(f"| {kind} | " + " | ".join(f"{size / statistics.median(one):.1f}" for one in times) + " |", flush=True)


if __name__ == "__main__":
    main()
