"""The verbs of `optimum-cli flab`. Light: it is imported at every start of `optimum-cli`."""

from __future__ import annotations

from optimum.commands.base import BaseOptimumCLICommand, CommandInfo

from .bench import BenchCommand
from .card import CardCommand
from .eval import EvalCommand
from .inspect import InspectCommand
from .prune import PruneCommand
from .push import PushCommand
from .recover import RecoverCommand


class FlabCommand(BaseOptimumCLICommand):
    COMMAND = CommandInfo("flab", help="Prune the vocabulary, layers and FFNs of code language models.")
    SUBCOMMANDS = (
        CommandInfo("prune", "Prune a model to a smaller stock checkpoint.", PruneCommand),
        CommandInfo("inspect", "Count a model's parameters, and what a target would need.", InspectCommand),
        CommandInfo("bench", "Measure what a model costs to store and run, beside a baseline.", BenchCommand),
        CommandInfo("eval", "Evaluate a model on code tasks, beside a baseline.", EvalCommand),
        CommandInfo("card", "Write or refresh the model card of a pruned model.", CardCommand),
        CommandInfo("recover", "Train a pruned model back towards the dense one.", RecoverCommand),
        CommandInfo("push", "Push a pruned model to the Hugging Face Hub.", PushCommand),
    )


__all__ = ["FlabCommand"]
