"""`optimum-cli flab bench`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from .base import DTYPES, FlabVerb, add_model_arguments, argument_groups


if TYPE_CHECKING:
    from argparse import ArgumentParser


class BenchCommand(FlabVerb):
    @staticmethod
    def parse_args(parser: ArgumentParser) -> None:
        required, optional = argument_groups(parser)
        add_model_arguments(required, optional, "model to measure, usually a pruned one")
        optional.add_argument(
            "--baseline",
            metavar="MODEL",
            help="model to compare with, usually the dense one (default: none)",
        )
        optional.add_argument(
            "--baseline-revision",
            metavar="REVISION",
            help="branch, tag or commit of a baseline on the Hub (default: its main branch)",
        )
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
        for flag, default, text in (
            ("--prompt-tokens", 128, "tokens of each prompt"),
            ("--new-tokens", 32, "tokens generated for each prompt"),
            ("--batch-size", 8, "prompts of the larger batch; batch 1 is always measured"),
            ("--repeats", 5, "timed rounds"),
            ("--warmup", 1, "rounds before them that do not count"),
        ):
            optional.add_argument(flag, metavar="N", type=int, default=default, help=f"{text} (default: %(default)s)")
        optional.add_argument(
            "--energy-seconds",
            metavar="SECONDS",
            type=float,
            default=10.0,
            help="how long at least each model runs for the estimate of energy, 0 for none (default: %(default)s)",
        )
        optional.add_argument(
            "--country",
            metavar="CODE",
            help="three-letter ISO code of the country whose electricity is used (default: the world average)",
        )
        optional.add_argument("--device", help="device to compute on, for example cpu or cuda:0 (default: auto pick)")
        optional.add_argument(
            "--dtype", choices=DTYPES, help="number format of the computation (default: each model's own)"
        )

    def execute(self) -> None:
        args = self.args

        from ..evaluation.efficiency import check_output, measure_efficiency

        check_output(args.output, args.overwrite)
        report = measure_efficiency(
            args.model,
            args.baseline,
            prompt_tokens=args.prompt_tokens,
            new_tokens=args.new_tokens,
            batch_size=args.batch_size,
            repeats=args.repeats,
            warmup=args.warmup,
            energy_seconds=args.energy_seconds,
            dtype=args.dtype,
            device=args.device,
            country=args.country,
            revision=args.revision,
            baseline_revision=args.baseline_revision,
            trust_remote_code=args.trust_remote_code,
            family=args.family,
        )
        # shown first: a full disk must not cost the user what took minutes
        print(report.to_text())
        report.save(args.output, overwrite=args.overwrite)
        print(self.ending(args.output))
