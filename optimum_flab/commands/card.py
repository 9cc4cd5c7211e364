"""`optimum-cli flab card`."""

from __future__ import annotations

import sys
from pathlib import Path
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
        folder = Path(self.args.folder)
        settings = CardSettings(**section_from(self.args, FLAGS, CardSettings.NAME))

        from ..checkpoints.checked import check_complete
        from ..hub.card import write_card
        from ..records.names import CARD_NAME

        check_complete(folder)
        for note in write_card(folder, settings):
            print(f"note: {with_flags(note, self.flags)}", file=sys.stderr)
        print(folder / CARD_NAME)
