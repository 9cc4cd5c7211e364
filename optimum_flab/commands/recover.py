"""`optimum-cli flab recover`, and the same under `accelerate launch -m optimum_flab.recovery`."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import ConfigurationError
from ..settings.recovery import RecoveryConfig, check_recovery
from .base import (
    DTYPES,
    FlabVerb,
    add_device_argument,
    add_family_argument,
    argument_groups,
    command_line,
    told_to_go_on,
)
from .flags import Flag, add_config, add_flag, config_file, section_from


if TYPE_CHECKING:
    from argparse import ArgumentParser


FLAGS = (
    Flag("--data", "recovery.data", "SOURCE"),
    Flag("--text", "recovery.text", "SOURCE"),
    Flag("--text-tokens", "recovery.text_tokens", "N"),
    Flag("--text-share", "recovery.text_share", "SHARE"),
    Flag("--continuation-tokens", "recovery.continuation_tokens", "N"),
    Flag("--continuation-temperature", "recovery.continuation_temperature", "T"),
    Flag("--exclude", "recovery.exclude", "SOURCE"),
    Flag("--held-out", "recovery.held_out", "SOURCE"),
    Flag("--held-out-tokens", "recovery.held_out_tokens", "N"),
    Flag("--most-examples", "recovery.most_examples", "N"),
    Flag("--answers", "recovery.answers"),
    Flag("--dense-share", "recovery.dense_share", "SHARE"),
    Flag("--allow-packages", "recovery.allow_packages", "NAME[,NAME...]"),
    Flag("--max-new-tokens", "recovery.max_new_tokens", "N"),
    Flag("--generation-batch-size", "recovery.generation_batch_size", "N"),
    Flag("--template", "recovery.template"),
    Flag("--sequence-length", "recovery.sequence_length", "N"),
    Flag("--validation-share", "recovery.validation_share", "SHARE"),
    Flag("--no-closed-form", "recovery.closed_form"),
    Flag("--closed-form-tokens", "recovery.closed_form_tokens", "N"),
    Flag("--loss", "recovery.loss"),
    Flag("--cross-entropy-share", "recovery.cross_entropy_share", "SHARE"),
    Flag("--distill-on", "recovery.distill_on"),
    Flag("--teacher-mode", "recovery.teacher"),
    Flag("--top-k", "recovery.top_k", "K"),
    Flag("--method", "recovery.method"),
    Flag("--rank", "recovery.rank", "R"),
    Flag("--alpha", "recovery.alpha", "A"),
    Flag("--dropout", "recovery.dropout", "P"),
    Flag("--target", "recovery.targets", "MODULE"),
    Flag("--train-embeddings", "recovery.train_embeddings"),
    Flag("--learning-rate", "recovery.learning_rate", "RATE"),
    Flag("--final-rate-share", "recovery.final_rate_share", "SHARE"),
    Flag("--weight-decay", "recovery.weight_decay", "DECAY"),
    Flag("--warmup-share", "recovery.warmup_share", "SHARE"),
    Flag("--epochs", "recovery.epochs", "N"),
    Flag("--max-steps", "recovery.max_steps", "N"),
    Flag("--batch-size", "recovery.batch_size", "N"),
    Flag("--micro-batch-size", "recovery.micro_batch_size", "N"),
    Flag("--evaluations", "recovery.evaluations", "N"),
    Flag("--patience", "recovery.patience", "N"),
    Flag("--gradient-checkpointing", "recovery.gradient_checkpointing"),
    Flag("--training-dtype", "recovery.dtype"),
    Flag("--keep-adapter", "recovery.keep_adapter"),
    Flag("--seed", "recovery.seed", "N"),
)


class RecoverCommand(FlabVerb):
    OWN_SECTION = RecoveryConfig.NAME

    @staticmethod
    def parse_args(parser: ArgumentParser) -> None:
        required, optional = argument_groups(parser)
        required.add_argument("-m", "--model", metavar="FOLDER", type=Path, required=True, help="pruned checkpoint")
        required.add_argument("output", type=Path, help="folder to write the recovered model to")
        required.add_argument(
            "--teacher",
            metavar="MODEL",
            required=True,
            help="the dense model that it was pruned from: a Hub id, a local folder, or a GGUF file",
        )
        add_family_argument(optional)
        add_config(optional, "a section `recovery`")
        optional.add_argument(
            "--teacher-revision",
            metavar="REVISION",
            help="branch, tag or commit of a teacher on the Hub (default: its main branch)",
        )
        for flag in FLAGS:
            add_flag(optional, flag)
        add_device_argument(optional)
        optional.add_argument(
            "--dtype",
            choices=DTYPES,
            default="float32",
            help="number format of the measurements on held-out text (default: %(default)s)",
        )
        optional.add_argument(
            "--confirm-run-unsafe-code",
            action="store_true",
            help="consent to run the programs that the dense model writes, in a sandbox (default: no)",
        )
        optional.add_argument(
            "--cache-dir",
            metavar="FOLDER",
            type=Path,
            help="folder that keeps answers, predictions and checkpoints, so that an interrupted run can resume"
            " (default: optimum_flab/recovery in HF_HOME)",
        )
        optional.add_argument(
            "--overwrite", action="store_true", help="replace the pruned model in the output folder (default: refuse)"
        )

    def execute(self) -> None:
        args = self.args
        settings = RecoveryConfig(**section_from(args, FLAGS, RecoveryConfig.NAME))
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
        inputs = [args.model, args.teacher, config_file(args), *local_paths(settings.sources)]
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
