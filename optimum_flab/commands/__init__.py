"""The verbs of `optimum-cli flab`. Lightweight: it is imported whenever `optimum-cli` starts."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from pkgutil import iter_modules

from optimum.commands.base import BaseOptimumCLICommand, CommandInfo


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


__all__ = ["FlabCommand"]
