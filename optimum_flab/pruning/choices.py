"""What stays of each component, behind one interface.

A choice is constructed with what it measures on, is called with a size, and returns what stays at that size: indices
along the dimension of its component. It measures on the first call, and remembers. What it returns is sliced out of
every tensor along the axes that the family names ([`~families.cut`]); `docs/components.md` says how to add one.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch

from ..criteria import EXPERTS, LAYERS, NEURONS, NeuronCriterion
from ..families import Family
from ..measuring.divergence import OutputHead
from ..measuring.fisher import fisher_weights
from ..progress import progress
from ..records.pieces import Pieces
from ..running.experts import chosen_experts
from ..running.processes import Processes
from ..sizes import shape_of
from ..tensors.workspace import Workspace
from ..texts.packing import PackedTokens
from .depth import LayerSearch, Removal
from .experts import narrow_experts, rank_experts, survey_experts
from .width.narrowing import NarrowLayer, narrow, survey


if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from ..settings.configuration import FlabPrunerConfig


SURVEYED_PART = 4  # one in this many calibration sequences is enough to compare shapes


class Choice(Protocol):
    """What stays of one component."""

    def __call__(self, size: int) -> Any:
        """What stays at this size; the same at every call."""


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
    pieces: Pieces = field(default_factory=Pieces)
    workspace: Workspace = field(default_factory=Workspace)
    processes: Processes = field(default_factory=Processes)

    @property
    def layers(self) -> int:
        """The number of layers of the dense model."""
        return shape_of(self.model, self.family)["layer"]

    def generator(self) -> torch.Generator:
        """A newly seeded source of random numbers."""
        return torch.Generator().manual_seed(self.config.seed)


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
        search = LayerSearch(
            on.model, on.family, tokens, on.config.data.batch_size, head, lambda: self._tick(), self._pieces
        )
        # some rank all layers as soon as they are called
        yield from LAYERS[on.config.layers.criterion].removals(search)


class ExpertChoice(Choice):
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
            criterion = on.config.experts.criterion
            arguments = (on.config.data.batch_size, EXPERTS[criterion], on.generator())
            with progress(f"Ranking experts by {criterion}", on.layers, "layer") as tick:
                self._scores = rank_experts(
                    on.model, on.family, on.tokens, *arguments, tick, on.pieces.part("experts")
                )
        groups = on.family.mixture.group_count(on.model.config)
        return {layer: chosen_experts(scores, size, groups) for layer, scores in self._scores.items()}


class NeuronChoice(Choice):
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
        arguments = (self._widths, criterion, on.config.data.batch_size, on.generator(), importance)
        with progress("Surveying FFN widths", on.layers, "layer") as tick:
            if on.family.experts is None:
                return survey(on.model, on.family, part, *arguments, tick, pieces, on.workspace, on.processes)
            return survey_experts(on.model, on.family, part, *arguments, tick, pieces)


def token_weights(
    on: Calibrated, tokens: PackedTokens, criterion: NeuronCriterion, pieces: Pieces
) -> torch.Tensor | None:
    """How much each token counts in each layer, see [`~measuring.fisher.fisher_weights`].

    `None` where nothing is summed over tokens.
    """
    if not (criterion.needs_statistics or criterion.compensates):
        return None
    head, size = OutputHead(on.model, on.family, on.kept), on.config.data.batch_size
    with progress("Weighting tokens", 2 * on.layers, "layer") as tick:
        pieces, shared = pieces.part("token-weights"), (on.workspace, on.processes)
        return fisher_weights(on.model, on.family, tokens, head, size, on.generator(), tick, pieces, *shared)


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
    arguments = (width, criterion, on.config.data.batch_size, on.generator(), importance)
    with progress(f"Narrowing FFNs to {width:,}", on.layers, "layer") as tick:
        if on.family.experts is None:
            return narrow(
                on.model, on.family, on.tokens, layers, *arguments, tick, on.pieces, on.workspace, on.processes
            )
        return narrow_experts(on.model, on.family, on.tokens, layers, experts, *arguments, tick, on.pieces)
