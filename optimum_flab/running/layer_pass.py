"""Texts on their way up through a model, one layer at a time; an interrupted pass resumes where it was."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import nn

from ..families import Family
from ..records.pieces import Pieces
from ..tensors.workspace import Workspace
from ..texts.packing import PackedTokens
from .layerwise import LayerInputs, layer_inputs, run_layer
from .placement import visits
from .processes import Processes


if TYPE_CHECKING:
    from transformers import PreTrainedModel


STREAMS = "streams"


def layer_piece(index: int) -> str:
    """The name of what is saved about a layer."""
    return f"layer-{index}"


@dataclass(frozen=True)
class LayerPass:
    """One pass over the layers of a model: what is read, where it is kept, and who shares it.

    ```python
    >>> reading = LayerPass(model, family, tokens, batch_size=4)
    >>> hidden = reading.embedded()
    >>> for index in reading.upwards(hidden=hidden):
    ...     hidden[:] = reading.through(index, hidden)
    ```

    Args:
        model (`PreTrainedModel`): left as it is.
        tokens ([`PackedTokens`]): sequences, as ids of `model`.
        batch_size (`int`): sequences per forward pass.
        generator (`torch.Generator`, *optional*): on the CPU, for what is random in the pass.
        tick (`Callable`): called for every layer that is done.
        pieces ([`Pieces`], *optional*): keeps results and hidden states, in case the run is interrupted.
        workspace ([`Workspace`], *optional*): where large data is put. Defaults to memory.
        processes ([`Processes`], *optional*): those that share the batches. Defaults to this one only.
    """

    model: PreTrainedModel
    family: Family
    tokens: PackedTokens
    batch_size: int
    generator: torch.Generator = field(default_factory=torch.Generator)
    tick: Callable[[], None] = lambda: None
    pieces: Pieces = field(default_factory=Pieces)
    workspace: Workspace = field(default_factory=Workspace)
    processes: Processes = field(default_factory=Processes)

    @cached_property
    def layers(self) -> nn.ModuleList:
        """The decoder layers of the model."""
        return self.family.decoder_layers(self.model)

    @cached_property
    def batches(self) -> list[PackedTokens]:
        """The batches of all processes."""
        return list(self.tokens.batches(self.batch_size))

    @cached_property
    def inputs(self) -> list[LayerInputs]:
        """What the layers read of each batch of this process, besides the hidden states from below."""
        batches = self.processes.share(self.batches)
        return [layer_inputs(self.model, self.family, batch, self.workspace) for batch in batches]

    @cached_property
    def masks(self) -> list[torch.Tensor]:
        """Which tokens of each batch of this process are real, where the hidden states are."""
        batches = self.processes.share(self.batches)
        return [batch.mask.to(x.hidden.device) for batch, x in zip(batches, self.inputs, strict=True)]

    def embedded(self) -> list[torch.Tensor]:
        """The hidden states before the first layer, by batch of this process; a new list at every call."""
        return [x.hidden for x in self.inputs]

    def through(self, index: int, hidden: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """What the layer at `index` makes of hidden states, by batch of this process."""
        return [
            self.workspace.placed(run_layer(self.layers[index], states, x.kwargs[index]))
            for states, x in zip(hidden, self.inputs, strict=True)
        ]

    def upwards(self, made: Sequence[int] = (), **streams: list[torch.Tensor]) -> Iterator[int]:
        """The indices of the layers to be passed, bottom first. Each layer is on the device of the model until the
        next is requested; then it is done, and hidden states are saved.

        Args:
            made, streams: see [`passed`].
        """
        for index in passed(
            len(self.layers), self.pieces, streams, self.tick, made, generator=self.generator, processes=self.processes
        ):
            with visits(self.layers[index], self.model.device):
                yield index


def passed(
    number: int,
    pieces: Pieces,
    streams: dict[str, list[torch.Tensor]],
    tick: Callable[[], None] = lambda: None,
    made: Sequence[int] = (),
    generator: torch.Generator | None = None,
    processes: Processes | None = None,
) -> Iterator[int]:
    """The indices of layers that are not done yet; each is done when the next is requested.

    Args:
        number (`int`): of layers.
        pieces ([`Pieces`]): where hidden states are saved after every layer.
        streams (`dict[str, list[torch.Tensor]]`): hidden states by batch, before the first layer; after an
            interruption replaced in place. Two streams may be the same tensors, and still are then.
        tick (`Callable`): called for every layer that is done.
        made (`Sequence[int]`): the layers for which a piece, named by [`layer_piece`], must exist once they are done;
            if one is missing or damaged, the pass starts over.
        generator (`torch.Generator`, *optional*): whose state is saved with the hidden states.
        processes ([`Processes`], *optional*): those that pass the layers together; if they were interrupted at
            different layers, the pass starts over.
    """
    start, piece = 0, pieces.read(STREAMS)
    if piece is not None and all(
        pieces.is_finished(layer_piece(index)) for index in made if index < piece.facts["next"]
    ):
        start = piece.facts["next"]
    if processes is not None and not processes.same(start):
        start = 0
    if piece is not None and start:
        for name, batches in streams.items():
            if (source := piece.facts["same"].get(name, name)) != name:
                batches[:] = streams[source]
            else:
                batches[:] = [piece.tensors[f"{name}.{batch}"].to(first.device) for batch, first in enumerate(batches)]
        if generator is not None:
            generator.set_state(piece.tensors["generator"])
    for index in range(number):
        if index >= start:
            yield index
            _keep(pieces, streams, generator, index + 1)
        tick()


def _keep(
    pieces: Pieces, streams: dict[str, list[torch.Tensor]], generator: torch.Generator | None, following: int
) -> None:
    names = list(streams)
    same = {
        name: first
        for position, name in enumerate(names)
        for first in names[:position]
        if all(a is b for a, b in zip(streams[name], streams[first], strict=True))
    }
    tensors = {
        f"{name}.{batch}": states for name in names if name not in same for batch, states in enumerate(streams[name])
    }
    if generator is not None:
        tensors["generator"] = generator.get_state()
    pieces.write(STREAMS, tensors, next=following, same=same)
