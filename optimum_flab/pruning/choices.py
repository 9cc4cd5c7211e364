"""What stays of each component, behind one interface.

A choice is constructed with what it measures on, is called with a size, and returns what stays at that size: indices
along the dimension of its component. It measures on the first call, and remembers. What it returns is sliced out of
every tensor along the axes that the family names ([`~families.cut`]); `docs/components.md` says how to add one.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from ..criteria import EXPERTS, LAYERS, NEURONS, NeuronCriterion
from ..families import Family
from ..measuring.divergence import OutputHead
from ..measuring.fisher import fisher_weights
from ..progress import progress
from ..records.pieces import Pieces
from ..running.experts import chosen_experts
from ..running.layer_pass import LayerPass
from ..running.processes import Processes
from ..sizes import shape_of
from ..tensors.workspace import Workspace
from ..texts.packing import PackedTokens
from .depth.search import Removal, ranked_layers
from .experts.choosing import rank_experts
from .width.narrowing import narrow, survey
from .width.neurons import NarrowLayer


if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from ..settings.configuration import FlabPrunerConfig


SURVEYED_PART = 4  # one in this many calibration sequences is enough to compare shapes


@dataclass(frozen=True)
class Calibrated:
    """What layers, neurons and experts are measured on.

    Args:
        model (`PreTrainedModel`): the dense model.
        config ([`FlabPrunerConfig`]): what is requested.
        tokens ([`PackedTokens`]): calibration sequences, as ids of `model`.
        kept (`np.ndarray`): the dense ids of the vocabulary over which predictions are compared.
        pieces ([`Pieces`]): keeps what is finished, in case the run is interrupted.
        workspace ([`Workspace`]): where large data is put.
        processes ([`Processes`]): those that share the calibration set.
    """

    model: PreTrainedModel
    family: Family
    config: FlabPrunerConfig
    tokens: PackedTokens
    kept: np.ndarray
    pieces: Pieces
    workspace: Workspace
    processes: Processes

    @property
    def layers(self) -> int:
        """The number of layers of the dense model."""
        return shape_of(self.model, self.family)["layer"]

    def reading(self, tokens: PackedTokens, pieces: Pieces, shared: bool = False) -> LayerPass:
        """A pass over the layers with a newly seeded source of random numbers.

        Args:
            shared (`bool`): whether each process reads a part of the text; else each reads all of it.
        """
        return LayerPass(
            self.model,
            self.family,
            tokens,
            self.config.data.batch_size,
            torch.Generator().manual_seed(self.config.seed),
            pieces=pieces,
            workspace=self.workspace,
            processes=self.processes if shared else Processes(),
        )


class LayerChoice:
    """The layers that stay: removals are computed on demand, and remembered."""

    def __init__(self, on: Calibrated):
        self._on, self._pieces = on, on.pieces.part("layers")
        rows = max(1, on.config.layers.search_tokens // on.config.data.sequence_length)
        self._removals = self._begun(next(on.tokens.batches(rows)))
        self._drawn: list[Removal] = []

    def close(self) -> None:
        """Ends the ranking. In the garbage collector, an exception that interrupts it would be lost."""
        self._removals.close()

    def removed(self, size: int) -> list[Removal]:
        """The removals, in their order, that leave this many layers."""
        number = self._on.layers - size
        if len(self._drawn) < number:
            criterion = self._on.config.layers.criterion
            with progress(f"Ranking layers by {criterion}", None, "layer") as self._tick:
                while len(self._drawn) < number:
                    self._drawn.append(next(self._removals))
        return self._drawn[:number]

    def _begun(self, tokens: PackedTokens) -> Generator[Removal, None, None]:
        on = self._on
        # a head is a copy of rows, only made when layers are really ranked
        head = OutputHead(on.model, on.family, on.kept)
        reading = replace(on.reading(tokens, self._pieces), tick=lambda: self._tick())
        yield from ranked_layers(reading, head, LAYERS[on.config.layers.criterion])


class ExpertChoice:
    """The experts of a mixture that stay, the same number in every layer; all of them if none may be removed."""

    def __init__(self, on: Calibrated):
        self._on = on
        self._scores: dict[int, torch.Tensor] | None = None

    def __call__(self, size: int | None) -> dict[int, torch.Tensor]:
        """By layer, the indices of this many experts, ascending; empty if that is all of them."""
        on = self._on
        if not on.config.experts.enabled or size is None or size == shape_of(on.model, on.family)["expert"]:
            return {}
        if self._scores is None:
            reading = on.reading(on.tokens, on.pieces.part("experts"))
            self._scores = rank_experts(reading, EXPERTS[on.config.experts.criterion])
        groups = on.family.mixture.group_count(on.model.config)
        return {layer: chosen_experts(scores, size, groups) for layer, scores in self._scores.items()}


class NeuronChoice:
    """The neurons that stay: at several widths from the dense model alone, to compare shapes with, and at one width on
    top of what was decided below.

    Args:
        widths (`Sequence[int]`): the widths at which shapes are compared.
    """

    def __init__(self, on: Calibrated, widths: Sequence[int]):
        self._on, self._widths = on, sorted(widths)
        self._surveyed: dict[int, Mapping[int, NarrowLayer]] | None = None

    def __call__(self, size: int) -> Mapping[int, NarrowLayer]:
        """By layer, what stays at this width; empty if that is everything."""
        if size not in self._widths:
            return {}
        if self._surveyed is None:
            self._surveyed = self._survey()
        return self._surveyed[size]

    def _survey(self) -> dict[int, Mapping[int, NarrowLayer]]:
        on = self._on
        # a part of the set is enough to tell shapes apart; decisions for the chosen one use all of it
        part = next(on.tokens.batches(-(-len(on.tokens.input_ids) // SURVEYED_PART)))
        criterion, pieces = NEURONS[on.config.ffn.criterion], on.pieces.part("survey")
        importance = token_weights(on, part, criterion, pieces)
        reading = on.reading(part, pieces, shared=on.family.experts is None)
        return survey(reading, self._widths, criterion, importance)


def token_weights(
    on: Calibrated, tokens: PackedTokens, criterion: NeuronCriterion, pieces: Pieces
) -> torch.Tensor | None:
    """How much each token counts in each layer, see [`~measuring.fisher.fisher_weights`].

    `None` where nothing is summed over tokens.
    """
    if not criterion.reads_text:
        return None
    reading = on.reading(tokens, pieces.part("token-weights"), shared=True)
    return fisher_weights(reading, OutputHead(on.model, on.family, on.kept))


def narrowed(
    on: Calibrated, width: int, layers: Sequence[int], experts: Mapping[int, torch.Tensor]
) -> Mapping[int, NarrowLayer]:
    """The neurons that stay in the chosen shape, each layer on top of the layers already pruned below it.

    Args:
        width (`int`): neurons to keep.
        layers (`Sequence[int]`): the layers that stay, ascending.
        experts (`Mapping[int, torch.Tensor]`): by layer, the experts that stay; empty: all.

    Returns:
        `Mapping[int, NarrowLayer]`: by dense layer index; empty where nothing is removed and nothing is compensated.
    """
    criterion = NEURONS[on.config.ffn.criterion]
    same = width == shape_of(on.model, on.family)["neuron"]
    # at full width neurons can still compensate for removed layers, but experts do not
    made_up_for = criterion.compensates and on.family.experts is None and len(layers) < on.layers
    if not on.config.ffn.enabled or (same and not made_up_for):
        return {}
    importance = token_weights(on, on.tokens, criterion, on.pieces)
    reading = on.reading(on.tokens, on.pieces, shared=on.family.experts is None)
    return narrow(reading, layers, width, criterion, importance, experts)
