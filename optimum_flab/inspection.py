"""`flab inspect`: where a model's parameters are, and what a target would take."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .families import family_for
from .pruning.components import components_of, sizes_of_config
from .pruning.components.vocabulary import FEWEST_TOKENS
from .pruning.limits import parameters_to_keep
from .settings.configuration import FlabPrunerConfig
from .sizes import ModelSizes
from .utils.errors import ConfigurationError


@dataclass(frozen=True)
class Inspection:
    """Where a model's parameters are, and what a target would take.

    Args:
        name (`str`): the model.
        sizes ([`ModelSizes`]): its sizes.
        target_ratio (`float`, *optional*): share of parameters to remove.
    """

    name: str
    sizes: ModelSizes
    target_ratio: float | None = None

    def alone(self) -> dict[str, int | None]:
        """By component, the size at which it would meet the target if only it were pruned; `None` where it cannot."""
        counts, dense, left = self.sizes.counts, self.sizes.shape, {}
        config = FlabPrunerConfig(target_ratio=self.target_ratio, vocabulary={"enabled": False})
        for component in components_of(dense):
            dimension = component.dimension
            most = dense[dimension] - math.ceil(self.removed / counts.unit(dense, dimension))
            sizes = [size for size in component.allowed(config, self.sizes, dense["vocab"]) if size <= most]
            left[component.settings.reported] = max(sizes, default=None)
        return left

    @property
    def removed(self) -> int:
        """Parameters that have to go."""
        counts, dense = self.sizes.counts, self.sizes.shape
        return counts.total(dense) - parameters_to_keep(counts, dense, self.target_ratio or 0.0)

    @property
    def least_body_ratio(self) -> float:
        """The share of the body that has to go even if the vocabulary gives up all tokens but the fewest."""
        counts, dense = self.sizes.counts, self.sizes.shape
        vocabulary = max(0, dense["vocab"] - FEWEST_TOKENS) * counts.unit(dense, "vocab")
        return max(0.0, (self.removed - vocabulary) / counts.body(dense))

    def to_dict(self) -> dict[str, Any]:
        """The inspection as plain values."""
        counts, dense = self.sizes.counts, self.sizes.shape
        result: dict[str, Any] = {
            "model": self.name,
            **dense.reported(),
            "parameters": counts.total(dense),
            "body_parameters": counts.body(dense),
            "components": counts.parts(dense),
        }
        if self.target_ratio is not None:
            result["target_ratio"] = self.target_ratio
            result["parameters_to_remove"] = self.removed
            result["least_body_ratio"] = self.least_body_ratio
            result["one_component_alone"] = self.alone()
        return result

    def to_text(self) -> str:
        """The inspection as a table for the terminal."""
        counts, dense = self.sizes.counts, self.sizes.shape
        total = counts.total(dense)
        lines = [
            f"{self.name}: {total:,} parameters, "
            + ", ".join(f"{part.settings.label} {dense[part.dimension]:,}" for part in components_of(dense)),
            "",
            f"{'component':<22}{'parameters':>16}{'share':>9}",
        ]
        for part, parameters in counts.parts(dense).items():
            lines.append(f"{part:<22}{parameters:>16,}{parameters / total:>9.1%}")
        body = counts.body(dense)
        lines.append(f"{'all but vocabulary':<22}{body:>16,}{body / total:>9.1%}")
        if self.target_ratio is not None:
            lines += [
                "",
                f"Removing {self.target_ratio:.1%} means {self.removed:,} parameters, at least"
                f" {self.least_body_ratio:.1%} of the body (all but the vocabulary).",
                "One component alone:",
            ]
            for component, size in zip(components_of(dense), self.alone().values(), strict=True):
                change = "cannot reach it" if size is None else f"{dense[component.dimension]:,} -> {size:,}"
                lines.append(f"  {component.settings.label:<20}{change}")
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
    from .checkpoints.finding import find_model
    from .checkpoints.model_config import read_model_config
    from .tensors.gguf_files import near_equal_copies

    if target_ratio is not None and not 0 < target_ratio < 1:
        raise ConfigurationError(f"target_ratio: {target_ratio:g} is not between 0 and 1; 0.35 removes 35%")
    files = find_model(model_name_or_path, revision, family)
    config = read_model_config(files, trust_remote_code)
    if files.gguf is not None and not config.tie_word_embeddings and near_equal_copies(files.gguf)[0] is not None:
        config.tie_word_embeddings = True  # as loading does
    sizes = sizes_of_config(config, family_for(config, files.family))
    return Inspection(str(model_name_or_path), sizes, target_ratio)
