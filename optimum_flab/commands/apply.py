"""`optimum-cli flab apply`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..utils.compat import ArgumentGroup
from ..utils.errors import ConfigurationError, FlabError
from ..utils.places import user_path
from . import arguments
from .base import FlabVerb, command_line
from .following import after_trim, evaluation_of, push_of


if TYPE_CHECKING:
    from .. import FlabOptimizer, PruningPlan
    from ..records.report import Report


def trim_plan(path: str) -> PruningPlan | None:
    """The plan of a trim; `None` where it is another one, or none, which is said after what is wrong with the
    output."""
    from ..records.plan import PruningPlan

    with suppress(FlabError):
        plan = PruningPlan.load(path, tensors=False)
        return plan if plan.is_trim else None
    return None


class PruningVerb(FlabVerb):
    """A verb that writes a pruned model, and may complete a prompt with it at the end."""

    def show_pruned(self, optimizer: FlabOptimizer, types: Sequence[str] = ()) -> None:
        """Print what was removed, the requested completions, which its report then holds, where the model is, and what
        the command took, by its report; or else its report as JSON. Write GGUF files of the requested types."""
        from ..pruned import write_gguf_files, write_records
        from ..records.ledger import Ledger
        from ..records.report import ComparedCompletion, report_text
        from ..records.summary import files_summary

        assert optimizer.pruned is not None  # it was written just now
        pruned = replace(optimizer.pruned, folder=user_path(self.args.output))  # as the user named it
        prompt = getattr(self.args, "prompt", None)
        as_json = getattr(self.args, "json", False)
        show: Callable[[str], None] = (lambda text: None) if as_json else self.say
        show(optimizer.summary())
        ledger = Ledger(counts=optimizer.dense.device.type == "cpu")
        try:
            wanted = bool(types or pruned.plan.types)
            for exported, cost in write_gguf_files(pruned, optimizer.dense, types, ledger) if wanted else ():
                show(f"\n{exported.to_text()}")
                if cost is not None:
                    pruned = replace(pruned, report=pruned.report.with_file(cost))
            if pruned.report.files:
                show(f"\n{files_summary(pruned.report)}")
            if prompt is not None:
                texts = optimizer.complete(prompt)
                for name, text in texts.items():
                    show(f"\n--- completion by the {name} model\n{text}")
                pruned = pruned.with_report(completions=(ComparedCompletion(prompt=prompt, **texts),))
        finally:  # a file or a completion may fail after others
            pruned = pruned.with_stages(ledger.stages).with_total(self.meter)
            write_records(pruned.checkpoint)
        self.show_end(
            self.args.output, *self.following(pruned.report), taken=str([*pruned.report.commands.values()][-1])
        )
        if as_json:
            print(report_text(pruned.report), end="")

    def following(self, report: Report) -> list[list[object]]:
        """What may be done with a pruned model: what lost more than its vocabulary is trained back."""
        args = self.args
        dense = getattr(args, "teacher", args.model)
        revision = getattr(args, "teacher_revision", getattr(args, "revision", None))
        made = args.output / report.files[0].name if report.files else args.output
        evaluation = evaluation_of(made, dense, revision)
        if report.recovery is not None:
            return [evaluation, push_of(args.output)]
        if report.removed_body_ratio == 0:
            return [["chat", made], evaluation]
        given = {"--teacher-revision": revision, "--family": args.family}
        more = [word for flag, value in given.items() if value is not None for word in (flag, value)]
        return [["recover", args.output, f"{args.output}-recovered", "--teacher", dense, *more], evaluation]


class ApplyCommand(PruningVerb):
    """Apply the plan of an earlier run to its dense model, or that of a trim to any files of the same model."""

    @staticmethod
    def add_arguments(required: ArgumentGroup, optional: ArgumentGroup) -> None:
        arguments.add_model(required, optional)
        required.add_argument(
            "--plan",
            metavar="FILE",
            required=True,
            help="flab_plan.json of an earlier run, or the folder that holds it",
        )
        required.add_argument("output", metavar="OUT", type=Path, help="folder to write the pruned model to")
        arguments.add_dtype(optional, "the computation")
        arguments.add(optional, "--device", "--prompt", "--overwrite")

    def execute(self) -> None:
        args = self.args

        from .. import FlabOptimizer, PruningPlan
        from ..checkpoints.computation import computation_device
        from ..pruned import check_prompt

        command = command_line("apply", self.parser, args)
        if (plan := trim_plan(args.plan)) is not None:
            self.trim(plan, command)
            return
        computation_device(args.device)  # an unknown one is refused, also where nothing is computed
        with FlabOptimizer.output(args.output, overwrite=args.overwrite, inputs=[args.model, args.plan]) as output:
            plan = PruningPlan.load(args.plan)
            optimizer = FlabOptimizer.from_pretrained(
                args.model,
                **arguments.of_model(args),
                in_memory=args.prompt is not None,
                device="cpu" if args.prompt is None else args.device,
                dtype=args.dtype,
            )
            if args.prompt is not None:
                check_prompt(optimizer.dense, args.prompt)
            optimizer.pruned = optimizer.apply(plan).with_report(command=command)
            optimizer.save_to(output)
        self.show_pruned(optimizer)

    def trim(self, plan: PruningPlan, command: str) -> None:
        """Cut the vocabulary of a model's files, whatever their quantisation."""
        args = self.args
        if args.prompt is not None:
            raise ConfigurationError("the plan is that of a trim, which runs no model; leave out `prompt`")

        from ..trim.run import trim

        options: dict[str, Any] = {"revision": args.revision, "trust_remote_code": args.trust_remote_code}
        options |= {"overwrite": args.overwrite, "command": command, "reads": [args.plan]}
        report = trim(args.model, args.output, plan=plan, **options)
        self.say(report.to_text())
        self.show_end(args.output, *after_trim(args.output, report))
