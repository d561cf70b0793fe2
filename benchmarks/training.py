"""Training speed and memory beside the transformers Trainer and a plain PyTorch loop, in one run on this machine.

    python -m benchmarks.training [--quick] [--threads 2] [--only bert,gpt,memory]

Each side of a row trains in a process of its own and is let go for a few steps at a time, in turns with the other.
Medians of tokens (real ones, no padding) in a second are reported, and the median of each round's ratios, by the clock
and by processor time, with the most resident memory that each process ever had. Only ratios are worth quoting.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

ROOT = Path(__file__).resolve().parents[1]
DATA = Path(os.environ.get("REGARD_TEST_DATA", ROOT.parent / "shared"))
BLOCK, BATCH, DIM, LAYERS, HEADS = 64, 12, 128, 4, 4  # nanoGPT's shape for a CPU
FOREVER = 10**6


class Pace:
    """Lets a training loop run so many steps each time its parent says so, and reports how fast they were."""

    def __init__(self) -> None:
        self.left, self.tokens = 1, 0
        self.begun = (time.perf_counter(), time.process_time())

    def step(self) -> None:
        """Called after every step; the first one, which makes the optimiser's memory, is not measured."""
        self.left -= 1
        if self.left:
            return
        found = [now - then for now, then in zip((time.perf_counter(), time.process_time()), self.begun, strict=True)]
        print(json.dumps({"tokens": self.tokens, "clock": found[0], "processor": found[1], "mb": peak()}), flush=True)
        asked = sys.stdin.readline().strip()
        if not asked:
            os._exit(0)
        self.left, self.tokens = int(asked), 0
        self.begun = (time.perf_counter(), time.process_time())


def resident(name: str = "VmRSS") -> float:
    """Megabytes of this process in memory now."""
    found = re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) / 1024


def peak() -> float:
    """The most megabytes that this process has ever had."""
    return resident("VmHWM")


# ------------------------------------------------------------------------------------------------ BERT, fine-tuned


def sentences(count: int) -> list[dict[str, Any]]:
    """Rows of ids and labels: lengths log-normal, about 30 on average, 5 to 128."""
    draw, rng = random.Random(0), np.random.default_rng(0)
    lengths = [max(5, min(128, int(draw.lognormvariate(3.2, 0.65)))) for _ in range(count)]
    return [{"input_ids": rng.integers(1000, 30000, n), "labels": int(rng.integers(2))} for n in lengths]


def bert_regard(pace: Pace, precision: str) -> None:
    import transformers

    import regard
    from regard.training.base import Batch
    from regard.training.loop import fit
    from regard.training.objectives.classification import Classification
    from regard.training.problem import Problem

    class Paced(Classification):
        def forward(self, model: Any, batch: Batch) -> Tensor:
            pace.tokens += batch.tokens
            return super().forward(model, batch)

        def after_step(self, model: Any, step: int) -> None:
            pace.step()

    model = regard.from_config(transformers.BertConfig().to_dict(), head="classification")
    rows = sentences(16 * 256)
    fit(model, Problem(Paced(), rows), steps=FOREVER, batch_size=16, shuffle=False, precision=precision, show=False)


def bert_transformers(pace: Pace, precision: str, sampling: str = "sequential") -> None:
    import transformers

    class Paced(transformers.TrainerCallback):
        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            pace.step()

    def collate(rows: list[dict[str, Any]]) -> dict[str, Tensor]:
        ids = [torch.from_numpy(row["input_ids"]) for row in rows]
        pad = nn.utils.rnn.pad_sequence
        mask = pad([torch.ones_like(x) for x in ids], batch_first=True)
        labels = torch.tensor([row["labels"] for row in rows])
        return {"input_ids": pad(ids, batch_first=True), "attention_mask": mask, "labels": labels}

    def count(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        pace.tokens += int(kwargs["attention_mask"].sum())

    model = transformers.BertForSequenceClassification(transformers.BertConfig())
    model.register_forward_pre_hook(count, with_kwargs=True)
    with tempfile.TemporaryDirectory() as folder:
        arguments = transformers.TrainingArguments(
            folder,
            per_device_train_batch_size=16,
            max_steps=FOREVER,
            learning_rate=5e-5,
            weight_decay=0.01,
            logging_steps=10,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            use_cpu=True,
            bf16=precision == "bf16",
            dataloader_pin_memory=False,
            train_sampling_strategy=sampling,
        )
        trainer = transformers.Trainer(model, arguments, train_dataset=sentences(16 * 256), data_collator=collate)
        trainer.add_callback(Paced())
        trainer.train()


# ------------------------------------------------------------------------------- nanoGPT's shape, letter by letter


def letters() -> np.ndarray:
    """Shakespeare as numbers of letters, or random ones where the text is not at hand."""
    path = DATA / "data/shakespeare/input.txt"
    if not path.exists():
        return np.random.default_rng(0).integers(0, 65, 10**6)
    text = np.frombuffer(path.read_bytes(), np.uint8)
    return np.unique(text, return_inverse=True)[1].astype(np.int64)


def gpt_regard(pace: Pace, precision: str = "32") -> None:
    import regard
    from regard.training.base import Batch
    from regard.training.data.blocks import Blocks
    from regard.training.data.tokens import Tokens
    from regard.training.loop import fit
    from regard.training.objectives.causal_lm import CausalLM
    from regard.training.problem import Problem

    class Paced(CausalLM):
        def forward(self, model: Any, batch: Batch) -> Tensor:
            pace.tokens += batch.tokens
            return super().forward(model, batch)

        def after_step(self, model: Any, step: int) -> None:
            pace.step()

    raw: dict[str, Any] = {"model_type": "gpt2", "vocab_size": 65, "n_positions": BLOCK, "n_embd": DIM}
    raw |= {"n_layer": LAYERS, "n_head": HEADS, "activation_function": "gelu", "bos_token_id": None}
    raw |= {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0, "eos_token_id": None}
    model = regard.from_config(raw, head="causal-lm")
    rows = Blocks(Tokens.of([letters()]), BLOCK + 1, stride=1)
    settings: dict[str, Any] = {"learning_rate": 1e-3, "betas": (0.9, 0.99), "weight_decay": 0.1, "schedule": "cosine"}
    settings["precision"] = precision
    fit(model, Problem(Paced(), rows), steps=FOREVER, batch_size=BATCH, warmup=100, show=False, **settings)


class Block(nn.Module):
    """A layer of GPT-2 with query, key and value in one matrix."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(DIM), nn.LayerNorm(DIM)
        self.qkv, self.out = nn.Linear(DIM, 3 * DIM), nn.Linear(DIM, DIM)
        self.up, self.down = nn.Linear(DIM, 4 * DIM), nn.Linear(4 * DIM, DIM)

    def forward(self, x: Tensor) -> Tensor:
        rows, width, _ = x.shape
        q, k, v = self.qkv(self.norm1(x)).split(DIM, 2)
        q, k, v = (part.view(rows, width, HEADS, DIM // HEADS).transpose(1, 2) for part in (q, k, v))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(y.transpose(1, 2).reshape(rows, width, DIM))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class PlainGPT(nn.Module):
    """GPT-2 as one would write it for this benchmark alone."""

    def __init__(self) -> None:
        super().__init__()
        self.token, self.position = nn.Embedding(65, DIM), nn.Embedding(BLOCK, DIM)
        self.blocks = nn.ModuleList(Block() for _ in range(LAYERS))
        self.norm, self.head = nn.LayerNorm(DIM), nn.Linear(DIM, 65, bias=False)
        self.head.weight = self.token.weight
        for part in self.modules():
            if isinstance(part, nn.Linear | nn.Embedding):
                nn.init.normal_(part.weight, std=0.02)

    def forward(self, ids: Tensor, targets: Tensor) -> Tensor:
        x = self.token(ids) + self.position(torch.arange(ids.shape[1]))
        for block in self.blocks:
            x = block(x)
        return F.cross_entropy(self.head(self.norm(x)).flatten(0, 1), targets.flatten())


def gpt_plain(pace: Pace, adamw: str, precision: str = "32") -> None:
    data, model = letters(), PlainGPT()
    groups = [
        {"params": [p for p in model.parameters() if p.ndim >= 2], "weight_decay": 0.1},
        {"params": [p for p in model.parameters() if p.ndim < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.99), fused=adamw == "fused" or None)
    for step in range(FOREVER):
        rate = 1e-3 * (min(1.0, (step + 1) / 100) * 0.5 * (1 + math.cos(math.pi * step / FOREVER)))
        for group in optimizer.param_groups:
            group["lr"] = rate
        starts = torch.randint(len(data) - BLOCK, (BATCH,)).tolist()
        ids = torch.stack([torch.from_numpy(data[i : i + BLOCK]) for i in starts])
        targets = torch.stack([torch.from_numpy(data[i + 1 : i + 1 + BLOCK]) for i in starts])
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            loss = model(ids, targets)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if step % 10 == 0:
            loss.item()
        pace.tokens += ids.numel()
        pace.step()


# ------------------------------------------------------------------------------------------------------- memory


def grown(layers: int, vocab: int, checkpointing: bool, full: bool) -> float:
    """Megabytes that a step adds to the model and the libraries: gradients, and what the backward pass needs."""
    import regard
    from regard.training.base import Batch
    from regard.training.loop import fit
    from regard.training.losses import cross_entropy
    from regard.training.objectives.causal_lm import CausalLM
    from regard.training.objectives.rows import at
    from regard.training.problem import Problem

    class Full(CausalLM):
        def forward(self, model: Any, batch: Batch) -> Tensor:
            hidden, _ = model.hidden(**batch.inputs)
            return cross_entropy(model.logits(at(hidden, batch.targets["places"])), batch.targets["labels"])

    raw: dict[str, Any] = {"model_type": "gpt2", "n_positions": 256, "n_embd": 256, "n_head": 4}
    raw |= {"bos_token_id": None, "eos_token_id": None}
    options: dict[str, Any] = {"batch_size": 8, "optimizer": "sgd", "show": False, "checkpointing": checkpointing}
    objective, rng = (Full if full else CausalLM)(), np.random.default_rng(0)
    small = regard.from_config({**raw, "n_layer": 1, "vocab_size": 65}, head="causal-lm")
    fit(small, Problem(objective, [{"input_ids": np.arange(9)}] * 8), steps=1, **options)  # libraries are loaded
    model = regard.from_config({**raw, "n_layer": layers, "vocab_size": vocab}, head="causal-lm")
    rows = [{"input_ids": rng.integers(0, vocab, 257)} for _ in range(8)]
    before = resident()
    fit(model, Problem(objective, rows), steps=2, **options)
    return peak() - before


SIDES: dict[str, Callable[..., None]] = {
    side.__name__: side for side in (bert_regard, bert_transformers, gpt_regard, gpt_plain)
}


# ----------------------------------------------------------------------------------------------------- the parent


class Side:
    """One side of a row, in a process of its own."""

    def __init__(self, name: str, *options: str, threads: int):
        command = [sys.executable, "-m", "benchmarks.training", "--threads", str(threads), "--side", name, *options]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT
        )
        self.found = [self._line()]  # the first step is no measure
        self.found.clear()

    def _line(self) -> dict[str, float]:
        assert self.process.stdout is not None and self.process.stderr is not None
        for line in self.process.stdout:
            if line.startswith('{"tokens"'):
                return json.loads(line)
        raise SystemExit(self.process.stderr.read())

    def go(self, steps: int) -> None:
        """Let it train so many steps."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{steps}\n")
        self.process.stdin.flush()
        self.found.append(self._line())

    def speeds(self, clock: str) -> list[float]:
        """Tokens a second in every round."""
        return [found["tokens"] / found[clock] for found in self.found]

    def close(self) -> None:
        """End the process."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def compare(name: str, ours: list[str], theirs: list[str], *, steps: int, rounds: int, threads: int) -> str:
    """A row of the table: two sides in turns, which changes round by round."""
    sides = [Side(*parts, threads=threads) for parts in (ours, theirs)]
    for side in sides:
        side.go(steps)  # caches are warm after these
        side.found.clear()
    for i in range(rounds):
        for side in sides if i % 2 else sides[::-1]:
            side.go(steps)
    for side in sides:
        side.close()
    a, b = (statistics.median(side.speeds("clock")) for side in sides)
    ratios = {
        clock: statistics.median(x / y for x, y in zip(*(s.speeds(clock) for s in sides), strict=True))
        for clock in ("clock", "processor")
    }
    mb = [side.found[-1]["mb"] for side in sides]
    return (
        f"| {name} | {a:,.0f} | {b:,.0f} | {ratios['clock']:.2f} | {ratios['processor']:.2f} | "
        f"{mb[0]:,.0f} | {mb[1]:,.0f} |"
    )


def speed_rows(only: set[str], quick: bool) -> list[tuple[str, list[str], list[str], int, int]]:
    """(name, our side, their side, steps a round, rounds)."""
    bert = (2, 3) if quick else (4, 9)
    gpt = (20, 5) if quick else (100, 15)
    found: list[tuple[str, list[str], list[str], int, int]] = []
    if "bert" in only:
        ours, theirs = ["bert_regard"], ["bert_transformers"]
        name = "BERT-base, 16 sentences a batch; Trainer"
        found.append((name, [*ours, "32"], [*theirs, "32"], *bert))
        found.append((f"{name}, grouped by length", [*ours, "32"], [*theirs, "32", "group_by_length"], *bert))
        found.append((f"{name}, bf16", [*ours, "bf16"], [*theirs, "bf16"], *bert))
    if "gpt" in only:
        name = "GPT of 4 layers of 128, 12 x 64 letters; plain loop"
        for precision, optimizer, said in (
            ("32", "default", ""),
            ("32", "fused", ", fused AdamW"),
            ("bf16", "fused", ", fused AdamW, bf16"),
        ):
            found.append((name + said, ["gpt_regard", precision], ["gpt_plain", optimizer, precision], *gpt))
        found.append((f"{name} in float32; regard in bf16", ["gpt_regard", "bf16"], ["gpt_plain", "default"], *gpt))
    return found


def memory(threads: int, *numbers: int) -> float:
    """`grown` in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.training", "--threads", str(threads), "--side", "grown"]
    run = subprocess.run([*command, *map(str, numbers)], capture_output=True, text=True, check=True, cwd=ROOT)
    return float(run.stdout.split()[-1])


def memory_tables(quick: bool, threads: int) -> list[str]:
    """Peak of a step against depth, and against the size of the vocabulary."""
    lines = ["Megabytes that a step of 8 x 256 tokens adds to a GPT of width 256 (SGD: gradients and activations).", ""]
    lines += ["| layers | plain | checkpointing | ratio |", "|---|---|---|---|"]
    for layers in (2, 8) if quick else (2, 4, 8, 16, 32):
        a, b = (memory(threads, layers, 1000, again, 0) for again in (0, 1))
        lines.append(f"| {layers} | {a:,.0f} | {b:,.0f} | {b / a:.2f} |")
    lines += ["", "| words | all scores at once | in chunks | ratio |", "|---|---|---|---|"]
    for vocab in (8_000, 64_000) if quick else (8_000, 32_000, 64_000, 128_000, 256_000):
        a, b = (memory(threads, 2, vocab, 0, full) for full in (1, 0))
        lines.append(f"| {vocab:,} | {a:,.0f} | {b:,.0f} | {b / a:.2f} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--only", default="bert,gpt,memory")
    parser.add_argument("--side", nargs="+")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    if given.side:
        torch.manual_seed(0)
        name, *options = given.side
        if name == "grown":
            layers, vocab, again, full = map(int, options)
            print(grown(layers, vocab, bool(again), bool(full)))
        else:
            SIDES[name](Pace(), *options)
        return
    import transformers

    versions = f"torch {torch.__version__}, transformers {transformers.__version__}"
    print(f"{versions}, {given.threads} threads; real tokens in a second\n", flush=True)
    only = set(given.only.split(","))
    if only & {"bert", "gpt"}:
        print("| work | regard | other | ratio | ratio of processor time | MB | MB of the other |\n" + "|---" * 7 + "|")
    for name, ours, theirs, steps, rounds in speed_rows(only, given.quick):
        print(compare(name, ours, theirs, steps=steps, rounds=rounds, threads=given.threads), flush=True)
    if "memory" in only:
        print("\n" + "\n".join(memory_tables(given.quick, given.threads)), flush=True)


if __name__ == "__main__":
    main()
