"""Counts the tokens of parquet files as a datatrove pipeline, one task after another or many at once.

pip install datatrove
python examples/count_with_datatrove.py hf://datasets/org/dataset/data counts.npz -m Qwen/Qwen2.5-Coder-7B --tasks 64
optimum-cli flab prune -m Qwen/Qwen2.5-Coder-7B out/ --target-ratio 0.35 --counts counts.npz --coverage 0.9999

The folder may be anything that fsspec reads (a local one, hf://, s3://). Every task counts the files that datatrove
assigns to it, and writes its own counts beside the output; in the end they are added up to one file. After an
interruption the same command resumes with the unfinished tasks. On a cluster, replace the local executor by
datatrove's SlurmPipelineExecutor or RayPipelineExecutor, put the output into a folder that all machines share, and add
up what the tasks have written once all of them are done.
"""

import argparse
import hashlib
import os
import re
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.base import PipelineStep
from datatrove.pipeline.readers import ParquetReader

from optimum_flab import TokenCounts, count_texts


class CountTokens(PipelineStep):
    """Counts how often the documents of a task use each token; the last step of a pipeline.

    Args:
        model (`str`): whose tokenizer counts.
        source (`str`): what all tasks together read; their counts have it as their name.
        folder (`str`): where each task writes its counts.
    """

    name = "Token counts"
    type = "COUNTER"

    def __init__(self, model: str, source: str, folder: str):
        super().__init__()
        self.model, self.source, self.folder = model, source, folder

    def run(self, data, rank: int = 0, world_size: int = 1):
        texts = (document.text for document in data)
        found = re.match(r"hf://datasets/([^/]+/[^/@]+)", self.source)
        counts = count_texts(self.model, texts, self.source, dataset=found and found[1])
        self.stat_update("tokens", value=counts.total().tokens)
        counts.save(Path(self.folder, f"{rank:05d}.npz"), overwrite=True)


def main(given: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="folder of parquet files")
    parser.add_argument("output", type=Path, help="the .npz file to write the counts to")
    parser.add_argument("-m", "--model", required=True, help="model whose tokenizer counts")
    parser.add_argument("--column", default="text", help="column of the text (default: %(default)s)")
    parser.add_argument("--tasks", type=int, default=os.cpu_count(), help="parts (default: one per core)")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="tasks at once (default: one per core)")
    args = parser.parse_args(given)

    if args.output.suffix != ".npz":
        sys.exit(f"{args.output} does not end in .npz; name a file that does")
    if args.output.exists():
        sys.exit(f"{args.output} is there already; name another file")
    # other tasks than those of an interrupted run must not take theirs for done
    asked = repr((args.data, args.model, args.column, args.tasks))
    work = args.output.with_name(f"{args.output.name}.{hashlib.sha256(asked.encode()).hexdigest()[:8]}")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # the tasks share the cores
    LocalPipelineExecutor(
        pipeline=[
            ParquetReader(args.data, text_key=args.column),
            CountTokens(args.model, args.data, str(work / "counts")),
        ],
        tasks=args.tasks,
        workers=args.workers,
        logging_dir=str(work / "logs"),
    ).run()
    parts = [work / "counts" / f"{rank:05d}.npz" for rank in range(args.tasks)]
    counts = TokenCounts.merged(map(TokenCounts.load, parts))
    counts.save(args.output)
    shutil.rmtree(work)
    print(counts.to_text())


if __name__ == "__main__":
    main()
