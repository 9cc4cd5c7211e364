"""`optimum-cli flab card`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from ..settings.hub import CardSettings
from . import arguments
from .base import FlabVerb, with_flags
from .flags import add_settings, section_from


if TYPE_CHECKING:
    from argparse import ArgumentParser


class CardCommand(FlabVerb):
    OWN_SECTION = CardSettings.NAME

    @staticmethod
    def parse_args(parser: ArgumentParser) -> None:
        required, optional = arguments.groups(parser)
        required.add_argument("folder", help="folder that `optimum-cli flab prune` wrote; its README.md is written")
        add_settings(optional, CardSettings)

    def execute(self) -> None:
        folder = Path(self.args.folder)
        settings = CardSettings(**section_from(self.args, CardSettings))

        from ..checkpoints.checked import check_complete
        from ..hub.card import write_card
        from ..records.names import CARD_NAME

        check_complete(folder)
        for note in write_card(folder, settings):
            print(f"note: {with_flags(note, self.flags)}", file=sys.stderr)
        print(folder / CARD_NAME)
