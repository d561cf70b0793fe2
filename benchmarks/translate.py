"""Translating on a CPU: OPUS-MT's shape beside transformers and CTranslate2, greedy and with four beams, in one run.

    python -m benchmarks.translate [--threads 1] [--rounds 3] [--count 64] [--new 24] [--beams 1,4]

Random weights of the true shape (6 and 6 layers of 512, 58,101 words). Sentences have 3 to 100 tokens, 25 on average
(log-normal), and every engine gets all of them at once, to write exactly as many new tokens. Rounds alternate; medians
of tokens written in a second are reported, encoder and all. With one thread it is the processor's time that counts, so
that other work on the machine does not.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from typing import Any

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

import torch
import transformers
from benchmarks import peers, report
from torch import Tensor

import regard
from regard import native

VOCABULARY, PAD, EOS = 58101, 58100, 0
CONFIG = transformers.MarianConfig(
    vocab_size=VOCABULARY,
    d_model=512,
    encoder_layers=6,
    decoder_layers=6,
    encoder_attention_heads=8,
    decoder_attention_heads=8,
    encoder_ffn_dim=2048,
    decoder_ffn_dim=2048,
    activation_function="swish",
    scale_embedding=True,
    max_position_embeddings=512,
    pad_token_id=PAD,
    eos_token_id=EOS,
    bos_token_id=None,
    decoder_start_token_id=PAD,
    forced_eos_token_id=None,
)
Way = Callable[[int], tuple[float, list[list[int]]]]
"""Beams -> seconds, and the tokens written."""

WORKER = """
import sys, json, time, ctranslate2
kind, folder, threads, clock = sys.argv[1:]
clock = getattr(time, clock)
model = ctranslate2.Translator(folder, compute_type=kind, intra_threads=int(threads), inter_threads=1)
print(json.dumps(ctranslate2.__version__), flush=True)
for line in sys.stdin:
    rows, beams, new = json.loads(line)
    start = clock()
    found = model.translate_batch(rows, beam_size=beams, min_decoding_length=new, max_decoding_length=new)
    print(json.dumps([clock() - start, [[int(token) for token in one.hypotheses[0]] for one in found]]), flush=True)
"""


def sentences(count: int) -> list[list[int]]:
    """Rows of ids that end as Marian's do."""
    draw = random.Random(0)
    lengths = [max(2, min(99, int(draw.lognormvariate(3.03, 0.6)))) for _ in range(count)]
    return [[draw.randrange(1, PAD) for _ in range(n)] + [EOS] for n in lengths]


def ours(folder: str, rows: list[list[int]], new: int, clock: Callable[[], float], precision: Any) -> Way:
    model = regard.load(folder, dtype="float32", precision=precision or "fp32")
    if precision is None:
        native.remove(model)

    def way(beams: int) -> tuple[float, list[list[int]]]:
        start = clock()
        ids = model.generate(rows, num_beams=beams, max_new_tokens=new, min_new_tokens=new)
        return clock() - start, ids[:, 1:].tolist()

    return way


def theirs(folder: str, rows: list[list[int]], new: int, clock: Callable[[], float]) -> Way:
    model = transformers.MarianMTModel.from_pretrained(folder, dtype=torch.float32).eval()
    ids = padded(rows)

    def way(beams: int) -> tuple[float, list[list[int]]]:
        start = clock()
        found = model.generate(
            input_ids=ids,
            attention_mask=ids != PAD,
            num_beams=beams,
            max_new_tokens=new,
            min_new_tokens=new,
            do_sample=False,
        )
        return clock() - start, found[:, 1:].tolist()

    return way


def padded(rows: list[list[int]]) -> Tensor:
    return torch.nn.utils.rnn.pad_sequence([torch.tensor(row) for row in rows], batch_first=True, padding_value=PAD)


def other(folder: str, rows: list[list[int]], new: int, clock: str, kind: str, threads: int) -> Way:
    engine = peers.Peer(WORKER, kind, folder, str(threads), clock, threads=threads)
    words = [[str(token) for token in row] for row in rows]
    return lambda beams: tuple(engine([words, beams, new]))  # type: ignore[return-value]


def ways(folder: str, rows: list[list[int]], new: int, clock: str, threads: int, only: list[str]) -> dict[str, Way]:
    """Every engine that is to be had, by name."""
    torch.manual_seed(0)
    transformers.MarianMTModel(CONFIG).save_pretrained(f"{folder}/hf")
    counter = getattr(time, clock)
    makers: dict[str, Callable[[], Way]] = {
        "transformers float32": lambda: theirs(f"{folder}/hf", rows, new, counter),
        "regard float32, torch": lambda: ours(f"{folder}/hf", rows, new, counter, None),
        "regard float32, native": lambda: ours(f"{folder}/hf", rows, new, counter, "fp32"),
        "regard int8, native": lambda: ours(f"{folder}/hf", rows, new, counter, "int8"),
        "CTranslate2 float32": lambda: other(f"{folder}/ct2", rows, new, clock, "float32", threads),
        "CTranslate2 int8": lambda: other(f"{folder}/ct2", rows, new, clock, "int8", threads),
    }
    found: dict[str, Way] = {}
    for name, make in makers.items():
        if any(word in name for word in only):
            try:
                if name.startswith("CT") and not os.path.exists(f"{folder}/ct2"):
                    peers.to_ctranslate2(f"{folder}/hf", f"{folder}/ct2", PAD, "<pad>")
                found[name] = make()
            except peers.Missing as error:
                print(f"{name} is left out: {error}", flush=True)
    return found


def agreement(found: list[list[int]], expected: list[list[int]]) -> str:
    """How many tokens are those of another engine."""
    same = sum(a == b for x, y in zip(found, expected, strict=True) for a, b in zip(x, y, strict=False))
    return f"{100 * same / sum(map(len, expected)):.1f} %"


def table(found: dict[str, Way], beams: int, rounds: int, count: int, new: int) -> str:
    """Medians of alternating rounds, with their ratios to the first and to the last engine, and the goals."""
    seconds: dict[str, list[float]] = {name: [] for name in found}
    tokens = {name: way(beams)[1] for name, way in found.items()}
    for _ in range(rounds):
        for name, way in found.items():
            seconds[name].append(way(beams)[0])

    def ratio(name: str, base: str) -> float | None:
        if name not in seconds or base not in seconds:
            return None
        return statistics.median(a / b for a, b in zip(seconds[base], seconds[name], strict=True))

    first, last = next(iter(found)), list(found)[-1]
    lines = [f"| {named(beams)} | tokens/s | / {first} | / {last} | same tokens |", "|---" * 5 + "|"]
    for name, spent in seconds.items():
        speed = count * new / statistics.median(spent)
        same = agreement(tokens[name], tokens[first])
        lines.append(f"| {name} | {speed:.0f} | {ratio(name, first):.2f} | {ratio(name, last):.2f} | {same} |")
    goals = [
        report.Goal(f"{named(beams)}, int8 / {base}", least, ratio("regard int8, native", base))
        for base, least in (("CTranslate2 int8", 1.5), ("transformers float32", 6))
    ]
    return "\n".join([*lines, "", report.goals(goals)])


def named(beams: int) -> str:
    return "greedy" if beams == 1 else f"{beams} beams"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--count", type=int, default=64)
    parser.add_argument("--new", type=int, default=24)
    parser.add_argument("--beams", default="1,4")
    parser.add_argument("--only", default="regard,transformers,CTranslate2")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    clock = "process_time" if given.threads == 1 else "perf_counter"
    rows = sentences(given.count)
    print(
        f"{given.count} sentences, {sum(map(len, rows))} tokens, {given.new} written for each, {given.threads} threads "
        f"({clock}), {given.rounds} rounds; torch {torch.__version__}, transformers {transformers.__version__}",
        flush=True,
    )
    with tempfile.TemporaryDirectory() as folder:
        found = ways(folder, rows, given.new, clock, given.threads, given.only.split(","))
        for beams in map(int, given.beams.split(",")):
            print(f"\n{table(found, beams, given.rounds, given.count, given.new)}", flush=True)


if __name__ == "__main__":
    main()
