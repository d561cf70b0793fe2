"""Reading texts on a CPU: BERT-base over ragged sentences, beside transformers and onnxruntime, in one run.

    python -m benchmarks.encode [--threads 1] [--rounds 3] [--count 128] [--profile]

Random weights of the true shape. Sentences of 5 to 128 tokens, 30 on average, as they come and sorted by length; the
others get batches of 32, padded, and this library packs of 1,024 tokens. Rounds alternate between all of them, medians
are reported with their ratio to transformers as the sentences come. With one thread it is the processor's time that
counts, so that other work on the machine does not. `--profile` says instead where the time of int8 goes.
"""

from __future__ import annotations

import argparse
import copy
import os
import random
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

import torch
import transformers
from benchmarks import encode_onnx, parts, peers, report
from torch import Tensor

import regard
from regard import native
from regard.adapt import quantize

BATCH, PACK = 32, 1024
COME, SORTED = "as they come", "sorted"
Work = Callable[[list[Tensor]], float]
"""Rows of ids -> seconds."""


def sentences(count: int) -> list[Tensor]:
    """Rows of ids: lengths log-normal, about 30 on average, 5 to 128."""
    draw = random.Random(0)
    lengths = [max(5, min(128, int(draw.lognormvariate(3.2, 0.65)))) for _ in range(count)]
    return [torch.randint(1000, 30000, (n,)) for n in lengths]


def batches(rows: list[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
    """Padded ids and masks of so many rows."""
    pad = torch.nn.utils.rnn.pad_sequence
    for i in range(0, len(rows), BATCH):
        batch = rows[i : i + BATCH]
        yield pad(batch, batch_first=True), pad([torch.ones_like(r) for r in batch], batch_first=True)


def packs(model: regard.Model, clock: Callable[[], float]) -> Work:
    """What the tasks of this library do: look ahead, sort, pack."""

    def work(rows: list[Tensor]) -> float:
        start, pack = clock(), list[Tensor]()
        for row in [*sorted(rows, key=len), None]:
            if pack and (row is None or sum(map(len, pack)) + len(row) > PACK):
                model(torch.cat(pack), lengths=[len(r) for r in pack])
                pack = []
            if row is not None:
                pack.append(row)
        return clock() - start

    return work


def padded(model: torch.nn.Module, clock: Callable[[], float]) -> Work:
    """What the reference's users do."""

    def work(rows: list[Tensor]) -> float:
        start = clock()
        for ids, mask in batches(rows):
            model(input_ids=ids, attention_mask=mask)
        return clock() - start

    return work


def small(model: regard.Model, kind: str) -> regard.Model:
    """A quantized copy, by the kernels where they read such weights."""
    new = quantize(copy.deepcopy(model), kind, force=True)  # type: ignore[arg-type]
    return native.apply(new) if kind == "int8" else new


def ways(folder: str, threads: int, clock: str) -> dict[str, Work]:
    """Every engine that is to be had, by name."""
    counter = getattr(time, clock)
    theirs = transformers.BertModel(transformers.BertConfig(), add_pooling_layer=False).eval()
    theirs.save_pretrained(folder)
    ours = regard.load(folder)
    found = {"transformers float32": padded(theirs, counter), "regard float32": packs(ours, counter)}
    found |= {f"regard {kind}": packs(small(ours, kind), counter) for kind in ("bf16", "int8")}
    for kind in ("float32", "int8"):
        try:
            engine = encode_onnx.engine(folder, kind, threads, BATCH, clock)
            found[f"onnxruntime {kind}"] = lambda rows, engine=engine: engine([row.tolist() for row in rows])
        except peers.Missing as error:
            print(f"onnxruntime {kind} is left out: {error}", flush=True)
    return found


def measured(found: dict[str, Work], orders: dict[str, list[Tensor]], rounds: int) -> dict[tuple[str, str], float]:
    """Tokens a second by way and order, all taking turns."""
    for work in found.values():
        work(orders[SORTED][::8])  # packs weights, warms caches
    spent: dict[tuple[str, str], list[float]] = {(way, order): [] for way in found for order in orders}
    for _ in range(rounds):
        for way, work in found.items():
            for order, rows in orders.items():
                spent[way, order].append(work(rows))
    tokens = sum(map(len, orders[SORTED]))
    return {key: tokens / statistics.median(times) for key, times in spent.items()}


def table(rate: dict[tuple[str, str], float]) -> str:
    """Markdown: a row for each way."""
    base = rate["transformers float32", COME]
    lines = [f"| tokens per second | {COME} | {SORTED} | ratio to transformers {COME} |", "|---|---|---|---|"]
    for way in dict.fromkeys(way for way, _ in rate):
        a, b = rate[way, COME], rate[way, SORTED]
        lines.append(f"| {way} | {a:.0f} | {b:.0f} | {a / base:.2f}, {b / base:.2f} |")
    return "\n".join(lines)


def goals(rate: dict[tuple[str, str], float]) -> str:
    """What is wanted."""

    def ratio(ours: str, theirs: str, order: str = COME) -> float | None:
        return rate[ours, order] / rate[theirs, order] if (theirs, order) in rate else None

    return report.goals(
        [
            report.Goal("float32 / transformers, as they come", 3.5, ratio("regard float32", "transformers float32")),
            report.Goal("bf16 / transformers, as they come", 7, ratio("regard bf16", "transformers float32")),
            report.Goal("int8 / transformers, as they come", 11, ratio("regard int8", "transformers float32")),
            report.Goal("int8 / onnxruntime int8, as they come", 3.4, ratio("regard int8", "onnxruntime int8")),
            report.Goal("int8 / onnxruntime int8, sorted", 1.7, ratio("regard int8", "onnxruntime int8", SORTED)),
            report.Goal("int8 as they come / sorted", 0.95, rate["regard int8", COME] / rate["regard int8", SORTED]),
        ]
    )


def profile(clock: Callable[[], float]) -> str:
    """Where the time of a pack of int8 goes."""
    model = small(regard.from_config(transformers.BertConfig().to_dict(), head="features", seed=0).eval(), "int8")
    assert model.encoder is not None
    rows = sorted(sentences(36), key=len)
    ids, lengths = torch.cat(rows), [len(row) for row in rows]

    def run(begin: Callable[[], None]) -> float:
        begin()
        start = clock()
        model(ids, lengths=lengths)
        return clock() - start

    return parts.table(model.encoder.stack.__dict__["through"], len(ids), 1, run, None, clock)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--count", type=int, default=128)
    parser.add_argument("--profile", action="store_true")
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.manual_seed(0)
    torch.set_num_threads(given.threads)
    clock = "process_time" if given.threads == 1 else "perf_counter"
    rows = sentences(given.count)
    text = f"BERT-base, {given.count} sentences of {sum(map(len, rows))} tokens, {given.rounds} rounds, {clock}; "
    text += f"torch {torch.__version__}, transformers {transformers.__version__}"
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        if given.profile:
            text = f"BERT-base, int8, a pack of {sum(map(len, sentences(36)))} tokens, {clock}"
            text += f"\n\n{profile(getattr(time, clock))}"
        else:
            found = ways(folder, given.threads, clock)
            rate = measured(found, {COME: rows, SORTED: sorted(rows, key=len)}, given.rounds)
            text += f"\n\n{table(rate)}\n\n{goals(rate)}"
    print(text, flush=True)


if __name__ == "__main__":
    main()
