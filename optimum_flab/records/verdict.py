"""Where a pruned model stands among those whose programs were run. Lightweight."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from ..settings.pruning import TOKENS_PER_NEURON


if TYPE_CHECKING:
    from .held_out import HeldOut
    from .report import Report


class Measured(NamedTuple):
    """A pruned model whose divergence and programs are known.

    Args:
        divergence (`float`): nats per token, on text of small problems.
        share (`float`): programs that pass, of those of its dense model: HumanEval's, with "all" of the standard set.
        label (`str`): what it is.
    """

    divergence: float
    share: float
    label: str


# docs/results.md and docs/peers.md, without q3_k_m
MEASURED = (
    Measured(0.0, 1.00, "Qwen2.5-Coder-0.5B, vocabulary alone (bits per byte +2.3%)"),
    Measured(0.0, 1.03, "the same in llama.cpp, q4_k_m"),
    Measured(0.0, 0.99, "the same in llama.cpp, q8_0"),
    Measured(0.029, 0.91, "Qwen2.5-Coder-0.5B at 0.26, all by chat template"),
    Measured(0.061, 0.75, "Qwen2.5-Coder-1.5B at 0.22, 0.9 calibration tokens per neuron"),
    Measured(0.066, 0.85, "Qwen2.5-Coder-0.5B at 0.30, all"),
    Measured(0.0795, 0.83, "the same at 0.35, recovered"),
    Measured(0.084, 0.90, "Qwen2.5-Coder-1.5B at 0.22, 7.3 calibration tokens per neuron, all"),
    Measured(0.105, 0.76, "Qwen2.5-Coder-0.5B at 0.35, calibrated for 0.57 on its own answers, all"),
    Measured(0.106, 0.65, "the same at 0.35, 16 calibration tokens per neuron, all by chat template"),
    Measured(0.119, 0.66, "the same at 0.35, all"),
    Measured(0.125, 0.71, "the same at 0.35, calibrated for 0.45 on its own answers, all"),
    Measured(0.127, 0.69, "the same at 0.35, half of the gaps in problems, all by chat template"),
    Measured(0.129, 0.54, "the same at 0.35, 23.1% of the body in place of 18.5%, all by chat template"),
    Measured(0.130, 0.75, "the same at 0.35, on another machine"),
    Measured(0.134, 0.69, "COMPACT in that shape"),
    Measured(0.59, 0.12, "the criteria of the reference's code in that shape"),
    Measured(0.596, 0.16, "Qwen2.5-Coder-0.5B at 0.35, neurons alone"),
    Measured(0.721, 0.08, "Wanda, the same"),
    Measured(0.733, 0.09, "LLM-Pruner, the same"),
    Measured(0.757, 0.05, "FLAP, the same"),
    Measured(0.887, 0.05, "optipfair with text, the same"),
    Measured(0.936, 0.14, "Minitron, the same"),
    Measured(3.78, 0.0, "optipfair, the same"),
)
# of the models above, by the share of all but the vocabulary that they are without
PROGRAMS_BY_BODY = (
    "For comparison: Qwen2.5-Coder-0.5B kept 100% of its programs with none of its body removed, 91% with 5.8%, 85%"
    " with 11.5%, and 69% with 18.5%; Qwen2.5-Coder-1.5B 90% with 12.6%."
)
NEAR = 1.5  # a divergence is compared with those up to so many times smaller and larger
DECAY = 2.3, 3.4  # the share falls as exp(-decay * divergence), by models of which both were measured
KIND = "problems"  # of text, as what was measured
LIKE_VOCABULARY = 0.05  # by which bits per byte may rise for what is known of vocabularies to hold


def nearest(divergence: float) -> list[Measured]:
    """The measured models whose divergence is near to one from both sides, or else those next to it."""
    near = [one for one in MEASURED if divergence / NEAR <= one.divergence <= divergence * NEAR]
    if near and near[0].divergence <= divergence <= near[-1].divergence:
        return near
    below = max((one.divergence for one in MEASURED if one.divergence <= divergence), default=0.0)
    above = min((one.divergence for one in MEASURED if one.divergence > divergence), default=below)
    return [one for one in MEASURED if one.divergence in (below, above)]


def verdict_of(report: Report) -> str | None:
    """What to expect of a pruned model's programs, on what grounds, and what would help; `None` if nothing was
    measured."""
    held_out = report.held_out
    if held_out is None:
        return None
    cost = held_out.by_kind.get(KIND, held_out)
    if not math.isfinite(cost.divergence):
        return None
    if cost.divergence <= 0:
        return _of_vocabulary(held_out)
    near = nearest(cost.divergence)
    text = "held-out text" if cost is held_out else "held-out problems"
    said = [
        f"{cost.divergence:.3f} nats per token on {text}: models measured by this project with"
        f" {_span([f'{one.divergence:.3g}' for one in near])} kept {_shares(near)}",
    ]
    if near[-1].divergence > near[0].divergence * NEAR**2:
        least, most = (math.exp(-decay * cost.divergence) for decay in reversed(DECAY))
        said[0] += f"; the curve through them gives {least:.0%} to {most:.0%} here"
    helps = [] if report.recovery else ["`optimum-cli flab recover`"]
    each = None if report.texts is None else report.texts.tokens_per_neuron
    if each is not None and each < TOKENS_PER_NEURON:
        said.append(f"It was calibrated on {each:.1f} tokens per neuron")
        helps.insert(0, f"more calibration text ({TOKENS_PER_NEURON} tokens per neuron)")
    said.append(f"What would help: {', '.join([*helps, 'removing less'])}")
    return ". ".join(said) + "."


def _of_vocabulary(held_out: HeldOut) -> str:
    dense, pruned = held_out.dense_bits_per_byte, held_out.pruned_bits_per_byte
    known = [one for one in MEASURED if not one.divergence]
    said = f"The network is unchanged. Qwen2.5-Coder-0.5B with a smaller vocabulary kept {_shares(known)}"
    if not pruned > dense * (1 + LIKE_VOCABULARY):
        return f"{said}."
    return f"{said}, but their bits per byte rose by less than here. What would help: a larger vocabulary."


def _shares(models: Sequence[Measured]) -> str:
    shares = [f"{share:.0%}" for share in sorted(one.share for one in models)]
    return f"{_span(shares)} of the programs that the dense model solves"


def _span(ascending: Sequence[str]) -> str:
    return ascending[0] if ascending[0] == ascending[-1] else f"{ascending[0]} to {ascending[-1]}"
