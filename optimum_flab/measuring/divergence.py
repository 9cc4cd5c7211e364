"""How far a pruned model's predictions are from the dense model's.

*Divergence* is the mean over tokens of KL(dense ‖ pruned) of the next-token distribution, in nats, over the kept
vocabulary (arXiv 2412.15921 uses this quantity to guide all of its pruning).
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from ..families import Family
from ..running.layer_pass import LayerObserver, LayerPass
from ..texts.packing import PackedTokens
from ..utils.errors import FlabError


if TYPE_CHECKING:
    from transformers import PreTrainedModel


STREAM_POSITIONS = 256  # of each layer's stream that are kept, to tell how far the pruned one is from it
LOGITS_PER_CHUNK = 1 << 23  # bounds the memory for logits: 32 MB in float32, several times over


def predicting(tokens: PackedTokens) -> torch.Tensor:
    """Which positions predict a token of their own document: bool of shape `(rows, length)`."""
    mask = torch.zeros_like(tokens.mask)
    mask[:, :-1] = tokens.mask[:, :-1] & tokens.mask[:, 1:] & (tokens.position_ids[:, 1:] > 0)
    return mask


def following(tokens: PackedTokens) -> torch.Tensor:
    """The ids that the predicting positions predict, int64 of shape `(predicting positions,)`."""
    ids = torch.zeros_like(tokens.input_ids)
    ids[:, :-1] = tokens.input_ids[:, 1:]
    return ids[predicting(tokens)]


@torch.no_grad()
def final_hidden(reading: LayerPass, sampled_layers: Collection[int] = (), description: str = "") -> torch.Tensor:
    """Hidden states that the output head reads at the positions that predict something. All batches go through a layer
    before any goes through the next, so that its weights are read once.

    Args:
        reading ([`LayerPass`]): what is read.
        sampled_layers (`Collection[int]`): layers of whose output a sample is kept, see [`StreamSample`].
        description (`str`): what is being done, for a bar.

    Returns:
        `torch.Tensor` of shape `(predicting positions, hidden)`, on the CPU, in the dtype of the computation.
    """
    observer = StreamSample(reading, sampled_layers)
    reading.run(observer, description)
    norm = reading.model.get_submodule(reading.family.modules.final_norm)
    masks = reading.by_batch(predicting(reading.tokens))
    final = [norm(hidden[mask]).cpu() for hidden, mask in zip(observer.streams["hidden"], masks, strict=True)]
    return torch.cat(reading.processes.gathered(final))


class StreamSample(LayerObserver):
    """Keeps what layers make of some predicting positions of the first batch, evenly spaced, as `"stream"`; nothing in
    a process without text."""

    def __init__(self, reading: LayerPass, layers: Collection[int]):
        super().__init__(reading, layers if reading.inputs else (), "hidden")

    def observe(self, index: int) -> dict[str, torch.Tensor]:
        """Keeps `"stream"`: bfloat16 of shape `(positions, hidden)`, on the CPU, at about `STREAM_POSITIONS` positions
        of the first batch."""
        self.advance(index)
        hidden, batch = self.streams["hidden"][0], self.reading.processes.share(self.reading.batches)[0]
        states = hidden[predicting(batch).to(hidden.device)]
        every = -(-len(states) // STREAM_POSITIONS) or 1
        return {"stream": states[::every].bfloat16().cpu()}


class OutputHead:
    """The output head of a model, restricted to some rows of the vocabulary.

    Args:
        model (`PreTrainedModel`): a causal language model.
        kept (`Sequence[int]`, *optional*): the rows to score, in this order. Defaults to all.
    """

    def __init__(self, model: PreTrainedModel, family: Family, kept: Sequence[int] | np.ndarray | None = None):
        head = model.get_submodule(family.modules.output_head)
        rows: slice | torch.Tensor = slice(None)  # takes no memory
        if isinstance(kept, range):
            rows = slice(kept.start, kept.stop)
        elif kept is not None:
            rows = torch.as_tensor(kept, device=head.weight.device)
        self.weight = head.weight.detach()[rows]
        self.bias = None if head.bias is None else head.bias.detach()[rows]
        self.config, self.facts = model.config, family.logits

    def chunks(self, positions: int) -> list[slice]:
        """Runs of positions whose logits are few enough to be in memory at once."""
        step = max(1, LOGITS_PER_CHUNK // len(self.weight))
        return [slice(start, start + step) for start in range(0, positions, step)]

    @torch.no_grad()
    def log_probabilities(self, hidden: torch.Tensor) -> torch.Tensor:
        """float32 log-probabilities of shape `(positions, rows)` for hidden states of shape `(positions, hidden)`."""
        return torch.log_softmax(self.logits(hidden), dim=-1)

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """float32 logits of shape `(positions, rows)` for hidden states of shape `(positions, hidden)`."""
        return self.facts.apply(self.raw(hidden), self.config)

    def raw(self, hidden: torch.Tensor) -> torch.Tensor:
        """The head's own output, float32 of shape `(positions, rows)`."""
        return nn.functional.linear(hidden.to(self.weight), self.weight, self.bias).float()


def mean_divergence(
    dense_hidden: torch.Tensor, pruned_hidden: torch.Tensor, dense_head: OutputHead, pruned_head: OutputHead
) -> float:
    """The mean of [`token_divergences`], with the same arguments."""
    divergences = token_divergences(dense_hidden, pruned_hidden, dense_head, pruned_head)
    return float(divergences.sum()) / max(len(divergences), 1)


def token_divergences(
    dense_hidden: torch.Tensor, pruned_hidden: torch.Tensor, dense_head: OutputHead, pruned_head: OutputHead
) -> torch.Tensor:
    """The divergences of [`compared_predictions`]."""
    return compared_predictions(dense_hidden, pruned_hidden, dense_head, pruned_head)[0]


def compared_predictions(
    dense_hidden: torch.Tensor, pruned_hidden: torch.Tensor, dense_head: OutputHead, pruned_head: OutputHead
) -> tuple[torch.Tensor, torch.Tensor]:
    """KL(dense ‖ pruned) in nats at each position, and whether both find the same token most likely; both heads score
    the same tokens in the same order.

    Args:
        dense_hidden (`torch.Tensor` of shape `(positions, hidden)`): see [`final_hidden`].
        pruned_hidden (`torch.Tensor` of shape `(positions, hidden)`): the same positions in the pruned model.

    Returns:
        `tuple[torch.Tensor, torch.Tensor]`: two of shape `(positions,)`, float64 and bool, on the CPU.
    """
    chunks, same = [torch.zeros(0, dtype=torch.float64)], [torch.zeros(0, dtype=torch.bool)]
    for rows in dense_head.chunks(len(dense_hidden)):
        dense = dense_head.log_probabilities(dense_hidden[rows])
        pruned = pruned_head.log_probabilities(pruned_hidden[rows])
        same.append((dense.argmax(dim=-1) == pruned.argmax(dim=-1)).cpu())
        chunks.append((dense.exp() * (dense - pruned)).sum(dim=-1, dtype=torch.float64).cpu())
    values = torch.cat(chunks)
    check_finite(float(values.sum()))
    return values, torch.cat(same)


def mean_divergences(
    dense_hidden: torch.Tensor, others: Mapping[int, torch.Tensor], head: OutputHead
) -> dict[int, float]:
    """[`mean_divergence`] of several models from one, by their keys; the predictions of that one are computed once.

    Args:
        dense_hidden (`torch.Tensor` of shape `(positions, hidden)`): see [`final_hidden`].
        others (`Mapping[int, torch.Tensor]`): the same positions in each of the others.
    """
    sums = dict.fromkeys(others, 0.0)
    for rows in head.chunks(len(dense_hidden)):
        dense = head.log_probabilities(dense_hidden[rows])
        chances = dense.exp()
        own = float((chances * dense).sum(dtype=torch.float64))
        for key, hidden in others.items():
            sums[key] += own - float((chances * head.log_probabilities(hidden[rows])).sum(dtype=torch.float64))
    return {key: check_finite(total / max(len(dense_hidden), 1)) for key, total in sums.items()}


def bits_and_lost_mass(
    hidden: torch.Tensor, head: OutputHead, tokens: PackedTokens, kept: Sequence[int] | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Bits spent on the next token, and the probability of tokens that are not kept, at each predicting position.

    Divide the sum of the bits by the UTF-8 bytes of the text for *bits per byte*. The first token of a document has no
    context to be predicted from and costs nothing, for the dense and the pruned model alike.

    Args:
        hidden (`torch.Tensor` of shape `(positions, hidden)`): see [`final_hidden`].
        tokens ([`PackedTokens`]): whose ids are rows of `head`.
        kept (`Sequence[int]`, *optional*): rows that are kept. Defaults to all.

    Returns:
        `tuple[torch.Tensor, torch.Tensor]`: two of shape `(positions,)`, float64, on the CPU.
    """
    targets = following(tokens).to(head.weight.device)
    gone = torch.full((len(head.weight),), kept is not None)
    if kept is not None:
        gone[torch.as_tensor(kept)] = False
    gone = gone.to(head.weight.device)
    nats, lost = [torch.zeros(0, dtype=torch.float64)], [torch.zeros(0, dtype=torch.float64)]
    for rows in head.chunks(len(hidden)):
        chunk = head.log_probabilities(hidden[rows])
        nats.append(-chunk.gather(1, targets[rows, None])[:, 0].double().cpu())
        lost.append(chunk[:, gone].exp_().sum(dim=-1, dtype=torch.float64).cpu())
    bits = torch.cat(nats) / math.log(2)
    check_finite(float(bits.sum()))
    return bits, torch.cat(lost)


def check_finite(value: float) -> float:
    """The value, or a [`FlabError`] where a model's predictions are NaN or infinite."""
    if not math.isfinite(value):
        raise FlabError(
            "the model produces NaN or infinite predictions, so nothing can be measured on it. If it runs in float16, "
            "try `dtype` float32 or bfloat16; otherwise check the checkpoint"
        )
    return value


def check_finite_layer(is_finite: bool | torch.Tensor, layer: int) -> None:
    """Raises a [`FlabError`] that names the layer if its output is not finite."""
    if not is_finite:
        raise FlabError(
            f"layer {layer} has NaN or infinite activations or gradients on the calibration text; nothing can be"
            " measured on this model. If it runs in float16, try `dtype` float32 or bfloat16; otherwise check the"
            " checkpoint"
        )
