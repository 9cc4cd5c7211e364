"""A model name, folder or GGUF file -> the dense model in memory; a model that cannot be pruned is refused before its
weights are read."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ..families import Family, family_for
from ..running.casting import dtypes_of
from ..running.placement import (
    devices_of,
    first_accelerator,
    placed,
    sharing_weights,
    spread,
    with_layers_elsewhere,
    without_hooks,
)
from ..tensors.gguf_files import near_equal_copies
from ..tensors.gguf_header import GgufTensor
from ..tensors.lazy import ModelTensors, own_tensors, under_all_names
from ..tensors.workspace import Workspace
from ..utils.compat import commit_of
from ..utils.errors import ConfigurationError
from ..utils.memory import give_back_memory
from ..utils.progress import progress_bar, say
from ..vocabulary.files import reload_tokenizer
from .computation import AUTO, choose_dtype, computation_devices
from .demo import DEMO_NAME, DEMO_TERMS
from .finding import ModelFiles, download_weights, find_license_files, find_model
from .model_config import check_config, read_model_config
from .self_check import check_family
from .tokenizer import check_loaded, check_vocabulary, load_tokenizer
from .weight_files import most_common, stored_dtype
from .weights import check_weights, drop_unwritable_settings, load_weights, lossless_tensors, tie_again, untie_config


if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase


# what is written in place of arguments that `from_pretrained` of transformers takes
INSTEAD = {
    "torch_dtype": "write `dtype`, as of transformers 4.56",
    "device_map": "`device` auto spreads a model over the GPUs there are; for anything else, load it with transformers"
    " and `device_map`, and pass it to `FlabOptimizer(model, tokenizer)`",
    "subfolder": "name the folder itself; one of a repository is downloaded by `hf download REPOSITORY --include"
    " 'SUBFOLDER/*'`",
    "quantization_config": "a quantised model cannot be pruned; prune the dense one, and quantise the result",
}

SPREAD = (
    "the weights are on several devices: names and shapes of its tensors were compared with the description of its"
    " family, but not what they compute"
)


@dataclass
class LoadedModel:
    """A model, dense or pruned before, with what is needed to write one like it.

    Args:
        model (`PreTrainedModel`): in evaluation mode, no parameter requires gradients.
        tokenizer (`PreTrainedTokenizerBase`): a fast tokenizer.
        family ([`Family`]): what its tensors are.
        name (`str`): what the user called it.
        revision (`str`, *optional*): the commit of a Hub repository.
        storage_dtype (`torch.dtype`): what most of its weights are stored in; bfloat16 for GGUF files.
        folder (`Path`, *optional*): where its files are.
        gguf (`Path`, *optional*): the GGUF file that it was read from.
        notes (`list[str]`): what the user should be told.
        license_files (`list[Path]`): licences and notices that belong to the weights.
        stored ([`~tensors.lazy.ModelTensors`], *optional*): the weights, where the model is on the meta device.
        computed_on (`torch.device`, *optional*): the device of the computation, if its weights are elsewhere.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    family: Family
    name: str
    revision: str | None = None
    storage_dtype: torch.dtype = torch.float32
    folder: Path | None = None
    gguf: Path | None = None
    notes: list[str] = field(default_factory=list)
    license_files: list[Path] = field(default_factory=list)
    stored: ModelTensors | None = None
    computed_on: torch.device | None = None

    @property
    def device(self) -> torch.device:
        """The device of the computation."""
        return self.computed_on or self.model.device

    @torch.no_grad()
    def with_weights(self, workspace: Workspace) -> LoadedModel:
        """The same model with weights that can be read, if they were left in their files: they are read from there
        when they are used, by the CPU, and are never all in memory.

        Args:
            workspace ([`Workspace`]): holds what is computed in another form than it is stored in: another dtype,
                experts stored one by one, quantised weights.
        """
        if self.stored is None:
            return self
        dtypes = dtypes_of(self.model)
        converted = self.converted_tensors()
        tensors = {}
        for name in progress_bar("Mapping weights", len(self.stored), "tensor", iterable=own_tensors(self.model)):
            tensor = self.stored[name]
            tensors[name] = workspace.copied(tensor.to(dtypes[name])) if name in converted else tensor
        cpu = torch.device("cpu")
        model = sharing_weights(self.model, self.model.config, cpu, under_all_names(self.model, tensors))
        model.generation_config = self.model.generation_config
        return replace(self, model=model, stored=None)

    def on_its_device(self) -> LoadedModel:
        """The same model to compute with: all but its decoder layers are on the device of the computation, and each
        layer is taken there when it is run."""
        if devices_of(self.model) == {self.device}:
            return self
        return replace(self, model=with_layers_elsewhere(self.model, self.family, self.device))

    def converted_tensors(self) -> set[str]:
        """Of weights in their files, those whose form in the computation differs from the stored one."""
        if self.stored is None:
            return set()
        stored, dtypes = self.stored, dtypes_of(self.model)
        return {
            name
            for name in own_tensors(self.model)
            if not stored.is_in_file(name) or stored.outlines[name].dtype != dtypes[name]
        }

    def check_unchanged(self) -> None:
        """Raises a [`FlabError`] if the files that weights were left in were modified in the meantime."""
        if self.stored is not None:
            self.stored.stored.check_unchanged()

    def check_in_memory(self) -> None:
        """Raises a [`ConfigurationError`] if the weights were left in their files, or are on several devices."""
        if self.stored is not None:
            raise ConfigurationError(
                "in_memory: the weights of the dense model are in their files, which is enough to prune it, to apply a"
                " plan and to save; load it with in_memory=True for everything else"
            )
        if len(places := devices_of(self.model)) > 1:
            raise ConfigurationError(
                f"the weights of the dense model are on {', '.join(sorted(map(str, places)))}, which is enough to"
                " prune it, to apply a plan and to save; load it on one device for everything else"
            )


def load_dense(
    model_name_or_path: str | Path,
    *,
    revision: str | None = None,
    trust_remote_code: bool = False,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype = "float32",
    family: str | Path | None = None,
    in_memory: bool | Callable[[PreTrainedConfig, Family, torch.dtype, torch.device], bool] = True,
    check: Callable[[PreTrainedConfig, Family, PreTrainedTokenizerBase], None] = lambda *model: None,
    attn_implementation: str | None = None,
    token: str | None = None,
    cache_dir: str | Path | None = None,
    **others: Any,
) -> LoadedModel:
    """Loads a causal language model to be pruned. What can be refused is refused before weights are downloaded or
    read.

    Args:
        model_name_or_path (`str` or `Path`): a Hub id, a local folder, a GGUF file or a folder with one, or
            `flab-demo`.
        revision (`str`, *optional*): branch, tag or commit of a Hub repository.
        trust_remote_code (`bool`): whether code from the repository may run.
        device (`str` or `torch.device`, *optional*): where to compute; default, and `"auto"`: CUDA if available and
            `in_memory` is not false, else the CPU. Of several GPUs then the first, and a model that it has no room for
            is spread over all.
        dtype (`str` or `torch.dtype`): what to compute in, see [`~checkpoints.computation.choose_dtype`] for `"auto"`.
            Peak memory is about one copy of the model in this dtype.
        family (`str` or `Path`, *optional*): a file that describes the model's family, see [`~families.read_family`].
            Defaults to the one beside a pruned model, else to one of the known families.
        in_memory (`bool` or `Callable`): where false, the weights stay in their files if those are safetensors or GGUF
            and transformers makes the model's tensors from them one by one, and the model is on the meta device:
            enough to apply a plan, and to prune, see [`LoadedModel.with_weights`]. May be a function of the model's
            configuration and family, and of the dtype and device of the computation; then the model is refused if they
            cannot stay.
        check (`Callable`): called with the model's configuration, family and tokenizer before its weights are read;
            may refuse it.
        attn_implementation (`str`, *optional*): how attention is computed, for example `"eager"`. Defaults to what
            transformers chooses.
        token, cache_dir: of the Hub, see [`~checkpoints.finding.find_model`].
        others (`Any`): refused by name, with what to write instead of what transformers takes.

    Returns:
        [`LoadedModel`]: the model in `dtype`, on `device` if its weights are in memory.

    Raises:
        [`FlabError`]: the model does not exist or cannot be reached, is not a causal language model, is quantised
            other than GGUF, is of an unsupported family or does not match the description of its family, needs custom
            code that was not allowed, or has no fast tokenizer that fits it.
        [`ConfigurationError`]: there is no such device or dtype, or the weights must stay in files but cannot.
    """
    for name in others:
        raise ConfigurationError(f"{name}: {INSTEAD.get(name, 'there is no such argument')}")
    devices = computation_devices("cpu" if in_memory is False and device in (None, AUTO) else device)
    device = devices[0]
    choose_dtype(dtype, torch.float32, device)  # an unknown one is refused first
    files = find_model(model_name_or_path, revision, family, token=token, cache_dir=cache_dir)
    config = read_model_config(files, trust_remote_code, attn_implementation)
    facts = family_for(config, files.family)
    tokenizer, notes = _read_tokenizer(files, config, trust_remote_code)
    if revision is not None and files.revision is None:
        notes.append(f"revision {revision!r} means nothing for local files and was ignored")
    finer_copy = _finer_copy(files, config, notes)
    as_loaded = copy.deepcopy(config)
    as_loaded.tie_word_embeddings |= finer_copy is not None
    check(as_loaded, facts, tokenizer)
    check_weights(files, config)
    dtype, storage_dtype = _resolve_dtypes(files, config, dtype, device, notes)
    must_stay = callable(in_memory) and not in_memory(as_loaded, facts, dtype, device)
    stored = None
    if must_stay or not in_memory:
        download_weights(files)
        stored = lossless_tensors(files, as_loaded, dtype, finer_copy)
    model = None
    if must_stay and stored is not None and len(devices) > 1:  # the first one keeps its memory for the computation
        model = spread(stored.model, facts, device, devices[1:], stored)
    if model is not None:
        stored = None
    elif must_stay:
        _say_that_weights_stay(files, stored, notes)
    if model is None:
        model = stored.model if stored else placed(_model_in_memory(files, config, dtype, finer_copy), facts, devices)
    if len(devices_of(model)) > 1:
        notes.append(SPREAD)
    model = model.eval().requires_grad_(False)
    _correct_configurations(model, files, notes)
    check_family(model, facts)
    return LoadedModel(
        model=model,
        tokenizer=tokenizer,
        family=facts,
        name=files.name,
        revision=files.revision,
        storage_dtype=storage_dtype,
        folder=files.folder,
        gguf=files.gguf,
        notes=notes,
        license_files=find_license_files(files.folder),
        stored=stored,
        computed_on=None if stored is None else device,
    )


def _read_tokenizer(
    files: ModelFiles, config: PreTrainedConfig, trust_remote_code: bool
) -> tuple[PreTrainedTokenizerBase, list[str]]:
    """The tokenizer of a model, and the first notes."""
    if files.gguf is not None:
        say(f"reading the tokenizer in the GGUF file of {files.name}")
    tokenizer, note = load_tokenizer(files, config, trust_remote_code)
    give_back_memory()  # it was read several times
    check_vocabulary(tokenizer, config, files.name)
    notes = [DEMO_TERMS] if files.name == DEMO_NAME else []
    return tokenizer, [*notes, note] if note else notes


def _finer_copy(files: ModelFiles, config: PreTrainedConfig, notes: list[str]) -> GgufTensor | None:
    """The finer one of embedding and output head, where a GGUF file holds one matrix as both."""
    if files.gguf is None or config.tie_word_embeddings:
        return None
    tensor, difference = near_equal_copies(files.gguf)
    if tensor is not None:
        notes.append(
            f"embedding and output head are two quantisations of one matrix ({difference:.1%} apart): tied again,"
            f" keeping the {tensor.kind.name} one"
        )
    return tensor


def _resolve_dtypes(
    files: ModelFiles, config: PreTrainedConfig, dtype: str | torch.dtype, device: torch.device, notes: list[str]
) -> tuple[torch.dtype, torch.dtype]:
    """What is computed in, and what most of the weights are to be stored in."""
    stored = stored_dtype(files, config)
    computed = choose_dtype(dtype, stored, device)
    if torch.promote_types(stored, computed) != computed:
        stored_in, computed_in = (str(one).removeprefix("torch.") for one in (stored, computed))
        notes.append(
            f"the weights are stored in {stored_in} and were rounded to {computed_in}, the dtype"
            " of the computation; `dtype` float32 keeps them as they are"
        )
        stored = computed
    if files.gguf is not None:
        notes.append(
            f"the GGUF file takes {files.gguf.stat().st_size / 1e6:,.0f} MB; sizes here are those of bfloat16 "
            "checkpoints"
        )
    return computed, stored


def _say_that_weights_stay(files: ModelFiles, stored: ModelTensors | None, notes: list[str]) -> None:
    """Raises a [`ConfigurationError`] if weights that do not fit in memory cannot stay in their files either."""
    if stored is None:
        raise ConfigurationError(
            f"memory_budget: {files.name!r} does not fit in the available memory, and its weights cannot stay in"
            " their files, which are neither safetensors nor GGUF files whose tensors can be read one by one;"
            " convert them, or set a memory_budget that is large enough"
        )
    notes.append("the weights stay in their files: pruning with all of them in memory would take more than is free")
    say(notes[-1])


def _model_in_memory(
    files: ModelFiles, config: PreTrainedConfig, dtype: torch.dtype, finer_copy: GgufTensor | None
) -> PreTrainedModel:
    model = load_weights(files, config, dtype)
    if finer_copy is not None and files.gguf is not None:
        tie_again(model, files.gguf, finer_copy)
    return model


def _correct_configurations(model: PreTrainedModel, files: ModelFiles, notes: list[str]) -> None:
    """Has the configurations say what was loaded, and only what can be written."""
    if untie_config(model):
        notes.append(
            "the configuration says that embedding and output head are one matrix, but the weights hold two: pruned as"
            " two"
        )
    if left_out := drop_unwritable_settings(model, files):
        notes.append(
            f"{', '.join(left_out)} of its generation settings have no effect as they stand, and were left out:"
            " without do_sample nothing is sampled, for example"
        )


def dense_from_memory(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, family: str | Path | None = None
) -> LoadedModel:
    """Takes a model and a tokenizer that are already in memory, after the checks of [`load_dense`].

    The model stays where it is and in its dtype; it is put in evaluation mode and its parameters stop requiring
    gradients. One that accelerate distributed over devices (`device_map`) is left as it is, and shared where possible:
    offloaded weights are taken to host memory. It computes on the first accelerator, and is not run for the checks.
    The tokenizer is copied.

    Raises:
        [`FlabError`]: the model is quantised, not a causal language model or of an unsupported family, or the
            tokenizer is not fast, does not fit, or differs when it is loaded from its files.
    """
    name = getattr(model.config, "name_or_path", "") or type(model).__name__
    check_config({**model.config.to_dict(), "architectures": [type(model).__name__]}, name)
    facts = family_for(model.config, family)
    check_loaded(tokenizer, name)
    check_vocabulary(tokenizer, model.config, name)
    tokenizer = reload_tokenizer(tokenizer, name, model.config.model_type)
    folder = Path(name) if Path(name).is_dir() else None
    device, notes = None, []
    if getattr(model, "hf_device_map", None):
        device = first_accelerator(model.hf_device_map.values())
        model = without_hooks(model, device)
        if len(devices_of(model)) > 1:
            notes.append(SPREAD)
    model = model.eval().requires_grad_(False)
    check_family(model, facts)
    return LoadedModel(
        model=model,
        tokenizer=tokenizer,
        family=facts,
        name=name,
        revision=commit_of(model.config),
        storage_dtype=most_common(*zip(*((p.dtype, p.numel()) for p in model.parameters()), strict=True)),
        folder=folder,
        notes=notes,
        license_files=find_license_files(folder) if folder else [],
        computed_on=device,
    )
