"""`optimum-cli flab prune`."""

from __future__ import annotations

from argparse import RawDescriptionHelpFormatter
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import ConfigurationError
from ..settings.pruning import check_settings
from .base import DTYPES, FlabVerb, add_model_arguments, argument_groups, command_line
from .flags import Flag, add_flag, criteria_text, settings_from


if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace


FLAGS = (
    Flag("--target-ratio", "target_ratio", "RATIO"),
    Flag("--seed", "seed", "N"),
    Flag("--corpus", "data.corpus", "SOURCE"),
    Flag("--calibration", "data.calibration", "SOURCE"),
    Flag("--held-out", "data.held_out", "SOURCE"),
    Flag("--calibration-tokens", "data.calibration_tokens", "N"),
    Flag("--sequence-length", "data.sequence_length", "N"),
    Flag("--batch-size", "data.batch_size", "N"),
    Flag("--vocab-size", "vocabulary.size", "N"),
    Flag("--min-count", "vocabulary.min_count", "N"),
    Flag("--keep-merges", "vocabulary.keep_merges", "N"),
    Flag("--keep-used", "vocabulary.keep_used"),
    Flag("--keep-token", "vocabulary.keep_tokens", "TOKEN"),
    Flag("--pad-vocab-to-multiple-of", "vocabulary.pad_to_multiple_of", "N"),
    Flag("--no-vocabulary", "vocabulary.enabled"),
    Flag("--num-hidden-layers", "layers.num_hidden_layers", "N"),
    Flag("--layer-criterion", "layers.criterion"),
    Flag("--no-layers", "layers.enabled"),
    Flag("--intermediate-size", "ffn.intermediate_size", "N"),
    Flag("--ffn-multiple-of", "ffn.multiple_of", "N"),
    Flag("--ffn-criterion", "ffn.criterion"),
    Flag("--no-ffn", "ffn.enabled"),
    Flag("--experts", "experts.enabled"),
    Flag("--num-experts", "experts.num_experts", "N"),
    Flag("--expert-criterion", "experts.criterion"),
)


class PruneCommand(FlabVerb):
    @staticmethod
    def parse_args(parser: ArgumentParser) -> None:
        parser.formatter_class, parser.epilog = RawDescriptionHelpFormatter, criteria_text(FLAGS)
        required, optional = argument_groups(parser)
        add_model_arguments(required, optional)
        required.add_argument("output", type=Path, help="folder to write the pruned model to")
        optional.add_argument(
            "-c",
            "--config",
            metavar="FILE",
            help="YAML or JSON file with the settings; flags win over it (default: none)",
        )
        optional.add_argument(
            "--plan",
            metavar="FILE",
            help="flab_plan.json of an earlier run, to be applied without any search (default: search)",
        )
        for flag in FLAGS:
            add_flag(optional, flag)
        optional.add_argument("--device", help="device to compute on, for example cpu or cuda:0 (default: auto pick)")
        optional.add_argument(
            "--dtype",
            choices=DTYPES,
            default="float32",
            help="number format of the computation (default: %(default)s)",
        )
        optional.add_argument(
            "--output-dtype", choices=DTYPES, help="number format of the pruned weights (default: the model's own)"
        )
        optional.add_argument(
            "--confirm-run-unsafe-code",
            action="store_true",
            help="where the configuration file has data for recovery: consent to run the programs that the dense model"
            " writes, in a sandbox (default: no)",
        )
        optional.add_argument(
            "--prompt",
            metavar="TEXT",
            help="complete this text with the dense and the pruned model at the end (default: do not)",
        )
        optional.add_argument(
            "--overwrite", action="store_true", help="replace the pruned model in the output folder (default: refuse)"
        )

    def execute(self) -> None:
        args = self.args
        # Faults of the command line are reported before torch is imported.
        if args.plan is None:
            given = settings_from(args, FLAGS)
            check_settings(given)
        else:
            _refuse_search(args)

        from .. import FlabOptimizer, FlabPrunerConfig, PruningPlan
        from ..texts.sources import check_sources, local_paths

        command = command_line("prune", self.parser, args)
        config = FlabPrunerConfig(**given) if args.plan is None else None
        sources = [*config.data.sources, *config.recovery.sources] if config is not None else []
        inputs = [args.model, args.plan, args.config, *local_paths(sources)]
        with FlabOptimizer.output(args.output, overwrite=args.overwrite, inputs=inputs) as output:
            plan = None if args.plan is None else PruningPlan.load(args.plan)
            if config is not None:
                # what can be refused is refused before weights are downloaded or read; sizes are by from_pretrained
                check_sources(config.data)
                if config.recovery.data:
                    from ..recovery.checks import check_inputs

                    check_inputs(config.recovery, args.confirm_run_unsafe_code)
            optimizer = FlabOptimizer.from_pretrained(
                args.model,
                revision=args.revision,
                trust_remote_code=args.trust_remote_code,
                family=args.family,
                in_memory=plan is None or args.prompt is not None,
                device=args.device,
                dtype=args.dtype,
                output_dtype=args.output_dtype,
                config=config,
            )
            if plan is not None:
                pruned = optimizer.apply(plan)
            else:
                optimizer.check_space(args.output, config)
                pruned = optimizer.prune(config)
                if config.recovery.data:
                    pruned = optimizer.recover(config.recovery, confirm_run_unsafe_code=args.confirm_run_unsafe_code)
            optimizer.pruned = replace(pruned, report=pruned.report.model_copy(update={"command": command}))
            optimizer.save_to(output)
        print(optimizer.summary())
        if args.prompt is not None:
            for name, text in optimizer.complete(args.prompt).items():
                print(f"\n--- completion by the {name} model\n{text}")
        print(self.ending(args.output))


def _refuse_search(args: Namespace) -> None:
    given = [flag.flag for flag in FLAGS if getattr(args, flag.setting) is not None]
    if args.config is not None:
        given.insert(0, "--config")
    if args.output_dtype is not None:
        given.append("--output-dtype")
    if given:
        raise ConfigurationError(
            f"--plan {args.plan}: a plan already says what is kept, so {', '.join(given)} would have no effect; "
            "drop --plan to search anew, or drop the rest to apply the plan as it is"
        )
