"""Passages drawn from pools in turn until there are enough tokens, with a share for each pool."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice

import numpy as np

from .passages import Candidate, Pool
from .sources import Document


COUNTED_AT_ONCE = 16  # passages

CountTokens = Callable[[list[str]], list[int]]


class Draw:
    """A draw from a pool: one passage from each document in turn, then a second from those that have one, and so on.

    Args:
        pool ([`Pool`]): the documents.
        count_tokens (`Callable`): returns the number of tokens of each of some texts.
        rng (`np.random.Generator`): decides the order of passages.
        seen (`set[str]`): texts that are skipped; those that are taken are added.
        most_tokens (`int`, *optional*): longer passages are skipped where they make sense only as a whole.

    Attributes:
        taken (`list[tuple[Document, int]]`): the passages, of the kind of the pool, with their tokens.
        used (`int`): number of documents, from the first to the last that contributed a passage.
    """

    def __init__(
        self,
        pool: Pool,
        count_tokens: CountTokens,
        rng: np.random.Generator,
        seen: set[str],
        most_tokens: int | None = None,
    ):
        self.kind, self.share = pool.kind, pool.share
        self.taken: list[tuple[Document, int]] = []
        self.tokens = 0
        self.used = 0
        self.exhausted = False
        self._seen, self._most = seen, most_tokens if pool.whole else None
        self._passages = _counted(_rounds(pool.candidates, rng), count_tokens)

    def until(self, tokens: float) -> None:
        """Takes passages until there are that many tokens, or no further passage."""
        while self.tokens < tokens and not self.exhausted:
            following = next(self._passages, None)
            if following is None:
                self.exhausted = True
                return
            index, passage, count = following
            if passage.text not in self._seen and (self._most is None or count <= self._most):
                self._seen.add(passage.text)
                self.taken.append((replace(passage, kind=self.kind), count))
                self.tokens += count
                self.used = max(self.used, index + 1)


class SharedDraw:
    """Several draws, each with its share of the tokens; what one cannot supply, the others do.

    Args:
        draws (`Sequence[Draw | SharedDraw]`): with shares above 0.
    """

    def __init__(self, draws: Sequence[Draw] | Sequence[SharedDraw]):
        self._draws: Sequence[Draw | SharedDraw] = draws
        self.share: float = sum(draw.share for draw in draws)

    @property
    def taken(self) -> list[tuple[Document, int]]:
        """Passages of all draws with their tokens; every prefix of the list has about the overall shares."""
        placed = []
        for number, draw in enumerate(self._draws):
            before = 0
            for passage, count in draw.taken:
                placed.append(((before + count / 2) / max(draw.tokens, 1), number, (passage, count)))
                before += count
        return [one for _, _, one in sorted(placed, key=lambda place: place[:2])]

    @property
    def tokens(self) -> int:
        """The number of tokens in all of them."""
        return sum(draw.tokens for draw in self._draws)

    @property
    def exhausted(self) -> bool:
        """Whether there is no further passage."""
        return all(draw.exhausted for draw in self._draws)

    def until(self, tokens: float) -> None:
        """Takes passages until there are that many tokens, or no further passage."""
        giving = [draw for draw in self._draws if not draw.exhausted]
        while giving:
            left = tokens - sum(draw.tokens for draw in self._draws if draw.exhausted)
            whole = sum(draw.share for draw in giving)
            for draw in giving:
                draw.until(left * draw.share / whole)
            still = [draw for draw in giving if not draw.exhausted]
            if len(still) == len(giving):
                return
            giving = still


def _rounds(candidates: Sequence[Candidate], rng: np.random.Generator) -> Iterator[tuple[int, Document]]:
    """One passage from every document in turn, then a second from those that have one, and so on."""
    remaining = []
    for index, candidate in enumerate(candidates):
        passages = list(candidate.passages(rng))
        if passages:
            yield index, passages.pop(0)
        if passages:
            remaining.append((index, passages))
    while remaining:
        for index, passages in remaining:
            yield index, passages.pop(0)
        remaining = [(index, passages) for index, passages in remaining if passages]


def _counted(
    passages: Iterator[tuple[int, Document]], count_tokens: CountTokens
) -> Iterator[tuple[int, Document, int]]:
    """Passages with their numbers of tokens, a few at a time."""
    while block := list(islice(passages, COUNTED_AT_ONCE)):
        counts = count_tokens([passage.text for _, passage in block])
        yield from ((index, passage, count) for (index, passage), count in zip(block, counts, strict=True))


@dataclass(frozen=True)
class Sample:
    """The passages of a set.

    Args:
        passages (`list[Document]`): with the kinds interleaved.
        tokens (`int`): in all of them.
        origins (`list[Document]`): the documents that they are from, and those passed over.
    """

    passages: list[Document]
    tokens: int
    origins: list[Document]


@dataclass
class Sampler:
    """Draws sets from pools, one after another: no set takes from the documents of an earlier one.

    Args:
        pools (`Sequence[Pool]`): the documents that no set has taken from.
        count_tokens (`Callable`): returns the number of tokens of each of some texts.
        most_tokens (`int`): of a passage that makes sense only as a whole.
        seed (`int`): decides the passages.
        seen (`set[str]`): passages of all sets; libraries copy from one another.
    """

    pools: Sequence[Pool]
    count_tokens: CountTokens
    most_tokens: int
    seed: int
    seen: set[str] = field(default_factory=set)

    def draw(self, number: int, tokens: int, most_documents: Sequence[int] | None = None) -> Sample:
        """Draws a set: its tokens are shared first by the kinds, then by the pools of a kind.

        Args:
            number (`int`): of the set, on which the passages depend.
            tokens (`int`): how many to draw.
            most_documents (`Sequence[int]`, *optional*): the maximum number of documents of each pool; all by default.
        """
        draws, kinds = list[Draw](), dict[str, list[Draw]]()
        for place, pool in enumerate(self.pools):
            part = pool if most_documents is None else pool.part(0, most_documents[place])
            rng = np.random.default_rng([self.seed, 2, number, place])
            draw = Draw(part, self.count_tokens, rng, self.seen, self.most_tokens)
            draws.append(draw)
            kinds.setdefault(pool.kind, []).append(draw)
        together = SharedDraw([SharedDraw(of_kind) for of_kind in kinds.values()])
        together.until(tokens)
        pairs = list(zip(self.pools, draws, strict=True))
        origins = [candidate.origin for pool, draw in pairs for candidate in pool.candidates[: draw.used]]
        self.pools = [pool.part(draw.used) for pool, draw in pairs]
        return Sample([passage for passage, _ in together.taken], together.tokens, origins)
