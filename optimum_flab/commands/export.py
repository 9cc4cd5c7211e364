"""`optimum-cli flab export`."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ..settings.export import ExportSettings
from ..settings.pruning import PrunerSettings
from ..utils.compat import ArgumentGroup
from ..utils.errors import FlabError
from ..utils.places import user_path
from . import arguments
from .base import FlabVerb
from .flags import flags_of
from .following import evaluation_of


if TYPE_CHECKING:
    from ..records.report import FileCost


class ExportCommand(FlabVerb):
    """Write a checkpoint as a GGUF file, which llama.cpp and Ollama run."""

    # the text of the importance matrix is that of a pruning
    FLAGS = (
        *flags_of(ExportSettings, "export"),
        *(flag for flag in flags_of(PrunerSettings) if flag.setting == "data.calibration"),
    )

    @staticmethod
    def add_arguments(required: ArgumentGroup, optional: ArgumentGroup) -> None:
        text = "the checkpoint, pruned or dense: a local folder or a Hub id"
        required.add_argument("-m", "--model", metavar="MODEL", required=True, help=text)
        required.add_argument("path", metavar="FILE", type=Path, help="the .gguf file to write")
        arguments.add(optional, "--revision", "--family")
        optional.add_argument(
            "--no-measure",
            action="store_true",
            help="leave out the divergence of the file's weights from the checkpoint's on held-out text, for which"
            " the text goes through both (default: measure it)",
        )

    def execute(self) -> None:
        args = self.args
        settings = self.settings.export
        data = self.settings.data

        from ..checkpoints.loading import load_dense
        from ..export import check_path, export_gguf
        from ..export.file_cost import file_cost, own_reference
        from ..tensors.workspace import Workspace

        check_path(args.path, settings)
        load = partial(load_dense, args.model, revision=args.revision, family=args.family, in_memory=False)
        model = load(dtype="auto" if settings.weighs else "float32")  # text goes through it, or nothing is rounded
        exported = export_gguf(model, args.path, settings, data)
        self.say(exported.to_text())
        cost = None
        if not args.no_measure:
            workspace = Workspace(None if model.stored is None else exported.files[0].path.parent)
            try:
                model = model if settings.weighs else load(dtype="auto")
                reference = own_reference(model, data, workspace)
                cost = file_cost(exported, model, reference, workspace, pruned=False)
            except FlabError as error:  # the file is there
                self.say(f"note: what the file costs was not measured: {error}")
            else:
                self._show(cost)
        self._note(cost, model.folder)
        file = exported.files[0].path
        self.show_next(["chat", file], evaluation_of(file, args.model, args.revision))

    def _show(self, cost: FileCost) -> None:
        """Say what the file costs."""
        from ..records.rows import count_texts, file_divergence

        bits = f"{cost.cost.dense_bits_per_byte:.4f} -> {cost.cost.pruned_bits_per_byte:.4f}"
        self.say(
            f"divergence {file_divergence(cost)}, bits per byte {bits}, on {count_texts(cost.cost.texts, 'held-out')}"
            f" ({cost.cost.positions:,} tokens)"
        )

    def _note(self, cost: FileCost | None, folder: Path | None) -> None:
        """Where the file lies beside its pruned model, note in report, card and page what it costs, in place of what
        was noted of a file that it replaces."""
        from ..pruned import write_records
        from ..records.checkpoint import Checkpoint
        from ..records.report import REPORT_NAME

        if folder is None or folder.resolve() != user_path(self.args.path).parent.resolve():
            return
        checkpoint = Checkpoint(folder)
        if not checkpoint.has(REPORT_NAME):
            return
        report = checkpoint.current_report
        if cost is not None and cost.name in checkpoint.gguf_files:
            report = report.with_file(cost)
        if report != checkpoint.report:
            checkpoint.report = report
            write_records(checkpoint)
