"""Scaling laws: constants that are known are found again, intervals cover, and a sweep says what its runs bear out."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from regard.training.recipe import Recipe
from regard.tuning import sweep as module
from regard.tuning.advice import Point, advise
from regard.tuning.scaling import CHINCHILLA, Law, effective_tokens, fit_law, minimise, predict
from regard.tuning.sweep import part, stack_parameters, sweep, unique_tokens
from tests.training.learners import model, rows

NAMES = ("E", "A", "B", "alpha", "beta")
TINY = {
    **{"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], "n_embd": 8, "n_layer": 1, "n_head": 2},
    **{"n_positions": 16, "attn_pdrop": 0.0, "resid_pdrop": 0.0, "embd_pdrop": 0.0},
}


def runs(noise: float, seed: int, law: Law = CHINCHILLA, side: int = 5) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A grid as large as that of 2203.15556 is wide, with noise of the log loss."""
    n = np.repeat(np.geomspace(5e7, 1.6e10, side), side)
    d = np.tile(np.geomspace(1e9, 3e11, side), side)
    return n, d, law.loss(n, d) * np.exp(noise * np.random.default_rng(seed).standard_normal(len(n)))


def points(law: Law, speed: float = 1e15, noise: float = 0.0, unique: float = math.inf) -> list[Point]:
    """Runs of a machine of `speed` operations a second."""
    n, d, losses = runs(noise, 0, law)
    found = []
    for i, (size, tokens) in enumerate(zip(n, d, strict=True)):
        loss = law.loss(size, effective_tokens(tokens, min(unique, tokens))) * losses[i] / law.loss(size, tokens)
        counts = (round(size), round(tokens), round(min(unique, tokens)))
        found.append(Point(f"run-{i}", {}, 1.0, *counts, float(loss), 6 * size * tokens / speed))
    return found


@pytest.mark.parametrize("law", [CHINCHILLA, Law(E=0.8, A=30.0, B=2000.0, alpha=0.2, beta=0.5)])
def test_known_constants_are_found_again(law: Law) -> None:
    found = fit_law(*runs(0.0, 0, law), draws=20)
    for name in NAMES:
        assert getattr(found.law, name) == pytest.approx(getattr(law, name), rel=1e-4)
    assert found.explained > 1 - 1e-9
    assert not found.doubts


def test_nine_runs_without_noise_are_enough() -> None:
    found = fit_law(*runs(0.0, 0, side=3), draws=20)
    assert found.law.alpha == pytest.approx(CHINCHILLA.alpha, rel=1e-3)
    assert found.law.beta == pytest.approx(CHINCHILLA.beta, rel=1e-3)


def test_a_run_that_went_wrong_counts_little() -> None:
    n, d, losses = runs(0.001, 1)
    losses[7] *= 1.5
    found = fit_law(n, d, losses, draws=20)
    assert found.law.alpha == pytest.approx(CHINCHILLA.alpha, abs=0.02)
    assert found.law.beta == pytest.approx(CHINCHILLA.beta, abs=0.02)


def test_no_lower_cost_is_known() -> None:
    """Beside L-BFGS of scipy on the same Huber loss, from starts around the answer and far from it."""
    optimize = pytest.importorskip("scipy.optimize")
    n, d, losses = runs(0.01, 3)
    x, y, z = np.log(n), np.log(d), np.log(losses)

    def cost(theta: Any) -> float:
        size = np.abs(z - predict(np.asarray(theta)[None], x, y)[0])
        return 1e3 * float(np.where(size <= 1e-3, size**2 / 2, 1e-3 * (size - 5e-4)).sum())

    law = fit_law(n, d, losses, draws=5).law
    ours = cost([math.log(law.A), math.log(law.B), math.log(law.E), law.alpha, law.beta])
    starts = [(a, b, e, p, q) for a in (4, 7) for b in (5, 8) for e in (0, 0.6) for p in (0.3, 0.6) for q in (0.2, 0.5)]
    options = {"maxiter": 5000, "maxfun": 50000, "ftol": 1e-14, "gtol": 1e-9}
    theirs = min(optimize.minimize(cost, s, method="L-BFGS-B", options=options).fun for s in starts)
    assert ours <= theirs * (1 + 1e-6)
    found, costs = minimise(np.array(starts, float), x - x.mean(), y - y.mean(), np.broadcast_to(z, (len(starts), 25)))
    assert len(found) == len(costs) == len(starts)


@pytest.mark.parametrize("trials", [12, pytest.param(100, marks=pytest.mark.slow)])
def test_intervals_cover_the_truth(trials: int) -> None:
    """Of intervals of 90 %, about 90 % hold the constant; a tenth more may miss it, as the fit is no mean."""
    held = dict.fromkeys(("E", "alpha", "beta", "optimum"), 0)
    for seed in range(trials):
        found = fit_law(*runs(0.005, seed), draws=100)
        for name in ("E", "alpha", "beta"):
            low, high = found.interval(name)
            held[name] += low <= getattr(CHINCHILLA, name) <= high
        low, high = found.interval(lambda law: law.optimum(1e22)[0])
        held["optimum"] += low <= CHINCHILLA.optimum(1e22)[0] <= high
    for name, count in held.items():
        assert count >= 0.78 * trials - 1, (name, count)
    assert min(held.values()) < trials or trials < 20, "intervals that never miss are too wide"


def test_the_optimum_is_least_of_all_ways_to_spend() -> None:
    for compute in (1e19, 5.76e23):
        n, d = CHINCHILLA.optimum(compute)
        assert 6 * n * d == pytest.approx(compute)
        others = np.geomspace(n / 1e3, n * 1e3, 200_001)
        best = others[np.argmin(CHINCHILLA.loss(others, compute / 6 / others))]
        assert n == pytest.approx(best, rel=1e-4)
    share = math.log(CHINCHILLA.optimum(1e24)[0] / CHINCHILLA.optimum(1e21)[0]) / math.log(1e3)
    assert share == pytest.approx(0.46, abs=0.01)  # a of table 2, approach 3


def test_tokens_read_again_count_less() -> None:
    """2305.16264: up to four passes are nearly as good as fresh text, beyond forty nothing comes of more."""
    assert effective_tokens(50.0, 100.0) == 50
    assert effective_tokens(100.0, 100.0) == 100
    assert 0.9 < effective_tokens(400.0, 100.0) / 400 < 1
    assert effective_tokens(1e6, 100.0) == pytest.approx(100 * (1 + 15.387756))
    by_hand = 100 + 100 * 15.387756 * (1 - math.exp(-(10 - 1) / 15.387756))
    assert effective_tokens(1000.0, 100.0) == pytest.approx(by_hand)


@pytest.mark.parametrize(
    ("keep", "said"),
    [
        (slice(0, 5), "there are 5 runs, and the law has 5 constants: at least 6 runs are needed"),
        (slice(0, 10), "the runs have 2 different sizes; the law needs 3 at least"),
        (slice(0, None, 5), "there are 5 runs"),
    ],
)
def test_too_few_runs_are_refused(keep: slice, said: str) -> None:
    n, d, losses = runs(0.0, 0)
    with pytest.raises(ValueError, match=said):
        fit_law(n[keep], d[keep], losses[keep])


def test_numbers_that_are_none_are_refused() -> None:
    n, d, losses = runs(0.0, 0)
    with pytest.raises(ValueError, match="must be finite and above 0"):
        fit_law(n, d, np.where(losses > 3, np.nan, losses))
    with pytest.raises(ValueError, match="there are 25 sizes, 25 counts of tokens and 24 losses"):
        fit_law(n, d, losses[1:])


def test_a_bad_fit_is_refused() -> None:
    n, d, _ = runs(0.0, 0)
    losses = np.random.default_rng(0).uniform(2, 4, size=len(n))
    found = fit_law(n, d, losses)
    assert any("explains" in doubt for doubt in found.doubts)
    case = [Point("r", {}, 1.0, int(a), int(b), int(b), float(c), 1.0) for a, b, c in zip(n, d, losses, strict=True)]
    with pytest.raises(ValueError, match="the fit is not good enough to advise from: the law explains"):
        advise(case, found)
    flat = fit_law(n, d, 2.0 + 100 * d**-0.3)  # size brings nothing
    assert any(doubt.startswith("alpha") for doubt in flat.doubts)


@pytest.mark.parametrize(
    ("law", "first"),
    [
        (Law(E=1.5, A=4000.0, B=20.0, alpha=0.34, beta=0.28), "a larger model"),
        (Law(E=1.5, A=10.0, B=4000.0, alpha=0.34, beta=0.28), "more steps"),
    ],
)
def test_advice_is_what_the_law_says(law: Law, first: str) -> None:
    """A law in which size matters, and one in which tokens do; each plan's loss is the law's own."""
    case = points(law, speed=6 * 1.6e10 * 3e11 * 5 / 3600, noise=0.001)  # an hour is five times the largest run
    found = fit_law([p.parameters for p in case], [p.worth for p in case], [p.loss for p in case], draws=50)
    advice = advise(case, found)
    assert advice.shares[first] > 0.95
    assert f"It is best spent on {first}" in advice.text
    plans = {p.name: p for p in advice.plans}
    wide = plans["a larger model"]
    assert 6 * wide.parameters * wide.tokens == pytest.approx(6 * 1.6e10 * 3e11 * 5, rel=1e-3)
    assert wide.loss == pytest.approx(float(law.loss(wide.parameters, wide.tokens)), rel=0.01)
    assert all(p.low <= p.loss <= p.high for p in advice.plans)
    fresh = replace_all(case)
    assert advise(fresh, found).plans[0].name in ("more data", "a balance of size and steps")


def replace_all(case: list[Point]) -> list[Point]:
    return [replace(p, unique=round(p.unique / 100)) for p in case]


def test_advice_knows_when_text_runs_out_and_when_it_reaches_too_far() -> None:
    law = Law(E=1.5, A=10.0, B=4000.0, alpha=0.34, beta=0.28)
    few = points(law, speed=1e22, unique=1e9)
    found = fit_law([p.parameters for p in few], [p.worth for p in few], [p.loss for p in few], draws=50)
    text = advise(few, found).text
    assert "More data would matter" in text
    assert "times beyond what was run" in text
    slow = points(law, speed=1e10)
    assert "That is less than the best run took" in advise(slow, found).text


def test_parameters_are_counted_without_tables() -> None:
    """12 d^2 and biases and norms a layer: the formula of a GPT-2 block, and its last norm."""
    wide = model(n_embd=32, n_layer=2)
    assert stack_parameters(wide) == 2 * (12 * 32**2 + 13 * 32) + 2 * 32
    assert stack_parameters(model(n_embd=32, n_layer=2, vocab_size=500)) == stack_parameters(wide)


def test_parts_of_data_lie_in_one_another() -> None:
    from regard.training.config import TrainConfig
    from regard.training.data.blocks import Blocks
    from regard.training.data.tokens import Tokens

    text = Blocks(Tokens.of([range(60), range(60, 100)]), 5, stride=1)
    some = part(text, 0.7, 0)
    assert isinstance(some, Blocks)
    assert some.tokens.ids.tolist() == list(range(70))
    assert some.tokens.offsets.tolist() == [0, 60, 70]
    assert unique_tokens(some, TrainConfig(), 100, 5000) == 70
    assert unique_tokens(some, TrainConfig(), 2, 40) == 40
    drawn = [{"number": i, "input_ids": np.zeros(3)} for i in range(50)]
    small, large = ({row["number"] for row in part(drawn, f, 4)} for f in (0.1, 0.5))  # type: ignore[attr-defined]
    assert len(small) == 5
    assert len(large) == 25
    assert small < large
    assert unique_tokens(rows(64), TrainConfig(batch_size=16), 8, 1000) == 500  # two epochs


def recipe(folder: Path, **table: Any) -> Recipe:
    text = "".join(chr(97 + (i * i + i // 7) % 13) for i in range(4000))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "text.txt").write_text(text)
    return Recipe(
        objective="causal-lm",
        model=TINY,
        tokenizer="characters",
        data={"train": "text.txt", "by": "file", "valid": 0.1, "block": 8},
        train={"steps": 12, "batch_size": 8, "eval_batches": 2},
        sweep={"sizes": [{"n_embd": 8}, {"n_embd": 16}, {"n_embd": 24}], "fractions": [0.25, 0.5, 1.0], **table},
        folder=folder,
    )


def test_a_sweep_runs_once_and_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    case = recipe(tmp_path, vary="steps")
    real, calls = module.fit, []

    def cut(*inputs: Any, **options: Any) -> Any:
        calls.append(options["steps"])
        if len(calls) == 5:
            raise KeyboardInterrupt
        return real(*inputs, **options)

    monkeypatch.setattr(module, "fit", cut)
    with pytest.raises(KeyboardInterrupt):
        sweep(case, tmp_path / "runs", show=False)
    found = sweep(case, tmp_path / "runs", show=False)
    assert calls == [3, 6, 12, 3, 6, 6, 12, 3, 6, 12]
    assert found["runs"] == 9
    assert [(p["size"]["n_embd"], p["fraction"]) for p in found["points"]] == [
        (size, fraction) for size in (8, 16, 24) for fraction in (0.25, 0.5, 1.0)
    ]
    assert found["points"][1]["parameters"] == 12 * 8**2 + 13 * 8 + 2 * 8
    assert (found["advice"] is None) != (found["refused"] is None)
    written = json.loads((tmp_path / "runs/sweep.json").read_text())
    assert written["points"] == found["points"]
    assert (tmp_path / "runs/sweep.png").read_bytes().startswith(b"\x89PNG")
    assert not list((tmp_path / "runs").glob("run-*/states"))
    logged = [json.loads(line) for line in (tmp_path / "runs/run-004/log.jsonl").read_text().splitlines()]
    assert found["points"][4]["loss"] == logged[-1]["valid"]["loss"]
    with pytest.raises(ValueError, match="holds another sweep"):
        sweep(replace(case, train={**case.train, "batch_size": 4}), tmp_path / "runs")
    with pytest.raises(ValueError, match="holds a sweep of other sizes or fractions"):
        sweep(recipe(tmp_path, vary="steps", fractions=[0.5, 1.0]), tmp_path / "runs")


def test_a_size_has_a_rate_of_its_own_and_runs_are_of_several_lengths(tmp_path: Path) -> None:
    case = recipe(tmp_path, sizes=[{"n_embd": 8, "learning_rate": 0.01}, {"n_embd": 16}])
    case = replace(case, sweep={"sizes": case.sweep["sizes"]}, train={**case.train, "steps": 8})
    found = sweep(case, tmp_path / "runs", show=False)
    assert [p["tokens"] for p in found["points"]] == [64, 128, 256, 512] * 2  # an eighth of 8 steps of 64, and so on
    kept = [json.loads(path.read_text()) for path in sorted((tmp_path / "runs").glob("run-*/run.json"))]
    rates = [one["training"]["optimizer"]["learning_rate"] for one in kept]
    assert rates[:4] == [0.01] * 4 and len(set(rates[4:])) == 1 and rates[4] != 0.01


def test_a_sweep_of_data_and_too_few_runs(tmp_path: Path) -> None:
    case = recipe(tmp_path, sizes=[{"n_embd": 8}], fractions=[0.1, 1.0])
    case = replace(case, train={"epochs": 1.0, "batch_size": 8, "eval_batches": 2})
    found = sweep(case, tmp_path / "runs", show=False)
    small, whole = found["points"]
    # One pass over 360 and 3600 characters, in steps of 8 windows of 9, each of which is 8 predictions.
    assert (small["tokens"], whole["tokens"]) == (5 * 64, 50 * 64)
    assert (small["unique"], whole["unique"]) == (5 * 64, 50 * 64)
    assert found["refused"].startswith("no advice: there are 2 runs, and the law has 5 constants")
    assert found["law"] is None


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ({"sizes": []}, r"sweep.sizes is \[\]; allowed: a list such as"),
        ({"fractions": [0.0]}, r"sweep.fractions is \[0.0\]; allowed: a list of numbers above 0 up to 1"),
        ({"fractions": [0.5, 0.5]}, "each one once"),
        ({"vary": "rows"}, "sweep.vary is 'rows'; allowed: 'data', 'steps'"),
        ({"size": []}, "sweep has no 'size'"),
        ({"sizes": [{"n_head": 3}]}, "sweep: the size {'n_head': 3}: "),
    ],
)
def test_mistakes_are_named(tmp_path: Path, table: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        sweep(recipe(tmp_path, **table), tmp_path / "runs", show=False)


def test_only_new_models_are_swept(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="model is 'folder'; a sweep trains new models"):
        sweep(replace(recipe(tmp_path), model="folder"), tmp_path / "runs")
    lost = replace(recipe(tmp_path, vary="steps"), train={"epochs": 1.0})
    with pytest.raises(ValueError, match=r"sweep.vary is 'steps'; allowed only with train.steps"):
        sweep(lost, tmp_path / "runs")
