"""`optimum-cli flab eval`."""

from __future__ import annotations

import sys
from argparse import Action
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ConfigurationError, FlabError
from ..settings.evaluation import EvaluationSettings, check_evaluation, check_tasks
from . import arguments
from .base import FlabVerb, given_besides, terminal, told_to_go_on
from .flags import add_config, add_flag, flags_of, section_from


if TYPE_CHECKING:
    from argparse import ArgumentParser


# what the check of references uses; all other flags are about a model, or about what is written
OF_REFERENCES = (
    *(f"evaluation.{name}" for name in ("tasks", "data", "include_path", "limit", "allow_packages")),
    "check_references",
    "confirm_run_unsafe_code",
    "config",
)


class ListTasks(Action):
    """Prints the tasks of this package and exits, whatever else is missing."""

    def __call__(self, parser: ArgumentParser, *others: Any) -> None:
        from ..evaluation.catalog import shipped_tasks

        tasks = shipped_tasks()
        width = max(map(len, tasks))
        with terminal():
            for name, (description, protocol) in tasks.items():
                print(f"{name:<{width}}  {description}\n{'':<{width}}  {protocol}")
            print("\nlm-eval's own tasks are also available by name.")
        parser.exit()


class EvalCommand(FlabVerb):
    OWN_SECTION = EvaluationSettings.NAME

    @staticmethod
    def parse_args(parser: ArgumentParser) -> None:
        required, optional = arguments.groups(parser)
        arguments.add_model(required, optional, "model to evaluate, usually a pruned one", always=False)
        optional.add_argument(
            "--list-tasks",
            action=ListTasks,
            nargs=0,
            help="list the tasks of this package and how each prompts, and exit",
        )
        arguments.add_switch(
            optional,
            "--check-references",
            "instead of a model's programs, run the reference solutions of the tasks' problems, list those that fail,"
            " and exit with code 1 if there are any; needs no --model",
            default="evaluate a model",
        )
        arguments.add_baseline(optional)
        add_config(optional, "a section `evaluation`")
        for flag in flags_of(EvaluationSettings, EvaluationSettings.NAME):
            add_flag(required if flag.name == "--tasks" else optional, flag)
        arguments.add_device(optional)
        arguments.add_switch(
            optional, "--confirm-run-unsafe-code", "consent to run the programs that the models write, in a sandbox"
        )
        arguments.add_cache(optional, "evaluation", kept="finished batches")
        optional.add_argument(
            "-o",
            "--output",
            type=Path,
            metavar="FOLDER",
            help="folder to write the table, lm-eval's results and the samples to (default: only print the table)",
        )
        arguments.add_switch(optional, "--overwrite", "replace an evaluation in the output folder", default="refuse")

    def execute(self) -> None:
        args = self.args
        asked = section_from(args, EvaluationSettings)
        given = vars(args)
        if given["evaluation.tasks"] and not given["evaluation.data"] and isinstance(asked.get("data"), dict):
            # a file may name the data of more tasks than the command line asks for
            tasks = EvaluationSettings(tasks=asked["tasks"]).tasks
            asked["data"] = {task: files for task, files in asked["data"].items() if task in tasks}
        settings = EvaluationSettings(**asked)
        if args.check_references:
            return self.check_references(settings)
        if args.model is None:
            raise ConfigurationError(
                "the following arguments are required: -m/--model (only --check-references works without)"
            )
        check_evaluation(settings, has_baseline=args.baseline is not None)

        from ..evaluation.results import EVALUATION
        from ..records.folders import OutputFolder

        with ExitStack() as stack:
            output = None
            if args.output is not None:
                inputs = [args.model, args.baseline, args.config, *settings.sources]
                output = stack.enter_context(
                    OutputFolder(args.output, EVALUATION, overwrite=args.overwrite, inputs=inputs)
                )
            from ..evaluation.harness import evaluate  # takes seconds, and the folder may have been refused

            with told_to_go_on(args):
                found = evaluate(
                    args.model,
                    settings,
                    baseline=args.baseline,
                    device=args.device,
                    confirm_run_unsafe_code=args.confirm_run_unsafe_code,
                    cache_dir=args.cache_dir,
                    baseline_revision=args.baseline_revision,
                    **arguments.of_model(args),
                )
            # shown first: a full disk must not cost the user hours of work
            self.say(found.to_text())
            if found.reused:
                batches = found.reused + found.made
                print(f"{found.reused} of {batches} batches were reused from earlier runs", file=sys.stderr)
            if output is not None:
                found.save_to(output)
                print(self.ending(args.output))

    def check_references(self, settings: EvaluationSettings) -> None:
        args = self.args
        if others := given_besides(self.parser, args, OF_REFERENCES):
            raise ConfigurationError(
                f"--check-references runs no model and writes nothing; leave out {', '.join(others)}"
            )
        check_tasks(settings)

        from ..evaluation.references import check_references

        found = check_references(settings, confirm_run_unsafe_code=args.confirm_run_unsafe_code)
        for references in found:
            print(references.to_text())
        if failures := sum(len(references.failures) for references in found):
            raise FlabError(
                f"{failures:,} reference solution{' fails' if failures == 1 else 's fail'}; if a right answer would"
                " fail too, that lowers every score: see the reasons, and leave such problems out or fix them"
            )
