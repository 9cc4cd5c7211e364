"""The pruning plan: what is kept, in files that can be read, diffed and applied again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from ..errors import FlabError


if TYPE_CHECKING:
    import torch


PLAN_NAME = "flab_plan.json"
WEIGHTS_NAME = "flab_plan.safetensors"
FORMAT, WITH_EXPERTS = 1, 2  # a reader of only the first would not recognise plans with experts
Index = Annotated[int, Field(ge=0)]
LayerName = Annotated[str, Field(pattern=r"^(0|[1-9]\d{0,5})$")]


class _File(BaseModel):
    """What `flab_plan.json` holds."""

    model_config = ConfigDict(strict=True, extra="forbid")

    base_model: str
    base_revision: str | None
    base_hash: str
    corpus_hash: str
    kept_tokens: list[Index] | None
    vocab_size: Annotated[int, Field(ge=1)]
    kept_layers: list[Index]
    kept_neurons: dict[LayerName, list[Index] | list[list[Index]]]
    kept_experts: dict[LayerName, list[Index]] = {}
    dtype: Literal["float32", "bfloat16", "float16"]
    settings: dict[str, Any]
    compensated: list[str]

    @field_validator("settings")
    @classmethod
    def _readable_numbers(cls, settings: dict[str, Any]) -> dict[str, Any]:
        for name in ("target_ratio", "seed"):
            if not isinstance(settings.get(name), (int, float, type(None))):
                raise ValueError(f"{name} is {settings[name]!r}, not a number")
        return settings

    @field_validator("settings")
    @classmethod
    def _readable_multiples(cls, settings: dict[str, Any]) -> dict[str, Any]:
        vocabulary = settings.get("vocabulary") or {}
        multiple = vocabulary.get("pad_to_multiple_of") if isinstance(vocabulary, dict) else "nothing"
        given = {"vocabulary.pad_to_multiple_of": multiple, "align": settings.get("align")}
        for name, value in given.items():
            if value is not None and not (type(value) is int and value > 0):
                raise ValueError(f"{name} is {value!r}, not a whole number above 0")
        return settings


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

    base_model: str
    base_revision: str | None
    base_hash: str
    corpus_hash: str
    kept_tokens: list[int] | None
    vocab_size: int
    kept_layers: list[int]
    kept_neurons: dict[int, list[int]] | dict[int, list[list[int]]]
    dtype: str
    settings: dict[str, Any]
    kept_experts: dict[int, list[int]] = field(default_factory=dict)
    weights: Mapping[str, torch.Tensor] = field(default_factory=dict, compare=False, repr=False)

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
            "kept_neurons": _by_name(self.kept_neurons),
            **({"kept_experts": _by_name(self.kept_experts)} if self.kept_experts else {}),
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

        path = Path(path)
        try:
            file = path / PLAN_NAME if path.is_dir() else path
        except OSError as error:
            raise FlabError(f"plan {path} cannot be read: {error.strerror}; name one that you may read") from error
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
            version = content.pop("format", None)
            if version is None or isinstance(version, bool):
                raise ValueError("it states no format")
            if version not in (FORMAT, WITH_EXPERTS):
                known = f"{FORMAT} and {WITH_EXPERTS}"
                raise FlabError(
                    f"{file} is a plan of format {version}, this version reads {known}; install a newer one, or"
                    " prune again"
                )
            fields = _File.model_validate(content).model_dump()
        except OSError as error:
            raise FlabError(
                f"plan {file} cannot be read: {error.strerror}; name a folder or its {PLAN_NAME}"
            ) from error
        except ValidationError as error:
            faults = [f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors()]
            more = f" and {len(faults) - 3} more faults" if len(faults) > 3 else ""
            raise FlabError(
                f"{file} is not a pruning plan ({'; '.join(faults[:3])}{more}); name the {PLAN_NAME} of a pruned"
                " checkpoint, as it was written"
            ) from error
        except (ValueError, TypeError, AttributeError, RecursionError) as error:
            raise FlabError(
                f"{file} is not a pruning plan ({error}); name the {PLAN_NAME} of a pruned checkpoint"
            ) from error
        compensated = fields.pop("compensated")
        for name in ("kept_neurons", "kept_experts"):
            fields[name] = {int(layer): kept for layer, kept in fields[name].items()}
        plan = cls(**fields)
        tensors = file.with_name(WEIGHTS_NAME)
        if not compensated:
            if tensors.is_file():
                raise FlabError(
                    f"{tensors} does not belong to {file}, which names no tensors; copy both from one folder"
                )
            return plan
        try:
            weights = StoredTensors([tensors])
        except (OSError, SafetensorError, ValueError) as error:
            raise FlabError(f"{file} needs {tensors}, which cannot be read ({error}); copy both files") from error
        if sorted(weights) != compensated:
            raise FlabError(
                f"{tensors} does not belong to {file}: it holds other tensors; copy both files from one checkpoint"
            )
        return cls(**fields, weights=weights)


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


def _by_name(layers: Mapping[int, list]) -> dict[str, list]:
    return {str(layer): kept for layer, kept in layers.items()}


def _lines(layers: Mapping[str, list]) -> str:
    return (
        "{\n" + ",\n".join(f"    {json.dumps(layer)}: {json.dumps(kept)}" for layer, kept in layers.items()) + "\n  }"
    )
