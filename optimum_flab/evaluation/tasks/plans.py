"""Chain of thought: the model writes a plan for a problem, scored by BLEU against the reference plan."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from sacrebleu.metrics import BLEU

from ..comparison import SumStatistic
from ..data import Problems
from ..problems import Doc, PlanProblem


OPENING = "How to solve:"
# made up for this prompt; not a problem of any benchmark
EXAMPLE = '''\
Problem:
def longest_run(values: List[int]) -> int:
    """ Return the length of the longest run of equal neighbours in the list.
    """
How to solve:
Step 1. Return 0 if the list is empty.
Step 2. Initialize best and current as 1.
Step 3. Iterate through the list from the second value.
    -If the value equals the one before it, increment current, else set current to 1.
    -Set best to the larger of best and current.
Step 4. Return best.

'''


problems = Problems(PlanProblem)


def prompt(doc: Doc) -> str:
    """An example of a plan, then a problem that asks for one."""
    return (
        "Describe in steps how to solve each problem, without writing code.\n\n"
        f"{EXAMPLE}Problem:\n{doc['prompt'].strip()}\n{OPENING}\n"
    )


def plan_only(plan: str) -> str:
    """A plan without the words that the prompt already contains."""
    return plan.strip().removeprefix(OPENING).strip()


def score(doc: Doc, results: Sequence[str]) -> dict[str, list[int]]:
    """What corpus BLEU sums over: `[length, reference length, 4 counts of matching n-grams, 4 counts of n-grams]`."""
    bleu = BLEU(effective_order=True).sentence_score(plan_only(results[0]), [plan_only(doc["cot"])])
    return {"bleu": [bleu.sys_len, bleu.ref_len, *bleu.counts, *bleu.totals]}


def _bleu_of_sums(sums: np.ndarray) -> np.ndarray:
    rows = np.rint(sums).astype(int).tolist()
    return np.array([BLEU.compute_bleu(row[2:6], row[6:], *row[:2], smooth_method="exp").score for row in rows])


corpus_bleu = SumStatistic(lambda items: np.asarray(items, dtype=np.float64).reshape(-1, 10), _bleu_of_sums)
