"""`optimum-cli flab recover`, and the same under `accelerate launch -m optimum_flab.recovery`."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import ConfigurationError
from ..settings.recovery import RecoveryConfig, check_recovery
from . import arguments
from .base import FlabVerb, command_line, told_to_go_on
from .flags import add_settings, section_from


if TYPE_CHECKING:
    from argparse import ArgumentParser


class RecoverCommand(FlabVerb):
    OWN_SECTION = RecoveryConfig.NAME

    @staticmethod
    def parse_args(parser: ArgumentParser) -> None:
        required, optional = arguments.groups(parser)
        required.add_argument("-m", "--model", metavar="FOLDER", type=Path, required=True, help="pruned checkpoint")
        required.add_argument("output", type=Path, help="folder to write the recovered model to")
        required.add_argument(
            "--teacher",
            metavar="MODEL",
            required=True,
            help="the dense model that it was pruned from: a Hub id, a local folder, or a GGUF file",
        )
        arguments.add_family(optional)
        arguments.add_revision(optional, "--teacher-revision", "teacher")
        add_settings(optional, RecoveryConfig)
        arguments.add_device(optional)
        arguments.add_dtype(optional, "the measurements on held-out text")
        arguments.add_switch(
            optional,
            "--confirm-run-unsafe-code",
            "consent to run the programs that the dense model writes, in a sandbox",
        )
        arguments.add_cache(optional, "recovery", kept="answers, predictions and checkpoints")
        arguments.add_switch(
            optional, "--overwrite", "replace the pruned model in the output folder", default="refuse"
        )

    def execute(self) -> None:
        args = self.args
        settings = RecoveryConfig(**section_from(args, RecoveryConfig))
        check_recovery(settings)

        from .. import FlabOptimizer
        from ..checkpoints.finding import find_model
        from ..checkpoints.model_config import read_model_config
        from ..checkpoints.weights import check_weights
        from ..records.plan import PLAN_NAME, PruningPlan
        from ..recovery.checks import check_inputs
        from ..running.processes import process_device, process_state
        from ..texts.sources import local_paths

        if not (args.model / PLAN_NAME).is_file():
            raise ConfigurationError(
                f"{str(args.model)!r} is not a pruned model, since {PLAN_NAME} is missing; name a folder that"
                " `optimum-cli flab prune` wrote"
            )
        inputs = [args.model, args.teacher, args.config, *local_paths(settings.sources)]
        command = command_line("recover", self.parser, args)
        device = process_device(args.device)
        with ExitStack() as stack:
            output = FlabOptimizer.output(args.output, overwrite=args.overwrite, inputs=inputs)
            if process_state().is_main_process:
                stack.enter_context(output)
            PruningPlan.load(args.model)
            files = find_model(args.model)
            check_weights(files, read_model_config(files))
            check_inputs(settings, args.confirm_run_unsafe_code)
            optimizer = FlabOptimizer.from_pretrained(
                args.teacher,
                revision=args.teacher_revision,
                device=device,
                dtype=args.dtype,
                family=args.family,
            )
            optimizer.load_pruned(args.model)
            with told_to_go_on(args):
                recovered = optimizer.recover(
                    settings,
                    confirm_run_unsafe_code=args.confirm_run_unsafe_code,
                    cache_dir=args.cache_dir,
                    release_dense=True,
                )
            if process_state().is_main_process:
                section = recovered.report.recovery
                assert section is not None  # it was recovered just now
                recovery = section.model_copy(update={"command": command})
                optimizer.pruned = recovered.with_report(recovery=recovery)
                optimizer.save_to(output)
                print(optimizer.summary())
                print(self.ending(args.output))
