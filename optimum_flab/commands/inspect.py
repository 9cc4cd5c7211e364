"""`optimum-cli flab inspect`."""

from __future__ import annotations

import json

from ..settings.pruning import PrunerSettings
from ..utils.compat import ArgumentGroup
from . import arguments
from .base import FlabVerb
from .flags import flags_of, settings_from


class InspectCommand(FlabVerb):
    """Count a model's parameters, and what a target would need."""

    FLAGS = [flag for flag in flags_of(PrunerSettings) if flag.setting.startswith("target_")]

    @staticmethod
    def add_arguments(required: ArgumentGroup, optional: ArgumentGroup) -> None:
        arguments.add_model(required, optional)
        optional.add_argument("--json", action="store_true", help="print JSON instead of a table (default: a table)")

    def execute(self) -> None:
        settings = self.settings.pruning  # faults are reported before torch is imported

        from ..inspection import inspect_model

        table = inspect_model(self.args.model, **settings, **arguments.of_model(self.args))
        if self.args.json:
            print(json.dumps(table.to_dict(), indent=2))
            return
        print(f"{table.to_text()}\n")
        given = settings_from(self.args, self.FLAGS)
        flags = [word for flag in self.FLAGS if flag.setting in given for word in (flag.name, given[flag.setting])]
        self.show_next(["prune", self.args.model, "out", *arguments.words_of_model(self.args), *flags])
