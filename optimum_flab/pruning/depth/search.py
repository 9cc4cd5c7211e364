"""In which order layers go: one row of `CRITERIA` for each criterion that `optimum_flab/criteria.py` describes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import nn

from ...families import Family
from ...measuring.divergence import OutputHead, check_finite, mean_divergence, predicting
from ...records.pieces import Pieces
from ...running.casting import for_estimates
from ...running.layerwise import layer_inputs, run_layer
from ...texts.packing import PackedTokens


if TYPE_CHECKING:
    from transformers import PreTrainedModel


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


Tick = Callable[[], None]
Order = Callable[[nn.Module, Family, PackedTokens, int, OutputHead, Tick, Pieces], Iterator[Removal]]


@dataclass(frozen=True)
class LayerCriterion:
    """How a criterion of [`~optimum_flab.criteria.LAYERS`] is computed: the removals in order, as asked for."""

    removals: Order


@torch.no_grad()
def greedy_divergence(
    model: PreTrainedModel,
    family: Family,
    tokens: PackedTokens,
    batch_size: int,
    head: OutputHead,
    tick: Tick = lambda: None,
    pieces: Pieces | None = None,
) -> Iterator[Removal]:
    """Removes, one after the other, the layer whose absence changes the model's predictions least.

    The hidden states in front of every remaining layer are kept, so that a candidate costs only the layers above it
    (arXiv 2412.15921, section on layer pruning, runs the whole model for every candidate). In bfloat16 where the
    device multiplies that, see [`~running.casting.for_estimates`].

    Args:
        tokens ([`PackedTokens`]): calibration sequences, as ids of `model`.
        head ([`OutputHead`]): the kept vocabulary.
        tick (`Callable`): called after every candidate.
        pieces ([`Pieces`], *optional*): keeps removals and the scores of candidates, for a run that is interrupted.

    Yields:
        [`Removal`]: until one of the layers that may go is left.
    """
    pieces = Pieces() if pieces is None else pieces
    layers, removable = len(family.decoder_layers(model)), set(family.pruned_layers(model))
    model, step = for_estimates(model, family)
    removed, scores = _begun(pieces)
    norm = model.get_submodule(family.modules.final_norm)
    batches = list(tokens.batches(batch_size))
    inputs = [layer_inputs(model, family, batch) for batch in batches]
    masks = [predicting(batch) for batch in batches]
    remaining = list(range(layers))

    def upwards(start: int, batch: int, hidden: torch.Tensor) -> Iterator[torch.Tensor]:
        for index in remaining[start:]:
            hidden = step(index, hidden, inputs[batch].kwargs[index])
            yield hidden

    def outcome(hidden: torch.Tensor, batch: int) -> torch.Tensor:
        return norm(hidden)[masks[batch].to(hidden.device)]

    def states_in_front() -> list[list[torch.Tensor]]:
        return [[x.hidden, *upwards(0, batch, x.hidden)] for batch, x in enumerate(inputs)]

    in_front = states_in_front()
    dense = torch.cat([outcome(states[-1], batch) for batch, states in enumerate(in_front)])
    if removed:
        gone = {removal.layer for removal in removed}
        remaining, removable = [layer for layer in remaining if layer not in gone], removable - gone
        in_front = states_in_front()
        yield from removed
    while len(removable) > 1:
        for position, layer in enumerate(remaining):
            if layer in removable and layer not in scores:
                outcomes = []
                for batch, states in enumerate(in_front):
                    *_, hidden = states[position], *upwards(position + 1, batch, states[position])
                    outcomes.append(outcome(hidden, batch))
                scores[layer] = mean_divergence(dense, torch.cat(outcomes), head, head)
                _keep(pieces, removed, scores)
                tick()
        layer = min(scores, key=lambda layer: (scores[layer], layer))
        removed.append(Removal(layer, scores[layer]))
        scores.clear()
        _keep(pieces, removed, scores)
        position = remaining.index(layer)
        remaining.remove(layer)
        removable.remove(layer)
        for batch, states in enumerate(in_front):
            states[position + 1 :] = list(upwards(position, batch, states[position]))
        yield removed[-1]


def _begun(pieces: Pieces) -> tuple[list[Removal], dict[int, float]]:
    """The removals that an interrupted run had decided, and the scores of the candidates for the next one."""
    piece = pieces.read("removals")
    if piece is None:
        return [], {}
    removed = [Removal(layer, score) for layer, score in piece.facts["removed"]]
    return removed, {int(layer): score for layer, score in piece.facts["scores"].items()}


def _keep(pieces: Pieces, removed: Sequence[Removal], scores: Mapping[int, float]) -> None:
    facts = [(removal.layer, removal.score) for removal in removed]
    pieces.write("removals", removed=facts, scores={str(layer): score for layer, score in scores.items()})


def _ranked(model: PreTrainedModel, family: Family, scores: list[float]) -> Iterator[Removal]:
    for score in scores:
        check_finite(score)
    order = sorted(family.pruned_layers(model), key=lambda layer: (scores[layer], layer))
    return (Removal(layer, scores[layer]) for layer in order[:-1])


@torch.no_grad()
def _mean_turn(
    model: PreTrainedModel,
    family: Family,
    tokens: PackedTokens,
    batch_size: int,
    counted: Callable[[PackedTokens], torch.Tensor],
    tick: Tick,
    pieces: Pieces,
) -> list[float]:
    """For every layer, 1 - mean cosine between its input and its output, over the positions that `counted` marks."""
    layers = family.decoder_layers(model)

    def turns_of(batch: PackedTokens) -> dict[str, torch.Tensor]:
        turns = torch.zeros(len(layers), dtype=torch.float64)
        inputs = layer_inputs(model, family, batch)
        hidden, mask = inputs.hidden, counted(batch).to(inputs.hidden.device)
        for index, layer in enumerate(layers):
            after = run_layer(layer, hidden, inputs.kwargs[index])
            cosine = nn.functional.cosine_similarity(hidden[mask].float(), after[mask].float(), dim=-1)
            turns[index] = float((1 - cosine).sum(dtype=torch.float64))
            hidden = after
        return {"turns": turns}

    turns, count = torch.zeros(len(layers), dtype=torch.float64), 0
    for number, batch in enumerate(tokens.batches(batch_size)):
        turns += pieces.tensors(f"batch-{number}", partial(turns_of, batch))["turns"]
        count += int(counted(batch).sum())
        tick()
    return (turns / count).tolist()


def _last_of_document(batch: PackedTokens) -> torch.Tensor:
    last = batch.mask.clone()
    last[:, :-1] &= ~(batch.mask[:, 1:] & (batch.position_ids[:, 1:] > 0))
    return last


def _by_turn(
    counted: Callable[[PackedTokens], torch.Tensor],
    model: PreTrainedModel,
    family: Family,
    tokens: PackedTokens,
    batch_size: int,
    head: OutputHead,
    tick: Tick = lambda: None,
    pieces: Pieces | None = None,
) -> Iterator[Removal]:
    """First the layers that turn the hidden states least, over the positions that `counted` marks."""
    pieces = Pieces() if pieces is None else pieces
    return _ranked(model, family, _mean_turn(model, family, tokens, batch_size, counted, tick, pieces))


CRITERIA = {
    "divergence": LayerCriterion(greedy_divergence),
    "block-influence": LayerCriterion(partial(_by_turn, lambda batch: batch.mask)),
    "last-token-cosine": LayerCriterion(partial(_by_turn, _last_of_document)),
}
