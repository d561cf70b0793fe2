"""The loop: what a step is, and that a run which is killed goes on as if nothing had happened."""

from __future__ import annotations

import dataclasses
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import regard
from regard.tasks.toy import reverse
from regard.training.loop import Interrupted, fit
from regard.training.metrics import accuracy
from regard.training.state import load_state
from tests.training.learners import model, problem

ROOT = Path(__file__).parents[2]
PLAIN = {"attn_pdrop": 0.0, "resid_pdrop": 0.0, "embd_pdrop": 0.0}


def weights(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in module.named_parameters()}


def assert_equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    assert a.keys() == b.keys()
    for name in a:
        assert torch.equal(a[name], b[name]), name


def run(folder: Path, steps: int, devices: int = 1) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}"}
    command = [sys.executable, "-m", "tests.training.learners", str(folder), str(steps), str(devices)]
    return subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE)


def outcome(folder: Path) -> tuple[dict[str, torch.Tensor], list[dict[str, Any]]]:
    records = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    for record in records:
        record.pop("tokens_per_second", None)
    newest = sorted((folder / "states").glob("step-*"))[-1]
    tensors = {f"{file.name}:{k}": v for file in newest.glob("*.safetensors") for k, v in load_file(file).items()}
    return {**tensors, **load_file(folder / "best" / "model.safetensors")}, records


def test_it_learns_and_says_so() -> None:
    history = fit(model(), problem(metrics={"accuracy": accuracy}), steps=150, learning_rate=1e-2, eval_every=50)
    assert [e["step"] for e in history.evaluations] == [50, 100, 150]
    assert history.losses[0][1] > 2.0  # chance is log 17 = 2.83
    assert history.evaluations[-1]["valid"]["loss"] < 1.3
    assert history.evaluations[-1]["valid"]["accuracy"] > 0.4


def test_the_first_step_is_the_formula() -> None:
    """Loss, gradient and clipping of one step beside plain torch."""
    ours, theirs = model(**PLAIN), model(**PLAIN)
    case = problem()
    history = fit(
        ours,
        case,
        steps=1,
        batch_size=64,
        optimizer="sgd",
        learning_rate=0.5,
        weight_decay=0.0,
        clip=0.1,
        schedule="constant",
    )
    batch = case.objective.collate(case.train, None)  # type: ignore[arg-type]
    loss = case.objective(theirs, batch) / batch.count
    loss.backward()
    norm = torch.stack([p.grad.norm() for p in theirs.parameters()]).norm()
    for name, p in theirs.named_parameters():
        expected = p - 0.5 * p.grad * min(1.0, 0.1 / float(norm))
        torch.testing.assert_close(ours.get_parameter(name), expected, rtol=1e-5, atol=1e-7)
    assert history.losses[0][1] == pytest.approx(float(loss.detach()), rel=1e-6)


@pytest.mark.parametrize("way", [{"batch_size": 16, "accumulate": 4}, {"batch_size": 64, "checkpointing": True}])
def test_smaller_pieces_make_the_same_step(way: dict[str, Any]) -> None:
    """Sums over unequal lengths: a mean of means would be another loss."""
    whole, parts = model(**PLAIN), model(**PLAIN)
    options: dict[str, Any] = {"optimizer": "sgd", "learning_rate": 0.1, "clip": None}
    fit(whole, problem(), steps=3, batch_size=64, **options)
    fit(parts, problem(), steps=3, **way, **options)
    for name, p in whole.named_parameters():
        torch.testing.assert_close(parts.get_parameter(name), p, rtol=1e-5, atol=1e-6)


def test_checkpointing_keeps_dropout(tmp_path: Path) -> None:
    a, b = model(), model()
    fit(a, problem(), steps=4, batch_size=8)
    fit(b, problem(), steps=4, batch_size=8, checkpointing=True)
    for name, p in a.named_parameters():
        torch.testing.assert_close(b.get_parameter(name), p, rtol=1e-5, atol=1e-7)


def test_the_average_of_weights_is_its_formula() -> None:
    seen = [weights(model())]
    for steps in range(1, 6):
        plain = model()
        fit(plain, problem(), steps=steps, batch_size=8, schedule="constant")
        seen.append(weights(plain))
    averaged = model()
    fit(averaged, problem(), steps=5, batch_size=8, schedule="constant", ema=0.5)
    expected = seen[0]
    for step in range(1, 6):
        decay = min(0.5, (1 + step) / (10 + step))
        expected = {n: decay * expected[n] + (1 - decay) * seen[step][n] for n in expected}
    for name, value in weights(averaged).items():
        torch.testing.assert_close(value, expected[name], rtol=1e-5, atol=1e-6)


def test_speed_is_said_in_tokens_or_in_rows_without_any() -> None:
    case = problem()
    records = fit(model(), case, steps=3, batch_size=8, log_every=1).records
    assert all(record["tokens_per_second"] > 0 for record in records if "loss" in record)
    collate = case.objective.collate

    def senses(rows: Any, rng: Any) -> Any:
        return dataclasses.replace(collate(rows, rng), tokens=0, count=len(rows))

    case.objective.collate = senses  # type: ignore[method-assign]
    history = fit(model(), case, steps=3, batch_size=8, log_every=1)
    assert history.progress.items == 24
    speeds = [record["rows_per_second"] for record in history.records if "loss" in record]
    assert speeds[-1] > 0 and 24 / history.progress.seconds == pytest.approx(3 / sum(1 / s for s in speeds), rel=0.01)


def test_it_stops_when_nothing_gets_better() -> None:
    history = fit(model(), problem(), steps=200, learning_rate=1e-12, eval_every=2, patience=3)
    assert history.progress.stopped
    assert history.progress.step < 200
    values = [e["valid"]["loss"] for e in history.evaluations]
    assert min(values[-3:]) >= min(values[:-3])


def test_a_run_folder_holds_what_was_done(tmp_path: Path) -> None:
    trained = model()
    fit(trained, problem(), folder=tmp_path / "run", steps=20, eval_every=10, save_every=5)
    record = json.loads((tmp_path / "run/run.json").read_text())
    assert record["training"]["seed"] == 0
    assert record["data"] == {"rows": 64, "fingerprint": "counting"}
    assert record["made"]["versions"]["torch"] == torch.__version__
    assert (tmp_path / "run/loss.png").read_bytes().startswith(b"\x89PNG")
    assert sorted(p.name for p in (tmp_path / "run/states").iterdir()) == ["step-00000015", "step-00000020"]
    assert_equal(weights(regard.load(tmp_path / "run/last")), weights(trained))


@pytest.mark.parametrize(("stop", "optimizer"), [(5, "adamw"), (7, "adamw"), (12, "adamw"), (7, "muon")])
def test_a_run_that_was_cut_off_goes_on_to_the_bit(tmp_path: Path, stop: int, optimizer: str) -> None:
    options: dict[str, Any] = {
        "steps": 20,
        "optimizer": optimizer,
        "batch_size": 8,
        "ema": 0.9,
        "save_every": 4,
        "eval_every": 6,
        "log_every": 3,
    }
    alone, cut = model(), model()
    fit(alone, problem(), folder=tmp_path / "alone", **options)

    class Cut(Exception):
        pass

    case = problem()
    forward, steps = case.objective.forward, []

    def fail(*inputs: Any) -> torch.Tensor:
        steps.append(1)
        if len(steps) > stop:
            raise Cut
        return forward(*inputs)

    case.objective.forward = fail  # type: ignore[method-assign]
    with pytest.raises(Cut):
        fit(cut, case, folder=tmp_path / "cut", **options)
    again = model(seed=1)
    fit(again, problem(), folder=tmp_path / "cut", **options)
    assert_equal(weights(again), weights(alone))
    (a, log_a), (b, log_b) = outcome(tmp_path / "alone"), outcome(tmp_path / "cut")
    assert_equal(a, b)
    assert log_a == log_b


def killed_run(folder: Path, steps: int, kills: int, seed: int) -> None:
    """Kill the run at random instants of its work, then let it end."""
    rng = random.Random(seed)
    for _ in range(kills):
        before = states(folder)
        process = run(folder, steps)
        while process.poll() is None and states(folder) <= before:
            time.sleep(0.02)
        time.sleep(rng.uniform(0, 0.5))
        assert process.poll() is None, "the run ended before it was killed"
        process.kill()
        process.communicate()
    process = run(folder, steps)
    _, errors = process.communicate()
    assert process.returncode == 0, errors.decode()


def states(folder: Path) -> list[str]:
    return sorted((p.name for p in (folder / "states").glob("step-*")), reverse=True)


@pytest.mark.parametrize("kills", [2, pytest.param(20, marks=pytest.mark.slow)])
def test_kills_change_nothing(tmp_path: Path, kills: int) -> None:
    steps = 150 * kills + 150
    alone = run(tmp_path / "alone", steps)
    _, errors = alone.communicate()
    assert alone.returncode == 0, errors.decode()
    killed_run(tmp_path / "killed", steps, kills, seed=kills)
    (a, log_a), (b, log_b) = outcome(tmp_path / "alone"), outcome(tmp_path / "killed")
    assert_equal(a, b)
    assert log_a == log_b


def test_sigterm_saves_first(tmp_path: Path) -> None:
    case = problem()
    forward, steps = case.objective.forward, []

    def tell(*inputs: Any) -> torch.Tensor:
        steps.append(1)
        if len(steps) == 9:
            os.kill(os.getpid(), signal.SIGTERM)
        return forward(*inputs)

    case.objective.forward = tell  # type: ignore[method-assign]
    with pytest.raises(Interrupted) as stopped:
        fit(model(), case, folder=tmp_path, steps=100, batch_size=8)
    assert stopped.value.code == 128 + signal.SIGTERM
    assert [p.name for p in (tmp_path / "states").iterdir()] == ["step-00000009"]
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_a_full_disk_keeps_the_last_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import regard.training.state as state

    write, calls = state._write, []

    def full(tensors: Any, path: Path) -> None:
        calls.append(path)
        if len(calls) > 4:
            path.write_bytes(b"half")
            raise OSError(28, "No space left on device")
        write(tensors, path)

    monkeypatch.setattr(state, "_write", full)
    with pytest.raises(OSError, match=r"the state after step 9 cannot be written .* step 6 is whole"):
        fit(model(), problem(), folder=tmp_path, steps=20, batch_size=8, save_every=3)
    monkeypatch.undo()
    assert sorted(p.name for p in (tmp_path / "states").iterdir()) == ["step-00000003", "step-00000006"]
    alone, again = model(), model()
    fit(alone, problem(), steps=20, batch_size=8)
    fit(again, problem(), folder=tmp_path, steps=20, batch_size=8, save_every=3)
    assert_equal(weights(alone), weights(again))


def test_a_damaged_state_falls_back_to_the_one_before(tmp_path: Path) -> None:
    fit(model(), problem(), folder=tmp_path, steps=10, batch_size=8, save_every=5)
    (tmp_path / "states/step-00000010/weights.safetensors").write_bytes(b"lost")
    again = model(seed=1)
    fit(again, problem(), folder=tmp_path, steps=10, batch_size=8, save_every=5)
    alone = model()
    fit(alone, problem(), steps=10, batch_size=8)
    assert_equal(weights(alone), weights(again))


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_two_processes_have_the_loss_of_one(tmp_path: Path, strategy: str) -> None:
    """Dropout is drawn by each process, so the mean loss is compared without it. A run may go on with fewer devices."""
    script = tmp_path / "two.py"
    script.write_text(
        "import sys, torch; torch.set_num_threads(1)\n"
        "from regard.training.loop import fit\n"
        "from tests.training.learners import model, problem\n"
        f"plain = {PLAIN!r}\n"
        "fit(model(**plain), problem(), folder=sys.argv[1], steps=6, batch_size=10, accumulate=2, eval_every=3,\n"
        f"    log_every=1, devices=2, strategy={strategy!r}, device='cpu', learning_rate=1e-3, ema=0.5, save_every=4)\n"
    )
    environment = {**os.environ, "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}"}
    subprocess.run([sys.executable, script, tmp_path / "two"], cwd=ROOT, env=environment, check=True, timeout=300)
    options: dict[str, Any] = {"steps": 6, "batch_size": 10, "accumulate": 2, "eval_every": 3, "log_every": 1}
    options |= {"learning_rate": 1e-3, "ema": 0.5, "save_every": 4, "device": "cpu"}
    fit(model(**PLAIN), problem(), folder=tmp_path / "one", **options)
    (a, one), (b, two) = outcome(tmp_path / "one"), outcome(tmp_path / "two")
    assert len(one) == len(two) == 8
    for mine, theirs in zip(one, two, strict=True):
        assert mine["step"] == theirs["step"]
        for name in ("loss", "grad_norm"):
            if name in mine:
                assert mine[name] == pytest.approx(theirs[name], rel=1e-4)
        if "valid" in mine:
            assert mine["valid"] == pytest.approx(theirs["valid"], rel=1e-4)
    for name in a:
        torch.testing.assert_close(b[name], a[name], rtol=1e-3, atol=1e-5)
    shutil.rmtree(tmp_path / "two/states/step-00000006")
    alone = model(**PLAIN)
    fit(alone, problem(), folder=tmp_path / "two", **options)
    assert_equal(weights(regard.load(tmp_path / "two/last")), weights(alone))
    for name, value in outcome(tmp_path / "two")[0].items():
        torch.testing.assert_close(value, a[name], rtol=1e-3, atol=1e-5)


def test_texts_are_not_measured_where_all_devices_write_together() -> None:
    task = reverse(vocab_size=16, length=3)
    with pytest.raises(ValueError, match=r"strategy is 'fsdp'.* the metrics exact need texts"):
        fit(regard.transformer(vocab_size=16, dim=16, num_layers=1, num_heads=2), task, steps=1, strategy="fsdp")


@pytest.mark.parametrize(("goal", "best"), [("wer", 0.2), ("perplexity", 0.2), ("accuracy", 0.5), ("my_own", 0.5)])
def test_of_errors_fewer_are_better(monkeypatch: pytest.MonkeyPatch, goal: str, best: float) -> None:
    scores = iter([0.4, 0.2, 0.5, 0.3])
    monkeypatch.setattr("regard.training.loop.evaluate", lambda *args, **kwargs: {"loss": 1.0, goal: next(scores)})
    history = fit(model(), problem(), steps=4, batch_size=8, eval_every=1, goal=goal)
    assert history.progress.best == best


def test_mistakes_are_named(tmp_path: Path) -> None:
    fit(model(), problem(), folder=tmp_path / "run", steps=2, batch_size=8)
    with pytest.raises(
        ValueError, match=r"holds another run: training.optimizer.learning_rate was 5e-05 and is now 0.1"
    ):
        fit(model(), problem(), folder=tmp_path / "run", steps=2, batch_size=8, learning_rate=0.1)
    with pytest.raises(ValueError, match="goal is 'acuracy'; this run measures loss"):
        fit(model(), problem(), steps=2, goal="acuracy")
    with pytest.raises(ValueError, match="no parameter learns"):
        fit(model(), problem(), steps=2, freeze=["*"])
    with pytest.raises(ValueError, match=r"the gradient of step \d+ is not finite|the loss is"):
        fit(model(), problem(), steps=50, learning_rate=1e30, optimizer="sgd", clip=1e30, log_every=1)
    with pytest.raises(ValueError, match=r"optimizer is 'muon', which needs whole matrices.*; allowed: .*ddp"):
        fit(model(), problem(), steps=2, optimizer="muon", strategy="fsdp")
    assert load_state(tmp_path / "nothing", torch.nn.Linear(1, 1), None, {}) is None  # type: ignore[arg-type]


@pytest.mark.parametrize(("device", "said"), [("auto", "there is none here"), ("cpu", "device is 'cpu'")])
def test_a_strategy_that_this_machine_cannot_run(monkeypatch: pytest.MonkeyPatch, device: Any, said: str) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match=f"strategy is 'deepspeed_stage_1', which needs NVIDIA GPUs, and {said}; all"):
        fit(model(), problem(), steps=1, device=device, strategy="deepspeed_stage_1", show=False)
