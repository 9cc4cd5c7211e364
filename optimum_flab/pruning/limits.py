"""What the settings ask of the sizes of a model, and what of that the model can have."""

from __future__ import annotations

from collections.abc import Sequence

from ..components import COMPONENTS
from ..errors import ConfigurationError
from ..settings.configuration import FlabPrunerConfig
from .budget import Limits, ModelSizes, Shape, check_reached, check_target, multiples_between, parameters_to_keep
from .shapes import candidate_shapes


TOLERANCE = 0.005  # share of all parameters by which a result may miss its target


def size_limits(config: FlabPrunerConfig, sizes: ModelSizes, tokens: int) -> Limits:
    """How far each size may go under the settings.

    Args:
        tokens (`int`): tokens of the dense tokenizer, which may be fewer than rows of the embedding.

    Raises:
        [`FlabError`]: a pinned size is larger than the dense one, or one that the model cannot have.
    """
    multiple = config.vocabulary.pad_to_multiple_of or 1
    allowed: dict[str, Sequence[int]] = {}
    for part in COMPONENTS:
        if part.dimension not in sizes.shape:
            continue
        section, dense = getattr(config, part.section), sizes.shape[part.dimension]
        possible, pinned = sizes.possible[part.dimension], getattr(section, part.setting)
        if pinned is not None:
            size = round_up(pinned, multiple) if part.dimension == "vocab" else pinned
            check_pinned(f"{part.section}.{part.setting}", size, dense, possible)
            allowed[part.dimension] = [size]
        elif not section.enabled:
            allowed[part.dimension] = [dense]
        elif part.dimension == "vocab":
            allowed["vocab"] = multiples_between(min(multiple, tokens), tokens, multiple)
        elif part.dimension == "neuron":
            step = config.ffn.multiple_of
            allowed["neuron"] = [size for size in possible if size % step == 0 or size == dense]
        else:
            allowed[part.dimension] = possible
    if len(allowed.get("expert", ())) > 1 and config.ffn.intermediate_size is None:
        allowed["neuron"] = [sizes.shape["neuron"]]
    return Limits(allowed)


def check_pinned(name: str, size: int, dense: int, possible: Sequence[int]) -> None:
    """Raises a [`ConfigurationError`] if a model cannot have a size that is asked for."""
    if size > dense:
        raise ConfigurationError(
            f"{name}: {size:,} is more than the {dense:,} of the dense model; pruning only makes smaller"
        )
    if size not in possible:
        near = sorted(sorted(possible, key=lambda other: abs(other - size))[:4])
        raise ConfigurationError(
            f"{name}: this model cannot have {size:,}; take one of {', '.join(f'{other:,}' for other in near)}"
        )


def asked_shapes(config: FlabPrunerConfig, sizes: ModelSizes, limits: Limits, natural: int) -> list[list[Shape]]:
    """The shapes to choose from, see [`~pruning.shapes.candidate_shapes`]; one alone where there is no target.

    Args:
        natural (`int`): rows of the vocabulary at its natural size.

    Raises:
        [`ConfigurationError`]: no shape lands near enough to the target.
    """
    counts, dense = sizes.counts, sizes.shape
    if config.target_ratio is None:
        vocabulary = limits.largest["vocab"] if config.vocabulary.size else natural
        return [[asked_sizes(config, dense).resized(vocab=vocabulary)]]
    budget, slack = parameters_to_keep(counts, dense, config.target_ratio), round(counts.total(dense) * TOLERANCE)
    rows = candidate_shapes(counts, limits, natural, budget, slack)
    shapes = [shape for row in rows for shape in row]
    reached = check_reached(counts, dense, limits, shapes, config.target_ratio, TOLERANCE)
    near = [[shape for shape in row if shape in reached] for row in rows]
    return list(filter(None, near)) or [[shape] for shape in reached]


def asked_sizes(config: FlabPrunerConfig, dense: Shape) -> Shape:
    """The dense sizes with the pinned ones inside the layers, and of their number, in their place."""
    pins = {part.dimension: getattr(getattr(config, part.section), part.setting) for part in COMPONENTS}
    return dense.resized(**{name: size for name, size in pins.items() if name != "vocab" and name in dense and size})


def check_sizes(config: FlabPrunerConfig, sizes: ModelSizes) -> None:
    """Raises a [`FlabError`] if a pinned size exceeds the dense one or the target is out of reach with any text."""
    dense = sizes.shape
    if config.experts.enabled and "expert" not in dense:
        raise ConfigurationError(
            "experts.enabled: this model is no mixture of experts; drop it and `experts.num_experts`"
        )
    if config.experts.enabled and config.experts.num_experts is None and config.target_ratio is None:
        raise ConfigurationError(
            "experts.enabled: nothing says how many experts stay; give `target_ratio` or `experts.num_experts`"
        )
    limits = size_limits(config, sizes, dense["vocab"])
    if config.target_ratio is not None:
        check_target(sizes.counts, dense, limits, config.target_ratio, TOLERANCE)
    elif not config.vocabulary.enabled and asked_sizes(config, dense) == dense:
        pins = [part.setting for part in COMPONENTS if part.dimension in dense and part.dimension != "vocab"]
        raise ConfigurationError(
            f"nothing would be pruned: the vocabulary is switched off, and all {dense['layer']:,} layers with their"
            f" {dense['neuron']:,} neurons stay; give target_ratio, or a smaller {' or '.join(pins)}"
        )


def round_up(number: int, multiple: int) -> int:
    """The smallest multiple that is not below a number."""
    return -(-number // multiple) * multiple
