"""Where a pruned model stands among those of its family whose programs were run. Lightweight.

What is known is data, `known_programs.json`, which `benchmarks/pages.py` makes of records: by family, the models,
their divergence on held-out problems and what they kept. Of other models nothing is said.
"""

from __future__ import annotations

import json
import math
import re
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
FILE_TYPE = re.compile(r"(-gguf)?([-.](i?q|bf|f)\d\w*)?(\.gguf)?$")  # in the name of a file: of the same model
KIND = "problems"  # of text, as what was measured
# What is known of vocabularies holds for those that cost no more than those measured, by both:
LIKE_VOCABULARY = 0.05  # of bits per byte, by which they may rise
LOST_MASS = 0.025  # of the dense model's probability, that of the tokens that are gone; up to 0.019 in those measured
NEGLIGIBLE = 0.004  # nats per token: as good as none; q4_k_m costs the 0.5B 0.0024, and is among those measured


class Measured(Record):
    """A pruned model whose divergence and programs are known.

    Args:
        model (`str`): the dense model.
        label (`str`): how it was pruned, in words.
        divergence (`float`): nats per token, on text of small problems.
        share (`float`): programs that pass, of those of its dense model.
        removed_body (`float`, *optional*): share of all but the vocabulary that it is without, if it was not trained.
    """

    model: str
    label: str
    divergence: float
    share: float
    removed_body: float | None = None


class KnownFamily(Record):
    """What is known of a family.

    Args:
        bodies (`dict[str, int]`): by the names of its models, their parameters without those of the vocabulary: what
            only has such a name is not known.
        measured (`tuple[Measured, ...]`): by divergence, ascending.
    """

    bodies: dict[str, int] = Field(default_factory=dict)
    measured: tuple[Measured, ...]


@cache
def _families() -> list[KnownFamily]:
    return [KnownFamily(**family) for family in json.loads(KNOWN.read_text(encoding="utf-8")).values()]


def family_of(name: str, body: int) -> KnownFamily | None:
    """What is known of the family of a dense model; `None` if no model of its name and size was measured.

    Args:
        name (`str`): a Hub id, or a path that ends in the model's name, in capitals or not; a GGUF file may add its
            type.
        body (`int`): its parameters without those of its vocabulary, which may have been trimmed before.
    """
    own = FILE_TYPE.sub("", last_name(name).lower())
    known = (one for one in _families() for model, size in one.bodies.items() if (model.lower(), size) == (own, body))
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
    """The measured models, by divergence, that have the same, or else those next to it."""
    same = [one for one in measured if one.divergence == divergence]
    below = [one for one in measured if one.divergence < divergence][-1:]
    above = [one for one in measured if one.divergence > divergence][:1]
    return same or [*below, *above]


def verdict_of(report: Report) -> str | None:
    """What to expect of a pruned model's programs, on what grounds, and what would help; `None` if nothing was
    measured on problems, or nothing is known of its family."""
    held_out, family = report.held_out, _family_of(report)
    if held_out is None or family is None:
        return None
    cost = held_out.by_kind.get(KIND)
    odd = _odd_vocabulary(report, held_out)
    if held_out.divergence <= 0:
        known = family.measured[0]
        if odd:
            return (
                f"No layer was changed, but {odd}: nothing is known of models with such a vocabulary. What would"
                " help: a larger vocabulary."
            )
        return (
            f"The network is unchanged. {known.model} {known.label} kept {known.share:.0%} of the programs that the"
            " dense model solves."
        )
    if cost is None or not math.isfinite(cost.divergence):
        return None
    said = [_by_divergence(family, cost.divergence)]
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
        cost = file.by_kind.get(KIND)
        if file.against == "dense" and cost is not None and math.isfinite(cost.divergence):
            said[file.name] = f"{_by_divergence(family, cost.divergence)}{besides}."
    return said


def _family_of(report: Report) -> KnownFamily | None:
    return family_of(report.base_model.name, report.dense.body_parameters)


def _by_divergence(family: KnownFamily, divergence: float) -> str:
    """What the models of a family with the nearest divergences on held-out problems kept."""
    divergence = 0.0 if divergence < NEGLIGIBLE else divergence
    near = nearest(divergence, family.measured)
    is_beyond = divergence > near[-1].divergence
    which = "none diverged more than" if is_beyond else f"the nearest {'is' if len(near) == 1 else 'are'}"
    models = [f"{one.model} {one.label} ({one.divergence:.3g} nats), which kept {one.share:.0%}" for one in near]
    return (
        f"{nats(divergence, 3)} nats per token on held-out problems. Of the models whose programs were run, {which}"
        f" {', and '.join(models)} of the programs that the dense model solves"
    )


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
