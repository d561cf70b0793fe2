"""Reading texts on a CPU: BERT-base over ragged sentences, beside transformers and onnxruntime, in one run.

    python -m benchmarks.encode            # ROUNDS=3 THREADS=2 COUNT=128 by default; onnxruntime is optional

Random weights of the true shape. 128 sentences of 5 to 128 tokens, 30 on average, as they come and sorted by length;
the others get batches of 32, padded, and this library packs of 1,024 tokens. Rounds alternate between all of them,
medians are reported with their ratio to transformers as the sentences come; only ratios are worth quoting. With one
thread it is the processor's time that counts, so that other work on the machine does not.
"""

from __future__ import annotations

import copy
import os
import random
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

import torch
import transformers
from torch import Tensor

import regard
from regard.adapt import quantize

ROUNDS = int(os.environ.get("ROUNDS", "3"))
THREADS = int(os.environ.get("THREADS", "2"))
COUNT = int(os.environ.get("COUNT", "128"))
BATCH, PACK = 32, 1024
CLOCK = time.process_time if THREADS == 1 else time.perf_counter
Work = Callable[[list[Tensor]], None]


def sentences() -> list[Tensor]:
    """Rows of ids: lengths log-normal, about 30 on average, 5 to 128."""
    draw = random.Random(0)
    lengths = [max(5, min(128, int(draw.lognormvariate(3.2, 0.65)))) for _ in range(COUNT)]
    return [torch.randint(1000, 30000, (n,)) for n in lengths]


def batches(rows: list[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
    """Padded ids and masks of so many rows."""
    for i in range(0, len(rows), BATCH):
        batch = rows[i : i + BATCH]
        ids = torch.nn.utils.rnn.pad_sequence(batch, batch_first=True)
        yield ids, torch.nn.utils.rnn.pad_sequence([torch.ones_like(r) for r in batch], batch_first=True)


def packs(model: regard.Model) -> Work:
    """What the tasks of this library do: look ahead, sort, pack."""

    def work(rows: list[Tensor]) -> None:
        pack: list[Tensor] = []
        for row in [*sorted(rows, key=len), None]:
            if pack and (row is None or sum(map(len, pack)) + len(row) > PACK):
                model(torch.cat(pack), lengths=[len(r) for r in pack])
                pack = []
            if row is not None:
                pack.append(row)

    return work


def padded(model: torch.nn.Module) -> Work:
    """What the reference's users do."""

    def work(rows: list[Tensor]) -> None:
        for ids, mask in batches(rows):
            model(input_ids=ids, attention_mask=mask)

    return work


def onnx(model: torch.nn.Module, folder: Path) -> dict[str, Work]:
    """The reference's model in onnxruntime, float32 and its dynamic int8; nothing where that is not installed."""
    try:
        import onnx
        import onnxruntime
        from onnxruntime.quantization import QuantType, quantize_dynamic
    except ImportError:
        return {}
    from benchmarks.encode_onnx import graph

    paths = {"onnxruntime float32": folder / "a.onnx", "onnxruntime int8": folder / "b.onnx"}
    onnx.save(graph(model), str(paths["onnxruntime float32"]))
    quantize_dynamic(*map(str, paths.values()), weight_type=QuantType.QInt8, per_channel=True)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = THREADS

    def works(path: Path) -> Work:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

        def work(rows: list[Tensor]) -> None:
            for ids, mask in batches(rows):
                session.run(None, {"ids": ids.numpy(), "mask": mask.numpy()})

        return work

    return {name: works(path) for name, path in paths.items()}


def main() -> None:
    """Print the table."""
    warnings.simplefilter("ignore")
    torch.manual_seed(0)
    torch.set_num_threads(THREADS)
    theirs = transformers.BertModel(transformers.BertConfig(), add_pooling_layer=False).eval()
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        theirs.save_pretrained(folder)
        ours = regard.load(folder)
        ways = {"transformers float32": padded(theirs), "regard float32": packs(ours)}
        for kind in ("bf16", "int8"):
            ways[f"regard {kind}"] = packs(quantize(copy.deepcopy(ours), kind, force=True))  # type: ignore[arg-type]
        ways |= onnx(theirs, Path(folder))
        rows = sentences()
        report(ways, {"as they come": rows, "sorted": sorted(rows, key=len)})


def report(ways: dict[str, Work], orders: dict[str, list[Tensor]]) -> None:
    """Time all in turns and print a row for each."""
    for work in ways.values():
        work(orders["sorted"][:: max(COUNT // 16, 1)])  # packs weights, warms caches
    spent: dict[tuple[str, str], list[float]] = {(way, order): [] for way in ways for order in orders}
    for _ in range(ROUNDS):
        for way, work in ways.items():
            for order, rows in orders.items():
                start = CLOCK()
                work(rows)
                spent[way, order].append(CLOCK() - start)
    tokens = sum(map(len, orders["sorted"]))
    rate = {key: tokens / statistics.median(times) for key, times in spent.items()}
    base = rate["transformers float32", "as they come"]
    print(f"torch {torch.__version__}, transformers {transformers.__version__}, {THREADS} threads, {tokens} tokens\n")
    print("| tokens per second | " + " | ".join(orders) + " | ratio to transformers as they come |\n|---|---|---|---|")
    for way in ways:
        found = [rate[way, order] for order in orders]
        ratios = ", ".join(f"{value / base:.2f}" for value in found)
        print(f"| {way} | " + " | ".join(f"{value:.0f}" for value in found) + f" | {ratios} |", flush=True)


if __name__ == "__main__":
    main()
