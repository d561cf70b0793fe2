"""The schedules beside their formulas, and beside torch's own where it has them."""

from __future__ import annotations

import math

import pytest
import torch

from regard.training.config import ScheduleConfig, TrainConfig, settings
from regard.training.schedules import factor


def rates(total: int = 100, dim: int = 512, **fields: object) -> list[float]:
    config = ScheduleConfig(**fields)  # type: ignore[arg-type]
    return [factor(config, step, total, dim) for step in range(1, total + 1)]


def test_the_original_transformers_rate() -> None:
    found = rates(10_000, 512, name="transformer", warmup=4000.0)
    for step in (1, 10, 3999, 4000, 4001, 9999):
        assert found[step - 1] == pytest.approx(512**-0.5 * min(step**-0.5, step * 4000**-1.5), rel=1e-12)
    assert max(found) == found[3999]


def test_cosine_without_warmup_is_torchs() -> None:
    weight = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([weight], lr=1.0)
    theirs = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=100, eta_min=0.1)
    ours = rates(name="cosine", floor=0.1)
    for value in ours:
        optimizer.step()
        theirs.step()
        assert value == pytest.approx(optimizer.param_groups[0]["lr"], abs=1e-9)


def test_linear_rises_then_falls_to_the_floor() -> None:
    found = rates(name="linear", warmup=0.1, floor=0.2)
    assert found[:10] == pytest.approx([step / 10 for step in range(1, 11)])
    assert found[10:] == pytest.approx([0.2 + 0.8 * (100 - step) / 90 for step in range(11, 101)])


def test_a_stable_rate_decays_only_at_the_end() -> None:
    found = rates(name="warmup-stable-decay", warmup=10.0, decay=0.2, floor=0.0)
    assert found[9:80] == [1.0] * 71
    assert found[80:] == pytest.approx([(100 - step) / 20 for step in range(81, 101)])


def test_inverse_square_root_meets_its_warmup() -> None:
    found = rates(name="inverse-sqrt", warmup=25.0)
    assert found[24] == 1.0
    assert found[99] == pytest.approx(math.sqrt(25 / 100))


def test_flat_options_find_their_homes() -> None:
    config = settings(steps=7, learning_rate=0.1, optimizer="sgd", schedule="cosine", warmup=3, betas=[0.8, 0.9])
    assert (config.steps, config.optimizer.learning_rate, config.optimizer.name) == (7, 0.1, "sgd")
    assert (config.schedule.name, config.schedule.warmup, config.optimizer.betas) == ("cosine", 3, (0.8, 0.9))
    assert config == TrainConfig.from_dict(config.to_dict())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"learning_rat": 1}, "did you mean 'learning_rate'"),
        ({"steps": 0}, "steps is 0; allowed"),
        ({"learning_rate": -1.0}, "learning_rate is -1.0; allowed"),
        ({"schedule": "cosin"}, "name is 'cosin'; allowed"),
        ({"schedule": "transformer"}, "warmup is 0.0; allowed: above 0"),
        ({"devices": 2, "unfreeze_every": 5}, "unfreeze_every is 5"),
        ({"ema": 1.0}, "ema is 1.0"),
    ],
)
def test_bad_options_are_named(options: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words.replace("(", r"\(")):
        settings(**options)
