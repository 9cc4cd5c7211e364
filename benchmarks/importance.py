"""What the importance matrix is worth: GGUF files of one size, quantised with and without it.

    python benchmarks/importance.py --model DENSE --work DIR --types q4_k_m,q3_k_m

The matrix is made of calibration text, and the files are measured on held-out text of the same kinds: divergence from
the checkpoint in float32, and bits per byte. Each file is read back by the package `gguf`: its weights are
measured, not llama.cpp's arithmetic.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from common import positive, print_result, progress

from optimum_flab import ExportSettings
from optimum_flab.checkpoints.loading import load_dense
from optimum_flab.export import export_gguf
from optimum_flab.export.importance import TOKENS, write_importance_matrix
from optimum_flab.export.weights import pieces_of
from optimum_flab.measuring.divergence import OutputHead, bits_and_lost_mass, final_hidden, mean_divergence
from optimum_flab.running.layer_pass import LayerPass
from optimum_flab.settings.pruning import DataSettings
from optimum_flab.tensors.gguf_files import GgufTensors
from optimum_flab.tensors.lazy import ModelTensors, own_tensors
from optimum_flab.texts.packing import pack
from optimum_flab.texts.sets import read_text_sets
from optimum_flab.vocabulary.usage import special_ids, token_lists


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="checkpoint folder, dense or pruned")
    parser.add_argument("--work", type=Path, required=True, help="a folder for the files")
    parser.add_argument(
        "--types", type=lambda text: [kind for kind in text.split(",") if kind], default=["q4_k_m", "q3_k_m"],
        help="separated by commas (default: q4_k_m,q3_k_m)",
    )  # fmt: skip
    parser.add_argument("--tokens", type=positive, default=8192, help="of held-out text (default: %(default)s)")
    args = parser.parse_args()
    loaded = load_dense(args.model, dtype="float32")
    data = DataSettings(calibration_tokens=TOKENS, held_out_tokens=args.tokens)  # as for the matrix: the same sets
    sets = read_text_sets(loaded.tokenizer, data, 0)
    args.work.mkdir(parents=True, exist_ok=True)
    matrix = args.work / "model.imatrix"
    pieces = pieces_of(own_tensors(loaded.model), loaded.model.config, loaded.family)
    write_importance_matrix(matrix, loaded, pieces, data)
    files = {}
    for kind in args.types:
        for weighed in (False, True):
            path = args.work / f"{kind}-{'with' if weighed else 'without'}.gguf"
            if not path.exists():
                settings = ExportSettings(type=kind, imatrix=weighed)
                export_gguf(loaded, path, settings, matrix=matrix if weighed else None)
            files[kind, weighed] = path
    measured = Measured(loaded, data, [one.text for one in sets.held_out])
    rows: list[dict[str, Any]] = []
    for (kind, weighed), path in files.items():
        progress(len(rows) + 1, len(files), "measuring")
        rows.append({"type": kind, "imatrix": weighed, "megabytes": path.stat().st_size / 1e6, **measured.of(path)})
        if weighed:
            rows[-1]["divergence_ratio"] = rows[-1]["divergence"] / rows[-2]["divergence"]
    print_result(
        "importance",
        model=Path(args.model).name,
        tokens=measured.reading.tokens.tokens,
        bits_per_byte=measured.bits,
        rows=rows,
    )


class Measured:
    """Held-out text, and what a model predicts for it before its weights are replaced by those of files."""

    def __init__(self, loaded, data: DataSettings, texts: list[str]):
        self.model, self.family = loaded.model, loaded.family
        self.bytes = sum(len(text.encode()) for text in texts)
        ids = token_lists(loaded.tokenizer, texts)
        tokens = pack(ids, data.sequence_length, 0, specials=special_ids(loaded.tokenizer))
        self.reading = LayerPass(self.model, self.family, tokens, data.batch_size)
        self.hidden = final_hidden(self.reading)
        self.head = OutputHead(self.model, self.family)
        self.head.weight = self.head.weight.clone()
        self.bits = self._bits(self.hidden, self.head)

    def of(self, path: Path) -> dict[str, float]:
        """Divergence and bits per byte with the weights of a file."""
        with torch.device("meta"):
            outline = type(self.model)(self.model.config)
        outline.tie_weights()
        tensors = ModelTensors(outline, GgufTensors(path, outline, torch.float32))
        with torch.no_grad():
            for name, weight in own_tensors(self.model).items():
                weight.copy_(tensors[name])
        reading = replace(self.reading)  # it embeds its tokens anew
        hidden, head = final_hidden(reading), OutputHead(self.model, self.family)
        return {
            "divergence": mean_divergence(self.hidden, hidden, self.head, head),
            "bits_per_byte": self._bits(hidden, head),
        }

    def _bits(self, hidden: torch.Tensor, head: OutputHead) -> float:
        return float(bits_and_lost_mass(hidden, head, self.reading.tokens)[0].sum()) / self.bytes


if __name__ == "__main__":
    main()
