"""Training of a pruned model: best checkpoint, early stopping, resuming."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from peft import LoraConfig, PeftModel, get_peft_model, set_peft_model_state_dict
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch.utils.data import DataLoader, default_collate
from transformers import (
    EarlyStoppingCallback,
    PreTrainedModel,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.integrations.integration_utils import TensorBoardCallback, default_logdir
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import get_last_checkpoint

from ..records.atomic import is_full
from ..records.checksums import SUMS, check_checksums, write_checksums
from ..records.pieces import Pieces
from ..records.work import Stage
from ..running.casting import copy_in, multiplies_bfloat16, on_device
from ..running.processes import together
from ..running.run import Run
from ..settings.recovery import RecoveryConfig
from ..utils.compat import use_one_device
from ..utils.errors import FlabError, is_out_of_memory
from ..utils.memory import give_back_memory
from .encoding import schedule
from .methods import NamesInCheckpoints, lora_config, trainable, weights_in_checkpoint
from .rows import OF_ROWS, RecoveryRows
from .sizes import TrainingSizes, distillation_share, rows_evaluated_at_once
from .teacher import DenseTeacher, Predictions
from .trainer import NotFinite, Progress, RecoveryTrainer, Rows, predictions


CHECKPOINTS, OF_SHARDS = "checkpoints", "sharded-checkpoints"  # neither training resumes from those of the other
TRAINING, WEIGHTS = "training.json", "trained.safetensors"  # of a finished training
DECIDE_NOTHING = ("keep_adapter", "micro_batch_size", "report_to", "shard")  # settings
Teacher = DenseTeacher | Mapping[str, Predictions] | None


@dataclass(frozen=True)
class TrainingInputs:
    """What a training starts from.

    Args:
        start (`PreTrainedModel`): the pruned model, which is left as it is.
        dense_hash, pruned_hash (`str`): SHA-256 of the weights of both models.
        teacher ([`DenseTeacher`] or `Mapping[str, Predictions]`, *optional*): the dense model, or its saved
            predictions for the rows, by `training` and `validation`.
        device (`torch.device`): to compute on.
    """

    start: PreTrainedModel
    dense_hash: str
    pruned_hash: str
    rows: RecoveryRows
    sizes: TrainingSizes
    teacher: Teacher
    settings: RecoveryConfig
    device: torch.device

    @property
    def deciding(self) -> dict[str, Any]:
        """Everything that decides the result; not how many processes share the training."""
        return {
            "dense": self.dense_hash,
            "pruned": self.pruned_hash,
            "rows": self.rows.training.digest,
            "validation": self.rows.validation.digest,
            "settings": self.settings.model_dump(exclude=OF_ROWS | {"epochs", "learning_rate", *DECIDE_NOTHING}),
            "learning_rate": self.settings.largest_rate(self.sizes.steps),
            "steps": self.sizes.steps,
        }


def training_arguments(
    settings: RecoveryConfig, sizes: TrainingSizes, validation_rows: int, folder: Path, device: torch.device
) -> TrainingArguments:
    """The Trainer's arguments from the settings.

    Args:
        validation_rows (`int`): sequences that are set aside.
    """
    options: dict[str, Any] = {}
    if settings.shard:
        # the first process has the weights, the others get their shards of them
        how = {"cpu_ram_efficient_loading": True, "activation_checkpointing": settings.gradient_checkpointing}
        options = {"fsdp": True, "fsdp_config": how}
    elif settings.gradient_checkpointing:
        options = {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": False}}
    arguments = TrainingArguments(
        output_dir=str(folder),
        max_steps=sizes.steps,
        per_device_train_batch_size=sizes.micro_batch_size,
        per_device_eval_batch_size=rows_evaluated_at_once(sizes, validation_rows),
        restore_callback_states_from_checkpoint=True,  # early stopping continues its count
        gradient_accumulation_steps=sizes.accumulation,
        learning_rate=settings.largest_rate(sizes.steps),
        weight_decay=settings.weight_decay,
        warmup_steps=math.ceil(settings.warmup_share * sizes.steps),
        lr_scheduler_type="cosine_with_min_lr",
        lr_scheduler_kwargs={"min_lr_rate": settings.final_rate_share},
        optim=settings.optim,
        eval_strategy="steps",
        eval_steps=sizes.evaluate_every,
        save_strategy="steps",
        save_steps=sizes.evaluate_every,
        save_total_limit=2,
        load_best_model_at_end=True,
        metric_for_best_model="eval_loss",
        greater_is_better=False,
        prediction_loss_only=True,
        logging_steps=max(1, sizes.steps // 50),
        bf16=settings.dtype == "bfloat16",
        **options,
        use_cpu=device.type == "cpu",
        average_tokens_across_devices=False,
        ddp_find_unused_parameters=False,
        dataloader_pin_memory=device.type == "cuda",
        remove_unused_columns=False,
        label_names=["labels"],
        report_to=settings.report_to or "none",
        disable_tqdm=True,
        seed=settings.seed,
        data_seed=settings.seed,
    )
    use_one_device(arguments, device)
    return arguments


def number_format(name: str, device: torch.device) -> str:
    """The name of a number format, `"auto"` being bfloat16 if the device supports it natively, else float32."""
    if name != "auto":
        return name
    return "bfloat16" if multiplies_bfloat16(device) else "float32"


def trained(run: Run, asked: TrainingInputs) -> Training | None:
    """The result of a training: saved by an earlier run, or else of one by all processes; `None` in all processes but
    the first.

    Raises:
        [`FlabError`]: there is no space for the checkpoints, or the processes prepared different data.
    """
    processes, decided_by = run.processes, asked.deciding
    processes.check_same(decided_by, "the prepared data")

    def make(pieces: Pieces) -> Training | None:
        folder = pieces.folder / (OF_SHARDS if asked.settings.shard else CHECKPOINTS)
        # the first process alone reads and removes checkpoints before the training
        checkpoint = processes.of_each(last_checkpoint(folder) if processes.is_main else None)[0]
        if checkpoint is not None:
            run.say(f"the training resumes after step {checkpoint.rsplit('-', 1)[-1]}")
        return train_in_memory(run, asked, folder, checkpoint)

    training = run.stage(training_stage(asked, processes.is_main), decided_by, make)
    return training if processes.is_main else None


def train_in_memory(run: Run, asked: TrainingInputs, folder: Path, checkpoint: str | None) -> Training | None:
    """[`train`], with fewer sequences per forward pass from the last checkpoint on where memory ends; not where
    several processes train, of which the others would wait for each other."""
    notes = list[str]()
    while True:
        try:
            training = train(asked, folder, checkpoint, run.processes.is_main)
            if training is not None:
                training.notes[:0] = notes
            return training
        except RuntimeError as error:
            fewer = asked.sizes.halved if run.processes.number == 1 and is_out_of_memory(error) else None
            if fewer is None:
                raise
        give_back_memory()
        notes.append(
            f"out of memory with {asked.sizes.micro_batch_size} sequences per forward pass: continued with"
            f" {fewer.micro_batch_size}, as with `recovery.micro_batch_size` {fewer.micro_batch_size}"
        )
        run.say(f"note: {notes[-1]}")
        asked = replace(asked, sizes=fewer)
        checkpoint = last_checkpoint(folder)


def train(asked: TrainingInputs, folder: Path, checkpoint: str | None, is_main: bool) -> Training | None:
    """Trains LoRA matrices on a pruned model, or its weights.

    Args:
        folder (`Path`): for checkpoints.
        checkpoint (`str`, *optional*): of them, that to resume from.
        is_main (`bool`): whether this is the first process, to which the result is returned.

    Raises:
        [`FlabError`]: there is no space for the checkpoints.
    """
    settings = asked.settings
    sizes = asked.sizes
    rows = asked.rows.training
    device = asked.device
    dtype = getattr(torch, settings.dtype)
    # what is sharded need not fit on a device
    place = torch.device("cpu") if settings.shard else device
    model = trainable(asked.start, settings, place, dtype, outline=settings.shard is True and not is_main)
    saved = asked.teacher if isinstance(asked.teacher, dict) else {}
    early_stopping = [] if settings.patience is None else [EarlyStoppingCallback(settings.patience)]
    order = schedule(len(rows), sizes.steps, sizes.batch_size, settings.seed)
    trainer = RecoveryTrainer(
        model=model,
        args=training_arguments(settings, sizes, len(asked.rows.validation), folder, device),
        train_dataset=Rows(rows, order, saved.get("training"), settings.distill_on),
        eval_dataset=Rows(asked.rows.validation, None, saved.get("validation"), settings.distill_on),
        data_collator=default_collate,
        callbacks=[*early_stopping, Progress(), NamesInCheckpoints(), Checksums()],
        distillation=distillation_share(settings),
        dense=asked.teacher if isinstance(asked.teacher, DenseTeacher) else None,
    )
    trainer.remove_callback(PrinterCallback)
    for callback in trainer.callback_handler.callbacks:
        if isinstance(callback, TensorBoardCallback) and callback.logging_dir is None:
            callback.logging_dir = default_logdir()  # by default the folder of the checkpoints, which does not last
    start_loss = _start_loss(trainer, asked) if is_main else math.nan  # which nobody else needs
    give_back_memory()
    notes = []
    try:
        with together():
            trainer.train(resume_from_checkpoint=checkpoint)
    except NotFinite as error:
        notes.append(_fall_back(trainer, str(error)))
    except (OSError, RuntimeError, SafetensorError) as error:
        if is_full(error):
            raise FlabError(
                f"no space for checkpoints in {str(folder)!r}; free some, or name another folder as `cache_dir`, and"
                " start again: training resumes from its last complete checkpoint"
            ) from error
        raise
    if trainer.state.global_step < sizes.steps and not notes:
        notes.append(f"stopped early after {trainer.state.global_step} of {sizes.steps} steps: no further improvement")
    return _result(trainer, start_loss, notes) if is_main else None


def _start_loss(trainer: RecoveryTrainer, asked: TrainingInputs) -> float:
    """The loss on the rows set aside before the training; where the model will be sharded, that of a copy, which is
    gone before the training takes memory."""
    model, settings = trainer.model, asked.settings
    if settings.shard:
        model = on_device(asked.start, asked.device, getattr(torch, settings.dtype))
    return loss_of(trainer, model, trainer.eval_dataset)


def _result(trainer: RecoveryTrainer, start_loss: float, notes: list[str]) -> Training:
    """What a training that has ended leaves in its best checkpoint, if that is better than before."""
    model, state = trainer.model, trainer.state
    best = state.best_metric if state.best_metric is not None else math.inf
    better = best < start_loss
    if not better:
        notes.append("no checkpoint was better than the model before training, which is kept")
    return Training(
        weights=weights_in_checkpoint(model, str(state.best_model_checkpoint)) if better else None,
        config=model.peft_config["default"] if isinstance(model, PeftModel) else None,
        start_loss=start_loss,
        best_loss=best if better else start_loss,
        steps=state.global_step,
        best_step=(state.best_global_step or 0) if better else 0,
        curve=curve_of(state.log_history, start_loss),
        notes=notes,
    )


@torch.no_grad()
def loss_of(trainer: RecoveryTrainer, model: torch.nn.Module, rows: Rows) -> float:
    """Mean loss of a model over rows before the training.

    Not with `Trainer.evaluate`: accelerate would then consider the model prepared, and several processes would
    diverge.
    """
    model, device = model.eval(), trainer.args.device
    total = 0.0
    for batch in DataLoader(rows, trainer.args.per_device_eval_batch_size):
        inputs = {name: tensor.to(device) for name, tensor in batch.items()}
        with torch.autocast(device.type, torch.bfloat16, enabled=trainer.args.bf16):
            output = predictions(model, inputs)
        total += float(trainer.loss(output.logits, inputs)) * len(inputs["labels"])
    return total / len(rows)


def _fall_back(trainer: Trainer, where: str) -> str:
    """What to say after a NaN loss: the best checkpoint is what the training leaves."""
    if trainer.state.best_model_checkpoint is None:
        return f"the loss became NaN at {where}, before the first checkpoint; try a lower learning rate"
    return (
        f"the loss became NaN at {where}; training stopped, and the checkpoint of step "
        f"{trainer.state.best_global_step} is kept. Try a lower learning rate"
    )


def last_checkpoint(folder: Path) -> str | None:
    """The last checkpoint that is as it was written; others that are not are removed, and all if the best is damaged:
    without it, the training is not what it was."""
    best = _best_checkpoint(folder)
    for path in folder.glob("checkpoint-*"):
        is_complete = (path / SUMS).exists()
        try:
            check_checksums(path, path.name)
        except (OSError, ValueError):  # also if a killed run was writing or removing it
            shutil.rmtree(folder if is_complete and path.name == best else path, ignore_errors=True)
    return get_last_checkpoint(str(folder)) if folder.is_dir() else None


def _best_checkpoint(folder: Path) -> str | None:
    """The name of the best checkpoint, as the newest says that can be read: it says so before others go."""
    newest_first = sorted(folder.glob("checkpoint-*"), key=lambda path: int(path.name.rsplit("-")[-1]), reverse=True)
    for path in newest_first:
        with suppress(OSError, ValueError):
            state = json.loads((path / TRAINER_STATE_NAME).read_text(encoding="utf-8"))
            return Path(state.get("best_model_checkpoint") or "").name
    return None


class Checksums(TrainerCallback):
    """Writes checksums into each checkpoint, which it has last."""

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        PartialState().wait_for_everyone()  # each process writes a file of its own
        if state.is_world_process_zero:
            folder = Path(args.output_dir, f"checkpoint-{state.global_step}")
            write_checksums(folder, folder.name)


def curve_of(history: Sequence[dict[str, Any]], start_loss: float) -> list[dict[str, float]]:
    """Losses by step from a Trainer's log."""
    curve = [{"step": 0, "validation_loss": start_loss}]
    for entry in history:
        for name, ours in (("loss", "training_loss"), ("eval_loss", "validation_loss")):
            if name in entry and entry.get("step"):
                curve.append({"step": entry["step"], ours: entry[name]})
    return curve


@dataclass
class Training:
    """The result of a training.

    Args:
        weights (`dict[str, torch.Tensor]`, *optional*): the best LoRA matrices, or the best weights themselves, see
            [`~recovery.methods.weights_in_checkpoint`]; `None` if no checkpoint was better than the start.
        config (`LoraConfig`, *optional*): of the matrices; `None` if the weights themselves were trained.
        start_loss, best_loss (`float`): on the rows set aside.
        steps, best_step (`int`): done, and those of the best checkpoint.
        curve (`list[dict]`): step, training loss or loss on the rows set aside, as logged.
        notes (`list[str]`): what the user should be told.
    """

    weights: dict[str, torch.Tensor] | None
    config: LoraConfig | None
    start_loss: float
    best_loss: float
    steps: int
    best_step: int
    curve: list[dict[str, float]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def training_stage(asked: TrainingInputs, whole: bool = True) -> Stage[Training | None]:
    """The stage of a training.

    Args:
        whole (`bool`): whether the weights are read, which one of several processes needs.
    """

    def save(training: Training | None, folder: Path) -> None:
        assert training is not None  # in the process that saves
        if training.weights is not None:
            save_file({name: tensor.contiguous() for name, tensor in training.weights.items()}, folder / WEIGHTS)
        values = {name: value for name, value in vars(training).items() if name not in ("weights", "config")}
        (folder / TRAINING).write_text(json.dumps(values), encoding="utf-8")

    def load(folder: Path) -> Training:
        values = json.loads((folder / TRAINING).read_text(encoding="utf-8"))
        weights = load_file(folder / WEIGHTS) if values["best_step"] and whole else None
        config = lora_config(asked.start, asked.settings) if asked.settings.method == "lora" else None
        return Training(weights=weights, config=config, **values)

    return Stage("training", save, load, says_where=True)


def with_adapter(model: PreTrainedModel, weights: dict[str, torch.Tensor], config: LoraConfig) -> PeftModel:
    """A model with trained matrices beside its weights."""
    peft_model = get_peft_model(model, config)
    set_peft_model_state_dict(peft_model, weights)
    return peft_model


@torch.no_grad()
def merge_training(start: PreTrainedModel, training: Training, dtype: torch.dtype) -> PreTrainedModel:
    """The pruned model with the result of training in its weights, a stock model on the CPU.

    The sum is computed in float32 and rounded once.
    """
    model = copy_in(start, torch.device("cpu"), torch.float32)
    if training.weights is not None and training.config is not None:
        model = with_adapter(model, training.weights, training.config).merge_and_unload(safe_merge=True)
    elif training.weights is not None:
        model.load_state_dict(training.weights, strict=False)
        model.tie_weights()
    result = copy_in(model, torch.device("cpu"), dtype)
    result.generation_config = start.generation_config
    return result
