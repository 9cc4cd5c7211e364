"""A model name, folder or GGUF file -> the dense model in memory, refused before its weights are read where it cannot
be pruned."""

from __future__ import annotations

import copy
import hashlib
import json
import math
import os
import re
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import torch

from ..errors import ConfigurationError, FlabError
from ..families import FAMILY_NAME, Family, family_for
from ..licenses import is_license_file
from ..memory import give_back_memory
from ..self_check import check_family
from ..vocabulary import read_stated, rebuild_tokenizer, remap_config_ids, settle_stated, settle_tokenizer
from .demo import DEMO_NAME, DEMO_TERMS, demo_model
from .gguf_files import GgufTensor, GgufTensors, dequantised, near_equal_copies
from .tensors import DTYPES, ModelTensors, StoredTensors, WrittenTensors


if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase


COMPUTATION_DTYPES = {name: getattr(torch, name) for name in ("float32", "bfloat16", "float16")}
# what a safetensors header calls the types that weights are stored in
SAFETENSORS_DTYPES = {name: dtype for name, dtype in DTYPES.items() if dtype.is_floating_point}
# what often lies in the place of a large file, by how it begins
STAND_INS = {
    b"version https://git-lfs": "a Git LFS pointer, not the file itself; fetch that with `git lfs pull`",
    b"<": "a web page; download it again",
    b"": "empty; download it again",
}
MOST_LAYERS = 10_000  # many more than any model has: building one takes its time
SIZES = ("num_hidden_layers", "hidden_size", "intermediate_size", "vocab_size", "num_attention_heads")
LICENSE_STEMS = ("license", "licence", "notice", "copying", "use_policy")
# everything that is read before the weights; the Hub matches case, so licences come in three spellings
METADATA_PATTERNS = (
    *("*.json", "*.jinja", "*.model", "*.txt", "*.py", "README.md"),
    "flab_*",  # the plan of a pruned model with its tensors, and the plots of its card
    *(f"{spelling}*" for stem in LICENSE_STEMS for spelling in (stem, stem.capitalize(), stem.upper())),
)
TOKENIZER_FILES = (
    *("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model", "sentencepiece.bpe.model"),
    "tekken.json",
)
WEIGHTS = "model.safetensors"
PICKLED_WEIGHTS = "pytorch_model.bin"


@dataclass
class DenseModel:
    """A model before pruning, with what is needed to write one like it.

    Args:
        model (`PreTrainedModel`): in evaluation mode, no parameter requires gradients.
        tokenizer (`PreTrainedTokenizerBase`): a fast tokenizer.
        family ([`Family`]): what its tensors are.
        name (`str`): what the user called it.
        revision (`str`, *optional*): the commit of a Hub repository.
        storage_dtype (`torch.dtype`): what most of its weights are stored in; for GGUF files bfloat16.
        folder (`Path`, *optional*): where its files are.
        notes (`list[str]`): what the user should be told.
        license_files (`list[Path]`): licences and notices that belong to the weights.
        stored ([`~checkpoints.tensors.ModelTensors`], *optional*): the weights, where the model is on the meta device.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    family: Family
    name: str
    revision: str | None = None
    storage_dtype: torch.dtype = torch.float32
    folder: Path | None = None
    notes: list[str] = field(default_factory=list)
    license_files: list[Path] = field(default_factory=list)
    stored: ModelTensors | None = None


@dataclass(frozen=True)
class ModelFiles:
    """Where a model is: `load_from` and `options` for `from_pretrained`, `folder` with at least what is not
    weights, `family` the file that describes its family where it is not a known one."""

    name: str
    load_from: str
    folder: Path
    revision: str | None = None
    gguf: Path | None = None
    family: Path | None = None

    @property
    def options(self) -> dict[str, str]:
        options = {"revision": self.revision} if self.revision else {}
        return options | ({"gguf_file": self.gguf.name} if self.gguf else {})


def load_dense(
    model_name_or_path: str | Path,
    *,
    revision: str | None = None,
    trust_remote_code: bool = False,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype = "float32",
    family: str | Path | None = None,
    in_memory: bool = True,
    check: Callable[[PreTrainedConfig, Family], None] = lambda config, family: None,
) -> DenseModel:
    """Loads a causal language model to be pruned. What can be refused is refused before weights are downloaded or
    read.

    Args:
        model_name_or_path (`str` or `Path`): a Hub id, a local folder, a GGUF file or a folder with one, or
            `flab-demo`.
        revision (`str`, *optional*): branch, tag or commit of a Hub repository.
        trust_remote_code (`bool`): whether code from the repository may run.
        device (`str` or `torch.device`, *optional*): where to compute; default: CUDA if there is any, else the CPU.
        dtype (`str` or `torch.dtype`): what to compute in. The peak is about one copy of the model in this type.
        family (`str` or `Path`, *optional*): a file that describes the model's family, see [`~families.read_family`].
            Defaults to the one that lies beside a pruned model, else to one of the known families.
        in_memory (`bool`): where false, the weights of a local folder or GGUF file stay in their files if transformers
            makes the model's tensors of them one by one, and the model is on the meta device: enough to apply a plan.
        check (`Callable`): called with the model's configuration and family before its weights; may refuse it.

    Returns:
        [`DenseModel`]: the model on `device` in `dtype`.

    Raises:
        [`FlabError`]: the model does not exist or cannot be reached, is not a causal language model, is quantised
            other than GGUF, is of an unsupported family or not as its family is described, needs custom code that was
            not allowed, or has no fast tokenizer that fits it.
        [`ConfigurationError`]: there is no such device or dtype.
    """
    dtype, device = computation_dtype(dtype), computation_device(device)
    files = find_model(model_name_or_path, revision, family)
    config = read_config(files, trust_remote_code)
    facts = family_for(config, files.family)
    tokenizer, tokenizer_note = load_tokenizer(files, config, trust_remote_code)
    give_back_memory()  # it was read several times
    check_vocabulary(tokenizer, config, files.name)

    notes = [DEMO_TERMS] if files.name == DEMO_NAME else []
    notes += [tokenizer_note] if tokenizer_note else []
    if revision is not None and files.revision is None:
        notes.append(f"revision {revision!r} means nothing for local files and was ignored")
    finer_copy = None
    if files.gguf is not None and not config.tie_word_embeddings:
        finer_copy, difference = near_equal_copies(files.gguf)
        if finer_copy is not None:
            notes.append(
                f"embedding and output head are two quantisations of one matrix ({difference:.1%} apart): tied again,"
                f" keeping the one of {finer_copy.kind.name}"
            )
    as_loaded = copy.deepcopy(config)
    as_loaded.tie_word_embeddings |= finer_copy is not None
    check(as_loaded, facts)
    check_weights(files, config)
    storage_dtype = torch.bfloat16 if files.gguf is not None else stored_dtype(files.folder, config)
    if torch.promote_types(storage_dtype, dtype) != dtype:
        notes.append(
            f"the weights are stored in {_plain(storage_dtype)} and were rounded to {_plain(dtype)}, the type of the"
            " computation; --dtype float32 keeps them as they are"
        )
        storage_dtype = dtype
    if files.gguf is not None:
        notes.append(
            f"the GGUF file takes {files.gguf.stat().st_size / 1e6:,.0f} MB; sizes here are those of bfloat16 "
            "checkpoints"
        )
    stored = None if in_memory else _stored_exactly(files, as_loaded, dtype, finer_copy)
    if stored is not None:
        model = stored.model
    else:
        model = _load_weights(files, config, dtype)
        if finer_copy is not None:
            _tie(model, files.gguf, finer_copy)
    if _settle_ties(model):
        notes.append(
            "the configuration says that embedding and output head are one matrix, but the weights hold two: pruned as"
            " two"
        )
    if left_out := _settle_generation_config(model, files):
        notes.append(
            f"{', '.join(left_out)} of its generation settings mean nothing as they stand, and were left out: without"
            " do_sample nothing is drawn, for example"
        )
    if stored is None:
        model = model.to(device)
    model = model.eval().requires_grad_(False)
    check_family(model, facts)
    return DenseModel(
        model=model,
        tokenizer=tokenizer,
        family=facts,
        name=files.name,
        revision=files.revision,
        storage_dtype=storage_dtype,
        folder=files.folder,
        notes=notes,
        license_files=find_license_files(files.folder),
        stored=stored,
    )


def dense_from_memory(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, family: str | Path | None = None
) -> DenseModel:
    """Takes a model and a tokenizer that are in memory already, after the checks of [`load_dense`].

    The model stays where it is and in its dtype; it is put in evaluation mode and its parameters stop requiring
    gradients. The tokenizer is copied.

    Raises:
        [`FlabError`]: the model is quantised, not a causal language model or of an unsupported family, or the
            tokenizer is not fast, does not fit, or is another one when it is loaded from its files.
    """
    name = getattr(model.config, "name_or_path", "") or type(model).__name__
    check_config({**model.config.to_dict(), "architectures": [type(model).__name__]}, name)
    facts = family_for(model.config, family)
    _check_fast(tokenizer, name)
    check_vocabulary(tokenizer, model.config, name)
    tokenizer = settle_tokenizer(tokenizer, name, model.config.model_type)
    folder = Path(name) if Path(name).is_dir() else None
    model = model.eval().requires_grad_(False)
    check_family(model, facts)
    return DenseModel(
        model=model,
        tokenizer=tokenizer,
        family=facts,
        name=name,
        revision=getattr(model.config, "_commit_hash", None),
        storage_dtype=_most_common(*zip(*((p.dtype, p.numel()) for p in model.parameters()), strict=True)),
        folder=folder,
        license_files=find_license_files(folder) if folder else [],
    )


# --- finding -------------------------------------------------------------------------------------------------------


def find_model(
    model_name_or_path: str | Path, revision: str | None = None, family: str | Path | None = None
) -> ModelFiles:
    """Finds a model's files; of a Hub repository downloads everything but the weights.

    Args:
        family (`str` or `Path`, *optional*): a file that describes the model's family. Defaults to the one that lies
            beside a pruned model.

    Raises:
        [`FlabError`]: there is no such path or repository, the Hub cannot be reached, or there is neither a config nor
            a GGUF file.
    """
    files = _found(str(model_name_or_path), revision)
    beside = files.folder / FAMILY_NAME
    return replace(files, family=Path(family) if family is not None else beside if beside.is_file() else None)


def _found(name: str, revision: str | None) -> ModelFiles:
    if name == DEMO_NAME:
        path = demo_model()
        return ModelFiles(name, str(path.parent), path.parent, gguf=path)
    path = Path(name).expanduser()
    try:
        path.stat()
    except PermissionError as error:
        raise FlabError(f"model {name!r} cannot be read ({error.strerror}); name one that you may read") from error
    except OSError:
        pass  # there is none, or it is a Hub id
    if path.is_file():
        if path.suffix.lower() != ".gguf":
            raise FlabError(
                f"model {name!r} is a file but not a .gguf; name the folder of the checkpoint, or a GGUF file"
            )
        return _gguf_model(name, path)
    if path.is_dir():
        if (path / "config.json").is_file():
            return ModelFiles(name, str(path), path)
        found = sorted(file for file in path.iterdir() if file.suffix.lower() == ".gguf")
        if len(found) == 1:
            return _gguf_model(name, found[0])
        if found:
            raise FlabError(
                f"folder {name!r} has {len(found)} GGUF files; name one of them: {', '.join(f.name for f in found)}"
            )
        raise FlabError(f"folder {name!r} has no config.json and no GGUF file, so it is not a checkpoint")
    if not re.fullmatch(r"[\w-][\w.-]*(/[\w-][\w.-]*)?", name) or path.suffix.lower() == ".gguf":
        raise FlabError(f"model {name!r} does not exist; name a local folder, a GGUF file, a Hub id or {DEMO_NAME}")
    return _find_on_hub(name, revision)


def _gguf_model(name: str, path: Path) -> ModelFiles:
    try:
        with path.open("rb") as file:
            magic = file.read(4)
    except OSError as error:
        raise FlabError(f"GGUF file {name!r} cannot be read ({error.strerror or error})") from error
    if magic != b"GGUF":
        raise FlabError(f"{name!r} is not a GGUF file (it starts with {magic!r}); download it again")
    if re.search(r"-\d{5}-of-\d{5}\.gguf$", path.name, re.IGNORECASE):
        raise FlabError(f"GGUF file {name!r} is one part of several; join them with llama-gguf-split --merge")
    return ModelFiles(name, str(path.parent), path.parent, gguf=path)


def _find_on_hub(name: str, revision: str | None) -> ModelFiles:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    try:
        folder = Path(
            snapshot_download(name, revision=revision, allow_patterns=list(METADATA_PATTERNS), ignore_patterns=["*/*"])
        )
    except GatedRepoError as error:
        raise FlabError(
            f"model {name!r} is gated; accept its terms on its page on the Hub and run `hf auth login`"
        ) from error
    except RevisionNotFoundError as error:
        raise FlabError(f"model {name!r} has no revision {revision!r} on the Hub") from error
    except RepositoryNotFoundError as error:
        raise FlabError(
            f"model {name!r} is neither a local folder nor on the Hub (or it is private: run `hf auth login`)"
        ) from error
    except Exception as error:  # connection errors are of several libraries' classes
        at = f" at revision {revision!r}" if revision else ""
        raise FlabError(
            f"model {name!r}{at} is neither a local folder nor in the cache, and the Hub cannot be reached"
            f" ({_first_line(error)}); check the name and the connection, or name a local folder, a GGUF file or"
            f" {DEMO_NAME}"
        ) from error
    if not (folder / "config.json").is_file():
        raise FlabError(
            f"Hub repository {name!r} has no config.json; if it holds GGUF files, download one and name the file"
        )
    return ModelFiles(name, name, folder, revision=folder.name)


def find_license_files(folder: Path) -> list[Path]:
    """Licence and notice files at the top of a folder, sorted."""
    files = [file for file in folder.iterdir() if is_license_file(file.name) and file.is_file()]
    for file in files:
        if not os.access(file, os.R_OK):
            raise FlabError(f"{str(file)!r} cannot be read, and belongs beside the pruned model; make it readable")
    return sorted(files)


# --- checks before the weights -------------------------------------------------------------------------------------


def computation_dtype(dtype: str | torch.dtype) -> torch.dtype:
    """The torch dtype of a name.

    Raises:
        [`ConfigurationError`]: it is not a floating-point type that can be computed in.
    """
    name = str(dtype).removeprefix("torch.")
    if name not in COMPUTATION_DTYPES:
        raise ConfigurationError(f"dtype {name!r} is not one of {', '.join(COMPUTATION_DTYPES)}")
    return COMPUTATION_DTYPES[name]


def computation_device(device: str | torch.device | None) -> torch.device:
    """The device of a name; by default CUDA if there is any, else the CPU.

    Raises:
        [`ConfigurationError`]: this machine has no such device.
    """
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(device)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigurationError(
            f"device {str(device)!r} cannot be used here ({_first_line(error)}); try 'cpu'"
        ) from error
    return device


def read_config(files: ModelFiles, trust_remote_code: bool = False) -> PreTrainedConfig:
    """Reads the configuration of a model and refuses what cannot be pruned.

    Raises:
        [`FlabError`]: see [`load_dense`].
    """
    from transformers import CONFIG_MAPPING, AutoConfig, AutoModelForCausalLM

    stock = True
    if files.gguf is None:
        if (files.folder / "generation_config.json").is_file():
            _read_json(files.folder / "generation_config.json")  # transformers passes over one that it cannot read
        raw = _read_json(files.folder / "config.json")
        check_config(raw, files.name, trust_remote_code)
        for extra in ("quantize_config.json", "hf_quant_config.json"):  # how some quantisers mark their work
            if (files.folder / extra).is_file():
                raise FlabError(_quantised(files.name, extra))
        stock = raw["model_type"] in CONFIG_MAPPING
        if not stock and "AutoConfig" not in (raw.get("auto_map") or {}):
            family_for(SimpleNamespace(**raw), files.family)  # says which families are known
    try:
        # code of the repository is of no use here: a family that transformers lacks is refused, the others are stock
        config = AutoConfig.from_pretrained(
            files.load_from, trust_remote_code=trust_remote_code and not stock, **files.options
        )
    except Exception as error:  # configurations check themselves in many ways
        what = "GGUF file" if files.gguf else "configuration of"
        raise FlabError(f"{what} {files.name!r} cannot be read ({_first_line(error)})") from error
    if files.gguf is not None:
        check_config(config.to_dict(), files.name)
    _check_sizes(files.name, config, SIZES)
    family = family_for(config, files.family)
    inside = [family.sizes[dimension] for dimension in ("neuron", "expert") if dimension in family.sizes]
    inside += [] if family.experts is None else [family.experts.per_token]
    # what some leave open follows from other sizes
    _check_sizes(files.name, config, [size for size in inside if getattr(config, size, None) is not None])
    try:
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config)
    except Exception as error:  # what is wrong with a configuration shows where it is used
        raise FlabError(
            f"no model can be made of the configuration of {files.name!r} ({type(error).__name__}:"
            f" {_first_line(error)}); correct its config.json"
        ) from error
    check_family(model, family)
    return config


def _check_sizes(name: str, config: PreTrainedConfig, names: Iterable[str]) -> None:
    """Raises a [`FlabError`] if sizes that a configuration states are none."""
    faults = []
    for stated in names:
        size, most = getattr(config, stated, 1), MOST_LAYERS if stated == "num_hidden_layers" else math.inf
        if not (isinstance(size, int) and 0 < size <= most):
            faults.append(f"{stated} {size:,}" if isinstance(size, int) else f"{stated} {size}")
    if faults:
        raise FlabError(f"the configuration of {name!r} cannot be right: it says {', '.join(faults)}")


def check_config(raw: Mapping[str, Any], name: str, trust_remote_code: bool = False) -> None:
    """Refuses, by the fields of a `config.json`, what is quantised, not a causal language model, or custom code.

    Raises:
        [`FlabError`]: says what and what to do.
    """
    from transformers import CONFIG_MAPPING
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    model_type = raw.get("model_type")
    if not isinstance(model_type, str):
        raise FlabError(f"the config.json of {name!r} names no model_type, so it is not a transformers checkpoint")
    for quantisation in (raw.get("quantization_config"), raw.get("compression_config")):
        if quantisation is not None:
            method = quantisation.get("quant_method") if isinstance(quantisation, Mapping) else quantisation
            raise FlabError(_quantised(name, method or "by an unknown method"))
    auto_map = raw.get("auto_map") if isinstance(raw.get("auto_map"), Mapping) else {}
    if model_type not in CONFIG_MAPPING and auto_map and not trust_remote_code:
        raise FlabError(
            f"model {name!r} of type {model_type!r} needs custom code from its repository; if you trust it, allow it"
            " with --trust-remote-code"
        )
    architectures = raw.get("architectures") or []
    if not isinstance(architectures, (str, list)):
        raise FlabError(
            f"the config.json of {name!r} says architectures {architectures!r}, which is not a list of names"
        )
    architectures = [architectures] if isinstance(architectures, str) else list(map(str, architectures))
    if isinstance(text := raw.get("text_config"), Mapping):
        raise FlabError(
            f"model {name!r} is a multimodal model ({', '.join(architectures) or model_type}) around a text model of"
            f" type {text.get('model_type') or 'unknown'!r}, and only text models can be pruned; save that one as a"
            " checkpoint of its own, and prune it"
        )
    known = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(model_type)
    known = {known} if isinstance(known, str) else set(known or ())
    if model_type not in CONFIG_MAPPING:
        causal = "AutoModelForCausalLM" in auto_map or any(
            "CausalLM" in architecture for architecture in architectures
        )
    else:
        causal = bool(known) and (not architectures or bool(known.intersection(architectures)))
    if not causal:
        what = ", ".join(architectures) or f"model type {model_type}"
        raise FlabError(
            f"model {name!r} is not a causal language model ({what}); name a decoder such as Qwen2ForCausalLM"
        )


def load_tokenizer(
    files: ModelFiles, config: PreTrainedConfig, trust_remote_code: bool = False
) -> tuple[PreTrainedTokenizerBase, str | None]:
    """Loads the fast tokenizer of a model, with the pieces that its own files state.

    Returns:
        `tuple[PreTrainedTokenizerBase, str | None]`: a tokenizer that loading it from what we write gives, and what
            the user should be told: transformers loads some otherwise than their files state.

    Raises:
        [`FlabError`]: there is none, only a slow one, or one that is another when it is saved and loaded.
    """
    from transformers import AutoTokenizer

    if files.gguf is None and not any((files.folder / name).is_file() for name in TOKENIZER_FILES):
        # transformers would make up an empty one
        raise FlabError(f"model {files.name!r} has no tokenizer files; put its tokenizer.json beside its config.json")
    if files.gguf is None:
        _check_tokenizer_files(files.folder)
    try:
        loaded = AutoTokenizer.from_pretrained(files.load_from, trust_remote_code=trust_remote_code, **files.options)
    except Exception as error:  # conversions fail in many ways
        raise FlabError(_no_tokenizer(files, error)) from error
    _check_fast(loaded, files.name)
    if type(loaded).__module__.startswith("transformers_modules."):
        raise FlabError(
            f"the tokenizer of {files.name!r} is custom code ({type(loaded).__name__}), and a pruned checkpoint"
            " must load without; save it as a PreTrainedTokenizerFast beside the weights, and prune that folder"
        )
    if files.gguf is not None:
        return settle_tokenizer(rebuild_tokenizer(loaded, config.model_type), files.name, config.model_type), None
    has_json, has_model = ((files.folder / name).is_file() for name in ("tokenizer.json", "tokenizer.model"))
    if not (has_json or has_model):
        return settle_tokenizer(loaded, files.name, config.model_type), None
    try:
        frame = {} if has_json else _sentencepiece_frame(files.folder / "tokenizer_config.json")
        stated = read_stated(loaded, files.load_from, **files.options, **frame)
    except Exception as error:
        raise FlabError(_no_tokenizer(files, error)) from error
    return settle_stated(loaded, stated, files.name, config.model_type)


def _check_tokenizer_files(folder: Path) -> None:
    """Raises a [`FlabError`] if something else lies in the place of a tokenizer's file."""
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        if (folder / name).is_file():
            _read_json(folder / name)
    template = folder / "chat_template.jinja"
    if template.is_file() and (fault := _stand_in(template)):
        raise FlabError(f"{str(template)!r} is {fault}")


def _sentencepiece_frame(path: Path) -> dict[str, bool]:
    """Which tokens frame a text where only a SentencePiece model says how it is cut: it has no such rule itself, and
    transformers 4 took these defaults."""
    stated = _read_json(path) if path.is_file() else {}
    return {"add_bos_token": stated.get("add_bos_token", True), "add_eos_token": stated.get("add_eos_token", False)}


def _no_tokenizer(files: ModelFiles, error: Exception) -> str:
    from transformers.utils import is_protobuf_available, is_sentencepiece_available

    message = f"the tokenizer of {files.name!r} cannot be loaded as a fast tokenizer"
    known = is_sentencepiece_available() and is_protobuf_available()
    if (files.folder / "tokenizer.model").is_file() and not (files.folder / "tokenizer.json").is_file() and not known:
        return (
            f"{message}: it has a tokenizer.model and no tokenizer.json; put one beside it, or install what reads the"
            " other (pip install sentencepiece protobuf)"
        )
    return f"{message} ({_first_line(error)}); it needs a tokenizer.json"


def check_vocabulary(tokenizer: PreTrainedTokenizerBase, config: PreTrainedConfig, name: str) -> None:
    """Refuses a tokenizer with ids beyond the embedding.

    Raises:
        [`FlabError`]: names both sizes.
    """
    needed = max(tokenizer.get_vocab().values(), default=-1) + 1
    if needed > config.vocab_size:
        raise FlabError(
            f"the tokenizer of {name!r} has {needed} tokens but the model embeds only {config.vocab_size}; they do not"
            " belong together"
        )


def _check_fast(tokenizer: PreTrainedTokenizerBase, name: str) -> None:
    if not getattr(tokenizer, "is_fast", False):
        raise FlabError(
            f"the tokenizer of {name!r} ({type(tokenizer).__name__}) is slow only; pruning needs a fast one with"
            " a tokenizer.json"
        )


def _quantised(name: str, method: Any) -> str:
    return (
        f"model {name!r} is quantised ({method}); prune the unquantised checkpoint and quantise the result"
        " (GGUF files can be read)"
    )


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise FlabError(f"{str(path)!r} {_damage(path, error)}") from error
    if not isinstance(content, dict):
        raise FlabError(f"{str(path)!r} holds a {type(content).__name__}, not an object")
    return content


def _shown(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def _plain(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return " ".join(lines[: 2 if lines[0].endswith(":") else 1])


# --- weights -------------------------------------------------------------------------------------------------------


def _load_weights(files: ModelFiles, config: PreTrainedConfig, dtype: torch.dtype) -> PreTrainedModel:
    import transformers
    from transformers import AutoModelForCausalLM

    # without this, weights may stay packed where a kernel for them is installed
    options = {}
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
        raise FlabError(f"the weights of {files.name!r} cannot be loaded ({_first_line(error)})") from error
    if missing := sorted(map(str, [*report["missing_keys"], *report["mismatched_keys"]])):
        raise FlabError(_lacking(files, missing))
    if unknown := sorted(map(str, report["unexpected_keys"])) if files.gguf is None else []:
        raise FlabError(
            f"the weights of {files.name!r} hold what {type(model).__name__} does not have ({_counted(unknown)});"
            " without that it would be another model, so check its config.json, or name a checkpoint of the stock"
            " class"
        )
    if files.gguf is not None:
        _forget_quantisation(model)
    return model


def _stored_exactly(
    files: ModelFiles, config: PreTrainedConfig, dtype: torch.dtype, embedding: GgufTensor | None
) -> ModelTensors | None:
    """The tensors of a local model in its files, if a model in memory would have the same; `None` if it would have
    others, or they cannot be read one by one."""
    from transformers import GenerationConfig

    if files.revision is not None:
        return None
    stored = _stored(files, config, dtype, embedding)
    if stored is None or not stored.exact:
        return None
    if any(torch.promote_types(outline.dtype, dtype) != dtype for outline in stored.outlines.values()):
        return None  # it is to be rounded
    if files.gguf is None:
        if not (files.folder / "generation_config.json").is_file():
            return None
        stored.model.generation_config = GenerationConfig.from_pretrained(files.folder)
    return stored


def _stored(
    files: ModelFiles, config: PreTrainedConfig, dtype: torch.dtype, embedding: GgufTensor | None = None
) -> ModelTensors | None:
    """The tensors that the files of a local model hold for it, which is on the meta device; `None` where they cannot
    be read one by one: weights that `torch.save` wrote, types that are not known here, GGUF architectures that
    transformers does not know or reads in a way of their own.

    Args:
        embedding ([`~checkpoints.gguf_files.GgufTensor`], *optional*): of a GGUF file, see
            [`~checkpoints.gguf_files.GgufTensors`].
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


def _settle_ties(model: PreTrainedModel) -> bool:
    """Makes the configuration say that embedding and output head are two matrices where they are, as transformers
    loads them; whether it said otherwise."""
    head = model.get_output_embeddings()
    if not model.config.tie_word_embeddings or head is None or head.weight is model.get_input_embeddings().weight:
        return False
    model.config.tie_word_embeddings = False
    return True


def _settle_generation_config(model: PreTrainedModel, files: ModelFiles) -> list[str]:
    """Leaves out the generation settings that transformers reads and does not write, since they mean nothing.

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
            f" ({_first_line(error)}); correct it"
        ) from error
    return left_out


def _forget_quantisation(model: PreTrainedModel) -> None:
    """Makes a dequantised model an ordinary one that can be saved."""
    for attribute in ("hf_quantizer", "quantization_method", "is_quantized", "_is_quantized"):
        if attribute in vars(model):
            delattr(model, attribute)
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config


def _counted(tensors: list[str]) -> str:
    return f"{len(tensors)} tensor{'s' * (len(tensors) != 1)}: {_shown(tensors)}"


@torch.no_grad()
def _tie(model: PreTrainedModel, path: Path, tensor: GgufTensor) -> None:
    """Makes the output head of an untied model the embedding again, with the values of `tensor`."""
    embedding = model.get_input_embeddings()
    model.get_output_embeddings().weight = embedding.weight
    for start, rows in dequantised(path, tensor):
        embedding.weight[start : start + len(rows)] = torch.from_numpy(rows)
    model.config.tie_word_embeddings = True
    # transformers worked out at construction which weights are tied
    model.all_tied_weights_keys = model.get_expanded_tied_weights_keys(all_submodels=True)
    model.tie_weights()


def stored_dtype(folder: Path, config: PreTrainedConfig) -> torch.dtype:
    """The type that most weights are stored in; without safetensors files what the configuration says.

    Raises:
        [`FlabError`]: a weight file is not one.
    """
    found = [tensor for path in shards(folder) for tensor in _safetensors_header(path)]
    dtypes = [SAFETENSORS_DTYPES[dtype] for dtype, _ in found if dtype in SAFETENSORS_DTYPES]
    sizes = [shape.numel() for dtype, shape in found if dtype in SAFETENSORS_DTYPES]
    if dtypes:
        return _most_common(dtypes, sizes)
    return config.dtype if isinstance(config.dtype, torch.dtype) else torch.float32


def _damage(path: Path, error: Exception) -> str:
    """What is wrong with a file that cannot be read, and what to do."""
    try:
        what = _stand_in(path)
    except OSError as fault:
        return f"cannot be read ({fault.strerror or _first_line(error)})"
    if what is not None:
        return f"is {what}"
    return f"is damaged ({_first_line(error)}); download it again"


def _stand_in(path: Path) -> str | None:
    """What lies in the place of a file, and what to do; `None` where that looks like the file."""
    with path.open("rb") as file:
        start = file.read(64).lstrip()
    return next((what for begin, what in STAND_INS.items() if (start.startswith(begin) if begin else not start)), None)


def shards(folder: Path, name: str = WEIGHTS) -> list[Path]:
    """The files that weights of this kind are read from, sorted; those that are missing are left out.

    Raises:
        [`FlabError`]: the index of the files is not one.
    """
    return [path for path in _listed_shards(folder, name) if path.is_file()]


def _listed_shards(folder: Path, name: str) -> list[Path]:
    single, index = folder / name, folder / f"{name}.index.json"
    if single.is_file() or not index.is_file():
        return [single]
    names = _read_json(index).get("weight_map")
    names = list(names.values()) if isinstance(names, dict) else None
    if not names or not all(isinstance(name, str) and Path(name).name == name for name in names):
        raise FlabError(f"{str(index)!r} does not name the weight files of its folder; download it again")
    return [folder / name for name in sorted(set(names))]


def check_weights(files: ModelFiles, config: PreTrainedConfig) -> None:
    """Checks the weights of a local model by their files and headers, before any are read. Those of a Hub repository
    are checked when they are loaded.

    Raises:
        [`FlabError`]: names the file that is missing or damaged, or tensors that are missing or have another shape;
            of a GGUF file also those that the stock class does not have.
    """
    if files.revision is not None:
        return
    if files.gguf is None:
        check_weight_files(files.folder)
    stored = _stored(files, config, torch.float32)
    if stored is None:
        return
    if files.gguf is not None and (unknown := stored.stored.unknown):
        raise FlabError(_unknown_in_gguf(files, unknown))
    if stored.lacking:
        raise FlabError(_lacking(files, sorted(stored.lacking)))


def _unknown_in_gguf(files: ModelFiles, unknown: list[str]) -> str:
    if "rope_freqs.weight" in unknown:
        return (
            f"the GGUF file {str(files.gguf)!r} scales its rotary embedding (rope_freqs.weight), which transformers"
            " does not read from GGUF files, so it would be another model; name the checkpoint that it was made from"
        )
    return (
        f"the GGUF file {str(files.gguf)!r} holds what the stock class does not have ({_counted(unknown)}); without"
        " that it would be another model, so name the checkpoint that it was made from"
    )


def check_weight_files(folder: Path) -> None:
    """Raises a [`FlabError`] if weight files of a local folder are missing or damaged."""
    listed = _listed_shards(folder, WEIGHTS)
    pickled = listed == [folder / WEIGHTS] and not listed[0].is_file() and any(folder.glob("pytorch_model*.bin"))
    listed = _listed_shards(folder, PICKLED_WEIGHTS) if pickled else listed
    if missing := [path.name for path in listed if not path.is_file()]:
        raise FlabError(
            f"weight files are missing in {str(folder)!r} ({len(missing)} of {len(listed)}): {_shown(missing)};"
            " download them"
        )
    for path in listed:
        if pickled:
            _check_archive(path)
        else:
            _safetensors_header(path)


def _check_archive(path: Path) -> None:
    """Raises a [`FlabError`] if a file is none that `torch.save` wrote, or does not end as it begins."""
    try:
        with path.open("rb") as file:
            is_cut = file.read(4) == b"PK\x03\x04" and not zipfile.is_zipfile(path)
        if is_cut or _stand_in(path):
            raise ValueError("it is cut short")
    except (OSError, ValueError) as error:
        raise FlabError(f"weight file {str(path)!r} {_damage(path, error)}") from error


def _safetensors_header(path: Path) -> list[tuple[str, torch.Size]]:
    """Types and shapes of the tensors in a safetensors file.

    Raises:
        [`FlabError`]: the file is not one.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            tensors = [file.get_slice(name) for name in file.keys()]
            return [(tensor.get_dtype(), torch.Size(tensor.get_shape())) for tensor in tensors]
    except (OSError, SafetensorError) as error:
        raise FlabError(f"weight file {str(path)!r} {_damage(path, error)}") from error


def _lacking(files: ModelFiles, missing: list[str]) -> str:
    """What to say of tensors that are missing or do not fit, and of files that may hold them."""
    message = f"the weights of {files.name!r} lack {len(missing)} tensors or have other shapes: {_shown(missing)}"
    if unlisted := _unlisted(files.folder) if files.gguf is None else []:
        message += f"; its index does not name {_shown(unlisted)}: download the index and these files again"
    return message


def _unlisted(folder: Path) -> list[str]:
    """The files that the index of a folder does not name, although by their names those that it does name are parts of
    a whole with them."""
    names = {path.name for path in _listed_shards(folder, WEIGHTS)}
    parts = [match for name in names if (match := re.fullmatch(r"(.+)-\d{5}-of-(\d{5})(\.\w+)", name))]
    whole = {f"{part[1]}-{i + 1:05d}-of-{part[2]}{part[3]}" for part in parts for i in range(int(part[2]))}
    return sorted(whole - names)


def _most_common(dtypes: Iterable[torch.dtype], sizes: Iterable[int]) -> torch.dtype:
    counts: Counter[torch.dtype] = Counter()
    for dtype, size in zip(dtypes, sizes, strict=True):
        counts[dtype] += size
    return counts.most_common(1)[0][0]


def weights_hash(
    weights: torch.nn.Module | Mapping[str, torch.Tensor], dtypes: Mapping[str, torch.dtype] | None = None
) -> str:
    """Hex SHA-256 over names, dtypes, shapes and bytes of weights, in the order of their names.

    A tensor of a model with several names (a tied output head) counts once, see
    [`~checkpoints.tensors.WrittenTensors`], so that a model and the checkpoint saved from it agree.

    Args:
        weights (`nn.Module` or `Mapping[str, torch.Tensor]`): a model, or its tensors by name, each once.
        dtypes (`Mapping[str, torch.dtype]`, *optional*): hash them as if they were in these types, see
            [`dense_hash`].
    """
    tensors = WrittenTensors(weights) if isinstance(weights, torch.nn.Module) else weights
    digest = hashlib.sha256()
    for name in sorted(tensors, reverse=True):
        tensor = tensors[name].detach()
        if tensor.is_meta:
            raise FlabError(f"weight {name!r} is not in memory")
        if dtypes is not None:
            tensor = tensor.to(dtypes[name])
        digest.update(f"{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        digest.update(tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def dense_hash(dense: DenseModel) -> str:
    """[`weights_hash`] of a model in the type that it is stored in, so that it has one whatever it is computed in.
    What its class keeps in float32 all the same (some routers) is hashed so."""
    with torch.device("meta"):
        held = type(dense.model)._from_config(copy.deepcopy(dense.model.config), dtype=dense.storage_dtype)
    held.tie_weights()
    dtypes = {name: outline.dtype for name, outline in WrittenTensors(held).outlines.items()}
    return weights_hash(WrittenTensors(dense.model) if dense.stored is None else dense.stored.written(), dtypes)
