"""From a pruned model and its dense model to a recovered one: only the order of the steps."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from accelerate.utils import parse_flag_from_env

from ..checkpoints.hashes import weights_hash
from ..checkpoints.loading import LoadedModel
from ..pruning.result import PrunedModel
from ..records.folders import check_writable
from ..records.work import WorkFolder, json_stage
from ..running.kernels import prepare_kernels
from ..running.processes import Processes
from ..running.run import Run
from ..settings.recovery import LORA_ONLY, SHARDED_BY, RecoveryConfig
from ..utils.errors import ConfigurationError, FlabError
from ..utils.memory import give_back_memory
from ..utils.places import cache_root, user_path
from .checks import check_settings, check_teacher
from .estimates import available_for_training, needs_less_than_all, rows_at_once
from .inputs import RecoveryInputs
from .preparation import Prepared, prepare
from .results import report_section, write_adapter
from .training import Training, merge_training, number_format, trained, training_stage


@dataclass(frozen=True)
class Choices:
    """What the memory and the disk of a machine decide of a training.

    Args:
        method (`str`): `full` or `lora`.
        shard (`bool`): whether processes share the weights.
        micro_batch_size (`int`): sequences per forward pass of a process.
        reason (`str`, *optional*): why LoRA matrices are trained, unless it was requested.
    """

    method: Literal["full", "lora"]
    shard: bool
    micro_batch_size: int
    reason: str | None


CHOICES = json_stage("choices", Choices)


def recover(
    dense: LoadedModel,
    pruned: PrunedModel,
    settings: RecoveryConfig | None = None,
    *,
    confirm_run_unsafe_code: bool = False,
    cache_dir: str | Path | None = None,
    release_dense: bool = False,
) -> PrunedModel:
    """Trains a pruned model back towards its dense model.

    Everything that takes long is saved in `cache_dir` by content: an interrupted run resumes where it stopped, and
    produces the same as an uninterrupted one. Under `accelerate launch` every process calls this, and they share the
    work.

    Args:
        dense ([`LoadedModel`]): with its weights in memory.
        settings ([`RecoveryConfig`], *optional*): what is requested. Defaults to those of the configuration that it
            was pruned with.
        confirm_run_unsafe_code (`bool`): the dense model's answers may be run against the problems' tests.
        cache_dir (`str` or `Path`, *optional*): defaults to `optimum_flab/recovery` in the folder of the Hugging Face
            cache (`HF_HOME`).
        release_dense (`bool`): release the dense model's weights once they are no longer needed; it cannot be used
            afterwards.

    Returns:
        [`PrunedModel`]: of the same class, shape and dtype; its report says what the training did. In all processes
            but the first, the pruned model as it was.

    Raises:
        [`ConfigurationError`]: faulty settings, consent is missing, or it was already recovered.
        [`FlabError`]: the dense model is a different one, the data is not usable, or the disk is full.
    """
    if pruned.report.recovery is not None:
        raise ConfigurationError(
            "this model was already recovered; name the pruned model as it was before, from which the training starts"
            " (with other data or settings, it starts over)"
        )
    settings = settings or (pruned.config.recovery if pruned.config is not None else RecoveryConfig())
    examples = check_settings(dense, settings, confirm_run_unsafe_code)
    root = user_path(cache_dir) if cache_dir is not None else cache_root("recovery")
    check_writable(root)
    device, processes = dense.model.device, Processes.of_this_run(dense.model.device)
    prepare_kernels(device, processes)
    run = Run(WorkFolder(root, agree=processes.agree, is_main=processes.is_main, shared=True), processes)
    settings = settings.model_copy(update={"dtype": number_format(settings.dtype, device)})
    inputs = RecoveryInputs(dense, pruned, settings, run, device)
    with run.step("checks"):
        check_teacher(inputs)
    inputs = replace(inputs, settings=with_choices(inputs, available_for_training(inputs, release_dense)))
    prepared = prepare(inputs, examples, release_dense)
    give_back_memory()
    training = trained(run, prepared.training)
    give_back_memory()
    if training is None:
        return replace(pruned, reference=None)
    with run.step("merge"):
        model = merge_training(inputs.model, training, inputs.model.dtype)
    found = _recovered(inputs, prepared, training, replace(pruned, model=model))
    run.work.drop([CHOICES.name])
    return found


def with_choices(inputs: RecoveryInputs, available: float) -> RecoveryConfig:
    """The settings with the method and the sequences per pass. A run that was killed resumes with its choices, however
    much memory there is by then.

    Args:
        available (`float`): bytes, see [`~recovery.estimates.available_for_training`].

    Raises:
        [`FlabError`]: all weights are requested, and would not fit in memory.
    """
    settings, run = inputs.settings, inputs.run
    number = run.processes.number
    if parse_flag_from_env("ACCELERATE_USE_FSDP"):
        if settings.shard is False:
            raise ConfigurationError("recovery.shard is off, and `accelerate launch --use_fsdp` is on; leave out one")
        settings = settings.model_copy(update={"shard": True})
    if settings.shard and settings.optim != SHARDED_BY:
        raise ConfigurationError(f"recovery.optim: {settings.optim} does not train shards; use {SHARDED_BY}")
    if settings.shard and number == 1:
        raise ConfigurationError(
            "recovery.shard: there is one process, with nothing to share; start several with `accelerate launch` or"
            " `torchrun`, one for each GPU, or leave it out"
        )

    def lacking(shard: bool) -> str | None:
        only_memory = settings.method == "full"
        reasons = run.processes.of_each(needs_less_than_all(inputs, available, only_memory, shard))
        return next(filter(None, reasons), None)

    for_lora = settings.method == "lora" or any(getattr(settings, name) for name in LORA_ONLY)
    shard, reason = settings.shard is True, None if for_lora else lacking(settings.shard is True)
    may_shard = settings.shard is None and number > 1 and settings.optim == SHARDED_BY
    if reason and may_shard and lacking(shard=True) is None:
        shard, reason = True, None
    if reason and settings.method == "full":
        raise FlabError(
            f"{reason}; use `recovery.method` lora, shorten the sequences with `recovery.sequence_length`, or compute"
            " activations twice with `recovery.gradient_checkpointing`"
        )
    method: Literal["full", "lora"] = "lora" if for_lora or reason else "full"
    sharing = settings.for_method(method).model_copy(update={"shard": shard})
    rows = run.processes.of_each(rows_at_once(inputs, sharing, available))
    choices = Choices(method, shard, min(rows), reason)
    decided_by = {
        "pruned": weights_hash(inputs.model),
        "device": inputs.device.type,
        "processes": run.processes.number,
        "settings": settings.model_dump(exclude={"report_to"}),
    }
    run.processes.check_same(decided_by, "the pruned model and the settings")
    choices = run.stage(CHOICES, decided_by, lambda pieces: choices)
    if choices.reason is not None:
        run.note(f"{choices.reason}: LoRA matrices are trained instead, as with `recovery.method` lora")
    settings = settings.for_method(choices.method)
    return settings.model_copy(update={"micro_batch_size": choices.micro_batch_size, "shard": choices.shard})


def _recovered(inputs: RecoveryInputs, prepared: Prepared, training: Training, found: PrunedModel) -> PrunedModel:
    """The recovered model with its report."""
    reference = prepared.reference
    assert reference is not None  # in the first process
    with inputs.run.step("held-out measurement"):
        after = reference.measure(found.model)
    # the text that the pruning measured on may have been trained on
    found = replace(found, reference=reference.alone)
    for text in training.notes:
        inputs.run.note(text)
    section = report_section(inputs, prepared, training, after)
    if inputs.settings.keep_adapter:
        folder = inputs.run.work.folder(training_stage(prepared.training), prepared.training.deciding)
        found = replace(found, files={**found.files, **write_adapter(folder, inputs.model, training)})
    return found.with_report(weights_sha256=weights_hash(found.model), files=(), held_out=after, recovery=section)
