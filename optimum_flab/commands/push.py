"""`optimum-cli flab push`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .base import FlabVerb, argument_groups


if TYPE_CHECKING:
    from argparse import ArgumentParser


class PushCommand(FlabVerb):
    @staticmethod
    def parse_args(parser: ArgumentParser) -> None:
        required, optional = argument_groups(parser)
        required.add_argument("folder", help="folder that `optimum-cli flab prune` wrote")
        required.add_argument(
            "repo_id", help="repository to push to, for example me/my-model-flab; made if it is missing"
        )
        optional.add_argument("--private", action="store_true", help="make a new repository private (default: public)")
        optional.add_argument("--revision", help="branch to push to; made if it is missing (default: main)")
        # No --token: it would stay in the shell's history and show in the list of processes.
        parser.epilog = "The token is the one of `hf auth login`, or of the environment variable HF_TOKEN."

    def execute(self) -> None:
        from ..hub.push import push_to_hub

        print(push_to_hub(self.args.folder, self.args.repo_id, private=self.args.private, revision=self.args.revision))
