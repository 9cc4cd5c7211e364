"""`optimum-cli flab card`."""

from __future__ import annotations

import sys
from pathlib import Path

from ..settings.hub import CardSettings
from ..utils.compat import ArgumentGroup
from . import arguments
from .base import FlabVerb, with_flags
from .flags import flags_of


class CardCommand(FlabVerb):
    """Write or refresh the model card of a pruned or trimmed model."""

    FLAGS = flags_of(CardSettings, "card")

    @staticmethod
    def add_arguments(required: ArgumentGroup, optional: ArgumentGroup) -> None:
        arguments.add_folder(required, "; its README.md is written")

    def execute(self) -> None:
        folder, settings = Path(self.args.folder), self.settings.card

        from ..checkpoints.stored_model import check_complete
        from ..hub.card import write_card
        from ..hub.trimmed import is_trimmed, write_trimmed_card
        from ..records.names import CARD_NAME

        if is_trimmed(folder):
            notes = write_trimmed_card(folder, settings)
        else:
            check_complete(folder)
            notes = write_card(folder, settings)
        for note in notes:
            print(f"note: {with_flags(note, self.flags)}", file=sys.stderr)
        print(folder / CARD_NAME)
