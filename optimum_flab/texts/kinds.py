"""The kinds of text that a model is calibrated on, each with the documents that it is sampled from.

A document belongs to one kind: problems are divided among the model's answers, plain text, conversations and gaps,
library files among plain text and gaps, so that what one kind is measured on is never what another kind decides by.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from itertools import pairwise, starmap
from typing import TypeVar

import numpy as np

from ..settings.pruning import DataSettings
from ..utils.errors import FlabError
from .answers import Answer, answer_candidate, answered
from .formats import Formats
from .passages import (
    PASSAGE_CHARACTERS_PER_TOKEN,
    Pool,
    chat_candidate,
    code_candidate,
    infilling_candidate,
    plain_candidate,
    program_of,
)
from .problems import PackagedProblem, packaged_problems
from .sources import Document


OWN = "own"
ANSWERS = "answers"
PROBLEMS = "problems"
LIBRARY = "library"
CHAT = "chat"
INFILLING = "infilling"
FEWEST_DOCUMENTS = 5  # of a pool
LARGEST_SHARE_SET_ASIDE = 0.2
# gaps are made in both; the rest of a kind's share of a token budget is what it takes from them
SHARE_OF_PROBLEMS_IN_INFILLING = 0.5
# what is shown around a gap takes tokens too, and dense code has fewer than four characters per token
SHARE_OF_ROW_FOR_GAPS = 0.75
MARGIN = 1.1  # of answers: some are too long for a row, or twice the same
T = TypeVar("T")


def all_pools(
    documents: Sequence[Document],
    library: Sequence[Document],
    data: DataSettings,
    never: Collection[str],
    formats: Formats,
    seed: int,
    rng: np.random.Generator,
    answer: Answer | None,
) -> list[Pool]:
    """The pools of all kinds that have a share and enough documents; the user's own text also where no other has any.

    Args:
        documents (`Sequence[Document]`): the user's own text.
        library (`Sequence[Document]`): library files.
        data (`DataSettings`): which sources are named, and the shares of the kinds.
        never (`Collection[str]`): texts that must not be in any pool.
        formats ([`Formats`]): those of the tokenizer.
        seed (`int`): decides which kind gets which document.
        rng (`np.random.Generator`): decides the order of the user's own documents.
        answer (`Callable`, *optional*): writes the model's answers.

    Raises:
        [`FlabError`]: there are no documents, or too few.
    """
    most_characters = PASSAGE_CHARACTERS_PER_TOKEN * data.sequence_length
    has_share = bool(data.mix.get(OWN))
    is_own = bool(data.calibration or data.corpus) and has_share
    unread = {*never, *(document.text for document in documents)} if is_own else never
    mix = {kind: share for kind, share in data.mix.items() if kind != OWN or is_own}
    tokens = data.tokens + data.validation_tokens + data.held_out_tokens
    writing = None if answer is None else (answer, tokens)
    library = [document for document in library if document.text not in unread]
    problems = [one for one in packaged_problems() if one.program not in unread]
    others = other_pools(mix, library, formats, most_characters, seed, problems, writing)
    others = [pool for pool in others if len(pool.candidates) >= FEWEST_DOCUMENTS]
    if not others and not has_share:
        lacking = ", ".join(repr(kind) for kind, share in data.mix.items() if share)
        raise FlabError(
            f"data.mix: there is no text for {lacking} here, since the tokenizer has no chat template for"
            " conversations or no known tokens for gaps, no library source is installed, or no answer fits into"
            f" {data.sequence_length} tokens; name another kind, such as 'problems'"
        )
    if others and not is_own:
        return others
    if len(documents) < FEWEST_DOCUMENTS:
        raise FlabError(
            f"{len(documents)} different documents to calibrate on, but at least {FEWEST_DOCUMENTS} are needed (some"
            " are set aside to measure on); name more or larger sources in `data.calibration` or `data.corpus`"
        )
    return [*_own_pools(documents, data.mix[OWN], most_characters, rng), *others]


def _own_pools(
    documents: Sequence[Document], share: float, most_characters: int, rng: np.random.Generator
) -> list[Pool]:
    """One pool per source, with equal shares; sources with few documents form one pool together."""
    sources: dict[str, list[Document]] = {}
    for document in documents:
        sources.setdefault(document.source, []).append(document)
    small = [group for group in sources.values() if len(group) < FEWEST_DOCUMENTS]
    groups = [(len(small), [document for group in small for document in group])] if small else []
    groups += [(1, group) for group in sources.values() if len(group) >= FEWEST_DOCUMENTS]
    return [
        Pool(
            OWN,
            share * number / len(sources),
            [plain_candidate(document, most_characters) for document in _shuffle(group, rng)],
        )
        for number, group in groups
    ]


def other_pools(
    mix: Mapping[str, float],
    library: Sequence[Document],
    formats: Formats,
    most_characters: int,
    seed: int,
    problems: Sequence[PackagedProblem],
    writing: tuple[Answer, float] | None = None,
) -> list[Pool]:
    """Every kind except the user's own text.

    Args:
        mix (`Mapping[str, float]`): shares by kind, the user's own text included.
        library (`Sequence[Document]`): library files.
        formats ([`Formats`]): those of the tokenizer; a kind without one is left out.
        most_characters (`int`): the maximum length of a passage.
        seed (`int`): decides which kind gets which document.
        problems (`Sequence[PackagedProblem]`): the packaged problems.
        writing (`tuple`, *optional*): what writes the model's answers, and the tokens that all kinds together are to
            have; without it, the problems themselves have that share.
    """
    rng = np.random.default_rng([seed, 1])
    shares = {kind: mix.get(kind, 0.0) for kind in (ANSWERS, PROBLEMS, LIBRARY, CHAT, INFILLING)}
    if writing is None:
        shares |= {ANSWERS: 0.0, PROBLEMS: shares[PROBLEMS] + shares[ANSWERS]}
    shares[CHAT] *= formats.chat is not None
    shares[INFILLING] *= formats.infilling is not None
    of_problems, of_library = (
        shares[INFILLING] * part for part in (SHARE_OF_PROBLEMS_IN_INFILLING, 1 - SHARE_OF_PROBLEMS_IN_INFILLING)
    )
    plain, chat, problem_gaps, to_answer = split_by_shares(
        _shuffle(problems, rng), [shares[PROBLEMS], shares[CHAT], of_problems, shares[ANSWERS]]
    )
    answers: Mapping[PackagedProblem, list[Document]] = {}
    if writing is not None and shares[ANSWERS]:
        answer, tokens = writing
        share = shares[ANSWERS] / (mix.get(OWN, 0.0) + sum(shares.values()))
        answers = answered(to_answer, formats, answer, MARGIN * share * tokens)
    parts, file_gaps = split_by_shares(library, [shares[LIBRARY], of_library])
    longest = int(most_characters * SHARE_OF_ROW_FOR_GAPS)
    problems_with_gaps = [
        # other languages are not parsed
        (code_candidate if one.language == "python" else plain_candidate)(program_of(one), longest)
        for one in problem_gaps
    ]
    files_with_gaps = [code_candidate(document, longest) for document in file_gaps]
    # apart, since a file has many more passages than a problem
    gaps = [part for part in ((of_problems, problems_with_gaps), (of_library, files_with_gaps)) if part[1]]
    total = sum(share for share, _ in gaps)
    pools = [
        Pool(ANSWERS, shares[ANSWERS], list(starmap(answer_candidate, answers.items())), whole=True),
        Pool(PROBLEMS, shares[PROBLEMS], [plain_candidate(program_of(one), most_characters) for one in plain]),
        Pool(LIBRARY, shares[LIBRARY], [code_candidate(document, most_characters) for document in parts]),
        Pool(CHAT, shares[CHAT], [chat_candidate(one, formats) for one in chat], whole=True),
    ]
    for share, candidates in gaps:
        with_gaps = [infilling_candidate(one, formats) for one in candidates]
        pools.append(Pool(INFILLING, shares[INFILLING] * share / total, with_gaps, whole=True))
    return [pool for pool in pools if pool.share]


def split_by_shares(items: Sequence[T], shares: Sequence[float]) -> list[list[T]]:
    """Items in runs whose lengths are proportional to some shares."""
    whole = sum(shares)
    borders = [round(len(items) * (sum(shares[:number]) / whole)) if whole else 0 for number in range(len(shares) + 1)]
    return [list(items[start:stop]) for start, stop in pairwise(borders)]


def _shuffle(items: Sequence[T], rng: np.random.Generator) -> list[T]:
    return [items[index] for index in rng.permutation(len(items))]


def most_set_aside(pools: Sequence[Pool], data: DataSettings) -> tuple[list[int], list[int]]:
    """The maximum numbers of documents of each pool for validation and held-out, shared like their token budgets."""
    aside = data.validation_tokens + data.held_out_tokens
    named_only = bool(data.held_out) and all(pool.kind == OWN for pool in pools)
    numbers = []
    for pool in pools:
        number = len(pool.candidates)
        share = LARGEST_SHARE_SET_ASIDE if pool.kind == OWN else aside / (aside + data.tokens)
        most = int(number * share)
        first = min(max(1, round(most * data.validation_tokens / aside)), max(1, most - 1))
        if number < FEWEST_DOCUMENTS:  # a small source of the user's beside larger ones
            numbers.append((0, 0))
        elif named_only:
            numbers.append((max(1, most), 0))
        else:
            numbers.append((first, max(1, most - first)))
    return [first for first, _ in numbers], [second for _, second in numbers]
