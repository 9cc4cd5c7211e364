"""`optimum-cli flab bench`."""

from __future__ import annotations

from pathlib import Path

from ..settings.efficiency import BenchSettings
from ..utils.compat import ArgumentGroup
from . import arguments
from .base import FlabVerb
from .flags import flags_of
from .following import card_of


class BenchCommand(FlabVerb):
    """Measure what a model costs to store and run, against a baseline."""

    FLAGS = flags_of(BenchSettings, "bench")

    @staticmethod
    def add_arguments(required: ArgumentGroup, optional: ArgumentGroup) -> None:
        arguments.add_model(required, optional, "model to measure, usually a pruned one")
        optional.add_argument(
            "-o",
            "--output",
            metavar="FOLDER",
            type=Path,
            default=Path("flab-bench"),
            help="folder to write flab_efficiency.json to (default: %(default)s)",
        )
        arguments.add(optional, "--baseline", "--baseline-revision", "--device", "--overwrite")

    def execute(self) -> None:
        args, settings = self.args, self.settings.bench

        from ..evaluation.efficiency import check_output, measure_efficiency

        check_output(args.output, args.overwrite)
        report = measure_efficiency(
            args.model,
            args.baseline,
            settings,
            device=args.device,
            **arguments.of_model(args),
            baseline_revision=args.baseline_revision,
        )
        # shown first: a full disk must not cost the user minutes of work
        self.say(report.to_text())
        report.save(args.output, overwrite=args.overwrite)
        self.show_end(args.output, *card_of(args.model, args.output))
