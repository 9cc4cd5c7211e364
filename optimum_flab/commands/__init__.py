"""The verbs of `optimum-cli flab`. Lightweight: it is imported whenever `optimum-cli` starts."""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Iterator
from importlib import import_module
from pkgutil import iter_modules

from optimum.commands.base import BaseOptimumCLICommand, CommandInfo

from .parser import VerbParser


def _verbs() -> Iterator[CommandInfo]:
    """Every module of this package with a command of its name, such as `prune` with `PruneCommand`."""
    for module in iter_modules(__path__):
        command = getattr(import_module(f"{__name__}.{module.name}"), f"{module.name.title()}Command", None)
        if command is not None:
            yield CommandInfo(module.name, command.__doc__, command)


class FlabCommand(BaseOptimumCLICommand):
    """`optimum-cli flab`: its verbs, each a module of this package."""

    COMMAND = CommandInfo("flab", help="Prune the vocabulary, layers and FFNs of code language models.")
    SUBCOMMANDS = tuple(_verbs())

    def parse_args(self, parser: ArgumentParser) -> None:
        """The verbs declare their parsers as Optimum has it, but with our own parser class."""
        self.subparsers = parser.add_subparsers(parser_class=VerbParser, metavar="VERB")


__all__ = ["FlabCommand"]
