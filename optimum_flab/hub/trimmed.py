"""A trimmed model: whether it is as it was written, and the metadata of its card."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..records.checkpoint import Checkpoint
from ..records.plan import PLAN_NAME
from ..records.trim import TRIM_NAME, TrimReport
from ..tensors.copying import combined_hash
from ..tensors.stored import tensor_hashes
from ..utils.errors import FlabError
from .frame import RELATION
from .terms import Terms


TEMPLATE = Path(__file__).with_name("trimmed.md.jinja")


def check_trimmed(checkpoint: Checkpoint) -> None:
    """Raises a [`FlabError`] if files of a trimmed model are missing, or were changed since."""
    report = checkpoint.trim
    folder = checkpoint.folder
    missing = [name for name in (*report.files, PLAN_NAME) if not (folder / name).is_file()]
    if missing:
        raise FlabError(f"the trimmed model in {str(folder)!r} lacks {', '.join(missing)}; trim it again")
    hashes = tensor_hashes([folder / name for name in report.files])
    tables_now = {name: hashes.pop(name, "") for name in report.tables}
    if tables_now != report.tables or combined_hash(hashes) != report.copied_sha256:
        raise FlabError(
            f"the weights in {str(folder)!r} are not those that {TRIM_NAME} is about: they were changed since; trim"
            " the model again"
        )


def gguf_of(report: TrimReport) -> str | None:
    """The first GGUF file of a trimmed model; `None` if it is a checkpoint."""
    return next((name for name in sorted(report.files) if name.endswith(".gguf")), None)


def trimmed_metadata(report: TrimReport, terms: Terms) -> dict[str, Any]:
    """The metadata of the card of a trimmed model."""
    is_gguf = gguf_of(report) is not None
    fields = {
        "base_model": terms.base_model,
        "base_model_relation": RELATION if terms.base_model else None,
        "license": terms.license,
        "license_name": terms.license_name,
        "license_link": terms.license_link,
        "language": list(terms.language) or None,
        "library_name": None if is_gguf else "transformers",
        "tags": ["flab-pruner", "trimmed", *(["gguf"] if is_gguf else [])],
    }
    return {name: value for name, value in fields.items() if value is not None}
