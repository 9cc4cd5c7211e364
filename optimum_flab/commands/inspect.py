"""`optimum-cli flab inspect`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from ..settings.pruning import check_settings
from .base import FlabVerb, add_model_arguments, argument_groups


if TYPE_CHECKING:
    from argparse import ArgumentParser


class InspectCommand(FlabVerb):
    @staticmethod
    def parse_args(parser: ArgumentParser) -> None:
        required, optional = argument_groups(parser)
        add_model_arguments(required, optional)
        optional.add_argument(
            "--target-ratio",
            type=float,
            metavar="RATIO",
            help="also show what removing this share of all parameters would need (default: counts only)",
        )
        optional.add_argument("--json", action="store_true", help="print JSON instead of a table (default: a table)")

    def execute(self) -> None:
        check_settings({"target_ratio": self.args.target_ratio})

        from ..inspection import inspect_model

        table = inspect_model(
            self.args.model,
            revision=self.args.revision,
            trust_remote_code=self.args.trust_remote_code,
            family=self.args.family,
            target_ratio=self.args.target_ratio,
        )
        print(json.dumps(table.to_dict(), indent=2) if self.args.json else table.to_text())
