"""`optimum-cli flab push`."""

from __future__ import annotations

from ..settings.hub import PushSettings
from ..utils.compat import ArgumentGroup
from . import arguments
from .base import FlabVerb
from .flags import flags_of


class PushCommand(FlabVerb):
    """Push a pruned model to the Hugging Face Hub."""

    FLAGS = flags_of(PushSettings, "push")
    # No --token: it would stay in the shell's history and show in the list of processes.
    EPILOG = "The token is that of `hf auth login`, or of the environment variable HF_TOKEN."

    @staticmethod
    def add_arguments(required: ArgumentGroup, optional: ArgumentGroup) -> None:
        arguments.add_folder(required)
        required.add_argument(
            "repo_id",
            metavar="OWNER/NAME",
            help="repository to push to, for example me/my-model-flab; created if it does not exist",
        )

    def execute(self) -> None:
        settings = self.settings.push

        from ..hub.push import push_to_hub

        self.say(push_to_hub(self.args.folder, self.args.repo_id, **settings.model_dump()).to_text())
