"""transformers' Trainer with our loss, our rows and our progress bar."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.checkpoint import checkpoint
from torch.utils.data import Dataset
from transformers import Trainer, TrainerCallback

from ..families.schema import Logits
from ..measuring.divergence import predicting
from ..utils.compat import in_order
from ..utils.progress import progress_bar
from .encoding import IGNORED, Sequences
from .loss import LOGITS_AT_ONCE, divergence, top_divergence
from .teacher import CachedTeacher, DenseTeacher


BY_POSITION = ("labels", "distilled", "teacher_values", "teacher_ids")


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


@in_order
class RecoveryTrainer(Trainer):
    """A Trainer with our loss over rows in dataset order.

    The output head reads only the positions that count, and its logits are not all kept.

    Args:
        distillation (`float`): how much it counts; the rest is the cross-entropy of the answers.
        logits ([`Logits`]): what happens to them after the output head.
        dense ([`DenseTeacher`], *optional*): queried for every batch without predictions of its own.
    """

    loss_is_scaled_for_ga = False  # it is a mean over the rows of one micro-batch

    def __init__(
        self, *args: Any, distillation: float, logits: Logits, dense: DenseTeacher | None = None, **kwargs: Any
    ):
        super().__init__(*args, **kwargs)
        self.distillation, self.logits, self.dense = distillation, logits, dense
        self.model_accepts_loss_kwargs = False
        self.head = self.model.get_output_embeddings()

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, torch.Tensor], return_outputs: bool = False, **kwargs: Any
    ) -> Any:
        loss = self.loss(self.hidden(model, inputs), inputs)
        if model.training and not _all_finite(self, loss):
            raise NotFinite(f"step {self.state.global_step + 1}")
        return (loss, {}) if return_outputs else loss

    def hidden(self, model: nn.Module, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        """What the output head reads for a batch of packed rows.

        All of the model is called, as it may be wrapped, but its head is given a single position.
        """
        read: list[torch.Tensor] = []

        def first_position(_: nn.Module, arguments: tuple[torch.Tensor]) -> tuple[torch.Tensor]:
            read.append(arguments[0])
            return (arguments[0][:, :1],)

        handle = self.head.register_forward_pre_hook(first_position)
        try:
            model(
                input_ids=inputs["input_ids"],
                position_ids=inputs["position_ids"],
                attention_mask=None,
                use_cache=False,
            )
        finally:
            handle.remove()
        return read[0]

    def loss(self, hidden: torch.Tensor, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        """The mean loss of a batch's rows."""
        wanted = (inputs["labels"] != IGNORED) & (self.distillation < 1)
        wanted |= inputs["distilled"] & (self.distillation > 0)
        given = {name: inputs[name][wanted] for name in BY_POSITION if name in inputs}
        if self.distillation and "teacher_ids" not in inputs:
            assert self.dense is not None  # which every training has whose rows come without predictions
            given["dense"] = self.dense.hidden(inputs["input_ids"], inputs["position_ids"])[wanted]
        hidden, weights = hidden[wanted], (inputs["label_weight"][0], inputs["distill_weight"][0])
        step = max(1, LOGITS_AT_ONCE // self.model.config.vocab_size)
        total = torch.zeros((), device=hidden.device)
        for start in range(0, max(1, len(hidden)), step):
            part = {name: tensor[start : start + step] for name, tensor in given.items()}
            arguments = (hidden[start : start + step], part, *weights)
            again = len(hidden) > step
            total = total + (
                checkpoint(self._costs, *arguments, use_reentrant=False) if again else self._costs(*arguments)
            )
        return total / len(inputs["labels"])

    def _costs(
        self,
        hidden: torch.Tensor,
        given: dict[str, torch.Tensor],
        label_weight: torch.Tensor,
        distill_weight: torch.Tensor,
    ) -> torch.Tensor:
        """The loss of some positions, summed."""
        with torch.autocast(hidden.device.type, torch.bfloat16, enabled=self.args.bf16):
            raw = self.head(hidden)
        logits = self.logits.apply(raw.float(), self.model.config)
        total = torch.zeros((), device=hidden.device)
        if self.distillation < 1:
            costs = cross_entropy(logits, given["labels"], ignore_index=IGNORED, reduction="sum")
            total = total + (1 - self.distillation) * label_weight * costs
        if self.distillation:
            if "teacher_ids" in given:
                costs = top_divergence(logits, given["teacher_values"], given["teacher_ids"])
            else:
                assert self.dense is not None
                teacher = self.dense.head.log_probabilities(given["dense"]).to(logits.device)
                costs = divergence(logits, teacher)
            total = total + self.distillation * distill_weight * costs[given["distilled"]].sum()
        return total


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
