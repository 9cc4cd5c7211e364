"""`optimum-cli flab push`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..settings.hub import PushSettings
from . import arguments
from .base import FlabVerb
from .flags import add_settings, section_from


if TYPE_CHECKING:
    from argparse import ArgumentParser


class PushCommand(FlabVerb):
    OWN_SECTION = PushSettings.NAME

    @staticmethod
    def parse_args(parser: ArgumentParser) -> None:
        required, optional = arguments.groups(parser)
        required.add_argument("folder", help="folder that `optimum-cli flab prune` wrote")
        required.add_argument(
            "repo_id", help="repository to push to, for example me/my-model-flab; created if it does not exist"
        )
        add_settings(optional, PushSettings)
        # No --token: it would stay in the shell's history and show in the list of processes.
        parser.epilog = "The token is that of `hf auth login`, or of the environment variable HF_TOKEN."

    def execute(self) -> None:
        args = self.args
        settings = PushSettings(**section_from(args, PushSettings))

        from ..hub.push import push_to_hub

        self.say(push_to_hub(args.folder, args.repo_id, **settings.model_dump()).to_text())
