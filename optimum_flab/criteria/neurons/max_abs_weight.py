"""The largest weights into a neuron."""

from functools import reduce
from operator import add

from ..base import NeuronCriterion, by_score


CRITERION = NeuronCriterion(
    name="max-abs-weight",
    summary="removes the neurons whose largest incoming weights are smallest; no text is read",
    source="maximum absolute weight, Martra, 2025, arXiv 2512.22671v1",
    formula="sum over M of max_j |M_kj|, where M are the matrices into the neurons (gate and up, or the only one)",
    select=by_score(lambda layer, _: reduce(add, (matrix.float().abs().amax(dim=1) for matrix in layer.incoming))),
    reads_text=False,
)
