"""Texts on their way through a model, one layer at a time; an interrupted pass resumes where it was saved last."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from contextlib import nullcontext
from copy import copy
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import nn

from ..families import Family
from ..records.pieces import Pieces
from ..tensors.workspace import Workspace
from ..texts.packing import PackedTokens
from ..utils.memory import trim_heap
from ..utils.progress import progress
from .layerwise import LayerInputs, LayerStep, layer_inputs, run_layer
from .placement import layer_on
from .processes import Processes


if TYPE_CHECKING:
    from transformers import PreTrainedModel


STREAMS = "streams"
SECONDS_LOST = 120.0  # of work that a kill may cost; streams are large


def layer_piece(index: int) -> str:
    """The name of what is saved about a layer."""
    return f"layer-{index}"


@dataclass
class LayerPass:
    """One pass over the layers of a model: what is read, where it is kept, and who shares it.

    ```python
    >>> reading = LayerPass(model, family, tokens, batch_size=4)
    >>> observer = LayerObserver(reading, (), "hidden")
    >>> reading.run(observer)
    >>> after_the_last_layer = observer.streams["hidden"]
    ```

    Args:
        model (`PreTrainedModel`): left as it is.
        tokens ([`PackedTokens`]): sequences, as ids of `model`.
        batch_size (`int`): sequences per forward pass.
        generator (`torch.Generator`, *optional*): on the CPU, for what is random in the pass.
        pieces ([`Pieces`], *optional*): keeps results and hidden states, in case the run is interrupted.
        workspace ([`Workspace`], *optional*): where large data is put. Defaults to memory.
        processes ([`Processes`], *optional*): those that share the batches. Defaults to this one only.
        step (`Callable`, *optional*): what a decoder layer does, wherever its weights are. Defaults to the layer
            itself, which is on the device of the model meanwhile.
    """

    model: PreTrainedModel
    family: Family
    tokens: PackedTokens
    batch_size: int
    generator: torch.Generator = field(default_factory=torch.Generator)
    pieces: Pieces = field(default_factory=Pieces)
    workspace: Workspace = field(default_factory=Workspace)
    processes: Processes = field(default_factory=Processes)
    step: LayerStep | None = None

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
        return self.by_batch(self.tokens.mask)

    def by_batch(self, values: torch.Tensor) -> list[torch.Tensor]:
        """Values of all sequences, split into those of each batch of this process, where its hidden states are."""
        parts = self.processes.share(values.split([len(batch.mask) for batch in self.batches]))
        return [part.to(x.hidden.device) for part, x in zip(parts, self.inputs, strict=True)]

    def embedded(self) -> list[torch.Tensor]:
        """The hidden states before the first layer, by batch of this process; a new list at every call."""
        return [x.hidden for x in self.inputs]

    def through(self, index: int, hidden: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """What the layer at `index` makes of hidden states, by batch of this process."""
        return [self.batch_through(index, states, batch) for batch, states in enumerate(hidden)]

    def batch_through(self, index: int, hidden: torch.Tensor, batch: int) -> torch.Tensor:
        """What the layer at `index` makes of the hidden states of a batch of this process."""
        kwargs = self.inputs[batch].kwargs[index]
        output = self.step(index, hidden, kwargs) if self.step else run_layer(self.layers[index], hidden, kwargs)
        return self.workspace.stored(output)

    def part(self, name: str) -> LayerPass:
        """The same pass with separate pieces, for another run."""
        other = copy(self)
        other.pieces = self.pieces.part(name)
        return other

    def kept(self, index: int) -> Mapping[str, torch.Tensor]:
        """What an observer keeps about a layer."""
        return self.pieces.finished(layer_piece(index)).tensors

    @torch.no_grad()
    def run(self, observer: LayerObserver, description: str = "", order: Sequence[int] | None = None) -> None:
        """Passes the layers, and saves what the observer keeps after each, and its streams every [`SECONDS_LOST`] and
        at the end.

        An interrupted run resumes where they were saved last. If what was kept about one is missing or damaged,
        or other processes were interrupted at another layer, it starts over.

        Args:
            observer ([`LayerObserver`]): what measures or decides.
            description (`str`): what is being done, for a bar. Defaults to none.
            order (`Sequence[int]`, *optional*): the layers to pass. Defaults to all, bottom first.
        """
        order = range(len(self.layers)) if order is None else order
        saved = time.monotonic()
        with progress(description, len(order), "layer", disable=not (description and self.processes.is_main)) as tick:
            start = self._resumed(observer, order)
            for place, index in enumerate(order):
                if place >= start:
                    with nullcontext() if self.step else layer_on(self.layers[index], self.model.device):
                        if index in observer.layers:
                            self.pieces.write(layer_piece(index), observer.observe(index))
                            trim_heap()  # what is kept was scattered among temporary data
                        else:
                            observer.advance(index)
                    is_time = time.monotonic() - saved >= SECONDS_LOST or place + 1 == len(order)
                    if self.pieces.lasting and self.processes.agree(is_time):
                        self._keep_streams(observer.streams, place + 1)
                        saved = time.monotonic()
                tick()

    def _resumed(self, observer: LayerObserver, order: Sequence[int]) -> int:
        """How many layers are done; the streams are then those after the last of them."""
        piece, done = self.pieces.read(STREAMS), 0
        if piece is not None and all(
            self.pieces.is_finished(layer_piece(index))
            for index in order[: piece.facts["done"]]
            if index in observer.layers
        ):
            done = piece.facts["done"]
        if not self.processes.same(done):
            done = 0
        if piece is not None and done:
            for name in piece.facts["names"]:
                states = [piece.tensors[f"{name}.{batch}"] for batch in range(len(self.inputs))]
                observer.streams[name] = [one.to(x.hidden.device) for one, x in zip(states, self.inputs, strict=True)]
            self.generator.set_state(piece.tensors["generator"])
        return done

    def _keep_streams(self, streams: Mapping[str, list[torch.Tensor]], done: int) -> None:
        tensors = {f"{name}.{batch}": one for name in streams for batch, one in enumerate(streams[name])}
        self.pieces.write(
            STREAMS, {**tensors, "generator": self.generator.get_state()}, done=done, names=list(streams)
        )


class LayerObserver:
    """What measures or decides something about layers while hidden states pass through them.

    This one lets them pass. Others keep something about some of the layers, for which they override [`observe`].

    Args:
        layers (`Collection[int]`): about which something is kept.
        names (`str`): of streams that start with the embedded tokens.
    """

    def __init__(self, reading: LayerPass, layers: Collection[int], *names: str):
        self.reading = reading
        self.layers = layers
        self._names = names

    @cached_property
    def streams(self) -> dict[str, list[torch.Tensor]]:
        """Hidden states by batch of this process, where they are; saved from time to time."""
        return {name: self.reading.embedded() for name in self._names}

    def observe(self, index: int) -> Mapping[str, torch.Tensor]:
        """Passes the streams through one of `layers`, and returns what is kept about it."""
        raise NotImplementedError

    def advance(self, index: int) -> None:
        """Passes the streams through another layer."""
        for name, states in self.streams.items():
            self.streams[name] = self.reading.through(index, states)
