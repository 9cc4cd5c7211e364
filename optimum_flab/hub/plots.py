"""The plots of a card: parameters by component, and divergence per removed layer."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..records.report import RemovedLayer, Report


if TYPE_CHECKING:
    from matplotlib.figure import Figure


PARAMETERS_PLOT, LAYERS_PLOT = "flab_parameters.png", "flab_layers.png"
DENSE_COLOUR, PRUNED_COLOUR = "#9aa5b1", "#2a6fbb"


def card_plots(report: Report | None, criterion: str | None) -> dict[str, bytes]:
    """The plots that a report has numbers for, as PNG files by name.

    Args:
        report ([`Report`], *optional*): of the model.
        criterion (`str`, *optional*): how layers were ranked; only the ranking by divergence has divergences to show.
    """
    if report is None:
        return {}
    figures = {}
    if parameters := component_parameters(report):
        figures[PARAMETERS_PLOT] = plot_parameters(parameters)
    removed = () if report.search is None else report.search.removed_layers
    if removed and criterion == "divergence":
        figures[LAYERS_PLOT] = plot_layers(removed)
    return {name: png(figure) for name, figure in figures.items()}


def component_parameters(report: Report) -> dict[str, tuple[int, int]]:
    """Parameters before and after of each component that has any."""
    found = {
        name: (before.parameters, report.pruned.components[name].parameters)
        for name, before in report.dense.components.items()
        if name in report.pruned.components
    }
    most = max((before for before, _ in found.values()), default=0)
    # norms outside layers are a few hundred parameters: a bar nobody can see
    return {name: sides for name, sides in found.items() if max(sides) > most / 1000}


def plot_parameters(parameters: Mapping[str, tuple[int, int]]) -> Figure:
    """Bars of each component before and after."""
    figure, panel = _panel(len(parameters) * 0.75 + 1.1)
    largest = max(max(sides) for sides in parameters.values())
    scale, unit = (1e9, "billion") if largest >= 1e9 else (1e6, "million") if largest >= 1e6 else (1, "")
    places = range(len(parameters))
    for shift, side, label, colour in ((-0.2, 0, "dense", DENSE_COLOUR), (0.2, 1, "pruned", PRUNED_COLOUR)):
        values = [sides[side] / scale for sides in parameters.values()]
        bars = panel.barh([place + shift for place in places], values, 0.36, label=label, color=colour)
        panel.bar_label(bars, [f"{value:,.4g}" if scale > 1 else f"{value:,.0f}" for value in values], padding=3)
    panel.set_yticks(list(places), list(parameters))
    panel.invert_yaxis()
    panel.set_xlabel(f"parameters ({unit})" if unit else "parameters")
    panel.margins(x=0.15)
    panel.legend(frameon=False, loc="best")
    return figure


def plot_layers(removed: Sequence[RemovedLayer]) -> Figure:
    """Divergence from the dense model after each removal."""
    figure, panel = _panel(3.2)
    panel.plot(range(1, len(removed) + 1), [removal.score for removal in removed], marker="o", color=PRUNED_COLOUR)
    for place, removal in enumerate(removed, start=1):
        panel.annotate(
            f"layer {removal.layer}", (place, removal.score), (0, 8), textcoords="offset points", ha="center"
        )
    panel.set_xticks(range(1, len(removed) + 1))
    panel.set_xlabel("layers removed, in this order")
    panel.set_ylabel("divergence (nats per token)")
    panel.set_ylim(bottom=0)
    panel.margins(x=0.15, y=0.2)
    return figure


def _panel(height: float) -> tuple[Figure, Any]:
    from matplotlib.figure import Figure

    # a figure of its own, not pyplot's: nothing global, no display needed
    figure = Figure(figsize=(8, height), layout="constrained")
    panel = figure.subplots()
    panel.spines[["top", "right"]].set_visible(False)
    return figure, panel


def png(figure: Figure) -> bytes:
    """The bytes of a figure, the same for the same figure."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120, metadata={"Software": None})
    return buffer.getvalue()
