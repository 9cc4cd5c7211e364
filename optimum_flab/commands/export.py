"""`optimum-cli flab export`."""

from __future__ import annotations

from pathlib import Path

from ..settings.export import ExportSettings
from ..utils.compat import ArgumentGroup
from . import arguments
from .base import FlabVerb
from .flags import flags_of


class ExportCommand(FlabVerb):
    """Write a checkpoint as a GGUF file, which llama.cpp runs."""

    FLAGS = flags_of(ExportSettings, "export")

    @staticmethod
    def add_arguments(required: ArgumentGroup, optional: ArgumentGroup) -> None:
        text = "the checkpoint, pruned or dense: a local folder or a Hub id"
        required.add_argument("-m", "--model", metavar="MODEL", required=True, help=text)
        required.add_argument("path", metavar="FILE", type=Path, help="the .gguf file to write")
        arguments.add(optional, "--revision", "--family")

    def execute(self) -> None:
        args, settings = self.args, self.settings.export

        from ..checkpoints.loading import load_dense
        from ..export import check_path, export_gguf

        check_path(args.path, settings)
        model = load_dense(args.model, revision=args.revision, family=args.family, in_memory=False)
        self.say(export_gguf(model, args.path, settings).to_text())
