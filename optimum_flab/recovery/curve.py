"""The loss curve of a training as a picture."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path


LABELS = {"training_loss": "training", "validation_loss": "set aside"}


def draw_curve(curve: Sequence[Mapping[str, float]], best_step: int, label: str, path: Path) -> None:
    """Writes the losses by step as a PNG.

    Args:
        curve (`Sequence[Mapping[str, float]]`): see [`~recovery.trained.Training`].
        best_step (`int`): the step whose checkpoint was kept.
        label (`str`): the name of the loss, for the axis.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for name, shown in LABELS.items():
        points = [(entry["step"], entry[name]) for entry in curve if math.isfinite(entry.get(name, math.nan))]
        if points:
            axes.plot(*zip(*points, strict=True), marker="o" if name == "validation_loss" else None, label=shown)
    if best_step:
        axes.axvline(best_step, linestyle=":", color="grey", label="kept")
    axes.set_xlabel("step")
    axes.set_ylabel(label)
    if axes.get_legend_handles_labels()[0]:
        axes.legend()
    figure.savefig(path, dpi=120, metadata={"Software": None})
