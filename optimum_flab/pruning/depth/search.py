"""In which order layers are removed: what criteria of `optimum_flab/criteria/layers/` choose from."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

import torch

from ...measuring.divergence import OutputHead, check_finite, mean_divergences, predicting
from ...records.pieces import Pieces
from ...running.casting import estimates_dtype, for_estimates
from ...running.layer_pass import LayerPass, layer_piece
from ...running.layerwise import run_layer
from ...texts.packing import PackedTokens


@dataclass(frozen=True)
class Removal:
    """One layer taken out.

    Args:
        layer (`int`): its index in the dense model.
        score (`float`): what the criterion said; for `"divergence"` the divergence of the model, in nats per token,
            once this layer and those before it are gone.
    """

    layer: int
    score: float


CARRIED = "carried"
Tick = Callable[[], None]
States = list[torch.Tensor]  # hidden states by batch
Change = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class LayerSearch:
    """What layers are ranked on, and ways to rank them.

    Args:
        reading ([`LayerPass`]): of the dense model, over calibration sequences.
        head ([`OutputHead`]): the kept vocabulary.
    """

    reading: LayerPass
    head: OutputHead

    def by_divergence(self) -> Iterator[Removal]:
        """One after the other, the layer whose absence changes the model's predictions least.

        The hidden states before every remaining layer are kept, so that a candidate costs only the layers above it
        (arXiv 2412.15921, section on layer pruning, runs the whole model for every candidate). All candidates for a
        removal go up side by side, so that each layer's weights are read once for all of them; `tick` is called for
        every layer that all have passed. In bfloat16 where the device supports it natively, see
        [`~running.casting.for_estimates`].

        Returns:
            `Iterator[Removal]`: until one of the layers that may be removed is left.
        """
        return _greedily(self)

    def by_change(
        self, change: Change, counted: Callable[[PackedTokens], torch.Tensor] = lambda batch: batch.mask
    ) -> Iterator[Removal]:
        """First the layers that change the hidden states least, in the mean over tokens, in one pass over the text.

        Args:
            change (`Callable`): `(before, after) -> scores of shape (tokens,)` of the hidden states of some tokens
                before and after a layer, each a float32 tensor of shape `(tokens, hidden)`.
            counted (`Callable`, *optional*): from a batch to a mask of its shape of the tokens that count; all of the
                text by default.
        """
        return self.by_scores(_mean_changes(self, change, counted))

    def by_scores(self, scores: Sequence[float]) -> Iterator[Removal]:
        """First the layers of the lowest scores; all but one of those that may be removed.

        Args:
            scores (`Sequence[float]`): one for each layer.
        """
        for score in scores:
            check_finite(score)
        order = sorted(self.reading.family.pruned_layers(self.reading.model), key=lambda layer: (scores[layer], layer))
        return (Removal(layer, scores[layer]) for layer in order[:-1])


@torch.no_grad()
def _greedily(search: LayerSearch) -> Iterator[Removal]:
    reading, pieces, dense_model = search.reading, search.reading.pieces, search.reading.model
    remaining, removable = list(range(len(reading.layers))), set(reading.family.pruned_layers(dense_model))
    head = search.head.cast(estimates_dtype(dense_model.dtype, dense_model.device))
    model, step = for_estimates(dense_model, reading.family)
    removed = _begun(pieces)
    norm = model.get_submodule(reading.family.modules.final_norm)
    reading = replace(reading, model=model)
    inputs = reading.inputs
    masks = [predicting(batch).to(x.hidden.device) for batch, x in zip(reading.batches, inputs, strict=True)]

    def raised(states: States, index: int) -> States:
        return [step(index, hidden, x.kwargs[index]) for hidden, x in zip(states, inputs, strict=True)]

    def outcome(states: States) -> torch.Tensor:
        return torch.cat([norm(hidden)[mask] for hidden, mask in zip(states, masks, strict=True)])

    in_front = list(accumulate(remaining, raised, initial=reading.embedded()))
    dense = outcome(in_front[-1])
    if removed:
        gone = {removal.layer for removal in removed}
        remaining, removable = [layer for layer in remaining if layer not in gone], removable - gone
        in_front = list(accumulate(remaining, raised, initial=in_front[0]))
        yield from removed
    while len(removable) > 1:
        without = Candidates(pieces.part(f"candidates-{len(removed)}"), len(inputs), inputs[0].hidden.device)
        for position in without.positions(len(remaining), reading.tick):
            layer = remaining[position]
            without.states = {gone: raised(states, layer) for gone, states in without.states.items()}
            if layer in removable:
                without.states[layer] = in_front[position]
        scores = mean_divergences(dense, {layer: outcome(states) for layer, states in without.states.items()}, head)
        layer = min(scores, key=lambda layer: (scores[layer], layer))
        removed.append(Removal(layer, scores[layer]))
        pieces.write("removals", removed=[(removal.layer, removal.score) for removal in removed])
        without.clear()
        position = remaining.index(layer)
        remaining.remove(layer)
        removable.remove(layer)
        in_front[position:] = accumulate(remaining[position:], raised, initial=in_front[position])
        yield removed[-1]


class Candidates:
    """Hidden states of the model without each of several layers, on their way up.

    Args:
        pieces ([`Pieces`]): keeps them after every layer.
        batches (`int`): number of batches.
        device (`torch.device`): where the states are.

    Attributes:
        states (`dict[int, list[torch.Tensor]]`): by removed layer, the states by batch.
    """

    def __init__(self, pieces: Pieces, batches: int, device: torch.device):
        self._pieces, self._start = pieces, 0
        self.states: dict[int, States] = {}
        if (piece := pieces.read(CARRIED)) is not None:
            self._start = piece.facts["next"]
            for layer in piece.facts["layers"]:
                self.states[layer] = [piece.tensors[f"{layer}.{batch}"].to(device) for batch in range(batches)]

    def positions(self, number: int, tick: Tick) -> Iterator[int]:
        """The positions of the layers still to be passed; each is done when the next is requested.

        Args:
            number (`int`): of layers.
            tick (`Callable`): called for every layer that is done.
        """
        for position in range(number):
            if position < self._start:
                tick()
                continue
            yield position
            tensors = {
                f"{layer}.{batch}": hidden
                for layer, states in self.states.items()
                for batch, hidden in enumerate(states)
            }
            self._pieces.write(CARRIED, tensors, next=position + 1, layers=list(self.states))
            tick()

    def clear(self) -> None:
        """Drops what was kept."""
        self._pieces.clear()


def _begun(pieces: Pieces) -> list[Removal]:
    """The removals that an interrupted run had decided."""
    piece = pieces.read("removals")
    return [] if piece is None else [Removal(layer, score) for layer, score in piece.facts["removed"]]


@torch.no_grad()
def _mean_changes(search: LayerSearch, change: Change, counted: Callable[[PackedTokens], torch.Tensor]) -> list[float]:
    """For every layer, the mean of `change` over the tokens that `counted` marks."""
    reading, pieces, streams = search.reading, search.reading.pieces, search.reading.embedded()
    masks = [counted(batch).to(hidden.device) for batch, hidden in zip(reading.batches, streams, strict=True)]
    every = range(len(reading.layers))
    for index in reading.upwards(made=every, hidden=streams):
        total = torch.zeros((), dtype=torch.float64)
        for batch, (x, mask) in enumerate(zip(reading.inputs, masks, strict=True)):
            after = run_layer(reading.layers[index], streams[batch], x.kwargs[index])
            total += change(streams[batch][mask].float(), after[mask].float()).sum(dtype=torch.float64).cpu()
            streams[batch] = after
        pieces.write(layer_piece(index), {"change": total})
    count = sum(int(mask.sum()) for mask in masks)
    return [float(pieces.finished(layer_piece(index)).tensors["change"]) / count for index in every]
