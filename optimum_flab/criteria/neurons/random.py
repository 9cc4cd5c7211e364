"""Chance."""

from ..base import NeuronCriterion, by_score, permutation


CRITERION = NeuronCriterion(
    name="random",
    summary="removes random neurons, different ones in each layer; no text is read",
    source="none: what any other criterion has to beat",
    formula="-j, where j is the position of the neuron in a random permutation",
    parameters={"seed": "seed of the permutations"},
    select=by_score(
        lambda layer, generator: -permutation(layer.weight.shape[1], generator).argsort().to(layer.weight.device)
    ),
    reads_text=False,
)
