"""`optimum-cli flab card`."""

from __future__ import annotations

import sys

from ..settings.hub import CardSettings
from ..utils.compat import ArgumentGroup
from . import arguments
from .base import FlabVerb, with_flags
from .flags import flags_of
from .following import push_of


class CardCommand(FlabVerb):
    """Write or refresh the model card of a pruned or trimmed model."""

    FLAGS = flags_of(CardSettings, "card")

    @staticmethod
    def add_arguments(required: ArgumentGroup, optional: ArgumentGroup) -> None:
        arguments.add_folder(required, "; its README.md is written")

    def execute(self) -> None:
        settings = self.settings.card

        from ..hub.card import write_card
        from ..records.checkpoint import Checkpoint
        from ..records.names import CARD_NAME

        checkpoint = Checkpoint(self.args.folder, settings.results)
        if not checkpoint.is_trimmed:
            checkpoint.check_complete()
        for note in write_card(checkpoint, settings):
            print(f"note: {with_flags(note, self.flags)}", file=sys.stderr)
        print(checkpoint.folder / CARD_NAME)
        self.show_next(push_of(self.args.folder, settings.repo_id))
