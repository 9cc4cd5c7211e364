"""What a family of models *is*: a file of facts, checked when it is read."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

import torch
from packaging.specifiers import SpecifierSet
from pydantic import BaseModel, ConfigDict, Field, field_validator
from torch import nn

from .axes import DIMENSIONS, matrices_of, plain_axes


if TYPE_CHECKING:
    from transformers import PreTrainedModel


AXIS = rf"^(?:({'|'.join(DIMENSIONS)})(\*[2-9])?|[2-9]\*({'|'.join(DIMENSIONS)}))$"

Axis = Annotated[str, Field(pattern=AXIS)]
FieldName = Annotated[str, Field(pattern=r"^\w+$")]
ModulePath = Annotated[str, Field(pattern=r"^\w+(\.\w+)*$")]


class _Facts(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class Modules(_Facts):
    """Paths of modules in the causal language model.

    Args:
        layers (`str`): the list of decoder layers.
        embeddings (`str`): the token embedding.
        final_norm (`str`): the norm applied to the output of the last layer.
        output_head (`str`): the projection to the vocabulary.
    """

    layers: ModulePath
    embeddings: ModulePath
    final_norm: ModulePath
    output_head: ModulePath


class BlockFacts(_Facts):
    """What a decoder layer adds to the residual stream; module paths are relative to the layer.

    A layer's output is its input, plus what its attention adds, plus what its FFN adds. Whether the FFN reads the
    stream before or after the attention does not matter here.

    Args:
        attention_out (`str`): the projection from the attention heads to the stream.
        attention_post_norm (`str`, *optional*): a norm between that projection and the stream.
        ffn_out (`str`): the projection from the neurons to the stream; in a mixture of experts the module whose output
            is added to it, whether or not a layer has experts.
        ffn_post_norm (`str`, *optional*): a norm between that projection and the stream.
        residual_scale (`str`, *optional*): the config field that multiplies what is added to the stream.
    """

    attention_out: ModulePath
    attention_post_norm: ModulePath | None = None
    ffn_out: ModulePath
    ffn_post_norm: ModulePath | None = None
    residual_scale: FieldName | None = None

    def scale(self, config: Any) -> float:
        """What multiplies everything that is added to the stream."""
        return 1.0 if self.residual_scale is None else float(getattr(config, self.residual_scale))


class Logits(_Facts):
    """What happens to the logits after the output head: the config fields that hold the numbers.

    Args:
        multiplier (`str`, *optional*): logits are multiplied by it.
        divisor (`str`, *optional*): logits are divided by it.
        softcap (`str`, *optional*): logits are limited to plus and minus this by a hyperbolic tangent.
    """

    multiplier: FieldName | None = None
    divisor: FieldName | None = None
    softcap: FieldName | None = None

    def apply(self, logits: torch.Tensor, config: Any) -> torch.Tensor:
        """The logits that the model returns, of the shape of `logits`."""
        if self.multiplier is not None:
            logits = logits * getattr(config, self.multiplier)
        if self.divisor is not None:
            logits = logits / getattr(config, self.divisor)
        cap = None if self.softcap is None else getattr(config, self.softcap)
        return logits if cap is None else torch.tanh(logits / cap) * cap


class Norm(_Facts):
    """The norms before attention, FFN and output head.

    Args:
        kind (`str`): `"rms"`, or `"layer"`, which also subtracts the mean.
        offset (`int`): added to the weight before it multiplies.
    """

    kind: Literal["rms", "layer"] = "rms"
    offset: Literal[0, 1] = 0

    def square(self, hidden: torch.Tensor) -> torch.Tensor:
        """The mean square that the norm divides by, float32, of the shape of `hidden` without its last axis."""
        hidden = hidden.float()
        return hidden.square().mean(dim=-1) if self.kind == "rms" else hidden.var(dim=-1, unbiased=False)


class Mixture(_Facts):
    """The experts of a mixture; `module` is relative to the layer, everything else a field of the configuration.

    Args:
        module (`str`): holds the tensors of all experts. It reads tokens, the indices of the experts that each token
            is routed to, and their weights.
        out (`str`): its tensor from the neurons to the stream.
        per_token (`str`): the number of experts that a token is routed to.
        groups (`str`, *optional*): the number of groups of neighbouring experts; a router may choose groups first.
        groups_per_token (`str`, *optional*): the number of groups that it chooses.
        fewest_in_group (`int`): the number of experts whose scores make up a group's score.
        shared (`str`, *optional*): the width of the shared expert, in widths of an expert.
        dense_layers (`str`, *optional*): the layers without experts.
        every (`str`, *optional*): only every n-th layer has experts, n being this number.
    """

    module: ModulePath
    out: FieldName
    per_token: FieldName
    groups: FieldName | None = None
    groups_per_token: FieldName | None = None
    fewest_in_group: Annotated[int, Field(ge=1)] = 1
    shared: FieldName | None = None
    dense_layers: FieldName | None = None
    every: FieldName | None = None

    @property
    def fields(self) -> dict[str, str]:
        """The configuration's fields by the facts that name them."""
        return self.model_dump(exclude={"module", "out", "fewest_in_group"}, exclude_none=True)

    def group_count(self, config: Any) -> int:
        """How many groups the experts of a model are in."""
        return (self.groups and getattr(config, self.groups)) or 1

    def fewest(self, config: Any) -> int:
        """The fewest experts with which every token is still routed to as many as before."""
        groups = self.group_count(config)
        chosen = (self.groups_per_token and getattr(config, self.groups_per_token)) or groups
        return groups * max(-(-getattr(config, self.per_token) // min(chosen, groups)), self.fewest_in_group)


class Gguf(_Facts):
    """How llama.cpp stores a family in its files, beyond what tensors and sizes say.

    Args:
        architecture (`str`): what llama.cpp calls it.
        paired_heads (`dict[str, str]`): the projections to heads whose two halves llama.cpp stores interleaved, each
            with the config field that counts its heads.
        fields (`dict[str, str]`): fields of the file, without the architecture prefix, and the config fields that hold
            their values.
        expects (`dict`): what llama.cpp takes for granted: config fields, and the value of each.
        equal (`dict[str, str]`): config fields that llama.cpp assumes to equal others.
        whole_heads (`bool`): whether it requires the heads together to be as wide as the hidden states.
        partial_heads (`bool`): whether rotary positions may apply to only a part of each head.
        positions (`list[str]`): kinds of rotary positions that llama.cpp supports for it.
        windows (`bool`): whether llama.cpp lets the layers that the configuration calls `sliding_attention` attend to
            a window only.
    """

    architecture: Annotated[str, Field(pattern=r"^[\w-]+$")]
    paired_heads: dict[ModulePath, FieldName] = {}
    fields: dict[ModulePath, FieldName] = {}
    expects: dict[FieldName, bool | int | str | list[int] | None] = {}
    equal: dict[FieldName, FieldName] = {}
    whole_heads: bool = False
    partial_heads: bool = False
    positions: list[str] = ["default", "linear", "yarn"]
    windows: bool = False


class Older(_Facts):
    """How transformers 4.57 reads the configurations of a family, where it differs from most.

    Args:
        fields (`dict[str, str]`): what it calls fields of the configuration, and of its rotary embedding
            (`rope_theta`, `partial_rotary_factor`), that have another name there.
        local_theta (`str`, *optional*): its field for the base of the sliding layers' rotary embedding. Without one
            they have that of the others.
        expects (`dict`): config fields that it ignores, and the value that it takes for granted.
        positions (`list[str]`): the kinds of rotary positions that it computes.
        scaling (`list[str]`, *optional*): the entries that it allows in `rope_scaling`. Defaults to all.
    """

    fields: dict[FieldName, FieldName] = {}
    local_theta: FieldName | None = None
    expects: dict[FieldName, bool | int | float | None] = {}
    positions: list[str] = ["default", "linear", "dynamic", "yarn", "llama3", "longrope"]
    scaling: list[str] | None = None


class Family(_Facts):
    """The facts of a family of models; see `docs/families.md` for how to write one.

    Args:
        model_type (`str`): `config.model_type`.
        transformers (`str`): the versions of transformers that read its checkpoints as the models that were measured.
        modules ([`Modules`]): where its parts are.
        tensors (`dict`): for each tensor what its axes are, `None` for those that are never pruned. In the names
            `{layer}` is a decoder layer, `{embeddings}`, `{final_norm}` and `{output_head}` are the modules, and `*`
            is any one component of a path. `neuron*2` is an axis that holds two consecutive blocks of neurons,
            `2*neuron` one that holds two numbers for each neuron.
        sizes (`dict[str, str]`): the config field of each dimension, of the number of layers, and of those of heads of
            queries (`head`) and of keys and values (`kv_head`).
        per_layer (`list[str]`): config fields with an entry per layer.
        layer_counts (`list[str]`): config fields that count layers from the bottom and that mean nothing once
            `layer_types` is spelled out.
        absent (`dict[str, int]`): config fields of parts that a pruned checkpoint does not have, with the value that
            means absent.
        bound_layers (`bool` or `str`): whether a layer depends on its position, so that all layers stay; or the config
            field that says so.
        separates_documents (`bool`): whether the class keeps the documents of one row apart, each starting at position
            0.
        position_table (`bool`): whether the class looks positions up in a table, and so fails on texts of more tokens
            than `max_position_embeddings`.
        block ([`BlockFacts`]), logits ([`Logits`]), norm ([`Norm`]): what pruning decisions need to know.
        experts ([`Mixture`], *optional*): of a mixture of experts. Its neurons are those inside the experts; the FFNs
            of its other layers and its shared experts stay as they are.
        gguf ([`Gguf`], *optional*): of a family that llama.cpp knows.
        older ([`Older`]): of a family that transformers 4.57 knows.
    """

    model_type: FieldName
    transformers: str
    modules: Modules
    tensors: dict[str, list[Axis | None]]
    sizes: dict[Literal[("layer", *DIMENSIONS, "head", "kv_head")], FieldName]  # type: ignore[valid-type]
    per_layer: list[FieldName] = []
    layer_counts: list[FieldName] = []
    absent: dict[FieldName, int] = {}
    bound_layers: bool | FieldName = False
    separates_documents: bool = True
    position_table: bool = False
    block: BlockFacts
    logits: Logits = Logits()
    norm: Norm = Norm()
    experts: Mixture | None = None
    gguf: Gguf | None = None
    older: Older = Older()

    @field_validator("transformers")
    @classmethod
    def _versions(cls, versions: str) -> str:
        SpecifierSet(versions)  # raises a ValueError
        return versions

    def is_known_to(self, version: str) -> bool:
        """Whether a version of transformers is one of those that read checkpoints of the family as the models that
        were measured."""
        return version in SpecifierSet(self.transformers)

    def has_bound_layers(self, config: Any) -> bool:
        """Whether the layers of a model depend on their positions."""
        return getattr(config, self.bound_layers) if isinstance(self.bound_layers, str) else self.bound_layers

    # --- tensors ---------------------------------------------------------------------------------------------------

    @cached_property
    def _patterns(self) -> list[tuple[re.Pattern[str], tuple[str | None, ...]]]:
        places = {
            "layer": rf"{re.escape(self.modules.layers)}\.\d+",
            **{name: re.escape(path) for name, path in self.modules.model_dump().items()},
        }
        patterns = []
        for name, axes in self.tensors.items():
            pattern = re.escape(name).replace(r"\*", "[^.]+").replace(r"\{", "{").replace(r"\}", "}")
            for place, path in places.items():
                pattern = pattern.replace(f"{{{place}}}", path)
            patterns.append((re.compile(pattern), tuple(axes)))
        return patterns

    def axes(self, name: str) -> tuple[str | None, ...] | None:
        """What the axes of a tensor of the model's state dict are; `None` where the family does not name it."""
        return next((axes for pattern, axes in self._patterns if pattern.fullmatch(name)), None)

    def layer_of(self, name: str) -> tuple[int | None, str]:
        """The decoder layer that a tensor belongs to, and its name in it; `None` and the whole name for others."""
        prefix = f"{self.modules.layers}."
        if not name.startswith(prefix):
            return None, name
        index, _, rest = name[len(prefix) :].partition(".")
        return int(index), rest

    def in_layer(self, index: int, name: str) -> str:
        """The name in the model's state dict of a tensor of the layer at `index`."""
        return f"{self.modules.layers}.{index}.{name}"

    # --- modules ---------------------------------------------------------------------------------------------------

    def decoder_layers(self, model: PreTrainedModel) -> nn.ModuleList:
        """The decoder layers of `model`, bottom first."""
        return cast(nn.ModuleList, model.get_submodule(self.modules.layers))

    def pruned_layers(self, model: PreTrainedModel) -> list[int]:
        """The layers that pruning may narrow or remove: all of them, or in a mixture those that have experts."""
        layers = self.decoder_layers(model)
        return [index for index, layer in enumerate(layers) if self.experts is None or self.has_experts(layer)]

    def has_experts(self, layer: nn.Module) -> bool:
        """Whether a layer is a mixture of experts."""
        return self.experts is not None and has_module(layer, self.experts.module)

    @property
    def mixture(self) -> Mixture:
        """The experts of a family that has them.

        Raises:
            `ValueError`: it has none.
        """
        if self.experts is None:
            raise ValueError(f"{self.model_type} is not a mixture of experts")
        return self.experts

    def ffn_out(self, layer: nn.Module) -> nn.Linear:
        """The projection from the neurons of one layer back to the residual stream; gpt2's `Conv1D` has the same
        parameters, see [`matrix`]."""
        return cast(nn.Linear, layer.get_submodule(self.block.ffn_out))

    def matrix(self, weight: torch.Tensor) -> torch.Tensor:
        """The weight of [`ffn_out`] as a matrix of shape `(hidden, neurons)`, and back: some families store it
        transposed. What is returned shares its memory."""
        axes = self.axes(self.in_layer(0, self.ffn_out_name))
        return weight if axes is None or axes[0] == "hidden" else weight.T

    def expert_matrix(self, weight: torch.Tensor) -> torch.Tensor:
        """The weights from the neurons of one expert to the stream as a matrix of shape `(hidden, neurons)`, and
        back; what is returned shares the memory."""
        axes = self.axes(self.in_layer(0, self.ffn_out_name)) or ()
        return weight if axes[-1] == "neuron" else weight.mT

    def stored_out(self, weight: torch.Tensor) -> torch.Tensor:
        """Weights from the neurons to the stream as the model stores them.

        Args:
            weight (`torch.Tensor`): of shape `(hidden, neurons)`, in a mixture `(experts, hidden, neurons)`.
        """
        return self.matrix(weight) if self.experts is None else self.expert_matrix(weight)

    def ffn_out_matrix(self, layer: nn.Module) -> torch.Tensor:
        """The weight of [`ffn_out`], of shape `(hidden, neurons)`."""
        return self.matrix(self.ffn_out(layer).weight)

    @property
    def ffn_out_name(self) -> str:
        """The name in the state dict of a layer of the weights from the neurons to the stream."""
        if self.experts is not None:
            return f"{self.experts.module}.{self.experts.out}"
        return f"{self.block.ffn_out}.weight"

    def is_inside_layers(self, dimension: str) -> bool:
        """Whether a dimension is one of tensors of the layers."""
        inside = [tuple(axes) for name, axes in self.tensors.items() if name.startswith("{layer}")]
        return any(dimension in plain_axes(axes) for axes in inside)

    def neuron_tensors(self, layer: nn.Module) -> Iterator[tuple[str, nn.Parameter, tuple[str | None, ...]]]:
        """Name in the layer, tensor and axes of everything that belongs to neurons."""
        for name, tensor in layer.named_parameters():
            axes = self.axes(self.in_layer(0, name)) or ()
            if "neuron" in plain_axes(axes):
                yield name, tensor, axes

    def incoming(self, layer: nn.Module) -> list[torch.Tensor]:
        """The weights into the neurons of one layer (gate, up): matrices of shape `(neurons, hidden)`."""
        matrices = []
        for name, tensor, axes in self.neuron_tensors(layer):
            if name != self.ffn_out_name and tensor.ndim == 2:
                matrices += matrices_of(tensor, axes)
        return matrices


def has_module(module: nn.Module, path: str) -> bool:
    """Whether a module has another inside at this path."""
    try:
        module.get_submodule(path)
    except AttributeError:
        return False
    return True
