"""`optimum-cli flab count`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import ConfigurationError
from ..places import user_path
from . import arguments
from .base import FlabVerb, told_to_go_on


if TYPE_CHECKING:
    from argparse import ArgumentParser


class CountCommand(FlabVerb):
    @staticmethod
    def parse_args(parser: ArgumentParser) -> None:
        required, optional = arguments.groups(parser)
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
        arguments.add_switch(optional, "--overwrite", "replace an existing file of counts", default="refuse")
        arguments.add_resume(optional)
        arguments.add_cache(optional, "counting")

    def execute(self) -> None:
        args = self.args

        from ..records.counts import check_path
        from ..texts.sources import local_paths

        output = check_path(args.output, args.overwrite)
        if output.resolve() in [user_path(path).resolve() for path in local_paths(args.sources)]:
            raise ConfigurationError(f"output: {args.output} is one of the sources; name another file")

        from ..counting import count_sources

        with told_to_go_on(args):
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
        print(self.ending(output))
