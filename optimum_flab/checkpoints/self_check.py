"""Whether a model is what its family says: checked on the model itself, with a few tokens, before any work."""

from __future__ import annotations

import copy
import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch
from accelerate.utils import recursively_apply
from torch import nn
from torch.func import functional_call

from ..families import Family, has_module, misfit, plain_axes, select_along
from ..families.resizing import resized_config
from ..measuring.divergence import OutputHead
from ..running.experts import ExpertWeights, routed
from ..running.layerwise import layer_inputs, recorded, run_layer
from ..running.placement import devices_of, sharing_weights
from ..sizes import shape_of
from ..texts.packing import PackedTokens
from ..utils.compat import new_model
from ..utils.errors import FlabError


if TYPE_CHECKING:
    from transformers import PreTrainedModel


TOKENS = 16
# the largest relative difference (of norms) that rounding explains, for results in float32 and in half precision
EXACT, ROUNDED = 1e-3, 3e-2
REPEATED = 1e-5  # for the same computation, repeated
MOST_NAMED = 8  # tensors that a message lists
PLAIN = (bool, int, float, str, type(None))


def check_family(model: PreTrainedModel, family: Family) -> None:
    """Compares a model with the facts of its family: names, sizes and layout of its tensors, the fields of its
    configuration, layer by layer what the FFN reads and adds, and the output head against the model's own logits.

    Args:
        model (`PreTrainedModel`): in evaluation mode; one on the meta device, or on several devices, is not run.

    Raises:
        [`FlabError`]: says what differs.
    """
    # the later checks need what the earlier ones found to be there
    runs = devices_of(model) == {model.device} and model.device.type != "meta"
    run = (_functions, _configuration) if runs else ()
    for check in (_fields, _modules, _tensors, _per_layer, _shorter, *run):
        if faults := list(_faults_of(check, model, family)):
            more = f"; and {len(faults) - 3} more" if len(faults) > 3 else ""
            raise FlabError(
                f"this {family.model_type} model does not match the description of its family:"
                f" {'; '.join(faults[:3])}{more}. It"
                " would be pruned wrongly, so correct its family file, or write one and name that as `family`"
            )


def _faults_of(
    check: Callable[[PreTrainedModel, Family], Iterator[str]], model: PreTrainedModel, family: Family
) -> Iterator[str]:
    """What a check finds; if the model cannot be run as described, that is a fault too."""
    try:
        yield from check(model, family)
    except torch.OutOfMemoryError:
        raise
    except (ArithmeticError, AttributeError, LookupError, NameError, RuntimeError, TypeError, ValueError) as error:
        yield f"it cannot be run as described ({type(error).__name__}: {(str(error).splitlines() or [''])[0]})"


def _fields(model: PreTrainedModel, family: Family) -> Iterator[str]:
    """Fields that the configuration lacks."""
    state = model.state_dict()
    used = {"layer", *(axis for name in state for axis in plain_axes(family.axes(name) or ()) if axis is not None)}
    for unsized in sorted(used - set(family.sizes)):
        yield f"sizes: nothing says which field of its configuration is the size of {unsized!r}"
    facts = {
        **{f"sizes.{dimension}": field for dimension, field in family.sizes.items() if dimension in used},
        **{f"logits.{name}": field for name, field in family.logits.model_dump().items()},
        **{f"absent.{field}": field for field in family.absent},
        **{f"experts.{name}": field for name, field in (family.experts.fields if family.experts else {}).items()},
        "block.residual_scale": family.block.residual_scale,
        "bound_layers": family.bound_layers if isinstance(family.bound_layers, str) else None,
    }
    for fact, field in facts.items():
        if field is not None and not hasattr(model.config, field):
            yield f"{fact}: its configuration has no field {field!r}"


def _modules(model: PreTrainedModel, family: Family) -> Iterator[str]:
    """Modules that do not exist."""
    for name, path in family.modules.model_dump().items():
        if not has_module(model, path):
            yield f"modules.{name}: it has no module {path!r}"
    if not has_module(model, family.modules.layers):
        return
    layers, number = family.decoder_layers(model), getattr(model.config, family.sizes["layer"])
    if not isinstance(layers, nn.ModuleList) or len(layers) != number:
        yield f"modules.layers: {family.modules.layers!r} is not the list of its {number} layers"
        return
    for name, path in family.block.model_dump(exclude={"residual_scale"}).items():
        if path is not None and not all(has_module(layer, path) for layer in layers):
            yield f"block.{name}: its layers have no module {path!r}"
    if family.experts is not None and not family.pruned_layers(model):
        yield f"experts.module: none of its layers has a module {family.experts.module!r}"


def _tensors(model: PreTrainedModel, family: Family) -> Iterator[str]:
    """Tensors that are not named, or whose shape does not match their axes."""
    sizes = {dimension: getattr(model.config, field, None) for dimension, field in family.sizes.items()}
    state = model.state_dict()
    unnamed = [name for name in state if family.axes(name) is None]
    if unnamed:
        alike = list(dict.fromkeys(re.sub(r"\.\d+\.", ".N.", name) for name in unnamed))
        named = ", ".join(alike[:MOST_NAMED]) + ", …" * (len(alike) > MOST_NAMED)
        yield f"tensors: nothing says what the axes of {len(unnamed)} of its {len(state)} tensors are ({named})"
        return
    for name, tensor in state.items():
        axes = family.axes(name) or ()
        if len(axes) != tensor.ndim:
            yield f"tensors: {name} has {tensor.ndim} axes, not {len(axes)}"
        elif (mismatch := misfit(axes, tensor.shape, sizes)) is not None:
            axis, wanted = mismatch
            yield f"tensors: {name} of shape {tuple(tensor.shape)} has no axis of {wanted} ({axis})"


def _per_layer(model: PreTrainedModel, family: Family) -> Iterator[str]:
    """Fields that would be wrong once layers are removed."""
    fields, layers = model.config.to_dict(), len(family.decoder_layers(model))
    declared = inspect.signature(type(model.config)).parameters
    for name, value in fields.items():
        listed = isinstance(value, (list, tuple)) and len(value) == layers > 1
        if listed and name in declared and name not in family.per_layer and not name.endswith("_token_id"):
            yield f"per_layer: its configuration has {name!r} with an entry per layer"
    for name in family.per_layer:
        value = fields.get(name)
        if value is not None and not (isinstance(value, (list, tuple)) and len(value) == layers):
            yield f"per_layer: {name!r} of its configuration is not a list of {layers} entries, one for each layer"


def _shorter(model: PreTrainedModel, family: Family) -> Iterator[str]:
    """Whether the new configuration is that of the new tensors, and layers are the same at other positions: a model
    without its first layer (if its layers may be removed), and with one more neuron and token, is built without
    weights."""
    shape = shape_of(model, family)
    layers, (gone, *others) = range(shape["layer"]), family.pruned_layers(model)
    may_go = others and not family.has_bound_layers(model.config)
    kept = [index for index in layers if index != gone or not may_go]
    # another valid size of each
    sizes = {"neuron": shape["neuron"] + 1, "vocab": shape["vocab"] + 1}
    if family.experts is not None:
        sizes["expert"] = shape["expert"] + family.experts.group_count(model.config)
        if family.experts.shared is not None:
            whole = shape["neuron"] * getattr(model.config, family.experts.shared)
            sizes["neuron"] = next(size for size in range(shape["neuron"] // 2, 0, -1) if whole % size == 0)
    try:
        with torch.device("meta"):
            configs = [resized_config(model.config, family, places, sizes) for places in (layers, kept)]
            longer, shorter = (new_model(type(model), config).eval() for config in configs)
    except Exception as error:  # configurations check themselves in many ways
        yield f"per_layer: its configuration does not allow other sizes ({(str(error).splitlines() or [''])[0]})"
        return
    for place, module in enumerate(family.decoder_layers(shorter)):
        if different := _first_difference(family.decoder_layers(longer)[kept[place]], module):
            yield (
                f"per_layer: layer {kept[place]} would have a different {different} if it were layer {place} (where"
                " that cannot be helped, `bound_layers` says that all layers stay)"
            )
            return
    other = {name: torch.empty(size, dtype=torch.int64, device="meta") for name, size in sizes.items()}
    dense = model.state_dict()
    for name, tensor in shorter.state_dict().items():
        layer, rest = family.layer_of(name)
        before = dense[name if layer is None else family.in_layer(kept[layer], rest)].to("meta")
        if (cut_to := select_along(before, family.axes(name) or (), other).shape) != tensor.shape:
            yield f"tensors: {name} would be {tuple(cut_to)} where the new configuration has {tuple(tensor.shape)}"


def _first_difference(layer: nn.Module, other: nn.Module) -> str | None:
    """The first plain attribute in which two layers differ, apart from their own index."""
    modules, others = dict(layer.named_modules()), dict(other.named_modules())
    if different := set(modules) ^ set(others):
        return f"module {sorted(different)[0]!r}"
    for path, module in modules.items():
        for name, value in vars(module).items():
            if name.startswith("_") or "layer_idx" in name or not isinstance(value, PLAIN):
                continue
            if getattr(others[path], name, None) != value:
                return f"{path}.{name}".removeprefix(".")
    return None


@torch.no_grad()
def _functions(model: PreTrainedModel, family: Family) -> Iterator[str]:
    """What the model computes, against what the family says it computes."""
    layers = family.decoder_layers(model)
    config = model.config
    block = family.block
    tokens, pruned = _few_tokens(model, family), family.pruned_layers(model)
    inputs, packed = layer_inputs(model, family, tokens), layer_inputs(model, family, _twice(tokens))
    stream = inputs.hidden
    hidden = inputs.hidden.float()
    both = packed.hidden.float()
    paths = [path for path in block.model_dump(exclude={"residual_scale"}).values() if path]
    for index, layer in enumerate(layers):
        stream = run_layer(layer, stream, inputs.kwargs[index])
        # one layer at a time in float32, where rounding cannot hide a wrong fact
        layer, kwargs = copy.deepcopy(layer).float(), _in_float32(inputs.kwargs[index])
        with recorded(layer, *paths) as runs:
            after = run_layer(layer, hidden, kwargs)
        if not torch.isfinite(after).all():
            return  # the measurements on the model report that
        both = run_layer(layer, both, _in_float32(packed.kwargs[index]))
        first, second = both.chunk(2, dim=1)
        if not _same(first, second):
            yield f"separates_documents: layer {index} lets documents of one row see each other"
            return
        yield from _sum_faults(family, config, index, hidden, after, runs)
        if family.experts is None:
            read, output = runs[block.ffn_out]
            if not _same(output, nn.functional.linear(read, family.ffn_out_matrix(layer), family.ffn_out(layer).bias)):
                yield f"block.ffn_out: layer {index} does not multiply its neurons by {family.ffn_out_name}"
        elif family.has_experts(layer):
            yield from _experts(family, config, layer, index, hidden, kwargs)
        if index in (pruned[0], pruned[-1]):
            with recorded(layer, block.ffn_out) as permuted:
                _run_permuted(family, config, layer, hidden, kwargs)
            if not _same(runs[block.ffn_out][1], permuted[block.ffn_out][1]):
                yield f"tensors: permuting neurons or experts changes layer {index}, so their axes are others"
        hidden = after
    yield from _head_faults(model, family, tokens, stream, hidden)


def _sum_faults(
    family: Family,
    config: Any,
    index: int,
    hidden: torch.Tensor,
    after: torch.Tensor,
    runs: Mapping[str, tuple[torch.Tensor, torch.Tensor]],
) -> Iterator[str]:
    """What a layer adds to its input, against what the family says that it adds."""
    block = family.block
    scale = block.scale(config)
    for out, norm in ((block.attention_out, block.attention_post_norm), (block.ffn_out, block.ffn_post_norm)):
        if norm is not None and not _same(runs[norm][0], runs[out][1]):
            yield f"block: in layer {index} {norm} does not read the output of {out}"
    added = scale * runs[block.ffn_post_norm or block.ffn_out][1]
    attention = scale * runs[block.attention_post_norm or block.attention_out][1]
    if not _is_sum(after, hidden, attention, added):
        yield f"block: layer {index} does not add {block.attention_out} and {block.ffn_out} to its input"


def _head_faults(
    model: PreTrainedModel, family: Family, tokens: PackedTokens, stream: torch.Tensor, hidden: torch.Tensor
) -> Iterator[str]:
    """Final norm and output head, against what the family says of them.

    Args:
        stream, hidden (`torch.Tensor`): the output of the last layer in the model's dtype, and in float32.
    """
    final_norm = model.get_submodule(family.modules.final_norm)
    head = OutputHead(model, family)
    tolerance = EXACT if model.dtype in (torch.float32, torch.float64) else ROUNDED
    # small logits show multipliers, large ones a softcap
    for size in (1.0, 30.0):
        factor = size / float(head.raw(final_norm(stream)[0]).abs().max().clamp_min(1e-9))
        own, read = _with_scaled_norm(model, final_norm, factor, tokens)
        if not torch.isfinite(own).all():
            return
        if not _same(read.float(), (final_norm(stream) * factor).float(), tolerance):
            yield f"modules: the output head does not read {family.modules.final_norm} applied to the last layer"
        if not _same(own[0].float(), head.logits(read[0]), tolerance / 3):
            yield "logits: the model's own are not those of the output head on the final norm, with what logits states"
    if not _same_norm(copy.deepcopy(final_norm).float(), family, hidden):
        yield f"norm: {family.modules.final_norm} is not of kind {family.norm.kind!r} with offset {family.norm.offset}"


def _with_scaled_norm(
    model: PreTrainedModel, norm: nn.Module, factor: float, tokens: PackedTokens
) -> tuple[torch.Tensor, torch.Tensor]:
    """The model's logits when the output of its final norm is scaled, and what the output head then reads."""
    read: list[torch.Tensor] = []

    def scale(module: nn.Module, args: tuple, output: torch.Tensor) -> torch.Tensor:
        read.append(output * factor)
        return read[-1]

    handle = norm.register_forward_hook(scale)
    try:
        return model(**tokens.model_inputs(model.device), return_dict=True).logits, read[-1]
    finally:
        handle.remove()


def _few_tokens(model: PreTrainedModel, family: Family) -> PackedTokens:
    """A row of different tokens, if there are enough."""
    rows = model.get_parameter(f"{family.modules.embeddings}.weight").shape[0]
    number = min(TOKENS, getattr(model.config, "max_position_embeddings", None) or TOKENS)
    ids = torch.arange(1, number + 1)[None] * rows // (number + 1)
    return PackedTokens(ids, torch.arange(number)[None], torch.ones_like(ids, dtype=torch.bool))


def _in_float32(kwargs: dict[str, Any]) -> dict[str, Any]:
    """The same arguments with every floating-point tensor in them in float32."""
    return recursively_apply(
        lambda tensor: tensor.float(),
        kwargs,
        test_type=lambda value: isinstance(value, torch.Tensor) and value.is_floating_point(),
    )


@torch.no_grad()
def _configuration(model: PreTrainedModel, family: Family) -> Iterator[str]:
    """Whether the configuration that would be written if nothing were removed is still that of the model."""
    shape = shape_of(model, family)
    config = resized_config(model.config, family, range(shape["layer"]), shape)
    rewritten = sharing_weights(model, config, model.device)
    with torch.device("meta"):
        before = new_model(type(model), copy.deepcopy(model.config)).eval()
    pairs = zip(*(family.decoder_layers(one) for one in (before, rewritten)), strict=True)
    for index, (layer, other) in enumerate(pairs):
        if different := _first_difference(layer, other):
            yield f"with the fields that pruning writes, layer {index} has a different {different}"
            return
    buffers = dict(model.named_buffers())  # casting a model also rounds those that are computed
    for path, module in rewritten.named_modules():
        for name, _ in module.named_buffers(recurse=False):
            setattr(module, name, buffers.get(f"{path}.{name}".lstrip("."), getattr(module, name)))
    tokens = _few_tokens(model, family).model_inputs(model.device)
    own, other = (one(**tokens, return_dict=True).logits.float() for one in (model, rewritten))
    # the same products of the same numbers, so that nothing is left to rounding
    if torch.isfinite(own).all() and not _same(own, other, REPEATED):
        yield "sizes, per_layer, layer_counts, absent, experts: with what pruning writes for them the logits differ"


def _twice(tokens: PackedTokens) -> PackedTokens:
    """A row with the first half of a row twice, as two documents."""
    half = max(1, tokens.input_ids.shape[1] // 2)
    ids, positions = (part[:, :half].repeat(1, 2) for part in (tokens.input_ids, tokens.position_ids))
    return PackedTokens(ids, positions, torch.ones_like(ids, dtype=torch.bool))


def _same(first: torch.Tensor, second: torch.Tensor, tolerance: float = EXACT) -> bool:
    """Whether two results differ only by rounding, each channel (of the last axis) measured relative to its own size,
    except channels that are close to zero."""
    size, difference = (part.flatten(0, -2).norm(dim=0) for part in (first, first - second))
    return bool((difference <= tolerance * (size + tolerance * size.max())).all())


def _is_sum(result: torch.Tensor, *parts: torch.Tensor) -> bool:
    """Whether a result is the sum of float32 parts, up to the rounding of each number: a few channels of the stream
    are larger than all others, and must not hide errors in these."""
    rounding = 16 * torch.finfo(torch.float32).eps * sum(part.abs() for part in (result, *parts))
    return bool(((result - sum(parts)).abs() <= rounding).all())


def _experts(
    family: Family, config: Any, layer: nn.Module, index: int, hidden: torch.Tensor, kwargs: dict[str, Any]
) -> Iterator[str]:
    """Whether the experts of a layer, run one at a time, add up to what the layer computes with them."""
    with routed(family, layer) as seen:
        run_layer(layer, hidden, kwargs)
    batch, experts = seen[0], ExpertWeights(family, layer, layer.state_dict())
    if batch.experts.shape[1] != getattr(config, family.mixture.per_token):
        yield f"experts.per_token: layer {index} sends a token to {batch.experts.shape[1]} experts"
        return
    together = torch.zeros_like(batch.output)
    for expert in batch.experts.unique().tolist():
        sent, weights = batch.sent_to(expert)
        neurons = experts.neurons(expert, batch.hidden[sent])
        output = nn.functional.linear(neurons, experts.out(expert), experts.out_bias(expert))
        together[sent] += weights[:, None] * output
    if not _same(together, batch.output):
        yield f"experts: those of layer {index} do not multiply their neurons by {family.ffn_out_name}"


def _run_permuted(family: Family, config: Any, layer: nn.Module, hidden: torch.Tensor, kwargs: dict[str, Any]) -> None:
    """Runs a layer whose neurons and experts were permuted in every tensor that has them; experts of a group stay
    together."""
    state = layer.state_dict()
    axes = {name: family.axes(family.in_layer(0, name)) or () for name in state}
    orders, generator = {}, torch.Generator().manual_seed(0)
    for axis, size in zip(axes[family.ffn_out_name], state[family.ffn_out_name].shape, strict=True):
        if axis == "neuron":
            orders[axis] = torch.randperm(size, generator=generator)
        elif axis == "expert":
            groups = family.mixture.group_count(config)
            inside = torch.stack([torch.randperm(size // groups, generator=generator) for _ in range(groups)])
            places = torch.randperm(groups, generator=generator)
            orders[axis] = (inside + places[:, None] * (size // groups)).flatten()
    moved = [name for name in state if set(orders) & set(plain_axes(axes[name]))]
    weights = {name: select_along(state[name], axes[name], orders) for name in moved}
    functional_call(layer, weights, (hidden,), kwargs)


def _same_norm(norm: nn.Module, family: Family, hidden: torch.Tensor) -> bool:
    """Whether a norm in float32 is of the stated kind, judged by its output for numbers so large that epsilon has no
    effect."""
    weight, bias = getattr(norm, "weight", None), getattr(norm, "bias", None)
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(TOKENS, hidden.shape[-1], generator=generator).to(hidden) * 100 + 100
    exact = inputs - inputs.mean(dim=-1, keepdim=True) if family.norm.kind == "layer" else inputs
    exact = exact / family.norm.square(inputs)[..., None].sqrt()
    exact = exact if weight is None else exact * (weight + family.norm.offset)
    return _same(norm(inputs), exact if bias is None else exact + bias)
