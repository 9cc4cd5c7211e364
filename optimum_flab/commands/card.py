"""`optimum-cli flab card`."""

from __future__ import annotations

import sys
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
        folder = self.args.folder
        settings = CardSettings(**section_from(self.args, CardSettings))

        from ..hub.card import write_card
        from ..hub.conversation import hub_card_reader
        from ..hub.staging import check_complete
        from ..hub.terms import Answers, check_repo_id

        check_complete(folder)
        if settings.repo_id is not None:
            check_repo_id(settings.repo_id)
        written = write_card(
            folder,
            settings.repo_id,
            results=settings.results,
            answers=Answers(settings.base_model, settings.license, settings.license_name, settings.license_link),
            overwrite=settings.overwrite_card,
            fetch=hub_card_reader(),
        )
        for note in written.notes:
            print(f"note: {with_flags(note, self.flags)}", file=sys.stderr)
        print(written.path)
