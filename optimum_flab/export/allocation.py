"""Which format each matrix of a file gets within a number of bytes: arithmetic."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ..tensors.gguf_header import EMBEDDING, HEAD
from .mixtures import aligned, stored_bytes


AROUND = (EMBEDDING, HEAD)
# from the fewest bits, and those that llama.cpp makes only with an importance matrix, which embedding and head lack
FORMATS = (
    *("IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "Q2_K", "IQ3_XXS", "IQ3_S", "Q3_K", "IQ4_XS", "IQ4_NL", "Q4_0"),
    *("Q4_K", "Q4_1", "Q5_0", "Q5_K", "Q5_1", "Q6_K", "Q8_0"),
)
WEIGHED = frozenset({"IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS"})
UNBLOCKED = "F16"  # of rows that are no whole blocks
STEPS = 1 << 16  # that the bytes between the smallest and the largest file are counted in


def allocate(sizes: Sequence[Sequence[int]], losses: Sequence[Sequence[float]], budget: int) -> list[int] | None:
    """Chooses one of the formats of each matrix, so that the sum of their losses is least and that of their sizes
    within the budget: the multiple-choice knapsack, solved exactly but for sizes that are rounded up to a
    [`STEPS`]th. The losses never rise with the budget.

    Args:
        sizes, losses (`Sequence[Sequence[int]]`, `Sequence[Sequence[float]]`): of each matrix in each of its formats.
        budget (`int`): bytes.

    Returns:
        `list[int]`: the place of each matrix' format; `None` if the smallest are too large.
    """
    smallest = [min(of_matrix) for of_matrix in sizes]
    unit = max(1, -(-sum(max(of_matrix) for of_matrix in sizes) + sum(smallest)) // STEPS)
    steps = [
        [-(-(size - least) // unit) for size in of_matrix] for of_matrix, least in zip(sizes, smallest, strict=True)
    ]
    room = min((budget - sum(smallest)) // unit, sum(map(max, steps)))
    if room < 0:
        return None
    best, chosen = np.zeros(room + 1), np.zeros((len(sizes), room + 1), dtype=np.uint8)
    for place, (of_matrix, lost) in enumerate(zip(steps, losses, strict=True)):
        before, best = best, np.full(room + 1, np.inf)
        for option, (step, loss) in enumerate(zip(of_matrix, lost, strict=True)):
            if step <= room:
                candidate = before[: room + 1 - step] + loss
                better = candidate < best[step:]
                best[step:][better] = candidate[better]
                chosen[place, step:][better] = option
    options = list[int]()
    for place in reversed(range(len(sizes))):
        options.append(int(chosen[place, room]))
        room -= steps[place][options[-1]]
    return options[::-1]


class Matrix(NamedTuple):
    """A matrix of a file.

    Args:
        name (`str`): in the file.
        dense (`str`): the one that it is cut from, in the file of the dense model.
        shape (`tuple[int, ...]`): its own.
        share (`float`): of the weights of the dense one.
    """

    name: str
    dense: str
    shape: tuple[int, ...]
    share: float


@dataclass(frozen=True)
class Mixture:
    """The formats of a file of a size.

    Args:
        types (`dict[str, str]`): by the name of each matrix in the file.
        loss (`float`): the divergence that they are predicted to cost, in nats per token.
    """

    types: dict[str, str]
    loss: float


def best_mixture(matrices: Sequence[Matrix], losses: Mapping[str, Mapping[str, float]], budget: int) -> Mixture | None:
    """The formats of matrices that lose least within a number of bytes; `None` if the smallest take more.

    Args:
        losses (`Mapping[str, Mapping[str, float]]`): of whole dense matrices, by name and format, in nats per token. A
            part loses its share, as rows and columns are rounded apart; embedding and head lose it with the tokens
            that the text has.
    """
    known = [{UNBLOCKED: 0.0, **losses.get(m.dense, {})} for m in matrices]
    formats = [
        [one for one in formats_of(m.name, m.shape[-1]) if one in lost]
        for m, lost in zip(matrices, known, strict=True)
    ]
    sizes = [[aligned(stored_bytes(m.shape, one)) for one in of] for m, of in zip(matrices, formats, strict=True)]
    shares = [1.0 if m.name in AROUND else m.share for m in matrices]
    lost = [[found[one] * share for one in of] for found, of, share in zip(known, formats, shares, strict=True)]
    places = allocate(sizes, lost, budget)
    if places is None:
        return None
    types = {m.name: of[place] for m, of, place in zip(matrices, formats, places, strict=True)}
    return Mixture(types, sum(of[place] for of, place in zip(lost, places, strict=True)))


def formats_of(name: str, row: int) -> list[str]:
    """The formats of a matrix, from the fewest bits.

    Args:
        name (`str`): in the file.
        row (`int`): weights in one of its rows, which are whole blocks.
    """
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

    fits = (one for one in FORMATS if row % GGML_QUANT_SIZES[GGMLQuantizationType[one]][0] == 0)
    return [one for one in fits if name not in AROUND or one not in WEIGHED] or [UNBLOCKED]


def mostly(types: Mapping[str, str]) -> str:
    """llama.cpp's name for a file with these formats, after that of most matrices."""
    ((most, _),) = Counter(types.values()).most_common(1)
    return f"{most.lower()}_m" if most in ("Q3_K", "Q4_K", "Q5_K") else most.lower()
