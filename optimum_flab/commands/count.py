"""`optimum-cli flab count`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import ConfigurationError
from ..places import user_path
from .base import FlabVerb, add_model_arguments, argument_groups


if TYPE_CHECKING:
    from argparse import ArgumentParser


class CountCommand(FlabVerb):
    @staticmethod
    def parse_args(parser: ArgumentParser) -> None:
        required, optional = argument_groups(parser)
        required.add_argument(
            "sources",
            metavar="SOURCE",
            nargs="+",
            help="text to count: a file, a folder, a Hub dataset, or one of these with columns in brackets; Hub"
            " datasets and files with rows are streamed, so that memory does not grow with them",
        )
        add_model_arguments(required, optional, "model whose tokenizer counts")
        required.add_argument(
            "-o", "--output", metavar="FILE", type=Path, required=True, help="the .npz file to write the counts to"
        )
        optional.add_argument(
            "--name",
            help="name of all sources together as one, for the pieces of something larger: of several files, counts of"
            " one name add up to one source (default: each source by itself, named as it is given)",
        )
        optional.add_argument(
            "--overwrite",
            action="store_true",
            help="replace a file of counts that is there (default: refuse)",
        )
        optional.add_argument(
            "--no-resume",
            action="store_true",
            help="begin anew, whatever an interrupted run left (default: go on where it was)",
        )
        optional.add_argument(
            "--cache-dir",
            metavar="FOLDER",
            type=Path,
            help="folder that keeps the counts while they grow, so that an interrupted run goes on (default:"
            " optimum_flab/counting in HF_HOME)",
        )

    def execute(self) -> None:
        args = self.args
        if args.cache_dir is not None and not str(args.cache_dir).strip():
            raise ConfigurationError("--cache-dir has no name; give a folder, or leave it out")

        from ..records.counts import check_path
        from ..texts.sources import local_paths

        output = check_path(args.output, args.overwrite)
        if output.resolve() in [user_path(path).resolve() for path in local_paths(args.sources)]:
            raise ConfigurationError(f"output: {args.output} is one of the sources; name another file")

        from ..counting import count_sources

        try:
            counts = count_sources(
                args.model,
                args.sources,
                name=args.name,
                revision=args.revision,
                trust_remote_code=args.trust_remote_code,
                family=args.family,
                resume=not args.no_resume,
                cache_dir=args.cache_dir,
            )
        except KeyboardInterrupt:
            again = "the same command without --no-resume" if args.no_resume else "the same command"
            print(f"\n{again} goes on from what could be kept of the finished work", file=sys.stderr)
            raise
        counts.save(output, overwrite=args.overwrite)
        print(counts.to_text())
        print(self.ending(output))
