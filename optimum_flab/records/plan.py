"""The pruning plan: what is kept, in files that can be read, diffed and applied again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import ConfigDict, Field

from ..errors import FlabError
from .json_files import check_format, parse_record, read_json


if TYPE_CHECKING:
    from torch import Tensor
else:
    Tensor = Any  # a file is validated before its tensors are read


PLAN_NAME = "flab_plan.json"
WEIGHTS_NAME = "flab_plan.safetensors"
FORMAT, WITH_EXPERTS = 1, 2  # a reader of only the first would not recognise plans with experts
ADVICE = f"name the folder of a pruned model, or its {PLAN_NAME}"
Index = Annotated[int, Field(ge=0)]


@dataclass(frozen=True)
class PruningPlan:
    """Everything that surgery needs besides the dense model.

    Args:
        base_model (`str`): name or path of the dense model.
        base_revision (`str`, *optional*): its commit.
        base_hash (`str`): sha256 of its weights, see [`~optimum_flab.checkpoints.hashes.weights_hash`].
        corpus_hash (`str`): sha256 of the texts and counts that decided the vocabulary.
        kept_tokens (`list[int]`, *optional*): dense ids that stay, ascending; position is the new id. `None`:
            vocabulary untouched.
        vocab_size (`int`): rows of the new embedding, padding included.
        kept_layers (`list[int]`): dense indices of the layers that stay, ascending.
        kept_neurons (`dict[int, list[int]]`): by dense layer index, the neurons that stay, ascending; empty: FFNs
            untouched. In a mixture of experts a list for each expert that stays (`dict[int, list[list[int]]]`).
        dtype (`str`): dtype of the pruned weights.
        settings (`dict`): the configuration that made the plan.
        kept_experts (`dict[int, list[int]]`): by dense layer index, the experts that stay, ascending; empty: all.
        weights (`dict[str, torch.Tensor]`): tensors that compensation changed, or training between rounds, by their
            name in the dense model, already in the shape of the pruned one.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid", arbitrary_types_allowed=True)

    base_model: str
    base_revision: str | None
    base_hash: str
    corpus_hash: str
    kept_tokens: list[Index] | None
    vocab_size: Annotated[int, Field(ge=1)]
    kept_layers: list[Index]
    kept_neurons: dict[Index, list[Index]] | dict[Index, list[list[Index]]]
    dtype: str
    settings: dict[str, Any]
    kept_experts: dict[Index, list[Index]] = field(default_factory=dict)
    weights: Mapping[str, Tensor] = field(default_factory=dict, compare=False, repr=False)

    @property
    def sizes(self) -> dict[str, int]:
        """The sizes of the model that results, by the dimensions of [`~families.Family`]."""
        sizes = {"vocab": self.vocab_size, "layer": len(self.kept_layers)}
        if self.kept_neurons:
            neurons: list = next(iter(self.kept_neurons.values()))
            sizes["neuron"] = len(neurons[0] if is_by_expert(neurons) else neurons)
        if self.kept_experts:
            sizes["expert"] = len(next(iter(self.kept_experts.values())))
        return sizes

    def to_dict(self) -> dict[str, Any]:
        """All but the tensors, as plain values."""
        has_experts = self.kept_experts or any(map(is_by_expert, self.kept_neurons.values()))
        return {
            "format": WITH_EXPERTS if has_experts else FORMAT,
            "base_model": self.base_model,
            "base_revision": self.base_revision,
            "base_hash": self.base_hash,
            "corpus_hash": self.corpus_hash,
            "dtype": self.dtype,
            "vocab_size": self.vocab_size,
            "settings": self.settings,
            "compensated": sorted(self.weights),
            "kept_layers": self.kept_layers,
            "kept_neurons": self.kept_neurons,
            **({"kept_experts": self.kept_experts} if self.kept_experts else {}),
            "kept_tokens": self.kept_tokens,
        }

    def save(self, folder: str | Path) -> None:
        """Writes `flab_plan.json`, and `flab_plan.safetensors` if compensation changed something."""
        from ..tensors.lazy import StoredTensors, write_tensors

        Path(folder, PLAN_NAME).write_text(plan_text(self.to_dict()), encoding="utf-8")
        if self.weights:
            outlines = self.weights.outlines if isinstance(self.weights, StoredTensors) else self.weights
            write_tensors({Path(folder, WEIGHTS_NAME): outlines}, self.weights.items())

    @classmethod
    def load(cls, path: str | Path) -> PruningPlan:
        """Reads a plan from a folder or from its `flab_plan.json`; the tensors are beside it.

        Raises:
            [`FlabError`]: the file is missing, is not a plan, or its tensors are not there. Whether it fits a model is
                checked by [`~checkpoints.surgery.check_plan`].
        """
        from safetensors import SafetensorError

        from ..tensors.lazy import StoredTensors

        plan, compensated = cls._read(path)
        file = plan_file(path)
        tensors = file.with_name(WEIGHTS_NAME)
        if compensated == [] and not tensors.exists():
            return plan
        try:
            weights = StoredTensors([tensors])
        except (OSError, SafetensorError, ValueError) as error:
            raise FlabError(f"{file} needs {tensors}, which cannot be read ({error}); copy both files") from error
        if sorted(weights) != compensated:
            raise FlabError(
                f"{tensors} does not belong to {file}: it holds other tensors; copy both files from one checkpoint"
            )
        return replace(plan, weights=weights)

    @classmethod
    def load_indices(cls, path: str | Path) -> PruningPlan:
        """The same without the tensors, which need not be there."""
        return cls._read(path)[0]

    @classmethod
    def _read(cls, path: str | Path) -> tuple[PruningPlan, list[str] | None]:
        file = plan_file(path)
        content = read_json(file, ADVICE)
        check_format(content, WITH_EXPERTS, file)
        written = {name: content.pop(name, None) for name in ("format", "compensated")}
        return parse_record(cls, content, file, ADVICE), written["compensated"]


def plan_file(path: str | Path) -> Path:
    """The `flab_plan.json` of a folder, or that file itself."""
    return Path(path, PLAN_NAME) if Path(path).is_dir() else Path(path)


def is_by_expert(neurons: list[int] | list[list[int]]) -> bool:
    """Whether the neurons that a layer keeps are listed separately for each of its experts."""
    return bool(neurons) and isinstance(neurons[0], list)


def plan_text(fields: Mapping[str, Any]) -> str:
    """The content of `flab_plan.json`. One line per field (and per layer) keeps tens of thousands of numbers diffable
    and the file small."""
    lines = [
        f"  {json.dumps(key)}: " + (_lines(value) if key in ("kept_neurons", "kept_experts") else json.dumps(value))
        for key, value in fields.items()
    ]
    return "{\n" + ",\n".join(lines) + "\n}\n"


def _lines(layers: Mapping[int, list] | Mapping[str, list]) -> str:
    return "{\n" + ",\n".join(f'    "{layer}": {json.dumps(kept)}' for layer, kept in layers.items()) + "\n  }"
