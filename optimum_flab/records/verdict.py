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

from pydantic import Field

from ..settings.pruning import TOKENS_PER_NEURON
from .held_out import HeldOut
from .json_files import Record
from .paths import last_name
from .report import Report
from .rows import nats


KNOWN = Path(__file__).with_name("known_programs.json")
NEAR = 1.5  # a divergence is compared with those up to so many times smaller and larger
KIND = "problems"  # of text, as what was measured
# What is known of vocabularies holds for those that cost no more than those measured, by both:
LIKE_VOCABULARY = 0.05  # of bits per byte, by which they may rise
LOST_MASS = 0.025  # of the dense model's probability, that of the tokens that are gone; up to 0.019 in those measured
NEGLIGIBLE = 0.004  # nats per token: as good as none; q4_k_m costs the 0.5B 0.0024, and is among those measured


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
        bodies (`dict[str, int]`): by the names of its models, their parameters without those of the vocabulary: what
            only has such a name is not known.
        measured (`tuple[Measured, ...]`): by divergence, ascending.
    """

    decay: tuple[float, float] | None = None
    bodies: dict[str, int] = Field(default_factory=dict)
    measured: tuple[Measured, ...]


@cache
def _families() -> list[KnownFamily]:
    return [KnownFamily(**family) for family in json.loads(KNOWN.read_text(encoding="utf-8")).values()]


def family_of(name: str, body: int) -> KnownFamily | None:
    """What is known of the family of a dense model; `None` if no model of its name and size was measured.

    Args:
        name (`str`): a Hub id, or a path that ends in the model's name, in capitals or not.
        body (`int`): its parameters without those of its vocabulary, which may have been trimmed before.
    """
    own = last_name(name).lower()
    known = (one for one in _families() for model, size in one.bodies.items() if size == body and model.lower() in own)
    return next(known, None)


def programs_by_body(name: str, body: int) -> str | None:
    """What models of the family of a dense model kept, by the share of the body removed; `None` of other families.

    Args:
        name, body: see [`family_of`].
    """
    family, said = family_of(name, body), dict[str, list[str]]()
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
    held_out, family = report.held_out, _family_of(report)
    if held_out is None or family is None:
        return None
    cost = held_out.by_kind.get(KIND, held_out)
    if not math.isfinite(cost.divergence):
        return None
    odd = _odd_vocabulary(report, held_out)
    if cost.divergence <= 0:
        known = [one for one in family.measured if not one.divergence]
        if odd:
            return (
                f"No layer was changed, but {odd}: nothing is known of models with such a vocabulary. What would"
                " help: a larger vocabulary."
            )
        return f"The network is unchanged. {known[0].model} with a smaller vocabulary kept {_shares(known)}."
    said = [_by_divergence(family, cost.divergence, "held-out text" if cost is held_out else "held-out problems")]
    if odd:
        said.append(f"The divergence is over the vocabulary that is left, and {odd}: expect less")
    helps = [] if report.recovery else ["`optimum-cli flab recover`"]
    each = None if report.texts is None else report.texts.tokens_per_neuron
    if each is not None and each < TOKENS_PER_NEURON:
        said.append(f"It was calibrated on {each:.1f} tokens per neuron")
        helps.insert(0, f"more calibration text ({TOKENS_PER_NEURON} tokens per neuron)")
    helps += ["a larger vocabulary"] * bool(odd)
    said.append(f"What would help: {', '.join([*helps, 'removing less'])}")
    return ". ".join(said) + "."


def file_verdicts(report: Report) -> dict[str, str]:
    """What to expect of the programs of each GGUF file, by its name; of those that were measured against the dense
    model, where something is known of its family."""
    held_out, family = report.held_out, _family_of(report)
    if family is None or held_out is None:
        return {}
    besides = "; what the smaller vocabulary costs comes on top" if _odd_vocabulary(report, held_out) else ""
    said = {}
    for file in report.files:
        cost = file.by_kind.get(KIND, file.cost)
        if file.against == "dense" and math.isfinite(cost.divergence):
            text = "held-out text" if cost is file.cost else "held-out problems"
            said[file.name] = f"{_by_divergence(family, cost.divergence, text)}{besides}."
    return said


def _family_of(report: Report) -> KnownFamily | None:
    return family_of(report.base_model.name, report.dense.body_parameters)


def _by_divergence(family: KnownFamily, divergence: float, text: str) -> str:
    """What models of a family with about such a divergence kept."""
    near = nearest(0.0 if divergence < NEGLIGIBLE else divergence, family.measured)
    said = (
        f"{nats(divergence, 3)} nats per token on {text}: models measured by this project with"
        f" {_span([f'{one.divergence:.3g}' for one in near])} kept {_shares(near)}"
    )
    if family.decay and near[-1].divergence > near[0].divergence * NEAR**2:
        most, least = (math.exp(-decay * divergence) for decay in family.decay)
        said += f"; the curve through them gives {_span([f'{least:.0%}', f'{most:.0%}'])} here"
    return said


def _odd_vocabulary(report: Report, held_out: HeldOut) -> str:
    """Why what is known of vocabularies does not hold for that of a model; empty where it does."""
    rise = held_out.pruned_bits_per_byte / (held_out.dense_bits_per_byte or 1) - 1
    said = []
    if held_out.lost_mass > LOST_MASS:
        said.append(f"the tokens that are gone had {held_out.lost_mass:.1%} of the dense model's probability")
    if held_out.divergence <= 0 and rise > LIKE_VOCABULARY:
        said.append(f"bits per byte rose by {rise:.0%}")
    if not said:
        return ""
    said.append(f"{held_out.texts_cut_differently:,} of {held_out.texts:,} texts are cut into other pieces")
    rows, search = report.pruned.sizes.get("vocab_size"), report.search
    if rows and search and rows < search.natural_vocab_size:
        said.append(f"{rows:,} tokens are left of the {search.natural_vocab_size:,} that the corpus needs")
    return f"{', '.join(said[:-1])} and {said[-1]}"


def _shares(models: Sequence[Measured]) -> str:
    shares = [f"{share:.0%}" for share in sorted(one.share for one in models)]
    return f"{_span(shares)} of the programs that the dense model solves"


def _span(ascending: Sequence[str]) -> str:
    return ascending[0] if ascending[0] == ascending[-1] else f"{ascending[0]} to {ascending[-1]}"
