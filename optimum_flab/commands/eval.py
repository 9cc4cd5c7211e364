"""`optimum-cli flab eval`."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from pathlib import Path

from ..settings.evaluation import EvaluationSettings
from ..utils.compat import ArgumentGroup
from ..utils.errors import ConfigurationError, FlabError
from . import arguments
from .base import FlabVerb, command_line
from .flags import flags_of
from .following import card_of


class EvalCommand(FlabVerb):
    """Evaluate a model on code tasks, against a baseline."""

    FLAGS = flags_of(EvaluationSettings, "evaluation")

    @staticmethod
    def add_arguments(required: ArgumentGroup, optional: ArgumentGroup) -> None:
        arguments.add_model(required, optional, "model to evaluate, usually a pruned one", always=False)
        optional.add_argument(
            "--list-tasks",
            action="store_true",
            help="list the tasks of this package and how each prompts, and exit (default: evaluate a model)",
        )
        optional.add_argument(
            "--check-references",
            action="store_true",
            help="instead of a model's programs, run the reference solutions of the tasks' problems, list those that"
            " fail, and exit with code 1 if there are any; needs no --model (default: evaluate a model)",
        )
        arguments.add(optional, "--baseline", "--baseline-revision", "--device", "--cache-dir", "--overwrite")
        arguments.add(optional, "--confirm-run-unsafe-code", "--quiet", "--json")
        optional.add_argument(
            "-o",
            "--output",
            type=Path,
            metavar="FOLDER",
            help="folder to write the table, lm-eval's results and the samples to (default: only print the table)",
        )

    def execute(self) -> None:
        args = self.args
        if args.list_tasks:
            return list_tasks()
        settings = self.settings.evaluation
        if args.check_references:
            return self.check_references(settings)
        if args.model is None:
            raise ConfigurationError(
                "the following arguments are required: -m/--model (only --check-references works without)"
            )

        from ..evaluation.first_checks import check_request, roles_of
        from ..evaluation.results import EVALUATION
        from ..records.folders import OutputFolder
        from ..records.results import result_text

        inputs = [args.model, args.baseline, args.config, *settings.sources]
        output_folder = (
            nullcontext()
            if args.output is None
            else OutputFolder(args.output, EVALUATION, overwrite=args.overwrite, inputs=inputs)
        )
        command = command_line("eval", self.parser, args)
        names = roles_of(args.model, args.revision, args.baseline, args.baseline_revision)
        with output_folder as output:
            check_request(settings, names, args.confirm_run_unsafe_code)
            from ..evaluation.harness import evaluate  # takes seconds, in which nothing should be refused

            evaluation = evaluate(
                args.model,
                settings,
                baseline=args.baseline,
                device=args.device,
                confirm_run_unsafe_code=args.confirm_run_unsafe_code,
                cache_dir=args.cache_dir,
                baseline_revision=args.baseline_revision,
                **arguments.of_model(args),
            ).model_copy(update={"command": command})
            # shown first: a full disk must not cost the user hours of work
            if args.json:
                print(result_text(evaluation), end="")
            else:
                self.say(evaluation.to_text())
            if evaluation.reused:
                batches = evaluation.reused + evaluation.made
                print(f"{evaluation.reused} of {batches} batches were reused from earlier runs", file=sys.stderr)
            if output is not None:
                evaluation.save_to(output)
                self.show_end(args.output, *card_of(args.model, args.output))

    def check_references(self, settings: EvaluationSettings) -> None:
        from ..evaluation.references import check_references

        checks = check_references(settings, confirm_run_unsafe_code=self.args.confirm_run_unsafe_code)
        for references in checks:
            print(references.to_text())
        said = []
        if failures := sum(len(references.failures) for references in checks):
            said.append(
                f"{failures:,} reference solution{' fails' if failures == 1 else 's fail'}; if a right answer would"
                " fail too, that lowers every score: see the reasons, and leave such problems out or fix them"
            )
        if unchecked := sum(len(references.unchecked) for references in checks):
            said.append(
                f"{unchecked:,} test{' passes' if unchecked == 1 else 's pass'} with an empty program, which raises"
                " every score: leave such problems out or fix them"
            )
        if said:
            raise FlabError("\n".join(said))


def list_tasks() -> None:
    """Print the tasks of this package."""
    from ..evaluation.catalog import shipped_tasks

    tasks = shipped_tasks()
    width = max(map(len, tasks))
    for name, (description, protocol) in tasks.items():
        print(f"{name:<{width}}  {description}\n{'':<{width}}  {protocol}")
    print("\nlm-eval's own tasks are also available by name.")
