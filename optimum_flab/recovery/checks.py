"""What a recovery refuses before any long work: faulty settings, missing consent, and a different dense model."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK, get_available_reporting_integrations
from transformers.utils import is_bitsandbytes_available

from ..checkpoints.hashes import dense_hash
from ..checkpoints.loading import LoadedModel
from ..execution import best_isolation, check_packages, check_system
from ..families.positions import check_positions
from ..pruning.plan_check import check_plan
from ..settings.recovery import RecoveryConfig
from ..texts.sources import read_sources
from ..utils.errors import ConfigurationError, FlabError
from .inputs import RecoveryInputs
from .instructions import Example, read_instructions
from .overlap import source_texts


def check_teacher(inputs: RecoveryInputs) -> None:
    """Raises a [`FlabError`] unless the plan was made for this dense model and this pruned one."""
    plan, name = inputs.plan, inputs.dense.name
    sha256 = dense_hash(inputs.dense)
    if sha256 != plan.base_hash:
        raise FlabError(
            f"teacher {name!r} has weights {sha256[:12]}…, the model was pruned from {plan.base_model!r} with weights "
            f"{plan.base_hash[:12]}…; name the model that it was pruned from"
            + ("" if inputs.dense.model.dtype == torch.float32 else ", without a `dtype` that rounds its weights")
        )
    check_plan(inputs.dense.model, inputs.family, plan)
    ids = range(len(inputs.tokenizer)) if plan.kept_tokens is None else plan.kept_tokens
    own = inputs.tokenizer.convert_ids_to_tokens(range(len(ids)))
    if own != inputs.dense.tokenizer.convert_ids_to_tokens(ids):
        raise FlabError(
            f"the tokenizer of {name!r} is not the one that the model was pruned with: its tokens have other ids; name"
            " the teacher that the model was pruned from"
        )


def check_settings(dense: LoadedModel, settings: RecoveryConfig, consent: bool) -> list[Example]:
    """Refuses what cannot be trained, or not without consent, before any long work.

    Args:
        dense ([`LoadedModel`]): a model pruned from it has as many positions.
        consent (`bool`): whether programs that the dense model writes may be run.

    Returns:
        `list[Example]`: the instruction data.

    Raises:
        [`ConfigurationError`]: this family's weights cannot be trained in this way, the sequences are too long, or
            consent is missing.
        [`FlabError`]: a source cannot be read.
    """
    family = dense.family
    if settings.method == "full" and family.experts is not None:
        # the Trainer resumes from files in which each expert has a separate name, and would find none of them
        raise ConfigurationError(
            f"recovery.method: 'full' does not train mixtures of experts, such as {family.model_type}; use 'lora'"
        )
    check_libraries(settings)
    check_positions(dense.model.config, family, "recovery.sequence_length", settings.sequence_length)
    examples = read_instructions(settings.data)
    check_consent(settings, examples, consent)
    return examples


def check_inputs(settings: RecoveryConfig, consent: bool) -> None:
    """Refuses, before the long work that comes first, settings and data that a recovery would refuse."""
    check_libraries(settings)
    check_consent(settings, read_instructions(settings.data), consent)
    source_texts([*settings.exclude, *settings.held_out])
    read_sources(settings.text)


def check_libraries(settings: RecoveryConfig) -> None:
    """Raises a [`ConfigurationError`] if a library is missing that reports or optimises."""
    known, installed = sorted(INTEGRATION_TO_CALLBACK), get_available_reporting_integrations()
    for name in settings.report_to:
        if name not in known:
            raise ConfigurationError(f"recovery.report_to: {name!r} is not one of {', '.join(known)}")
        if name not in installed:
            raise ConfigurationError(f"recovery.report_to: the library of {name} is not installed")
    if settings.optim == "adamw_8bit" and not is_bitsandbytes_available():
        raise ConfigurationError("recovery.optim: adamw_8bit needs bitsandbytes; `pip install bitsandbytes`")


def check_consent(settings: RecoveryConfig, examples: Sequence[Example], consent: bool) -> None:
    """Raises a [`ConfigurationError`] if programs would have to run but may not, or lack the packages that they are
    allowed; called before any long work."""
    if settings.answers != "dense" or not any(one.test is not None and not one.blank for one in examples):
        return
    check_system()
    if not consent:
        raise ConfigurationError(
            "the data has tests, so programs that the dense model writes would be run in a sandbox; consent with "
            "`confirm_run_unsafe_code`, or learn only from the references with `recovery.answers` reference"
        )
    check_packages(settings.allow_packages, best_isolation())
