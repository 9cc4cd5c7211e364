"""The free step before training: what least squares can still regain on the pruned model.

Two streams of hidden states go up side by side, that of the dense model and that of the pruned one with the layers
below already refitted. Layer by layer the attention's output projection and the FFN's are refitted so that the pruned
stream is as near to the dense one as they can make it, at the point where the pruned model's next layer reads it:
after removed layers, whose linear part is thus folded into the projection before them. A bias of the projection and
the scale of the final norm are refitted too. The weights are pulled towards the current ones, and a projection whose
inputs are too many for the tokens to determine it is left as it is. (Where there is a norm between the FFN and the
stream, only the final norm is refitted.)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import nn

from ..families import Family, Norm
from ..running.layer_pass import LayerObserver, LayerPass
from ..running.layerwise import recorded, run_block
from ..tensors.least_squares import LeastSquares, solve


if TYPE_CHECKING:
    from transformers import PreTrainedModel


TOKENS_PER_INPUT = 8  # fewest tokens per input of a projection, else it would be fitted to their noise
PULL = 0.3  # towards the current weights, as a share of the mean diagonal of the Gram matrix


def corrected(weight: torch.Tensor, problem: LeastSquares, pull: float = PULL) -> torch.Tensor:
    """A projection's weights with the least-squares correction, float32; unchanged if the tokens say nothing.

    Args:
        weight (`torch.Tensor` of shape `(out, in)`): the current weights.
        problem ([`LeastSquares`]): the error of its output, as targets of a step that is pulled towards zero. The
            targets are small, so the sums hold more digits than those of whole outputs would.
    """
    weight = weight.detach().float()
    if not torch.isfinite(problem.diagonal.mean()):
        return weight
    step = solve(*problem.damped(pull))[0]
    return weight + step if torch.isfinite(step).all() else weight


@torch.no_grad()
def refit(dense: LayerPass, pruned: LayerPass, kept_layers: Sequence[int]) -> set[str]:
    """Refits a pruned model in place; in a mixture of experts only the attention's output projections and the final
    norm. Returns the names of the projections that some layer's tokens were too few for.

    Args:
        dense ([`LayerPass`]): of the dense model, in the dtype to compute in.
        pruned ([`LayerPass`]): of a model of the same family, which is changed, on the same device, over the same
            sequences in its own ids and batches of the same size.
        kept_layers (`Sequence[int]`): dense index of each pruned layer.
    """
    observer = _Refit(dense, pruned, kept_layers)
    pruned.run(observer)
    final_norm = pruned.family.modules.final_norm
    norms = pruned.model.get_submodule(final_norm), dense.model.get_submodule(final_norm)
    _refit_final_norm(pruned.family.norm, *norms, observer.streams, pruned.masks)
    return observer.left


def tokens_to_refit(model: PreTrainedModel, family: Family) -> dict[str, int]:
    """The tokens that it takes to refit each projection of a model in all layers, by name."""
    names = [] if family.block.attention_post_norm is not None else [family.block.attention_out]
    names += [] if family.block.ffn_post_norm is not None or family.experts is not None else [family.block.ffn_out]
    needed = dict.fromkeys(names, 0)
    for layer in family.decoder_layers(model):
        for name in names:
            inputs = family.matrix(name, family.projection(layer, name).weight).shape[1]
            needed[name] = max(needed[name], TOKENS_PER_INPUT * inputs)
    return needed


class _Refit(LayerObserver):
    """Refits each layer of the pruned model before its stream goes through."""

    def __init__(self, dense: LayerPass, pruned: LayerPass, kept_layers: Sequence[int]):
        super().__init__(pruned, ())
        self.streams = {"dense": dense.embedded(), "pruned": pruned.embedded()}
        self.dense, self.kept_layers = dense, kept_layers
        self.left = set[str]()

    def advance(self, index: int) -> None:
        """See [`LayerObserver.advance`]."""
        family = self.reading.family
        before_ffn = self._advance_dense(index)
        if family.block.attention_post_norm is None:
            self._refit_output(index, family.block.attention_out, before_ffn)
        del before_ffn
        if family.block.ffn_post_norm is None and family.experts is None:
            self._refit_output(index, family.block.ffn_out, self.streams["dense"])
        self.streams["pruned"] = self.reading.through(index, self.streams["pruned"])

    def _advance_dense(self, index: int) -> list[torch.Tensor]:
        """Passes the dense stream up to where the next pruned layer reads it, and returns what the FFN's output is
        added to in the dense layer that this one was."""
        dense, stream, before_ffn = self.dense, self.streams["dense"], list[torch.Tensor]()
        kept, *above = [*self.kept_layers[index:], len(dense.layers)]
        for number in range(kept if index else 0, above[0]):
            if number != kept:
                stream[:] = dense.through(number, stream)
                continue
            for batch, x in enumerate(dense.inputs):
                layer, config = dense.layers[number], dense.model.config
                run = run_block(dense.family, config, layer, stream[batch], x.kwargs[number])
                stream[batch] = run.after
                before_ffn.append(run.stream)
        return before_ffn

    def _refit_output(self, index: int, name: str, wanted: Sequence[torch.Tensor]) -> None:
        """Refits one projection of a layer into the residual stream.

        Args:
            name (`str`): the attention's output projection or the FFN's.
            wanted (`Sequence[torch.Tensor]`): the dense stream where the pruned one is read after the projection:
                before the FFN, or after the layer.
        """
        reading, family, config = self.reading, self.reading.family, self.reading.model.config
        layer = reading.layers[index]
        projection = family.projection(layer, name)
        weight = family.matrix(name, projection.weight)
        if sum(int(mask.sum()) for mask in reading.masks) < TOKENS_PER_INPUT * weight.shape[1]:
            self.left.add(name)
            return
        problem, scale = LeastSquares(torch.zeros_like(weight)), family.block.scale(config)
        error_sum, input_sum = weight.new_zeros(weight.shape[0]).float(), weight.new_zeros(weight.shape[1]).float()
        weight_sum = weight.new_zeros(()).float()
        with recorded(layer, name) as runs:
            for batch, mask in enumerate(reading.masks):
                hidden, kwargs = self.streams["pruned"][batch], reading.inputs[batch].kwargs[index]
                run = run_block(family, config, layer, hidden, kwargs)
                now = run.after if name == family.block.ffn_out else run.stream
                target = wanted[batch].to(now.device)[mask]
                # The next layer reads the stream through a norm, so an error counts relative to the stream's own size;
                # otherwise a few tokens with massive activations (attention sinks) would outweigh all others.
                importance = 1 / family.norm.square(target).clamp_min(1e-12)
                error = (target.float() - now[mask].float()) / scale
                read = runs[name][0].reshape(*mask.shape, -1)[mask]  # some classes flatten the rows before the FFN
                problem.add(read, error, importance)
                error_sum = error_sum + importance @ error
                input_sum = input_sum + importance @ read.float()
                weight_sum = weight_sum + importance.sum()
        solved = corrected(weight, problem)
        if projection.bias is not None:
            left = (error_sum - (solved - weight.detach().float()) @ input_sum) / weight_sum
            projection.bias.copy_(projection.bias.float() + left)
        projection.weight.copy_(family.matrix(name, solved))


def _refit_final_norm(
    facts: Norm,
    norm: nn.Module,
    dense_norm: nn.Module,
    streams: Mapping[str, Sequence[torch.Tensor]],
    masks: Sequence[torch.Tensor],
) -> None:
    """Scales each channel of what the output head reads by least squares towards the dense model's."""
    weight, bias = getattr(norm, "weight", None), getattr(norm, "bias", None)
    if weight is None:
        return
    shift = 0.0 if bias is None else bias.float()
    cross = square = torch.zeros_like(weight, dtype=torch.float32)
    for target, hidden, mask in zip(streams["dense"], streams["pruned"], masks, strict=True):
        should, now = dense_norm(target[mask]).float() - shift, norm(hidden[mask]).float() - shift
        cross, square = cross + (should * now).sum(dim=0), square + now.square().sum(dim=0)
    factor = torch.where(square > 0, cross / square.clamp_min(torch.finfo(torch.float32).tiny), 1.0)
    weight.copy_((weight.float() + facts.offset) * factor - facts.offset)


@torch.no_grad()
def between(start: PreTrainedModel, refitted: PreTrainedModel, share: float, result: PreTrainedModel) -> None:
    """Sets the weights of `result` to those of `start` plus this share of what the refit changed; summed in float32.

    Least squares on the hidden states aims past what is best for the predictions; part of the way often helps more.
    """
    goal = dict(refitted.named_parameters())
    target = dict(result.named_parameters())
    for name, parameter in start.named_parameters():
        there = goal[name].to(parameter.device)
        # what the refit left alone differs at most by the rounding of the computation
        changed = not torch.equal(there, parameter.to(there.dtype))
        own = parameter.float()
        target[name].copy_(own + share * (there.float() - own) if changed else parameter)
