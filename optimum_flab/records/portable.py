"""Records as they are published: without the paths of this machine."""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path

from ..settings.files import CONFIG_NAME
from .json_files import read_json
from .names import is_result
from .paths import without_paths
from .plan import PLAN_NAME, plan_text
from .report import REPORT_NAME


def portable(path: Path, datasets: Collection[str]) -> Path | bytes:
    """A file; a record with the paths of this machine in it reduced to names.

    Args:
        datasets (`Collection[str]`): Hub datasets that were read: as sources of text, they are kept.
    """
    if path.name not in (REPORT_NAME, PLAN_NAME, CONFIG_NAME) and not is_result(path.name):
        return path
    content = read_json(path)
    reduced = without_paths(content, datasets)
    if reduced == content:
        return path
    text = plan_text(reduced) if path.name == PLAN_NAME else json.dumps(reduced, indent=2, ensure_ascii=False) + "\n"
    return text.encode()
