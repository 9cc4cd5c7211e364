"""A vocabulary of the tokens that make up most of a corpus."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import replace

import numpy as np

from .closure import TokenizerSpec, Vocabulary, resize, with_ancestors


def covering(
    spec: TokenizerSpec,
    vocabulary: Vocabulary,
    uses: np.ndarray,
    ranked: np.ndarray,
    coverage: float,
    keep_merges: int = 0,
) -> Vocabulary:
    """The smallest vocabulary that covers a share of all uses, made by dropping the least used tokens.

    Args:
        vocabulary ([`Vocabulary`]): what tokens are dropped from; where it covers a smaller share already, none are.
        uses (`np.ndarray`): how often each id is used, from which the share is computed.
        ranked (`np.ndarray`): the uses that decide which tokens go first, see [`~vocabulary.closure.with_prior_uses`].
        coverage (`float`): share of `uses` of the tokens that stay, between 0 and 1.
        keep_merges (`int`): number of first merges that stay, or of first tokens, see [`Kind`].

    Returns:
        [`Vocabulary`]: with the same protected tokens, closed under ancestors.
    """
    firsts = (token for learnt in spec.kind.learnt[:keep_merges] for token in learnt)
    fixed = np.array(sorted(with_ancestors(spec, [*vocabulary.protected.tolist(), *firsts])), dtype=np.int64)
    from_here = replace(vocabulary, protected=fixed)

    def whole(size: int) -> float:
        return float(uses[resize(spec, from_here, ranked, size)].sum())

    sizes = range(len(fixed), len(vocabulary.kept))  # tokens go in one order, whatever the size
    size = len(fixed) + bisect_left(sizes, coverage * float(uses.sum()), key=whole)
    return replace(vocabulary, kept=resize(spec, from_here, ranked, size))
