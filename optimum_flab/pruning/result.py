"""What pruning returns."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..measuring.held_out import DenseReference
from ..records.checkpoint import Checkpoint
from ..records.ledger import Meter, StageCost, total_cost
from ..records.paths import last_name
from ..records.plan import PruningPlan
from ..records.report import Report
from ..records.work import WorkFolder
from ..settings.configuration import FlabPrunerConfig


@dataclass(frozen=True)
class PrunedModel:
    """What pruning returns.

    Args:
        model (`PreTrainedModel`): of the same stock class as the dense one, on the CPU, in the output dtype.
        tokenizer (`PreTrainedTokenizerBase`): with the kept vocabulary.
        plan ([`PruningPlan`]): what was kept.
        report ([`Report`]): what was removed and what it cost, as in `flab_report.json`.
        config ([`FlabPrunerConfig`], *optional*): what was requested; `None` if a plan was applied.
        files (`dict[str, Path]`): files and folders to be put beside the weights, by their names there.
        work ([`WorkFolder`], *optional*): where the stages were saved.
        folder (`Path`, *optional*): where it was written to, or read from.
        reference (`Callable`, *optional*): what its files are measured against: the dense model's predictions for the
            held-out text of its report, computed at the first call where they were not kept.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    plan: PruningPlan
    report: Report
    config: FlabPrunerConfig | None
    files: dict[str, Path] = field(default_factory=dict)
    work: WorkFolder | None = None
    folder: Path | None = None
    reference: Callable[[], DenseReference] | None = None

    @property
    def checkpoint(self) -> Checkpoint:
        """Its folder, of which it has the records in hand."""
        assert self.folder is not None  # it was written
        checkpoint = Checkpoint(self.folder)
        checkpoint.report = self.report
        checkpoint.plan = self.plan
        return checkpoint

    def __repr__(self) -> str:
        report, pruned = self.report, self.report.pruned
        said = [f"{last_name(report.base_model.name)}: {report.removed_ratio:.1%} removed"]
        said += [f"{name} {size:,}" for name, size in {"parameters": pruned.parameters, **pruned.sizes}.items()]
        if report.held_out is not None:
            said.append(f"divergence {report.held_out.divergence:.4f}")
        return f"{type(self).__name__}({', '.join(said)})"

    def with_report(self, **changes: Any) -> PrunedModel:
        """The same model with other fields in its report."""
        return replace(self, report=self.report.model_copy(update=changes))

    def with_stages(self, stages: Mapping[str, StageCost]) -> PrunedModel:
        """The same model, whose report says what more its last command did.

        Args:
            stages (`Mapping[str, StageCost]`): what each stage cost, by its name.
        """
        report, recovery = self.report, self.report.recovery
        if recovery is not None and recovery.command:
            recovery = recovery.model_copy(update={"stages": {**recovery.stages, **stages}})
            return self.with_report(recovery=recovery)
        return self.with_report(stages={**report.stages, **stages})

    def with_total(self, meter: Meter) -> PrunedModel:
        """The same model, whose report says what a whole command has cost by now.

        Args:
            meter ([`Meter`]): of the command that pruned it, or of the one that trained it after that.
        """
        report, recovery = self.report, self.report.recovery
        if recovery is not None and recovery.command:
            total = total_cost(meter, recovery.stages)
            return self.with_report(recovery=recovery.model_copy(update={"total": total}))
        stages = {**report.stages, **({} if recovery is None else recovery.stages)}
        return self.with_report(total=total_cost(meter, stages))
