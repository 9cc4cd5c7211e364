"""Whether a model is what its family says: asked of the model itself, on a few tokens, before any work."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.func import functional_call

from ..errors import FlabError
from .schema import Block, Family, cut, parts_of, plain_axes


TOKENS = 16
# the largest difference that rounding explains, as a share of the largest number compared
TOLERANCES = {torch.float64: 1e-4, torch.float32: 1e-3, torch.bfloat16: 0.08, torch.float16: 0.02}
PLAIN = (bool, int, float, str, type(None))


def check_family(model: nn.Module, family: Family) -> None:
    """Compares a model with the facts of its family: names, sizes and layout of its tensors, the fields of its
    configuration, layer by layer what the FFN reads and adds, and the output head against the model's own logits.

    Args:
        model (`PreTrainedModel`): in evaluation mode; one on the meta device is not run.

    Raises:
        [`FlabError`]: says what differs.
    """
    # the later checks need what the earlier ones found to be there
    run = () if model.device.type == "meta" else (_functions, _packing)
    for check in (_fields, _modules, _tensors, _per_layer, _places, *run):
        if faults := list(_found(check, model, family)):
            more = f"; and {len(faults) - 3} more" if len(faults) > 3 else ""
            raise FlabError(
                f"this {family.model_type} model is not as its family is described: {'; '.join(faults[:3])}{more}. It"
                " would be pruned wrongly, so describe it in a family file of its own and name that with --family"
            )


def _found(check: Callable[[nn.Module, Family], Iterator[str]], model: nn.Module, family: Family) -> Iterator[str]:
    """What a check finds; that the model cannot be run as it is described is a fault too."""
    try:
        yield from check(model, family)
    except torch.OutOfMemoryError:
        raise
    except (AttributeError, IndexError, KeyError, RuntimeError, TypeError) as error:
        yield f"it cannot be run as that says ({type(error).__name__}: {str(error).splitlines()[0]})"


def _fields(model: nn.Module, family: Family) -> Iterator[str]:
    """Fields that the configuration lacks."""
    block, logits, used = family.block, family.logits, _used_dimensions(model, family) | {"layer"}
    for dimension, field in family.sizes.items():
        if dimension in used and not hasattr(model.config, field):
            yield f"sizes.{dimension}: its configuration has no field {field!r}"
    for dimension in sorted(used - set(family.sizes)):
        yield f"sizes: nothing says which field of its configuration is the size of {dimension!r}"
    facts = {
        "fixed_depth": family.fixed_depth,
        "block.residual_scale": block.residual_scale,
        **{f"logits.{name}": field for name, field in logits.model_dump().items()},
    }
    for fact, field in facts.items():
        if field is not None and not hasattr(model.config, field):
            yield f"{fact}: its configuration has no field {field!r}"


def _used_dimensions(model: nn.Module, family: Family) -> set[str]:
    return {axis for name in model.state_dict() for axis in plain_axes(family.axes(name) or ()) if axis is not None}


def _modules(model: nn.Module, family: Family) -> Iterator[str]:
    """Modules that are not there."""
    for name, path in family.modules.model_dump().items():
        if not _has(model, path):
            yield f"modules.{name}: it has no module {path!r}"
    if not _has(model, family.modules.layers):
        return
    layers, number = family.decoder_layers(model), getattr(model.config, family.sizes["layer"])
    if not isinstance(layers, nn.ModuleList) or len(layers) != number:
        yield f"modules.layers: {family.modules.layers!r} is not the list of its {number} layers"
        return
    for name, path in family.block.model_dump(exclude={"residual_scale"}).items():
        if path is not None and not all(_has(layer, path) for layer in layers):
            yield f"block.{name}: its layers have no module {path!r}"


def _has(module: nn.Module, path: str) -> bool:
    try:
        module.get_submodule(path)
    except AttributeError:
        return False
    return True


def _tensors(model: nn.Module, family: Family) -> Iterator[str]:
    """Tensors that nobody named, or of another shape than their axes have."""
    sizes = {dimension: getattr(model.config, field, None) for dimension, field in family.sizes.items()}
    state = model.state_dict()
    unnamed = [name for name in state if family.axes(name) is None]
    if unnamed:
        yield f"tensors: nothing says what the axes of {len(unnamed)} of its {len(state)} tensors are ({unnamed[0]})"
        return
    for name, tensor in state.items():
        axes = family.axes(name)
        if len(axes) != tensor.ndim:
            yield f"tensors: {name} has {tensor.ndim} axes, not {len(axes)}"
            continue
        for size, axis, dimension in zip(tensor.shape, axes, plain_axes(axes), strict=True):
            if axis is None or sizes[dimension] is None:
                continue
            wanted = sizes[dimension] * parts_of(axis)
            # heads are blocks of numbers, of a size that the configurations call by many names
            fits = size % wanted == 0 if dimension in ("head", "kv_head") else size == wanted
            if not fits:
                yield f"tensors: {name} of shape {tuple(tensor.shape)} has no axis of {wanted} ({axis})"
    ends = tuple(f"{path}." for path in (family.modules.embeddings, family.modules.output_head))
    for name, tensor in state.items():
        if name.startswith(ends) and tensor.shape[0] == sizes["vocab"] and family.axes(name)[0] != "vocab":
            yield f"tensors: {name} of shape {tuple(tensor.shape)} has an axis of the vocabulary that is not named"
    out = f"{family.block.ffn_out}.weight"
    if "neuron" not in plain_axes(family.axes(family.in_layer(0, out)) or ()):
        yield f"block.ffn_out: {out} has no axis of neurons"


def _per_layer(model: nn.Module, family: Family) -> Iterator[str]:
    """Fields that would be wrong once layers are removed."""
    fields, layers = model.config.to_dict(), len(family.decoder_layers(model))
    for name, value in fields.items():
        if isinstance(value, (list, tuple)) and len(value) == layers and name not in family.per_layer:
            if not (name.endswith("_token_id") or name in ("architectures",)):
                yield f"per_layer: its configuration has {name!r} with an entry per layer"
    for name in family.per_layer:
        if fields.get(name) is not None and len(fields[name]) != layers:
            yield f"per_layer: {name!r} of its configuration has {len(fields[name])} entries for {layers} layers"


def _places(model: nn.Module, family: Family) -> Iterator[str]:
    """Layers that would be others at another place: a model without the first layer is built, without weights, and
    its layers are compared with those that they shall be."""
    from ..surgery import resized_config

    layers = family.decoder_layers(model)
    if len(layers) < 2 or (family.fixed_depth and getattr(model.config, family.fixed_depth)):
        return
    try:
        with torch.device("meta"):
            shorter = type(model)._from_config(resized_config(model.config, family, range(1, len(layers)), {})).eval()
    except Exception as error:  # configurations check themselves in many ways
        yield f"per_layer: its configuration does not allow a layer less ({str(error).splitlines()[0]})"
        return
    for place, layer in enumerate(family.decoder_layers(shorter)):
        if different := _differing(layers[place + 1], layer):
            yield f"per_layer: layer {place + 1} would have another {different} if it were layer {place}"
            return


def _differing(layer: nn.Module, other: nn.Module) -> str | None:
    """The first plain attribute in which two layers differ, but for the place that they know themselves to be at."""
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
def _functions(model: nn.Module, family: Family) -> Iterator[str]:
    """What the model computes, against what the family says that it computes."""
    from ..calibration import PackedTokens
    from ..divergence import OutputHead
    from ..layerwise import captured, layer_inputs, run_layer

    layers, config, block = family.decoder_layers(model), model.config, family.block
    rows = model.get_submodule(family.modules.embeddings).weight.shape[0]
    ids = torch.arange(1, TOKENS + 1)[None] * rows // (TOKENS + 1)
    tokens = PackedTokens(ids, torch.arange(TOKENS)[None], torch.ones_like(ids, dtype=torch.bool))
    inputs = layer_inputs(model, family, tokens)
    hidden, scale = inputs.hidden, block.scale(config)
    for index, layer in enumerate(layers):
        with captured(family, config, layer) as seen, _last_runs(layer, block) as runs:
            after = run_layer(layer, hidden, inputs.kwargs[index])
        if len(runs) < sum(path is not None for path in _paths(block)):
            yield f"block: layer {index} does not run all of {', '.join(filter(None, _paths(block)))}"
            return
        matrix, bias = family.ffn_out_matrix(layer), family.ffn_out(layer).bias
        if not _same(seen.output, nn.functional.linear(seen.neurons, matrix, bias)):
            yield f"block.ffn_out: layer {index} does not multiply its neurons by {block.ffn_out}.weight"
        for out, norm in ((block.attention_out, block.attention_post_norm), (block.ffn_out, block.ffn_post_norm)):
            if norm is not None and not _same(runs[norm][0], runs[out][1]):
                yield f"block: in layer {index} {norm} does not read what {out} gives"
        added = runs[block.ffn_post_norm or block.ffn_out][1]
        if not _same(after, seen.stream + scale * added):
            yield (
                f"block: what layer {index} gives is not what it reads plus what {block.attention_out} and"
                f" {block.ffn_out} give, with the norms and the scale that are stated"
            )
        if index in (0, len(layers) - 1):
            for dimension in ("neuron", "expert"):
                if not _same(after, _permuted(family, layer, dimension, hidden, inputs.kwargs[index])):
                    yield (
                        f"tensors: layer {index} gives something else when its {dimension}s change places, so their"
                        " axes are others"
                    )
        hidden = after
    own = model(**tokens.model_inputs(hidden.device)).logits[0]
    norm = model.get_submodule(family.modules.final_norm)
    found = OutputHead(model, family).logits(norm(hidden)[0])
    if not _same(own.float(), found, own.dtype):
        yield "logits: its own are not those of the output head on the final norm, with what is stated under logits"
    if not _same_norm(norm, family, hidden):
        yield f"norm: {family.modules.final_norm} is not of kind {family.norm.kind!r} with offset {family.norm.offset}"


def _paths(block: Block) -> list[str | None]:
    return [block.attention_out, block.attention_post_norm, block.ffn_out, block.ffn_post_norm]


@contextmanager
def _last_runs(layer: nn.Module, block: Block) -> Iterator[dict[str, tuple[torch.Tensor, torch.Tensor]]]:
    """Within this context each run of a layer notes what the modules of its block read and give, by their paths."""
    runs: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}

    def noting(path: str) -> Callable[[nn.Module, tuple, torch.Tensor], None]:
        return lambda module, args, output: runs.update({path: (args[0], output)})

    handles = [layer.get_submodule(path).register_forward_hook(noting(path)) for path in filter(None, _paths(block))]
    try:
        yield runs
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def _packing(model: nn.Module, family: Family) -> Iterator[str]:
    """Whether documents of one row see each other, by a row with the same document twice."""
    from ..calibration import PackedTokens
    from ..divergence import final_hidden

    rows, half = model.get_submodule(family.modules.embeddings).weight.shape[0], TOKENS // 2
    ids, positions = torch.arange(1, half + 1)[None] * rows // (half + 1), torch.arange(half)[None]
    row = PackedTokens(ids.repeat(1, 2), positions.repeat(1, 2), torch.ones(1, TOKENS, dtype=torch.bool))
    first, second = final_hidden(model, family, row, 1).chunk(2)
    if not _same(first, second):
        yield f"{type(model).__name__} lets documents of one row see each other"


def _same(first: torch.Tensor, second: torch.Tensor, dtype: torch.dtype | None = None) -> bool:
    """Whether two results differ by rounding only."""
    largest = float(first.float().abs().max())
    difference = float((first.float() - second.float()).abs().max())
    return difference <= TOLERANCES[dtype or first.dtype] * largest


def _permuted(
    family: Family, layer: nn.Module, dimension: str, hidden: torch.Tensor, kwargs: dict[str, Any]
) -> torch.Tensor:
    """What a layer gives when the neurons (or experts) change places in every tensor that has them."""
    from ..layerwise import output_of

    generator, weights = torch.Generator().manual_seed(0), {}
    order: torch.Tensor | None = None
    for name, tensor in layer.named_parameters():
        axes = family.axes(family.in_layer(0, name)) or ()
        if dimension not in plain_axes(axes):
            continue
        if order is None:
            place = plain_axes(axes).index(dimension)
            order = torch.randperm(tensor.shape[place] // parts_of(axes[place]), generator=generator)
        weights[name] = cut(tensor, axes, {dimension: order})
    return output_of(functional_call(layer, weights, (hidden,), kwargs))


def _same_norm(norm: nn.Module, family: Family, hidden: torch.Tensor) -> bool:
    """Whether a norm is of the stated kind, by what it makes of numbers that no epsilon can be felt in."""
    weight, bias = getattr(norm, "weight", None), getattr(norm, "bias", None)
    generator = torch.Generator().manual_seed(0)
    given = torch.randn(TOKENS, hidden.shape[-1], generator=generator).to(hidden) * 100 + 100
    kind, offset = family.norm.kind, family.norm.offset
    exact = given.float()
    if kind == "layer":
        exact = exact - exact.mean(dim=-1, keepdim=True)
    exact = exact / family.norm.square(given)[..., None].sqrt()
    if weight is not None:
        exact = exact * (weight.float() + offset)
    if bias is not None:
        exact = exact + bias.float()
    return _same(norm(given), exact)
