"""Where a pruned model stands among those of its family whose programs were run. Lightweight.

What is known is data, `known_programs.json`, to which `benchmarks/retention.py --note FAMILY` adds: by family, the
models, their divergence and what they kept. Of other models nothing is said.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from ..settings.pruning import TOKENS_PER_NEURON
from .held_out import HeldOut
from .json_files import Record
from .paths import last_name
from .report import Report


KNOWN = Path(__file__).with_name("known_programs.json")
NEAR = 1.5  # a divergence is compared with those up to so many times smaller and larger
KIND = "problems"  # of text, as what was measured
LIKE_VOCABULARY = 0.05  # by which bits per byte may rise for what is known of vocabularies to hold


class Measured(Record):
    """A pruned model whose divergence and programs are known.

    Args:
        model (`str`): the dense model.
        divergence (`float`): nats per token, on text of small problems.
        share (`float`): programs that pass, of those of its dense model.
        removed_body (`float`, *optional*): share of all but the vocabulary that it is without, if it was made by the
            defaults of today or of shortly before.
    """

    model: str
    divergence: float
    share: float
    removed_body: float | None = None


class KnownFamily(Record):
    """What is known of a family.

    Args:
        decay (`tuple[float, float]`, *optional*): the share falls as exp(-decay * divergence), from the one to the
            other, by models of which both were measured.
        measured (`tuple[Measured, ...]`): by divergence, ascending.
    """

    decay: tuple[float, float] | None = None
    measured: tuple[Measured, ...]


@cache
def _families() -> list[KnownFamily]:
    return [KnownFamily(**family) for family in json.loads(KNOWN.read_text(encoding="utf-8")).values()]


def family_of(name: str) -> KnownFamily | None:
    """What is known of the family of a dense model; `None` if no model of its name was measured.

    Args:
        name (`str`): a Hub id, or a path that ends in the model's name, in capitals or not.
    """
    own = last_name(name).lower()
    return next((one for one in _families() if any(row.model.lower() in own for row in one.measured)), None)


def programs_by_body(name: str) -> str | None:
    """What models of the family of a dense model kept, by the share of the body removed; `None` of other families."""
    family, said = family_of(name), dict[str, list[str]]()
    for one in () if family is None else family.measured:
        if one.removed_body is not None:
            said.setdefault(one.model, []).append(f"{one.share:.0%} at {one.removed_body:.1%}")
    models = "; ".join(f"{model} {', '.join(shares)}" for model, shares in said.items())
    return f"For comparison, programs kept by the share of the body removed: {models}." if said else None


def nearest(divergence: float, measured: Sequence[Measured]) -> list[Measured]:
    """The measured models, by divergence, that are near to one from both sides, or else those next to it."""
    near = [one for one in measured if divergence / NEAR <= one.divergence <= divergence * NEAR]
    if near and near[0].divergence <= divergence <= near[-1].divergence:
        return near
    below = max((one.divergence for one in measured if one.divergence <= divergence), default=0.0)
    above = min((one.divergence for one in measured if one.divergence > divergence), default=below)
    return [one for one in measured if one.divergence in (below, above)]


def verdict_of(report: Report) -> str | None:
    """What to expect of a pruned model's programs, on what grounds, and what would help; `None` if nothing was
    measured, or nothing is known of its family."""
    held_out, family = report.held_out, family_of(report.base_model.name)
    if held_out is None or family is None:
        return None
    cost = held_out.by_kind.get(KIND, held_out)
    if not math.isfinite(cost.divergence):
        return None
    if cost.divergence <= 0:
        return _of_vocabulary(held_out, [one for one in family.measured if not one.divergence])
    near = nearest(cost.divergence, family.measured)
    text = "held-out text" if cost is held_out else "held-out problems"
    said = [
        f"{cost.divergence:.3f} nats per token on {text}: models measured by this project with"
        f" {_span([f'{one.divergence:.3g}' for one in near])} kept {_shares(near)}",
    ]
    if family.decay and near[-1].divergence > near[0].divergence * NEAR**2:
        most, least = (math.exp(-decay * cost.divergence) for decay in family.decay)
        said[0] += f"; the curve through them gives {least:.0%} to {most:.0%} here"
    helps = [] if report.recovery else ["`optimum-cli flab recover`"]
    each = None if report.texts is None else report.texts.tokens_per_neuron
    if each is not None and each < TOKENS_PER_NEURON:
        said.append(f"It was calibrated on {each:.1f} tokens per neuron")
        helps.insert(0, f"more calibration text ({TOKENS_PER_NEURON} tokens per neuron)")
    said.append(f"What would help: {', '.join([*helps, 'removing less'])}")
    return ". ".join(said) + "."


def _of_vocabulary(held_out: HeldOut, known: Sequence[Measured]) -> str:
    said = f"The network is unchanged. {known[0].model} with a smaller vocabulary kept {_shares(known)}"
    if not held_out.pruned_bits_per_byte > held_out.dense_bits_per_byte * (1 + LIKE_VOCABULARY):
        return f"{said}."
    return f"{said}, but their bits per byte rose by less than here. What would help: a larger vocabulary."


def _shares(models: Sequence[Measured]) -> str:
    shares = [f"{share:.0%}" for share in sorted(one.share for one in models)]
    return f"{_span(shares)} of the programs that the dense model solves"


def _span(ascending: Sequence[str]) -> str:
    return ascending[0] if ascending[0] == ascending[-1] else f"{ascending[0]} to {ascending[-1]}"
