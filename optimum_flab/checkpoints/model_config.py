"""A model's configuration: read, and refused if the model cannot be pruned."""

from __future__ import annotations

import os
from collections.abc import Mapping
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import torch

from ..families import family_for
from ..families.resizing import choose_experts_implementation
from ..records.json_files import read_json
from ..tensors.gguf_header import read_header
from ..utils.compat import gguf_fields_by
from ..utils.errors import DOWNLOAD, ConfigurationError, FlabError, first_line
from .finding import ModelFiles
from .self_check import check_family


if TYPE_CHECKING:
    from transformers import PreTrainedConfig


# what is more than 0 in every configuration, and less than this
BELOW = {
    **dict.fromkeys(("rms_norm_eps", "layer_norm_eps", "layer_norm_epsilon", "norm_eps", "norm_epsilon"), 1),
    **{"rope_theta": 1e12, "max_position_embeddings": 2**31, "sliding_window": 2**31},
}
# the settings with which transformers restores weights that were stored by a method
RESTORING = {"mxfp4": "Mxfp4Config", "fp8": "FineGrainedFP8Config"}


def read_model_config(
    files: ModelFiles, trust_remote_code: bool = False, attn_implementation: str | None = None
) -> PreTrainedConfig:
    """Reads the configuration of a model and refuses what cannot be pruned.

    Args:
        attn_implementation (`str`, *optional*): how its model computes attention. Defaults to what transformers
            chooses.

    Raises:
        [`FlabError`]: it cannot be read, or is that of a model that is quantised, no causal language model, of an
            unsupported family, or one that needs custom code that was not allowed.
    """
    from transformers import CONFIG_MAPPING, AutoConfig, AutoModelForCausalLM

    stock = True
    attention = {} if attn_implementation is None else {"attn_implementation": attn_implementation}
    if files.gguf is None:
        # transformers ignores one that it cannot read, such as a link to what was not downloaded
        if os.path.lexists(generation_config := files.folder / "generation_config.json"):
            read_json(generation_config, DOWNLOAD)
        raw = read_json(files.folder / "config.json", DOWNLOAD)
        check_config(raw, files.name, trust_remote_code)
        for extra in ("quantize_config.json", "hf_quant_config.json"):  # how some quantisers mark their work
            if (files.folder / extra).is_file():
                raise FlabError(_quantisation_fault(files.name, extra))
        stock = raw["model_type"] in CONFIG_MAPPING
        if not stock and "AutoConfig" not in (raw.get("auto_map") or {}):
            family_for(SimpleNamespace(**raw), files.family)  # says which families are known
    try:
        # the repository's code is of no use here: a family that transformers lacks is refused, the others are stock
        with gguf_fields_by(read_header):
            config = AutoConfig.from_pretrained(
                files.load_from, trust_remote_code=trust_remote_code and not stock, **files.options, **attention
            )
    except Exception as error:  # configurations check themselves in many ways
        what = "GGUF file" if files.gguf else "configuration of"
        # transformers reads fewer architectures than llama.cpp
        is_foreign = files.gguf is not None and "not supported" in str(error)
        advice = "use its folder or repository of safetensors" if is_foreign else "check or download it"
        raise FlabError(f"{what} {files.name!r} cannot be read ({first_line(error)}); {advice}") from error
    if files.gguf is not None:
        check_config(config.to_dict(), files.name)
    _check_ranges(config, files.name)
    family = family_for(config, files.family)
    choose_experts_implementation(config, family)
    try:
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config)
    except Exception as error:  # what is wrong with a configuration shows where it is used
        if attention:
            read_model_config(files, trust_remote_code)  # raises if something else is wrong
            raise ConfigurationError(
                f"attn_implementation: {attn_implementation!r} cannot be used for {files.name!r}"
                f" ({first_line(error)}); name another, or leave it out"
            ) from error
        raise FlabError(
            f"no model can be built from the configuration of {files.name!r} ({type(error).__name__}:"
            f" {first_line(error)}); correct its config.json"
        ) from error
    check_family(model, family)
    return config


def _check_ranges(config: PreTrainedConfig, name: str) -> None:
    """Refuses numbers with which a model is built, and computes nothing of use."""
    rope = getattr(config, "rope_parameters", None) or {}
    # one for all layers, or one for each kind of them
    ropes = [rope, *(one for one in rope.values() if isinstance(one, Mapping))]
    values = [("rope_theta", one["rope_theta"]) for one in ropes if "rope_theta" in one]
    values += [(setting, getattr(config, setting, None)) for setting in BELOW]
    for setting, value in values:
        if isinstance(value, (int, float)) and not 0 < value < BELOW[setting]:
            raise FlabError(f"the configuration of {name!r} has {setting} {value}; correct it, or download it again")


def check_config(raw: Mapping[str, Any], name: str, trust_remote_code: bool = False) -> None:
    """Refuses, by the fields of a `config.json`, models that are quantised, custom code, or no causal language models.

    Raises:
        [`FlabError`]: says what is wrong and what to do.
    """
    from transformers import CONFIG_MAPPING
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    model_type = raw.get("model_type")
    if not isinstance(model_type, str):
        raise FlabError(f"the config.json of {name!r} names no model_type, so it is not a transformers checkpoint")
    for quantisation in (raw.get("quantization_config"), raw.get("compression_config")):
        if quantisation is not None:
            method = quantisation.get("quant_method") if isinstance(quantisation, Mapping) else quantisation
            raise FlabError(_quantisation_fault(name, method or "by an unknown method"))
    auto_map = raw.get("auto_map")
    auto_map = auto_map if isinstance(auto_map, Mapping) else {}
    if model_type not in CONFIG_MAPPING and auto_map and not trust_remote_code:
        raise FlabError(
            f"model {name!r} of type {model_type!r} needs custom code from its repository; if you trust it, allow it"
            " with `trust_remote_code`"
        )
    architectures = raw.get("architectures") or []
    architectures = list(map(str, architectures)) if isinstance(architectures, list) else [str(architectures)]
    if isinstance(text := raw.get("text_config"), Mapping):
        raise FlabError(
            f"model {name!r} is a multimodal model ({', '.join(architectures) or model_type}) around a text model of"
            f" type {text.get('model_type') or 'unknown'!r}, and only text models can be pruned; save that one as a"
            " checkpoint of its own, and prune it"
        )
    if raw.get("use_bidirectional_attention"):
        raise FlabError(
            f"model {name!r} attends to later tokens too (use_bidirectional_attention), so it does not write"
            " text; name a model that does"
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


def _quantisation_fault(name: str, method: Any) -> str:
    message = f"model {name!r} is quantised ({method}); prune the unquantised checkpoint and quantise the result"
    settings = RESTORING.get(str(method))
    if settings is None:
        return f"{message} (GGUF files can be read)"
    return (
        f"{message}. If there is none, transformers makes one:\n"
        f"from transformers import AutoModelForCausalLM, {settings}\n"
        f"AutoModelForCausalLM.from_pretrained({name!r}, quantization_config={settings}(dequantize=True))"
        ".save_pretrained('unquantised')\n(and put the tokenizer beside it)"
    )
