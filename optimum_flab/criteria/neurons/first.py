"""Where a neuron stands."""

from ..base import NeuronCriterion, by_score


CRITERION = NeuronCriterion(
    name="first",
    summary="removes the last neurons, whatever they do; no text is read",
    source="reference code of Flab-Pruner, Yang et al., 2024, arXiv 2412.15921",
    formula="-k, where k is the position of the neuron",
    select=by_score(lambda layer, _: -layer.weight.new_ones(layer.weight.shape[1]).cumsum(0)),
    reads_text=False,
)
