"""`optimum-cli flab recover`, and the same under `accelerate launch -m optimum_flab.recovery`."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

from ..settings.recovery import RecoveryConfig
from ..utils.compat import ArgumentGroup
from ..utils.progress import say
from . import arguments
from .apply import PruningVerb
from .base import command_line
from .flags import flags_of


class RecoverCommand(PruningVerb):
    """Train a pruned model back towards the dense one."""

    FLAGS = flags_of(RecoveryConfig, "recovery")

    @staticmethod
    def add_arguments(required: ArgumentGroup, optional: ArgumentGroup) -> None:
        required.add_argument("-m", "--model", metavar="FOLDER", type=Path, required=True, help="pruned checkpoint")
        required.add_argument("output", metavar="OUT", type=Path, help="folder to write the recovered model to")
        required.add_argument(
            "--teacher",
            metavar="MODEL",
            required=True,
            help="the dense model that it was pruned from: a Hub id, a local folder, or a GGUF file",
        )
        arguments.add_dtype(optional, "the measurements on held-out text")
        arguments.add(optional, "--family", "--teacher-revision", "--device", "--cache-dir", "--overwrite")
        arguments.add(optional, "--confirm-run-unsafe-code")

    def execute(self) -> None:
        args, settings = self.args, self.settings.recovery

        from .. import FlabOptimizer
        from ..checkpoints.computation import computation_device, computation_devices
        from ..records.checkpoint import Checkpoint
        from ..recovery.checks import check_inputs
        from ..running.processes import process_device, process_state
        from ..texts.sources import local_paths

        inputs = [args.model, args.teacher, args.config, *local_paths(settings.sources)]
        command = command_line("recover", self.parser, args)
        device = process_device(str(computation_device(args.device, exact=True)))
        if (number := len(computation_devices(args.device))) > 1:
            say(f"note: one of {number} GPUs trains; `accelerate launch -m optimum_flab.recovery` trains on all")
        output = FlabOptimizer.output(args.output, overwrite=args.overwrite, inputs=inputs)
        with output if process_state().is_main_process else nullcontext():
            Checkpoint(args.model).check_complete()
            check_inputs(settings, args.confirm_run_unsafe_code)
            optimizer = FlabOptimizer.from_pretrained(
                args.teacher,
                revision=args.teacher_revision,
                device=device,
                dtype=args.dtype,
                family=args.family,
            )
            optimizer.load_pruned(args.model)
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
                self.show_pruned(optimizer)
