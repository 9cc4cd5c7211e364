"""The verbs of `optimum-cli flab`. Lightweight: it is imported whenever `optimum-cli` starts."""

from __future__ import annotations

from argparse import ArgumentParser

from optimum.commands.base import BaseOptimumCLICommand, CommandInfo

from .apply import ApplyCommand
from .base import VerbParser
from .bench import BenchCommand
from .card import CardCommand
from .count import CountCommand
from .eval import EvalCommand
from .export import ExportCommand
from .inspect import InspectCommand
from .prune import PruneCommand
from .push import PushCommand
from .recipes import RecipesCommand
from .recover import RecoverCommand


class FlabCommand(BaseOptimumCLICommand):
    """`optimum-cli flab`: its verbs, each a module of this package."""

    COMMAND = CommandInfo("flab", help="Prune the vocabulary, layers and FFNs of code language models.")
    SUBCOMMANDS = (
        CommandInfo("prune", "Prune a model to a smaller stock checkpoint.", PruneCommand),
        CommandInfo("apply", "Apply the plan of an earlier run to its dense model, without any search.", ApplyCommand),
        CommandInfo("count", "Count the tokens of text of any size, for `flab prune --counts`.", CountCommand),
        CommandInfo("inspect", "Count a model's parameters, and what a target would need.", InspectCommand),
        CommandInfo("recipes", "List the settings files that come with the package, or print one.", RecipesCommand),
        CommandInfo("bench", "Measure what a model costs to store and run, against a baseline.", BenchCommand),
        CommandInfo("eval", "Evaluate a model on code tasks, against a baseline.", EvalCommand),
        CommandInfo("card", "Write or refresh the model card of a pruned model.", CardCommand),
        CommandInfo("recover", "Train a pruned model back towards the dense one.", RecoverCommand),
        CommandInfo("export", "Write a checkpoint as a GGUF file, which llama.cpp runs.", ExportCommand),
        CommandInfo("push", "Push a pruned model to the Hugging Face Hub.", PushCommand),
    )

    def parse_args(self, parser: ArgumentParser) -> None:
        """The verbs declare their parsers as Optimum has it, but with our own parser class."""
        self.subparsers = parser.add_subparsers(parser_class=VerbParser)


__all__ = ["FlabCommand"]
