"""LoRA training of a pruned model through transformers' Trainer: best checkpoint, early stopping, resuming."""

from __future__ import annotations

import contextlib
import errno
import json
import math
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from peft import (
    LoraConfig,
    PeftModel,
    get_peft_model,
    get_peft_model_state_dict,
    load_peft_weights,
    set_peft_model_state_dict,
)
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn
from torch.utils.data import Dataset, SequentialSampler
from transformers import EarlyStoppingCallback, PrinterCallback, Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_utils import get_last_checkpoint

from ..checkpoints.surgery import copy_in
from ..errors import ConfigurationError, FlabError
from ..measuring.divergence import predicting
from ..progress import progress_bar
from ..records.atomic import write_atomically
from ..settings.recovery import RecoverySettings
from .encoding import IGNORED, Sequences, collate, schedule
from .loss import cross_entropy, divergence, top_divergence
from .teacher import CachedTeacher, DenseTeacher


TRAINING, ADAPTER = "training.json", "adapter.safetensors"  # of a training that was finished
STATE = "trainer_state.json"  # written last into a checkpoint
MOST_TOKENS_AT_ONCE = 512  # per forward pass, unless the user says otherwise: bounds the memory of activations


@dataclass(frozen=True)
class Shares:
    """How much each loss counts."""

    cross_entropy: float
    distillation: float


def shares_of(settings: RecoverySettings) -> Shares:
    """The weights of the two losses."""
    if settings.loss == "both":
        return Shares(settings.cross_entropy_share, 1 - settings.cross_entropy_share)
    return Shares(1.0, 0.0) if settings.loss == "cross-entropy" else Shares(0.0, 1.0)


@dataclass(frozen=True)
class TrainingSizes:
    """Steps and batches.

    Args:
        steps (`int`): steps of the optimizer.
        batch_size (`int`): sequences per step, over all processes.
        micro_batch_size (`int`): sequences per forward pass of one process.
        accumulation (`int`): forward passes per step of one process.
        evaluate_every (`int`): steps between evaluations.
    """

    steps: int
    batch_size: int
    micro_batch_size: int
    accumulation: int
    evaluate_every: int


def training_sizes(settings: RecoverySettings, rows: int, processes: int = 1) -> TrainingSizes:
    """Sizes for a number of training rows.

    Raises:
        [`ConfigurationError`]: the batch cannot be shared by the processes.
    """
    if settings.batch_size % processes:
        raise ConfigurationError(
            f"recovery.batch_size: {settings.batch_size} sequences cannot be shared by {processes} processes; take a "
            f"multiple of {processes}"
        )
    own = settings.batch_size // processes
    most = max(1, MOST_TOKENS_AT_ONCE // settings.sequence_length)
    micro = settings.micro_batch_size or max(n for n in range(1, min(own, most) + 1) if own % n == 0)
    if own % micro:
        raise ConfigurationError(
            f"recovery.micro_batch_size: {micro} does not divide the {own} sequences per step of each of {processes} "
            "processes; take a divisor"
        )
    steps = settings.max_steps or max(1, math.ceil(settings.epochs * rows / settings.batch_size))
    return TrainingSizes(
        steps, settings.batch_size, micro, own // micro, max(1, math.ceil(steps / settings.evaluations))
    )


class Rows(Dataset):
    """Rows of sequences in a fixed order, with what the loss needs to know about each.

    Args:
        order (`Sequence[int]`, *optional*): the row of each place; defaults to all rows once.
        teacher ([`CachedTeacher`], *optional*): predictions for the rows.
        distill_on (`str`): `all` or `answer`.
    """

    def __init__(
        self,
        sequences: Sequences,
        order: Sequence[int] | None = None,
        teacher: CachedTeacher | None = None,
        distill_on: str = "all",
    ):
        self.sequences, self.teacher = sequences, teacher
        self.order = range(len(sequences)) if order is None else order
        labelled = sequences.labels != IGNORED
        self.distilled = predicting(sequences.tokens) if distill_on == "all" else labelled
        # the loss of a batch is a sum over its positions divided by what its rows have on average over the whole set,
        # so that it adds up over micro-batches and processes
        self.label_weight = len(sequences) / max(1, int(labelled.sum()))
        self.distill_weight = len(sequences) / max(1, int(self.distilled.sum()))

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, place: int) -> dict[str, torch.Tensor]:
        row = self.order[place]
        item = {
            "input_ids": self.sequences.tokens.input_ids[row],
            "position_ids": self.sequences.tokens.position_ids[row],
            "labels": self.sequences.labels[row],
            "distilled": self.distilled[row],
            "label_weight": torch.tensor(self.label_weight),
            "distill_weight": torch.tensor(self.distill_weight),
        }
        if self.teacher is not None:
            item["teacher_values"], item["teacher_ids"] = self.teacher.row(row)
        return item


class NotFinite(Exception):
    """The training loss is NaN or infinite."""


class RecoveryTrainer(Trainer):
    """A Trainer with our loss over rows in the order of their dataset.

    Args:
        shares ([`Shares`]): how much each loss counts.
        dense ([`DenseTeacher`], *optional*): asked for every batch that brings no predictions of its own.
    """

    loss_is_scaled_for_ga = False  # it is a mean over the rows of one micro-batch

    def __init__(self, *args: Any, shares: Shares, dense: DenseTeacher | None = None, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.shares, self.dense = shares, dense
        self.model_accepts_loss_kwargs = False

    def _get_train_sampler(self, train_dataset: Dataset | None = None) -> SequentialSampler:
        return SequentialSampler(self.train_dataset if train_dataset is None else train_dataset)

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, torch.Tensor], return_outputs: bool = False, **kwargs: Any
    ) -> Any:
        output = predictions(model, inputs)
        loss = self.loss(output.logits, inputs)
        if model.training and not _all_finite(self, loss):
            raise NotFinite(f"step {self.state.global_step + 1}")
        return (loss, output) if return_outputs else loss

    def loss(self, logits: torch.Tensor, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        """The mean loss of a batch's rows."""
        total = torch.zeros((), device=logits.device)
        if self.shares.cross_entropy:
            labelled = inputs["labels"] != IGNORED
            costs = cross_entropy(logits[labelled], inputs["labels"][labelled])
            total = total + self.shares.cross_entropy * inputs["label_weight"][0] * costs.sum()
        if self.shares.distillation:
            distilled = inputs["distilled"]
            if "teacher_values" in inputs:
                costs = top_divergence(
                    logits[distilled], inputs["teacher_values"][distilled], inputs["teacher_ids"][distilled]
                )
            else:
                teacher = self.dense.log_probabilities(inputs["input_ids"], inputs["position_ids"], distilled)
                costs = divergence(logits[distilled], teacher)
            total = total + self.shares.distillation * inputs["distill_weight"][0] * costs.sum()
        return total / len(inputs["labels"])


def predictions(model: nn.Module, inputs: dict[str, torch.Tensor]) -> Any:
    """What a model says about a batch of packed rows."""
    return model(
        input_ids=inputs["input_ids"], position_ids=inputs["position_ids"], attention_mask=None, use_cache=False
    )


def _all_finite(trainer: Trainer, loss: torch.Tensor) -> bool:
    """Whether the loss is a number in every process, so that all of them stop together."""
    if trainer.args.world_size == 1:
        return bool(torch.isfinite(loss))
    return bool(torch.isfinite(trainer.accelerator.gather(loss.detach())).all())


class Progress(TrainerCallback):
    """One bar on stderr: steps, time left, the training loss and the loss on the rows set aside."""

    def __init__(self) -> None:
        self.bar: Any = None
        self.shown: dict[str, str] = {}

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.bar = progress_bar(
            "Training",
            state.max_steps,
            "step",
            initial=state.global_step,
            disable=not state.is_world_process_zero,
        )

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.bar is not None:
            self.bar.update(state.global_step - self.bar.n)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **kwargs: Any) -> None:
        for name, shown in (("loss", "loss"), ("eval_loss", "set aside")):
            if name in (logs or {}):
                self.shown[shown] = f"{logs[name]:.4f}"
        if self.bar is not None:
            self.bar.set_postfix(self.shown)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.bar is not None:
            self.bar.close()


@dataclass
class Training:
    """What training gave.

    Args:
        adapter (`dict[str, torch.Tensor]`, *optional*): the best LoRA matrices; `None` where no checkpoint was better
            than the start.
        config (`LoraConfig`): what they are for.
        start_loss, best_loss (`float`): on the rows set aside.
        steps, best_step (`int`): done, and those of the best checkpoint.
        curve (`list[dict]`): step, training loss or loss on the rows set aside, as they were logged.
        notes (`list[str]`): what the user should be told.
    """

    adapter: dict[str, torch.Tensor] | None
    config: LoraConfig
    start_loss: float
    best_loss: float
    steps: int
    best_step: int
    curve: list[dict[str, float]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def lora_config(model: nn.Module, settings: RecoverySettings) -> LoraConfig:
    """What the settings ask of peft."""
    embeddings = {}
    if settings.train_embeddings:
        tied = bool(getattr(model.config, "tie_word_embeddings", False))
        names = [_name_of(model, model.get_input_embeddings()).rpartition(".")[-1]]
        if not tied:
            names.append(_name_of(model, model.get_output_embeddings()).rpartition(".")[-1])
        embeddings = {"modules_to_save": names, "ensure_weight_tying": tied}
    return LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha or settings.rank,
        lora_dropout=settings.dropout,
        target_modules=list(settings.targets) or "all-linear",
        task_type="CAUSAL_LM",
        **embeddings,
    )


def _name_of(model: nn.Module, wanted: nn.Module) -> str:
    return next(name for name, module in model.named_modules() if module is wanted)


def with_lora(model: nn.Module, settings: RecoverySettings) -> PeftModel:
    """A model with seeded LoRA matrices; what it computes has not changed yet.

    Raises:
        [`ConfigurationError`]: a module to train does not exist.
    """
    if getattr(model.config, "tie_word_embeddings", False):
        shared = {
            _name_of(model, module).rpartition(".")[-1]
            for module in (model.get_input_embeddings(), model.get_output_embeddings())
        }
        shared |= {"lm_head"}
        if named := sorted(shared & {target.rpartition(".")[-1] for target in settings.targets}):
            raise ConfigurationError(
                f"recovery.targets: {', '.join(named)} shares its weights with the embeddings, into which matrices of "
                "the head alone would be merged as well; leave it out, or train both with --train-embeddings"
            )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        try:
            adapted = get_peft_model(model, lora_config(model, settings))
        except ValueError as error:
            linear = sorted(
                {name.rpartition(".")[-1] for name, m in model.named_modules() if isinstance(m, nn.Linear)}
            )
            raise ConfigurationError(
                f"recovery.targets: {', '.join(settings.targets) or 'all-linear'} cannot be trained ({error}); linear "
                f"layers of this model: {', '.join(linear)}"
            ) from error
    for parameter in adapted.parameters():
        if parameter.requires_grad:
            # small steps on bfloat16 weights would be rounded away
            parameter.data = parameter.data.float()
    return adapted


def training_arguments(
    settings: RecoverySettings, sizes: TrainingSizes, folder: Path, device: torch.device
) -> TrainingArguments:
    """What the settings ask of the Trainer."""
    checkpointing = {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": False}}
    checkpointing = checkpointing if settings.gradient_checkpointing else {}
    arguments = TrainingArguments(
        output_dir=str(folder),
        max_steps=sizes.steps,
        per_device_train_batch_size=sizes.micro_batch_size,
        per_device_eval_batch_size=1,  # a mean over rows, however many processes share them
        restore_callback_states_from_checkpoint=True,  # early stopping counts on where it was
        gradient_accumulation_steps=sizes.accumulation,
        learning_rate=settings.learning_rate,
        weight_decay=settings.weight_decay,
        warmup_steps=math.ceil(settings.warmup_share * sizes.steps),
        lr_scheduler_type="cosine",
        optim="adamw_torch",
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
        **checkpointing,
        use_cpu=device.type == "cpu",
        average_tokens_across_devices=False,
        ddp_find_unused_parameters=False,
        dataloader_pin_memory=device.type == "cuda",
        remove_unused_columns=False,
        label_names=["labels"],
        report_to="none",
        disable_tqdm=True,
        seed=settings.seed,
        data_seed=settings.seed,
    )
    # several visible GPUs without a launcher would each take a batch of their own
    arguments._n_gpu = min(1, arguments.n_gpu)
    return arguments


def number_format(asked: str, device: torch.device) -> str:
    """The name of a number format, `"auto"` being bfloat16 where the device multiplies it, else float32.

    A processor without instructions for bfloat16 computes in it many times slower than in float32.
    """
    if asked != "auto":
        return asked
    if device.type == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
    if device.type != "cpu":
        return "bfloat16"
    # older versions of torch do not tell
    capabilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    native = any(available for name, available in capabilities.items() if name.endswith("bf16"))
    return "bfloat16" if native else "float32"


def train(
    start: nn.Module,
    rows: Sequences,
    validation: Sequences,
    teachers: tuple[CachedTeacher | None, CachedTeacher | None],
    dense: DenseTeacher | None,
    settings: RecoverySettings,
    sizes: TrainingSizes,
    folder: Path,
    device: torch.device,
) -> Training:
    """Trains LoRA matrices on a pruned model; goes on from the last whole checkpoint in `folder`.

    Args:
        start (`nn.Module`): the pruned model; left as it is.
        rows, validation ([`Sequences`]): to train on, and to choose the checkpoint on.
        teachers (`tuple`): the cached predictions for both, or `None`.
        dense ([`DenseTeacher`], *optional*): where predictions are computed as they are needed.
        folder (`Path`): for checkpoints.

    Raises:
        [`FlabError`]: the checkpoints find no space.
    """
    dtype = getattr(torch, settings.dtype)
    if device.type == "cuda" and device.index is not None:
        torch.cuda.set_device(device)  # the Trainer asks for "cuda", whichever that is
    model = with_lora(copy_in(start, device, dtype), settings)
    config = model.peft_config["default"]
    train_set = Rows(
        rows, schedule(len(rows), sizes.steps, sizes.batch_size, settings.seed), teachers[0], settings.distill_on
    )
    trainer = RecoveryTrainer(
        model=model,
        args=training_arguments(settings, sizes, folder, device),
        train_dataset=train_set,
        eval_dataset=Rows(validation, teacher=teachers[1], distill_on=settings.distill_on),
        data_collator=collate,
        callbacks=[EarlyStoppingCallback(settings.patience), Progress()],
        shares=shares_of(settings),
        dense=dense,
    )
    trainer.remove_callback(PrinterCallback)
    start_loss = loss_of(trainer, trainer.eval_dataset)
    notes = []
    try:
        trainer.train(resume_from_checkpoint=last_checkpoint(folder))
    except NotFinite as error:
        notes.append(_fall_back(trainer, model, str(error)))
    except (OSError, RuntimeError, SafetensorError) as error:
        if getattr(error, "errno", None) == errno.ENOSPC or "No space left" in str(error):
            raise FlabError(
                f"no space for checkpoints in {str(folder)!r}; free some, or name another folder with --cache-dir, "
                "and start again: training goes on from its last whole checkpoint"
            ) from error
        raise
    state = trainer.state
    best = state.best_metric if state.best_metric is not None else math.inf
    if state.global_step < sizes.steps and not notes:
        notes.append(f"stopped early after {state.global_step} of {sizes.steps} steps: no improvement any more")
    better = best < start_loss
    if not better:
        notes.append("no checkpoint was better than the model before training, which is kept")
    adapter = {name: tensor.detach().cpu().clone() for name, tensor in get_peft_model_state_dict(model).items()}
    return Training(
        adapter=adapter if better else None,
        config=config,
        start_loss=start_loss,
        best_loss=best if better else start_loss,
        steps=state.global_step,
        best_step=(state.best_global_step or 0) if better else 0,
        curve=curve_of(state.log_history, start_loss),
        notes=notes,
    )


@torch.no_grad()
def loss_of(trainer: RecoveryTrainer, rows: Rows) -> float:
    """Mean loss over rows before the training, the same in every process.

    Not by `Trainer.evaluate`: accelerate then takes the model for prepared, and several processes would train apart.
    """
    model, device = trainer.model.eval(), trainer.args.device
    total = 0.0
    for number in range(len(rows)):
        inputs = {name: tensor.to(device) for name, tensor in collate([rows[number]]).items()}
        with torch.autocast(device.type, torch.bfloat16, enabled=trainer.args.bf16):
            output = predictions(model, inputs)
        total += float(trainer.loss(output.logits, inputs))
    return total / len(rows)


def _fall_back(trainer: Trainer, model: PeftModel, where: str) -> str:
    """After a loss that is no number: the best checkpoint's matrices, and what to say."""
    best = trainer.state.best_model_checkpoint
    if best is None:
        return f"the loss became NaN at {where}, before the first checkpoint; try a lower learning rate"
    set_peft_model_state_dict(model, load_peft_weights(best, device="cpu"))
    return (
        f"the loss became NaN at {where}; training stopped, and the checkpoint of step "
        f"{trainer.state.best_global_step} is kept. Try a lower learning rate"
    )


def last_checkpoint(folder: Path) -> str | None:
    """The last checkpoint that was written whole; those that were not are removed."""
    for path in sorted(folder.glob("checkpoint-*")) if folder.is_dir() else []:
        try:
            json.loads((path / STATE).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            shutil.rmtree(path, ignore_errors=True)
    return get_last_checkpoint(str(folder)) if folder.is_dir() else None


def curve_of(history: Sequence[dict[str, Any]], start_loss: float) -> list[dict[str, float]]:
    """Losses by step from a Trainer's log."""
    curve = [{"step": 0, "validation_loss": start_loss}]
    for entry in history:
        for name, ours in (("loss", "training_loss"), ("eval_loss", "validation_loss")):
            if name in entry and entry.get("step"):
                curve.append({"step": entry["step"], ours: entry[name]})
    return curve


def save_training(training: Training, folder: Path) -> None:
    """Keeps a finished training, and removes its checkpoints."""
    folder.mkdir(parents=True, exist_ok=True)
    if training.adapter is not None:
        save_file({name: tensor.contiguous() for name, tensor in training.adapter.items()}, folder / ADAPTER)
    values = {name: value for name, value in vars(training).items() if name not in ("adapter", "config")}
    text = json.dumps({**values, "has_adapter": training.adapter is not None})
    write_atomically(folder / TRAINING, lambda partial: partial.write_text(text, encoding="utf-8"))
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)


def load_training(folder: Path, start: nn.Module, settings: RecoverySettings) -> Training | None:
    """A training that was finished in this folder; `None` where there is none that can be read."""
    try:
        values = json.loads((folder / TRAINING).read_text(encoding="utf-8"))
        adapter = load_file(folder / ADAPTER) if values.pop("has_adapter") else None
    except (OSError, ValueError, SafetensorError):
        return None
    return Training(adapter=adapter, config=lora_config(start, settings), **values)


@torch.no_grad()
def merged(start: nn.Module, training: Training, dtype: torch.dtype) -> nn.Module:
    """The pruned model with the adapter in its weights, a stock model on the CPU.

    The sum is formed in float32 and rounded once.
    """
    model = copy_in(start, torch.device("cpu"), torch.float32)
    if training.adapter is not None:
        with contextlib.suppress(AttributeError):
            model.config.use_cache = start.config.use_cache
        with_adapter = get_peft_model(model, training.config)
        set_peft_model_state_dict(with_adapter, training.adapter)
        model = with_adapter.merge_and_unload(safe_merge=True)
    result = copy_in(start, torch.device("cpu"), dtype)
    # tensors that the class keeps in float32 are not rounded on the way
    result.load_state_dict(model.state_dict(), strict=True)
    result.tie_weights()
    result.generation_config = start.generation_config
    return result
