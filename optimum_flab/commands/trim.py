"""`optimum-cli flab trim`."""

from __future__ import annotations

from pathlib import Path

from ..settings.trim import OWN, TrimSettings
from ..utils.compat import ArgumentGroup
from . import arguments
from .base import FlabVerb, command_line
from .flags import flags_of
from .following import after_trim


class TrimCommand(FlabVerb):
    """Take rarely used tokens out of a model's files, in seconds; every other weight keeps its bytes."""

    FLAGS = tuple(flag for flag in flags_of(TrimSettings) if flag.setting in OWN)
    EXAMPLES = (
        "trim model-q4_k_m.gguf out    # a GGUF file, in its own quantisation",
        "trim Qwen/Qwen2.5-Coder-0.5B out --corpus ./src",
    )

    @staticmethod
    def add_arguments(required: ArgumentGroup, optional: ArgumentGroup) -> None:
        required.add_argument(
            "-m",
            "--model",
            metavar="MODEL",
            required=True,
            help="GGUF file, or a folder or Hub id with safetensors files, quantised or not",
        )
        required.add_argument(
            "output",
            metavar="OUT",
            type=Path,
            help="folder to write to; for a GGUF file also a path that ends in .gguf",
        )
        arguments.add(optional, "--revision", "--trust-remote-code")
        optional.add_argument(
            "--tokenizer",
            metavar="MODEL",
            help="folder or Hub id with the model's tokenizer, where that in a GGUF file is of an unknown kind"
            " (default: the one in the file)",
        )
        arguments.add(optional, "--overwrite", "--quiet", "--json")

    def execute(self) -> None:
        args, settings = self.args, self.settings

        from ..trim.run import trim

        report = trim(
            args.model,
            args.output,
            TrimSettings(
                target_size=settings.target_size,
                vocab_size=settings.vocab_size,
                seed=settings.seed,
                data=settings.data,
                vocabulary=settings.vocabulary.model_dump(exclude_unset=True),
            ),
            tokenizer=args.tokenizer,
            revision=args.revision,
            trust_remote_code=args.trust_remote_code,
            overwrite=args.overwrite,
            command=command_line("trim", self.parser, args),
        )
        if args.json:
            print(report.model_dump_json(indent=2))
        else:
            self.say(report.to_text())
            self.show_end(args.output, *after_trim(args.output, report))
