"""`optimum-cli flab inspect`."""

from __future__ import annotations

import json

from ..settings.pruning import check_settings
from ..utils.compat import ArgumentGroup
from . import arguments
from .base import FlabVerb
from .flags import PRUNING, add_flag, settings_from


TARGET = next(flag for flag in PRUNING if flag.setting == "target_ratio")


class InspectCommand(FlabVerb):
    @staticmethod
    def add_arguments(required: ArgumentGroup, optional: ArgumentGroup) -> None:
        arguments.add_model(required, optional)
        add_flag(optional, TARGET)
        arguments.add_switch(optional, "--json", "print JSON instead of a table", default="a table")

    def execute(self) -> None:
        target = check_settings(settings_from(self.args, [TARGET])).target_ratio

        from ..inspection import inspect_model

        table = inspect_model(self.args.model, target_ratio=target, **arguments.of_model(self.args))
        print(json.dumps(table.to_dict(), indent=2) if self.args.json else table.to_text())
