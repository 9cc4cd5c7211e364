"""Parameter accounting, and the shapes that reach a target."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from .errors import ConfigurationError
from .families import Family, family_for, plain_axes


if TYPE_CHECKING:
    from transformers import PreTrainedConfig


@dataclass(frozen=True)
class Shape:
    """The three sizes that pruning changes.

    Args:
        vocabulary (`int`): rows of the embedding.
        layers (`int`): decoder layers.
        width (`int`): neurons per feed-forward network.
    """

    vocabulary: int
    layers: int
    width: int


@dataclass(frozen=True)
class ParameterCounts:
    """What one unit of each component costs, in parameters; tied weights count once.

    Args:
        per_token (`int`): a row of the embedding, of the output head where it is not tied, and its bias.
        per_neuron (`int`): weights into and out of one neuron of one layer.
        per_layer (`int`): a layer without its neurons.
        other (`int`): all the rest.
    """

    per_token: int
    per_neuron: int
    per_layer: int
    other: int

    def components(self, shape: Shape) -> dict[str, int]:
        """Parameters per component of a model of this shape."""
        return {
            "vocabulary": self.per_token * shape.vocabulary,
            "ffn": self.per_neuron * shape.width * shape.layers,
            "attention and norms": self.per_layer * shape.layers,
            "other": self.other,
        }

    def total(self, shape: Shape) -> int:
        """All parameters of a model of this shape."""
        return sum(self.components(shape).values())


def shape_of(model: nn.Module, family: Family) -> Shape:
    """The shape of a loaded model (or of one on the meta device)."""
    layers = family.decoder_layers(model)
    rows = model.get_submodule(family.modules.embeddings).weight.shape[0]
    return Shape(rows, len(layers), family.ffn_out_matrix(layers[0]).shape[1])


def count_parameters(model: nn.Module, family: Family) -> ParameterCounts:
    """Unit costs of a model, counted on its own parameters."""
    shape = shape_of(model, family)
    # each parameter once: a tied output head has one name here
    sizes = {name: (family.layer_of(name)[0], parameter.numel()) for name, parameter in model.named_parameters()}
    vocabulary = sum(size for name, (_, size) in sizes.items() if "vocab" in plain_axes(family.axes(name) or ()))
    layer = sum(size for index, size in sizes.values() if index == 0)
    neurons = sum(tensor.numel() for _, tensor, _ in family.neuron_tensors(family.decoder_layers(model)[0]))
    return ParameterCounts(
        per_token=vocabulary // shape.vocabulary,
        per_neuron=neurons // shape.width,
        per_layer=layer - neurons,
        other=sum(size for _, size in sizes.values()) - vocabulary - layer * shape.layers,
    )


@dataclass(frozen=True)
class Limits:
    """How far each component may go: inclusive bounds of the three sizes.

    Args:
        multiple_of (`int`): granularity of the width.
        vocabulary_multiple_of (`int`): granularity of the vocabulary.
    """

    smallest: Shape
    largest: Shape
    multiple_of: int = 1
    vocabulary_multiple_of: int = 1


def parameters_to_keep(counts: ParameterCounts, dense: Shape, target_ratio: float) -> int:
    """Parameters left when `target_ratio` of all of them are removed."""
    return round(counts.total(dense) * (1 - target_ratio))


def fit_width(counts: ParameterCounts, limits: Limits, vocabulary: int, layers: int, budget: int) -> int | None:
    """The largest multiple of `limits.multiple_of` that keeps a shape within the budget; `None` if none does."""
    low, high = limits.smallest.width, limits.largest.width
    rest = budget - counts.total(Shape(vocabulary, layers, 0))
    width = min(rest // (counts.per_neuron * layers), high)
    if width < high:
        width -= width % limits.multiple_of
    return width if width >= low else None


def fit_vocabulary(counts: ParameterCounts, limits: Limits, shape: Shape, budget: int) -> Shape:
    """The same shape with the vocabulary grown (or shrunk) to meet the budget as nearly as its bounds allow."""
    rest = budget - counts.total(replace(shape, vocabulary=0))
    step = limits.vocabulary_multiple_of
    rows = rest // counts.per_token // step * step
    return replace(shape, vocabulary=max(limits.smallest.vocabulary, min(rows, limits.largest.vocabulary)))


def candidate_shape(counts: ParameterCounts, limits: Limits, natural: int, layers: int, budget: int) -> Shape | None:
    """The shape with this many layers that meets the budget, the vocabulary at its natural size or above.

    The width is rounded down to its granularity and the vocabulary takes what that leaves over. The vocabulary goes
    below its natural size only where the narrowest width is still too much.

    Returns:
        [`Shape`] or `None` where no shape with this many layers meets the budget.
    """
    # where the vocabulary is fixed it cannot take what rounding leaves over: the nearest width, or where that is fixed
    # too the nearest depth, is the best there is
    if limits.smallest.vocabulary == limits.largest.vocabulary:
        width_free = limits.smallest.width < limits.largest.width
        layer = counts.per_layer + counts.per_neuron * limits.largest.width
        budget += (counts.per_neuron * layers * limits.multiple_of if width_free else layer) // 2
    natural = max(limits.smallest.vocabulary, min(natural, limits.largest.vocabulary))
    width = fit_width(counts, limits, natural, layers, budget)
    shape = fit_vocabulary(
        counts, limits, Shape(natural, layers, limits.smallest.width if width is None else width), budget
    )
    return shape if counts.total(shape) <= budget else None


def check_target(counts: ParameterCounts, dense: Shape, limits: Limits, target_ratio: float, tolerance: float) -> None:
    """Raises a [`ConfigurationError`] that says what is reachable when the target is not.

    Args:
        tolerance (`float`): how far from the target a result may land, as a share of all parameters.
    """
    most = 1 - counts.total(limits.smallest) / counts.total(dense)
    least = 1 - counts.total(limits.largest) / counts.total(dense)
    if not least - tolerance <= target_ratio <= most + tolerance:
        raise ConfigurationError(
            f"target_ratio: {target_ratio:g} cannot be reached with what is pinned or switched off; between "
            f"{max(least, 0):.3f} and {most:.3f} of all parameters can be removed. Free a component (--vocab-size, "
            "--num-hidden-layers, --intermediate-size, --keep-used, --no-vocabulary, --no-layers, --no-ffn) or change "
            "the target"
        )


def check_reached(
    counts: ParameterCounts,
    dense: Shape,
    limits: Limits,
    shapes: Sequence[Shape],
    target_ratio: float,
    tolerance: float,
) -> list[Shape]:
    """The shapes that land within `tolerance` of the target.

    Raises:
        [`ConfigurationError`]: none does; names the nearest shares that can be removed.
    """

    def removed(shape: Shape) -> float:
        return 1 - counts.total(shape) / counts.total(dense)

    reached = [shape for shape in shapes if abs(removed(shape) - target_ratio) <= tolerance]
    if reached:
        return reached
    steps = [
        Shape(vocabulary, layers, min(width, limits.largest.width))
        for vocabulary in {limits.smallest.vocabulary, limits.largest.vocabulary}
        for layers in range(limits.smallest.layers, limits.largest.layers + 1)
        for width in range(limits.smallest.width, limits.largest.width + limits.multiple_of, limits.multiple_of)
    ]
    nearest = min((removed(shape) for shape in steps), key=lambda ratio: abs(ratio - target_ratio))
    raise ConfigurationError(
        f"target_ratio: {target_ratio:g} cannot be met within {tolerance:.1%} of the parameters with what is pinned "
        f"or switched off; the nearest is {nearest:.4f}. Take that, allow smaller steps of the width "
        f"(--ffn-multiple-of, now {limits.multiple_of}), or free the vocabulary"
    )


@dataclass(frozen=True)
class Inspection:
    """Where a model's parameters are, and what a target would take.

    Args:
        name (`str`): the model.
        dense ([`Shape`]): its sizes.
        counts ([`ParameterCounts`]): its unit costs.
        target_ratio (`float`, *optional*): share of parameters to remove.
    """

    name: str
    dense: Shape
    counts: ParameterCounts
    target_ratio: float | None = None

    def alone(self) -> dict[str, int | None]:
        """The size at which each component, pruned alone, would meet the target; `None` where it cannot."""
        budget = parameters_to_keep(self.counts, self.dense, self.target_ratio)
        excess = self.counts.total(self.dense) - budget
        unit = {
            "vocabulary": (self.dense.vocabulary, self.counts.per_token),
            "layers": (
                self.dense.layers,
                self.counts.per_layer + self.counts.per_neuron * self.dense.width,
            ),
            "width": (self.dense.width, self.counts.per_neuron * self.dense.layers),
        }
        left = {name: size - math.ceil(excess / cost) for name, (size, cost) in unit.items()}
        return {name: size if size > 0 else None for name, size in left.items()}

    def to_dict(self) -> dict:
        """The inspection as plain values."""
        result = {
            "model": self.name,
            "vocab_size": self.dense.vocabulary,
            "num_hidden_layers": self.dense.layers,
            "intermediate_size": self.dense.width,
            "parameters": self.counts.total(self.dense),
            "components": self.counts.components(self.dense),
        }
        if self.target_ratio is not None:
            result["target_ratio"] = self.target_ratio
            result["parameters_to_remove"] = self.counts.total(self.dense) - parameters_to_keep(
                self.counts, self.dense, self.target_ratio
            )
            result["one_component_alone"] = self.alone()
        return result

    def to_text(self) -> str:
        """The inspection as a table for the terminal."""
        total = self.counts.total(self.dense)
        lines = [
            f"{self.name}: {total:,} parameters, vocabulary {self.dense.vocabulary:,}, {self.dense.layers} layers, "
            f"FFN width {self.dense.width:,}",
            "",
            f"{'component':<22}{'parameters':>16}{'share':>9}",
        ]
        for component, parameters in self.counts.components(self.dense).items():
            lines.append(f"{component:<22}{parameters:>16,}{parameters / total:>9.1%}")
        if self.target_ratio is not None:
            budget = parameters_to_keep(self.counts, self.dense, self.target_ratio)
            lines += [
                "",
                f"Removing {self.target_ratio:.1%} means {total - budget:,} parameters. One component alone:",
            ]
            for component, size in self.alone().items():
                dense = getattr(self.dense, component)
                lines.append(f"  {component:<20}" + ("cannot reach it" if size is None else f"{dense:,} -> {size:,}"))
        return "\n".join(lines)


def inspect_model(
    model_name_or_path: str,
    *,
    revision: str | None = None,
    trust_remote_code: bool = False,
    family: str | Path | None = None,
    target_ratio: float | None = None,
) -> Inspection:
    """Counts a model's parameters from its configuration; no weights are loaded.

    Args:
        model_name_or_path (`str`): a Hub id, a folder, a GGUF file or the name of the embedded default.
        family (`str` or `Path`, *optional*): a file that describes the model's family. Defaults to a known family.
        target_ratio (`float`, *optional*): share of parameters to remove, between 0 and 1.

    Raises:
        [`FlabError`]: the model cannot be read or its family is not supported.
    """
    from .loading import find_model, near_equal_copies, read_config

    if target_ratio is not None and not 0 < target_ratio < 1:
        raise ConfigurationError(f"target_ratio: {target_ratio:g} is not between 0 and 1; 0.35 removes 35%")
    files = find_model(model_name_or_path, revision, family)
    config = read_config(files, trust_remote_code)
    if files.gguf is not None and not config.tie_word_embeddings and near_equal_copies(files.gguf)[0] is not None:
        config.tie_word_embeddings = True  # as loading does
    counts, shape = count_config(config, family_for(config, files.family))
    return Inspection(str(model_name_or_path), shape, counts, target_ratio)


def count_config(config: PreTrainedConfig, family: Family) -> tuple[ParameterCounts, Shape]:
    """Unit costs and shape of the model that a configuration describes, without its weights."""
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    model.tie_weights()
    return count_parameters(model, family), shape_of(model, family)
