"""`optimum-cli flab card`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from .base import FlabVerb, argument_groups


if TYPE_CHECKING:
    from argparse import ArgumentParser, _ArgumentGroup


def add_terms(optional: _ArgumentGroup) -> None:
    """Declares the flags that say whose model was pruned, where its files do not."""
    optional.add_argument(
        "--base-model",
        metavar="OWNER/NAME",
        help="repository of the dense model, where it was read from local files (default: as recorded)",
    )
    optional.add_argument(
        "--license",
        metavar="ID",
        help="licence of the base model as the Hub spells it, for example apache-2.0 (default: that of its card)",
    )
    optional.add_argument(
        "--license-name", metavar="NAME", help="name of a licence without an id of its own (default: that of its card)"
    )
    optional.add_argument(
        "--license-link", metavar="URL", help="where its text is (default: what the base model's card says)"
    )


class CardCommand(FlabVerb):
    @staticmethod
    def parse_args(parser: ArgumentParser) -> None:
        required, optional = argument_groups(parser)
        required.add_argument("folder", help="folder that `optimum-cli flab prune` wrote; its README.md is written")
        optional.add_argument(
            "--results",
            metavar="FOLDER",
            action="append",
            help="folder with what `flab eval` or `flab bench` wrote; may be given several times; they are copied"
            " beside the weights, in place of those copied before (default: those beside the weights)",
        )
        optional.add_argument(
            "--repo-id",
            metavar="OWNER/NAME",
            help="repository that title and example name (default: none; a push fills it in)",
        )
        optional.add_argument(
            "--overwrite-card",
            action="store_true",
            help="replace a README.md that was not written by this software (default: refuse)",
        )
        add_terms(optional)

    def execute(self) -> None:
        args = self.args

        from ..hub.card import write_card
        from ..hub.conversation import hub_card_reader
        from ..hub.staging import check_complete
        from ..hub.terms import Answers, check_repo_id

        check_complete(args.folder)
        if args.repo_id is not None:
            check_repo_id(args.repo_id)
        written = write_card(
            args.folder,
            args.repo_id,
            results=args.results,
            answers=Answers(args.base_model, args.license, args.license_name, args.license_link),
            overwrite=args.overwrite_card,
            fetch=hub_card_reader(),
        )
        for note in written.notes:
            print(f"note: {note}", file=sys.stderr)
        print(written.path)
