"""`optimum-cli flab card`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from ..settings.hub import CardSettings
from .base import FlabVerb, argument_groups, with_flags
from .flags import Flag, add_config, add_flag, section_from


if TYPE_CHECKING:
    from argparse import ArgumentParser


def terms_flags(section: str) -> tuple[Flag, ...]:
    """The flags for facts about the dense model that its files do not state."""
    return (
        Flag("--base-model", f"{section}.base_model", "OWNER/NAME"),
        Flag("--license", f"{section}.license", "ID"),
        Flag("--license-name", f"{section}.license_name", "NAME"),
        Flag("--license-link", f"{section}.license_link", "URL"),
    )


FLAGS = (
    Flag("--results", "card.results", "FOLDER"),
    Flag("--repo-id", "card.repo_id", "OWNER/NAME"),
    Flag("--overwrite-card", "card.overwrite_card"),
    *terms_flags("card"),
)


class CardCommand(FlabVerb):
    OWN_SECTION = CardSettings.NAME

    @staticmethod
    def parse_args(parser: ArgumentParser) -> None:
        required, optional = argument_groups(parser)
        required.add_argument("folder", help="folder that `optimum-cli flab prune` wrote; its README.md is written")
        add_config(optional, "a section `card`")
        for flag in FLAGS:
            add_flag(optional, flag)

    def execute(self) -> None:
        folder = self.args.folder
        settings = CardSettings(**section_from(self.args, FLAGS, CardSettings.NAME))

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
