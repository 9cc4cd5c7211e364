"""The plot of a report: the table as bars."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...records.results import BASELINE, EfficiencyRow, Spread
from .report import EfficiencyReport, median, shown_number, titled


if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def plot(report: EfficiencyReport) -> Figure:
    """The table as bars, a panel per row; whiskers are quartiles."""
    from matplotlib.figure import Figure

    columns = 4
    lines = -(-len(report.table) // columns)
    # a figure of its own, not pyplot's: nothing global, no display needed
    figure = Figure(figsize=(3.2 * columns, 2.7 * lines + 1.2), layout="constrained")
    titles = "\n".join(f"{name}: {titled(model)}" for name, model in report.models.items())
    figure.suptitle(f"{titles}\n{report.conditions()}", fontsize=9)
    panels = figure.subplots(lines, columns, squeeze=False).flatten().tolist()
    for panel, row in zip(panels, report.table, strict=False):
        _bars(panel, row, list(report.models))
    for panel in panels[len(report.table) :]:
        panel.set_axis_off()
    return figure


def _bars(panel: Axes, row: EfficiencyRow, names: list[str]) -> None:
    values = [getattr(row, name) for name in names]
    heights = [median(value) or 0.0 for value in values]
    below, above = zip(
        *(
            (value.median - value.lower_quartile, value.upper_quartile - value.median)
            if isinstance(value, Spread)
            else (0.0, 0.0)
            for value in values
        ),
        strict=True,
    )
    colours = ["#9aa5b1" if name == BASELINE else "#2a6fbb" for name in names]
    whiskers = [below, above] if any((*below, *above)) else None
    panel.bar(names, heights, color=colours, width=0.6, yerr=whiskers, capsize=4, ecolor="#333333")
    for place, (height, up, value) in enumerate(zip(heights, above, values, strict=True)):
        middle = median(value)
        text = "not measured" if middle is None else shown_number(middle)
        panel.annotate(text, (place, height + up), (0, 3), textcoords="offset points", ha="center", fontsize=8)
    compared = "" if row.ratio is None else f"{row.ratio:.2f}x, "
    panel.set_title(f"{row.label}\n{compared}{row.better} is better", fontsize=8)
    panel.margins(y=0.12)
    panel.set_ylim(bottom=0)
    panel.set_yticks([])
    panel.tick_params(labelsize=8, length=0)
    panel.spines[["left", "top", "right"]].set_visible(False)
