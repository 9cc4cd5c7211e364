"""A dense and a pruned model side by side: rows of plain data, and how they are shown. Lightweight.

Each subject has one list of rows, whoever shows it: the terminal, the card, the page, `flab compare`. Scores and
efficiency have theirs in their files: [`~records.results.ScoreRow`] and [`~records.results.EfficiencyRow`].
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

from ..settings.pruning import COMPONENTS
from .held_out import HeldOut
from .ledger import CommandCost, StageCost
from .report import FileCost, Report
from .scores import Score, retention_of, retention_text


# --- values as text ------------------------------------------------------------------------------------------------


def count(value: int) -> str:
    """A whole number."""
    return f"{value:,}"


def megabytes(value: int) -> str:
    """Bytes, in MB."""
    return f"{value / 1e6:,.0f} MB"


def decimals(value: float | None) -> str:
    """A measured number, to four significant digits."""
    return "not measured" if value is None or not math.isfinite(value) else f"{value:.4g}"


def nats(divergence: float, digits: int = 4) -> str:
    """A divergence in nats per token. None is below 0: what comes out so is nearer to it than can be measured."""
    return f"{max(divergence, 0.0) + 0.0:.{digits}f}"


def count_texts(number: int, kind: str = "") -> str:
    """A number of texts, perhaps of a `kind`."""
    return f"{number:,} {kind and kind + ' '}text{'' if number == 1 else 's'}"


def typeset(text: str) -> str:
    """Terminal text with typographic signs: minus and times signs, and a dash where there is nothing."""
    return re.sub(r"(?<=\d)x$", " ×", re.sub(r"(?<![\w-])-(?=[\d∞])", "−", text)) if text.strip("-") else "–"


def change(before: float, after: float) -> str:
    """`after` against `before` in percent, signed, or that there is no change."""
    if before == after:
        return "unchanged"
    return typeset(retention_text(Score(value=retention_of(after, before)), higher_is_better=False))


# by the unit of a row
SHOWN: dict[str, Callable[..., str]] = {
    "": count,
    "bytes": megabytes,
    "bits": decimals,
    "share": "{:.2%}".format,
    "text": str,
}


KIND_LABELS = {
    "held-out": "named held-out text",
    "own": "of the user's own sources",
    "problems": "small problems with solutions",
    "library": "source of Python libraries",
    "answers": "the dense model's own answers",
    "chat": "problems as a conversation",
    "infilling": "programs with a gap",
}


SOURCE = " (from the checkpoint that it was made of)"


# --- rows ----------------------------------------------------------------------------------------------------------


class Row(NamedTuple):
    """A figure of both models.

    Args:
        label (`str`): what it is.
        dense (`float`, *optional*): of the dense model, if it has one.
        pruned (`float` or `str`): of the pruned model.
        unit (`str`): of both, one of `SHOWN`; by default they are numbers of things.
    """

    label: str
    dense: float | None
    pruned: float | str
    unit: str = ""

    def cells(self) -> list[str]:
        """Label, dense, pruned and change as text; a dash for what there is not."""
        show = SHOWN[self.unit]
        if self.dense is None or isinstance(self.pruned, str):
            return [self.label, "–", show(self.pruned), "–"]
        return [self.label, show(self.dense), show(self.pruned), change(self.dense, self.pruned)]


def shape_rows(report: Report) -> list[Row]:
    """The sizes that pruning changes, of the components that the model has."""
    dense, pruned = report.dense.sizes, report.pruned.sizes
    return [
        Row(part.label, dense[part.size], pruned[part.size])
        for part in COMPONENTS
        if dense.get(part.size) and part.size in pruned
    ]


def component_rows(report: Report) -> list[Row]:
    """The parameters of each component."""
    after = report.pruned.components
    return [Row(name, part.parameters, after[name].parameters) for name, part in report.dense.components.items()]


def size_rows(report: Report) -> list[Row]:
    """Parameters, bytes and shape."""
    dense, pruned = report.dense, report.pruned
    body = Row("parameters of the body (all but the vocabulary)", dense.body_parameters, pruned.body_parameters)
    return [
        Row("parameters", dense.parameters, pruned.parameters),
        *([body] if body.dense else []),
        Row(f"weights ({pruned.dtype})", dense.bytes, pruned.bytes, "bytes"),
        *shape_rows(report),
    ]


def held_out_rows(held_out: HeldOut) -> list[Row]:
    """What is measured on all held-out text."""
    divergence = "divergence from the dense model, KL(dense ‖ pruned) in nats per token"
    retokenised = f"{held_out.texts_cut_differently:,} of {held_out.texts:,}"
    return [
        Row(f"{divergence}, over the vocabulary that is left", None, held_out.divergence, "bits"),
        Row("bits per byte", held_out.dense_bits_per_byte, held_out.pruned_bits_per_byte, "bits"),
        Row("probability that the dense model gives to tokens that are gone", None, held_out.lost_mass, "share"),
        Row("tokens of the text", held_out.dense_tokens, held_out.pruned_tokens),
        Row("texts cut into other pieces", None, retokenised, "text"),
    ]


FILE_HEADING = (
    *("GGUF file", "type", "MB", "divergence, nats per token", "99th percentile", "same top token"),
    *("bits per byte before", "after", "tokens"),
)


def file_rows(report: Report) -> list[list[str]]:
    """What each GGUF file takes, and what its weights cost on held-out text."""
    return [
        [
            file.name,
            file.type,
            f"{file.bytes / 1e6:,.1f}",
            file_divergence(file),
            "–" if file.divergence_99 is None else decimals(file.divergence_99),
            "–" if file.same_top is None else f"{file.same_top:.1%}",
            decimals(file.cost.dense_bits_per_byte),
            decimals(file.cost.pruned_bits_per_byte),
            count(file.cost.positions),
        ]
        for file in report.files
    ]


def file_positions(report: Report) -> str:
    """How many tokens GGUF files were measured on."""
    return " or ".join(map(count, dict.fromkeys(file.cost.positions for file in report.files)))


def file_divergence(file: FileCost) -> str:
    """The divergence of a file, and from what, if not from the dense model."""
    return f"{decimals(max(file.cost.divergence, 0.0))}{SOURCE if file.against == 'source' else ''}"


def format_rows(file: FileCost) -> list[list[str]]:
    """Of each kind of matrix in a file, how many are stored in which formats."""
    return [
        [kind, ", ".join(f"{name} {number:,}" for name, number in formats.items())]
        for kind, formats in file.formats.items()
    ]


def format_titles(report: Report) -> dict[str, FileCost]:
    """Files whose matrices have formats of their own, by a line for each."""
    return {
        f"{file.name}: {file.bits_per_weight or 0:.2f} bits per weight": file for file in report.files if file.formats
    }


LEDGER_HEADING = ("stage", "seconds", "processor seconds", "TFLOP", "GFLOP/s", "MB written", "memory so far, GB")


def ledger_rows(command: CommandCost) -> list[list[str]]:
    """What each stage cost, what was spent between them, and all of it; arithmetic per second of one processor."""
    stages, total = command
    inside = sum(stages.values(), StageCost())
    between = StageCost(
        wall_seconds=total.wall_seconds - inside.wall_seconds,
        cpu_seconds=total.cpu_seconds - inside.cpu_seconds,
        bytes_written=None if total.bytes_written is None else total.bytes_written - (inside.bytes_written or 0),
    )
    named = {f"{name} (earlier run)" if cost.earlier else name: cost for name, cost in stages.items()}
    named |= {"loading, writing and what is between": between, "whole command": total}
    rows = []
    for name, cost in named.items():
        flop = sum(cost.flop.values()) if cost.flop else None
        speed = flop / cost.cpu_seconds if flop and cost.cpu_seconds else None
        quotients = ((flop, 1e12, 2), (speed, 1e9, 0), (cost.bytes_written, 1e6, 0), (cost.peak_bytes, 1e9, 2))
        cells = ("–" if value is None else f"{value / unit:,.{digits}f}" for value, unit, digits in quotients)
        rows.append([name, f"{cost.wall_seconds:,.1f}", f"{cost.cpu_seconds:,.1f}", *cells])
    return rows


# --- the terminal --------------------------------------------------------------------------------------------------


def text_table(rows: Sequence[Sequence[str]], widths: Sequence[int] = (), align: str = ">") -> list[str]:
    """The lines of a table for the terminal, the first column to the left.

    Args:
        rows (`Sequence[Sequence[str]]`): cells.
        widths (`Sequence[int]`): of the columns; by default those of their cells, with two spaces in between.
        align (`str`): of the other columns: `>` or `<`.
    """
    gap = "" if widths else "  "
    widths = widths or [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for first, *others in rows:
        cells = (f"{cell:{align}{width}}" for cell, width in zip(others, widths[1:], strict=True))
        lines.append(gap.join([f"{first:<{widths[0]}}", *cells]).rstrip())
    return lines
