"""transformers' Trainer with our loss, our rows and our progress bar."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import Dataset
from transformers import Trainer, TrainerCallback

from ..measuring.divergence import predicting
from ..utils.compat import sequential_sampling, shard_on_any_device
from ..utils.progress import progress_bar
from .encoding import IGNORED, Sequences
from .loss import divergence, top_divergence
from .teacher import DenseTeacher, Predictions


class Rows(Dataset):
    """Rows of sequences in a fixed order, with what the loss needs to know about each.

    Args:
        order (`Sequence[int]`, *optional*): the row of each place; defaults to all rows once.
        teacher ([`Predictions`], *optional*): predictions for the rows.
        distill_on (`str`): `all` or `answer`.
    """

    def __init__(
        self,
        sequences: Sequences,
        order: Sequence[int] | None = None,
        teacher: Predictions | None = None,
        distill_on: str = "all",
    ):
        self.sequences, self.teacher = sequences, teacher
        self.order = range(len(sequences)) if order is None else order
        labelled = sequences.labels != IGNORED
        self.distilled = predicting(sequences.tokens) if distill_on == "all" else labelled
        # the loss of a batch is a sum over its positions divided by the average number of positions per row in the
        # whole set, so that it adds up over micro-batches and processes
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


@sequential_sampling
class RecoveryTrainer(Trainer):
    """A Trainer with our loss over rows in dataset order.

    Args:
        distillation (`float`): how much it counts; the rest is the cross-entropy of the answers.
        dense ([`DenseTeacher`], *optional*): queried for every batch without predictions of its own.
    """

    loss_is_scaled_for_ga = False  # it is a mean over the rows of one micro-batch

    def __init__(self, *args: Any, distillation: float, dense: DenseTeacher | None = None, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.distillation, self.dense = distillation, dense
        self.model_accepts_loss_kwargs = False

    def create_accelerator_and_postprocess(self) -> None:
        super().create_accelerator_and_postprocess()
        if self.args.fsdp:
            shard_on_any_device(self)

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
        if self.distillation < 1:
            labelled = inputs["labels"] != IGNORED
            costs = cross_entropy(logits[labelled].float(), inputs["labels"][labelled], reduction="none")
            total = total + (1 - self.distillation) * inputs["label_weight"][0] * costs.sum()
        if self.distillation:
            distilled = inputs["distilled"]
            if "teacher_values" in inputs:
                costs = top_divergence(
                    logits[distilled], inputs["teacher_values"][distilled], inputs["teacher_ids"][distilled]
                )
            else:
                assert self.dense is not None  # which every training has whose rows come without predictions
                teacher = self.dense.log_probabilities(inputs["input_ids"], inputs["position_ids"], distilled)
                costs = divergence(logits[distilled], teacher)
            total = total + self.distillation * inputs["distill_weight"][0] * costs.sum()
        return total / len(inputs["labels"])


def predictions(model: nn.Module, inputs: dict[str, torch.Tensor]) -> Any:
    """What a model predicts for a batch of packed rows."""
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
            if logs is not None and name in logs:
                self.shown[shown] = f"{logs[name]:.4f}"
        if self.bar is not None:
            self.bar.set_postfix(self.shown)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.bar is not None:
            self.bar.close()
