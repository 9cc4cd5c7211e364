"""`optimum-cli flab bench`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ..settings.efficiency import BenchSettings
from .base import FlabVerb, add_compared_arguments, add_device_argument, add_model_arguments, argument_groups
from .flags import Flag, add_config, add_flag, section_from


if TYPE_CHECKING:
    from argparse import ArgumentParser


FLAGS = (
    Flag("--prompt-tokens", "bench.prompt_tokens", "N"),
    Flag("--new-tokens", "bench.new_tokens", "N"),
    Flag("--batch-size", "bench.batch_size", "N"),
    Flag("--repeats", "bench.repeats", "N"),
    Flag("--warmup", "bench.warmup", "N"),
    Flag("--energy-seconds", "bench.energy_seconds", "SECONDS"),
    Flag("--country", "bench.country", "CODE"),
    Flag("--dtype", "bench.dtype"),
)


class BenchCommand(FlabVerb):
    OWN_SECTION = BenchSettings.NAME

    @staticmethod
    def parse_args(parser: ArgumentParser) -> None:
        required, optional = argument_groups(parser)
        add_model_arguments(required, optional, "model to measure, usually a pruned one")
        add_compared_arguments(optional)
        add_config(optional, "a section `bench`")
        optional.add_argument(
            "-o",
            "--output",
            metavar="FOLDER",
            type=Path,
            default=Path("flab-bench"),
            help="folder to write flab_efficiency.json and flab_efficiency.png to (default: %(default)s)",
        )
        optional.add_argument(
            "--overwrite", action="store_true", help="replace these two files where they exist (default: refuse)"
        )
        for flag in FLAGS:
            add_flag(optional, flag)
        add_device_argument(optional)

    def execute(self) -> None:
        args = self.args
        settings = BenchSettings(**section_from(args, FLAGS, BenchSettings.NAME))

        from ..evaluation.efficiency import check_output, measure_efficiency

        check_output(args.output, args.overwrite)
        report = measure_efficiency(
            args.model,
            args.baseline,
            settings,
            device=args.device,
            revision=args.revision,
            baseline_revision=args.baseline_revision,
            trust_remote_code=args.trust_remote_code,
            family=args.family,
        )
        # shown first: a full disk must not cost the user minutes of work
        self.say(report.to_text())
        report.save(args.output, overwrite=args.overwrite)
        print(self.ending(args.output))
