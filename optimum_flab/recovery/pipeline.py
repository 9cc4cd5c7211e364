"""From a pruned model and its dense model to a recovered one: only the order of the steps."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch

from ..checkpoints.hashes import weights_hash
from ..checkpoints.loading import LoadedModel
from ..pruning.result import PrunedModel
from ..records.folders import check_writable
from ..records.pieces import Pieces
from ..running.generation import BatchCache
from ..running.processes import Processes, process_state
from ..settings.recovery import LORA_ONLY, RecoveryConfig
from ..utils.errors import ConfigurationError, FlabError
from ..utils.hashing import digest_of
from ..utils.memory import give_back_memory
from ..utils.places import cache_root, user_path
from .checks import check_settings, check_teacher
from .estimates import available_for_training, needs_less_than_all
from .preparation import Ready, prepare_training
from .results import report_section, write_adapter
from .trained import Training, load_training, merge_training, save_training
from .training import last_checkpoint, number_format, train
from .work import Steps, Work


CHECKPOINTS = "checkpoints"


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
    produces the same as an uninterrupted one. Under `accelerate launch` every process calls this; the first prepares,
    and all train.

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
        [`PrunedModel`]: of the same class, shape and dtype; its report says what the training did, except in all
            processes but the first.

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
    device = dense.model.device
    settings = settings.model_copy(update={"dtype": number_format(settings.dtype, device)})
    state = process_state(device)
    steps = Steps(quiet=not state.is_main_process)
    root = user_path(cache_dir) if cache_dir is not None else cache_root("recovery")
    check_writable(root)
    cache = BatchCache(root / "answers")
    work = Work(dense, pruned.model, pruned.tokenizer, pruned.plan, dense.family, settings, cache, steps)
    with steps.step("checks"):
        check_teacher(work)
    processes = Processes(state)
    key = {"pruned": weights_hash(work.model), "device": device.type, "processes": processes.number}
    choice = Pieces(root / "methods" / digest_of({**key, **settings.model_dump()}))
    method, note = chosen_method(work, root, processes, available_for_training(work, release_dense), choice)
    if note is not None:
        steps.say(f"note: {note}")
    settings = settings.for_method(method)
    work = replace(work, settings=settings)
    with state.main_process_first():
        ready = prepare_training(work, examples, root, state, release_dense)
    processes.check_same(ready.folder.name, "the prepared data")
    give_back_memory()
    with steps.step("training"):
        training = _train(ready, work, device)
    state.wait_for_everyone()  # the others may still read the best checkpoint
    if state.is_main_process:
        save_training(training, ready.folder)
        choice.clear()
    give_back_memory()
    with steps.step("merge"):
        model = merge_training(work.model, training, work.model.dtype)
    changes: dict[str, Any] = {"held_out": None, "recovery": None}
    if ready.side is not None:
        with steps.step("held-out measurement"):
            after = ready.side.measure(model)
        for text in training.notes:
            steps.say(f"note: {text}")
        notes = [*([] if note is None else [note]), *training.notes]
        settings = settings.model_copy(update={"learning_rate": settings.largest_rate(ready.sizes.steps)})
        section = report_section(settings, ready, after, training, steps, state.num_processes, notes)
        # the report's own measurement is now that of the trained model
        section = section.model_copy(update={"pruning_held_out": pruned.report.held_out})
        changes = {"held_out": after, "recovery": section}
        if settings.keep_adapter:
            pruned = replace(pruned, files={**pruned.files, **write_adapter(ready.folder, work.model, training)})
    return replace(pruned, model=model).with_report(weights_sha256=weights_hash(model), **changes)


def chosen_method(
    work: Work, root: Path, processes: Processes, available: float, choice: Pieces
) -> tuple[Literal["full", "lora"], str | None]:
    """What is trained, and what the user should know about that.

    Args:
        root (`Path`): where checkpoints will be.
        available (`float`): bytes, see [`~recovery.estimates.available_for_training`].
        choice ([`Pieces`]): keeps it until the training is done: a run that was killed resumes with it, however much
            memory there is by then.

    Raises:
        [`FlabError`]: all weights are requested, and would not fit in memory.
    """
    settings = work.settings

    def lacking(folder: Path | None) -> str | None:
        reasons = processes.of_each(needs_less_than_all(work, folder, processes.number, available))
        return next(filter(None, reasons), None)

    if settings.method == "full" and (reason := lacking(None)):
        raise FlabError(
            f"{reason}; use `recovery.method` lora, shorten the sequences with `recovery.sequence_length`, or compute"
            " activations twice with `recovery.gradient_checkpointing`"
        )
    if settings.method != "auto":
        return settings.method, None
    if any(getattr(settings, name) for name in LORA_ONLY):
        return "lora", None
    saved = choice.read("reason")
    facts = processes.of_each(None if saved is None else saved.facts)[0]
    reason = lacking(root) if facts is None else facts["reason"]
    if facts is None and processes.is_main:
        choice.write("reason", reason=reason)
    if reason is None:
        return "full", None
    return "lora", f"{reason}: LoRA matrices are trained instead, as with `recovery.method` lora"


def _train(ready: Ready, work: Work, device: torch.device) -> Training:
    done = load_training(ready.folder, work.model, work.settings)
    if done is not None:
        work.steps.say(f"this training was finished before; its result is taken from {ready.folder}")
        return done
    folder = ready.folder / CHECKPOINTS
    if (checkpoint := last_checkpoint(folder)) is not None:
        work.steps.say(f"the training resumes after step {checkpoint.rsplit('-', 1)[-1]}")
    return train(ready, work.model, work.settings, folder, device)
