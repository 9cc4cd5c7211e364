"""`optimum-cli flab export`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ..settings.export import ExportSettings
from . import arguments
from .base import FlabVerb
from .flags import add_settings, section_from


if TYPE_CHECKING:
    from argparse import ArgumentParser


class ExportCommand(FlabVerb):
    OWN_SECTION = ExportSettings.NAME

    @staticmethod
    def parse_args(parser: ArgumentParser) -> None:
        required, optional = arguments.groups(parser)
        required.add_argument("model", help="the checkpoint, pruned or dense: a local folder or a Hub id")
        required.add_argument("path", type=Path, help="the .gguf file to write")
        add_settings(optional, ExportSettings)
        arguments.add_revision(optional)
        arguments.add_family(optional)

    def execute(self) -> None:
        args = self.args
        settings = ExportSettings(**section_from(args, ExportSettings))

        from ..checkpoints.loading import load_dense
        from ..export import check_path, export_gguf

        check_path(args.path, settings)
        model = load_dense(args.model, revision=args.revision, family=args.family, in_memory=False)
        self.say(export_gguf(model, args.path, settings).to_text())
