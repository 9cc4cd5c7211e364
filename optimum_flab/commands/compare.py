"""`optimum-cli flab compare`."""

from __future__ import annotations

import json

from ..utils.compat import ArgumentGroup
from ..utils.places import output_file
from . import arguments
from .base import FlabVerb


class CompareCommand(FlabVerb):
    """Show pruned models side by side, from their reports and evaluations."""

    @staticmethod
    def add_arguments(required: ArgumentGroup, optional: ArgumentGroup) -> None:
        required.add_argument("folders", nargs="+", metavar="FOLDER", help="what `flab prune` or `flab eval` wrote")
        optional.add_argument("--json", action="store_true", help="print the files as JSON (default: print a table)")
        optional.add_argument("--plot", metavar="FILE", help=".png file to draw a plot to (default: none)")
        arguments.add(optional, "--overwrite")

    def execute(self) -> None:
        args = self.args
        path = None if args.plot is None else output_file(args.plot, ".png", args.overwrite)

        from ..records.comparison import comparison_text, plot_comparison, read_models

        models = read_models(args.folders)
        if path is not None:
            plot_comparison(models, path)
        print(json.dumps([model.to_dict() for model in models], indent=2) if args.json else comparison_text(models))
