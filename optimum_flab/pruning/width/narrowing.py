"""Narrowing every layer: one pass over the calibration set, layer by layer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from ...criteria import NeuronCriterion
from ...families import Family
from ...memory import trim_heap
from ...records.pieces import Pieces
from ...running.layer_pass import LayerPass, layer_piece
from ...running.layerwise import captured, run_layer, run_to_neurons
from ...tensors.workspace import Workspace
from ..least_squares import Fit, best_fit, solve
from .statistics import FOLDS, PADDING, NeuronStatistics


@dataclass(frozen=True)
class NarrowLayer:
    """What one layer keeps.

    Args:
        kept (`torch.Tensor` of shape `(width,)`): sorted indices of the kept neurons; in a mixture of shape
            `(experts, width)`.
        weight (`torch.Tensor` of shape `(hidden, width)`, *optional*): compensated weights out of the neurons, in a
            mixture of shape `(experts, hidden, width)`; `None` if the dense ones stay as they are.
    """

    kept: torch.Tensor
    weight: torch.Tensor | None


class DecidedLayers(Mapping[int, NarrowLayer]):
    """What layers keep at one width, read on demand: the weights of all of them take much memory.

    Args:
        pieces ([`Pieces`]): where [`keep_layer`] put them.
        width (`int`): neurons that stay.
        layers (`Sequence[int]`): that were decided, ascending.
        device (`torch.device`): where the tensors are put.
    """

    def __init__(self, pieces: Pieces, width: int, layers: Sequence[int], device: torch.device):
        self._pieces, self._width, self._layers, self._device = pieces, width, layers, device

    def __getitem__(self, layer: int) -> NarrowLayer:
        if layer not in self._layers:
            raise KeyError(layer)
        piece = self._pieces.finished(layer_piece(layer), only=f"{self._width}.")
        kept, weight = piece.tensors[f"{self._width}.kept"], piece.tensors.get(f"{self._width}.weight")
        return NarrowLayer(kept.to(self._device), None if weight is None else weight.to(self._device))

    def __contains__(self, layer: object) -> bool:
        return layer in self._layers

    def __iter__(self) -> Iterator[int]:
        return iter(self._layers)

    def __len__(self) -> int:
        return len(self._layers)


def keep_layer(pieces: Pieces, layer: int, decided: Mapping[int, NarrowLayer]) -> None:
    """Keeps what was decided about a layer, by width."""
    tensors = {f"{width}.kept": narrow.kept for width, narrow in decided.items()}
    tensors |= {f"{width}.weight": narrow.weight for width, narrow in decided.items() if narrow.weight is not None}
    pieces.write(layer_piece(layer), tensors)


def _empty_statistics(
    family: Family, layer: nn.Module, criterion: NeuronCriterion, workspace: Workspace
) -> NeuronStatistics:
    return NeuronStatistics(family.ffn_out_matrix(layer), family.incoming(layer), workspace, criterion.sums)


def _unread(
    reading: LayerPass, index: int, widths: Sequence[int], criterion: NeuronCriterion
) -> dict[int, NarrowLayer]:
    """What a layer keeps by a criterion that reads no text, by width."""
    statistics = _empty_statistics(reading.family, reading.layers[index], criterion, reading.workspace)
    chosen = criterion.select(statistics, widths, reading.generator)
    return {width: NarrowLayer(kept.to(reading.model.device), None) for width, kept in chosen.items()}


def by_batch(importance: torch.Tensor | None, reading: LayerPass) -> list[torch.Tensor]:
    """The weights of tokens, of shape `(layers, rows, length)` for each batch of this process; alike by default."""
    if importance is None:
        importance = reading.tokens.mask.float().expand(len(reading.layers), -1, -1)
    return reading.processes.share(importance.split([len(batch.mask) for batch in reading.batches], dim=1))


def fold_of_tokens(reading: LayerPass) -> list[torch.Tensor]:
    """Which part of the calibration set each token is in, `(rows, length)` for each batch of this process; padding is
    in none.

    Rows alternate: most hold whole documents, and a document that extends past the end of one is in both parts.
    """
    mask, device = reading.tokens.mask.to(reading.model.device), reading.model.device
    folds = torch.where(mask, (torch.arange(len(mask), device=device) % FOLDS)[:, None], PADDING)
    return reading.processes.share(folds.split([len(batch.mask) for batch in reading.batches]))


def decide(
    statistics: NeuronStatistics,
    widths: Sequence[int],
    criterion: NeuronCriterion,
    generator: torch.Generator,
    fit: Fit | None = None,
    dtype: torch.dtype = torch.float64,
) -> dict[int, NarrowLayer]:
    """What the neurons of these statistics keep, by width. The statistics may be used up.

    Args:
        fit ([`Fit`], *optional*): how closely compensated weights follow the tokens. Defaults to what is best on folds
            of them, if there is one width.
        dtype (`torch.dtype`): the dtype in which compensated weights are computed.
    """
    chosen = criterion.select(statistics, widths, generator)
    if not criterion.compensates:
        return {width: NarrowLayer(kept, None) for width, kept in chosen.items()}
    if fit is not None:
        problem = statistics.whole
        weights = solve(*problem.damped(fit.damping, fit.share), list(chosen.values()), dtype, problem.workspace)
    else:
        (kept,) = chosen.values()
        one, other = statistics.restricted(kept)
        fit, both = best_fit([one, other]), one.joined(other)
        del one, other
        weights = solve(*both.damped(fit.damping, fit.share), None, dtype, both.workspace)
    return {width: NarrowLayer(kept, weight) for (width, kept), weight in zip(chosen.items(), weights, strict=True)}


@torch.no_grad()
def survey(
    reading: LayerPass, widths: Sequence[int], criterion: NeuronCriterion, importance: torch.Tensor | None = None
) -> dict[int, Mapping[int, NarrowLayer]]:
    """Decides every layer at several widths from the statistics of the dense model alone.

    Cheap enough to compare shapes with; the shape that is chosen is then decided again by [`narrow`].

    Args:
        reading ([`LayerPass`]): of the dense model, over calibration sequences.
        widths (`Sequence[int]`): candidate widths.
        importance (`torch.Tensor` of shape `(layers, rows, length)`, *optional*): the weight of each token in each
            layer, see [`~measuring.fisher.fisher_weights`]; without it all count alike.

    Returns:
        `dict[int, Mapping[int, NarrowLayer]]`: by width and layer what is kept; weights in bfloat16 to save memory.
    """
    model, family, layers = reading.model, reading.family, reading.layers
    if not criterion.reads_text:
        decided = {index: _unread(reading, index, widths, criterion) for index in range(len(layers))}
        return {width: {index: by_width[width] for index, by_width in decided.items()} for width in widths}
    weights, folds, streams = by_batch(importance, reading), fold_of_tokens(reading), reading.embedded()
    for index in reading.upwards(made=range(len(layers)), hidden=streams):
        layer = layers[index]
        statistics = _empty_statistics(family, layer, criterion, reading.workspace)
        bias = family.ffn_out(layer).bias
        with captured(family, model.config, layer) as seen:
            for batch, (x, fold) in enumerate(zip(reading.inputs, folds, strict=True)):
                streams[batch] = reading.workspace.placed(run_layer(layer, streams[batch], x.kwargs[index]))
                wanted = seen.output if bias is None else seen.output - bias
                statistics.add(seen.neurons, wanted, weights[batch][index], fold)
        statistics.sum_over(reading.processes)
        statistics.check_finite(index)
        chosen = {
            width: NarrowLayer(narrow.kept, None if narrow.weight is None else narrow.weight.bfloat16())
            for width, narrow in decide(statistics, widths, criterion, reading.generator, Fit(), torch.float32).items()
        }
        keep_layer(reading.pieces, index, chosen)
        del statistics, chosen
        trim_heap()  # a layer's results are scattered among the temporary data of its decision
    return {width: DecidedLayers(reading.pieces, width, range(len(layers)), model.device) for width in widths}


@torch.no_grad()
def narrow(
    reading: LayerPass,
    kept_layers: Sequence[int],
    width: int,
    criterion: NeuronCriterion,
    importance: torch.Tensor | None = None,
) -> Mapping[int, NarrowLayer]:
    """Decides every kept layer at one width, each on top of the layers already pruned below it.

    Two streams of hidden states go up side by side: that of the dense model and that of the pruned one. Each layer's
    output weights are fitted so that the pruned stream, after the layer, is as near to the dense one as they can make
    it: this compensates for removed neurons, removed layers and the drift of the layers below alike. (Where there is a
    norm between the FFN and the stream, the FFN's own dense output is the target.)

    Args:
        reading ([`LayerPass`]): of the dense model, over calibration sequences.
        kept_layers (`Sequence[int]`): layers of the dense model that stay, ascending.
        width (`int`): neurons to keep per layer.
        importance (`torch.Tensor` of shape `(layers, rows, length)`, *optional*): the weight of each token in each
            layer, see [`~measuring.fisher.fisher_weights`]; without it all count alike.

    Returns:
        `Mapping[int, NarrowLayer]`: by dense layer index.
    """
    model, family, workspace, processes = reading.model, reading.family, reading.workspace, reading.processes
    if not criterion.reads_text:
        return {index: _unread(reading, index, [width], criterion)[width] for index in kept_layers}
    weights, folds = by_batch(importance, reading), fold_of_tokens(reading)
    dense, pruned = reading.embedded(), reading.embedded()
    scale = family.block.scale(model.config)
    for index in reading.upwards(made=kept_layers, dense=dense, pruned=pruned):
        layer = reading.layers[index]
        if index not in kept_layers:
            dense[:] = reading.through(index, dense)
            continue
        statistics = _empty_statistics(family, layer, criterion, workspace)
        out = family.ffn_out(layer)
        named = family.block.ffn_post_norm
        post_norm = None if named is None else layer.get_submodule(named)
        residuals: list[torch.Tensor] = []
        neurons: list[torch.Tensor] = []
        with captured(family, model.config, layer) as seen:
            for batch, (x, fold) in enumerate(zip(reading.inputs, folds, strict=True)):
                same = dense[batch] is pruned[batch]
                kwargs = x.kwargs[index]
                dense[batch], before = workspace.placed(run_layer(layer, dense[batch], kwargs)), pruned[batch]
                wanted, dense_stream = seen.output, seen.stream
                if not same:
                    run_to_neurons(family, layer, before, kwargs)
                wanted = wanted.float()
                if out.bias is not None:
                    wanted = wanted - out.bias
                if post_norm is None:  # streams are large, and their difference is small
                    wanted = wanted + (dense_stream.float() - seen.stream.float()) / scale
                statistics.add(seen.neurons, wanted, weights[batch][index], fold)
                residuals.append(workspace.placed(seen.stream))
                neurons.append(workspace.placed(seen.neurons))
        del seen  # what the last batch left behind
        statistics.sum_over(processes)
        statistics.check_finite(index)
        chosen = decide(statistics, [width], criterion, reading.generator)[width]
        processes.check_same(chosen.kept.tolist(), f"the neurons of layer {index} that stay")
        del statistics
        matrix = family.ffn_out_matrix(layer)
        weight = (matrix[:, chosen.kept] if chosen.weight is None else chosen.weight).to(matrix)
        for batch in range(len(folds)):
            output = nn.functional.linear(neurons[batch][..., chosen.kept], weight, out.bias)
            neurons[batch] = output.new_empty(0)  # this frees its memory
            output = residuals[batch] + scale * (output if post_norm is None else post_norm(output))
            pruned[batch] = workspace.placed(output)
        keep_layer(reading.pieces, index, {width: chosen})
        trim_heap()
    return DecidedLayers(reading.pieces, width, kept_layers, model.device)
