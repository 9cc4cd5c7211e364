"""`flab inspect`: where a model's parameters are, and what a target would take."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from .families import family_for
from .pruning.components import components_of, outline, sizes_of
from .records.rows import text_table
from .records.verdict import programs_by_body
from .settings.configuration import FlabPrunerConfig
from .sizes import ModelSizes, Shape
from .utils.errors import FlabError
from .utils.places import cache_root


if TYPE_CHECKING:
    from .checkpoints.loading import LoadedModel
    from .pruning.estimates import PruningEstimate


SAFETENSORS = "safetensors"  # in place of a GGUF type
SMALLEST = "smallest mixture"  # likewise: each matrix in its smallest format
# of files, whose sizes are shown
TYPES = ("f16", "q8_0", "q5_k_m", "q4_k_m", "iq4_xs", "q3_k_m")


@dataclass(frozen=True)
class Outlook:
    """What a pruning would probably come to, and take.

    Args:
        natural (`int`): tokens that the text asks for.
        shape ([`Shape`]): where the search begins, from which it does not usually go far.
        file_type (`str`, *optional*): of the file with this shape, where a size of one is asked for.
        removed_ratio, removed_body_ratio (`float`): shares of all parameters, and of all but the vocabulary.
        files (`dict[str, tuple[int, int]]`): bytes of the dense and the pruned model, as safetensors and by GGUF type.
        expected ([`~pruning.estimates.PruningEstimate`]): what pruning takes on this machine.
        notes (`tuple[str, ...]`): what the user should know.
    """

    natural: int
    shape: Shape
    file_type: str | None
    removed_ratio: float
    removed_body_ratio: float
    files: dict[str, tuple[int, int]]
    expected: PruningEstimate
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """The outlook as plain values."""
        return {**vars(self), "shape": self.shape.reported(), "expected": self.expected._asdict()}

    def to_text(self, name: str, body: int) -> str:
        """The outlook for the terminal, of a model of that name with so many parameters besides its vocabulary."""
        files = ([kind, *(f"{size / 1e6:,.1f}" for size in sizes)] for kind, sizes in self.files.items())
        kind = f" as {self.file_type}" if self.file_type else ""
        parts = [f"{part.settings.label} {self.shape[part.dimension]:,}" for part in components_of(self.shape)]
        return "\n".join(
            [
                f"Likely shape{kind}: {', '.join(parts)} (the text uses {self.natural:,} tokens):",
                f"{self.removed_ratio:.1%} of all parameters are removed, {self.removed_body_ratio:.1%} of the body.",
                *filter(None, [programs_by_body(name, body)]),
                f"Pruning takes {self.expected} here.",
                "",
                *text_table([["file (MB)", "dense", "pruned"], *files], (22, 16, 16)),
                *(f"note: {note}" for note in self.notes),
            ]
        )


@dataclass(frozen=True)
class Inspection:
    """Where a model's parameters are, and what a target would take.

    Args:
        name (`str`): the model.
        sizes ([`ModelSizes`]): its sizes.
        outlook ([`Outlook`], *optional*): what the target, a share or a size, would come to.
    """

    name: str
    sizes: ModelSizes
    outlook: Outlook | None = None

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
        return result if self.outlook is None else {**result, "outlook": self.outlook.to_dict()}

    def to_text(self) -> str:
        """The inspection as a table for the terminal."""
        counts, dense = self.sizes.counts, self.sizes.shape
        total = counts.total(dense)
        lines = [
            f"{self.name}: {total:,} parameters, "
            + ", ".join(f"{part.settings.label} {dense[part.dimension]:,}" for part in components_of(dense)),
            "",
        ]
        parts = {**counts.parts(dense), "all but vocabulary": counts.body(dense)}
        rows = ([part, f"{number:,}", f"{number / total:.1%}"] for part, number in parts.items())
        lines += text_table([["component", "parameters", "share"], *rows], (22, 16, 9))
        if self.outlook is not None:
            lines += ["", self.outlook.to_text(self.name, counts.body(dense))]
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
        stored = stored_dtype(files, config)
        dense = LoadedModel(
            model, tokenizer, found, str(model_name_or_path), storage_dtype=stored, computed_on=torch.device("cpu")
        )
        outlook = outlook_of(dense, pruning)
    return Inspection(str(model_name_or_path), sizes, outlook)


def outlook_of(dense: LoadedModel, config: FlabPrunerConfig) -> Outlook:
    """What a target would come to.

    Args:
        dense ([`LoadedModel`]): its model may be on the meta device.
        config ([`FlabPrunerConfig`]): with a target.
    """
    from .export.file_size import FileSizes
    from .pruning.estimates import pruning_estimate
    from .pruning.resolution import body_notes, resolve
    from .pruning.search import candidates_for
    from .pruning.vocabulary import token_choice
    from .running.kernels import prepare_kernels
    from .running.run import Run
    from .texts.sets import corpus_alone

    prepare_kernels(dense.device)  # as the pruning, whose time is estimated
    dtype = dense.storage_dtype
    request = resolve(config, dense.model, dense.family, dense.tokenizer, dense.name, dtype)
    run = Run.in_folder(cache_root("pruning"))
    tokens = token_choice(dense, request, corpus_alone(config.data), run)
    candidates = candidates_for(request, tokens)
    limits, shape = candidates.request.limits, candidates.start
    parameters = limits.counts.total(limits.dense), limits.counts.total(shape)
    files = {SAFETENSORS: (parameters[0] * dtype.itemsize, parameters[1] * dtype.itemsize)}
    notes = body_notes(candidates.request, shape)
    try:
        file_sizes = candidates.request.file_sizes or FileSizes(dense.model, dense.family, dense.tokenizer)
        for kind in dict.fromkeys((config.target_type, *TYPES)):
            files[kind or SMALLEST] = file_sizes(limits.dense, kind), file_sizes(shape, kind)
    except FlabError as error:  # llama.cpp cannot have it
        notes.append(f"there will be no GGUF file: {error}")
    return Outlook(
        natural=len(tokens.counted.natural),
        shape=shape,
        file_type=config.target_type,
        removed_ratio=limits.removed(shape),
        removed_body_ratio=limits.removed_body(shape),
        files=files,
        expected=pruning_estimate(dense, candidates.request),
        notes=tuple(notes),
    )
