"""A model's weights: checked by their headers, loaded into memory, or left in their files."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from ..records.shards import shards
from ..tensors.gguf_files import GgufTensors, dequantise_rows
from ..tensors.gguf_header import GgufTensor
from ..tensors.lazy import ModelTensors, StoredTensors, own_tensors
from ..utils.compat import forget_quantisation
from ..utils.errors import DOWNLOAD, FlabError, first_line, first_of
from ..vocabulary.rewrite import remap_config_ids
from .finding import ModelFiles
from .weight_files import check_weight_files, missing_text


if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel


def load_weights(files: ModelFiles, config: PreTrainedConfig, dtype: torch.dtype) -> PreTrainedModel:
    """A model with all weights in memory, on the CPU and in `dtype`.

    Raises:
        [`FlabError`]: weights cannot be read, are missing, are of other shapes, or are some that the class does not
            have.
    """
    import transformers
    from transformers import AutoModelForCausalLM

    # kernels are programs from the Hub, which a model fetches when it is moved to a GPU or trained there
    options = {"use_kernels": False}
    # without this, weights may stay packed where a kernel for them is installed
    if files.gguf is not None and hasattr(transformers, "GgufConfig"):
        options["quantization_config"] = transformers.GgufConfig(dequantize=True)
    try:
        model, report = AutoModelForCausalLM.from_pretrained(
            files.load_from,
            config=config,
            dtype=dtype,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # they are in the report
            **files.options,
            **options,
        )
    except Exception as error:  # damaged files fail in many ways
        raise FlabError(f"the weights of {files.name!r} cannot be loaded ({first_line(error)})") from error
    if missing := sorted(map(str, [*report["missing_keys"], *report["mismatched_keys"]])):
        raise FlabError(missing_text(files, missing))
    if unknown := sorted(map(str, report["unexpected_keys"])) if files.gguf is None else []:
        raise FlabError(
            f"the weights of {files.name!r} hold what {type(model).__name__} does not have ({first_of(unknown)});"
            " without that it would be a different model, so check its config.json, or name a checkpoint of the stock"
            " class"
        )
    if files.gguf is not None:
        forget_quantisation(model)
    return model


def lossless_tensors(
    files: ModelFiles, config: PreTrainedConfig, dtype: torch.dtype, embedding: GgufTensor | None
) -> ModelTensors | None:
    """The tensors of a model in its files, if a model in memory would have the same, or the same rounded to `dtype`;
    `None` if it would have others, or if they cannot be read one by one."""
    from transformers import GenerationConfig

    stored = _read_stored_tensors(files, config, dtype, embedding)
    if stored is None or not stored.exact:
        return None
    if files.gguf is None:
        named = (files.folder / "generation_config.json").is_file()
        # without one transformers reads the model's configuration as one
        options = {} if named else {"config_file_name": "config.json", "_from_model_config": True}
        stored.model.generation_config = GenerationConfig.from_pretrained(files.folder, **options)
    return stored


def _read_stored_tensors(
    files: ModelFiles, config: PreTrainedConfig, dtype: torch.dtype, embedding: GgufTensor | None = None
) -> ModelTensors | None:
    """The tensors that the files of a local model hold for it, which is on the meta device; `None` where they cannot
    be read one by one: weights that `torch.save` wrote, types that are not known here, GGUF architectures that
    transformers does not know or reads in a special way.

    Args:
        embedding ([`~tensors.gguf_files.GgufTensor`], *optional*): of a GGUF file, see
            [`~tensors.gguf_files.GgufTensors`].
    """
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    model.tie_weights()
    try:
        if files.gguf is not None:
            return ModelTensors(model, GgufTensors(files.gguf, model, dtype, embedding))
        return ModelTensors(model, StoredTensors(paths)) if (paths := shards(files.folder)) else None
    except ValueError:
        return None


def untie_config(model: PreTrainedModel) -> bool:
    """Makes the configuration say that embedding and output head are two matrices if they are, as transformers loads
    them; returns whether it said otherwise."""
    head = model.get_output_embeddings()
    if not model.config.tie_word_embeddings or head is None or head.weight is model.get_input_embeddings().weight:
        return False
    model.config.tie_word_embeddings = False
    return True


def drop_unwritable_settings(model: PreTrainedModel, files: ModelFiles) -> list[str]:
    """Leaves out the generation settings that transformers reads but does not write, since they have no effect.

    Returns:
        `list[str]`: their names.

    Raises:
        [`FlabError`]: there are others that it does not write.
    """
    from transformers import GenerationConfig

    settings = model.generation_config
    if settings is None:
        return []
    left_out: list[str] = []
    try:
        try:
            settings.validate(strict=True)
        except ValueError as error:
            left_out = re.findall(r"^- `(\w+)`", str(error), re.MULTILINE)
            for name in left_out:
                setattr(settings, name, getattr(GenerationConfig(), name))
            settings.validate(strict=True)
        remap_config_ids(None, settings, range(model.config.vocab_size))
    except (AttributeError, TypeError, ValueError) as error:
        raise FlabError(
            f"the generation_config.json of {files.name!r} holds what transformers does not write"
            f" ({first_line(error)}); correct it"
        ) from error
    return left_out


@torch.no_grad()
def tie_again(model: PreTrainedModel, path: Path, tensor: GgufTensor) -> None:
    """Makes the output head of an untied model the embedding again, with the values of `tensor`."""
    embedding = model.get_input_embeddings()
    model.get_output_embeddings().weight = embedding.weight
    for start, rows in dequantise_rows(path, tensor):
        embedding.weight[start : start + len(rows)] = torch.from_numpy(rows)
    model.config.tie_word_embeddings = True
    # transformers worked out at construction which weights are tied
    model.all_tied_weights_keys = model.get_expanded_tied_weights_keys(all_submodels=True)
    model.tie_weights()


def check_weights(files: ModelFiles, config: PreTrainedConfig) -> None:
    """Checks the weights of a local model by their files and headers, before any are read. Those of a Hub repository
    are checked when they are loaded.

    Raises:
        [`FlabError`]: names the file that is missing or damaged, or tensors that are missing, have another shape or
            hold whole numbers; for a GGUF file also those that the stock class does not have.
    """
    if files.revision is not None:
        return
    if files.gguf is None:
        check_weight_files(files.folder)
    # building a model changes the dtype in its configuration
    stored = _read_stored_tensors(files, copy.deepcopy(config), torch.float32)
    if stored is None:
        return
    if isinstance(stored.stored, GgufTensors) and stored.stored.unknown:
        raise FlabError(_unknown_text(files, stored.stored.unknown))
    if stored.lacking:
        raise FlabError(missing_text(files, sorted(stored.lacking)))
    wanted = own_tensors(stored.model)
    for name, outline in stored.outlines.items():
        if name in wanted and wanted[name].is_floating_point() > outline.is_floating_point():
            raise FlabError(
                f"the weights of {files.name!r} hold {name} as {str(outline.dtype).removeprefix('torch.')}, which is"
                f" no type of weights; {DOWNLOAD}"
            )


def _unknown_text(files: ModelFiles, unknown: list[str]) -> str:
    if "rope_freqs.weight" in unknown:
        return (
            f"the GGUF file {str(files.gguf)!r} scales its rotary embedding (rope_freqs.weight), which transformers"
            " does not read from GGUF files, so it would be a different model; name the checkpoint that it was made"
            " from"
        )
    return (
        f"the GGUF file {str(files.gguf)!r} holds what the stock class lacks ({first_of(unknown)}); without that"
        " it would be a different model, so name the checkpoint that it was made from"
    )
