"""`optimum-cli flab push`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..settings.hub import PushSettings
from .base import FlabVerb, argument_groups
from .card import terms_flags
from .flags import Flag, add_config, add_flag, section_from


if TYPE_CHECKING:
    from argparse import ArgumentParser


FLAGS = (
    Flag("--private", "push.private"),
    Flag("--revision", "push.revision", "REVISION"),
    Flag("--create-pr", "push.create_pr"),
    Flag("--commit-message", "push.commit_message", "TEXT"),
    Flag("--dry-run", "push.dry_run"),
    Flag("--overwrite-card", "push.overwrite_card"),
    Flag("--include", "push.include", "PATTERN"),
    *terms_flags("push"),
)


class PushCommand(FlabVerb):
    OWN_SECTION = PushSettings.NAME

    @staticmethod
    def parse_args(parser: ArgumentParser) -> None:
        required, optional = argument_groups(parser)
        required.add_argument("folder", help="folder that `optimum-cli flab prune` wrote")
        required.add_argument(
            "repo_id", help="repository to push to, for example me/my-model-flab; created if it does not exist"
        )
        add_config(optional, "a section `push`")
        for flag in FLAGS:
            add_flag(optional, flag)
        # No --token: it would stay in the shell's history and show in the list of processes.
        parser.epilog = "The token is that of `hf auth login`, or of the environment variable HF_TOKEN."

    def execute(self) -> None:
        args = self.args
        settings = PushSettings(**section_from(args, FLAGS, PushSettings.NAME))

        from ..hub.push import push_to_hub

        self.say(push_to_hub(args.folder, args.repo_id, **settings.model_dump()).to_text())
