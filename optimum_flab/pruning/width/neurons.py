"""Which neurons of a layer stay, and what their output weights become."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import nn

from ...criteria import DAMPING, NeuronCriterion
from ...criteria.statistics import FOLDS, PADDING, NeuronStatistics
from ...measuring.divergence import not_finite
from ...running.layer_pass import LayerObserver, LayerPass
from ...running.layerwise import captured, run_layer, run_to_neurons
from ...tensors.least_squares import best_fit, solve


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


@dataclass(frozen=True)
class NeuronDecision:
    """How the neurons of all layers are decided.

    Args:
        widths (`Sequence[int]`): numbers of neurons to keep.
        criterion ([`~criteria.NeuronCriterion`]): by which they are chosen.
        importance (`torch.Tensor` of shape `(layers, rows, length)`, *optional*): the weight of each token in each
            layer, see [`~measuring.fisher.fisher_weights`]; without it all count alike.
        sequential (`bool`): whether each layer is decided on top of those already pruned below it, at the only width;
            else from the dense model alone, and roughly, in bfloat16 to save memory.
    """

    widths: Sequence[int]
    criterion: NeuronCriterion
    importance: torch.Tensor | None
    sequential: bool

    def decide(self, statistics: NeuronStatistics, generator: torch.Generator) -> dict[int, NarrowLayer]:
        """What the neurons of these statistics keep, by width. The statistics may be used up."""
        chosen = self.criterion.select(statistics, self.widths, generator)
        if not self.criterion.compensates:
            return {width: NarrowLayer(kept, None) for width, kept in chosen.items()}
        if self.sequential:
            (kept,) = chosen.values()
            one, other = statistics.restricted(kept)
            fit, both = best_fit([one, other], DAMPING), one.joined(other)
            del one, other
            weights = solve(*both.damped(fit.damping, fit.share), workspace=both.workspace)
        else:
            problem, nested = statistics.whole, list(chosen.values())
            fitted = solve(*problem.damped(DAMPING), nested, torch.float32, problem.workspace)
            weights = [weight.bfloat16() for weight in fitted]
        return dict(zip(chosen, map(NarrowLayer, chosen.values(), weights), strict=True))


def fold_of_tokens(reading: LayerPass) -> list[torch.Tensor]:
    """Which part of the calibration set each token is in, `(rows, length)` for each batch of this process; padding is
    in none.

    Rows alternate: most hold whole documents, and a document that extends past the end of one is in both parts.
    """
    mask = reading.tokens.mask
    return reading.by_batch(torch.where(mask, (torch.arange(len(mask)) % FOLDS)[:, None], PADDING))


class NeuronObserver(LayerObserver):
    """Decides the neurons of some layers, and keeps them by width, with their weights.

    Args:
        decision ([`NeuronDecision`]): how they are decided.
        layers, names: see [`LayerObserver`].
    """

    def __init__(self, reading: LayerPass, layers: Collection[int], decision: NeuronDecision, *names: str):
        super().__init__(reading, layers, *names)
        self.decision = decision

    @cached_property
    def folds(self) -> list[torch.Tensor]:
        """See [`fold_of_tokens`]."""
        return fold_of_tokens(self.reading)

    @cached_property
    def importance(self) -> list[torch.Tensor]:
        """The weights of tokens, `(layers, rows, length)` for each batch of this process."""
        importance, reading = self.decision.importance, self.reading
        if importance is None:
            importance = reading.tokens.mask.float().expand(len(reading.layers), -1, -1)
        return reading.by_batch(importance, rows=1)

    def empty_statistics(self, index: int) -> Iterable[NeuronStatistics]:
        """Statistics without tokens of each FFN of a layer."""
        raise NotImplementedError

    def statistics(self, index: int) -> Iterable[NeuronStatistics]:
        """What the tokens of this process say about each FFN of a layer. Passes the streams through it, but for the
        pruned one."""
        raise NotImplementedError

    def joined(self, by_ffn: list[dict[int, NarrowLayer]]) -> dict[int, NarrowLayer]:
        """What a layer keeps, by width, from what each of its FFNs does."""
        raise NotImplementedError

    def prune(self, index: int, narrow: NarrowLayer) -> None:
        """Passes the pruned stream through a layer that was decided."""
        raise NotImplementedError

    def unread(self, index: int) -> dict[int, NarrowLayer]:
        """What a layer keeps, by width, by a criterion that reads no text."""
        generator, device = self.reading.generator, self.reading.model.device
        by_width = self.joined([self.decision.decide(one, generator) for one in self.empty_statistics(index)])
        return {width: NarrowLayer(narrow.kept.to(device), None) for width, narrow in by_width.items()}

    def observe(self, index: int) -> dict[str, torch.Tensor]:
        """See [`LayerObserver.observe`]."""
        by_width = self.joined([self._decide(index, statistics) for statistics in self.statistics(index)])
        if self.decision.sequential:
            (narrow,) = by_width.values()
            self.reading.processes.check_same(narrow.kept.tolist(), f"the parts of layer {index} that stay")
            self.prune(index, narrow)
        tensors = {f"{width}.kept": narrow.kept for width, narrow in by_width.items()}
        return tensors | {f"{width}.weight": n.weight for width, n in by_width.items() if n.weight is not None}

    def _decide(self, index: int, statistics: NeuronStatistics) -> dict[int, NarrowLayer]:
        self.reading.processes.sum_(*statistics.totals)
        if not statistics.is_finite:
            raise not_finite(index)
        return self.decision.decide(statistics, self.reading.generator)


class FfnObserver(NeuronObserver):
    """Decides the neurons of layers with one FFN each, from the dense stream alone or beside a pruned one."""

    def __init__(self, reading: LayerPass, layers: Collection[int], decision: NeuronDecision):
        super().__init__(reading, layers, decision, *(("dense", "pruned") if decision.sequential else ("dense",)))
        self._seen: list[tuple[torch.Tensor, torch.Tensor]] = []  # the pruned stream and its neurons, by batch

    def empty_statistics(self, index: int) -> list[NeuronStatistics]:
        """See [`NeuronObserver.empty_statistics`]."""
        family, layer, workspace = self.reading.family, self.reading.layers[index], self.reading.workspace
        matrix, sums = family.ffn_out_matrix(layer), self.decision.criterion.sums
        return [NeuronStatistics(matrix, family.incoming(layer), workspace, sums)]

    def statistics(self, index: int) -> list[NeuronStatistics]:
        """See [`NeuronObserver.statistics`]."""
        reading, family, layer = self.reading, self.reading.family, self.reading.layers[index]
        config, placed, bias = reading.model.config, reading.workspace.placed, family.ffn_out(layer).bias
        (statistics,) = self.empty_statistics(index)
        dense = self.streams["dense"]
        pruned = self.streams["pruned"] if self.decision.sequential else dense
        with captured(family, config, layer) as seen:
            for batch, x in enumerate(reading.inputs):
                below, same, kwargs = pruned[batch], pruned[batch] is dense[batch], x.kwargs[index]
                dense[batch] = placed(run_layer(layer, dense[batch], kwargs))
                wanted, dense_stream = seen.output.float(), seen.stream
                if bias is not None:
                    wanted = wanted - bias
                if not same:
                    run_to_neurons(family, layer, below, kwargs)
                    if family.block.ffn_post_norm is None:  # streams are large, and their difference is small
                        wanted = wanted + (dense_stream.float() - seen.stream.float()) / family.block.scale(config)
                statistics.add(seen.neurons, wanted, self.importance[batch][index], self.folds[batch])
                if self.decision.sequential:
                    self._seen.append((placed(seen.stream), placed(seen.neurons)))
        return [statistics]

    def joined(self, by_ffn: list[dict[int, NarrowLayer]]) -> dict[int, NarrowLayer]:
        """See [`NeuronObserver.joined`]."""
        return by_ffn[0]

    def prune(self, index: int, narrow: NarrowLayer) -> None:
        """See [`NeuronObserver.prune`]."""
        family, layer = self.reading.family, self.reading.layers[index]
        matrix, bias = family.ffn_out_matrix(layer), family.ffn_out(layer).bias
        weight = (matrix[:, narrow.kept] if narrow.weight is None else narrow.weight).to(matrix)
        post_norm = family.block.ffn_post_norm
        for batch in range(len(self._seen)):
            stream, neurons = self._seen.pop(0)  # so that what is done takes no more memory
            output = nn.functional.linear(neurons[..., narrow.kept], weight, bias)
            if post_norm is not None:
                output = layer.get_submodule(post_norm)(output)
            stream = stream + family.block.scale(self.reading.model.config) * output
            self.streams["pruned"][batch] = self.reading.workspace.placed(stream)

    def advance(self, index: int) -> None:
        """See [`LayerObserver.advance`]: the pruned model is without this layer."""
        self.streams["dense"] = self.reading.through(index, self.streams["dense"])
