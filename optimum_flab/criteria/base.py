"""What a criterion says and does, and what several of them share. Lightweight: torch is imported where it computes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ..utils.errors import FlabError


if TYPE_CHECKING:
    import torch

    from .statistics import NeuronStatistics


# λ as a share of the mean diagonal of the Gram matrix; see benchmarks/README.md for how these were chosen
DAMPING = 0.3  # of the refit, where the folds of the calibration set suggest nothing better
SELECTION_DAMPING = 0.03  # while neurons are chosen: more would hide the neurons that only some text uses
BLOCKS = 256  # one in this many neurons is eliminated between two updates of the scores


@dataclass(frozen=True, kw_only=True)
class Criterion:
    """A way to choose what goes. In every formula the lowest score goes first.

    Args:
        name (`str`): what the setting calls it.
        summary (`str`): what it does, in words.
        source (`str`): who published it and where, and what is different here.
        formula (`str`): the score, with its symbols explained, in one line of ASCII.
        parameters (`Mapping[str, str]`): what controls it, and how: settings by their path (`"layers.search_tokens"`)
            and constants of `criteria` or of its own module in small letters.
    """

    name: str
    summary: str
    source: str
    formula: str
    parameters: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class LayerCriterion(Criterion):
    """A criterion for layers.

    Args:
        change (`Callable`, *optional*): `(before, after) -> scores of shape (tokens,)` of the hidden states of some
            tokens before and after a layer, each a float32 tensor of shape `(tokens, hidden)`. First go the layers
            whose mean is smallest. `None`: one after the other goes the layer without which the predictions of the
            model change least.
        counted (`Callable`): from the mask and the positions of the text, both of shape `(rows, length)`, to a mask of
            the tokens that the mean is over. Defaults to all of the text.
    """

    change: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] | None
    counted: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] = lambda mask, positions: mask


@dataclass(frozen=True, kw_only=True)
class NeuronCriterion(Criterion):
    """A criterion for neurons.

    Args:
        select (`Callable`): `(statistics, widths, generator) -> {width: sorted kept indices}`, where the smaller of
            two sets is part of the larger; see [`by_score`].
        reads_text (`bool`): whether it, or the refit, needs activations; otherwise there are none in the statistics.
        compensates (`bool`): whether the output weights are refitted by least squares afterwards.
    """

    select: Callable[[NeuronStatistics, Sequence[int], torch.Generator], dict[int, torch.Tensor]]
    reads_text: bool = True
    compensates: bool = False


@dataclass
class ExpertUse:
    """What calibration says about the experts of one layer, in float64.

    Args:
        tokens (`torch.Tensor` of shape `(experts,)`): tokens routed to each.
        norms (`torch.Tensor` of shape `(experts,)`): sum over these of the router's weight times the norm of the
            expert's output.
    """

    tokens: torch.Tensor
    norms: torch.Tensor


@dataclass(frozen=True, kw_only=True)
class ExpertCriterion(Criterion):
    """A criterion for experts.

    Args:
        score (`Callable`): `(use, generator) -> scores of shape (experts,)` of a layer.
    """

    score: Callable[[ExpertUse, torch.Generator], torch.Tensor]


def by_score(
    score: Callable[[NeuronStatistics, torch.Generator], torch.Tensor],
) -> Callable[[NeuronStatistics, Sequence[int], torch.Generator], dict[int, torch.Tensor]]:
    """What selects the neurons with the highest scores.

    Args:
        score (`Callable`): `(statistics, generator) -> scores of shape (neurons,)` of a layer. A NaN, which has no
            place in the order, ends the run.
    """

    def select(
        statistics: NeuronStatistics, widths: Sequence[int], generator: torch.Generator
    ) -> dict[int, torch.Tensor]:
        scores = score(statistics, generator)
        if bad := int(scores.isnan().sum()):
            raise FlabError(f"{bad:,} of {len(scores):,} neurons have a score that is not a number")
        order = scores.argsort(descending=True, stable=True)
        return {width: order[:width].sort().values for width in widths}

    return select


def permutation(number: int, generator: torch.Generator) -> torch.Tensor:
    """The numbers from 0 in random order."""
    import torch

    return torch.randperm(number, generator=generator)


def turn(before: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
    """How far hidden states are rotated, as a change that layers go by: 1 - cosine."""
    from torch.nn.functional import cosine_similarity

    return 1 - cosine_similarity(before, after, dim=-1)


SEARCHED = {"layers.search_tokens": "calibration tokens it is measured on"}
COUNTED = {"data.calibration_tokens": "most tokens t that are summed over"}
PULL = "pull lambda of the refit towards the dense weights, as a share of the mean of sum_t c_t x_k(t)^2 over all"
BEST = f"whatever is best on folds of the calibration set, starting at {DAMPING}"
DAMPED = {"damping": f"{PULL} neurons: {SELECTION_DAMPING} while neurons are chosen, afterwards {BEST}"}
REFIT_DAMPED = {"damping": f"{PULL} neurons: {BEST}"}
WEIGHTED = (
    "c_t the Fisher information of the token: the squared gradient, with respect to the output of the last layer, of"
    " the log-probability of a next token that the model samples itself, divided by the square of the FFN's output"
    " where a norm follows that; inside an expert c_t is multiplied by the square of the router's weight, over the"
    " tokens routed to the expert; while shapes are compared c_t is 1 over the square of the stream"
)
REFITTED = "; the output weights that stay are refitted by least squares"
