"""Running the experts of a layer one at a time: transformers holds them all in a few tensors, without modules."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.func import functional_call

from ..families import Family, matrices_of
from ..utils.compat import experts_by


@dataclass(frozen=True)
class Routed:
    """What the experts of a layer were given.

    Args:
        hidden (`torch.Tensor` of shape `(tokens, hidden)`): what they read.
        experts (`torch.Tensor` of shape `(tokens, experts per token)`): the experts that each token was routed to.
        weights (`torch.Tensor` of shape `(tokens, experts per token)`): what their outputs are multiplied by.
        output (`torch.Tensor` of shape `(tokens, hidden)`): the weighted sum of their outputs.
    """

    hidden: torch.Tensor
    experts: torch.Tensor
    weights: torch.Tensor
    output: torch.Tensor

    def sent_to(self, expert: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The tokens routed to an expert, as a mask of shape `(tokens,)`, and their weights."""
        here = self.experts == expert
        tokens = here.any(dim=-1)
        return tokens, (self.weights * here).sum(dim=-1)[tokens]


@contextmanager
def routed(family: Family, layer: nn.Module) -> Iterator[list[Routed]]:
    """Within this context each run of a layer records what its experts were given."""
    seen: list[Routed] = []

    def see(module: nn.Module, args: tuple, kwargs: dict[str, Any], output: torch.Tensor) -> None:
        hidden, experts, weights = (part.detach() for part in (*args, *kwargs.values()))
        seen.append(Routed(hidden, experts, weights, output.detach()))

    handle = layer.get_submodule(family.mixture.module).register_forward_hook(see, with_kwargs=True)
    try:
        yield seen
    finally:
        handle.remove()


class ExpertWeights:
    """The experts of one layer, to be run one at a time.

    Args:
        layer (`nn.Module`): the dense layer, or one like it that fits `tensors`.
        tensors (`dict[str, torch.Tensor]`): the tensors of the layer by their names in it.
    """

    def __init__(self, family: Family, layer: nn.Module, tensors: dict[str, torch.Tensor]):
        prefix = f"{family.mixture.module}."
        self.family, self.module = family, layer.get_submodule(family.mixture.module)
        self.tensors = {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
        self.axes = {name: family.axes(family.in_layer(0, prefix + name)) or () for name in self.tensors}

    def __len__(self) -> int:
        return len(self.tensors[self.family.mixture.out])

    def out(self, expert: int) -> torch.Tensor:
        """The weights from the neurons of an expert to the stream, of shape `(hidden, neurons)`."""
        return self.family.expert_matrix(self.tensors[self.family.mixture.out][expert])

    def out_bias(self, expert: int) -> torch.Tensor | None:
        """The bias that an expert adds to that, of shape `(hidden,)`."""
        biases = (tensor for name, tensor in self.tensors.items() if self.axes[name] == ("expert", "hidden"))
        return next((bias[expert] for bias in biases), None)

    def incoming(self, expert: int) -> list[torch.Tensor]:
        """The weights into the neurons of an expert (gate, up): matrices of shape `(neurons, hidden)`."""
        into = [
            matrices_of(tensor[expert], self.axes[name][1:])
            for name, tensor in self.tensors.items()
            if tensor.ndim == 3 and name != self.family.mixture.out
        ]
        return [matrix for matrices in into for matrix in matrices]

    def neurons(self, expert: int, hidden: torch.Tensor) -> torch.Tensor:
        """What the weights out of an expert read.

        The class itself computes it, whatever its activation: the weights out of the neurons are replaced by ones
        that pass on as many neurons at a time as the stream is wide.

        Args:
            hidden (`torch.Tensor` of shape `(tokens, hidden)`): what the expert reads.

        Returns:
            `torch.Tensor` of shape `(tokens, neurons)`.
        """
        width, out = self.out(expert).shape[1], self.family.mixture.out
        tensors = {
            name: torch.zeros_like(tensor[:1]) if self.axes[name] == ("expert", "hidden") else tensor[expert, None]
            for name, tensor in self.tensors.items()
        }
        parts = []
        for start in range(0, width, hidden.shape[1]):
            shown = min(hidden.shape[1], width - start)
            select = hidden.new_zeros(hidden.shape[1], width)
            select[:shown, start : start + shown].fill_diagonal_(1)
            tensors[out] = self.family.expert_matrix(select)[None]
            parts.append(self._alone(tensors, hidden)[:, :shown])
        return torch.cat(parts, dim=1)

    def _alone(self, tensors: dict[str, torch.Tensor], hidden: torch.Tensor) -> torch.Tensor:
        """The output of the experts if all tokens are routed to the first of them."""
        first = torch.zeros(len(hidden), 1, dtype=torch.long, device=hidden.device)
        config: Any = self.module.config
        with experts_by(config, "eager"):  # the other implementations need the number of experts
            return functional_call(self.module, tensors, (hidden, first, torch.ones_like(first, dtype=hidden.dtype)))
