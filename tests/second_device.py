"""A second device that computes on the CPU, and refuses operations on tensors of both, as accelerators do.

Run as a program it prunes a model there: `python -m tests.second_device MODEL SETTINGS OUT WEIGHTS...`; each of the
last is `there`, `in-files` or `spread` over both devices, and a folder in OUT. It is a process of its own, because a
device is registered for good. Needs torch 2.9.
"""

import json
import sys
from pathlib import Path

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only


NAME = "second"
aten = torch.ops.aten
BETWEEN = (aten._to_copy.default, aten.copy_.default)  # take tensors from one device to another
# by indices on the CPU, as on CUDA
INDEXING = (aten.index.Tensor, aten.index_put_.default, aten._index_put_impl_.default)


class OnSecond(torch.Tensor):
    """A tensor of the second device."""

    @staticmethod
    def __new__(cls, held):
        made = torch.Tensor._make_wrapper_subclass(
            cls,
            held.shape,
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device=torch.device(NAME, 0),
        )
        made.held = held
        return made

    def tolist(self):
        return self.held.tolist()

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        return run(function, args, kwargs or {})


class SecondDevice(TorchDispatchMode):
    """Within this context tensors can be made on the second device."""

    moved = 0  # bytes taken there

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        return run(function, args, kwargs or {})


class MadeFromData(TorchFunctionMode):
    """Tensors of Python's and numpy's data are made on the CPU and taken to the second device."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        device = kwargs.get("device")
        if function in (torch.as_tensor, torch.tensor) and device is not None and torch.device(device).type == NAME:
            return function(*args, **{**kwargs, "device": "cpu"}).to(device)
        return function(*args, **kwargs)


def register():
    from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

    _setup_privateuseone_for_python_backend(NAME)


def run(function, args, kwargs):
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
    second = [tensor for tensor in tensors if isinstance(tensor, OnSecond)]
    first = [tensor for tensor in tensors if not isinstance(tensor, OnSecond) and tensor.dim()]
    if second and first and function not in BETWEEN:
        if function not in INDEXING or not isinstance(args[0], OnSecond):
            raise RuntimeError(f"{function} of tensors on two devices")
    device, there = kwargs.get("device"), bool(second)
    if device is not None and (there := torch.device(device).type == NAME):
        kwargs = {**kwargs, "device": torch.device("cpu")}
    if function is aten.copy_.default:
        there = isinstance(args[0], OnSecond)
    wrapped = {id(tensor.held): tensor for tensor in second}
    args, kwargs = tree_map_only(OnSecond, lambda tensor: tensor.held, (args, kwargs))
    if function is aten.histc.default:  # of integers, which the CPU does not count
        found = function(args[0].float(), *args[1:], **kwargs)
    else:
        found = function(*args, **kwargs)
    if not there:
        return found
    if function is aten._to_copy.default and not second:
        SecondDevice.moved += found.nbytes
    return tree_map_only(
        torch.Tensor, lambda tensor: wrapped[id(tensor)] if id(tensor) in wrapped else OnSecond(tensor), found
    )


def with_odd_layers_elsewhere(optimizer):
    """The same model as accelerate distributes it, with every second layer on the CPU."""
    from optimum_flab import FlabOptimizer

    model = optimizer.dense.model
    for layer in model.base_model.layers[1::2]:
        for module in layer.modules():
            for name, parameter in list(module.named_parameters(recurse=False)):
                setattr(module, name, torch.nn.Parameter(parameter.detach().to("cpu"), requires_grad=False))
    model.hf_device_map = {"model.embed_tokens": f"{NAME}:0", "model.layers.1": "cpu"}
    return FlabOptimizer(model, optimizer.dense.tokenizer, output_dtype="bfloat16")


def main(model, settings, out, *places):
    register()
    print(json.dumps({place: pruned(model, settings, Path(out, place), place) for place in places}))


def pruned(model, settings, out, weights):
    from optimum_flab import FlabOptimizer, FlabPrunerConfig

    SecondDevice.moved = 0
    with SecondDevice(), MadeFromData():
        optimizer = FlabOptimizer.from_pretrained(
            model, device=NAME, dtype="float32", output_dtype="bfloat16", in_memory=weights != "in-files"
        )
        optimizer.dense.model.tie_weights()  # torch replaces parameters that change their class, one by one
        if weights == "spread":
            optimizer = with_odd_layers_elsewhere(optimizer)
        optimizer.prune(FlabPrunerConfig.from_yaml(settings), cache_dir=f"{out}-work")
        optimizer.save_pretrained(out)
    report = optimizer.pruned.report
    return {"moved": SecondDevice.moved, "on": report.computation.device, "notes": report.notes}


if __name__ == "__main__":
    main(*sys.argv[1:])
