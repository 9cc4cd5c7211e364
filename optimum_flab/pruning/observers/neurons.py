"""Which neurons of an FFN stay, and what their output weights become."""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import nn

from ...criteria.statistics import NeuronStatistics
from ...running.layer_pass import LayerPass
from ...running.layerwise import run_block
from .deciding import DecidingObserver, Decision, NarrowLayer


class FfnObserver(DecidingObserver):
    """Decides the neurons of layers with one FFN each, from the dense stream alone or beside a pruned one."""

    def __init__(self, reading: LayerPass, layers: Collection[int], decision: Decision):
        super().__init__(reading, layers, decision, *(("dense", "pruned") if decision.sequential else ("dense",)))
        self._seen: list[tuple[torch.Tensor, torch.Tensor]] = []  # the pruned stream and its neurons, by batch

    def statistics(self, index: int) -> list[NeuronStatistics]:
        """See [`DecidingObserver.statistics`]."""
        reading, family, layer = self.reading, self.reading.family, self.reading.layers[index]
        config, placed, bias = reading.model.config, reading.workspace.placed, family.ffn_out(layer).bias
        statistics = NeuronStatistics(family.ffn_out_matrix(layer), family.incoming(layer), reading.workspace)
        dense = self.streams["dense"]
        pruned = self.streams["pruned"] if self.decision.sequential else dense
        for batch, x in enumerate(reading.inputs):
            below, same, kwargs = pruned[batch], pruned[batch] is dense[batch], x.kwargs[index]
            run = run_block(family, config, layer, dense[batch], kwargs)
            dense[batch], wanted, dense_stream = placed(run.after), run.output.float(), run.stream
            if bias is not None:
                wanted = wanted - bias
            if not same:
                run = run_block(family, config, layer, below, kwargs)
                if family.block.ffn_post_norm is None:  # streams are large, and their difference is small
                    wanted = wanted + (dense_stream.float() - run.stream.float()) / family.block.scale(config)
            statistics.add(run.neurons, wanted, self.importance[batch][index], self.folds[batch])
            if self.decision.sequential:
                self._seen.append((placed(run.stream), placed(run.neurons)))
        return [statistics]

    def prune(self, index: int, narrow: NarrowLayer) -> None:
        """See [`DecidingObserver.prune`]."""
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
