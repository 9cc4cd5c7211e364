"""A pass through the layers of a model that resumes where it was interrupted."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch

from ..records.pieces import Pieces
from .processes import Processes


STREAMS = "streams"


def layer_piece(index: int) -> str:
    """The name of what is saved about a layer."""
    return f"layer-{index}"


class Ascent:
    """Hidden states on their way up, saved after every layer.

    ```python
    >>> ascent = Ascent(pieces, hidden=[x.hidden for x in inputs])
    >>> for index in ascent.layers(len(layers)):
    ...     hidden = ascent.streams["hidden"]
    ...     hidden[:] = [run_layer(layers[index], states, kwargs) for states in hidden]
    ```

    Args:
        pieces ([`Pieces`]): where they are saved.
        generator (`torch.Generator`, *optional*): whose state is saved with them.
        made (`Sequence[int]`): the layers for which a piece, named by [`layer_piece`], must exist once they are done;
            if one is missing or damaged, the pass starts over.
        processes ([`Processes`], *optional*): those that go up together; if they were interrupted at different layers,
            the pass starts over.
        streams (`list[torch.Tensor]`): hidden states by batch, before the first layer. Two streams may be the same
            tensors, and still are after an interruption.
    """

    def __init__(
        self,
        pieces: Pieces,
        generator: torch.Generator | None = None,
        made: Sequence[int] = (),
        processes: Processes | None = None,
        **streams: list[torch.Tensor],
    ):
        self.streams = streams
        self._pieces, self._generator, self._start = pieces, generator, 0
        piece = pieces.read(STREAMS)
        if piece is not None and all(
            pieces.is_finished(layer_piece(index)) for index in made if index < piece.facts["next"]
        ):
            self._start = piece.facts["next"]
        if processes is not None and not processes.same(self._start):
            self._start = 0
        if piece is None or self._start == 0:
            return
        for name, batches in streams.items():
            source = piece.facts["same"].get(name, name)
            if source != name:
                batches[:] = streams[source]
            else:
                batches[:] = [piece.tensors[f"{name}.{batch}"].to(first.device) for batch, first in enumerate(batches)]
        if generator is not None:
            generator.set_state(piece.tensors["generator"])

    def layers(self, number: int, tick: Callable[[], None] = lambda: None) -> Iterator[int]:
        """The indices of the layers that are not done yet; each is done when the next is requested.

        Args:
            number (`int`): of layers.
            tick (`Callable`): called for every layer that is done.
        """
        for index in range(number):
            if index >= self._start:
                yield index
                self._keep(index + 1)
            tick()

    @property
    def done(self) -> range:
        """The indices of the layers that an interrupted run had done."""
        return range(self._start)

    def _keep(self, following: int) -> None:
        names = list(self.streams)
        same = {
            name: first
            for position, name in enumerate(names)
            for first in names[:position]
            if all(a is b for a, b in zip(self.streams[name], self.streams[first], strict=True))
        }
        tensors = {
            f"{name}.{batch}": states
            for name in names
            if name not in same
            for batch, states in enumerate(self.streams[name])
        }
        if self._generator is not None:
            tensors["generator"] = self._generator.get_state()
        self._pieces.write(STREAMS, tensors, next=following, same=same)
