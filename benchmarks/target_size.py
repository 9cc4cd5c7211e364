"""How near the shapes that `--target-size` allows come to it, by GGUF type and as safetensors.

    python benchmarks/target_size.py MODEL ... --sizes 200MB,300MB --types safetensors,q8_0,q4_k_m,q3_k_m

Counts the bytes of every shape that the search would compare, with the vocabulary of the packaged corpus; nothing is
pruned. That files have the bytes that were counted is what `tests/test_file_size.py` shows.
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path
from typing import Any

from common import print_result, progress

from optimum_flab import FlabPrunerConfig
from optimum_flab.checkpoints.loading import load_dense
from optimum_flab.pruning.components import sizes_of
from optimum_flab.pruning.file_size import FileSizes
from optimum_flab.pruning.limits import shapes_to_compare, size_limits
from optimum_flab.pruning.vocabulary import token_choice
from optimum_flab.records.work import WorkFolder
from optimum_flab.texts.sets import corpus_alone
from optimum_flab.utils.errors import ConfigurationError
from optimum_flab.utils.places import cache_root


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", help="checkpoint folders")
    parser.add_argument("--sizes", required=True, help="separated by commas")
    parser.add_argument("--types", default="safetensors,q8_0,q4_k_m,q3_k_m", help="(default: %(default)s)")
    args = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for number, name in enumerate(args.models, 1):
        dense, config = load_dense(name, dtype="bfloat16"), FlabPrunerConfig(target_ratio=0.1)
        sizes, work = sizes_of(dense.model, dense.family), WorkFolder(cache_root("pruning"), resume=True)
        tokens = token_choice(dense, config.vocabulary, corpus_alone(config.data), (), work)
        counted = len(tokens.counted.natural), len(tokens.counted.protected)
        files = FileSizes(dense.model, dense.family, dense.tokenizer, dense.storage_dtype, tokens.order)
        for size in args.sizes.split(","):
            for kind in args.types.split(","):
                of_type = {} if kind == "safetensors" else {"target_type": kind}
                target = FlabPrunerConfig(target_size=size, **of_type)
                measure = partial(files, kind=target.target_type)
                row: dict[str, Any] = {"model": Path(name).name, "size": size, "type": kind}
                try:
                    limits = size_limits(target, sizes, len(dense.tokenizer), measure)
                    compared = shapes_to_compare(target, limits, *counted)
                    found = [measure(shape) for row_of in compared for shape in row_of]
                    row |= {"shapes": len(found), "most": max(found), "fewest": min(found)}
                except ConfigurationError as error:  # out of reach
                    row["refused"] = str(error)
                rows.append(row)
        progress(number, len(args.models), "models")
    print_result("target_size", rows=rows)


if __name__ == "__main__":
    main()
