"""The energy that a neuron contributes to the layer's output."""

from ..base import COUNTED, WEIGHTED, NeuronCriterion, by_score


CRITERION = NeuronCriterion(
    name="energy",
    summary="removes the neurons that contribute least energy to the layer's output",
    source="saliency of Optimal Brain Damage, LeCun, Denker and Solla, NIPS 1989, summed over the output weights of a"
    " neuron; token weights are ours",
    formula="sum_t c_t x_k(t)^2 |w_k|^2, where x_k(t) is the activation of neuron k at token t, w_k its output"
    f" weights, {WEIGHTED}",
    parameters=COUNTED,
    select=by_score(lambda layer, _: layer.whole.diagonal * layer.weight.square().sum(dim=0)),
)
