"""How far a layer rotates the hidden state of a text's last token."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..base import SEARCHED, LayerCriterion, turn


if TYPE_CHECKING:
    import torch


def _last_of_document(mask: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    last = mask.clone()
    last[:, :-1] &= ~(mask[:, 1:] & (positions[:, 1:] > 0))
    return last


CRITERION = LayerCriterion(
    name="last-token-cosine",
    summary="removes the layers that rotate the hidden state of a text's last token least, ranked once on the"
    " dense model",
    source="reference code of Flab-Pruner, Yang et al., 2024, arXiv 2412.15921, which ranks again after each layer",
    formula="1 - mean over texts of cos(x, y), where x, y are hidden states of the text's last token before and"
    " after the layer",
    parameters=SEARCHED,
    change=turn,
    counted=_last_of_document,
)
