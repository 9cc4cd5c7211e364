"""What a component says about itself, and what it is measured on."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np
import torch

from ...families import Family
from ...measuring.dense_outputs import DenseOutputs, dense_outputs
from ...measuring.divergence import OutputHead
from ...measuring.layer_change import LayerChange
from ...records.report import RemovedLayer
from ...running.layer_pass import LayerPass
from ...running.processes import Processes
from ...settings.components import ComponentSettings
from ...sizes import Shape, shape_of
from ..request import Request
from .deciding import squares


if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

    from ...settings.configuration import FlabPrunerConfig


SHARE_OF_DEVICE = 64  # the rows and neurons of one of several devices come in multiples of this
SURVEYED_PART = 4  # the first of so many parts of the calibration sequences is enough to compare shapes
SHARE_TOKENS = 1024  # enough to tell about how much each layer does


@dataclass
class Calibrated:
    """What components are measured on.

    Args:
        dense ([`LayerPass`]): of the dense model, over the calibration sequences.
        kept_tokens (`np.ndarray`): the dense ids of the vocabulary over which predictions are compared.
        gap_marks (`Collection[int]`): the dense ids of the tokens that mark the parts of an infilling text. Defaults
            to none.
    """

    dense: LayerPass
    kept_tokens: np.ndarray
    gap_marks: Collection[int] = ()

    @cached_property
    def shape(self) -> Shape:
        """The sizes of the dense model."""
        return shape_of(self.dense.model, self.dense.family)

    @cached_property
    def surveyed(self) -> Calibrated:
        """The same on a part of the sequences, enough to tell shapes apart; decisions for the chosen one use all."""
        tokens, pieces = self.dense.tokens, self.dense.pieces.part("survey")
        part = tokens.rows(0, -(-len(tokens.mask) // SURVEYED_PART))
        return replace(self, dense=replace(self.dense, tokens=part, pieces=pieces))

    @cached_property
    def layer_shares(self) -> list[float]:
        """The square of what each layer adds to the stream, as a share of the stream's: the mean over some tokens."""
        rows = max(1, SHARE_TOKENS // self.dense.tokens.mask.shape[1])
        reading = self.reading("shares", tokens=self.dense.tokens.rows(0, rows))

        def share(before: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
            return squares(after - before) / squares(after)

        observer = LayerChange(reading, share, reading.tokens.mask)
        reading.run(observer)
        return [float(reading.kept(index)["change"]) / reading.tokens.tokens for index in observer.layers]

    @cached_property
    def outputs(self) -> DenseOutputs:
        """What each layer should come to, and how much each token counts: of the dense model, whatever was decided
        before."""
        head = OutputHead(self.dense.model, self.dense.family, self.kept_tokens)
        layers = range(self.shape["layer"]) if self.dense.family.experts is None else ()
        return dense_outputs(self.reading("dense", shared=True), head, layers, self.gap_marks)

    def reading(self, name: str, shared: bool = False, **changes: Any) -> LayerPass:
        """A pass over the layers with a newly seeded source of random numbers, and pieces of its own.

        Args:
            name (`str`): of the pieces.
            shared (`bool`): whether each process reads a part of the text; else each reads all of it.
            changes (`Any`): fields of [`LayerPass`] that are different.
        """
        generator = torch.Generator().manual_seed(self.dense.generator.initial_seed())
        processes = self.dense.processes if shared else Processes()
        pieces = self.dense.pieces.part(name)
        return replace(self.dense, pieces=pieces, generator=generator, processes=processes, **changes)


class Effort(NamedTuple):
    """What a stage takes to decide a component.

    Args:
        fitted (`float`): tokens, shared by all processes, that go through the model while weights are fitted.
        matrices (`int`): of sums over them, of all layers, each of which is decided from once.
        width (`int`): rows of each.
        tokens (`float`): that go through the model once, in every process.
    """

    fitted: float = 0
    matrices: int = 0
    width: int = 0
    tokens: float = 0


class Choice:
    """What stays of a component at any size, in shapes that are compared. It measures when it is first asked, and
    remembers.

    Args:
        calibration ([`Calibrated`]): what it measures on.
        sizes (`Sequence[int]`): at which it will be asked, ascending, without the dense one.
        settings ([`ComponentSettings`]): the component's section.
    """

    def __init__(self, calibration: Calibrated, sizes: Sequence[int], settings: Any):
        self.calibration = calibration
        self.sizes = sizes
        self.settings = settings

    def __call__(self, size: int) -> Any:
        """Layers, or by layer what stays inside, as `NarrowLayer`; empty if that is all."""
        raise NotImplementedError

    def error(self, size: int) -> float:
        """About how large the squared error of the stream is with this size, as a share of the stream's square, summed
        over layers. Here it grows evenly, up to what the layers add."""
        calibration = self.calibration
        return (1 - size / calibration.shape[self.settings.dimension]) * sum(calibration.layer_shares)

    def removals(self, size: int) -> Sequence[RemovedLayer]:
        """What is removed to reach a size, one after the other with its score, where it goes like that."""
        return ()


class Component:
    """What pruning makes smaller along one dimension of a model; `docs/components.md` says how to add one.

    Attributes:
        settings (`type`): its section of the settings, which also holds its names.
        choice (`type`, *optional*): the [`Choice`] that says which parts stay in shapes that are compared; `None` for
            tokens, which are chosen along with the texts, and for what shapes are compared without.
        per_device (`int`): what the size must be a multiple of for each device that shares the model, if it is split.
    """

    settings: ClassVar[type[ComponentSettings]]
    choice: ClassVar[type[Choice] | None] = None
    per_device: ClassVar[int] = 0

    @property
    def dimension(self) -> str:
        """Of its tensors."""
        return self.settings.dimension

    def section(self, config: FlabPrunerConfig) -> Any:
        """Its section of a configuration."""
        return getattr(config, self.settings.section)

    def pinned(self, config: FlabPrunerConfig) -> int | None:
        """The size that is asked for."""
        return getattr(config, self.settings.size)

    # --- sizes

    def possible(self, model: PreTrainedModel, family: Family, shape: Shape) -> tuple[Sequence[int], str]:
        """The sizes that a model of the class of `model` can have, ascending, the dense one last; and why not others,
        where that is not plain."""
        return range(1, shape[self.dimension] + 1), ""

    def rounded(self, size: int, request: Request) -> int:
        """The size that a pinned one becomes."""
        return size

    def allowed(self, request: Request) -> Sequence[int]:
        """The sizes that the settings allow where it is neither pinned nor switched off."""
        return request.sizes.possible[self.dimension]

    def groups(self, config: PreTrainedConfig, family: Family) -> int:
        """Of how many groups of neighbours the same number must stay."""
        return 1

    # --- measuring

    def effort(self, request: Request, tokens: int) -> Mapping[str, Effort]:
        """What deciding it takes, about, by stage: `"shape"` and `"plan"`.

        Args:
            tokens (`int`): of calibration text.
        """
        return {}
