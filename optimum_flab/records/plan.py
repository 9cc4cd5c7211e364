"""The pruning plan: what is kept, in files that can be read, diffed and applied again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import AfterValidator, ConfigDict, Field

from ..utils.errors import FlabError
from .json_files import check_format, parse_record, read_json


if TYPE_CHECKING:
    from torch import Tensor
else:
    Tensor = Any  # a file is validated before its tensors are read


PLAN_NAME = "flab_plan.json"
WEIGHTS_NAME = "flab_plan.safetensors"
TOKENS = "tokens:"  # before the hash of tokens in place of that of weights
FORMAT = 3
WRITTEN_FIRST = ("base_model", "base_revision", "base_hash", "corpus_hash", "dtype", "vocab_size", "settings")
ADVICE = f"name the folder of a pruned model, or its {PLAN_NAME}"
Index = Annotated[int, Field(ge=0)]
ByLayer = dict[Index, list[Index]] | dict[Index, list[list[Index]]]


def _with_layers(kept: dict[str, Any]) -> dict[str, Any]:
    if not isinstance(kept.get("layer"), list):
        raise ValueError("does not say which layers stay")
    return kept


Kept = Annotated[dict[str, list[Index] | ByLayer], AfterValidator(_with_layers)]


@dataclass(frozen=True)
class PruningPlan:
    """Everything that surgery needs besides the dense model.

    Args:
        base_model (`str`): name or path of the dense model.
        base_revision (`str`, *optional*): its commit.
        base_hash (`str`): sha256 of its weights, see [`~optimum_flab.checkpoints.hashes.weights_hash`]; of a trim that
            of the tokens that stay (`tokens:` and sha256), so that the plan is for any model with these tokens.
        corpus_hash (`str`): sha256 of the texts and counts that decided the vocabulary.
        vocab_size (`int`): rows of the new embedding, padding included.
        kept (`dict[str, list[int]` or `dict[int, list[int]]]`): by dimension what stays, as dense indices, ascending:
            the tokens (`"vocab"`, position is the new id), the layers (`"layer"`) and whatever else is
            outside layers, and by dense layer index what is inside layers (`"neuron"`, …). In a mixture of experts
            neurons are a list for each expert that stays. Dimensions that are not named stay whole; the layers are
            always named.
        dtype (`str`): dtype of the pruned weights; of a trim `stored`: whatever they are stored in.
        settings (`dict`): the configuration that made the plan.
        types (`dict[str, str]`): the format of each matrix of the GGUF file, where these were found for a size.
        weights (`dict[str, torch.Tensor]`): tensors that compensation changed, by their name in the dense model,
            already in the shape of the pruned one.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid", arbitrary_types_allowed=True)

    base_model: str
    base_revision: str | None
    base_hash: str
    corpus_hash: str
    vocab_size: Annotated[int, Field(ge=1)]
    kept: Kept
    dtype: Annotated[str, Field(pattern="^(float32|bfloat16|float16|stored)$")]
    settings: dict[str, Any]
    types: dict[str, str] = field(default_factory=dict)
    weights: Mapping[str, Tensor] = field(default_factory=dict, compare=False, repr=False)

    @property
    def is_trim(self) -> bool:
        """Whether it only says which tokens stay, of any model that has them."""
        return self.base_hash.startswith(TOKENS)

    def keeps_body(self, layers: int) -> bool:
        """Whether nothing but the vocabulary is pruned.

        Args:
            layers (`int`): of the dense model.
        """
        return not self.weights and self.kept.keys() <= {"vocab", "layer"} and len(self.kept_layers) == layers

    @property
    def kept_tokens(self) -> list[int] | None:
        """Dense ids that stay, ascending; position is the new id. `None`: vocabulary untouched."""
        tokens: Any = self.kept.get("vocab")
        return tokens

    @property
    def kept_layers(self) -> list[int]:
        """Dense indices of the layers that stay, ascending."""
        layers: Any = self.kept["layer"]
        return layers

    @property
    def kept_outside(self) -> dict[str, list[int]]:
        """What stays outside layers, and the layers: by dimension."""
        return {name: kept for name, kept in self.kept.items() if isinstance(kept, list)}

    @property
    def kept_inside(self) -> dict[str, dict[int, list[Any]]]:
        """What stays inside layers: by dimension and dense layer index."""
        return {name: kept for name, kept in self.kept.items() if isinstance(kept, dict)}

    @property
    def sizes(self) -> dict[str, int]:
        """The sizes of the model that results, by the dimensions of [`~families.Family`]."""
        first = {name: next(iter(layers.values())) for name, layers in self.kept_inside.items() if layers}
        inside = {name: len(one[0] if is_by_expert(one) else one) for name, one in first.items()}
        outside = {name: len(kept) for name, kept in self.kept_outside.items()}
        return {**outside, "vocab": self.vocab_size, **inside}

    def to_dict(self) -> dict[str, Any]:
        """All but the tensors, as plain values."""
        return {
            "format": FORMAT,
            **{name: getattr(self, name) for name in WRITTEN_FIRST},
            **({"types": self.types} if self.types else {}),
            "compensated": sorted(self.weights),
            "kept": self.kept,
        }

    def save(self, folder: str | Path) -> None:
        """Writes `flab_plan.json`, and `flab_plan.safetensors` if compensation changed something."""
        Path(folder, PLAN_NAME).write_text(plan_text(self.to_dict()) + "\n", encoding="utf-8")
        if self.weights:
            from ..tensors.lazy import StoredTensors, write_tensors

            outlines = self.weights.outlines if isinstance(self.weights, StoredTensors) else self.weights
            write_tensors({Path(folder, WEIGHTS_NAME): outlines}, self.weights.items())

    @classmethod
    def load(cls, path: str | Path, *, tensors: bool = True) -> PruningPlan:
        """Reads a plan from a folder or from its `flab_plan.json`; the tensors are beside it.

        Args:
            tensors (`bool`): whether they are needed; otherwise they need not be there.

        Raises:
            [`FlabError`]: the file is missing, is not a plan, or its tensors are not there. Whether it fits a model is
                checked by [`~pruning.plan_check.check_plan`].
        """
        file = plan_file(path)
        content = read_json(file, ADVICE)
        plan = cls.parse(content, file)
        return replace(plan, weights=plan_weights(content, file)) if tensors else plan

    @classmethod
    def parse(cls, content: Mapping[str, Any], file: Path) -> PruningPlan:
        """The plan in the content of a `flab_plan.json`, without its tensors; raises what [`load`] raises."""
        fields = {name: value for name, value in content.items() if name not in ("format", "compensated")}
        check_format(content, FORMAT, file)
        if (form := content.get("format")) != FORMAT:
            raise FlabError(f"{file} has a format that is not known here ({form!r}); {ADVICE}")
        return parse_record(cls, fields, file, ADVICE)


def plan_weights(content: Mapping[str, Any], file: Path) -> Mapping[str, Tensor]:
    """The tensors that belong to a plan, from the file beside its own.

    Args:
        content (`Mapping`): of the plan's file.
        file (`Path`): the `flab_plan.json`.

    Raises:
        [`FlabError`]: they are not there, or others are.
    """
    from safetensors import SafetensorError

    from ..tensors.lazy import StoredTensors

    beside = file.with_name(WEIGHTS_NAME)
    compensated = content.get("compensated")
    weights = None
    if compensated == [] and not beside.exists():
        return {}
    with suppress(OSError, SafetensorError, ValueError):
        weights = StoredTensors([beside])
    if weights is None or sorted(weights) != compensated:
        raise FlabError(f"{beside} cannot be read, or does not belong to {file}; copy both files from one checkpoint")
    return weights


def plan_file(path: str | Path) -> Path:
    """The `flab_plan.json` of a folder, or that file itself."""
    return Path(path, PLAN_NAME) if Path(path).is_dir() else Path(path)


def is_by_expert(neurons: list[int] | list[list[int]]) -> bool:
    """Whether the neurons that a layer keeps are listed separately for each of its experts."""
    return bool(neurons) and isinstance(neurons[0], list)


def plan_text(fields: Mapping[str, Any], indent: str = "  ") -> str:
    """The content of `flab_plan.json`. One line per field, dimension and layer keeps tens of thousands of numbers
    diffable and the file small."""
    lines = [
        f'{indent}"{name}": '
        + (plan_text(value, indent + "  ") if isinstance(value, Mapping) and name != "settings" else json.dumps(value))
        for name, value in fields.items()
    ]
    return "{\n" + ",\n".join(lines) + f"\n{indent[:-2]}}}"
