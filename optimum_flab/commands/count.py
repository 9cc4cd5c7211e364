"""`optimum-cli flab count`."""

from __future__ import annotations

from pathlib import Path

from ..utils.compat import ArgumentGroup
from ..utils.places import output_file
from . import arguments
from .base import FlabVerb


class CountCommand(FlabVerb):
    """Count the tokens of text of any size, for `flab prune --counts`."""

    @staticmethod
    def add_arguments(required: ArgumentGroup, optional: ArgumentGroup) -> None:
        required.add_argument(
            "sources",
            metavar="SOURCE",
            nargs="+",
            help="text to count: a file, a folder, a Hub dataset, or one of these with columns in brackets; Hub"
            " datasets and files with rows are streamed, so that memory does not grow with them",
        )
        arguments.add_model(required, optional, "model whose tokenizer is used")
        required.add_argument(
            "-o", "--output", metavar="FILE", type=Path, required=True, help="the .npz file to write the counts to"
        )
        optional.add_argument(
            "--name",
            help="name of all sources together as one, for the parts of something larger: counts with the same name in"
            " several files add up to one source (default: each source by itself, named as given)",
        )
        arguments.add(optional, "--overwrite", "--no-resume", "--cache-dir")

    def execute(self) -> None:
        args = self.args

        from ..records.counts import SUFFIX

        output = output_file(args.output, SUFFIX, args.overwrite)

        from ..counting import count_sources

        counts = count_sources(
            args.model,
            args.sources,
            name=args.name,
            **arguments.of_model(args),
            resume=not args.no_resume,
            cache_dir=args.cache_dir,
        )
        counts.save(output, overwrite=args.overwrite)
        print(counts.to_text())
        self.show_end(output, ["prune", args.model, "out", *arguments.words_of_model(args), "--counts", output])
