"""How layers, neurons and experts are chosen: every criterion in words. Lightweight: command line and card quote it.

The code that computes a criterion is in its component's folder in `pruning/`, under the same name: `depth/search.py`,
`width/criteria.py` and `experts/choosing.py`. `docs/criteria.md` says how to add one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any


# λ as a share of the mean diagonal of the Gram matrix; see benchmarks/README.md for how these were chosen
DAMPING = 0.3  # of the refit, where the folds of the calibration set suggest nothing better
SELECTION_DAMPING = 0.03  # while neurons are chosen: more would hide the neurons that only some text uses
BLOCKS = 256  # one in this many neurons is eliminated between two updates of the scores


@dataclass(frozen=True)
class Criterion:
    """A way to choose what goes. In every formula the lowest score goes first.

    Args:
        name (`str`): what the setting calls it.
        summary (`str`): what it does, in words.
        source (`str`): who published it and where, and what is different here.
        formula (`str`): the score, with its symbols explained, in one line of ASCII: `--help` prints it, and a
            terminal may show no other characters.
        parameters (`Mapping[str, str]`): what controls it, and how: settings by their path (`"layers.search_tokens"`)
            and constants of this module in small letters.
    """

    name: str
    summary: str
    source: str
    formula: str
    parameters: Mapping[str, str] = field(default_factory=dict)


def _named(*criteria: Criterion) -> dict[str, Criterion]:
    return {criterion.name: criterion for criterion in criteria}


_SEARCHED = {"layers.search_tokens": "calibration tokens it is measured on"}
_COUNTED = {"data.calibration_tokens": "most tokens t that are summed over"}
_DAMPED = {
    "damping": "pull lambda of the refit towards the dense weights, as a share of the mean of sum_t c_t x_k(t)^2 over"
    f" all neurons: {SELECTION_DAMPING} while neurons are chosen, afterwards whatever is best on folds of the"
    f" calibration set, starting at {DAMPING}"
}
_REFIT_DAMPED = {
    "damping": "pull lambda of the refit towards the dense weights, as a share of the mean of sum_t c_t x_k(t)^2 over"
    f" all neurons: whatever is best on folds of the calibration set, starting at {DAMPING}"
}
_WEIGHTED = (
    "c_t the Fisher information of the token: the squared gradient, with respect to the output of the FFN, of the"
    " log-probability of a next token that the model samples itself; inside an expert c_t is multiplied by the square"
    " of the router's weight, over the tokens routed to the expert"
)
_REFITTED = "; the output weights that stay are refitted by least squares"
_ENERGY = "removes the neurons that contribute least energy to the layer's output"
_DIAGONAL = (
    "saliency of Optimal Brain Damage, LeCun, Denker and Solla, NIPS 1989, summed over the output weights of a neuron;"
    " token weights are ours"
)
_ENERGY_SCORE = (
    "sum_t c_t x_k(t)^2 |w_k|^2, where x_k(t) is the activation of neuron k at token t, w_k its output weights, "
    + _WEIGHTED
)

LAYERS = _named(
    Criterion(
        name="divergence",
        summary="greedy search: next goes the layer without which the model's predictions change least",
        source="after Flab-Pruner, Yang et al., 2024, arXiv 2412.15921",
        formula="mean over tokens of KL(p || q) = sum_v p(v) ln(p(v) / q(v)), where p, q are next-token distributions"
        " of the dense model and of that without the layer and those gone before, over the vocabulary that is kept",
        parameters=_SEARCHED,
    ),
    Criterion(
        name="block-influence",
        summary="removes the layers that rotate the hidden states least, ranked once on the dense model",
        source="ShortGPT, Men et al., 2024, arXiv 2403.03853",
        formula="1 - mean over tokens of cos(x, y), where x, y are hidden states of a token before and after the"
        " layer",
        parameters=_SEARCHED,
    ),
    Criterion(
        name="last-token-cosine",
        summary="removes the layers that rotate the hidden state of a text's last token least, ranked once on the"
        " dense model",
        source="reference code of Flab-Pruner, Yang et al., 2024, arXiv 2412.15921, which ranks again after each"
        " layer",
        formula="1 - mean over texts of cos(x, y), where x, y are hidden states of the text's last token before and"
        " after the layer",
        parameters=_SEARCHED,
    ),
)

NEURONS = _named(
    Criterion(
        name="obs",
        summary="optimal brain surgeon, in blocks: those neurons go that the others can best make up for" + _REFITTED,
        source="Hassibi and Stork, Second order derivatives for network pruning: Optimal Brain Surgeon, NIPS 1992,"
        " with one Hessian for all output weights of a neuron; blocks and token weights are ours",
        formula="|w_k|^2 / inv(H)_kk, where H = sum_t c_t x(t) x(t)' + lambda I, x(t) the activations at token t of"
        " the neurons that are left, w_k the refitted output weights of neuron k, " + _WEIGHTED,
        parameters={
            **_COUNTED,
            **_DAMPED,
            "blocks": f"one in {BLOCKS} of the layer's neurons, at least one, goes between two updates of w, H",
        },
    ),
    Criterion(
        name="energy",
        summary=_ENERGY,
        source=_DIAGONAL,
        formula=_ENERGY_SCORE,
        parameters=_COUNTED,
    ),
    Criterion(
        name="energy-refit",
        summary=_ENERGY + _REFITTED,
        source=_DIAGONAL + "; least-squares reconstruction as in Channel Pruning, He et al., 2017, arXiv 1707.06168,"
        " here damped towards the dense weights",
        formula=_ENERGY_SCORE,
        parameters={**_COUNTED, **_REFIT_DAMPED},
    ),
    Criterion(
        name="max-abs-weight",
        summary="removes the neurons whose largest incoming weights are smallest; no text is read",
        source="maximum absolute weight, Martra, 2025, arXiv 2512.22671v1",
        formula="sum over M of max_j |M_kj|, where M are the matrices into the neurons (gate and up, or the only one)",
    ),
    Criterion(
        name="first",
        summary="removes the last neurons, whatever they do; no text is read",
        source="reference code of Flab-Pruner, Yang et al., 2024, arXiv 2412.15921",
        formula="-k, where k is the position of the neuron",
    ),
    Criterion(
        name="random",
        summary="removes random neurons, different ones in each layer; no text is read",
        source="none: what any other criterion has to beat",
        formula="-j, where j is the position of the neuron in a random permutation",
        parameters={"seed": "seed of the permutations"},
    ),
)

EXPERTS = _named(
    Criterion(
        name="reap",
        summary="router-weighted expert activation: those experts go that add least to the tokens they are sent",
        source="REAP, Lasby et al., 2025, arXiv 2510.13999",
        formula="mean over the tokens t that are sent to the expert of g(t) |f(t)|, where g is the weight that the"
        " router gives it, f its output before that; 0 where no token is",
        parameters=_COUNTED,
    ),
    Criterion(
        name="frequency",
        summary="removes the experts to which the fewest tokens are routed",
        source="none: the plainest use of a router",
        formula="number of tokens routed to the expert",
        parameters=_COUNTED,
    ),
    Criterion(
        name="random",
        summary="removes random experts, different ones in each layer",
        source="none: what any other criterion has to beat",
        formula="position of the expert in a random permutation",
        parameters={"seed": "seed of the permutations"},
    ),
)

# What `criterion` can be, by the section of the settings that it is in. A component with criteria of its own adds its
# mapping above and a row here; settings, help and card take them from here.
CHOICES: Mapping[str, Mapping[str, Criterion]] = {"layers": LAYERS, "ffn": NEURONS, "experts": EXPERTS}


def criterion_of(section: str, name: str, settings: Mapping[str, Any]) -> Criterion | None:
    """The criterion by which a pruning chose; `None` where this version does not know it.

    Args:
        section (`str`): of the component, e.g. `"ffn"`.
        settings (`Mapping[str, Any]`): of the pruning. Those without `data.mix` date from before calibration text was
            of several kinds, when tokens were weighted by their hidden states and damping was a constant.
    """
    criterion = CHOICES[section].get(name)
    data = settings.get("data")
    if criterion is None or section != "ffn" or not isinstance(data, Mapping) or "mix" in data:
        return criterion
    steered = dict(criterion.parameters)
    if "damping" in steered:
        steered["damping"] = FORMER_DAMPING
    return replace(criterion, formula=criterion.formula.replace(_WEIGHTED, FORMER_WEIGHTS), parameters=steered)


FORMER_DAMPING = (
    "pull lambda of the refit towards the dense weights, as a share of the mean of sum_t c_t x_k(t)^2 over all"
    " neurons: 0.3"
)
FORMER_WEIGHTS = (
    "1 / c_t the mean square that the norm behind the layer divides by; inside an expert c_t is multiplied by the"
    " square of the router's weight, over the tokens that the expert is sent"
)
