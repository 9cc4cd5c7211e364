"""`optimum-cli flab push`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .base import FlabVerb, argument_groups
from .card import add_terms


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
        optional.add_argument(
            "--create-pr",
            action="store_true",
            help="open a pull request instead of changing the branch, or bring your open one up to date (default: no)",
        )
        optional.add_argument(
            "--commit-message",
            metavar="TEXT",
            help="title of the commit, and its description below (default: what is pushed)",
        )
        optional.add_argument(
            "--dry-run",
            action="store_true",
            help="only check, and say what would be done (default: no)",
        )
        optional.add_argument(
            "--overwrite-card",
            action="store_true",
            help="replace a README.md on the Hub that was not written by this software (default: refuse)",
        )
        optional.add_argument(
            "--include",
            metavar="PATTERN",
            action="append",
            default=[],
            help="send these files of the folder too, for example 'notes/*.md'; may be given several times; what"
            " looks like a secret is sent only by its full name (default: only the files of the model)",
        )
        optional.add_argument(
            "--adapter-of",
            metavar="OWNER/NAME",
            help="push only the LoRA adapter that `flab recover --keep-adapter` kept in the folder; the repository of"
            " the pruned model that it goes with (default: push the model)",
        )
        add_terms(optional)
        optional.add_argument(
            "--timeout",
            type=float,
            metavar="SECONDS",
            default=300.0,
            help="how long nothing of an answer may come before a request has failed, at most a day; Xet, by which"
            " large files go where hf_xet is installed, gives up by itself after some minutes (default: %(default)s)",
        )
        # No --token: it would stay in the shell's history and show in the list of processes.
        parser.epilog = "The token is the one of `hf auth login`, or of the environment variable HF_TOKEN."

    def execute(self) -> None:
        from ..hub.push import push_to_hub

        options = {name: value for name, value in vars(self.args).items() if name not in ("func", "folder", "repo_id")}
        print(push_to_hub(self.args.folder, self.args.repo_id, **options).to_text())
