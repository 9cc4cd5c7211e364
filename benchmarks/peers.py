"""Neuron scores of other methods, in a few lines each, for `compare.py`.

Differences from a published method are stated with it: all keep the same number of neurons in every layer, as stock
configurations require, and none changes the weights that stay.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from optimum_flab.families import matrices_of


@dataclass
class NeuronSums:
    """What the calibration text says about the neurons of one layer, `x` being what its output projection reads.

    Args:
        tokens: real ones.
        total, square: sums of `x` and `x²` over them.
        common_square: of `x²` over those that stay in the vocabulary.
        row_means: for every row of text the mean of `|x|` over its tokens, squared and summed over the rows.
        out: weights out of the neurons, `(hidden, neurons)`.
        taylor: sum over the weights into and out of a neuron of `|w ∂L/∂w|`.
    """

    tokens: int
    total: torch.Tensor
    square: torch.Tensor
    common_square: torch.Tensor
    row_means: torch.Tensor
    out: torch.Tensor
    taylor: torch.Tensor


def wanda(sums: NeuronSums) -> torch.Tensor:
    """Wanda's score of a weight, |w| |x|, averaged over the output weights of a neuron (Wanda-sp in An et al.,
    arXiv 2312.11983, after Sun et al., arXiv 2306.11695)."""
    return sums.out.abs().mean(dim=0) * sums.square.sqrt()


def flap(sums: NeuronSums) -> torch.Tensor:
    """Weighted input feature variance (An et al., arXiv 2312.11983, WIFV): the sample variance of a neuron times the
    squared norm of its output weights. Without its bias: the output projections of these families have none."""
    mean = sums.total / sums.tokens
    variance = (sums.square - sums.tokens * mean.square()) / (sums.tokens - 1)
    return variance * sums.out.square().sum(dim=0)


def minitron(sums: NeuronSums) -> torch.Tensor:
    """Mean absolute activation over the tokens of a row, L2 norm over the rows (Muralidharan et al., arXiv
    2407.14679, for MLP neurons)."""
    return sums.row_means.sqrt()


def compact(sums: NeuronSums) -> torch.Tensor:
    """Squared activations over the tokens that stay in the vocabulary (Kwek and Yin, arXiv 2509.06836)."""
    return sums.common_square


def llm_pruner(sums: NeuronSums) -> torch.Tensor:
    """First-order Taylor expansion of the loss by each weight, summed over the weights of a neuron's group (Ma et
    al., arXiv 2305.11627, element-wise, first order)."""
    return sums.taylor


SCORES: dict[str, Callable[[NeuronSums], torch.Tensor]] = {
    "wanda": wanda,
    "flap": flap,
    "minitron": minitron,
    "compact": compact,
    "llm-pruner": llm_pruner,
}


def kept_neurons(score: torch.Tensor, width: int) -> list[int]:
    """The neurons of the highest scores, ascending."""
    return sorted(torch.argsort(score, descending=True, stable=True)[:width].tolist())


def neuron_sums(model, family, tokens, common: Sequence[int], batch_size: int, taylor_rows: int) -> list[NeuronSums]:
    """Runs the calibration text through the dense model and sums up, layer by layer.

    Args:
        tokens (`PackedTokens`): ids of the dense model.
        common: ids that stay in the vocabulary.
        taylor_rows: rows of text that gradients are taken on; LLM-Pruner takes ten short samples.
    """
    layers = family.decoder_layers(model)
    kept = torch.zeros(model.get_input_embeddings().num_embeddings, dtype=torch.bool)
    kept[torch.as_tensor(common)] = True
    sums = [_empty(family.ffn_out_matrix(layer)) for layer in layers]

    def hook(index: int) -> Callable:
        def see(module, args) -> None:
            x, one = args[0].detach().float(), sums[index]
            real = x * mask[..., None]
            one.tokens += int(mask.sum())
            one.total += real.sum(dim=(0, 1))
            one.square += real.square().sum(dim=(0, 1))
            one.common_square += (real * stays[..., None]).square().sum(dim=(0, 1))
            one.row_means += (real.abs().sum(dim=1) / mask.sum(dim=1, keepdim=True)).square().sum(dim=0)

        return see

    handles = [family.ffn_out(layer).register_forward_pre_hook(hook(index)) for index, layer in enumerate(layers)]
    with torch.no_grad():
        for batch in tokens.batches(batch_size):
            mask = batch.mask.float()
            stays = mask * kept[batch.input_ids]
            model(**batch.model_inputs(model.device))
    for handle in handles:
        handle.remove()
    _add_taylor(model, family, tokens, taylor_rows, sums)
    return sums


def _empty(out: torch.Tensor) -> NeuronSums:
    zeros = [torch.zeros(out.shape[1]) for _ in range(5)]
    return NeuronSums(0, *zeros[:4], out.detach().float(), zeros[4])


def _add_taylor(model, family, tokens, rows: int, sums: list[NeuronSums]) -> None:
    """Gradients of the mean loss of the next token by the weights of all FFNs, of all rows together."""
    groups = [list(family.neuron_tensors(layer)) for layer in family.decoder_layers(model)]
    for _, parameter, _ in (one for group in groups for one in group):
        parameter.requires_grad_(True)
    for batch in next(iter(tokens.batches(rows))).batches(1):
        follows = batch.mask[:, 1:] & (batch.position_ids[:, 1:] > 0)
        logits = model(**batch.model_inputs(model.device)).logits[:, :-1][follows]
        torch.nn.functional.cross_entropy(logits.float(), batch.input_ids[:, 1:][follows]).backward()
    for one, group in zip(sums, groups, strict=True):
        for _, weight, axes in group:
            change = (weight.detach() * weight.grad).abs().float()
            one.taylor += sum(matrix.sum(dim=1) for matrix in matrices_of(change, axes))
    model.zero_grad(set_to_none=True)
