"""`optimum-cli flab eval`."""

from __future__ import annotations

import sys
from argparse import Action
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ConfigurationError, FlabError
from ..settings.evaluation import check_settings, check_tasks
from .base import DTYPES, FlabVerb, add_model_arguments, argument_groups


if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace
    from collections.abc import Sequence

    from ..evaluation.harness import Evaluation


# what the check of references heeds; all other flags are about a model, or about what is written
OF_REFERENCES = (
    "tasks",
    "check_references",
    "data",
    "include_path",
    "limit",
    "confirm_run_unsafe_code",
    "allow_packages",
)
NUMBERS = ("limit", "samples", "temperature", "top_p", "batch_size", "max_new_tokens", "seed")


class ListTasks(Action):
    """Prints the tasks of this package and ends, whatever else is missing."""

    def __call__(self, parser: ArgumentParser, *others: Any) -> None:
        from ..evaluation.catalog import shipped_tasks

        tasks = shipped_tasks()
        width = max(map(len, tasks))
        for name, (description, protocol) in tasks.items():
            print(f"{name:<{width}}  {description}\n{'':<{width}}  {protocol}")
        print("\nlm-eval's own tasks are found by their names as well.")
        parser.exit()


class EvalCommand(FlabVerb):
    @staticmethod
    def parse_args(parser: ArgumentParser) -> None:
        required, optional = argument_groups(parser)
        add_model_arguments(required, optional, "model to judge, usually a pruned one", always=False)
        required.add_argument(
            "--tasks",
            required=True,
            metavar="TASK[,TASK...]",
            help="what to evaluate on: tasks of this package (--list-tasks), of --include-path, or lm-eval's own",
        )
        optional.add_argument(
            "--list-tasks", action=ListTasks, nargs=0, help="list the tasks of this package, how each asks, and end"
        )
        optional.add_argument(
            "--check-references",
            action="store_true",
            help="instead of a model's programs run the reference solutions of the tasks' problems, name those that"
            " fail, and end with exit code 1 if there are any; needs no --model (default: evaluate a model)",
        )
        optional.add_argument(
            "--baseline",
            metavar="MODEL",
            help="dense model to compare with, named like --model: gives retention (default: none)",
        )
        optional.add_argument(
            "--baseline-revision", help="branch, tag or commit of a baseline on the Hub (default: its main branch)"
        )
        optional.add_argument(
            "--data",
            metavar="TASK=FILE",
            action="append",
            default=[],
            help="file (.jsonl, .json or .csv, perhaps .gz) with the problems of a task; for perplexity and divergence"
            " any source of text; may be given several times, for recode also several files of one task (default: the"
            " task's dataset on the Hub)",
        )
        optional.add_argument(
            "--include-path", metavar="FOLDER", help="folder with tasks of your own, one YAML each (default: none)"
        )
        optional.add_argument(
            "--limit", type=int, metavar="N", help="only the first N problems of each task (default: all)"
        )
        optional.add_argument(
            "--samples",
            type=int,
            metavar="N",
            default=1,
            help="programs per problem of a code generation task; 1 is greedy, more give pass@k (default: 1)",
        )
        optional.add_argument(
            "--temperature",
            type=float,
            default=0.8,
            help="temperature of the draws with --samples above 1 (default: %(default)s)",
        )
        optional.add_argument("--top-p", type=float, default=0.95, help="top-p of these draws (default: %(default)s)")
        optional.add_argument(
            "--max-new-tokens",
            type=int,
            metavar="N",
            help="most tokens of a completion (default: what each task says, 128 to 1024)",
        )
        optional.add_argument(
            "--batch-size", type=int, metavar="N", default=16, help="requests per batch (default: %(default)s)"
        )
        optional.add_argument(
            "--seed", type=int, default=0, metavar="N", help="of draws and of the bootstrap (default: %(default)s)"
        )
        optional.add_argument("--device", help="device to compute on, for example cpu or cuda:0 (default: auto pick)")
        optional.add_argument(
            "--dtype",
            choices=DTYPES,
            help="number format of the computation (default: that of the weights; for divergence float32)",
        )
        optional.add_argument(
            "--confirm-run-unsafe-code",
            action="store_true",
            help="consent to run the programs that the models write, in a sandbox (default: no)",
        )
        optional.add_argument(
            "--allow-packages",
            metavar="NAME[,NAME...]",
            action="append",
            default=[],
            help="packages installed here that these programs may import, each by the name it is imported by, with"
            " those that it needs itself (default: the standard library alone)",
        )
        optional.add_argument(
            "--cache-dir",
            metavar="FOLDER",
            help="folder that keeps finished batches, so that an interrupted run goes on (default:"
            " optimum_flab/evaluation in HF_HOME)",
        )
        optional.add_argument(
            "-o",
            "--output",
            type=Path,
            metavar="FOLDER",
            help="folder to write the table, lm-eval's results and the samples to (default: only print the table)",
        )
        optional.add_argument(
            "--overwrite", action="store_true", help="replace an evaluation in the output folder (default: refuse)"
        )

    def execute(self) -> None:
        args = self.args
        tasks = [name.strip() for name in args.tasks.split(",") if name.strip()]
        data = parse_data(args.data)
        numbers = {name: getattr(args, name) for name in NUMBERS}
        if args.check_references:
            return self.check_references(tasks, data)
        if args.model is None:
            raise ConfigurationError(
                "the following arguments are required: -m/--model (only --check-references does without)"
            )
        check_settings(tasks, data, has_baseline=args.baseline is not None, **numbers)

        from ..evaluation.harness import EVALUATION
        from ..records.folders import OutputFolder

        with ExitStack() as stack:
            output = None
            if args.output is not None:
                inputs = [args.model, args.baseline, *(file for files in data.values() for file in files)]
                output = stack.enter_context(
                    OutputFolder(args.output, EVALUATION, overwrite=args.overwrite, inputs=inputs)
                )
            try:
                found = self.evaluated(tasks, data, numbers)
            except KeyboardInterrupt:
                print("\nfinished batches are kept; the same command goes on from there", file=sys.stderr)
                raise
            # shown first: a full disk must not cost the user what took hours
            print(found.to_text())
            if found.reused:
                print(f"{found.reused} of {found.reused + found.made} batches were there from before", file=sys.stderr)
            if output is not None:
                found.save_to(output)
                print(self.ending(args.output))

    def check_references(self, tasks: list[str], data: dict[str, list[str]]) -> None:
        args = self.args
        if others := given_besides(self.parser, args, OF_REFERENCES):
            raise ConfigurationError(
                f"--check-references runs no model and writes nothing; leave out {', '.join(others)}"
            )
        check_tasks(tasks, data, args.limit)

        from ..evaluation.references import check_references

        found = check_references(
            tasks,
            data=data,
            include_path=args.include_path,
            limit=args.limit,
            confirm_run_unsafe_code=args.confirm_run_unsafe_code,
            allow_packages=args.allow_packages,
        )
        for references in found:
            print(references.to_text())
        if failures := sum(len(references.failures) for references in found):
            raise FlabError(
                f"{failures:,} reference solution{' fails' if failures == 1 else 's fail'}; where a right answer would"
                " fail too, that lowers every score: see the reasons, and leave such problems out or mend them"
            )

    def evaluated(self, tasks: list[str], data: dict[str, list[str]], numbers: dict[str, Any]) -> Evaluation:
        from ..evaluation.harness import evaluate

        args = self.args
        return evaluate(
            args.model,
            tasks=tasks,
            baseline=args.baseline,
            data=data,
            include_path=args.include_path,
            dtype=args.dtype,
            device=args.device,
            confirm_run_unsafe_code=args.confirm_run_unsafe_code,
            allow_packages=args.allow_packages,
            cache_dir=args.cache_dir,
            revision=args.revision,
            baseline_revision=args.baseline_revision,
            trust_remote_code=args.trust_remote_code,
            family=args.family,
            **numbers,
        )


def given_besides(parser: ArgumentParser, args: Namespace, names: Sequence[str]) -> list[str]:
    """The flags, other than those of some names, that are not as their defaults."""
    return [
        max(action.option_strings, key=len)
        for action in parser._actions  # there is no public list of them
        if action.dest not in names and getattr(args, action.dest, action.default) != action.default
    ]


def parse_data(given: Sequence[str]) -> dict[str, list[str]]:
    """`TASK=FILE` arguments as files by task.

    Raises:
        [`ConfigurationError`]: one has another form.
    """
    files: dict[str, list[str]] = {}
    for argument in given:
        task, equals, file = argument.partition("=")
        if not (task.strip() and equals and file):
            raise ConfigurationError(f"--data {argument}: expected TASK=FILE, for example humaneval=./HumanEval.jsonl")
        files.setdefault(task.strip(), []).append(file)
    return files
