"""How good a model is on rows that it has not learnt from."""

from __future__ import annotations

import math
from typing import Any

import torch

from regard.models.model import Model
from regard.training.data.batches import Batches, stream
from regard.training.learner import Learner
from regard.training.problem import Problem


@torch.no_grad()
def evaluate(
    model: Model,
    problem: Problem,
    *,
    batches: int | None = None,
    batch_size: int = 32,
    fabric: Any = None,
    learner: Any = None,
) -> dict[str, float]:
    """The mean loss on `problem.valid`, its metrics, and `perplexity` where the objective predicts tokens.

    `learner` is the model and the objective as `fabric` has placed them. `batches` bounds the work: so many batches of
    rows from all over the data. The model is left in evaluation mode. What is random (masks) is the same every time.
    """
    assert problem.valid is not None
    learner = Learner(model, problem.objective) if learner is None else learner
    learner.eval()
    world, rank = (1, 0) if fabric is None else (fabric.world_size, fabric.global_rank)
    device = model.device
    plan = Batches(problem.valid, batch_size=batch_size, shuffle=batches is not None, seed=0, world=world, rank=rank)
    limit = len(plan) if batches is None else min(batches, len(plan))
    loss = torch.zeros((), dtype=torch.float64)
    count = 0
    predictions: list[Any] = []
    references: list[Any] = []
    micros = stream(problem.valid, plan, problem.objective.collate, epochs=1)
    try:
        for _, (_, batch) in zip(range(limit), micros, strict=False):
            batch = batch.to(device)
            found, said, right = learner(batch, predict=True) if problem.metrics else (learner(batch), [], [])
            loss += float(found)
            count += batch.count
            predictions += said
            references += right
    finally:
        micros.close()
    if world > 1:
        both = fabric.all_reduce(torch.tensor([float(loss), count], dtype=torch.float64), reduce_op="sum")
        loss, count = both[0], int(both[1])
        predictions, references = _everywhere(predictions), _everywhere(references)
    predictions, references = problem.objective.joined(predictions, references)
    scores = {"loss": float(loss) / max(count, 1)}
    if problem.objective.predicts_tokens:
        scores["perplexity"] = math.exp(min(scores["loss"], 700.0))
    return scores | {name: metric(predictions, references) for name, metric in problem.metrics.items()}


def _everywhere(values: list[Any]) -> list[Any]:
    shares: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(shares, values)
    return [value for share in shares for value in share]
