"""`optimum-cli flab prune`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..settings.export import TYPES, ExportSettings
from ..settings.pruning import PrunerSettings
from ..utils.compat import ArgumentGroup
from ..utils.errors import ConfigurationError
from ..utils.places import user_path
from . import arguments
from .apply import PruningVerb
from .base import command_line
from .flags import criteria_text, flags_of
from .parser import one_of


if TYPE_CHECKING:
    from .. import FlabOptimizer
    from ..pruning.result import PrunedModel
    from ..running.processes import Processes


class PruneCommand(PruningVerb):
    """Prune a model to a smaller stock checkpoint."""

    FLAGS = flags_of(PrunerSettings)
    EXAMPLES = (
        "prune Qwen/Qwen2.5-Coder-0.5B out    # its vocabulary alone",
        "prune org/model out --target-size 235MB",
        "prune Qwen/Qwen2.5-Coder-0.5B out --target-ratio 0.35",
    )
    EPILOG = criteria_text()

    @staticmethod
    def add_arguments(required: ArgumentGroup, optional: ArgumentGroup) -> None:
        arguments.add_model(required, optional)
        required.add_argument("output", metavar="OUT", type=Path, help="folder to write the pruned model to")
        arguments.add(optional, "--device", "--no-resume", "--cache-dir", "--prompt", "--overwrite")
        arguments.add(optional, "--confirm-run-unsafe-code", "--quiet", "--json")
        optional.add_argument(
            "--dtype",
            choices=("auto", *arguments.DTYPES),
            default="auto",
            help="number format of the computation; auto is bfloat16 if the weights are stored in it, the device has"
            " instructions for it and no recovery is included, else float32 (default: %(default)s)",
        )
        optional.add_argument(
            "--output-dtype",
            choices=arguments.DTYPES,
            help="number format of the pruned weights (default: the model's own)",
        )
        optional.add_argument(
            "--gguf",
            metavar="TYPE",
            type=one_of(TYPES),
            choices=TYPES,
            action="append",
            default=[],
            help="write the pruned model as a GGUF file of this type too, for example q4_k_m, with --target-size of"
            " the type that it is about; may be given several times (default: none, with --target-size one file whose"
            " matrices have a format each)",
        )
        optional.add_argument(
            "--memory-budget",
            metavar="SIZE",
            help="memory of --device that may be used, for example 6GB; weights that would need more stay in their"
            " files, and on the CPU other large data goes to the disk of --cache-dir (default: what is free)",
        )
        optional.add_argument(
            "--time-budget",
            metavar="DURATION",
            help="about how long the pruning may take, for example 30min: less calibration text is read where all of"
            " it would take longer (default: as long as it takes)",
        )

    def execute(self) -> None:
        args, settings = self.args, self.settings  # faults of the command line are reported before torch is imported
        pruning = with_type(settings.pruning, args.gguf)

        from .. import FlabOptimizer, FlabPrunerConfig
        from ..checkpoints.computation import computation_device
        from ..pruning.time_budget import seconds_of
        from ..running.processes import Processes, process_device
        from ..texts.sources import local_paths

        command = command_line("prune", self.parser, args)
        self.config = config = FlabPrunerConfig(**pruning)
        self._check_recovery()
        read = local_paths([*config.data.sources, *config.recovery.sources])
        inputs = [args.model, args.config, *read, *config.data.counts]
        check_apart(args.output, args.cache_dir)
        seconds_of(args.time_budget)
        # an unknown one is refused before the processes meet; a training takes one
        chosen = computation_device(args.device, exact=True)
        device, processes = process_device(args.device), Processes.of_this_run(args.device)
        device = str(chosen) if config.recovery.trains else device
        output = FlabOptimizer.output(args.output, overwrite=args.overwrite, inputs=inputs)
        with output if processes.is_main else nullcontext():
            processes.agree(True)  # that output may be written
            optimizer = self._loaded(device)
            pruned = self._pruned(optimizer, processes)
            if processes.is_main:
                optimizer.pruned = pruned.with_report(command=command)
                optimizer.save_to(output)
        if processes.is_main:
            self.show_pruned(optimizer, self._types())

    def _types(self) -> list[str]:
        """The types of GGUF files that are asked for by name."""
        target = self.config.target_type
        return [kind for kind in dict.fromkeys([*self.args.gguf, target]) if kind is not None]

    def _check_recovery(self) -> None:
        """Refuses what only a pruning takes in a run that also recovers."""
        from ..running.processes import launched

        args = self.args
        if self.config.recovery.trains and (launched() or args.memory_budget or args.time_budget):
            raise ConfigurationError(
                "a run that also recovers takes no `memory_budget` or `time_budget`, and cannot be launched in several"
                " processes; leave out what it would be trained on (`recovery.data`, `recovery.text`,"
                " `recovery.mix`), and recover the pruned model with `optimum-cli flab recover`"
            )

    def _loaded(self, device: str | None) -> FlabOptimizer:
        """The dense model; what can be refused is refused before its weights are downloaded or read, most of it by
        `from_pretrained`."""
        from .. import FlabOptimizer
        from ..export import check_export
        from ..pruned import check_prompt

        args, config = self.args, self.config
        trains = config.recovery.trains
        if trains:
            from ..recovery.checks import check_inputs

            check_inputs(config.recovery, args.confirm_run_unsafe_code)
        optimizer = FlabOptimizer.from_pretrained(
            args.model,
            **arguments.of_model(args),
            device=device,
            dtype="float32" if args.dtype == "auto" and trains else args.dtype,
            output_dtype=args.output_dtype,
            in_memory=True if trains else None,
            memory_budget=args.memory_budget,
            config=config,
        )
        optimizer.check_space(args.output, config)
        for kind in self._types():
            check_export(optimizer.dense, ExportSettings(type=kind))
        if args.prompt is not None:
            check_prompt(optimizer.dense, args.prompt)
        return optimizer

    def _pruned(self, optimizer: FlabOptimizer, processes: Processes) -> PrunedModel:
        args, config = self.args, self.config
        work: dict[str, Any] = {"resume": not args.no_resume, "cache_dir": args.cache_dir}
        if config.recovery.trains:
            return optimizer.prune_and_recover(config, confirm_run_unsafe_code=args.confirm_run_unsafe_code, **work)
        return optimizer.prune(config, time_budget=args.time_budget, processes=processes, **work)


def with_type(settings: Mapping[str, Any], types: Sequence[str]) -> Mapping[str, Any]:
    """The settings with the type of the file that a size is about, where `--gguf` names it.

    Raises:
        [`ConfigurationError`]: it names several.
    """
    if not types or settings.get("target_size") is None or settings.get("target_type") is not None:
        return settings
    if len({*types}) > 1:
        raise ConfigurationError(
            f"gguf: `target_size` is about one file, and {', '.join(types)} are several; name its type as"
            " `target_type`, or drop all of them for a format for each matrix"
        )
    return {**settings, "target_type": types[0]}


def check_apart(output: Path, cache_dir: str | None) -> None:
    """Raises a [`ConfigurationError`] if saved work would be in the output folder."""
    if cache_dir is not None and user_path(cache_dir).resolve().is_relative_to(user_path(output).resolve()):
        raise ConfigurationError(f"`cache_dir`: {cache_dir} is in the output folder {output}; name another folder")
