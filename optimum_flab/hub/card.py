"""The model card of a pruned model, from the files that lie beside its weights."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path, PureWindowsPath
from typing import TYPE_CHECKING, Any

from ..errors import FlabError


if TYPE_CHECKING:
    from huggingface_hub import ModelCard


REPORT_NAME = "flab_report.json"
CARD_NAME = "README.md"
TAGS = ["flab-pruner", "pruned", "code"]

# What the report measures, as paths into it. A path that leads nowhere is shown as a missing measurement.
MEASUREMENTS = (
    ("divergence from the dense model (nats per token)", ("held_out", "divergence")),
    ("bits per byte, dense", ("held_out", "dense_bits_per_byte")),
    ("bits per byte, pruned", ("held_out", "pruned_bits_per_byte")),
    ("dense probability mass on removed tokens", ("held_out", "lost_mass")),
    ("tokens measured on", ("held_out", "positions")),
)

_BODY = """
# {title}

{origin}

The checkpoint is a stock one: it loads without custom code.

## What was removed

{removed}

## What it cost

Measured on held-out text that the pruning never saw.

{cost}

## Use

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("{repo}")
model = AutoModelForCausalLM.from_pretrained("{repo}")
inputs = tokenizer("def fibonacci(n):", return_tensors="pt")
print(tokenizer.decode(model.generate(**inputs, max_new_tokens=64)[0]))
```

`flab_report.json` holds every figure, and `flab_plan.json` what was kept.{terms}
"""


def render_card(folder: str | os.PathLike[str], repo_id: str | None = None) -> ModelCard:
    """Render the card of a pruned model.

    Args:
        folder (`str` or `os.PathLike`): the folder of the pruned model.
        repo_id (`str`, *optional*): where it is pushed to, for the title and the usage example. Without it the card
            depends on the files alone, not on the folder's name: the folder may still be renamed.

    Returns:
        `huggingface_hub.ModelCard`: metadata and text.

    Raises:
        [`FlabError`]: the report in the folder cannot be read.
    """
    from huggingface_hub import ModelCard, ModelCardData

    folder = Path(folder)
    report = _read_report(folder)
    base_model = base_model_on_the_hub(report)
    data = ModelCardData(
        base_model=base_model,
        library_name="transformers",
        pipeline_tag="text-generation",
        tags=list(TAGS),
    )
    terms = sorted(path.name for path in folder.glob("*") if path.name.upper().startswith(("LICENSE", "NOTICE")))
    body = _BODY.format(
        title=repo_id.split("/")[-1] if repo_id else f"{_base_name(report)}, pruned",
        origin=_origin(report, base_model),
        removed=_removed_table(report),
        cost=_cost_table(report),
        repo=repo_id or "path/to/this/folder",
        terms=f" The base model's terms apply: see {', '.join(f'`{name}`' for name in terms)}." if terms else "",
    )
    return ModelCard(f"---\n{data.to_yaml()}\n---\n{body}")


def write_card(folder: str | os.PathLike[str], repo_id: str | None = None) -> Path:
    """Write the card of a pruned model to its folder, as `README.md`.

    Args:
        folder (`str` or `os.PathLike`): the folder of the pruned model.
        repo_id (`str`, *optional*): where it will be pushed to.

    Returns:
        `Path`: the file.
    """
    path = Path(folder) / CARD_NAME
    path.write_bytes(str(render_card(folder, repo_id)).encode())
    return path


def base_model_on_the_hub(report: Mapping[str, Any]) -> str | None:
    """The Hub id of the dense model, or `None` where it was read from a local file or folder.

    A path says nothing to the card's readers, and the Hub refuses a `base_model` that is not an id.
    """
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    name = _at(report, ("base_model", "name"))
    if not isinstance(name, str) or name.count("/") != 1 or Path(name).exists():
        return None
    try:
        validate_repo_id(name)
    except HFValidationError:
        return None
    return name


def _read_report(folder: Path) -> dict[str, Any]:
    path = folder / REPORT_NAME
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise FlabError(f"report {str(path)!r} cannot be read: {error}; prune again, or restore the file") from error
    if not isinstance(report, dict):
        raise FlabError(f"report {str(path)!r} is not a JSON object; prune again, or restore the file")
    return report


def _at(report: Mapping[str, Any], path: tuple[str, ...]) -> Any:
    value: Any = report
    for name in path:
        value = value.get(name) if isinstance(value, Mapping) else None
    return value


def _origin(report: Mapping[str, Any], base_model: str | None) -> str:
    if base_model:
        revision = _at(report, ("base_model", "revision"))
        at = f" at revision `{revision}`" if revision else ""
        source = f"[{base_model}](https://huggingface.co/{base_model}){at}"
    else:
        source = _base_name(report)
    return f"{source}, pruned by `optimum-flab`."


def _base_name(report: Mapping[str, Any]) -> str:
    name = _at(report, ("base_model", "name"))
    return f"`{PureWindowsPath(name).name}`" if isinstance(name, str) and name else "A dense model"


def _removed_table(report: Mapping[str, Any]) -> str:
    dense, pruned = (_parameters(report, side) for side in ("dense", "pruned"))
    if not dense or not pruned:
        return "Not recorded: the report lists no parameter counts."
    lines = ["| component | parameters before | parameters after | removed |", "|---|---:|---:|---:|"]
    for name, before in dense.items():
        after = pruned.get(name)
        if after is None:
            lines.append(f"| {name} | {before:,} | not recorded | – |")
        else:
            share = f"{1 - after / before:.1%}" if before else "–"
            lines.append(f"| {name} | {before:,} | {after:,} | {share} |")
    return "\n".join(lines)


def _parameters(report: Mapping[str, Any], side: str) -> dict[str, int]:
    """Parameters per component of the dense or the pruned model, and their total."""
    components = _at(report, (side, "components"))
    names = components if isinstance(components, Mapping) else {}
    counts = {name: _at(report, (side, "components", name, "parameters")) for name in names}
    counts["total"] = _at(report, (side, "parameters"))
    return {name: count for name, count in counts.items() if isinstance(count, int)}


def _cost_table(report: Mapping[str, Any]) -> str:
    lines = ["| measurement | value |", "|---|---:|"]
    for label, path in MEASUREMENTS:
        value = _at(report, path)
        measured = isinstance(value, (int, float)) and not isinstance(value, bool)
        lines.append(f"| {label} | {f'{value:.4g}' if measured else 'not measured'} |")
    return "\n".join(lines)
