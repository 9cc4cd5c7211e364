"""`optimum-cli flab apply`, also run by `optimum-cli flab prune --plan`."""

from __future__ import annotations

from argparse import ArgumentTypeError
from pathlib import Path
from typing import TYPE_CHECKING

from ..places import user_path
from . import arguments
from .base import FlabVerb, command_line


if TYPE_CHECKING:
    from argparse import ArgumentParser, _ArgumentGroup

    from .. import FlabOptimizer


class ApplyCommand(FlabVerb):
    @staticmethod
    def parse_args(parser: ArgumentParser) -> None:
        required, optional = arguments.groups(parser)
        arguments.add_model(required, optional)
        required.add_argument(
            "--plan",
            metavar="FILE",
            required=True,
            help="flab_plan.json of an earlier run, or the folder that holds it",
        )
        required.add_argument("output", type=Path, help="folder to write the pruned model to")
        arguments.add_device(optional)
        arguments.add_dtype(optional, "the computation")
        add_ending_arguments(optional)

    def execute(self) -> None:
        apply_plan(self, "apply")


def apply_plan(verb: FlabVerb, name: str) -> None:
    """Write the model that a plan describes, as a verb's command line requests."""
    args = verb.args

    from .. import FlabOptimizer, PruningPlan

    command = command_line(name, verb.parser, args)
    with FlabOptimizer.output(args.output, overwrite=args.overwrite, inputs=[args.model, args.plan]) as output:
        plan = PruningPlan.load(args.plan)
        optimizer = FlabOptimizer.from_pretrained(
            args.model,
            **arguments.of_model(args),
            in_memory=args.prompt is not None,
            device="cpu" if args.prompt is None else args.device,
            dtype=args.dtype,
        )
        check_completion(verb, optimizer)
        optimizer.pruned = optimizer.apply(plan).with_report(command=command)
        optimizer.save_to(output)
    show_pruned(verb, optimizer)


def add_ending_arguments(optional: _ArgumentGroup) -> None:
    """Declare the flags for how a verb that writes a pruned model ends."""
    optional.add_argument(
        "--prompt",
        metavar="TEXT",
        type=prompt_text,
        help="complete this text with the dense and the pruned model at the end (default: do not)",
    )
    arguments.add_switch(optional, "--overwrite", "replace the pruned model in the output folder", default="refuse")


def prompt_text(text: str) -> str:
    """The value of `--prompt`, which a tokenizer can read."""
    if not text:
        raise ArgumentTypeError("the text is empty; give the beginning of a program, or leave the flag out")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ArgumentTypeError(f"the text is not UTF-8 at character {error.start + 1}") from error
    return text


def check_completion(verb: FlabVerb, optimizer: FlabOptimizer) -> None:
    """Refuse, before any long work, a prompt that the model cannot complete."""
    if verb.args.prompt is not None:
        from ..pruned import check_prompt

        check_prompt(optimizer.dense, verb.args.prompt)


def show_pruned(verb: FlabVerb, optimizer: FlabOptimizer) -> None:
    """Print what was removed, the requested completions, which its report then holds, and where the model is."""
    verb.say(optimizer.summary())
    if (prompt := verb.args.prompt) is not None:
        from ..pruned import note_completion
        from ..records.report import Completion

        texts = optimizer.complete(prompt)
        for name, text in texts.items():
            print(f"\n--- completion by the {name} model\n{text}")
        note_completion(user_path(verb.args.output), Completion(prompt=prompt, **texts))
    print(verb.ending(verb.args.output))
