"""`flab inspect`: where a model's parameters are, and what a target would take."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from .families import family_for
from .pruning.components import components_of, outline, sizes_of
from .pruning.components.vocabulary import FEWEST_TOKENS
from .pruning.limits import body_notes, parameters_to_keep, shapes_to_compare, size_limits
from .settings.configuration import FlabPrunerConfig
from .sizes import ModelSizes, Shape
from .utils.errors import FlabError
from .utils.places import cache_root


if TYPE_CHECKING:
    from .checkpoints.loading import LoadedModel
    from .pruning.estimates import PruningEstimate


# of files, whose sizes are shown
TYPES = ("f16", "q8_0", "q5_k_m", "q4_k_m", "iq4_xs", "q3_k_m")


@dataclass(frozen=True)
class Outlook:
    """What a pruning would probably come to, and take.

    Args:
        natural (`int`): tokens that the text asks for.
        shape ([`Shape`]): where the search begins, from which it does not usually go far.
        removed_ratio, removed_body_ratio (`float`): shares of all parameters, and of all but the vocabulary.
        files (`dict[str, tuple[int, int]]`): bytes of the dense and the pruned model, as safetensors and by GGUF type.
        expected ([`~pruning.estimates.PruningEstimate`]): what pruning takes on this machine.
        notes (`tuple[str, ...]`): what the user should know.
    """

    natural: int
    shape: Shape
    removed_ratio: float
    removed_body_ratio: float
    files: dict[str, tuple[int, int]]
    expected: PruningEstimate
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """The outlook as plain values."""
        return {**vars(self), "shape": self.shape.reported(), "expected": self.expected._asdict()}

    def to_text(self) -> str:
        """The outlook for the terminal."""
        parts = [f"{part.settings.label} {self.shape[part.dimension]:,}" for part in components_of(self.shape)]
        return "\n".join(
            [
                f"Likely shape: {', '.join(parts)} (the text uses {self.natural:,} tokens):",
                f"{self.removed_ratio:.1%} of all parameters are removed, {self.removed_body_ratio:.1%} of the body.",
                f"Pruning takes {self.expected} here.",
                "",
                f"{'file (MB)':<22}{'dense':>16}{'pruned':>16}",
                *(f"{kind:<22}{a / 1e6:>16,.1f}{b / 1e6:>16,.1f}" for kind, (a, b) in self.files.items()),
                *(f"warning: {note}" for note in self.notes),
            ]
        )


@dataclass(frozen=True)
class Inspection:
    """Where a model's parameters are, and what a target would take.

    Args:
        name (`str`): the model.
        sizes ([`ModelSizes`]): its sizes.
        target_ratio (`float`, *optional*): share of parameters to remove.
        outlook ([`Outlook`], *optional*): what the target, a share or a size, would come to.
    """

    name: str
    sizes: ModelSizes
    target_ratio: float | None = None
    outlook: Outlook | None = None

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
        return result if self.outlook is None else {**result, "outlook": self.outlook.to_dict()}

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
        if self.outlook is not None:
            lines += ["", self.outlook.to_text()]
        return "\n".join(lines)


def inspect_model(
    model_name_or_path: str,
    *,
    revision: str | None = None,
    trust_remote_code: bool = False,
    family: str | Path | None = None,
    **settings: Any,
) -> Inspection:
    """Counts a model's parameters from its configuration; no weights are loaded. With a target the text is read too
    that decides how many tokens stay.

    Args:
        model_name_or_path (`str`): a Hub id, a folder, a GGUF file or the name of the embedded default.
        family (`str` or `Path`, *optional*): a file that describes the model's family. Defaults to a known family.
        settings (`Any`): of a [`FlabPrunerConfig`]: `target_ratio`, or `target_size` and `target_type`.

    Raises:
        [`FlabError`]: the model cannot be read or its family is not supported; the target is out of reach.
    """
    from .checkpoints.finding import find_model
    from .checkpoints.loading import LoadedModel
    from .checkpoints.model_config import read_model_config
    from .checkpoints.tokenizer import load_tokenizer
    from .checkpoints.weight_files import stored_dtype
    from .tensors.gguf_files import near_equal_copies

    pruning = FlabPrunerConfig(**settings)
    files = find_model(model_name_or_path, revision, family)
    config = read_model_config(files, trust_remote_code)
    if files.gguf is not None and not config.tie_word_embeddings and near_equal_copies(files.gguf)[0] is not None:
        config.tie_word_embeddings = True  # as loading does
    model, found = outline(config), family_for(config, files.family)
    sizes, outlook = sizes_of(model, found), None
    if pruning.has_target:
        tokenizer, _ = load_tokenizer(files, config, trust_remote_code)
        stored = torch.bfloat16 if files.gguf is not None else stored_dtype(files.folder, config)
        dense = LoadedModel(model, tokenizer, found, str(model_name_or_path), storage_dtype=stored)
        outlook = outlook_of(dense, sizes, pruning)
    return Inspection(str(model_name_or_path), sizes, pruning.target_ratio, outlook)


def outlook_of(dense: LoadedModel, sizes: ModelSizes, config: FlabPrunerConfig) -> Outlook:
    """What a target would come to.

    Args:
        dense ([`LoadedModel`]): its model may be on the meta device.
        config ([`FlabPrunerConfig`]): with a target.
    """
    from .pruning.counts import read_counts
    from .pruning.estimates import pruning_estimate
    from .pruning.file_size import FileSize
    from .pruning.search import start_shape
    from .pruning.vocabulary import token_choice
    from .records.work import WorkFolder
    from .texts.sets import corpus_alone

    model, family, device = dense.model, dense.family, torch.device("cpu")
    dtype = dense.storage_dtype
    file_size = FileSize(model, family, dense.tokenizer, dtype, config.target_type, dense.name)
    aimed = file_size if config.target_size is not None else None
    limits = size_limits(config, sizes, len(dense.tokenizer), aimed)
    counts = read_counts(config.data.counts, dense.tokenizer, dense.name)
    work = WorkFolder(cache_root("pruning"), resume=True)
    tokens = token_choice(dense, config.vocabulary, corpus_alone(config.data), counts, work)
    natural, order = len(tokens.counted.natural), tokens.in_order()
    if aimed is not None:
        limits = replace(limits, file_size=file_size.changed(order=order))
    shape = start_shape(shapes_to_compare(config, limits, natural, len(tokens.counted.protected))[0], natural)
    files, notes = dict[str, tuple[int, int]](), body_notes(limits, shape)
    of_kind = file_size.changed(order=order)
    for kind in dict.fromkeys((None, config.target_type, *TYPES)):
        of_kind = of_kind.changed(kind=kind)
        try:
            files[kind or "safetensors"] = of_kind(sizes.shape), of_kind(shape)
        except FlabError as error:  # llama.cpp cannot have it
            notes.append(f"there will be no GGUF file: {error}")
            break
        notes += of_kind.fallbacks(shape) if kind == config.target_type else []
    counted = sizes.counts
    return Outlook(
        natural,
        shape,
        limits.removed(shape),
        1 - counted.body(shape) / counted.body(sizes.shape),
        files,
        pruning_estimate(config, limits, model.config, family, device, dtype, dtype),
        tuple(notes),
    )
