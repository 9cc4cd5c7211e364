"""How far a layer rotates the hidden states."""

from ..base import SEARCHED, LayerCriterion, turn


CRITERION = LayerCriterion(
    name="block-influence",
    summary="removes the layers that rotate the hidden states least, ranked once on the dense model",
    source="ShortGPT, Men et al., 2024, arXiv 2403.03853",
    formula="1 - mean over tokens of cos(x, y), where x, y are hidden states of a token before and after the layer",
    parameters=SEARCHED,
    change=turn,
)
