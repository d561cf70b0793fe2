"""The picture of a run: its loss curve."""

from __future__ import annotations

from typing import Any

from regard.extras import need


def loss_figure(records: list[dict[str, Any]]) -> Any:
    """A matplotlib figure: training and validation loss by step, the learning rate below."""
    figures = need("matplotlib.figure", "plot")
    figure = figures.Figure(figsize=(7, 4.8), layout="constrained")
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(4, 1))
    train = [r for r in records if "loss" in r]
    valid = [r for r in records if "valid" in r]
    top.plot([r["step"] for r in train], [r["loss"] for r in train], color="#4c78a8", linewidth=1, label="training")
    if valid:
        steps, losses = [r["step"] for r in valid], [r["valid"]["loss"] for r in valid]
        top.plot(steps, losses, color="#e45756", marker="o", markersize=3, label="validation")
    top.set_ylabel("loss")
    top.grid(alpha=0.3)
    top.legend(frameon=False)
    rates = [r["learning_rate"] for r in train]
    bottom.plot([r["step"] for r in train], rates, color="#72b7b2", linewidth=1)
    bottom.set_ylabel("rate")
    bottom.set_xlabel("step")
    bottom.grid(alpha=0.3)
    return figure
