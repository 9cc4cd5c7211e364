"""The kinds of text that a model is calibrated on, each with the documents that it is sampled from.

A document belongs to one kind: problems are divided among plain text, conversations and gaps, library files among
plain text and gaps, so that what one kind is measured on is never what another kind decides by.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from itertools import pairwise
from typing import TypeVar

import numpy as np

from .formats import Formats
from .passages import Pool, chat_candidate, code_candidate, infilling_candidate, plain_candidate, program_of
from .problems import Problem
from .sources import Document


OWN, PROBLEMS, LIBRARY, CHAT, INFILLING = "own", "problems", "library", "chat", "infilling"
# gaps are made in both; the rest of a kind's share of a token budget is what it takes from them
SHARE_OF_PROBLEMS_IN_INFILLING = 0.5
# what is shown around a gap takes tokens too, and dense code has fewer than four characters per token
SHARE_OF_ROW_FOR_GAPS = 0.75
T = TypeVar("T")


def own_pools(
    documents: Sequence[Document], share: float, most_characters: int, fewest: int, rng: np.random.Generator
) -> list[Pool]:
    """The user's own text: one pool per source, with equal shares; sources with few documents form one pool together.

    Args:
        fewest (`int`): the number of documents from which a source forms its own pool.
    """
    sources: dict[str, list[Document]] = {}
    for document in documents:
        sources.setdefault(document.source, []).append(document)
    small = [found for found in sources.values() if len(found) < fewest]
    groups = [(len(small), [document for found in small for document in found])] if small else []
    groups += [(1, found) for found in sources.values() if len(found) >= fewest]
    return [
        Pool(
            OWN,
            share * number / len(sources),
            [plain_candidate(document, most_characters) for document in _shuffled(found, rng)],
        )
        for number, found in groups
    ]


def other_pools(
    mix: Mapping[str, float],
    library: Sequence[Document],
    formats: Formats,
    most_characters: int,
    never: Collection[str],
    seed: int,
    problems: Sequence[Problem],
) -> list[Pool]:
    """Every kind except the user's own text.

    Args:
        mix (`Mapping[str, float]`): shares by kind.
        library (`Sequence[Document]`): library files.
        formats ([`Formats`]): those of the tokenizer; a kind without one is left out.
        most_characters (`int`): the maximum length of a passage.
        never (`Collection[str]`): texts that must not be in any pool.
        seed (`int`): decides which kind gets which document.
        problems (`Sequence[Problem]`): the packaged problems.
    """
    rng = np.random.default_rng([seed, 1])
    shares = {kind: mix.get(kind, 0.0) for kind in (PROBLEMS, LIBRARY, CHAT, INFILLING)}
    shares[CHAT] *= formats.chat is not None
    shares[INFILLING] *= formats.infilling is not None
    of_problems, of_library = (
        shares[INFILLING] * part for part in (SHARE_OF_PROBLEMS_IN_INFILLING, 1 - SHARE_OF_PROBLEMS_IN_INFILLING)
    )
    free = [one for one in problems if one.program not in never]
    plain, chat, problem_gaps = dealt(_shuffled(free, rng), [shares[PROBLEMS], shares[CHAT], of_problems])
    files = [document for document in library if document.text not in never]
    parts, file_gaps = dealt(files, [shares[LIBRARY], of_library])
    longest = int(most_characters * SHARE_OF_ROW_FOR_GAPS)
    with_gaps = [
        # other languages are not parsed
        (code_candidate if one.language == "python" else plain_candidate)(program_of(one), longest)
        for one in problem_gaps
    ]
    with_gaps += [code_candidate(document, longest) for document in file_gaps]
    infilling = [infilling_candidate(one, formats) for one in with_gaps]
    pools = [
        Pool(PROBLEMS, shares[PROBLEMS], [plain_candidate(program_of(one), most_characters) for one in plain]),
        Pool(LIBRARY, shares[LIBRARY], [code_candidate(document, most_characters) for document in parts]),
        Pool(CHAT, shares[CHAT], [chat_candidate(one, formats) for one in chat], whole=True),
        Pool(INFILLING, shares[INFILLING], _shuffled(infilling, rng), whole=True),
    ]
    return [pool for pool in pools if pool.share]


def dealt(items: Sequence[T], shares: Sequence[float]) -> list[list[T]]:
    """Items in runs whose lengths are proportional to some shares."""
    whole = sum(shares)
    borders = [round(len(items) * (sum(shares[:number]) / whole)) if whole else 0 for number in range(len(shares) + 1)]
    return [list(items[start:stop]) for start, stop in pairwise(borders)]


def _shuffled(items: Sequence[T], rng: np.random.Generator) -> list[T]:
    return [items[index] for index in rng.permutation(len(items))]
