"""Which format each matrix of a file gets within a number of bytes: arithmetic."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


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
