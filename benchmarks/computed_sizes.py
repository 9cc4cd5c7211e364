"""Sizes of GGUF files that nobody made here: by configuration, dense and with the tokens that `flab trim` keeps.

    python benchmarks/computed_sizes.py --tokenizer qwen=QWEN gemma=GEMMA smollm2=SMOLLM2

Computed, not measured: `configurations.yaml` says what models are like, and no weights are read. QWEN, GEMMA and
SMOLLM2 are checkpoints with the tokenizers that it names, of any size; which tokens stay is decided by these with the
defaults of `flab trim`, once for all models. Files are as llama.cpp makes them from published weights: an output head
that is tied is not stored a second time, as it is in some files on the Hub. `above_published` is what is counted
beyond the bytes of such a file, as a share; a model whose parameters are not the published number is refused.

Tokens that a model has besides those of its tokenizer here are not counted: Qwen3 has four more than Qwen2.5, and
other chat templates, some kilobytes of a file.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from common import check_distinct, count_parameters, labelled, print_result
from transformers import AutoConfig, PreTrainedTokenizerBase

from optimum_flab.export.file_size import FileSizes
from optimum_flab.families import family_for
from optimum_flab.pruning.components import outline
from optimum_flab.settings.trim import TrimSettings
from optimum_flab.sizes import shape_of
from optimum_flab.trim.run import chosen_tokens, open_model, read_texts_for


LISTED = Path(__file__).with_name("configurations.yaml")
TYPES = ("q4_k_m", "q8_0")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--tokenizer", nargs="+", type=labelled, required=True, metavar="LABEL=FOLDER", help="a checkpoint with each"
    )
    given = parser.parse_args().tokenizer
    check_distinct([label for label, _ in given])
    tokens = {label: trimmed(folder) for label, folder in given}
    rows = []
    for name, model in yaml.safe_load(LISTED.read_text(encoding="utf-8")).items():
        if model["tokenizer"] not in tokens:
            print(f"{name}: left out, as no --tokenizer {model['tokenizer']} is given", file=sys.stderr)
            continue
        row = sizes_of_files(model["config"], *tokens[model["tokenizer"]])
        if row["parameters"] != model["parameters"]:
            raise SystemExit(f"{name} has {row['parameters']:,} parameters, and {model['parameters']:,} are published")
        above = row["files"]["q4_k_m"]["dense"] / model["published"] - 1 if "published" in model else None
        rows.append({"model": name, **row, "above_published": above})
    print_result("sizes of files, computed from configurations", rows=rows)


def trimmed(folder: Path) -> tuple[PreTrainedTokenizerBase, list[int]]:
    """The tokenizer of a checkpoint, and the ids that `flab trim` keeps."""
    files, model = open_model(folder)
    settings = TrimSettings()
    return model.tokenizer, chosen_tokens(model, settings, read_texts_for(model, settings), files.name)


def sizes_of_files(
    config: Mapping[str, Any], tokenizer: PreTrainedTokenizerBase, kept: Sequence[int]
) -> dict[str, Any]:
    """What a model's files take.

    Args:
        config: fields of its config.json.
        tokenizer: one with its tokens, or most of them.
        kept: the ids that stay, ascending.

    Returns:
        Parameters, tokens before and after, and by type of GGUF file the bytes before and after, with the share saved.
    """
    model = outline(AutoConfig.for_model(**config))
    family = family_for(model.config)
    bytes_of = FileSizes(model, family, tokenizer, kept)
    dense = shape_of(model, family)
    files = {}
    for kind in TYPES:
        before, after = bytes_of(dense, kind), bytes_of(dense.resized(vocab=len(kept)), kind)
        files[kind] = {"dense": before, "trimmed": after, "saved": 1 - after / before}
    return {"parameters": count_parameters(model), "tokens": dense["vocab"], "kept": len(kept), "files": files}


if __name__ == "__main__":
    main()
