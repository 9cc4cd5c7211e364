"""`optimum-cli flab export`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ..settings.export import ExportSettings
from .base import FlabVerb, add_family_argument, argument_groups
from .flags import Flag, add_config, add_flag, section_from


if TYPE_CHECKING:
    from argparse import ArgumentParser


FLAGS = (
    Flag("--type", "export.type"),
    Flag("--pre-tokenizer", "export.pre_tokenizer", "NAME"),
    Flag("--split-megabytes", "export.split_megabytes", "N"),
    Flag("--overwrite", "export.overwrite"),
)


class ExportCommand(FlabVerb):
    OWN_SECTION = ExportSettings.NAME

    @staticmethod
    def parse_args(parser: ArgumentParser) -> None:
        required, optional = argument_groups(parser)
        required.add_argument("model", help="the checkpoint, pruned or dense: a local folder or a Hub id")
        required.add_argument("path", type=Path, help="the .gguf file to write")
        add_config(optional, "a section `export`")
        for flag in FLAGS:
            add_flag(optional, flag)
        optional.add_argument(
            "--revision", help="branch, tag or commit of a model on the Hub (default: its main branch)"
        )
        add_family_argument(optional)

    def execute(self) -> None:
        args = self.args
        settings = ExportSettings(**section_from(args, FLAGS, ExportSettings.NAME))

        from ..checkpoints.loading import load_dense
        from ..export import check_path, export_gguf

        check_path(args.path, settings)
        model = load_dense(args.model, revision=args.revision, family=args.family, in_memory=False)
        self.say(export_gguf(model, args.path, settings).to_text())
