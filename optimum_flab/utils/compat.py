"""Non-public names of other libraries, each behind one function. Elsewhere only the modules that call llama.cpp
import any: the functions in `llama_cpp_py_sync._cffi_bindings`.

Each docstring says why there is no public way. `tests/test_compat.py` fails where a library drops one. Libraries are
imported where they are used, so that this module costs nothing when `optimum-cli` starts.
"""

from __future__ import annotations

import argparse
import inspect
from argparse import Action, ArgumentParser
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, TypeVar
from unittest.mock import patch


if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedConfig, PreTrainedModel, Trainer, TrainingArguments


Model = TypeVar("Model", bound="PreTrainedModel")
TrainerClass = TypeVar("TrainerClass", bound="type[Trainer]")
Constructor = TypeVar("Constructor", bound=Callable[..., None])


# --- transformers: models ------------------------------------------------------------------------------------------


def new_model(kind: type[Model], config: PreTrainedConfig, **options: Any) -> Model:
    """A model of exactly this class with new weights. `AutoModelForCausalLM.from_config` chooses the class itself, and
    the constructor ignores both dtype and attention implementation.

    Args:
        kind (`type`): its class.
        config (`PreTrainedConfig`): its configuration.
        options (`Any`): `dtype` (`torch.dtype`) and `attn_implementation` (`str`).
    """
    return kind._from_config(config, **options)


def attention_of(config: PreTrainedConfig) -> str | None:
    """Which attention implementation a model was made with; an argument sets it, and nothing public reads it."""
    return getattr(config, "_attn_implementation", None)


def experts_of(config: PreTrainedConfig) -> str | None:
    """The implementation by which the experts of a mixture are computed, such as `"eager"`; `None`: the default."""
    return getattr(config, "_experts_implementation", None)


def set_experts(config: PreTrainedConfig, implementation: str | None) -> None:
    """Chooses how the experts of a mixture are computed; models take no argument for it once they are made."""
    config._experts_implementation = implementation


@contextmanager
def experts_by(config: PreTrainedConfig, implementation: str) -> Iterator[None]:
    """Computes the experts of a mixture in another way within a block."""
    before = experts_of(config)
    set_experts(config, implementation)
    try:
        yield
    finally:
        set_experts(config, before)


def cache_argument(function: Callable[..., Any]) -> str:
    """The name under which a function of transformers takes a cache of keys and values: `past_key_values` was renamed
    in 5.24."""
    return "cache" if "cache" in inspect.signature(function).parameters else "past_key_values"


def set_conversions(model: PreTrainedModel, conversions: Sequence[object]) -> None:
    """Tells a model which conversions made its tensors from the stored ones, as `from_pretrained` does: they are
    reverted on saving."""
    model._weight_conversions = list(conversions)


def optional_tensors(model: PreTrainedModel) -> list[str]:
    """Patterns of tensors that a model's class does not report as missing."""
    return list(model._keys_to_ignore_on_load_missing or ())


def ignored_tensors(model: PreTrainedModel) -> list[str]:
    """Patterns of stored tensors that a model's class ignores."""
    return list(model._keys_to_ignore_on_load_unexpected or ())


def forget_quantisation(model: PreTrainedModel) -> None:
    """Turns a dequantised model into an ordinary one that can be saved; `dequantize` does so for some methods only,
    and not for GGUF."""
    for attribute in ("hf_quantizer", "quantization_method", "is_quantized", "_is_quantized"):
        if attribute in vars(model):
            delattr(model, attribute)
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config


def commit_of(config: PreTrainedConfig) -> str | None:
    """The commit of the Hub repository that a configuration was read from, where the release of transformers records
    it (5.24 no longer does); nothing public says so."""
    return getattr(config, "_commit_hash", None)


def forget_origin(model: PreTrainedModel) -> None:
    """Makes a model forget where it was loaded from, which adapters would write down as their base."""
    model.config._name_or_path = model.name_or_path = ""


def shard_on_any_device(trainer: Trainer) -> None:
    """Makes a trainer that was told to shard its model do so on the CPU too, where accelerate's state ignores it, and
    sum gradients of shards in float32, for which its arguments have no field."""
    import torch
    from accelerate import FullyShardedDataParallelPlugin, PartialState
    from accelerate.utils import DistributedType

    state = trainer.accelerator.state
    if state.distributed_type != DistributedType.FSDP:
        state.fsdp_plugin = FullyShardedDataParallelPlugin(**trainer.args.fsdp_plugin_args)
        # the state of the trainer takes it from that of the process whenever it is asked for anew
        state.distributed_type = PartialState().distributed_type = DistributedType.FSDP
        if state.mixed_precision != "no":
            state.fsdp_plugin.set_mixed_precision(state.mixed_precision)
        trainer.is_fsdp_enabled = True
    if (policy := state.fsdp_plugin.mixed_precision_policy) is not None:
        state.fsdp_plugin.mixed_precision_policy = replace(policy, reduce_dtype=torch.float32)


# --- torch ---------------------------------------------------------------------------------------------------------


@contextmanager
def gguf_fields_by(read: Callable[[Path], Any]) -> Iterator[None]:
    """While the block runs, transformers reads what stands before the tensors of a GGUF file by another function: its
    own way makes an array of every token, several times over, which takes a minute for a large vocabulary, and it
    takes no reader from outside.

    Args:
        read (`Callable`): returns what has `entries`, by name each with a `value` and the number of its `kind`, and
            the names of the tensors as the keys of `tensors`.
    """
    import gguf

    def part(value: Any) -> Any:
        return value.encode("utf-8", "surrogateescape") if isinstance(value, str) else (value,)

    def field(entry: Any) -> SimpleNamespace:
        is_list = isinstance(entry.value, list)
        parts = list(map(part, entry.value if is_list else [entry.value]))
        types = [*([gguf.GGUFValueType.ARRAY] if is_list else []), entry.kind]
        return SimpleNamespace(parts=parts, data=range(len(parts)), types=types)

    class Reader:
        def __init__(self, path: str):
            header = read(Path(path))
            self.fields = {name: field(entry) for name, entry in header.entries.items()}
            self.tensors = [SimpleNamespace(name=name) for name in header.tensors]

    with patch.object(gguf, "GGUFReader", Reader):
        yield


@contextmanager
def operations_seen(see: Callable[[str, tuple[Any, ...], Any], None], operations: Collection[str]) -> Iterator[None]:
    """Within this context `see` is called after some of the operations that this thread has torch compute, those of
    backward passes too. Hooks of modules and modes of functions do not see these.

    Args:
        see (`Callable`): gets the name, the arguments by position and the result.
        operations (`Collection[str]`): names, such as `"aten::mm"`.
    """
    from torch.utils._python_dispatch import TorchDispatchMode

    class Seen(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
            result = func(*args, **(kwargs or {}))
            name = func.name().partition(".")[0]
            if name in operations:
                see(name, args, result)
            return result

    with Seen():
        yield


# --- transformers: training ----------------------------------------------------------------------------------------


def use_one_device(arguments: TrainingArguments, device: torch.device) -> None:
    """Makes a process train on one device. Each of several visible GPUs would get a batch of its own, and a process
    without others takes the first of them, whichever is the current one; both arguments are computed."""
    import torch

    arguments._n_gpu = min(1, arguments.n_gpu)
    if device.type == "cuda":
        vars(arguments)["_setup_devices"] = device
        torch.cuda.set_device(device)  # accelerate asks for "cuda", whichever that is


def sequential_sampling(trainer: TrainerClass) -> TrainerClass:
    """Makes a trainer class take rows in dataset order (`train_sampling_strategy="sequential"` of newer releases; the
    oldest that is supported has no such argument)."""
    from torch.utils.data import SequentialSampler

    def sampler(self: Trainer, train_dataset: Any = None) -> SequentialSampler:
        return SequentialSampler(self.train_dataset if train_dataset is None else train_dataset)

    trainer._get_train_sampler = sampler
    return trainer


# --- torch ---------------------------------------------------------------------------------------------------------


def storage_of(tensor: torch.Tensor) -> int:
    """A number common to all tensors that share memory; on the meta device none of them has an address."""
    return tensor.untyped_storage()._cdata


# --- lm-eval -------------------------------------------------------------------------------------------------------


def read_task_file(path: Path) -> dict[str, Any]:
    """A task's YAML with what it includes, and the paths of functions in place of them; `TaskManager` only gives
    configurations of tasks that it has found."""
    from lm_eval.tasks._yaml_loader import load_yaml

    return load_yaml(path, resolve_func=False)


def build_task(manager: Any, name: str, changes: Mapping[str, Any]) -> Any:
    """The task, the group or the list of tasks that a name in a `TaskManager` stands for; its `load` takes no changes
    to the configuration.

    Args:
        changes (`Mapping`): values of a task's configuration that replace those of its YAML.
    """
    return manager._factory.build(manager.task_index[name], overrides=dict(changes), registry=manager.task_index)


def filters_of(task: object) -> Sequence[Any]:
    """The filters that a task sends answers through; only its configuration can set them."""
    return getattr(task, "_filters", ())


# --- codecarbon ----------------------------------------------------------------------------------------------------


def measured_hardware(tracker: object) -> Sequence[object]:
    """The parts of a machine that a tracker measures."""
    return getattr(tracker, "_hardware", ())


def mode_and_watts(part: object) -> tuple[str | None, float | None]:
    """How a part of a machine is measured, and the power assumed for it; the results do not say."""
    return getattr(part, "_mode", None), getattr(part, "_tdp", None)


# --- pydantic ------------------------------------------------------------------------------------------------------


def base_init(constructor: Constructor) -> Constructor:
    """Makes the constructor of a pydantic model one for callers only: a model inside another is validated without it,
    so that its faults are listed with those of the outer one."""
    constructor.__pydantic_base_init__ = True  # type: ignore[attr-defined]
    return constructor


# --- argparse ------------------------------------------------------------------------------------------------------


ArgumentGroup = argparse._ArgumentGroup  # what `add_argument_group` returns has no public name


def actions_of(parser: ArgumentParser) -> list[Action]:
    """The arguments of a parser, in order; there is no public list of them."""
    return parser._actions
