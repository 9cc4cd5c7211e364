"""What may follow a verb: words of commands, from the verb on, with the user's own paths. Lightweight."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from ..utils.places import user_path


if TYPE_CHECKING:
    from ..records.trim import TrimReport


def evaluation_of(model: str | Path, dense: str | Path, revision: str | None = None) -> list[object]:
    """The words of the command that evaluates a model against the dense one; it asks for consent to run programs."""
    at = [] if revision is None else ["--baseline-revision", revision]
    return ["eval", model, "--baseline", dense, *at, "--tasks", "standard", "-o", f"{model}-eval"]


def push_of(folder: str | Path, repo_id: str | None = None) -> list[object]:
    """The words of the command that publishes a model, by default under the name of its folder."""
    # names on the Hub have no two of - and . in a row, nor one at an end
    name = re.sub(r"(?:[^A-Za-z0-9_.]|\.{2,})+", "-", user_path(folder).resolve().name).strip("-.")
    return ["push", folder, repo_id or f"me/{name or 'model'}"]


def card_of(model: str, results: Path) -> list[list[object]]:
    """The words of the command that states results on the card of a model, if it has one of ours."""
    from ..records.report import REPORT_NAME
    from ..records.trim import TRIM_NAME

    is_ours = any((user_path(model) / name).is_file() for name in (REPORT_NAME, TRIM_NAME))
    return [["card", model, "--results", results]] if is_ours else []


def after_trim(output: Path, report: TrimReport) -> list[list[object]]:
    """What may be done with a trimmed model."""
    if output.suffix == ".gguf":
        return [["chat", output]]
    files = [name for name in report.files if name.endswith(".gguf")]
    return [["chat", output / files[0] if files else output], push_of(output)]
