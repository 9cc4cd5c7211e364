"""A configuration and what is known of a model before its weights are read -> the request that all stages read."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from ..export.file_size import UNROUNDED, FileSizes
from ..export.quantiser import check_library
from ..families import Family
from ..families.positions import check_positions
from ..settings.configuration import FlabPrunerConfig
from ..sizes import Shape
from ..utils.errors import ConfigurationError
from ..vocabulary.closure import config_token_ids, read_spec
from .components import COMPONENTS, Component, components_of, outline, sizes_of
from .counts import read_counts
from .limits import TOLERANCE
from .memory_budget import weights_fit
from .request import Request
from .vocabulary import check_named_tokens


if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase


MOST_OF_BODY = 0.5  # beyond which a target is warned of


def resolve(
    config: FlabPrunerConfig,
    model: PreTrainedModel,
    family: Family,
    tokenizer: PreTrainedTokenizerBase,
    name: str,
    dtype: torch.dtype,
) -> Request:
    """What a configuration asks of a model; refuses what the model cannot meet, as far as that can be told without its
    weights and its text.

    Args:
        model (`PreTrainedModel`): the dense one, or its outline on the meta device.
        tokenizer (`PreTrainedTokenizerBase`): the dense one.
        name (`str`): what the user calls the model.
        dtype (`torch.dtype`): of the pruned weights.

    Raises:
        [`FlabError`]: files of counts are not of its tokenizer, or cannot be read; or the tokenizer is of a kind that
            cannot be pruned.
        [`ConfigurationError`]: it has no such sizes or tokens, or fewer positions; or the target is out of reach.
    """
    request = described(config, model, family, len(tokenizer), dtype)
    check_positions(model.config, family, "data.sequence_length", config.data.sequence_length)
    if request.is_mixed:
        check_library()
    files = FileSizes(model, family, tokenizer) if config.target_size is not None else None
    request = with_limits(replace(request, file_sizes=files))
    counts = read_counts(config.data.counts, tokenizer, name)
    vocabulary, size = config.vocabulary, config.vocab_size
    if vocabulary.enabled and (size is not None or vocabulary.keep_tokens):
        check_named_tokens(read_spec(tokenizer), vocabulary, size, config_token_ids(model.config))
    return replace(request, counts=counts)


@dataclass(frozen=True)
class PendingRequest:
    """What will be requested of a model that is being loaded.

    Args:
        config ([`FlabPrunerConfig`]): what the user asks for.
        name (`str`): what the user calls the model.
        dtype (`torch.dtype`, *optional*): of the pruned weights; `None` is the model's own.
        memory (`int`, *optional*): bytes that may be taken. Defaults to what is free.
    """

    config: FlabPrunerConfig
    name: str
    dtype: torch.dtype | None
    memory: int | None

    def check(self, model: PreTrainedConfig, family: Family, tokenizer: PreTrainedTokenizerBase) -> None:
        """Refuses what the model cannot meet before its weights are read, see [`resolve`] for the errors."""
        dtype = self.dtype or model.dtype or torch.float32
        resolve(self.config, outline(model), family, tokenizer, self.name, dtype)

    def fits(self, model: PreTrainedConfig, family: Family, dtype: torch.dtype, device: torch.device) -> bool:
        """Whether all weights can be in memory, see [`weights_fit`] for the errors.

        Args:
            dtype (`torch.dtype`): of the computation.
        """
        request = described(self.config, outline(model), family, 0, self.dtype or dtype)
        return weights_fit(request, self.memory, dtype, device)


def described(
    config: FlabPrunerConfig, model: PreTrainedModel, family: Family, tokens: int, dtype: torch.dtype
) -> Request:
    """A request of which nothing is checked: enough to tell what memory it takes.

    Args:
        tokens (`int`): of the dense tokenizer.
    """
    sizes, facts = sizes_of(model, family), model.config
    config = copy.deepcopy(config)  # a copy is written beside the weights, whatever happens to the original meanwhile
    config.data = config.data.for_model(sizes.shape["neuron"])
    routed = 1.0
    if family.experts is not None:
        routed = getattr(facts, family.mixture.per_token) / getattr(facts, family.sizes["expert"])
    return Request(config, sizes, tokens, dtype, facts.hidden_size, routed)


def with_limits(request: Request) -> Request:
    """The request with the sizes that its settings allow.

    Raises:
        [`ConfigurationError`]: the model cannot have a size that is pinned, or that the devices of `align` can share;
            nothing says how many of something stay, or nothing would be pruned; or the target is out of reach with
            any text.
    """
    asked_for = [component for component in COMPONENTS if _is_asked_for(request, component)]
    allowed = {component.dimension: _allowed_sizes(request, component) for component in asked_for}
    request = replace(request, allowed=allowed)
    config, limits = request.config, request.limits
    if config.target_ratio is not None or request.file_sizes is not None:
        check_target(request)
    elif not config.has_target and not config.vocabulary.enabled and limits.largest == limits.dense:
        pins = [component.settings.size for component in components_of(limits.dense)]
        raise ConfigurationError(
            f"nothing would be pruned: the vocabulary is switched off, and all {limits.dense['layer']:,} layers stay"
            f" as they are; set `target_ratio`, or a smaller {' or '.join(f'`{pin}`' for pin in pins[1:])}"
        )
    return request


def _is_asked_for(request: Request, component: Component) -> bool:
    """Whether a model has a component; refuses settings of one that is off by default where they mean nothing."""
    section, has_it = component.section(request.config), component.dimension in request.sizes.shape
    pinned = component.pinned(request.config)
    if (section.enabled or pinned is not None) and not component.settings.model_fields["enabled"].default:
        name, pin = f"{section.section}.enabled", section.size
        if not has_it:
            what = pin if pinned is not None else name
            raise ConfigurationError(f"{what}: this model has no {section.units} to remove; leave it out")
        if pinned is None and not request.config.has_target:
            raise ConfigurationError(
                f"{name}: nothing says how many {section.units} stay; set `{pin}` or `target_ratio`"
            )
    return has_it


def _allowed_sizes(request: Request, component: Component) -> Sequence[int]:
    """The sizes that a component may have, ascending. Without a target only the vocabulary decides its own."""
    config, sizes = request.config, request.sizes
    dimension = component.dimension
    section, dense = component.section(config), sizes.shape[dimension]
    name, allowed = section.size, sizes.possible[dimension]
    if (pinned := component.pinned(config)) is not None:
        size = component.rounded(pinned, request)
        if size > dense:
            raise ConfigurationError(
                f"{name}: {size:,} is more than the {dense:,} of the dense model; pruning only makes models smaller"
            )
        if size not in allowed:
            near = sorted(sorted(allowed, key=lambda other: abs(other - size))[:4])
            reason = f" ({sizes.reasons[dimension]})" if sizes.reasons.get(dimension) else ""
            raise ConfigurationError(
                f"{name}: this model cannot have {size:,}{reason}; use one of {', '.join(f'{n:,}' for n in near)}"
            )
        allowed = [size]
    elif not section.enabled or (not config.has_target and dimension != "vocab"):
        allowed = [dense]
    else:
        allowed = component.allowed(request)
    multiple = component.per_device * (config.align or 0) or 1
    if shared := [size for size in allowed if size % multiple == 0]:
        return shared
    which = f"{allowed[0]:,} is not" if len(allowed) == 1 else f"no size up to the dense {dense:,} is"
    raise ConfigurationError(
        f"{name}: {which} a multiple of what `align` and `{section.section}` ask for; use another size, fewer devices,"
        " or a smaller multiple"
    )


def check_target(request: Request) -> None:
    """Raises a [`ConfigurationError`] that says what is reachable when the target is not."""
    limits, target_ratio = request.limits, request.config.target_ratio
    if target_ratio is None:
        check_size(request)
        return
    most, least = limits.removed(limits.smallest), limits.removed(limits.largest)
    if not least - TOLERANCE <= target_ratio <= most + TOLERANCE:
        raise ConfigurationError(
            f"target_ratio: {target_ratio:g} cannot be reached with what is pinned or switched off; at least "
            f"{max(least, 0):.3f} and at most {most:.3f} of all parameters can be removed. Free a component, or change"
            " the target"
        )


def check_size(request: Request) -> None:
    """Raises a [`ConfigurationError`] if no model is as small, or the dense one is."""
    config, limits = request.config, request.limits
    assert request.file_sizes is not None  # a size is asked for
    what = f"target_size: {config.target_size} as {config.target_type or 'the smallest formats'}"
    smallest = limits.smallest
    if (least := limits.measure(smallest)) > request.budget:
        parts = [f"{smallest[part.dimension]:,} {part.settings.units}" for part in components_of(smallest)]
        raise ConfigurationError(
            f"{what} is less than the {least / 1e6:,.3f} MB of the smallest model possible"
            f" ({', '.join(parts)}); allow more, or free what is pinned or switched off"
            + ("" if request.is_mixed else ", or name a smaller target_type")
        )
    kind = config.target_type or UNROUNDED
    if (whole := request.file_sizes(limits.dense, kind)) <= request.budget:
        raise ConfigurationError(
            f"target_size: {config.target_size} is more than the {whole / 1e6:,.1f} MB of the dense model as {kind},"
            " which needs no pruning for it; name a smaller size"
        )


def body_notes(request: Request, shape: Shape | None = None) -> list[str]:
    """A warning where a target takes so much of the body that little of what the model can do is left.

    Args:
        shape ([`Shape`], *optional*): about what it comes to. Before any text is read that is not known; then the
            smallest vocabulary that is allowed is assumed.
    """
    limits = request.limits
    removed = 0.0 if shape is None else limits.removed_body(shape)
    if shape is None and request.config.has_target:
        around = limits.dense.resized(vocab=limits.smallest["vocab"])
        removed = 1 - request.budget / limits.measure(around)
    if removed <= MOST_OF_BODY:
        return []
    return [
        f"the target takes {removed:.0%} or more of the body (all but the vocabulary): beyond {MOST_OF_BODY:.0%}"
        " little of what a model can do is left; remove less, or begin with a smaller dense model"
    ]
