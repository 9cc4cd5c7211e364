"""`optimum-cli flab export`."""

from __future__ import annotations

from pathlib import Path

from ..settings.export import ExportSettings
from ..settings.pruning import PrunerSettings
from ..utils.compat import ArgumentGroup
from . import arguments
from .base import FlabVerb
from .flags import flags_of


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

    def execute(self) -> None:
        args = self.args
        settings = self.settings.export
        data = self.settings.data

        from ..checkpoints.loading import load_dense
        from ..export import check_path, export_gguf

        check_path(args.path, settings)
        dtype = "auto" if settings.weighs else "float32"  # of the text's way through the model
        model = load_dense(args.model, revision=args.revision, family=args.family, in_memory=False, dtype=dtype)
        self.say(export_gguf(model, args.path, settings, data).to_text())
