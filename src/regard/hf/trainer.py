"""`Trainer` and `TrainingArguments` as tutorials type them: thin doors to `regard.fit`."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

import regard
from regard import adapt
from regard.adapt.adapters import adapters
from regard.models.model import Model, Output
from regard.training.base import Dataset, Objective, Row
from regard.training.config import TrainConfig, settings
from regard.training.evaluate import evaluate
from regard.training.folder import keep
from regard.training.loop import History, fit
from regard.training.objectives.choose import objective_for
from regard.training.problem import Problem

_SCHEDULES = {
    "linear": "linear",
    "cosine": "cosine",
    "constant": "constant",
    "constant_with_warmup": "constant",
    "inverse_sqrt": "inverse-sqrt",
    "warmup_stable_decay": "warmup-stable-decay",
}
_OPTIMIZERS = {"adamw_torch": "adamw", "adamw_torch_fused": "adamw", "adafactor": "adafactor", "sgd": "sgd"}
_NEVER = ("no", "steps", "epoch")


@dataclass(kw_only=True)
class TrainingArguments:
    """The usual arguments, with the usual defaults; batch sizes are for each device.

    `report_to`, `disable_tqdm`, `dataloader_num_workers` and `remove_unused_columns` change nothing that is learnt:
    the log, TensorBoard where it is installed, and the bar on a terminal are always there.
    """

    output_dir: str = "trainer_output"
    num_train_epochs: float = 3.0
    max_steps: int = -1
    per_device_train_batch_size: int = 8
    per_device_eval_batch_size: int = 8
    gradient_accumulation_steps: int = 1
    learning_rate: float = 5e-5
    weight_decay: float = 0.0
    adam_beta1: float = 0.9
    adam_beta2: float = 0.999
    adam_epsilon: float = 1e-8
    max_grad_norm: float = 1.0
    optim: str = "adamw_torch"
    lr_scheduler_type: str = "linear"
    warmup_steps: float = 0
    warmup_ratio: float = 0.0
    label_smoothing_factor: float = 0.0
    eval_strategy: str = "no"
    evaluation_strategy: str | None = None
    eval_steps: int | None = None
    save_strategy: str = "steps"
    save_steps: int = 500
    save_total_limit: int | None = None
    load_best_model_at_end: bool = False
    metric_for_best_model: str | None = None
    logging_steps: int = 500
    logging_dir: str | None = None
    logging_strategy: str = "steps"
    seed: int = 42
    bf16: bool = False
    gradient_checkpointing: bool = False
    use_cpu: bool = False
    report_to: str | Sequence[str] | None = None
    disable_tqdm: bool | None = None
    dataloader_num_workers: int = 0
    remove_unused_columns: bool = True

    def __post_init__(self) -> None:
        if self.evaluation_strategy is not None:
            self.eval_strategy = self.evaluation_strategy
        for name, allowed in (
            ("eval_strategy", _NEVER),
            ("save_strategy", (*_NEVER, "best")),
            ("lr_scheduler_type", tuple(_SCHEDULES)),
            ("optim", tuple(_OPTIMIZERS)),
        ):
            if str(getattr(self, name)) not in allowed:
                raise ValueError(f"TrainingArguments.{name} is {getattr(self, name)!r}; allowed: {', '.join(allowed)}")

    def config(self, steps_per_epoch: int) -> TrainConfig:
        """The same as options of `regard.fit`."""
        total = self.max_steps if self.max_steps > 0 else max(1, math.ceil(self.num_train_epochs * steps_per_epoch))
        return settings(
            steps=total,
            batch_size=self.per_device_train_batch_size,
            accumulate=self.gradient_accumulation_steps,
            optimizer=_OPTIMIZERS[self.optim],
            learning_rate=float(self.learning_rate),
            betas=(self.adam_beta1, self.adam_beta2),
            eps=self.adam_epsilon,
            weight_decay=self.weight_decay,
            clip=self.max_grad_norm or None,
            schedule=_SCHEDULES[self.lr_scheduler_type],
            warmup=float(self.warmup_steps or math.ceil(self.warmup_ratio * total)),
            eval_every=_every(self.eval_strategy, self.eval_steps or self.logging_steps, steps_per_epoch),
            save_every=_every(self.save_strategy, self.save_steps, steps_per_epoch),
            log_every=self.logging_steps,
            goal=(self.metric_for_best_model or "loss").removeprefix("eval_"),
            seed=self.seed,
            precision="bf16" if self.bf16 else "32",
            checkpointing=self.gradient_checkpointing,
            device="cpu" if self.use_cpu else "auto",
        )


def _every(strategy: str, steps: int, per_epoch: int) -> int | None:
    return {"no": None, "steps": steps}.get(strategy, per_epoch)


class EvalPrediction(NamedTuple):
    """What `compute_metrics` is given: logits and labels as arrays, a row each."""

    predictions: Any
    label_ids: Any


class TrainOutput(NamedTuple):
    """What `train` returns."""

    global_step: int
    training_loss: float
    metrics: dict[str, float]


class Trainer:
    """A model, its arguments and its data. Rows hold what the tokenizer gave, and `label` or `labels`.

    The objective follows from the model's head. Raises ValueError for a model whose head none fits.
    """

    def __init__(
        self,
        model: Model,
        args: TrainingArguments | None = None,
        train_dataset: Dataset | None = None,
        eval_dataset: Dataset | None = None,
        processing_class: Any = None,
        tokenizer: Any = None,
        compute_metrics: Callable[[EvalPrediction], dict[str, float]] | None = None,
        data_collator: Any = None,
    ):
        self.model = model
        self.args = TrainingArguments() if args is None else args
        self.train_dataset, self.eval_dataset, self.compute_metrics = train_dataset, eval_dataset, compute_metrics
        self.processing_class = processing_class or tokenizer
        if self.processing_class is not None:
            model.processor = self.processing_class
        self.data_collator = data_collator
        self.objective: Objective = objective_for(model, smoothing=self.args.label_smoothing_factor)
        self.history = History()

    def train(self, resume_from_checkpoint: bool | str | None = None) -> TrainOutput:
        """Train in place; the run's folder is `output_dir`. Raises ValueError without `train_dataset`."""
        if self.train_dataset is None:
            raise ValueError("Trainer.train needs train_dataset")
        args, rows = self.args, _Rows(self.train_dataset)
        per_epoch = math.ceil(len(rows) / (args.per_device_train_batch_size * args.gradient_accumulation_steps))
        wanted = args.eval_strategy != "no" or args.load_best_model_at_end
        valid = _Rows(self.eval_dataset) if self.eval_dataset is not None and wanted else None
        problem = Problem(self.objective, rows, valid)
        self.history = fit(
            self.model, problem, args.config(per_epoch), folder=args.output_dir, resume=bool(resume_from_checkpoint)
        )
        if args.load_best_model_at_end and (Path(args.output_dir) / "best").is_dir():
            self._take(Path(args.output_dir) / "best")
        losses = [loss for _, loss in self.history.losses]
        seconds = self.history.progress.seconds
        mean = float(np.mean(losses)) if losses else math.nan
        return TrainOutput(self.history.progress.step, mean, {"train_loss": mean, "train_runtime": seconds})

    def _take(self, folder: Path) -> None:
        """Put the weights that a folder keeps, or those of the adapter at work, into the model."""
        record = adapters(self.model)
        if not record.plans:
            best = regard.load(folder, with_processor=False)
            self.model.load_state_dict(best.state_dict())
            return
        name = record.active[0]
        adapt.delete(self.model, name)
        adapt.load_adapter(self.model, folder, name, trainable=True)
        self.model.eval()

    def evaluate(self, eval_dataset: Dataset | None = None) -> dict[str, float]:
        """{"eval_loss": ..., "eval_" + what `compute_metrics` gives}."""
        dataset = self.eval_dataset if eval_dataset is None else eval_dataset
        if dataset is None:
            raise ValueError("Trainer.evaluate needs eval_dataset")
        size = self.args.per_device_eval_batch_size
        problem = Problem(self.objective, _Rows(dataset), _Rows(dataset))
        scores = evaluate(self.model, problem, batch_size=size)
        if self.compute_metrics is not None:
            logits, labels, _ = self.predict(dataset)
            scores |= self.compute_metrics(EvalPrediction(logits, labels))
        return {f"eval_{name.removeprefix('eval_')}": value for name, value in scores.items()}

    @torch.no_grad()
    def predict(self, test_dataset: Dataset) -> tuple[Any, Any, dict[str, float]]:
        """(logits, labels, {}), a row each, in the order of the rows; of models that give one result a row."""
        self.model.eval()
        rows = _Rows(test_dataset)
        found, labels = [], []
        for i in range(len(rows)):
            batch = self.objective.collate([rows[i]], np.random.default_rng(0)).to(self.model.device)
            out: Output = self.model(**batch.inputs)
            found.append(out["logits"].float().cpu().numpy()[0])
            labels.append(rows[i].get("labels"))
        return np.stack(found), np.asarray(labels), {}

    def save_model(self, output_dir: str | None = None) -> None:
        """Write the model, or the adapter at work, and the tokenizer to a folder."""
        keep(self.model, Path(output_dir or self.args.output_dir))


class _Rows:
    """Rows as objectives want them: `label` is `labels`, and columns of text are left out."""

    def __init__(self, rows: Dataset):
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Row:
        row: Mapping[str, Any] = self.rows[int(index)]
        named: Iterable[tuple[str, Any]] = (("labels" if k == "label" else k, v) for k, v in row.items())
        return {name: value for name, value in named if not isinstance(value, str) and name != "attention_mask"}
